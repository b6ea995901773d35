/** Queues with clients that know nothing of them: the examples of the specification, by their numbers. */
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connectAsync, type IPublishPacket, type MqttClient } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import {
  BrokerProcess,
  cleanUp,
  MAIN,
  MosquittoSub,
  mosquittoPub,
  output,
  Program,
  temporaryDirectory,
} from './process.ts'

const SLOW = join(dirname(fileURLToPath(import.meta.url)), 'slow-consumer.mjs')

const JOBS = `queues: { declared: [{ name: jobs, filters: ['jobs/#'], passed_over_seconds: 1 }] }\n`

const clients: MqttClient[] = []

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.endAsync(true)))
  await cleanUp()
})

/** A broker with this configuration. */
async function configured(yaml: string): Promise<BrokerProcess> {
  const file = join(await temporaryDirectory(), 'godwit.yaml')
  await writeFile(file, yaml)
  return BrokerProcess.start({ words: ['--config', file] })
}

/** Takes `count` messages with `mosquitto_sub`, which then ends. */
async function taken(port: number, filter: string, count: number, ...args: string[]): Promise<string[]> {
  const sub = await MosquittoSub.start(port, ['-t', filter, '-q', '1', '-C', `${count}`, ...args], '%t %p')
  expect((await sub.ended).code).toBe(0)
  return sub.messages
}

