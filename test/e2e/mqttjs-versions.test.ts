/** MQTT.js 4 and 5 with every version of the protocol, over TCP and WebSocket. */
import { connect as connect5, type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt'
import { connect as connect4 } from 'mqtt4'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp } from './process.ts'

type Client = Pick<MqttClient, 'subscribeAsync' | 'publishAsync' | 'endAsync' | 'on' | 'once' | 'stream'>

/** MQTT.js 4 has callbacks only. */
function promising(client: ReturnType<typeof connect4>): Client {
  return Object.assign(client, {
    subscribeAsync: (topic: string, options: object) =>
      new Promise((resolve, reject) => {
        client.subscribe(topic, options as never, (error, granted) =>
          error ? reject(error) : resolve(granted),
        )
      }),
    publishAsync: (topic: string, payload: string, options: object) =>
      new Promise((resolve, reject) => {
        client.publish(topic, payload, options, (error, packet) => (error ? reject(error) : resolve(packet)))
      }),
    endAsync: (force = false) => new Promise<void>((resolve) => client.end(force, {}, () => resolve())),
  }) as never
}

type Connect = (url: string, options: IClientOptions) => Client

const LIBRARIES: readonly (readonly [string, Connect])[] = [
  ['MQTT.js 4', (url, options) => promising(connect4(url, options as never))],
  ['MQTT.js 5', (url, options) => connect5(url, options)],
]

const DIALECTS: readonly (readonly [string, IClientOptions])[] = [
  ['3.1', { protocolVersion: 3, protocolId: 'MQIsdp' }],
  ['3.1.1', { protocolVersion: 4 }],
  ['5.0', { protocolVersion: 5 }],
]

const CASES = LIBRARIES.flatMap(([library, connect]) =>
  DIALECTS.map(([version, dialect]) => ({ library, connect, version, dialect })),
)

let broker: BrokerProcess
const clients: Client[] = []

beforeAll(async () => {
  broker = await BrokerProcess.start({ webSocket: true })
})

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.endAsync(true)))
})

afterAll(cleanUp)

describe.each(CASES)('$library, MQTT $version', ({ library, connect, version, dialect }) => {
  const five = dialect.protocolVersion === 5

  /** A connected client; `got` has all its messages from the first packet on. */
  async function connected(options: IClientOptions, scheme: 'mqtt' | 'ws' = 'mqtt') {
    const port = scheme === 'ws' ? `${broker.webSocketPort}/mqtt` : broker.port
    const client = connect(`${scheme}://127.0.0.1:${port}`, { reconnectPeriod: 0, ...dialect, ...options })
    clients.push(client)
    const got: IPublishPacket[] = []
    // The packet's own topic is empty if it has an alias.
    client.on('message', (topic, _payload, packet) => got.push({ ...packet, topic }))
    const connack = await new Promise<{ sessionPresent: boolean }>((resolve, reject) => {
      client.once('connect', resolve)
      client.once('error', reject)
    })
    const payloads = (): string[] => got.map(({ payload }) => payload.toString())
    const has = (count: number) => expect.poll(() => got.length, { timeout: 60_000 }).toBe(count)
    return { client, got, payloads, has, connack }
  }

  const lasting = (clientId: string): IClientOptions => ({
    clientId,
    clean: false,
    ...(five && { properties: { sessionExpiryInterval: 3600 } }),
  })

  test.each(['mqtt', 'ws'] as const)('every QoS and retained messages, over %s', async (scheme) => {
    const { client, got, has } = await connected({}, scheme)
    await client.publishAsync('r/kept', 'kept', { qos: 1, retain: true })
    await client.subscribeAsync('r/#', { qos: 2 })
    for (const qos of [0, 1, 2] as const) await client.publishAsync(`r/${qos}`, `at ${qos}`, { qos })
    await client.publishAsync('r/kept', '', { qos: 1, retain: true })
    await has(5)
    expect(got.map(({ topic, payload, qos, retain }) => [topic, payload.toString(), qos, retain])).toEqual([
      ['r/kept', 'kept', 1, true],
      ['r/0', 'at 0', 0, false],
      ['r/1', 'at 1', 1, false],
      ['r/2', 'at 2', 2, false],
      ['r/kept', '', 1, false],
    ])
  })

  test('a Session gets messages from its client’s absence, in order, once', async () => {
    const first = await connected(lasting(`${library} ${version}`))
    await first.client.subscribeAsync('s/#', { qos: 2 })
    await first.client.endAsync()
    const { client: publisher } = await connected({})
    const numbers = Array.from({ length: 100 }, (_, number) => `${number}`)
    await Promise.all(numbers.map((number) => publisher.publishAsync('s/x', number, { qos: 2 })))
    const again = await connected(lasting(`${library} ${version}`))
    expect(again.connack.sessionPresent).toBe(dialect.protocolVersion !== 3)
    await again.has(100)
    expect(again.payloads()).toEqual(numbers)
  })

  test('a Will is published when its client vanishes', async () => {
    const watcher = await connected({})
    await watcher.client.subscribeAsync('w', { qos: 1 })
    const will = { topic: 'w', payload: Buffer.from('gone'), qos: 1, retain: false } as const
    const doomed = await connected({ will })
    doomed.client.stream.destroy()
    await watcher.has(1)
    expect(watcher.payloads()).toEqual(['gone'])
  })

  test('members of a Shared Subscription share the work', async () => {
    const members = [await connected({}), await connected({})]
    for (const { client } of members) await client.subscribeAsync('$share/g/jobs', { qos: 1 })
    const { client: publisher } = await connected({})
    const jobs = Array.from({ length: 20 }, (_, number) => `job ${number}`)
    for (const job of jobs) await publisher.publishAsync('jobs', job, { qos: 1 })
    await expect.poll(() => members.flatMap(({ got }) => got).length).toBe(20)
    expect(members.flatMap(({ payloads }) => payloads()).sort()).toEqual(jobs.toSorted())
    for (const { got } of members) expect(got.length).toBeGreaterThan(0)
  })

  test('more messages at once than may be in flight all arrive, in order', async () => {
    const sink = await connected(five ? { properties: { receiveMaximum: 3 } } : {})
    await sink.client.subscribeAsync('f', { qos: 2 })
    const { client: source } = await connected({})
    const numbers = Array.from({ length: 500 }, (_, number) => `${number}`)
    await Promise.all(numbers.map((number) => source.publishAsync('f', number, { qos: 2 })))
    await sink.has(500)
    expect(sink.payloads()).toEqual(numbers)
  })

  if (!five) return

  test('Topic Aliases, both ways', async () => {
    const properties = { topicAliasMaximum: 5 }
    const reader = await connected({ ...properties, properties }) // MQTT.js 4 has it as an option of its own
    await reader.client.subscribeAsync('alias/#', { qos: 1 })
    const { client: writer } = await connected({ autoAssignTopicAlias: true })
    const topics = ['alias/one', 'alias/two', 'alias/one', 'alias/two', 'alias/one']
    for (const topic of topics) await writer.publishAsync(topic, topic, { qos: 1 })
    await reader.has(5)
    expect(reader.payloads()).toEqual(topics)
    expect(reader.got.map(({ topic }) => topic)).toEqual(topics)
    const aliases = reader.got.map(({ properties }) => properties?.topicAlias)
    // A topic gets an alias when it comes again.
    expect(aliases).toEqual([undefined, undefined, 1, 2, 1])
  })
})
