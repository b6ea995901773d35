import { readFileSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import {
  connectAsync,
  type IClientOptions,
  type IConnackPacket,
  type IDisconnectPacket,
  type IPublishPacket,
  MqttClient,
} from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { BrokerProcess, CERTIFICATES, cleanUp, Program, ROOT, temporaryDirectory } from './process.ts'

const ca = readFileSync(join(CERTIFICATES, 'ca.pem'))
const certificate = (name: string): string => join(CERTIFICATES, `${name}.pem`)

const clients: MqttClient[] = []

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.endAsync(true)))
  await cleanUp()
})

async function connected(url: string, options: IClientOptions): Promise<MqttClient> {
  const client = await connectAsync(url, { reconnectPeriod: 0, ...options }, false)
  clients.push(client)
  return client
}

/** The CONNACK of a client that is connecting. */
function accepted(client: MqttClient): Promise<IConnackPacket> {
  return new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject))
}

/** The next `count` messages. */
function messages(client: MqttClient, count: number): Promise<IPublishPacket[]> {
  const got: IPublishPacket[] = []
  return new Promise((resolve) => {
    client.on('message', (_topic, _payload, packet) => {
      got.push(packet)
      if (got.length === count) resolve(got)
    })
  })
}

/** A broker that listens in every way; resolves with the URL of each. */
async function everyListener(): Promise<Record<'mqtt' | 'mqtts' | 'ws' | 'wss' | 'unix', string>> {
  const socket = join(await temporaryDirectory(), 'mqtt.sock')
  const tls = `tls: { cert: "${certificate('server')}", key: "${certificate('server-key')}" }`
  const listeners = [
    '{ name: a, type: tcp, port: 0 }',
    `{ name: b, type: tls, port: 0, ${tls} }`,
    '{ name: c, type: ws, port: 0 }',
    `{ name: d, type: wss, port: 0, ${tls} }`,
    `{ name: e, type: unix, path: "${socket}" }`,
  ]
  const program = new Program(process.execPath, [
    join(ROOT, 'dist', 'main.js'),
    ...['--data', await temporaryDirectory()],
    ...['--set', `listeners=[${listeners.join(', ')}]`],
  ])
  await program.until((stdout) => /^godwit try/m.test(stdout))
  const url = (scheme: string): string =>
    new RegExp(`listening on (${scheme}:\\S+)`).exec(program.stdout)![1]!
  return { mqtt: url('mqtt'), mqtts: url('mqtts'), ws: url('ws'), wss: url('wss'), unix: socket }
}

const DIALECTS: readonly [string, IClientOptions][] = [
  ['3.1', { protocolVersion: 3, protocolId: 'MQIsdp' }],
  ['3.1.1', { protocolVersion: 4 }],
  ['5.0', { protocolVersion: 5 }],
]

describe.each(['mqtt', 'mqtts', 'ws', 'wss'] as const)('MQTT.js over %s', (scheme) => {
  test.each(DIALECTS)('MQTT %s: every QoS, and a payload larger than a buffer', async (_, dialect) => {
    const url = (await everyListener())[scheme]
    const subscriber = await connected(url, { ...dialect, ca })
    const publisher = await connected(url, { ...dialect, ca })
    await subscriber.subscribeAsync('data/#', { qos: 2 })
    const arriving = messages(subscriber, 4)
    const large = Buffer.alloc(3 * 1024 * 1024, 'godwit ')
    for (const qos of [0, 1, 2] as const) await publisher.publishAsync(`data/${qos}`, `at ${qos}`, { qos })
    await publisher.publishAsync('data/large', large, { qos: 1 })
    // MQTT.js hands a QoS 2 message over once PUBREL came: another topic's may overtake it.
    const got = (await arriving).sort((a, b) => (a.topic < b.topic ? -1 : 1))
    expect(got.map(({ topic, qos }) => [topic, qos])).toEqual([
      ['data/0', 0],
      ['data/1', 1],
      ['data/2', 2],
      ['data/large', 1],
    ])
    expect(got.slice(0, 3).map(({ payload }) => payload.toString())).toEqual(['at 0', 'at 1', 'at 2'])
    expect(large.equals(got[3]!.payload as Buffer)).toBe(true)
  })
})

test('MQTT.js over a unix socket', async () => {
  const { unix } = await everyListener()
  const client = new MqttClient(() => connectSocket(unix), { reconnectPeriod: 0 })
  clients.push(client)
  await accepted(client)
  await client.subscribeAsync('local')
  const arriving = messages(client, 1)
  await client.publishAsync('local', 'hi')
  expect((await arriving)[0]!.payload.toString()).toBe('hi')
})

