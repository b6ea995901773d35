import { connect } from 'node:net'
import { connectAsync, type MqttClient } from 'mqtt'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type Broker, createBroker } from '../../src/godwit.ts'
import { packet, uint16 } from '../mqtt/packets.ts'

const INTERVAL_SECONDS = 10

let broker: Broker
let client: MqttClient | undefined
/** The newest value of each topic, and the topics in the order in which values came. */
let values: Map<string, string>
let updates: string[]
let elapsedSeconds: number

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] })
})

afterEach(async () => {
  vi.useRealTimers()
  await client?.endAsync(true)
  client = undefined
  await broker.close()
})

async function start(sysIntervalSeconds: number): Promise<void> {
  values = new Map()
  updates = []
  elapsedSeconds = 0
  broker = await createBroker({ listeners: [{ type: 'tcp', port: 0 }], sysIntervalSeconds })
  broker.subscribe('$SYS/#', ({ topic, payload }) => {
    const name = topic.replace('$SYS/broker/', '')
    values.set(name, payload.toString())
    updates.push(name)
  })
}

/** Time goes on by one interval; resolves when its values have arrived. */
async function interval(): Promise<void> {
  elapsedSeconds += INTERVAL_SECONDS
  vi.advanceTimersByTime(INTERVAL_SECONDS * 1000)
  // The first of an update's values; the others are of the same turn.
  await expect.poll(() => values.get('uptime')).toBe(`${elapsedSeconds} seconds`)
  await new Promise((resolve) => setImmediate(resolve))
}

async function connected(): Promise<MqttClient> {
  const url = `mqtt://127.0.0.1:${broker.listeners[0]!.port}`
  client = await connectAsync(url, { clean: false, clientId: 'sys', reconnectPeriod: 0, keepalive: 0 })
  return client
}

test('values are there from the start, retained', async () => {
  await start(INTERVAL_SECONDS)
  await expect.poll(() => values.get('version')).toMatch(/^godwit version \d+\.\d+\.\d+/)
  expect(values.get('uptime')).toBe('0 seconds')
  expect(values.get('clients/connected')).toBe('0')
})

test('clients and Sessions: connected, disconnected, maximum, total', async () => {
  await start(INTERVAL_SECONDS)
  await connected()
  await interval()
  const names = ['connected', 'active', 'disconnected', 'inactive', 'maximum', 'total']
  const clients = (): (string | undefined)[] => names.map((name) => values.get(`clients/${name}`))
  expect(clients()).toEqual(['1', '1', '0', '0', '1', '1'])
  await client!.endAsync()
  await expect.poll(() => broker.figures.clientsConnected).toBe(0)
  await interval()
  expect(clients()).toEqual(['0', '0', '1', '1', '1', '1'])
})

test('messages of every type, PUBLISH packets, their payload bytes, and the bytes on the wire', async () => {
  await start(INTERVAL_SECONDS)
  const client = await connected()
  await client.subscribeAsync('a', { qos: 0 })
  await client.subscribeAsync('$share/g/b', { qos: 0 })
  const arrived = new Promise((resolve) => client.once('message', resolve))
  await client.publishAsync('a', 'four', { qos: 1 })
  await client.publishAsync('nobody', 'kept', { qos: 1, retain: true })
  await arrived
  await interval()
  const value = (name: string): number => Number(values.get(name))
  expect(value('messages/received')).toBe(5) // CONNECT, two SUBSCRIBEs, two PUBLISHes
  expect(value('messages/sent')).toBe(6) // CONNACK, two SUBACKs, two PUBACKs, PUBLISH
  expect(value('publish/messages/received')).toBe(2)
  expect(value('publish/messages/sent')).toBe(1)
  expect(value('publish/bytes/received')).toBe(8)
  expect(value('publish/bytes/sent')).toBe(4)
  expect(value('bytes/received')).toBeGreaterThan(50)
  expect(value('bytes/sent')).toBeGreaterThan(20)
  expect(value('shared_subscriptions/count')).toBe(1)
  expect(value('retained messages/count')).toBeGreaterThanOrEqual(1)
})

