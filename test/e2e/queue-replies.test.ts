/** Examples 30 and 33 of queues with programs that know nothing of queues. */
import { connectAsync, type IPublishPacket, type MqttClient } from 'mqtt'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, MosquittoSub, mosquittoPub, output } from './process.ts'

const clients: MqttClient[] = []

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.endAsync(true)))
  await cleanUp()
})

/** Answers each message of `$queue/jobs` with `pong`, to its Response Topic. */
async function respond(port: number): Promise<void> {
  const responder = await connectAsync(`mqtt://127.0.0.1:${port}`, {
    protocolVersion: 5,
    clientId: 'responder',
  })
  clients.push(responder)
  responder.on('message', (_topic, _payload, { properties }: IPublishPacket) => {
    const { responseTopic, correlationData } = properties ?? {}
    if (responseTopic === undefined) return
    const own = correlationData === undefined ? {} : { correlationData }
    responder.publish(responseTopic, 'pong', { qos: 1, properties: own })
  })
  await responder.subscribeAsync('$queue/jobs', { qos: 1 })
}

test('30: a requester asks, goes, and comes back for its reply after a crash', async () => {
  const broker = await BrokerProcess.start()
  const url = `mqtt://127.0.0.1:${broker.port}`
  const options = {
    protocolVersion: 5,
    clientId: 'r1',
    clean: false,
    reconnectPeriod: 0,
    properties: { requestResponseInformation: true, sessionExpiryInterval: 3600 },
  } as const
  const requester = await connectAsync(url, options)
  clients.push(requester)
  const said = new Promise<string | undefined>((resolve) => {
    requester.once('connect', ({ properties }) => resolve(properties?.responseInformation))
  })
  const properties = { responseTopic: '$queue/reply.r1', correlationData: Buffer.from('17') }
  await requester.publishAsync('$queue/jobs', 'ping', { qos: 1, properties })
  await requester.endAsync()
  await broker.crash()
  await broker.restart()
  await respond(broker.port)
  const got: IPublishPacket[] = []
  requester.on('message', (_topic, _payload, packet) => got.push(packet))
  requester.reconnect()
  expect(await said).toBe('$queue/reply.r1')
  await requester.subscribeAsync('$queue/reply.r1', { qos: 1 })
  await expect.poll(() => got.length, { timeout: 60_000 }).toBe(1)
  expect(got[0]).toMatchObject({ topic: '$queue/reply.r1', payload: Buffer.from('pong') })
  expect(got[0]!.properties!.correlationData!.toString()).toBe('17')
})

test('30: mosquitto_rr asks a queue, and gets its reply from one', async () => {
  const broker = await BrokerProcess.start()
  await respond(broker.port)
  const words = ['-t', '$queue/jobs', '-e', '$queue/reply.x', '-m', 'ping', '-q', '1', '-W', '60']
  const said = await output('mosquitto_rr', '-p', `${broker.port}`, '-i', 'x', '-V', '5', ...words)
  expect(said.trim()).toBe('pong')
})

test('33: what mosquitto_pub publishes again with its message-id is taken once', async () => {
  const broker = await BrokerProcess.start()
  const withId = (id: string): Promise<unknown> =>
    mosquittoPub(
      ...([broker.port, '-V', '5', '-t', '$queue/pay', '-q', '1', '-m', id] as const),
      ...['-D', 'publish', 'user-property', 'message-id', id],
    )
  await withId('u1')
  await broker.crash()
  await broker.restart()
  await withId('u1')
  await withId('u2')
  const args = ['-t', '$queue/pay', '-q', '1', '-C', '2']
  const sub = await MosquittoSub.start(broker.port, args, '%p')
  expect((await sub.ended).code).toBe(0)
  expect(sub.messages).toEqual(['u1', 'u2'])
  const shown = JSON.parse(
    await output(process.execPath, MAIN, 'queue', 'show', 'pay', '--json', '--data', broker.data),
  )
  expect(shown.counters).toMatchObject({ in: 1, ids: { duplicate: 1 } })
})
