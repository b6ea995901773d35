/** Writes the Server's events to the log. */
import type { Logger } from 'pino'
import type { BrokerEvents, EventName, Events, Limit } from '../broker/boundary/events.ts'
import { configKey } from '../broker/boundary/limit-row.ts'
import { LIMIT_TABLE } from '../broker/boundary/limits.ts'
import type { LinkInfo } from '../broker/boundary/link.ts'
import { networkOf } from '../broker/boundary/network.ts'
import type { DropReason } from '../session/limits.ts'
import { DEFAULT_LOG_BOUNDS, type LogBounds } from './log-bounds.ts'
import { printable } from './printable.ts'
import { CLIENT_CODES, refusalCode } from './security.ts'
import { peerName, TakeoverDetector } from './takeovers.ts'
import { type Fields, type LineKind, type Occurrence, Tally } from './tally.ts'

/** So many packets of one client and type are logged individually; further ones are counted. */
const PACKETS_BURST = 1000

const FLUSH_MS = 1000

/** At most so many pairs of client and rule are remembered; older ones are logged again. */
const FORGIVEN_MAX = 10_000

/** Drops that are normal in the life of a Session. */
const ORDINARY_DROPS: ReadonlySet<DropReason> = new Set(['offline', 'expired', 'session-ended'])

/** Returns the kind of an ordinary event, which is logged every time until it happens too often. */
const ordinary = (level: LineKind['level'], text: string, source: string, subject: string): LineKind => ({
  level,
  text,
  source,
  subject,
  burst: 3,
  isUngrouped: true,
})

const KINDS = {
  connected: {
    ...ordinary('info', 'client connected', 'remoteAddress', 'clientId'),
    fields: { security: CLIENT_CODES.login.code },
  },
  disconnected: ordinary('info', 'client disconnected', 'remoteAddress', 'clientId'),
  again: ordinary('info', 'new messages and Sessions are accepted again', 'state', 'detail'),
  recovered: ordinary('info', 'the store works again', 'state', 'detail'),
  refusing: ordinary('warn', 'new messages and Sessions are refused', 'state', 'detail'),
  pressed: ordinary('warn', 'memory or disk is short: the largest users are limited', 'state', 'detail'),
  eased: ordinary('info', 'memory and disk are no longer short', 'state', 'detail'),
  relieved: {
    level: 'warn',
    text: 'a client is limited because it uses the most memory or disk',
    source: 'clientId',
    subject: 'step',
    burst: 1,
  },
  storeFailed: ordinary('error', 'the store failed', 'state', 'detail'),
  clockStepped: {
    level: 'warn',
    text: 'the wall clock was set; expiry times are not affected',
    source: 'state',
    subject: 'detail',
    burst: 1,
  },
  clockCorrected: ordinary(
    'warn',
    'the wall clock was set back after the start: stored data expires later by the same time',
    'state',
    'detail',
  ),
  forgiven: ordinary('warn', 'the client breaks a rule that its listener tolerates', 'remoteAddress', 'rule'),
  loginRefused: {
    level: 'warn',
    text: 'client refused',
    source: 'remoteAddress',
    subject: 'userName',
    burst: 1,
    fields: { security: CLIENT_CODES.loginRefused.code },
  },
  connectionRefused: {
    level: 'warn',
    text: 'client refused',
    source: 'remoteAddress',
    subject: 'userName',
    burst: 1,
    fields: { security: CLIENT_CODES.connectionRefused.code },
  },
  lost: { level: 'warn', text: 'messages dropped', source: 'clientId', subject: 'reason', burst: 1 },
  dropped: { level: 'debug', text: 'messages dropped', source: 'clientId', subject: 'reason', burst: 1 },
  limited: { level: 'warn', text: 'a limit was reached', source: 'clientId', subject: 'limit', burst: 1 },
  diskLimited: {
    level: 'error',
    text: 'a limit was reached',
    source: 'clientId',
    subject: 'limit',
    burst: 1,
  },
  consumerRefused: {
    level: 'warn',
    text: 'a Subscription to a queue was refused',
    source: 'clientId',
    subject: 'filter',
    burst: 1,
  },
  contested: {
    level: 'warn',
    text:
      'several connections use one Client Identifier and take it from each other: ' +
      'give each device its own',
    source: 'clientId',
    subject: 'from',
    burst: 1,
  },
  flapping: {
    level: 'warn',
    text:
      'one client connects again and again: check its network, its Keep Alive, ' +
      'and whether two devices use its Client Identifier',
    source: 'clientId',
    subject: 'remoteAddress',
    burst: 1,
  },
  opened: ordinary('debug', 'connection accepted', 'remoteAddress', 'listener'),
  sessionCreated: ordinary('debug', 'session created', 'clientId', 'persistent'),
  sessionEnded: ordinary('debug', 'session ended', 'clientId', 'reason'),
  subscribed: ordinary('debug', 'subscribed', 'clientId', 'filter'),
  unsubscribed: ordinary('debug', 'unsubscribed', 'clientId', 'filter'),
  willPublished: ordinary('debug', 'will published', 'clientId', 'topic'),
  paused: ordinary('debug', 'publisher paused', 'clientId', 'reason'),
  resumed: ordinary('debug', 'publisher resumed', 'clientId', 'reason'),
  received: { ...ordinary('trace', 'packet received', 'clientId', 'packet'), burst: PACKETS_BURST },
  sent: { ...ordinary('trace', 'packet sent', 'clientId', 'packet'), burst: PACKETS_BURST },
} as const satisfies Readonly<Record<string, LineKind>>

