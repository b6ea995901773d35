/** Writes the security log: log-ins, refusals and changes by operators, each with a stable code. */
import type { Logger } from 'pino'
import type { BrokerEvents, Events } from '../broker/boundary/events.ts'
import { networkOf } from '../broker/boundary/network.ts'
import type { SecurityKind } from '../broker/boundary/security.ts'
import { Reason } from '../mqtt/reason.ts'
import { DEFAULT_LOG_BOUNDS, type LogBounds } from './log-bounds.ts'
import { printable } from './printable.ts'
import { type Fields, type LineKind, type Occurrence, Tally } from './tally.ts'

const FLUSH_MS = 1000

/** The code of an entry. A code never changes its meaning, and a meaning never changes its code. */
export interface SecurityCode {
  readonly code: string
  readonly level: 'info' | 'warn'
  readonly text: string
}

/** The codes of log-ins and denied actions of clients. */
export const CLIENT_CODES = {
  login: { code: 'S101', level: 'info', text: 'login' },
  loginRefused: { code: 'S102', level: 'warn', text: 'login refused' },
  connectionRefused: { code: 'S103', level: 'warn', text: 'connection refused' },
  publishDenied: { code: 'S201', level: 'warn', text: 'publish denied' },
  deliveryDenied: { code: 'S204', level: 'warn', text: 'delivery denied' },
  subscribeDenied: { code: 'S202', level: 'warn', text: 'subscription denied' },
} as const satisfies Readonly<Record<string, SecurityCode>>

/** The codes of `security` events. */
export const KIND_CODES: Readonly<Record<SecurityKind, SecurityCode>> = {
  'session-of-another-user': { code: 'S104', level: 'warn', text: 'Session of another user requested' },
  'ownerless-session-ended': { code: 'S105', level: 'warn', text: 'Session without an owner ended' },
  banned: { code: 'S106', level: 'warn', text: 'banned for a while' },
  'subscription-stopped': { code: 'S203', level: 'warn', text: 'subscription stopped' },
  'subscription-resumed': { code: 'S205', level: 'info', text: 'subscription resumed' },
  'user-added': { code: 'S301', level: 'info', text: 'user added' },
  'user-removed': { code: 'S302', level: 'info', text: 'user removed' },
  'user-disabled': { code: 'S303', level: 'info', text: 'user disabled' },
  'user-enabled': { code: 'S304', level: 'info', text: 'user enabled' },
  'password-changed': { code: 'S305', level: 'info', text: 'password changed' },
  'role-added': { code: 'S311', level: 'info', text: 'role added' },
  'role-removed': { code: 'S312', level: 'info', text: 'role removed' },
  'role-changed': { code: 'S313', level: 'info', text: 'rules of a role changed' },
  'role-granted': { code: 'S314', level: 'info', text: 'role granted' },
  'role-revoked': { code: 'S315', level: 'info', text: 'role revoked' },
  'password-file-loaded': { code: 'S401', level: 'info', text: 'password file loaded' },
  'password-file-refused': { code: 'S402', level: 'warn', text: 'password file refused' },
  'acl-file-loaded': { code: 'S403', level: 'info', text: 'ACL file loaded' },
  'acl-file-refused': { code: 'S404', level: 'warn', text: 'ACL file refused' },
  'certificate-loaded': { code: 'S411', level: 'info', text: 'certificate loaded' },
  'certificate-refused': { code: 'S412', level: 'warn', text: 'certificate refused' },
  'certificate-expiring': { code: 'S413', level: 'warn', text: 'certificate expires soon' },
  'certificate-renewed': { code: 'S414', level: 'info', text: 'certificate renewed' },
  'configuration-loaded': { code: 'S421', level: 'info', text: 'configuration loaded' },
  'configuration-refused': { code: 'S422', level: 'warn', text: 'configuration refused' },
  'anonymous-allowed': { code: 'S423', level: 'warn', text: 'anonymous clients are accepted' },
  'accounts-loaded': { code: 'S424', level: 'info', text: 'accounts loaded' },
  'accounts-refused': { code: 'S425', level: 'warn', text: 'accounts refused' },
  'anonymous-ended': { code: 'S426', level: 'warn', text: 'anonymous clients are no longer accepted' },
  'logins-not-kept': { code: 'S427', level: 'warn', text: 'log-ins are not remembered over a restart' },
  'logins-waiting': { code: 'S428', level: 'warn', text: 'log-ins wait for password checks' },
  'bans-loaded': { code: 'S429', level: 'info', text: 'bans loaded' },
  'bans-refused': { code: 'S430', level: 'warn', text: 'bans refused' },
  'bans-not-kept': { code: 'S431', level: 'warn', text: 'bans could not be written' },
  'client-kicked': { code: 'S501', level: 'info', text: 'client kicked' },
  'session-deleted': { code: 'S502', level: 'info', text: 'Session deleted' },
  'subscription-deleted': { code: 'S503', level: 'info', text: 'Subscription deleted' },
  'retained-deleted': { code: 'S504', level: 'info', text: 'retained messages deleted' },
  'backup-taken': { code: 'S505', level: 'info', text: 'backup taken' },
  'ban-added': { code: 'S506', level: 'info', text: 'ban added' },
  'ban-removed': { code: 'S507', level: 'info', text: 'ban lifted' },
  'queue-declared': { code: 'S511', level: 'info', text: 'queue declared' },
  'queue-changed': { code: 'S512', level: 'info', text: 'queue changed' },
  'queue-deleted': { code: 'S513', level: 'info', text: 'queue deleted' },
  'queue-purged': { code: 'S514', level: 'info', text: 'queue purged' },
  'queue-paused': { code: 'S515', level: 'info', text: 'queue paused' },
  'queue-resumed': { code: 'S516', level: 'info', text: 'queue resumed' },
  'queue-moved': { code: 'S517', level: 'info', text: 'messages of a queue moved' },
  'queue-replayed': { code: 'S518', level: 'info', text: 'dead letters replayed' },
}

