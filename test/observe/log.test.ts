import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Events } from '../../src/broker/boundary/events.ts'
import type { LinkInfo } from '../../src/broker/boundary/link.ts'
import type { ClientView } from '../../src/broker/boundary/policy.ts'
import { Message, Topic } from '../../src/mqtt/message.ts'
import { attachLog } from '../../src/observe/log.ts'
import { createLogger, prettyLine } from '../../src/observe/logger.ts'
import { printable } from '../../src/observe/printable.ts'

const LINK: LinkInfo = {
  transport: 'tcp',
  listener: 'mqtt',
  remoteAddress: '192.0.2.7',
  remotePort: 4711,
  allowAnonymous: true,
}

const NOTHING = Buffer.alloc(0)

let events: Events
let lines: Record<string, unknown>[]
let now: number

beforeEach(() => {
  vi.useFakeTimers()
  events = new Events()
  lines = []
  now = 0
})

afterEach(() => {
  vi.useRealTimers()
})

function attach(level: 'trace' | 'debug' | 'info' | 'warn' | 'silent', linesPerSecondMax = 10): () => void {
  const output = { write: (line: string) => lines.push(JSON.parse(line)) }
  const bounds = { repeatSeconds: 10, linesPerSecondMax }
  return attachLog(events, createLogger(level, 'json', output), () => now, bounds)
}

function pass(ms: number): void {
  now += ms
  vi.advanceTimersByTime(ms)
}

const message = () =>
  Message.of({
    topic: new Topic('a'),
    payload: NOTHING,
    properties: NOTHING,
    qos: 1,
    retain: false,
    publisher: 'p',
  })

const drop = (clientId: string, reason: 'queue-full' | 'offline' = 'queue-full') =>
  events.emit('dropped', { clientId, reason, message: message() })

const refuse = (clientId: string) =>
  events.emit('refused', { clientId, link: LINK, reasonCode: 0x87, reason: 'not authorized' })

