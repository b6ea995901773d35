/** What the tests need from Debian beside Node: finds out what is missing, and installs it where that is allowed. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Debian's own Python: the one for which python3-paho-mqtt is installed. */
export const PYTHON = '/usr/bin/python3'

/** mosquitto's broker is in a directory that a user's PATH often lacks. */
const DIRECTORIES = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']

/**
 * Package, and whether what it is for works.
 * @type {[string, () => boolean][]}
 */
const NEEDS = [
  ['mosquitto', () => command('mosquitto')],
  ['mosquitto-clients', () => ['mosquitto_pub', 'mosquitto_sub', 'mosquitto_rr'].every(command)],
  ['python3-paho-mqtt', () => succeeds(PYTHON, '-c', 'import paho.mqtt.client')],
  ['libmosquitto-dev', () => existsSync('/usr/include/mosquitto.h')],
  ['libpaho-mqtt-dev', () => existsSync('/usr/include/MQTTClient.h')],
  ['chromium', () => command('chromium')],
  ['openssl', () => command('openssl')],
  ['gcc', () => command('cc') || command('gcc')],
  ['systemd', () => command('systemd-analyze')],
  ['libc6-dev', () => existsSync('/usr/include/stdio.h')],
]

/**
 * Names of the packages that are missing.
 * @returns {string[]}
 */
export function missingPackages() {
  return NEEDS.filter(([, works]) => !works()).map(([name]) => name)
}

/** The line to paste for someone who may install packages. */
export function installLine(packages) {
  return `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages.join(' ')}`
}

/** Only Debian has all of them under these names, and only root may install. */
export function mayInstall() {
  return process.getuid?.() === 0 && command('apt-get') && /^ID=debian$/m.test(osRelease())
}

/**
 * Installs packages without a question. Throws when that fails.
 *
 * Installing mosquitto would start it as a system service on port 1883: that is neither asked for nor needed here.
 */
export function install(packages) {
  const undo = forbidServices()
  try {
    run('apt-get', 'update')
    run('apt-get', 'install', '-y', '--no-install-recommends', ...packages)
  } finally {
    undo()
  }
  const hasSystemd = existsSync('/run/systemd/system')
  if (packages.includes('mosquitto') && hasSystemd) run('systemctl', 'disable', '--now', 'mosquitto.service')
}

/** Debian's packages ask policy-rc.d whether they may start a service; 101 is no. */
function forbidServices() {
  const policy = '/usr/sbin/policy-rc.d'
  if (existsSync(policy)) return () => {}
  writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  return () => rmSync(policy, { force: true })
}

function run(program, ...args) {
  console.log(`> ${[program, ...args].join(' ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const { status, error } = spawnSync(program, args, { stdio: 'inherit', env })
  if (status !== 0) throw new Error(`${program} ended with ${error?.message ?? status}`)
}

function command(name) {
  return DIRECTORIES.some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function succeeds(program, ...args) {
  return spawnSync(program, args, { stdio: 'ignore' }).status === 0
}

function osRelease() {
  return existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : ''
}
