/** What `godwit` tells the person who started it: one line each, each beginning with `godwit`. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Config } from '../../config/config.ts'
import { isLoopbackOnly } from '../../config/listeners.ts'
import type { Listener, ListenerOptions } from '../../transport/listener/listener.ts'
import { certificateState, listTrouble } from '../../transport/tls/certificate-times.ts'
import { shellWord } from '../../transport/tls/shell-word.ts'

const PROMISES = {
  fsync: () => 'what is acknowledged is on the disk',
  interval: (seconds: number) =>
    `what is acknowledged survives a crash of godwit; a crash of the machine can take the last ${seconds} s`,
  os: () => 'what is acknowledged survives a crash of godwit, not one of the machine',
  memory: () => 'nothing is stored, a restart forgets everything',
}

/** `opening` is the line that opens the broker to other machines; null where only the listeners' own keys can. */
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

/** The configuration as it holds with these users: they end anonymous access that nobody has asked for. */
export function afterUsers(config: Config, hasUsers: boolean): Config {
  if (!hasUsers) return config
  const listeners = config.listeners.map((listener) =>
    listener.anonymousUnlessUsers === true ? { ...listener, allowAnonymous: false } : listener,
  )
  return { ...config, listeners }
}

/** The command line with these words, changed so that every machine is served. */
export function openingLine(words: readonly string[]): string {
  const kept = words.filter((word, i) => !word.startsWith('--host') && words[i - 1] !== '--host')
  return ['godwit', ...kept.map(shellWord), '--host 0.0.0.0 --set allow_anonymous=true'].join(' ')
}

function dataNotice({ data }: Config): string {
  const promise = `durability ${data.durability}: ${PROMISES[data.durability](data.durabilityIntervalSeconds)}`
  return data.durability === 'memory'
    ? `godwit ${promise}`
    : `godwit data in ${resolve(data.directory)}, ${promise}`
}

/** What every user of the machine could do with what only the broker should. */
function permissionNotices({ data, access }: Config): string[] {
  if (process.platform === 'win32') return []
  const isOpen = (path: string, bits: number): boolean =>
    ((statSync(path, { throwIfNoEntry: false })?.mode ?? 0) & bits) !== 0
  const directory = data.durability === 'memory' ? [] : [resolve(data.directory)]
  return [
    ...directory
      .filter((path) => isOpen(path, 0o002))
      .map(
        (path) =>
          `${path} lets every user of this machine replace what is in it: chmod o-w ${shellWord(path)}`,
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
    const list = listTrouble(times, nowMs)
    return [
      `godwit certificate of listener '${name}' ${certificateState(times, nowMs)}`,
      ...(list === null ? [] : [`godwit note: listener '${name}': ${list}`]),
    ]
  })
}

/** Where no other machine gets in. */
function loopbackNotices(config: Config, opening: string | null): string[] {
  if (config.listeners.every(({ allowAnonymous }) => !allowAnonymous)) return listenerNotices(config)
  const how = opening ?? 'set host: 0.0.0.0 and allow_anonymous: true for a listener of the configuration'
  return [
    'godwit serves this machine only, and everybody on it without a password',
    `godwit for other machines, with TLS and passwords: godwit setup; without either: ${how}`,
  ]
}

/** Who is let in where, in plain words. */
function listenerNotices(config: Config): string[] {
  return config.listeners.map((listener) => `godwit listener '${listener.name}' ${letIn(listener)}`)
}

function letIn(listener: ListenerOptions): string {
  const who = isLoopbackOnly(listener) ? 'everybody on this machine' : 'everybody who reaches it'
  const certificate = listener.tls?.clientCertificate === 'require' ? ', with a certificate' : ''
  return listener.allowAnonymous
    ? `lets in ${who}${certificate}, without a password, since allow_anonymous says so`
    : 'lets in nobody without credentials'
}

function tryNotices(config: Config, listeners: readonly Listener[]): string[] {
  const listener = listeners.find(({ type }) => type === 'tcp')
  if (listener === undefined) return []
  const { allowAnonymous } = config.listeners.find(({ name }) => name === listener.name) ?? {}
  const who = allowAnonymous === false ? ' -u NAME -P PASSWORD' : ''
  const place = `-h ${reachable(new URL(listener.address).hostname)} -p ${listener.port}${who}`
  return [
    `godwit try: mosquitto_sub ${place} -t 'hello/#' -v`,
    `godwit try: mosquitto_pub ${place} -t hello/world -m hi`,
  ]
}

/** An address to connect to, where one listens on all. */
function reachable(host: string): string {
  const address = host.replace(/^\[|\]$/g, '')
  if (address === '0.0.0.0') return '127.0.0.1'
  return address === '::' ? '::1' : address
}
