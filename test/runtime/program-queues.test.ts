import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import {
  type Broker,
  type BrokerOptions,
  createBroker,
  DeadLetter,
  type QueueMessage,
  QueueRefusal,
} from '../../src/godwit.ts'

const brokers: Broker[] = []
const directories: string[] = []

afterEach(async () => {
  await Promise.all(brokers.splice(0).map((broker) => broker.close({ seconds: 0 })))
  for (const path of directories.splice(0)) rmSync(path, { recursive: true })
})

async function started(options: BrokerOptions = {}): Promise<Broker> {
  const broker = await createBroker(options)
  brokers.push(broker)
  return broker
}

function directory(): string {
  const path = mkdtempSync(join(tmpdir(), 'godwit-program-'))
  directories.push(path)
  return path
}

async function fill(broker: Broker, topic: string, ...payloads: string[]): Promise<void> {
  for (const payload of payloads) await broker.publish({ topic, payload, qos: 1 })
}

/** A promise to be resolved from outside. */
function gate(): { readonly open: () => void; readonly opened: Promise<void> } {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { open, opened }
}

describe('a queue in this process', () => {
  test('is declared, changed, listed, looked into, purged and deleted', async () => {
    const broker = await started()
    const { queues } = broker
    expect(await queues.declare('jobs', { filters: ['jobs/#'] })).toBe(true)
    expect(await queues.declare('jobs', { filters: ['jobs/#'] })).toBe(false)
    await queues.change('jobs', { deliveryLimit: 3 })
    await fill(broker, 'jobs/a', '1', '2')
    expect(queues.list().map(({ name, messages }) => [name, messages])).toEqual([['jobs', 2]])
    expect(queues.stats('jobs')).toMatchObject({
      origin: 'operator',
      ready: 2,
      properties: { deliveryLimit: 3 },
      why: ['2 ready', 'it has no consumer'],
    })
    const [first] = await queues.peek('jobs', { limit: 1 })
    expect([first?.topicName, String(first?.payload)]).toEqual(['jobs/a', '1'])
    expect(await queues.purge('jobs')).toBe(2)
    expect(await queues.delete('jobs')).toBe(0)
    expect(queues.list()).toEqual([])
  })

  test('is refused with a sentence and advice', async () => {
    const { queues } = await started()
    await expect(queues.declare('a/b')).rejects.toThrow(QueueRefusal)
    await expect(queues.declare('jobs', { filter: 'x' } as object)).rejects.toThrow(
      'filter is no property of a queue',
    )
    await expect(queues.declare('jobs', { prefetch: 0 })).rejects.toThrow('prefetch is auto or a whole')
    expect(() => queues.consume('jobs', () => {})).toThrow('there is no queue jobs')
    await queues.declare('jobs')
    expect(() => queues.consume('jobs', () => {}, { prefetch: 0 })).toThrow(RangeError)
  })

  test('is switched off with queues', async () => {
    const { queues } = await started({ queues: { enabled: false } })
    expect(() => queues.list()).toThrow('queues are switched off')
    await expect(queues.purge('jobs')).rejects.toThrow('queues are switched off')
  })

  test('tells what happens to it', async () => {
    const broker = await started()
    const { queues, events } = broker
    const told: string[] = []
    const names = [
      'queueDeclared',
      'queueChanged',
      'queueDeleted',
      'queueDead',
      'queueDropped',
      'consumerJoined',
      'consumerLeft',
    ] as const
    for (const name of names) events.on(name, (event) => told.push(`${name} ${event.queue}`))
    await queues.declare('jobs')
    await queues.change('jobs', { messagesMax: 1, overflow: 'drop-newest' })
    await fill(broker, '$queue/jobs', '1', '2')
    const consumption = queues.consume('jobs', () => {
      throw new DeadLetter('not today')
    })
    await expect.poll(() => told).toContain('queueDead jobs')
    await consumption.stop()
    await queues.delete('jobs')
    expect(told).toEqual([
      'queueDeclared jobs',
      'queueChanged jobs',
      'queueDropped jobs',
      'consumerJoined jobs',
      'queueDeclared jobs.dead',
      'queueDead jobs',
      'consumerLeft jobs',
      'queueDeleted jobs',
    ])
  })
})