describe('the log', () => {
  test('has one line per client and reason in ten seconds, with the count', () => {
    const detach = attach('info')
    for (let i = 0; i < 1000; i++) drop('slow')
    drop('other')
    expect(lines).toMatchObject([
      { level: 'warn', msg: 'messages dropped', clientId: 'slow', reason: 'queue-full', count: 1 },
      { clientId: 'other', count: 1 },
    ])
    pass(9000)
    expect(lines.length).toBe(2)
    pass(1000)
    expect(lines.slice(2)).toMatchObject([{ clientId: 'slow', count: 999 }])
    drop('slow')
    pass(5000)
    expect(lines.length).toBe(3)
    pass(5000)
    expect(lines.slice(3)).toMatchObject([{ clientId: 'slow', count: 1 }])
    // Quiet for a while: the next one is news again.
    pass(20_000)
    drop('slow')
    expect(lines.slice(4)).toMatchObject([{ clientId: 'slow', count: 1 }])
    detach()
  })

  test('ordinary drops of a Session are not warnings', () => {
    const detach = attach('info')
    drop('away', 'offline')
    expect(lines).toEqual([])
    detach()
    const again = attach('debug')
    drop('away', 'offline')
    expect(lines).toMatchObject([{ level: 'debug', reason: 'offline' }])
    again()
  })

  test('writes the remaining counts at the end and detaches', () => {
    const detach = attach('debug')
    for (let i = 0; i < 5; i++) refuse('x')
    detach()
    expect(lines).toMatchObject([
      { msg: 'client refused', count: 1, reasonCode: '0x87', remoteAddress: '192.0.2.7' },
      { count: 4 },
    ])
    expect(vi.getTimerCount()).toBe(0)
    for (const name of [
      'connected',
      'disconnected',
      'refused',
      'dropped',
      'limited',
      'storeFailed',
    ] as const) {
      expect(events.has(name)).toBe(false)
    }
  })

  test('does not listen to events that its level hides', () => {
    const detach = attach('warn')
    expect(events.has('connected')).toBe(false)
    expect(events.has('refused')).toBe(true)
    detach()
    attach('silent')()
    expect(events.has('storeFailed')).toBe(false)
  })

  test('the number of names is bounded; the rest is summed up by address', () => {
    const detach = attach('warn')
    for (let i = 0; i < 5000; i++) refuse(`client-${i}`)
    expect(lines.length).toBe(32)
    pass(10_000)
    expect(lines.slice(32)).toMatchObject([
      { msg: 'client refused', remoteAddress: '192.0.2.7', count: 4968, security: 'S102' },
    ])
    expect(lines[32]).not.toHaveProperty('clientId')
    detach()
    expect(lines.length).toBe(33)
  })

  test('30 guesses at admin stand out of 1,100 anonymous refusals from anywhere [field-D24]', () => {
    const detach = attach('warn')
    const from = (remoteAddress: string, clientId: string, userName?: string) =>
      events.emit('refused', {
        clientId,
        link: { ...LINK, remoteAddress },
        reasonCode: 0x87,
        reason: 'not authorized',
        ...(userName !== undefined && { userName }),
      })
    for (let i = 0; i < 1100; i++) {
      // From the same address, from one network, and from all over the world.
      from('192.0.2.7', `a-${i}`)
      from(`2001:db8::${i.toString(16)}`, `b-${i}`)
      from(`198.51.${i >> 8}.${i & 255}`, `c-${i}`)
      if (i % 37 === 0) from('192.0.2.7', `guess-${i}`, 'admin')
    }
    pass(10_000)
    detach()
    const ofAdmin = lines.filter(({ userName }) => userName === 'admin')
    expect(ofAdmin.length).toBeGreaterThan(0)
    expect(ofAdmin.reduce((sum, { count }) => sum + (count as number), 0)).toBe(30)
    expect(new Set(ofAdmin.map(({ remoteAddress }) => remoteAddress))).toEqual(new Set(['192.0.2.7']))
    expect(lines.length).toBeLessThan(120)
    // Nothing is lost from the sum.
    expect(lines.reduce((sum, { count }) => sum + (count as number), 0)).toBe(3330)
  })

  test('a client that reconnects all day causes a few lines with a count [field-D24]', () => {
    const detach = attach('info')
    const client = { clientId: 'c', userName: null, protocolVersion: 4 as const, link: LINK }
    const connect = { client, sessionPresent: false, cleanStart: true, keepAliveSeconds: 0 }
    const end = { clientId: 'c', link: LINK, reasonCode: 0, reason: '', by: 'client' as const }
    for (let second = 0; second < 60; second++) {
      for (let i = 0; i < 2800; i++) {
        events.emit('connected', connect)
        events.emit('disconnected', end)
      }
      pass(1000)
    }
    detach()
    expect(lines.length).toBeLessThan(30)
    const counted = lines.filter(({ msg }) => msg === 'client connected')
    expect(counted.reduce((sum, { count = 1 }) => sum + (count as number), 0)).toBe(60 * 2800)
    expect(counted[0]).not.toHaveProperty('count')
  })

  test('lines about thousands of new clients are summed up by address [field-D24]', () => {
    const detach = attach('info')
    for (let second = 0; second < 100; second++) {
      for (let i = 0; i < 1000; i++) {
        const client = { clientId: `${second}-${i}`, userName: null, protocolVersion: 4 as const, link: LINK }
        events.emit('connected', { client, sessionPresent: false, cleanStart: true, keepAliveSeconds: 0 })
      }
      pass(1000)
    }
    detach()
    // A hundred seconds' worth at once, and ten a second.
    expect(lines.length).toBeLessThan(2200)
    expect(lines.reduce((sum, { count = 1 }) => sum + (count as number), 0)).toBe(100_000)
    expect(lines.at(-1)).toMatchObject({ msg: expect.stringMatching(/^client connected/) })
  })

  test('noise of one kind leaves the lines of another alone [field-D24]', () => {
    const detach = attach('info')
    for (let i = 0; i < 10_000; i++) refuse(`client-${i}`)
    drop('slow')
    events.emit('limited', { limit: 'disk', clientId: 'c', detail: 'nearly full' })
    expect(lines.slice(-2)).toMatchObject([{ msg: 'messages dropped' }, { limit: 'disk' }])
    detach()
  })

  test('a refused Subscription to a queue is told with the reason, an ordinary one is not', () => {
    const detach = attach('warn')
    const client = { clientId: 'c' } as ClientView
    events.emit('subscribed', { client, filter: '$queue/+', reasonCode: 0x8f, reason: 'no wildcard' })
    events.emit('subscribed', { client, filter: 'a', reasonCode: 0x97 })
    // A limit has its own line.
    const limit = 'queueConsumersMax'
    events.emit('subscribed', { client, filter: '$queue/jobs', reasonCode: 0x97, reason: 'full', limit })
    expect(lines).toMatchObject([
      { level: 'warn', clientId: 'c', filter: '$queue/+', reasonCode: '0x8F', reason: 'no wildcard' },
    ])
    expect(lines).toHaveLength(1)
    detach()
    expect(events.has('subscribed')).toBe(false)
  })

  test('a takeover names both addresses, a shared Client Identifier gets advice [field-D24]', () => {
    const detach = attach('info')
    const links = [LINK, { ...LINK, remoteAddress: '192.0.2.9', remotePort: 99 }] as const
    for (let i = 0; i < 40; i++) {
      const [link, takenOverBy] = [links[i % 2]!, links[(i + 1) % 2]!]
      const end = { clientId: 'plant', link, reasonCode: 0x8e, reason: 'taken over', by: 'server' as const }
      events.emit('disconnected', { ...end, takenOverBy })
      pass(1000)
    }
    detach()
    expect(lines[0]).toMatchObject({ remoteAddress: '192.0.2.7', takenOverBy: '192.0.2.9 port 99' })
    const hints = lines.filter(({ level }) => level === 'warn')
    expect(hints[0]).toMatchObject({
      clientId: 'plant',
      from: '192.0.2.7, 192.0.2.9',
      msg: expect.stringContaining('give each device its own'),
    })
    expect(hints.length).toBeLessThanOrEqual(5)
  })

  test('a client that comes back now and then is not reported as shared [field-D24]', () => {
    const detach = attach('info')
    const end = { clientId: 'c', link: LINK, reasonCode: 0x8e, reason: 'taken over', by: 'server' as const }
    for (let i = 0; i < 10; i++) {
      events.emit('disconnected', { ...end, takenOverBy: LINK })
      pass(30_000)
    }
    detach()
    expect(lines.filter(({ level }) => level === 'warn')).toEqual([])
  })

  test('a new level takes effect while the broker runs [field-D25]', () => {
    const output = { write: (line: string) => lines.push(JSON.parse(line)) }
    const logger = createLogger('warn', 'json', output)
    const detach = attachLog(events, logger, () => now)
    expect(events.has('packet')).toBe(false)
    logger.level = 'trace'
    expect(events.has('packet')).toBe(true)
    events.emit('sessionCreated', { clientId: 'c', persistent: true })
    logger.level = 'debug'
    expect(events.has('packet')).toBe(false)
    detach()
    logger.level = 'trace'
    expect(events.has('packet')).toBe(false)
    expect(lines).toMatchObject([{ level: 'debug', msg: 'session created' }])
  })

  test('a Client Identifier cannot forge a line', () => {
    const detach = attach('info')
    refuse('a\nlevel=fatal \u202e\u0000')
    expect(lines[0]).toMatchObject({ clientId: 'a\\u{a}level=fatal \\u{202e}\\u{0}' })
    detach()
  })

  test('a failure of the store is an error, and its end is logged', () => {
    const detach = attach('info')
    events.emit('storeFailed', { error: new Error('disk on fire') })
    events.emit('storeRecovered', { sessions: 3 })
    events.emit('limited', { limit: 'disk', clientId: 'c', detail: 'nearly full' })
    expect(lines).toMatchObject([
      { level: 'error', err: { message: 'disk on fire' } },
      { level: 'info', sessions: 3 },
      { level: 'error', limit: 'disk', detail: 'nearly full' },
    ])
    detach()
  })
})

