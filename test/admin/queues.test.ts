import { describe, expect, test } from 'vitest'
import type { ControlCommand } from '../../src/admin/control.ts'
import type { Page } from '../../src/admin/pages.ts'
import {
  type PeekedMessage,
  type QueueChange,
  type QueueDetails,
  type QueueRow,
  queueCommands,
} from '../../src/admin/queues.ts'
import type { SecurityEvent } from '../../src/broker/boundary/security.ts'
import type { ConsumerEntry } from '../../src/broker/queues/queue-view.ts'
import type { World, WorldOptions } from '../broker/harness.ts'
import { DiskWorld, inMemory, jobs, lines, puback, publishes } from '../broker/queues/queue-world.ts'

const NO_REPLY: Parameters<ControlCommand>[1] = {
  data: () => Promise.reject(new Error('no data is expected')),
}

type Ask = <T = QueueChange>(command: string, name?: string, more?: Record<string, unknown>) => Promise<T>

interface Operator {
  readonly world: World
  readonly told: SecurityEvent[]
  readonly ask: Ask
}

/** The commands of a world; `settle` lets everything happen. */
function commandsOf(world: World, settle: () => Promise<void>): Omit<Operator, 'world'> {
  const told: SecurityEvent[] = []
  const commands = queueCommands(world.server.queueOperator, (event) => told.push(event))
  const ask: Ask = async <T>(command: string, name?: string, more: Record<string, unknown> = {}) => {
    const words = name === undefined ? [] : [name]
    const answer = Promise.resolve(commands[`queue ${command}`]!({ by: 'ada', words, ...more }, NO_REPLY))
    let isDone = false
    answer.then(
      () => {
        isDone = true
      },
      () => {
        isDone = true
      },
    )
    for (let round = 0; round < 100 && !isDone; round++) await settle()
    return (await answer) as T
  }
  return { told, ask }
}

async function operator(queues: WorldOptions['queues'] = jobs()): Promise<Operator> {
  const world = await inMemory(queues)
  return { world, ...commandsOf(world, () => world.settle()) }
}

/** Puts numbered messages into the queue `jobs`, at `jobs/a` and `jobs/b` in turn. */
async function fill(world: World, count: number): Promise<void> {
  const publisher = await world.connect('p')
  for (let n = 1; n <= count; n++) await publisher.publish(`jobs/${n % 2 === 1 ? 'a' : 'b'}`, `${n}`, 1)
}

const texts = (messages: readonly PeekedMessage[]): string[] =>
  messages.map(({ payload }) => Buffer.from(payload, 'base64').toString())