describe('a consumer in this process', () => {
  test('gets messages in order, one at a time, and acknowledges each by resolving', async () => {
    const broker = await started({ queues: { declared: [{ name: 'jobs', properties: { filters: ['#'] } }] } })
    const { queues } = broker
    await fill(broker, 'jobs/a', '1', '2')
    const got: QueueMessage[] = []
    let running = 0
    queues.consume('jobs', async (message) => {
      expect(++running).toBe(1)
      got.push(message)
      await Promise.resolve()
      running--
    })
    await fill(broker, 'jobs/b', '3')
    await expect.poll(() => queues.stats('jobs').messages).toBe(0)
    expect(got.map(({ topic, payload, attempt }) => `${topic} ${payload} ${attempt}`)).toEqual([
      'jobs/a 1 1',
      'jobs/a 2 1',
      'jobs/b 3 1',
    ])
    expect(got[0]).toMatchObject({
      queue: 'jobs',
      qos: 1,
      publisher: '',
      expiresInSeconds: null,
      sequence: 1,
    })
    expect(queues.stats('jobs').counters).toMatchObject({ in: 3, out: 3, acknowledged: 3 })
    expect(queues.consumers('jobs')).toMatchObject([{ clientId: 'program', topicFilter: '$queue/jobs' }])
  })

  test('refuses by rejecting, with a time of its own, and for good with DeadLetter', async () => {
    const broker = await started()
    const { queues } = broker
    await queues.declare('jobs', { retryDelaySeconds: 3600, retryDelayMaxSeconds: 3600 })
    const seen: string[] = []
    queues.consume('jobs', async ({ payload, attempt, topic }) => {
      seen.push(`${payload} ${attempt}`)
      expect(topic).toBeNull()
      if (`${payload}` === 'soon' && attempt === 1) throw Object.assign(new Error('no'), { retryAfter: 0 })
      if (`${payload}` === 'never') throw new DeadLetter('not JSON')
      if (`${payload}` === 'later') throw new Error('busy')
    })
    await fill(broker, '$queue/jobs', 'soon', 'never', 'later')
    await expect.poll(() => queues.stats('jobs').deferred).toBe(1)
    await expect.poll(() => seen.sort()).toEqual(['later 1', 'never 1', 'soon 1', 'soon 2'])
    const [dead] = await queues.peek('jobs.dead')
    const user = dead?.properties.userProperties
    expect(JSON.stringify(user)).toContain('not JSON')
    expect(JSON.stringify(user)).toContain('program')
    expect(queues.stats('jobs').counters).toMatchObject({ acknowledged: 1, dead: { refused: 1 } })
  })

  test('answers with a result, to the Response Topic or the topic of the queue', async () => {
    const broker = await started()
    const { queues } = broker
    await queues.declare('jobs', { filters: ['jobs/#'], results: 'results/{topic}' })
    const got: string[] = []
    for (const filter of ['results/#', 'answers/#']) {
      broker.subscribe(filter, ({ topic, payload, properties: { correlationData = '' } }) =>
        got.push(`${topic} ${payload} ${correlationData}`),
      )
    }
    queues.consume('jobs', async ({ payload }) => (`${payload}` === 'none' ? undefined : `${payload}!`))
    await fill(broker, 'jobs/add', '5', 'none')
    const properties = { responseTopic: 'answers/7', correlationData: Buffer.from('17') }
    await broker.publish({ topic: 'jobs/ask', payload: 'ping', qos: 1, properties })
    const kept = { responseTopic: '$queue/kept' }
    await broker.publish({ topic: 'jobs/ask', payload: 'keep', qos: 1, properties: kept })
    const nowhere = { responseTopic: '$ack/jobs/x' }
    await broker.publish({ topic: 'jobs/ask', payload: 'lost', qos: 1, properties: nowhere })
    await expect.poll(() => queues.stats('jobs').messages).toBe(0)
    await expect.poll(() => got.sort()).toEqual(['answers/7 ping! 17', 'results/jobs/add 5! '])
    expect((await queues.peek('kept')).map(({ payload }) => `${payload}`)).toEqual(['keep!'])
    expect(queues.stats('jobs').counters).toMatchObject({ acknowledged: 5 })
  })

  test('works on as many at once as it asked for, which may end in any order', async () => {
    const broker = await started()
    const { queues } = broker
    await queues.declare('jobs', { passedOverSeconds: 1 })
    await fill(broker, '$queue/jobs', '1', '2', '3', '4', '5')
    const gates = new Map<string, () => void>()
    queues.consume(
      'jobs',
      async ({ payload }) => {
        const { open, opened } = gate()
        gates.set(`${payload}`, open)
        await opened
      },
      { concurrency: 2 },
    )
    await expect.poll(() => [...gates.keys()]).toEqual(['1', '2'])
    for (const next of ['3', '4', '5']) {
      gates.get(`${Number(next) - 1}`)!()
      await expect.poll(() => gates.has(next)).toBe(true)
    }
    gates.get('5')!()
    await expect.poll(() => queues.stats('jobs').messages).toBe(1)
    gates.get('1')!()
    await expect.poll(() => queues.stats('jobs').messages).toBe(0)
    expect(queues.stats('jobs').counters).toMatchObject({ out: 5, acknowledged: 5, redelivered: {} })
  })

  test('gives back at its end what its handler has not begun, and waits for the rest', async () => {
    const broker = await started()
    const { queues } = broker
    await queues.declare('jobs')
    await fill(broker, '$queue/jobs', '1', '2', '3')
    const { open, opened } = gate()
    const begun: string[] = []
    const abort = new AbortController()
    const consumption = queues.consume(
      'jobs',
      async ({ payload }) => {
        begun.push(`${payload}`)
        await opened
      },
      { prefetch: 3, signal: abort.signal },
    )
    await expect.poll(() => queues.stats('jobs').inFlight).toBe(3)
    await expect.poll(() => begun).toEqual(['1'])
    abort.abort()
    expect(queues.stats('jobs')).toMatchObject({ inFlight: 1, ready: 2, consumers: 0 })
    open()
    expect(await consumption.ended).toBe('stopped')
    expect(queues.stats('jobs')).toMatchObject({ messages: 2, ready: 2, counters: { redelivered: {} } })
    expect((await queues.peek('jobs')).map(({ failures }) => failures)).toEqual([0, 0])
  })

  test('ends with its queue', async () => {
    const broker = await started()
    const { queues } = broker
    await queues.declare('jobs')
    await fill(broker, '$queue/jobs', '1')
    const { open, opened } = gate()
    const begun = gate()
    const consumption = queues.consume('jobs', async () => {
      begun.open()
      await opened
    })
    await begun.opened
    await expect(queues.delete('jobs')).rejects.toThrow('queue jobs has 1 message and 1 consumer')
    await queues.delete('jobs', { force: true })
    open()
    expect(await consumption.ended).toBe('queue-deleted')
    expect(broker.census().consumers).toBe(0)
  })

  test('ends what it has begun when the broker closes', async () => {
    const dataDirectory = directory()
    const first = await createBroker({ dataDirectory })
    await first.queues.declare('jobs')
    await fill(first, '$queue/jobs', '1', '2')
    const { open, opened } = gate()
    const begun = gate()
    const consumption = first.queues.consume(
      'jobs',
      async () => {
        begun.open()
        await opened
      },
      { prefetch: 2 },
    )
    await begun.opened
    const closed = first.close()
    open()
    expect(await consumption.ended).toBe('broker-closed')
    await closed
    const second = await started({ dataDirectory })
    expect((await second.queues.peek('jobs')).map(({ payload }) => `${payload}`)).toEqual(['2'])
  })

  test('gets again after a restart what it held, if its handler never ended', async () => {
    const dataDirectory = directory()
    const first = await createBroker({ dataDirectory })
    await first.queues.declare('jobs')
    await fill(first, '$queue/jobs', '1', '2')
    const begun = gate()
    first.queues.consume('jobs', () => {
      begun.open()
      return new Promise(() => {})
    })
    await begun.opened
    await first.close({ seconds: 0 })
    const second = await started({ dataDirectory })
    const got: string[] = []
    second.queues.consume('jobs', ({ payload }) => got.push(`${payload}`))
    await expect.poll(() => second.queues.stats('jobs').messages).toBe(0)
    expect(got).toEqual(['1', '2'])
  })
})