/** Reason Codes of CONNACK that refuse the client's identity or credentials. */
const LOGIN_REFUSALS: ReadonlySet<number> = new Set([
  Reason.ClientIdentifierNotValid,
  Reason.BadUserNameOrPassword,
  Reason.NotAuthorized,
  Reason.Banned,
  Reason.BadAuthenticationMethod,
])

/** Codes that one change of rights can produce for every client of a fleet, all `by` the broker. */
const OF_MANY: ReadonlySet<SecurityCode> = new Set([
  KIND_CODES['subscription-stopped'],
  KIND_CODES['subscription-resumed'],
])

/** The kinds of lines by their codes. Each code has its own bounds, so that no other code can hide it. */
const KINDS: ReadonlyMap<string, LineKind> = new Map(
  [
    kindOf(CLIENT_CODES.login, 'remoteAddress', 'userName', 3),
    kindOf(CLIENT_CODES.loginRefused, 'remoteAddress', 'userName'),
    kindOf(CLIENT_CODES.connectionRefused, 'remoteAddress', 'userName'),
    kindOf(CLIENT_CODES.publishDenied, 'clientId', 'topicName'),
    kindOf(CLIENT_CODES.deliveryDenied, 'clientId', 'topicName'),
    kindOf(CLIENT_CODES.subscribeDenied, 'clientId', 'topicFilter'),
    ...Object.values(KIND_CODES).map((code) => ({
      ...kindOf(code, 'by', 'subject'),
      isUngrouped: OF_MANY.has(code),
    })),
  ].map((kind) => [kind.fields.security, kind]),
)

function kindOf({ code, level, text }: SecurityCode, source: string, subject: string, burst = 1) {
  // A log-in is logged every time until there are too many.
  return { level, text, source, subject, burst, isUngrouped: burst > 1, fields: { security: code } } as const
}

/** Returns the code of a refused CONNECT. */
export function refusalCode({
  reasonCode,
  isGuess,
}: Pick<BrokerEvents['refused'], 'reasonCode' | 'isGuess'>): SecurityCode {
  return isGuess === true || LOGIN_REFUSALS.has(reasonCode)
    ? CLIENT_CODES.loginRefused
    : CLIENT_CODES.connectionRefused
}

type Tell = (code: SecurityCode, occurrence: Occurrence, fields: Fields) => void

/**
 * Writes entries to `logger` and counts repeated ones within the bounds. `now` is a monotonic clock in ms.
 * `beside` is 'log' if `logger` is the broker's own log, where `attachLog` already writes log-ins and
 * refused CONNECTs with their codes. Returns a function that stops the log and writes the remaining counts.
 */