describe('looking', () => {
  test('queues are listed in pages and shown with reasons', async () => {
    const { world, ask } = await operator()
    await ask('declare', 'other')
    await fill(world, 3)
    const first = await ask<Page<QueueRow>>('list', undefined, { limit: 1 })
    const second = await ask<Page<QueueRow>>('list', undefined, { limit: 1, after: first.after })
    expect([...first.rows, ...second.rows].map(({ name, messages }) => [name, messages])).toEqual([
      ['jobs', 3],
      ['other', 0],
    ])
    expect(second.after).toBeNull()
    const shown = await ask<QueueDetails>('show', 'jobs')
    expect(shown).toMatchObject({
      name: 'jobs',
      origin: 'file',
      isPaused: false,
      filters: ['jobs/#'],
      consumers: 0,
      messages: 3,
      ready: 3,
      properties: { delivery_limit: 10, messages_max: 'unlimited' },
      counters: { in: 3, out: 0, acknowledged: 0, refused: {}, dead: {} },
      why: ['3 ready', 'it has no consumer'],
    })
    expect(JSON.parse(JSON.stringify(shown))).toEqual(shown)
  })

  test('consumers are listed with what they hold', async () => {
    const { world, ask } = await operator()
    await fill(world, 3)
    const consumer = await world.connect('w')
    await consumer.subscribe('$queue/jobs;prefetch=2/#', 1)
    await consumer.subscribe('$queue/jobs', 0)
    const { rows } = await ask<Page<ConsumerEntry>>('consumers', 'jobs')
    expect(rows).toMatchObject([
      {
        clientId: 'w',
        topicFilter: '$queue/jobs;prefetch=2/#',
        qos: 1,
        state: 'full',
        window: 2,
        inFlight: 2,
      },
      { clientId: 'w', topicFilter: '$queue/jobs', qos: 0 },
    ])
    await consumer.unsubscribe('$queue/jobs')
    expect((await ask<Page<ConsumerEntry>>('consumers', 'jobs')).rows).toHaveLength(1)
  })

  test('peek shows messages and their states, and hands nothing out', async () => {
    const { world, ask } = await operator(jobs({ prefetch: 1 }))
    await fill(world, 4)
    const consumer = await world.connect('w')
    await consumer.subscribe('$queue/jobs/#', 1)
    const [got] = publishes(consumer)
    await puback(consumer, got!.id, { reasonCode: 0x80 })
    const peeked = await ask<readonly PeekedMessage[]>('peek', 'jobs')
    expect(peeked.map(({ sequence, state, failures }) => [sequence, state, failures])).toEqual([
      [1, 'deferred', 1],
      [2, 'in-flight', 0],
      [3, 'ready', 0],
      [4, 'ready', 0],
    ])
    expect(peeked[0]).toMatchObject({ topicName: 'jobs/a', publisher: 'p', qos: 1, isPayloadWhole: true })
    expect(texts(await ask('peek', 'jobs', { state: 'ready', limit: 1 }))).toEqual(['3'])
    expect(await ask('show', 'jobs')).toMatchObject({ messages: 4, ready: 2, inFlight: 1, deferred: 1 })
    await expect(ask('peek', 'jobs', { state: 'lost' })).rejects.toThrow("'lost' is no state of a message")
  })

  test('a payload is cut off after 4 KiB', async () => {
    const { world, ask } = await operator()
    const publisher = await world.connect('p')
    await publisher.publish('jobs/a', 'x'.repeat(5000), 1)
    const [peeked] = await ask<readonly PeekedMessage[]>('peek', 'jobs')
    expect(peeked).toMatchObject({ payloadBytes: 5000, isPayloadWhole: false })
    expect(Buffer.from(peeked!.payload, 'base64')).toHaveLength(4096)
  })
})

