import { connect, connectAsync, type IClientOptions, type MqttClient } from 'mqtt'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { flood } from './flood.ts'
import { BrokerProcess, cleanUp } from './process.ts'

const SESSION: IClientOptions = { clientId: 'subscriber', clean: false, reconnectPeriod: 0 }

const seed = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

let subscriber: MqttClient | undefined
let publisher: MqttClient | undefined

beforeEach(() => console.log(`GODWIT_TEST_SEED=${seed}`))

afterEach(async () => {
  await subscriber?.endAsync(true)
  await publisher?.endAsync(true)
  publisher = undefined
  await cleanUp()
})

interface Arrival {
  readonly number: number
  readonly dup: boolean
}

/** Takes up the Session; what arrives goes into `arrivals`. Resolves at CONNACK. */
function takeUp(port: number, options: IClientOptions, arrivals: Arrival[]): Promise<MqttClient> {
  const client = connect(`mqtt://127.0.0.1:${port}`, { ...SESSION, ...options })
  client.on('message', (_topic, payload, { dup }) => arrivals.push({ number: Number(payload), dup }))
  return new Promise((resolve, reject) => {
    client.once('connect', () => resolve(client))
    client.on('error', reject)
  })
}

/** A Session that subscribed and left. */
async function leaveSession(broker: BrokerProcess, options: IClientOptions): Promise<void> {
  subscriber = await takeUp(broker.port, options, [])
  await subscriber.subscribeAsync('numbers', { qos: 1 })
  await subscriber.endAsync()
}

const V5: IClientOptions = { protocolVersion: 5, properties: { sessionExpiryInterval: 86_400 } }

describe('acknowledged messages are kept', () => {
  test.each([
    ['fsync', '3.1.1', 100_000, { protocolVersion: 4 }],
    ['os', '5.0', 20_000, V5],
  ] as const)(
    'durability %s: SIGKILL in a flood and after it loses nothing, MQTT %s, %i messages',
    async (durability, _version, count, options) => {
      const broker = await BrokerProcess.start({ words: ['--durability', durability] })
      await leaveSession(broker, options)

      const killAt = Math.floor(count * 0.3) + (seed % Math.floor(count * 0.4))
      let crashed: Promise<void> | undefined
      const acknowledged = await flood({
        port: broker.port,
        topic: 'numbers',
        from: 0,
        to: count,
        progress: (next) => {
          if (next === killAt) crashed = broker.crash()
        },
      })
      await crashed
      expect(acknowledged).toBeGreaterThanOrEqual(killAt)
      expect(acknowledged).toBeLessThan(count)

      await broker.restart()
      // Unacknowledged messages are published again, as a publisher does.
      const rest = await flood({ port: broker.port, topic: 'numbers', from: acknowledged, to: count })
      expect(rest).toBe(count)
      await broker.crash()
      await broker.restart()

      const arrivals: Arrival[] = []
      subscriber = await takeUp(broker.port, options, arrivals)
      await expect.poll(() => arrivals.at(-1)?.number, { timeout: 100_000 }).toBe(count - 1)
      const numbers = arrivals.map(({ number }) => number)
      // Stored before the kill: all that was acknowledged, and perhaps some more, which then come twice.
      const before = numbers.length - (count - acknowledged)
      expect(before).toBeGreaterThanOrEqual(acknowledged)
      expect(numbers.slice(0, before)).toEqual(range(0, before))
      expect(numbers.slice(before)).toEqual(range(acknowledged, count))
    },
  )

  test('SIGKILL while a Session is drained: all arrives in order, and repetitions have DUP', async () => {
    const count = 20_000
    const broker = await BrokerProcess.start()
    await leaveSession(broker, V5)
    expect(await flood({ port: broker.port, topic: 'numbers', from: 0, to: count })).toBe(count)

    const first: Arrival[] = []
    subscriber = await takeUp(broker.port, V5, first)
    await expect.poll(() => first.length, { timeout: 100_000, interval: 1 }).toBeGreaterThan(100)
    await broker.crash()
    await subscriber.endAsync(true)
    await broker.restart()

    const second: Arrival[] = []
    subscriber = await takeUp(broker.port, V5, second)
    await expect.poll(() => second.at(-1)?.number, { timeout: 100_000 }).toBe(count - 1)
    const resumedAt = second[0]!.number
    expect(first.map(({ number }) => number)).toEqual(range(0, first.length))
    expect(resumedAt).toBeLessThanOrEqual(first.length)
    expect(second.map(({ number }) => number)).toEqual(range(resumedAt, count))
    const twice = second.filter(({ number }) => number < first.length)
    expect(twice.every(({ dup }) => dup)).toBe(true)
  })

  test('QoS 2, the broker killed again and again: every message arrives once, in order', async () => {
    const [count, kills] = [6_000, 3]
    const broker = await BrokerProcess.start()
    const url = `mqtt://127.0.0.1:${broker.port}`
    const options = { clean: false, reconnectPeriod: 20, protocolVersion: 4 } as const
    const arrived: number[] = []
    subscriber = await connectAsync(url, { ...options, clientId: 'subscriber' })
    subscriber.on('message', (_topic, payload) => arrived.push(Number(payload)))
    await subscriber.subscribeAsync('numbers', { qos: 2 })
    publisher = await connectAsync(url, { ...options, clientId: 'publisher' })
    let completed = 0
    for (let number = 0; number < count; number++) {
      publisher.publish('numbers', String(number), { qos: 2 }, () => completed++)
    }
    for (let kill = 1; kill <= kills; kill++) {
      const killAt = Math.floor((count * kill) / (kills + 1)) + (seed % 500)
      await expect.poll(() => completed, { timeout: 100_000, interval: 1 }).toBeGreaterThan(killAt)
      await broker.crash()
      await broker.restart()
    }
    await expect.poll(() => [completed, arrived.length], { timeout: 100_000 }).toEqual([count, count])
    expect(arrived).toEqual(range(0, count))
  })
})

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i)
}
