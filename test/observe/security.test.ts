import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Events } from '../../src/broker/boundary/events.ts'
import type { LinkInfo } from '../../src/broker/boundary/link.ts'
import type { ClientView } from '../../src/broker/boundary/policy.ts'
import { SECURITY_KINDS } from '../../src/broker/boundary/security.ts'
import { Message, Topic } from '../../src/mqtt/message.ts'
import { createLogger } from '../../src/observe/logger.ts'
import { attachSecurityLog, CLIENT_CODES, KIND_CODES } from '../../src/observe/security.ts'
import { World } from '../broker/harness.ts'

const LINK: LinkInfo = {
  transport: 'tcp',
  listener: 'mqtts',
  remoteAddress: '192.0.2.7',
  remotePort: 4711,
  allowAnonymous: false,
}
const CLIENT: ClientView = { clientId: 'c', userName: 'bo', protocolVersion: 5, link: LINK }
const OPERATING = readFileSync(new URL('../../config/OPERATING.md', import.meta.url), 'utf8')

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

function attach(to = events, beside: 'log' | 'nothing' = 'nothing'): () => void {
  const logger = createLogger('info', 'json', { write: (line: string) => lines.push(JSON.parse(line)) })
  return attachSecurityLog(to, logger, () => now, beside)
}

const codes = (): unknown[] => lines.map(({ security }) => security)

describe('the codes', () => {
  const all = [...Object.values(CLIENT_CODES), ...Object.values(KIND_CODES)]

  test('are unique, and every kind has one', () => {
    expect(new Set(all.map(({ code }) => code)).size).toBe(all.length)
    expect(Object.keys(KIND_CODES).sort()).toEqual([...SECURITY_KINDS].sort())
  })

  test('are documented with their texts, and no others', () => {
    for (const { code, text } of all) expect(OPERATING).toContain(`| ${code} | ${text} |`)
    const documented = [...OPERATING.matchAll(/^\| (S\d{3}) \|/gm)].map(([, code]) => code)
    expect(documented.sort()).toEqual(all.map(({ code }) => code).sort())
  })
})

test('a log-in has client, user and address', () => {
  attach()
  events.emit('connected', { client: CLIENT, sessionPresent: false, cleanStart: true, keepAliveSeconds: 0 })
  expect(lines).toMatchObject([
    {
      level: 'info',
      security: 'S101',
      clientId: 'c',
      userName: 'bo',
      listener: 'mqtts',
      remoteAddress: '192.0.2.7',
      msg: 'login',
    },
  ])
})

test('refused log-ins and other refused connections have different codes', () => {
  attach()
  const refuse = (reasonCode: number, userName?: string) =>
    events.emit('refused', {
      clientId: 'c',
      link: LINK,
      reasonCode,
      reason: 'no',
      ...(userName !== undefined && { userName }),
    })
  refuse(0x86, 'ro\not')
  refuse(0x97)
  expect(lines).toMatchObject([
    { level: 'warn', security: 'S102', userName: 'ro\\u{a}ot', reasonCode: '0x86' },
    { level: 'warn', security: 'S103', reasonCode: '0x97' },
  ])
})

test('guessing passwords does not fill the log', () => {
  const detach = attach()
  for (let guess = 0; guess < 5000; guess++) {
    const clientId = `c${guess % 2}`
    events.emit('refused', { clientId, link: LINK, reasonCode: 0x86, reason: 'no', userName: 'root' })
  }
  expect(lines).toHaveLength(2)
  now += 10_000
  vi.advanceTimersByTime(1000)
  expect(lines).toHaveLength(4)
  expect(lines.slice(2).map(({ count }) => count)).toEqual([2499, 2499])
  detach()
})

test('each change is logged with its author', () => {
  attach()
  for (let index = 0; index < 2; index++) {
    events.emit('security', { kind: 'role-granted', subject: 'bo', by: 'root', detail: 'role admin' })
  }
  expect(lines).toMatchObject([
    { level: 'info', security: 'S314', subject: 'bo', by: 'root', detail: 'role admin', msg: 'role granted' },
    { security: 'S314' },
  ])
})

test('denied publishes and subscriptions are logged, other losses are not', () => {
  attach()
  const fields = {
    topic: new Topic('a'),
    payload: Buffer.alloc(0),
    qos: 0,
    retain: false,
    publisher: 'c',
  } as const
  const message = Message.of(fields)
  events.emit('dropped', { clientId: 'c', reason: 'not-authorized', message })
  events.emit('dropped', { clientId: 'c', reason: 'queue-full', message })
  events.emit('dropped', { clientId: 'other', reason: 'not-authorized', message })
  events.emit('subscribed', { client: CLIENT, filter: 'a/#', reasonCode: 0x87 })
  events.emit('subscribed', { client: CLIENT, filter: 'b/#', reasonCode: 1 })
  expect(lines).toMatchObject([
    { security: 'S201', clientId: 'c', topicName: 'a' },
    { security: 'S204', clientId: 'other', topicName: 'a' },
    { security: 'S202', clientId: 'c', userName: 'bo', topicFilter: 'a/#' },
  ])
})

test("in the broker's log it does not repeat log-ins, and it ends with the log", () => {
  const detach = attach(events, 'log')
  events.emit('connected', { client: CLIENT, sessionPresent: false, cleanStart: true, keepAliveSeconds: 0 })
  events.emit('refused', { clientId: 'c', link: LINK, reasonCode: 0x86, reason: 'no' })
  events.emit('security', { kind: 'user-added', subject: 'bo', by: 'root', detail: '' })
  expect(codes()).toEqual(['S301'])
  detach()
  for (const name of ['connected', 'refused', 'subscribed', 'dropped', 'security'] as const) {
    expect(events.has(name)).toBe(false)
  }
})

test("a request for another user's Session is logged with its owner, never with a password", async () => {
  vi.useRealTimers()
  const world = await World.make({
    policy: { authenticate: ({ userName = null }) => ({ allow: true, userName }) },
  })
  attach(world.server.state.events)
  await world.connect('c', { username: 'bo', password: Buffer.from('secret-1'), clean: false })
  await world.connect('c', { username: 'eve', password: Buffer.from('secret-2') })
  expect(lines).toMatchObject([
    { security: 'S101', userName: 'bo' },
    { security: 'S104', subject: 'c', by: 'eve', detail: 'the Session belongs to bo' },
    { security: 'S102', clientId: 'c', userName: 'eve', reasonCode: '0x87' },
  ])
  expect(JSON.stringify(lines)).not.toContain('secret')
})

test('a change of rights is logged for each Subscription, within the bound of its kind [field-D24]', () => {
  const detach = attach()
  const change = (kind: 'subscription-stopped' | 'subscription-resumed', devices: number) => {
    for (let device = 0; device < devices; device++) {
      for (const filter of ['a', 'b']) {
        events.emit('security', {
          kind,
          subject: `device-${device}`,
          by: 'broker',
          detail: `${filter}, of user u`,
        })
      }
    }
  }
  change('subscription-stopped', 200)
  expect(new Set(lines.map(({ subject, detail }) => `${subject} ${detail}`)).size).toBe(400)
  lines = []
  change('subscription-resumed', 5000)
  expect(lines).toHaveLength(1000)
  detach()
  expect(lines.reduce((sum, { count }) => sum + Number(count), 0)).toBe(10_000)
})