test('messages that wait in Sessions count as stored', async () => {
  await start(INTERVAL_SECONDS)
  await connected()
  await client!.subscribeAsync('a', { qos: 1 })
  await client!.endAsync()
  await interval()
  const before = Number(values.get('store/messages/count'))
  await broker.publish({ topic: 'a', payload: 'x', qos: 1 })
  await interval()
  const retained = Number(values.get('retained messages/count'))
  expect(Number(values.get('store/messages/count'))).toBeGreaterThanOrEqual(before + 1)
  expect(Number(values.get('store/messages/count'))).toBe(retained + 1)
  expect(values.get('messages/stored')).toBe(values.get('store/messages/count'))
})

test('load is a moving average per minute, over 1, 5 and 15 minutes', async () => {
  await start(INTERVAL_SECONDS)
  await connected()
  await interval()
  // One CONNECT in ten seconds is six a minute; an interval weighs 1 - exp(-10/60) of the first average.
  for (const [minutes, weight] of [1, 5, 15].map((m) => [m, 1 - Math.exp(-INTERVAL_SECONDS / (m * 60))])) {
    expect(values.get(`load/connections/${minutes}min`)).toBe((6 * weight!).toFixed(2))
    expect(values.get(`load/sockets/${minutes}min`)).toBe((6 * weight!).toFixed(2))
  }
  const average = Number(values.get('load/connections/1min'))
  await interval()
  expect(Number(values.get('load/connections/1min'))).toBeCloseTo(average * Math.exp(-10 / 60), 1)
})

test('the memory of the process, now and at most', async () => {
  await start(INTERVAL_SECONDS)
  await interval()
  const [current, maximum] = ['heap/current', 'heap/maximum'].map((name) => Number(values.get(name)))
  expect(current).toBeGreaterThan(10_000_000)
  expect(maximum).toBeGreaterThanOrEqual(current! * 0.5)
})

test('only changed values are published again', async () => {
  await start(INTERVAL_SECONDS)
  await expect.poll(() => values.size).toBeGreaterThan(50)
  updates = []
  await interval()
  await interval()
  expect(updates.filter((name) => name === 'uptime')).toHaveLength(2)
  expect(updates).not.toContain('version')
  expect(updates).not.toContain('clients/connected')
})

test('a change of the interval does not restart the uptime', async () => {
  await start(INTERVAL_SECONDS)
  await interval()
  values.clear()
  await broker.reconfigure({ sysIntervalSeconds: 2 * INTERVAL_SECONDS })
  await expect.poll(() => values.get('uptime')).toBe('10 seconds')
})

test.each([0, Number.POSITIVE_INFINITY])('an interval of %d publishes nothing', async (seconds) => {
  await start(seconds)
  vi.advanceTimersByTime(60_000)
  await broker.publish({ topic: '$SYS/end', payload: '' })
  await expect.poll(() => updates).toContain('$SYS/end')
  expect(updates).toEqual(['$SYS/end'])
})

test('the steps of relief are published once there are any', async () => {
  await start(INTERVAL_SECONDS)
  const told = () => [...values].filter(([name]) => name.startsWith('relief/'))
  await interval()
  expect(told()).toEqual([])
  broker.figures.relief.paused = 2
  await interval()
  await expect.poll(told).toEqual([['relief/paused', '2']])
})

test('tolerated violations are published by rule once there are any', async () => {
  values = new Map()
  updates = []
  elapsedSeconds = 0
  const listeners = [{ type: 'tcp', port: 0, lenient: ['dup-on-qos-0'] }] as const
  broker = await createBroker({ listeners, sysIntervalSeconds: INTERVAL_SECONDS })
  broker.subscribe('$SYS/#', ({ topic, payload }) => {
    values.set(topic.replace('$SYS/broker/', ''), payload.toString())
  })
  const forgiven = () => [...values].filter(([name]) => name.startsWith('forgiven/'))
  await interval()
  expect(forgiven()).toEqual([])
  const socket = connect(broker.listeners[0]!.port, '127.0.0.1')
  socket.write(packet(0x10, 'MQTT', 4, 2, uint16(60), 'old'))
  socket.write(packet(0x38, 't', Buffer.from('x')))
  await expect.poll(() => broker.figures.forgiven['dup-on-qos-0']).toBe(1)
  await interval()
  await expect.poll(forgiven).toEqual([['forgiven/dup-on-qos-0', '1']])
  socket.destroy()
})