/** Writes or counts an event of this kind. */
type Tell = (kind: LineKind, occurrence: Occurrence, describe: () => Fields) => void

/**
 * Logs failures of the store at error, refusals, limits and lost messages at warn, connects and disconnects
 * at info, Sessions, Subscriptions and Wills at debug, packets at trace. Does not listen to events that the
 * level hides. `now` is a monotonic clock in ms. Returns a function that stops the log and writes the
 * remaining counts.
 */
export function attachLog(
  events: Events,
  logger: Logger,
  now: () => number,
  { repeatSeconds, linesPerSecondMax }: LogBounds = DEFAULT_LOG_BOUNDS,
): () => void {
  const tally = new Tally({
    repeatMs: repeatSeconds * 1000,
    linesPerSecondMax,
    now,
    write: ({ level }, fields, text) => logger[level](fields, text),
  })
  const tell: Tell = (kind, occurrence, describe) => tally.add(kind, occurrence, describe)
  const takeovers = new TakeoverDetector(now)
  const attach = (): (() => void)[] => [
    ...(logger.isLevelEnabled('trace') ? traceLines(events, tell) : []),
    ...(logger.isLevelEnabled('debug') ? debugLines(events, tell) : []),
    ...(logger.isLevelEnabled('info') ? infoLines(events, tell) : []),
    ...(logger.isLevelEnabled('warn') ? warnLines(events, tell, takeovers, logger) : []),
    ...(logger.isLevelEnabled('error') ? errorLines(events, tell) : []),
  ]
  let attached = attach()
  const detach = (): void => {
    for (const off of attached) off()
  }
  // Another level needs other events.
  const relevel = (): void => {
    detach()
    attached = attach()
  }
  logger.on('level-change', relevel)
  const timer = setInterval(() => tally.flush(), FLUSH_MS).unref()
  return () => {
    clearInterval(timer)
    logger.off('level-change', relevel)
    detach()
    tally.end()
  }
}

function infoLines(events: Events, tell: Tell): (() => void)[] {
  return [
    events.on('connected', ({ client, sessionPresent, cleanStart, keepAliveSeconds }) =>
      tell(KINDS.connected, ofClient(client.clientId, client.link), () => ({
        ...who(client.clientId, client.link),
        userName: client.userName === null ? undefined : printable(client.userName),
        protocolVersion: client.protocolVersion,
        cleanStart,
        sessionPresent,
        keepAliveSeconds,
      })),
    ),
    events.on('disconnected', ({ clientId, link, reasonCode, reason, by, takenOverBy }) =>
      tell(KINDS.disconnected, ofClient(clientId, link, by), () => ({
        ...who(clientId, link),
        by,
        ...why(reasonCode, reason),
        ...(takenOverBy !== undefined && { takenOverBy: peerName(takenOverBy) }),
      })),
    ),
    events.on('health', ({ state, before }) => {
      const isAccepted = state === 'ok' || state === 'pressed'
      if (isAccepted && before === 'refusing') tell(KINDS.again, NOBODY, () => ({}))
      else if (state === 'ok' && before === 'pressed') tell(KINDS.eased, NOBODY, () => ({}))
    }),
    events.on('storeRecovered', ({ sessions }) => tell(KINDS.recovered, NOBODY, () => ({ sessions }))),
  ]
}

