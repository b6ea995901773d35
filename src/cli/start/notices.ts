/** Notices for the person who started the broker: one line each, each beginning with `godwit`. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Config } from '../../config/config.ts'
import { isLoopbackOnly } from '../../config/listeners.ts'
import type { Listener, ListenerOptions } from '../../transport/listener/listener.ts'
import { revocationListProblem, validityText } from '../../transport/tls/certificate-times.ts'
import { shellWord } from '../../transport/tls/shell-word.ts'

const PROMISES = {
  fsync: () => 'acknowledged messages are on disk',
  interval: (seconds: number) =>
    `acknowledged messages survive a crash of godwit; a crash of the machine can lose the last ${seconds} s`,
  os: () => 'acknowledged messages survive a crash of godwit, but not of the machine',
  memory: () => 'nothing is stored; a restart loses everything',
}

/**
 * Lists the notices of a start. `opening` is the command line that serves other machines, too; null if only
 * keys of the listeners can do that.
 */
export function startNotices(
  config: Config,
  version: string,
  listeners: readonly Listener[],
  opening: string | null,
): string[] {
  return [
    `godwit ${version}`,
    ...listeners.map((listener) => `godwit listening on ${listener.address}`),
    dataNotice(config),
    ...permissionNotices(config),
    ...certificateNotices(listeners, Date.now()),
    ...(config.loopbackOnly ? loopbackNotices(config, opening) : listenerNotices(config)),
    ...tryNotices(config, listeners),
  ]
}

/** Returns the configuration in force: once users exist, the default anonymous access ends. */
export function effectiveConfig(config: Config, hasUsers: boolean): Config {
  if (!hasUsers) return config
  const listeners = config.listeners.map((listener) =>
    listener.anonymousUnlessUsers === true ? { ...listener, allowAnonymous: false } : listener,
  )
  return { ...config, listeners }
}

/** Returns this command line, changed so that the broker serves every machine. */
export function publicCommandLine(words: readonly string[]): string {
  const kept = words.filter((word, i) => !word.startsWith('--host') && words[i - 1] !== '--host')
  return ['godwit', ...kept.map(shellWord), '--host 0.0.0.0 --set allow_anonymous=true'].join(' ')
}

function dataNotice({ data }: Config): string {
  const text = PROMISES[data.durability](data.durabilityIntervalSeconds)
  const promise = `durability ${data.durability}: ${text}`
  return data.durability === 'memory'
    ? `godwit ${promise}`
    : `godwit data in ${resolve(data.directory)}, ${promise}`
}

/** Warns of files that every user of the machine can read or replace. */
function permissionNotices({ data, access }: Config): string[] {
  if (process.platform === 'win32') return []
  const isOpen = (path: string, bits: number): boolean =>
    ((statSync(path, { throwIfNoEntry: false })?.mode ?? 0) & bits) !== 0
  const directory = data.durability === 'memory' ? [] : [resolve(data.directory)]
  return [
    ...directory
      .filter((path) => isOpen(path, 0o002))
      .map(
        (path) => `${path} lets every user of this machine replace its files: chmod o-w ${shellWord(path)}`,
      ),
    ...access.passwordFiles
      .filter((path) => isOpen(path, 0o006))
      .map(
        (path) => `${path} lets every user of this machine try its passwords: chmod o-rw ${shellWord(path)}`,
      ),
  ].map((text) => `godwit note: ${text}`)
}

function certificateNotices(listeners: readonly Listener[], nowMs: number): string[] {
  return listeners.flatMap(({ name, certificates }) => {
    if (certificates === null) return []
    const { times } = certificates
    const list = revocationListProblem(times, nowMs)
    return [
      `godwit certificate of listener '${name}' ${validityText(times, nowMs)}`,
      ...(list === null ? [] : [`godwit note: listener '${name}': ${list}`]),
    ]
  })
}

/** Describes access to a broker that no other machine can reach. */
function loopbackNotices(config: Config, opening: string | null): string[] {
  if (config.listeners.every(({ allowAnonymous }) => !allowAnonymous)) return listenerNotices(config)
  const how = opening ?? 'set host: 0.0.0.0 and allow_anonymous: true for a listener of the configuration'
  return [
    'godwit serves only this machine; everybody on it may connect without a password',
    'godwit for other machines, with TLS and passwords: godwit setup',
    `godwit for other machines, without either: ${how}`,
  ]
}

/** Describes for each listener which clients it accepts. */
function listenerNotices(config: Config): string[] {
  return config.listeners.map((listener) => `godwit listener '${listener.name}' ${admissionText(listener)}`)
}

function admissionText(listener: ListenerOptions): string {
  const who = isLoopbackOnly(listener) ? 'everybody on this machine' : 'everybody who can reach it'
  const certificate = listener.tls?.clientCertificate === 'require' ? ' with a certificate' : ''
  return listener.allowAnonymous
    ? `accepts ${who}${certificate}, without a password (allow_anonymous)`
    : 'accepts only clients with credentials'
}

function tryNotices(config: Config, listeners: readonly Listener[]): string[] {
  const listener = listeners.find(({ type }) => type === 'tcp')
  if (listener === undefined) return []
  const { allowAnonymous } = config.listeners.find(({ name }) => name === listener.name) ?? {}
  const who = allowAnonymous === false ? ' -u NAME -P PASSWORD' : ''
  const place = `-h ${connectableHost(new URL(listener.address).hostname)} -p ${listener.port}${who}`
  return [
    `godwit try: mosquitto_sub ${place} -t 'hello/#' -v`,
    `godwit try: mosquitto_pub ${place} -t hello/world -m hi`,
  ]
}

/** Returns an address that a client can connect to: a loopback address for a listener on all addresses. */
function connectableHost(host: string): string {
  const address = host.replace(/^\[|\]$/g, '')
  if (address === '0.0.0.0') return '127.0.0.1'
  return address === '::' ? '::1' : address
}