describe('declaring and changing', () => {
  test('a declared queue takes messages, after a restart too; the log says who declared it', async () => {
    const disk = await DiskWorld.make()
    const { ask, told } = commandsOf(disk.world, () => disk.settle())
    const properties = { filters: ['t/#'], delivery_limit: 'unlimited' }
    expect(await ask('declare', 'mine', { properties })).toEqual({ count: 0, isNew: true })
    expect(await ask('declare', 'mine', { properties })).toEqual({ count: 0, isNew: false })
    await expect(ask('declare', 'mine', { properties: { filters: ['u/#'] } })).rejects.toMatchObject({
      message: 'queue mine is there already, with another filters',
      code: 'GODWIT_QUEUE_REFUSED',
    })
    expect(told).toEqual([
      {
        kind: 'queue-declared',
        subject: 'mine',
        by: 'ada',
        detail: 'filters ["t/#"], delivery_limit unlimited',
      },
    ])
    await disk.kill()
    const again = commandsOf(disk.world, () => disk.settle())
    const publisher = await disk.connect('p')
    await publisher.publish('t/1', 'x', 1)
    await disk.settle()
    expect(await again.ask('show', 'mine')).toMatchObject({
      origin: 'operator',
      messages: 1,
      properties: { delivery_limit: 'unlimited' },
    })
  })

  test('what cannot be is refused', async () => {
    const { ask, told } = await operator()
    const refused = async (command: string, name: string, more = {}): Promise<string> =>
      ask(command, name, more).then(
        () => 'done',
        (error: Error) => error.message,
      )
    expect(await refused('declare', 'a/b')).toContain('the name of a queue is a name of 1 to 64 letters')
    expect(await refused('declare', 'x', { properties: { prefetch: 0 } })).toContain('prefetch is auto or')
    expect(await refused('declare', 'x', { properties: { colour: 1 } })).toBe(
      'colour is no property of a queue',
    )
    expect(await refused('show', 'x')).toBe('there is no queue x')
    expect(await refused('change', 'jobs', { properties: { share: false } })).toBe(
      'queue jobs stands in the configuration, and is changed there',
    )
    expect(await refused('delete', 'jobs', { force: true })).toContain('is deleted there')
    expect(told).toEqual([])
  })

  test('a change holds at once; filters change only where nothing came by the old ones', async () => {
    const { world, ask } = await operator({})
    await ask('declare', 'q', { properties: { filters: ['a/#'] } })
    await ask('change', 'q', { properties: { messages_max: 1 } })
    const client = await world.connect('c')
    await client.publish('a/1', 'x', 1)
    await client.publish('a/1', 'y', 1)
    expect(texts(await ask('peek', 'q'))).toEqual(['y'])
    const filters = { properties: { filters: ['b/#'] } }
    await expect(ask('change', 'q', filters)).rejects.toThrow('has 1 message')
    await ask('purge', 'q', { force: true })
    await client.subscribe('$queue/q/a/#', 1)
    await expect(ask('change', 'q', filters)).rejects.toThrow('1 consumer of queue q')
    await ask('change', 'q', { ...filters, force: true })
    expect(client.closed).toBe(true)
    const other = await world.connect('d')
    await other.publish('a/1', 'x', 1)
    await other.publish('b/1', 'z', 1)
    expect(texts(await ask('peek', 'q'))).toEqual(['z'])
  })

  test('delete and purge need --force while there is something to lose', async () => {
    const { world, ask, told } = await operator({})
    const client = await world.connect('c')
    await client.publish('$queue/q', 'x', 1)
    await expect(ask('purge', 'q')).rejects.toThrow('queue q has 1 message')
    await expect(ask('delete', 'q')).rejects.toThrow('queue q has 1 message and 0 consumers')
    expect(await ask('purge', 'q', { force: true })).toEqual({ count: 1 })
    expect(await ask('show', 'q')).toMatchObject({ messages: 0 })
    await client.subscribe('$queue/q', 1)
    await expect(ask('delete', 'q')).rejects.toThrow('1 consumer')
    await ask('delete', 'q', { force: true })
    expect(client.got().at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x98 })
    await expect(ask('show', 'q')).rejects.toThrow('there is no queue q')
    expect(told.map(({ kind, detail }) => [kind, detail])).toEqual([
      ['queue-purged', '1 message'],
      ['queue-deleted', '0 messages'],
    ])
  })

  test('a paused queue hands nothing out until it is resumed', async () => {
    const { world, ask } = await operator()
    await ask('pause', 'jobs')
    await fill(world, 1)
    const consumer = await world.connect('w')
    await consumer.subscribe('$queue/jobs/#', 1)
    expect(lines(consumer)).toEqual([])
    expect((await ask<QueueDetails>('show', 'jobs')).why).toContain('the queue is paused')
    await ask('resume', 'jobs')
    expect(lines(consumer)).toEqual(['$queue/jobs/jobs/a 1 1'])
  })
})