function traceLines(events: Events, tell: Tell): (() => void)[] {
  return [
    events.on('packet', ({ clientId, link, direction, packet, ...fields }) => {
      const source = clientId === '' ? link.remoteAddress : clientId
      const occurrence = { source, subject: packet, detail: '' }
      tell(KINDS[direction], occurrence, () => ({ clientId: printable(clientId), packet, ...fields }))
    }),
  ]
}

function debugLines(events: Events, tell: Tell): (() => void)[] {
  const line = <K extends EventName>(
    name: K,
    kind: LineKind,
    fields: (event: BrokerEvents[K]) => Fields,
  ): (() => void) =>
    events.on(name, (event) => {
      const found = fields(event)
      const [source, subject] = [found[kind.source], found[kind.subject]].map((value) => String(value ?? ''))
      tell(kind, { source: source!, subject: subject!, detail: '' }, () => found)
    })
  return [
    line('opened', KINDS.opened, ({ link }) => peer(link)),
    line('sessionCreated', KINDS.sessionCreated, ({ clientId, persistent }) => ({
      clientId: printable(clientId),
      persistent,
    })),
    line('sessionEnded', KINDS.sessionEnded, ({ clientId, reason }) => ({
      clientId: printable(clientId),
      reason,
    })),
    line('subscribed', KINDS.subscribed, ({ client, filter, reasonCode }) => ({
      clientId: printable(client.clientId),
      filter: printable(filter),
      reasonCode: hexadecimal(reasonCode),
    })),
    line('unsubscribed', KINDS.unsubscribed, ({ client, filter, reasonCode }) => ({
      clientId: printable(client.clientId),
      filter: printable(filter),
      reasonCode: hexadecimal(reasonCode),
    })),
    line('willPublished', KINDS.willPublished, ({ clientId, topic }) => ({
      clientId: printable(clientId),
      topic: printable(topic),
    })),
    line('paused', KINDS.paused, ({ clientId, reason }) => ({ clientId: printable(clientId), reason })),
    line('resumed', KINDS.resumed, ({ clientId }) => ({ clientId: printable(clientId) })),
  ]
}

function warnLines(events: Events, tell: Tell, takeovers: TakeoverDetector, logger: Logger): (() => void)[] {
  return [
    events.on('clock', ({ what, ms }) => {
      const kind = what === 'stepped' ? KINDS.clockStepped : KINDS.clockCorrected
      tell(kind, NOBODY, () => ({ seconds: Math.round(ms / 1000) }))
    }),
    events.on('refused', (event) => {
      const { clientId, link, reasonCode, reason, userName } = event
      const isLogin = refusalCode(event) === CLIENT_CODES.loginRefused
      const kind = isLogin ? KINDS.loginRefused : KINDS.connectionRefused
      const detail = `${clientId} ${reasonCode} ${reason}`
      const occurrence = { source: networkOf(link.remoteAddress), subject: userName ?? '', detail }
      tell(kind, occurrence, () => ({
        ...who(clientId, link),
        userName: userName === undefined ? undefined : printable(userName),
        ...why(reasonCode, reason),
      }))
    }),
    events.on('dropped', ({ clientId, reason, count }) => {
      const kind = ORDINARY_DROPS.has(reason) ? KINDS.dropped : KINDS.lost
      if (!logger.isLevelEnabled(kind.level)) return
      const occurrence = { source: clientId, subject: reason, detail: '', count: count ?? 1 }
      tell(kind, occurrence, () => ({ clientId: printable(clientId), reason }))
    }),
    forgivenLines(events, tell),
    events.on('health', ({ state, detail }) => {
      if (state === 'refusing') tell(KINDS.refusing, NOBODY, () => ({ detail }))
      else if (state === 'pressed') tell(KINDS.pressed, NOBODY, () => ({ detail: printable(detail) }))
    }),
    events.on('relieved', ({ clientId, userName, step, of, bytes, detail }) =>
      tell(KINDS.relieved, { source: clientId, subject: step, detail: '' }, () => ({
        clientId: printable(clientId),
        userName: userName === null ? undefined : printable(userName),
        step,
        of,
        bytes,
        detail,
      })),
    ),
    events.on('limited', ({ limit, clientId, detail }) => {
      const kind = limit === 'disk' ? KINDS.diskLimited : KINDS.limited
      tell(kind, { source: clientId, subject: limit, detail: '' }, () => ({
        clientId: printable(clientId),
        limit,
        key: limitPath(limit),
        detail: printable(detail),
      }))
    }),
    events.on('subscribed', ({ client: { clientId }, filter, reasonCode, reason, limit }) => {
      if (reason === undefined || limit !== undefined) return // a limit has its own line
      tell(KINDS.consumerRefused, { source: clientId, subject: filter, detail: '' }, () => ({
        clientId: printable(clientId),
        filter: printable(filter),
        ...why(reasonCode, printable(reason)),
      }))
    }),
    ...contestLines(events, tell, takeovers),
  ]
}