test('a change of the wall clock is logged, and repeated changes are counted', () => {
  const detach = attach('info')
  for (let count = 0; count < 100; count++) events.emit('clock', { what: 'stepped', ms: 5000 })
  events.emit('clock', { what: 'corrected', ms: 172_800_000 })
  expect(lines.length).toBeLessThan(20)
  expect(lines[0]).toMatchObject({ level: 'warn', seconds: 5 })
  expect(lines.at(-1)).toMatchObject({ level: 'warn', seconds: 172_800 })
  detach()
})

test('a nearly full disk is logged once, and so is its end', () => {
  const detach = attach('info')
  const detail = 'disk nearly full: 12 MiB free on /data, reserve is 64 MiB'
  events.emit('health', { state: 'refusing', detail, before: 'ok' })
  events.emit('health', { state: 'ok', detail: '', before: 'refusing' })
  // The events of the store tell of these.
  events.emit('health', { state: 'recovering', detail: 'reading', before: 'ok' })
  events.emit('health', { state: 'ok', detail: '', before: 'recovering' })
  expect(lines).toMatchObject([
    { level: 'warn', msg: 'new messages and Sessions are refused', detail },
    { level: 'info', msg: 'new messages and Sessions are accepted again' },
  ])
  detach()
})

test('short memory is logged once, with the limited clients and the steps', () => {
  const detach = attach('info')
  const detail = '90 MiB are in memory; those who hold most pay: idle with 80 MiB'
  events.emit('health', { state: 'pressed', detail, before: 'ok' })
  const means = 'nothing is read from it until there is room; limits.memory_bytes_max is 100 MiB'
  const paid = { clientId: 'idle', userName: 'ada', of: 'memory', bytes: 80_000_000, detail: means } as const
  events.emit('relieved', { ...paid, step: 'paused' })
  for (let count = 0; count < 100; count++) events.emit('relieved', { ...paid, step: 'capped' })
  events.emit('health', { state: 'ok', detail: '', before: 'pressed' })
  expect(lines).toMatchObject([
    { level: 'warn', msg: 'memory or disk is short: the largest users are limited', detail },
    {
      level: 'warn',
      msg: 'a client is limited because it uses the most memory or disk',
      ...paid,
      step: 'paused',
    },
    {
      level: 'warn',
      msg: 'a client is limited because it uses the most memory or disk',
      ...paid,
      step: 'capped',
    },
    { level: 'info', msg: 'memory and disk are no longer short' },
  ])
  detach()
})