describe('moving', () => {
  test('messages of a topic go to another queue, and others stay', async () => {
    const { world, ask, told } = await operator()
    await ask('declare', 'later')
    await fill(world, 700)
    expect(await ask('move', 'jobs', { to: 'later', topic: 'jobs/b', limit: 300 })).toEqual({ count: 300 })
    expect(await ask('show', 'jobs')).toMatchObject({ messages: 400 })
    const moved = await ask<readonly PeekedMessage[]>('peek', 'later', { limit: 1000 })
    expect(texts(moved)).toEqual(Array.from({ length: 300 }, (_, at) => `${2 * at + 2}`))
    expect(moved[0]).toMatchObject({ topicName: 'jobs/b', publisher: 'p', failures: 0 })
    expect(told.at(-1)).toMatchObject({
      kind: 'queue-moved',
      subject: 'jobs',
      detail: '300 messages to later',
    })
  })

  test('nothing moves if one message does not fit the target; held ones stay', async () => {
    const { world, ask } = await operator(jobs({ prefetch: 1 }))
    await ask('declare', 'narrow', { properties: { filters: ['rare/#'] } })
    await ask('declare', 'small', { properties: { messages_max: 1 } })
    await fill(world, 3)
    await expect(ask('move', 'jobs', { to: 'narrow' })).rejects.toThrow(
      'queue narrow takes rare/#, not jobs/a',
    )
    expect(await ask('show', 'narrow')).toMatchObject({ messages: 0 })
    const consumer = await world.connect('w')
    await consumer.subscribe('$queue/jobs/#', 1)
    await expect(ask('move', 'jobs', { to: 'small' })).rejects.toMatchObject({
      message: 'queue small is full (1 message)',
      advice: '1 message moved before that.',
    })
    expect(await ask('show', 'jobs')).toMatchObject({ messages: 2, inFlight: 1 })
    await expect(ask('move', 'jobs', { to: 'jobs' })).rejects.toThrow('both source and target')
    await expect(ask('move', 'jobs', {})).rejects.toThrow('the target is missing')
  })

  test('moved messages are in one queue exactly, after a crash too', async () => {
    const disk = await DiskWorld.make(jobs())
    const { ask } = commandsOf(disk.world, () => disk.settle())
    await ask('declare', 'later')
    const publisher = await disk.connect('p')
    for (let n = 1; n <= 5; n++) await publisher.publish('jobs/a', `${n}`, 1)
    await disk.kill()
    const again = commandsOf(disk.world, () => disk.settle())
    expect(await again.ask('move', 'jobs', { to: 'later', limit: 3 })).toEqual({ count: 3 })
    await disk.kill()
    const last = commandsOf(disk.world, () => disk.settle())
    expect(texts(await last.ask('peek', 'jobs'))).toEqual(['4', '5'])
    expect(texts(await last.ask('peek', 'later'))).toEqual(['1', '2', '3'])
  })

  test('dead letters go back to where they came from, with their failures forgotten', async () => {
    const { world, ask } = await operator(jobs({ deliveryLimit: 1 }))
    await fill(world, 1)
    const consumer = await world.connect('w')
    await consumer.subscribe('$queue/jobs/#', 1)
    const die = async (): Promise<void> => {
      const [got] = publishes(consumer)
      await puback(consumer, got!.id, { reasonCode: 0x80 })
      await world.settle()
    }
    await die()
    const [dead] = await ask<readonly PeekedMessage[]>('peek', 'jobs.dead')
    expect(dead!.properties.userProperties).toContainEqual(['x-death-reason', 'delivery-limit'])
    expect(await ask('replay', 'jobs.dead')).toEqual({ count: 1 })
    expect(await ask('show', 'jobs.dead')).toMatchObject({ messages: 0 })
    await die()
    const [again] = await ask<readonly PeekedMessage[]>('peek', 'jobs.dead')
    expect(again!.properties.userProperties).toContainEqual(['x-death-cycles', '2'])
    await expect(ask('replay', 'jobs')).resolves.toEqual({ count: 0 })
  })
})

test('where queues are switched off, the commands say so', async () => {
  const { ask } = await operator({ enabled: false })
  await expect(ask('list')).rejects.toThrow('queues are switched off')
})
