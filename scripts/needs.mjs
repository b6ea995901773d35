/** Finds out which packages of Debian the tests need and lack, and installs them where that is allowed. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Debian's own Python, for which python3-paho-mqtt is installed. */
export const PYTHON = '/usr/bin/python3'

/** Debian installs mosquitto in a directory that a user's PATH often lacks. */
const DIRECTORIES = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']

/**
 * Packages, each with a test whether its program or library works.
 *
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
 * Returns the names of the packages that are missing.
 *
 * @returns {string[]}
 */
export function missingPackages() {
  return NEEDS.filter(([, works]) => !works()).map(([name]) => name)
}

/** Returns the command line that installs packages. */
export function installLine(packages) {
  return `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages.join(' ')}`
}

/**
 * Tells whether packages can be installed: Debian alone has all of them by these names, and it takes root.
 */
export function mayInstall() {
  return process.getuid?.() === 0 && command('apt-get') && /^ID=debian$/m.test(osRelease())
}

/**
 * Installs packages without a question. Throws when that fails.
 *
 * Installing mosquitto would start it as a system service on port 1883, which is prevented.
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

/**
 * Debian's packages ask policy-rc.d whether they may start a service; 101 means no. Returns a function that
 * undoes it.
 */
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