describe('queues', () => {
  test('1, 2: hello, over a crash', async () => {
    const broker = await BrokerProcess.start()
    await mosquittoPub(broker.port, '-t', '$queue/hello', '-q', '1', '-m', 'Hello')
    expect(await taken(broker.port, '$queue/hello', 1)).toEqual(['$queue/hello Hello'])
    await mosquittoPub(broker.port, '-t', '$queue/hello', '-q', '1', '-m', 'again')
    await broker.crash()
    await broker.restart()
    expect(await taken(broker.port, '$queue/hello', 1)).toEqual(['$queue/hello again'])
  })

  test('3: a queue that listens is filled before any consumer exists', async () => {
    const broker = await configured(JOBS)
    await mosquittoPub(broker.port, '-t', 'jobs/resize/17', '-q', '1', '-m', 'A')
    await broker.crash()
    await broker.restart()
    await mosquittoPub(broker.port, '-t', 'jobs/mail/3', '-q', '0', '-m', 'B')
    await mosquittoPub(broker.port, '-t', 'other', '-q', '1', '-m', 'C')
    expect(await taken(broker.port, '$queue/jobs/#', 2)).toEqual([
      '$queue/jobs/jobs/resize/17 A',
      '$queue/jobs/jobs/mail/3 B',
    ])
  })

  test('5: two members of the Shared Subscription share what waited', async () => {
    const broker = await configured(JOBS)
    await mosquittoPub(broker.port, '-t', 'jobs/a', '-q', '1', '-m', '1')
    await mosquittoPub(broker.port, '-t', 'jobs/b', '-q', '0', '-m', '2')
    const args = ['-t', '$share/jobs/jobs/#', '-q', '1']
    const members = [await MosquittoSub.start(broker.port, args), await MosquittoSub.start(broker.port, args)]
    await mosquittoPub(broker.port, '-t', 'jobs/c', '-q', '1', '-m', '3')
    const all = (): string[] => members.flatMap(({ messages }) => messages).sort()
    await expect.poll(all).toEqual(['jobs/a 1 0 1', 'jobs/b 0 0 2', 'jobs/c 1 0 3'])
  })

  test('11: the jobs that a killed consumer held go to another, which does all of them once', async () => {
    const broker = await configured(JOBS)
    const slow = new Program(process.execPath, [SLOW, `${broker.port}`, '$queue/jobs/#'])
    await slow.until((stdout) => stdout.includes('subscribed'))
    const numbers = Array.from({ length: 10 }, (_, index) => `${index + 1}`)
    for (const number of numbers) await mosquittoPub(broker.port, '-t', 'jobs/a', '-q', '1', '-m', number)
    await slow.until((stdout) => stdout.includes('> '))
    const held = slow.stdout.split('\n').filter((line) => line.startsWith('> '))
    expect(held.length).toBeLessThanOrEqual(2)
    const got: IPublishPacket[] = []
    const fast = await connectAsync(`mqtt://127.0.0.1:${broker.port}`, { protocolVersion: 5 })
    clients.push(fast)
    fast.on('message', (_topic, _payload, packet) => got.push(packet))
    await fast.subscribeAsync('$queue/jobs/#', { qos: 1 })
    await expect.poll(() => got.length).toBe(10 - held.length)
    await slow.kill()
    await expect.poll(() => got.length).toBe(10)
    const payloads = got.map(({ payload }) => payload.toString())
    expect(payloads.toSorted((a, b) => Number(a) - Number(b))).toEqual(numbers)
    const again = got.filter(({ properties }) => properties?.userProperties?.['x-delivery-count'] === '2')
    expect(again.map(({ payload }) => `> ${payload}`)).toEqual(held)
  })

  test('18: a message that MQTT.js of 3.1.1 skips comes again under a new identifier', async () => {
    const broker = await configured(JOBS)
    for (const payload of ['1', '2', '3']) {
      await mosquittoPub(broker.port, '-t', 'jobs/a', '-q', '1', '-m', payload)
    }
    const got: IPublishPacket[] = []
    const client = await connectAsync(`mqtt://127.0.0.1:${broker.port}`, {
      protocolVersion: 4,
      reconnectPeriod: 0,
    })
    clients.push(client)
    client.on('error', () => {}) // the message that it skips
    client.handleMessage = (packet, callback) => {
      got.push(packet as IPublishPacket)
      const isSkipped = packet.payload.toString() === '2' && got.length <= 3
      if (isSkipped) callback(new Error('cannot do it now'))
      else callback()
    }
    await client.subscribeAsync('$queue/jobs;prefetch=3/#', { qos: 1 })
    await expect.poll(() => got.length).toBe(4)
    expect(got.map(({ payload }) => payload.toString())).toEqual(['1', '2', '3', '2'])
    expect(got[3]).toMatchObject({ dup: false })
    expect(got[3]!.messageId).not.toBe(got[1]!.messageId)
  })

  test('13, 15: what is refused for good is a dead letter, and goes back by `queue replay`', async () => {
    const broker = await configured(
      "queues: { declared: [{ name: jobs, filters: ['jobs/#'], " +
        'delivery_limit: 3, retry_delay_seconds: 0.1 }] }',
    )
    const queue = (...words: string[]): Promise<string> =>
      output(process.execPath, MAIN, 'queue', ...words, '--data', broker.data)
    const show = async (): Promise<unknown> => JSON.parse(await queue('show', 'jobs.dead', '--json')).messages
    const consumer = await connectAsync(`mqtt://127.0.0.1:${broker.port}`, {
      protocolVersion: 5,
      clientId: 'refuser',
      customHandleAcks: (_topic, payload, _packet, done) => done(payload.toString() === 'x' ? 0x80 : 0x99),
    })
    clients.push(consumer)
    await consumer.subscribeAsync('$queue/jobs/#', { qos: 1 })
    await mosquittoPub(broker.port, '-t', 'jobs/a', '-q', '1', '-m', 'not JSON')
    await expect.poll(show).toBe(1)
    const words = ['-t', '$queue/jobs.dead/#', '-q', '1', '-C', '1', '-V', '5', '-F', '%t %P %p']
    const told = await output('mosquitto_sub', '-p', `${broker.port}`, ...words)
    expect(told).toMatch(/^\$queue\/jobs\.dead\/jobs\/a x-death-reason:refused x-death-queue:jobs /)
    expect(told).toMatch(/ x-death-count:1 x-death-code:0x99 x-death-consumer:refuser not JSON\n$/)
    await expect.poll(show).toBe(0)
    await mosquittoPub(broker.port, '-t', 'jobs/a', '-q', '1', '-m', 'x')
    await expect.poll(show).toBe(1)
    expect(await queue('peek', 'jobs.dead')).toContain('jobs/a')
    await queue('pause', 'jobs')
    expect(await queue('replay', 'jobs.dead')).toBe(
      'moved 1 message from jobs.dead back to where they came from\n',
    )
    const [back] = JSON.parse(await queue('peek', 'jobs', '--json')) as {
      failures: number
      topicName: string
    }[]
    expect(back).toMatchObject({ failures: 0, topicName: 'jobs/a' })
    await queue('resume', 'jobs')
    await expect.poll(show).toBe(1)
    const again = await queue('peek', 'jobs.dead', '--json')
    for (const said of ['"delivery-limit"', '"x-death-cycles","2"', '"x-death-count","3"']) {
      expect(again.replaceAll(/\s/g, '')).toContain(said)
    }
  })
})