/** Logs clients that connect again and again, and Client Identifiers that several clients use. */
function contestLines(events: Events, tell: Tell, takeovers: TakeoverDetector): (() => void)[] {
  return [
    events.on('flapping', ({ clientId, link, connects: connectsInAMinute }) => {
      const occurrence = { source: printable(clientId), subject: link.remoteAddress, detail: '' }
      tell(KINDS.flapping, occurrence, () => ({ ...who(clientId, link), connectsInAMinute }))
    }),
    events.on('disconnected', ({ clientId, link, takenOverBy }) => {
      if (takenOverBy === undefined) return
      const addresses = takeovers.add(clientId, link, takenOverBy)
      if (addresses === null) return
      const source = printable(clientId)
      tell(KINDS.contested, { source, subject: '', detail: '' }, () => ({
        clientId: source,
        from: addresses,
      }))
    }),
  ]
}

/** Logs each client and rule once, however often the client comes back. */
function forgivenLines(events: Events, tell: Tell): () => void {
  const told = new Set<string>()
  return events.on('forgiven', ({ client, rule }) => {
    const key = `${rule} ${client.clientId}`
    if (told.has(key)) return
    const [oldest] = told.size >= FORGIVEN_MAX ? told : []
    if (oldest !== undefined) told.delete(oldest)
    told.add(key)
    const { clientId, link } = client
    const occurrence = { source: networkOf(link.remoteAddress), subject: rule, detail: clientId }
    tell(KINDS.forgiven, occurrence, () => ({ ...who(clientId, link), rule }))
  })
}

function errorLines(events: Events, tell: Tell): (() => void)[] {
  return [events.on('storeFailed', ({ error }) => tell(KINDS.storeFailed, NOBODY, () => ({ err: error })))]
}

const NOBODY: Occurrence = { source: '', subject: '', detail: '' }

function ofClient(clientId: string, link: LinkInfo, detail = ''): Occurrence {
  return { source: networkOf(link.remoteAddress), subject: clientId, detail }
}

function who(clientId: string, link: LinkInfo): Record<string, unknown> {
  return { clientId: printable(clientId), ...peer(link) }
}

function peer(link: LinkInfo): Record<string, unknown> {
  const commonName = link.certificate?.subjectCommonName ?? null
  return {
    listener: link.listener,
    remoteAddress: link.remoteAddress === '' ? undefined : link.remoteAddress,
    remotePort: link.remotePort === 0 ? undefined : link.remotePort,
    certificateCommonName: commonName === null ? undefined : printable(commonName),
  }
}

function why(reasonCode: number, reason: string): Record<string, unknown> {
  return { reasonCode: hexadecimal(reasonCode), reason: printable(reason) }
}

/** The keys of limits that are not in the table of limits. */
const QUEUE_KEYS: Partial<Readonly<Record<Limit, string>>> = {
  queuesMax: 'queues.queues_max',
  queuesPerUserMax: 'queues.declared_per_user_max',
  queueConsumersMax: 'queues.consumers_per_queue_max',
  queueUnsettledMax: 'queues.unsettled_max',
  queueIdsMax: 'queues.defaults.deduplicate_ids_max',
}

/** Returns the key of a limit; undefined if it is not in the configuration. */
function limitPath(limit: Limit): string | undefined {
  if (Object.hasOwn(LIMIT_TABLE, limit)) return `limits.${configKey(limit)}`
  return QUEUE_KEYS[limit]
}

/** Formats a Reason Code as the standard does. */
function hexadecimal(reasonCode: number): string {
  return `0x${reasonCode.toString(16).padStart(2, '0').toUpperCase()}`
}