export function attachSecurityLog(
  events: Events,
  logger: Logger,
  now: () => number,
  beside: 'log' | 'nothing',
  { repeatSeconds, linesPerSecondMax }: LogBounds = DEFAULT_LOG_BOUNDS,
): () => void {
  const tally = new Tally({
    repeatMs: repeatSeconds * 1000,
    linesPerSecondMax,
    now,
    write: ({ level }, fields, text) => logger[level](fields, text),
  })
  const tell: Tell = ({ code }, occurrence, fields) => tally.add(KINDS.get(code)!, occurrence, () => fields)
  const detach = [
    ...(beside === 'log' ? [] : loginLines(events, tell)),
    ...refusalLines(events, tell),
    changeLines(events, logger, tell),
  ]
  const timer = setInterval(() => tally.flush(), FLUSH_MS).unref()
  return () => {
    clearInterval(timer)
    for (const off of detach) off()
    tally.end()
  }
}

/** Writes accepted and refused log-ins. */
function loginLines(events: Events, tell: Tell): (() => void)[] {
  return [
    events.on('connected', ({ client }) => {
      const { clientId, userName, link } = client
      const occurrence = { ...ofUser(link.remoteAddress, userName), detail: clientId }
      tell(CLIENT_CODES.login, occurrence, { ...who(clientId, userName), ...from(link) })
    }),
    events.on('refused', (event) => {
      const { clientId, link, userName, reasonCode, reason } = event
      const detail = `${clientId} ${reasonCode} ${reason}`
      tell(
        refusalCode(event),
        { ...ofUser(link.remoteAddress, userName), detail },
        { ...who(clientId, userName), ...from(link), ...why(event) },
      )
    }),
  ]
}

/** Writes what the rights of a client refuse. */
function refusalLines(events: Events, tell: Tell): (() => void)[] {
  return [
    events.on('subscribed', ({ client, filter, reasonCode }) => {
      if (reasonCode !== Reason.NotAuthorized) return
      const { clientId, userName, link } = client
      const topicFilter = printable(filter)
      const fields = { ...who(clientId, userName), ...from(link), topicFilter }
      const occurrence = { source: printable(clientId), subject: topicFilter, detail: '' }
      tell(CLIENT_CODES.subscribeDenied, occurrence, fields)
    }),
    events.on('dropped', ({ clientId, reason, message }) => {
      if (reason !== 'not-authorized') return
      // An evicted message waited in a queue, so its publisher is not this client's current PUBLISH.
      const isOwn = !message.evicted && message.publisher === clientId
      const topicName = message.evicted ? undefined : printable(message.topic.name)
      const code = isOwn ? CLIENT_CODES.publishDenied : CLIENT_CODES.deliveryDenied
      const occurrence = { source: printable(clientId), subject: topicName ?? '', detail: '' }
      tell(code, occurrence, { ...who(clientId), topicName })
    }),
  ]
}

/** Writes changes of users, rights and keys. */
function changeLines(events: Events, logger: Logger, tell: Tell): () => void {
  return events.on('security', ({ kind, subject, by, detail }) => {
    const fields = {
      subject: printable(subject),
      by: printable(by),
      detail: printable(detail) || undefined,
    }
    const code = KIND_CODES[kind]
    // Clients cannot repeat events about files (S4xx), and each may be a different problem, so all are
    // written.
    const isOfFiles = code.code.startsWith('S4')
    const isOfMany = OF_MANY.has(code)
    if (isOfMany || (code.level === 'warn' && !isOfFiles)) {
      const said = isOfMany ? (fields.detail ?? '') : ''
      tell(code, { source: fields.by, subject: fields.subject, detail: said }, fields)
    } else logger[code.level]({ security: code.code, ...fields }, code.text)
  })
}

function ofUser(remoteAddress: string, userName?: string | null): Pick<Occurrence, 'source' | 'subject'> {
  return { source: networkOf(remoteAddress), subject: userName ?? '' }
}

function who(clientId: string, userName?: string | null): Record<string, unknown> {
  return {
    clientId: clientId === '' ? undefined : printable(clientId),
    userName: userName === null || userName === undefined ? undefined : printable(userName),
  }
}

function from({ listener, remoteAddress, certificate }: BrokerEvents['refused']['link']) {
  return {
    listener,
    remoteAddress: remoteAddress === '' ? undefined : remoteAddress,
    certificate: certificate?.fingerprint256,
  }
}

function why({ reasonCode, reason }: BrokerEvents['refused']): Record<string, unknown> {
  return {
    reasonCode: `0x${reasonCode.toString(16).padStart(2, '0').toUpperCase()}`,
    reason: printable(reason),
  }
}
