import { connectAsync } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MosquittoSub, mosquittoPub, output } from './process.ts'

const VERSIONS = ['mqttv31', 'mqttv311', 'mqttv5'] as const
const QOS = ['0', '1', '2'] as const

const LONG = { timeout: 60_000 }

let broker: BrokerProcess

afterEach(cleanUp)

describe.each(VERSIONS)('mosquitto_sub and mosquitto_pub, -V %s', (version) => {
  const V = ['-V', version]

  test.each(QOS)('a message at QoS %s arrives with topic, QoS and payload', async (qos) => {
    broker = await BrokerProcess.start()
    const sub = await MosquittoSub.start(broker.port, [...V, '-q', qos, '-t', 'plant/+/temperature'])
    await mosquittoPub(broker.port, ...V, '-q', qos, '-t', 'plant/7/temperature', '-m', '21.5 °C')
    expect(await sub.received(1)).toEqual([`plant/7/temperature ${qos} 0 21.5 °C`])
  })

  test('a message goes at the lower QoS of publisher and Subscription', async () => {
    broker = await BrokerProcess.start()
    const sub = await MosquittoSub.start(broker.port, [...V, '-q', '1', '-t', '#'])
    for (const qos of QOS) await mosquittoPub(broker.port, ...V, '-q', qos, '-t', `q/${qos}`, '-m', 'x')
    expect(await sub.received(3)).toEqual(['q/0 0 0 x', 'q/1 1 0 x', 'q/2 1 0 x'])
  })

  test('a retained message reaches newcomers, survives a restart, and can be removed', async () => {
    broker = await BrokerProcess.start()
    await mosquittoPub(broker.port, ...V, '-r', '-q', '1', '-t', 'state/door', '-m', 'open')
    const early = await MosquittoSub.start(broker.port, [...V, '-t', 'state/#'])
    expect(await early.received(1)).toEqual(['state/door 0 1 open'])
    await early.leave()

    await broker.crash()
    await broker.restart()
    const late = await MosquittoSub.start(broker.port, [...V, '-q', '1', '-t', 'state/#'])
    expect(await late.received(1)).toEqual(['state/door 1 1 open'])

    await mosquittoPub(broker.port, ...V, '-r', '-n', '-q', '1', '-t', 'state/door')
    expect(await late.received(2)).toEqual(['state/door 1 1 open', 'state/door 1 0 '])
    const after = await MosquittoSub.start(broker.port, [...V, '-q', '1', '-t', 'state/#', '-t', 'end'])
    await mosquittoPub(broker.port, ...V, '-q', '1', '-t', 'end', '-m', 'x')
    expect(await after.received(1)).toEqual(['end 1 0 x'])
  })

  test('a Will is published when its client vanishes, and not when it leaves', async () => {
    broker = await BrokerProcess.start()
    const watcher = await MosquittoSub.start(broker.port, [...V, '-q', '1', '-t', 'will/#', '-t', 'end'])
    const will = (name: string): string[] => [
      ...V,
      ...['-t', 'nothing', '--will-topic', `will/${name}`, '--will-payload', 'gone', '--will-qos', '1'],
    ]
    const polite = await MosquittoSub.start(broker.port, [...will('polite'), '-E'])
    expect((await polite.ended).code).toBe(0)
    const rude = await MosquittoSub.start(broker.port, will('rude'))
    await rude.vanish()
    expect(await watcher.received(1)).toEqual(['will/rude 1 0 gone'])
    await mosquittoPub(broker.port, ...V, '-q', '1', '-t', 'end', '-m', 'x')
    expect(await watcher.received(2)).toEqual(['will/rude 1 0 gone', 'end 1 0 x'])
  })

  test('a Session (-c) gets messages from its client’s absence, over a crash of the broker', async () => {
    broker = await BrokerProcess.start()
    const session = [...V, '-c', '-i', 'device-1', '-q', '2', '-t', 'orders/#']
    const first = await MosquittoSub.start(broker.port, session)
    await first.leave()
    await mosquittoPub(broker.port, ...V, '-q', '1', '-t', 'orders/1', '-m', 'one')
    await mosquittoPub(broker.port, ...V, '-q', '2', '-t', 'orders/2', '-m', 'two')
    await mosquittoPub(broker.port, ...V, '-q', '0', '-t', 'orders/0', '-m', 'not kept')
    await broker.crash()
    await broker.restart()
    const second = await MosquittoSub.start(broker.port, session)
    await mosquittoPub(broker.port, ...V, '-q', '2', '-t', 'orders/3', '-m', 'three')
    expect(await second.received(3)).toEqual(['orders/1 1 0 one', 'orders/2 2 0 two', 'orders/3 2 0 three'])
  })

  test('members of a Shared Subscription share the work', async () => {
    broker = await BrokerProcess.start()
    const member = [...V, '-q', '1', '-t', '$share/workers/jobs/#']
    const members = [
      await MosquittoSub.start(broker.port, member, '%p'),
      await MosquittoSub.start(broker.port, member, '%p'),
    ]
    const everyone = await MosquittoSub.start(broker.port, [...V, '-q', '1', '-t', 'jobs/#'], '%p')
    const jobs = Array.from({ length: 20 }, (_, i) => `job ${i}`)
    for (const job of jobs) await mosquittoPub(broker.port, ...V, '-q', '1', '-t', 'jobs/x', '-m', job)
    expect(await everyone.received(20)).toEqual(jobs)
    await expect.poll(() => members.flatMap(({ messages }) => messages).length, LONG).toBe(20)
    const got = members.map(({ messages }) => messages)
    expect(got.flat().sort()).toEqual(jobs.toSorted())
    for (const messages of got) expect(messages.length).toBeGreaterThan(0)
  })
})

