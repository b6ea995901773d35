/** The log: what the Server's events tell an operator. */
import type { Logger } from 'pino'
import type { BrokerEvents, EventName, Events } from '../broker/events.ts'
import type { LinkInfo } from '../broker/link.ts'
import type { DropReason } from '../session/limits.ts'
import { printable } from './printable.ts'
import { CLIENT_CODES, refusalCode } from './security.ts'
import { Tally } from './tally.ts'

/** At most one line per client and reason in this time. */
const REPEAT_MS = 10_000

const FLUSH_MS = 1000

/** Clients whose breaches of rules are remembered; those of longest ago are told again when they come back. */
const FORGIVEN_MAX = 10_000

/** Drops that belong to the life of a Session and tell of no trouble. */
const ORDINARY_DROPS: ReadonlySet<DropReason> = new Set(['offline', 'expired', 'session-ended'])

/** Stands for every kind beyond those that are counted one by one. */
const TOGETHER = 'more clients were refused, ran into limits or lost messages'

interface Line {
  readonly level: 'debug' | 'warn' | 'error'
  readonly fields: Readonly<Record<string, unknown>>
  readonly text: string
}

/**
 * Logs connects and disconnects at info, Sessions, Subscriptions and Wills at debug, refusals, limits and lost messages
 * at warn, trouble with the store at error. What a level hides is not listened to. `now` is a monotonic clock in ms.
 * Returns a function that ends it and writes what was counted last.
 */
export function attachLog(events: Events, logger: Logger, now: () => number): () => void {
  const tally = new Tally<Line>(REPEAT_MS, now, ({ level, fields, text }, count) =>
    logger[level]({ ...fields, count }, text),
  )
  const detach = [
    ...(logger.isLevelEnabled('debug') ? debugLines(events, logger) : []),
    ...(logger.isLevelEnabled('info') ? infoLines(events, logger) : []),
    ...(logger.isLevelEnabled('warn') ? warnLines(events, logger, tally) : []),
    ...(logger.isLevelEnabled('error') ? errorLines(events, logger) : []),
  ]
  const timer = setInterval(() => tally.flush(), FLUSH_MS).unref()
  return () => {
    clearInterval(timer)
    for (const off of detach) off()
    tally.end()
  }
}

function infoLines(events: Events, logger: Logger): (() => void)[] {
  return [
    events.on('connected', ({ client, sessionPresent, cleanStart, keepAliveSeconds }) =>
      logger.info(
        {
          ...who(client.clientId, client.link),
          userName: client.userName === null ? undefined : printable(client.userName),
          protocolVersion: client.protocolVersion,
          cleanStart,
          sessionPresent,
          keepAliveSeconds,
          security: CLIENT_CODES.login.code,
        },
        'client connected',
      ),
    ),
    events.on('disconnected', ({ clientId, link, reasonCode, reason, by }) =>
      logger.info({ ...who(clientId, link), by, ...why(reasonCode, reason) }, 'client disconnected'),
    ),
    events.on('health', ({ state, before }) => {
      if (state === 'ok' && before === 'refusing') logger.info('new messages and Sessions are accepted again')
    }),
    events.on('sessionsCapped', (event) => logger.info(event, 'Sessions held to session_expiry_seconds_max')),
    events.on('storeRecovered', ({ sessions }) => logger.info({ sessions }, 'the store works again')),
  ]
}

function debugLines(events: Events, logger: Logger): (() => void)[] {
  const line = <K extends EventName>(
    name: K,
    text: string,
    fields: (event: BrokerEvents[K]) => Record<string, unknown>,
  ) => events.on(name, (event) => logger.debug(fields(event), text))
  return [
    line('opened', 'connection accepted', ({ link }) => peer(link)),
    line('sessionCreated', 'session created', ({ clientId, persistent }) => ({
      clientId: printable(clientId),
      persistent,
    })),
    line('sessionEnded', 'session ended', ({ clientId, reason }) => ({
      clientId: printable(clientId),
      reason,
    })),
    line('subscribed', 'subscribed', ({ client, filter, reasonCode }) => ({
      clientId: printable(client.clientId),
      filter: printable(filter),
      reasonCode: hexadecimal(reasonCode),
    })),
    line('unsubscribed', 'unsubscribed', ({ client, filter, reasonCode }) => ({
      clientId: printable(client.clientId),
      filter: printable(filter),
      reasonCode: hexadecimal(reasonCode),
    })),
    line('willPublished', 'will published', ({ clientId, topic }) => ({
      clientId: printable(clientId),
      topic: printable(topic),
    })),
    line('paused', 'publisher paused', ({ clientId, reason }) => ({ clientId: printable(clientId), reason })),
    line('resumed', 'publisher resumed', ({ clientId }) => ({ clientId: printable(clientId) })),
  ]
}

function warnLines(events: Events, logger: Logger, tally: Tally<Line>): (() => void)[] {
  return [
    events.on('refused', ({ clientId, link, reasonCode, reason, userName }) =>
      tally.add(
        `refused ${clientId} ${clientId === '' ? link.remoteAddress : ''} ${reasonCode} ${reason}`,
        (together) => ({
          level: 'warn',
          fields: together
            ? {}
            : {
                ...who(clientId, link),
                userName: userName === undefined ? undefined : printable(userName),
                ...why(reasonCode, reason),
                security: refusalCode(reasonCode).code,
              },
          text: together ? TOGETHER : 'client refused',
        }),
      ),
    ),
    events.on('dropped', ({ clientId, reason, count }) => {
      const ordinary = ORDINARY_DROPS.has(reason)
      if (ordinary && !logger.isLevelEnabled('debug')) return
      const describe = (together: boolean): Line => ({
        level: ordinary ? 'debug' : 'warn',
        fields: together ? {} : { clientId: printable(clientId), reason },
        text: together ? TOGETHER : 'messages dropped',
      })
      tally.add(`dropped ${clientId} ${reason}`, describe, count)
    }),
    forgivenLines(events, logger),
    events.on('health', ({ state, detail }) => {
      if (state === 'refusing') logger.warn({ detail }, 'new messages and Sessions are refused')
    }),
    events.on('limited', ({ limit, clientId, detail }) =>
      tally.add(`limited ${clientId} ${limit}`, (together) => ({
        level: limit === 'disk' ? 'error' : 'warn',
        fields: together ? {} : { clientId: printable(clientId), limit, detail: printable(detail) },
        text: together ? TOGETHER : 'a limit was reached',
      })),
    ),
  ]
}

/** Once per client and rule, however often the client comes back. */
function forgivenLines(events: Events, logger: Logger): () => void {
  const told = new Set<string>()
  return events.on('forgiven', ({ client, rule }) => {
    const key = `${rule} ${client.clientId}`
    if (told.has(key)) return
    const [oldest] = told.size >= FORGIVEN_MAX ? told : []
    if (oldest !== undefined) told.delete(oldest)
    told.add(key)
    logger.warn({ ...who(client.clientId, client.link), rule }, 'a rule that the client breaks is forgiven')
  })
}

function errorLines(events: Events, logger: Logger): (() => void)[] {
  return [events.on('storeFailed', ({ error }) => logger.error({ err: error }, 'the store failed'))]
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

/** Reason Codes as the standard writes them. */
function hexadecimal(reasonCode: number): string {
  return `0x${reasonCode.toString(16).padStart(2, '0').toUpperCase()}`
}