test('a certificate that the client does not trust is an error on its side, and harms nobody', async () => {
  const { mqtts } = await everyListener()
  await expect(connected(mqtts, {})).rejects.toThrow(/certificate/)
  expect((await connected(mqtts, { ca })).connected).toBe(true)
})

describe('MQTT.js 5.0', () => {
  const V5 = { protocolVersion: 5 } as const

  test('CONNACK tells the Server’s abilities; a missing Client Identifier is assigned', async () => {
    const broker = await BrokerProcess.start()
    const client = new MqttClient(() => connectSocket(broker.port, '127.0.0.1'), {
      ...V5,
      clientId: '',
      reconnectPeriod: 0,
    })
    clients.push(client)
    const connack = await accepted(client)
    expect(connack.reasonCode).toBe(0)
    expect(connack.sessionPresent).toBe(false)
    expect(connack.properties?.assignedClientIdentifier).toMatch(/.{10,}/)
    expect(connack.properties?.topicAliasMaximum).toBe(64)
  })

  test('request and response, with User Properties in order', async () => {
    const broker = await BrokerProcess.start()
    const url = `mqtt://127.0.0.1:${broker.port}`
    const [asking, answering] = [await connected(url, V5), await connected(url, V5)]
    await answering.subscribeAsync('question', { qos: 1 })
    answering.on('message', (_topic, payload, { properties }) => {
      answering.publish(properties!.responseTopic!, payload, {
        qos: 1,
        properties: {
          correlationData: properties!.correlationData!,
          userProperties: properties!.userProperties!,
        },
      })
    })
    await asking.subscribeAsync('answer', { qos: 1 })
    const arriving = messages(asking, 1)
    await asking.publishAsync('question', 'ping', {
      qos: 1,
      properties: {
        responseTopic: 'answer',
        correlationData: Buffer.from([0, 1, 255]),
        userProperties: { name: ['first', 'second'] },
      },
    })
    const [answer] = await arriving
    expect(answer!.properties?.correlationData).toEqual(Buffer.from([0, 1, 255]))
    expect(answer!.properties?.userProperties).toEqual({ name: ['first', 'second'] })
  })

  test('Subscription Identifiers, No Local and Retain As Published', async () => {
    const broker = await BrokerProcess.start()
    const url = `mqtt://127.0.0.1:${broker.port}`
    const [one, other] = [await connected(url, V5), await connected(url, V5)]
    await one.subscribeAsync('a/#', { qos: 1, rap: true, properties: { subscriptionIdentifier: 7 } })
    await one.subscribeAsync('a/+', { qos: 2, nl: true, properties: { subscriptionIdentifier: 8 } })
    const arriving = messages(one, 2)
    await one.publishAsync('a/own', 'x', { qos: 2 })
    await other.publishAsync('a/other', 'y', { qos: 2, retain: true })
    const got = (await arriving).map(({ topic, qos, retain, properties }) => ({
      topic,
      qos,
      retain,
      identifiers: [properties!.subscriptionIdentifier].flat().sort(),
    }))
    expect(got).toEqual([
      { topic: 'a/own', qos: 1, retain: false, identifiers: [7] },
      { topic: 'a/other', qos: 2, retain: true, identifiers: [7, 8] },
    ])
  })

  test('a second connection with the Client Identifier takes over, and the first gets 0x8E', async () => {
    const broker = await BrokerProcess.start()
    const url = `mqtt://127.0.0.1:${broker.port}`
    const first = await connected(url, { ...V5, clientId: 'twin' })
    const disconnected = new Promise<IDisconnectPacket>((resolve) => first.once('disconnect', resolve))
    const second = await connected(url, { ...V5, clientId: 'twin' })
    expect((await disconnected).reasonCode).toBe(0x8e)
    expect(second.connected).toBe(true)
  })

  test('a Session with an expiry lives on; one without ends with its connection', async () => {
    const broker = await BrokerProcess.start()
    const url = `mqtt://127.0.0.1:${broker.port}`
    for (const [sessionExpiryInterval, present] of [
      [3600, true],
      [0, false],
    ] as const) {
      const options = { ...V5, clientId: `s${sessionExpiryInterval}`, clean: false }
      const first = await connected(url, { ...options, properties: { sessionExpiryInterval } })
      await first.subscribeAsync('x', { qos: 1 })
      await first.endAsync()
      const second = new MqttClient(() => connectSocket(broker.port, '127.0.0.1'), {
        ...options,
        reconnectPeriod: 0,
      })
      clients.push(second)
      const connack = await accepted(second)
      expect(connack.sessionPresent).toBe(present)
    }
  })
})