test.each(VERSIONS)('mosquitto_rr, -V %s: a request gets its response', async (version) => {
  broker = await BrokerProcess.start()
  const responder = await connectAsync(`mqtt://127.0.0.1:${broker.port}`, { protocolVersion: 5 })
  responder.on('message', (_topic, payload, { properties }) => {
    const topic = properties?.responseTopic ?? 'answers'
    const { correlationData } = properties ?? {}
    responder.publish(topic, `${payload} 42`, correlationData && { properties: { correlationData } })
  })
  await responder.subscribeAsync('questions')
  const answer = await output(
    'mosquitto_rr',
    ...['-V', version, '-h', '127.0.0.1', '-p', `${broker.port}`],
    ...['-t', 'questions', '-e', 'answers', '-m', 'the answer is', '-q', '1'],
  )
  expect(answer.trim()).toBe('the answer is 42')
  await responder.endAsync()
})

test('-V mqttv5: properties arrive unaltered', async () => {
  broker = await BrokerProcess.start()
  const V5 = ['-V', 'mqttv5']
  const sub = await MosquittoSub.start(broker.port, [...V5, '-q', '1', '-t', 'p'], '%p %C %D %R %P')
  const property = (...words: string[]): string[] => ['-D', 'publish', ...words]
  await mosquittoPub(
    broker.port,
    ...[...V5, '-q', '1', '-t', 'p', '-m', 'x'],
    ...property('content-type', 'text/plain'),
    ...property('correlation-data', 'c1'),
    ...property('response-topic', 'r'),
    ...property('user-property', 'b', '1'),
    ...property('user-property', 'a', '2'),
    ...property('user-property', 'b', '1'),
  )
  expect(await sub.received(1)).toEqual(['x text/plain c1 r b:1 a:2 b:1'])
})

test('-V mqttv5: DISCONNECT with 0x04 asks for the Will', async () => {
  broker = await BrokerProcess.start()
  const watcher = await MosquittoSub.start(broker.port, ['-t', 'will'])
  const will = ['--will-topic', 'will', '--will-payload', 'interrupted']
  const sub = await MosquittoSub.start(broker.port, ['-V', 'mqttv5', '-t', 'nothing', ...will])
  // A signal makes mosquitto_sub leave with "disconnect with Will Message".
  await sub.leave()
  expect(await watcher.received(1)).toEqual(['will 0 0 interrupted'])
})

test('-V mqttv5: a Topic Alias stands for its topic', async () => {
  broker = await BrokerProcess.start()
  const sub = await MosquittoSub.start(broker.port, ['-V', 'mqttv5', '-q', '1', '-t', 'alias/#'])
  const words = ['-V', 'mqttv5', '-q', '1', '-t', 'alias/long/name', '-D', 'publish', 'topic-alias', '1']
  await mosquittoPub(broker.port, ...words, '-m', 'one', '--repeat', '3')
  expect(await sub.received(3)).toEqual(Array(3).fill('alias/long/name 1 0 one'))
})

test('-V mqttv5: with a Receive Maximum of 1 all messages arrive, one by one and in order', async () => {
  broker = await BrokerProcess.start()
  const words = ['-V', 'mqttv5', '-q', '2', '-t', 'f', '-D', 'connect', 'receive-maximum', '1']
  const sub = await MosquittoSub.start(broker.port, words, '%p')
  const numbers = Array.from({ length: 20 }, (_, number) => `${number}`)
  const publishers = numbers.map(
    (number) => () => mosquittoPub(broker.port, '-q', '2', '-t', 'f', '-m', number),
  )
  for (const publish of publishers) await publish()
  expect(await sub.received(20)).toEqual(numbers)
})

test('$SYS has the version', async () => {
  broker = await BrokerProcess.start()
  const sub = await MosquittoSub.start(broker.port, ['-t', '$SYS/broker/version'], '%t %p')
  const [version] = await sub.received(1)
  expect(version).toMatch(/^\$SYS\/broker\/version godwit version \d+\.\d+\.\d+/)
})