test('going from refusing to pressed means that messages are accepted again', () => {
  const detach = attach('info')
  events.emit('health', { state: 'pressed', detail: 'those who hold most pay', before: 'refusing' })
  expect(lines.map(({ msg }) => msg)).toContain('new messages and Sessions are accepted again')
  detach()
})

describe('lines for people', () => {
  test('have time, level, text and what belongs to it', () => {
    const line = JSON.stringify({
      level: 'warn',
      time: '2026-03-07T12:34:56.789Z',
      clientId: 'two words',
      count: 3,
      listener: 'mqtt',
      msg: 'messages dropped',
    })
    expect(prettyLine(line)).toBe(
      '12:34:56 warn  messages dropped clientId="two words" count=3 listener=mqtt\n',
    )
  })

  test('printable cuts off long texts', () => {
    expect(printable('x'.repeat(65_535)).length).toBe(257)
    expect(printable('Wohnzimmer/Licht äöü 🙂')).toBe('Wohnzimmer/Licht äöü 🙂')
  })
})

describe('a rule that the listener tolerates', () => {
  const forgive = (clientId: string, rule: 'dup-on-qos-0' | 'header-flags' = 'dup-on-qos-0') =>
    events.emit('forgiven', { client: { clientId, userName: null, protocolVersion: 4, link: LINK }, rule })

  test('is logged once per client and rule, however often the client comes back', () => {
    const detach = attach('warn')
    for (let times = 0; times < 3; times++) {
      forgive('old\u0007device')
      forgive('other')
      forgive('other', 'header-flags')
      pass(60_000)
    }
    expect(lines.map(({ clientId, rule }) => [clientId, rule])).toEqual([
      [printable('old\u0007device'), 'dup-on-qos-0'],
      ['other', 'dup-on-qos-0'],
      ['other', 'header-flags'],
    ])
    detach()
  })

  test('is remembered for a bounded number of clients', () => {
    const detach = attach('warn', Number.POSITIVE_INFINITY)
    for (let number = 0; number < 10_000; number++) forgive(`c${number}`)
    forgive('c0')
    expect(lines.length).toBe(10_000)
    forgive('one more')
    forgive('c0')
    forgive('c2')
    expect(lines.slice(10_000).map(({ clientId }) => clientId)).toEqual(['one more', 'c0'])
    detach()
  })
})
