/** Example 27 of queues, and what else there is to priorities: lanes over restarts, moves and changes. */
import { describe, expect, it } from 'vitest'
import type { GivenProperties } from '../../../../src/queue/properties.ts'
import { lasting, type TestClient, type World } from '../../harness.ts'
import { DiskWorld, inMemory, jobs, lines, puback, publishes } from '../queue-world.ts'

const ALL = { topicFilter: null, limit: Number.POSITIVE_INFINITY }

/** Priorities of which each has a lane of its own. */
const TEN: GivenProperties = { priorities: 10, priorityBurst: 0 }

function declared(properties: Readonly<Record<string, GivenProperties>>) {
  return { declared: Object.entries(properties).map(([name, given]) => ({ name, properties: given })) }
}

function queue(world: World, name: string) {
  return world.server.queues!.definitions.byName.get(name)!
}

function operator(world: World) {
  return world.server.queueOperator!
}

/** Publishes at QoS 1, with a User Property `priority` unless it is null. */
async function put(client: TestClient, topic: string, payload: string, priority: string | null) {
  await client.publish(
    topic,
    payload,
    1,
    priority === null ? {} : { properties: { userProperties: { priority } } },
  )
}

/** Waits for what the operator asked of a world on disk. */
async function done<T>(disk: DiskWorld, change: Promise<T>): Promise<T> {
  await disk.settle()
  return change
}

/** Takes and acknowledges everything that comes; returns the payloads in order. */
async function drain(client: TestClient, settle: () => Promise<void> = async () => {}): Promise<string[]> {
  const payloads: string[] = []
  for (let got = publishes(client); got.length > 0; got = publishes(client)) {
    for (const { id, line } of got) {
      payloads.push(line.split(' ')[1]!)
      await puback(client, id)
    }
    await settle()
  }
  return payloads
}

/** A consumer that holds one message. */
async function worker(world: World, name: string): Promise<TestClient> {
  const client = await world.connect('worker')
  await client.subscribe(`$queue/${name};prefetch=1/#`, 1)
  return client
}

it('27: priorities: sixteen high ones, then a low one', async () => {
  const world = await inMemory(jobs({ priorities: 2 }))
  const producer = await world.connect('p')
  for (let number = 1; number <= 20; number++) await put(producer, 'jobs/x', `low${number}`, '0')
  for (let number = 1; number <= 40; number++) await put(producer, 'jobs/x', `high${number}`, '9')
  const payloads = await drain(await worker(world, 'jobs'))
  const runs = payloads
    .join(' ')
    .replace(/\d+/g, '')
    .match(/(high ?)+|(low ?)+/g)
  expect(runs?.map((run) => run.trim().split(' ').length)).toEqual([16, 1, 16, 1, 8, 18])
  const number = (payload: string) => Number(/\d+/.exec(payload))
  for (const kind of ['low', 'high']) {
    const numbers = payloads.filter((payload) => payload.startsWith(kind)).map(number)
    expect(numbers).toEqual(numbers.toSorted((one, other) => one - other))
  }
})

describe('the priority of a message', () => {
  it('is the last User Property of the name from 0 to 9, or that of the first rule, or 4', async () => {
    const rules = [
      { filter: 'jobs/urgent/#', priority: 9 },
      { filter: 'jobs/+/later', priority: 0 },
    ]
    const world = await inMemory(jobs({ ...TEN, priorityRules: rules }))
    const producer = await world.connect('p')
    await put(producer, 'jobs/x', 'default', null)
    await put(producer, 'jobs/mail/later', 'rule-0', null)
    await put(producer, 'jobs/urgent/later', 'rule-9', null)
    await put(producer, 'jobs/urgent/x', 'own-5', '5')
    await put(producer, 'jobs/x', 'own-3', '3')
    await producer.publish('jobs/x', 'last-6', 1, {
      properties: { userProperties: { priority: ['1', '6'] } },
    })
    for (const [at, wrong] of ['10', '', 'high', '-1', ' 1', '1.0'].entries()) {
      await put(producer, 'jobs/x', `wrong-${at}`, wrong)
    }
    const wrong = [0, 1, 2, 3, 4, 5].map((at) => `wrong-${at}`)
    const expected = ['rule-9', 'last-6', 'own-5', 'default', ...wrong, 'own-3', 'rule-0']
    expect(await drain(await worker(world, 'jobs'))).toEqual(expected)
  })

  it('is that of a rule for publishers before 5.0, straight into the queue, too', async () => {
    const rules = [
      { filter: 'a/#', priority: 8 },
      { filter: '#', priority: 2 },
    ]
    const world = await inMemory(declared({ box: { ...TEN, priorityRules: rules } }))
    const old = await world.connect('old', {}, 4)
    for (const topic of ['$queue/box', '$queue/box/b', '$queue/box/a/x']) await old.publish(topic, topic, 1)
    const modern = await world.connect('modern')
    await put(modern, '$queue/box', 'default', '4')
    const got = ['$queue/box/a/x', 'default', '$queue/box', '$queue/box/b']
    expect(await drain(await worker(world, 'box'))).toEqual(got)
  })

  it('arrives with the others, and counts for nothing in a queue without priorities', async () => {
    const world = await inMemory(jobs())
    const producer = await world.connect('p')
    await put(producer, 'jobs/x', 'low', '0')
    await put(producer, 'jobs/x', 'high', '9')
    const client = await world.connect('c')
    await client.subscribe('$queue/jobs;prefetch=2/#', 1)
    expect(publishes(client).map(({ line, user }) => [line, user])).toEqual([
      ['$queue/jobs;prefetch=2/jobs/x low 1', { priority: '0' }],
      ['$queue/jobs;prefetch=2/jobs/x high 1', { priority: '9' }],
    ])
  })
})

it('a refused message comes again in its lane', async () => {
  const world = await inMemory(jobs({ priorities: 2, priorityBurst: 0, retryDelaySeconds: 5 }))
  const producer = await world.connect('p')
  const client = await worker(world, 'jobs')
  await put(producer, 'jobs/x', 'high1', '9')
  const [refused] = publishes(client)
  await puback(client, refused!.id, { reasonCode: 0x80 })
  for (const payload of ['low1', 'low2', 'low3']) await put(producer, 'jobs/x', payload, '0')
  const [first] = publishes(client)
  expect(first!.line).toContain('low1')
  await world.pass(6)
  await put(producer, 'jobs/x', 'high2', '9')
  await puback(client, first!.id)
  // The older of the high ones, and both before what is low.
  expect(await drain(client)).toEqual(['high1', 'high2', 'low2', 'low3'])
})

it('lanes are there again after a kill, with what was in flight, refused, and settled', async () => {
  const disk = await DiskWorld.make(jobs({ priorities: 3, priorityBurst: 0, retryDelaySeconds: 0 }))
  const settle = () => disk.settle()
  const producer = await disk.connect('p')
  for (const number of [1, 2, 3, 4]) {
    for (const priority of ['0', '5', '9']) await put(producer, 'jobs/x', `${priority}-${number}`, priority)
  }
  const client = await disk.connect('c', lasting())
  await client.subscribe('$queue/jobs;prefetch=2/#', 1)
  await settle()
  const [done, refused] = publishes(client)
  expect([done!.line, refused!.line].map((line) => line.split(' ')[1])).toEqual(['9-1', '9-2'])
  await puback(client, done!.id)
  await puback(client, refused!.id, { reasonCode: 0x80 })
  await settle()
  await disk.kill()
  const lanes = operator(disk.world).show('jobs')
  expect(lanes.messages).toBe(11)
  const again = await disk.connect('c', lasting())
  await settle()
  const payloads = await drain(again, settle)
  const high = payloads.filter((payload) => payload.startsWith('9')).toSorted()
  expect(high).toEqual(['9-2', '9-3', '9-4'])
  expect(payloads.slice(3)).toEqual(['5-1', '5-2', '5-3', '5-4', '0-1', '0-2', '0-3', '0-4'])
  await disk.kill()
  expect(operator(disk.world).show('jobs').messages).toBe(0)
  const after = await disk.connect('p')
  await put(after, 'jobs/x', 'low', '0')
  await put(after, 'jobs/x', 'high', '9')
  const last = await disk.connect('d')
  await last.subscribe('$queue/jobs;prefetch=1/#', 1)
  await settle()
  expect(await drain(last, settle)).toEqual(['high', 'low'])
})

describe('other numbers of lanes', () => {
  it('moves, dead letters and replays find the lane of each message anew', async () => {
    const world = await inMemory(
      declared({
        jobs: { filters: ['jobs/#'], priorities: 3, priorityBurst: 0, deliveryLimit: 1 },
        flat: {},
        wide: TEN,
        'jobs.dead': TEN,
      }),
    )
    const producer = await world.connect('p')
    const priorities = ['4', '0', '9', '6', '5', '1']
    for (const priority of priorities) await put(producer, 'jobs/x', priority, priority)
    const lanes = ['9', '4', '6', '5', '0', '1']
    // Peek shows what would be handed out next.
    const peeked = await operator(world).peek('jobs', 10, null)
    expect(peeked.map(({ payload }) => payload.toString())).toEqual(lanes.toSorted(byLane(3)))
    expect(await operator(world).move('jobs', 'wide', ALL)).toBe(6)
    expect(await operator(world).move('wide', 'flat', { ...ALL, limit: 2 })).toBe(2)
    expect(await operator(world).move('wide', 'flat', ALL)).toBe(4)
    // A queue without lanes keeps the order in which they came.
    expect(await operator(world).move('flat', 'jobs', ALL)).toBe(6)
    const client = await worker(world, 'jobs')
    for (let [one] = publishes(client); one !== undefined; [one] = publishes(client)) {
      await puback(client, one.id, { reasonCode: 0x80 })
    }
    await client.send({ cmd: 'disconnect', reasonCode: 0 })
    const dead = await operator(world).peek('jobs.dead', 10, null)
    expect(dead.map(({ payload }) => payload.toString())).toEqual(['9', '6', '5', '4', '1', '0'])
    expect(await operator(world).replay('jobs.dead', null, ALL)).toBe(6)
    expect(await drain(await worker(world, 'jobs'))).toEqual(['9', '6', '5', '4', '1', '0'])
  })

  /** Compares by lane, the highest first; within a lane the order stays. */
  function byLane(lanes: number) {
    const lane = (priority: string) => Math.floor((Number(priority) * lanes) / 10)
    return (one: string, other: string) => lane(other) - lane(one)
  }

  it('change in an empty queue only, and tell to move the messages first', async () => {
    const disk = await DiskWorld.make()
    const settle = () => disk.settle()
    await done(disk, operator(disk.world).declare('box', { priorities: 2, priorityBurst: 0 }, 'test'))
    const producer = await disk.connect('p')
    for (const priority of ['0', '9']) await put(producer, '$queue/box', priority, priority)
    await settle()
    await expect(operator(disk.world).change('box', { priorities: 3 }, true, 'test')).rejects.toMatchObject({
      message: 'queue box has 2 messages; priorities can change only while it is empty',
      advice: 'Let consumers take them, or move them first: godwit queue move.',
    })
    await done(disk, operator(disk.world).change('box', { priorities: 2, messagesMax: 100 }, false, 'test'))
    const client = await disk.connect('c', lasting())
    await client.subscribe('$queue/box;prefetch=1', 1)
    await settle()
    expect(await drain(client, settle)).toEqual(['9', '0'])
    // Over more lanes, kills, and fewer of them again: the floors of all are kept.
    for (const priorities of [10, 1, 4]) {
      await done(disk, operator(disk.world).change('box', { priorities }, false, 'test'))
      await disk.kill()
      expect(operator(disk.world).show('box')).toMatchObject({ messages: 0, properties: { priorities } })
      const again = await disk.connect('p')
      for (const priority of ['0', '3', '9', '5', '6']) await put(again, '$queue/box', priority, priority)
      await settle()
      await disk.kill()
      expect(operator(disk.world).show('box').messages).toBe(5)
      expect(queue(disk.world, 'box').group.lanes).toHaveLength(10)
      const consumer = await disk.connect('c', lasting())
      await settle()
      // 5 and 6 are one level of four, and two of ten.
      const expected = { 10: ['9', '6', '5', '3', '0'], 4: ['9', '5', '6', '3', '0'] }[priorities]
      expect(await drain(consumer, settle)).toEqual(expected ?? ['0', '3', '9', '5', '6'])
    }
    expect(queue(disk.world, 'box').numbers.logs).toHaveLength(10)
  })

  it('in the configuration, too; a refused change is told at the start', async () => {
    const disk = await DiskWorld.make(jobs({ priorities: 2 }))
    const producer = await disk.connect('p')
    await put(producer, 'jobs/x', 'low', '0')
    await disk.kill(jobs({ priorities: 5 }))
    expect(queue(disk.world, 'jobs').properties.priorities).toBe(2)
    const client = await disk.connect('c')
    await client.subscribe('$queue/jobs/#', 1)
    await disk.settle()
    expect(await drain(client, () => disk.settle())).toEqual(['low'])
    await disk.kill(jobs({ priorities: 5 }))
    expect(queue(disk.world, 'jobs').properties.priorities).toBe(5)
    expect(queue(disk.world, 'jobs').numbers.logs).toHaveLength(5)
  })
})

it('queues that clients make get their priorities from the pattern', async () => {
  const world = await inMemory({ patterns: [{ name: 'p-*', properties: { ...TEN } }] })
  const producer = await world.connect('p')
  for (const priority of ['1', '8']) await put(producer, '$queue/p-a', priority, priority)
  expect(await drain(await worker(world, 'p-a'))).toEqual(['8', '1'])
})

it('a full queue drops the oldest of the lowest lane', async () => {
  const world = await inMemory(jobs({ priorities: 2, messagesMax: 3 }))
  const producer = await world.connect('p')
  for (const priority of ['9', '0', '1', '8', '2']) await put(producer, 'jobs/x', priority, priority)
  expect(queue(world, 'jobs').group.counts.dropped.overflow).toBe(2)
  expect(await drain(await worker(world, 'jobs'))).toEqual(['9', '8', '2'])
})

it('purge and delete take all lanes', async () => {
  const disk = await DiskWorld.make(declared({ one: TEN }))
  await done(disk, operator(disk.world).declare('two', TEN, 'test'))
  const producer = await disk.connect('p')
  for (const name of ['one', 'two']) {
    for (const priority of ['0', '4', '9']) await put(producer, `$queue/${name}`, priority, priority)
  }
  await disk.settle()
  expect(await done(disk, operator(disk.world).purge('one', 'test'))).toBe(3)
  expect(await done(disk, operator(disk.world).delete('two', true, 'test'))).toBe(3)
  await disk.kill()
  expect(operator(disk.world).show('one').messages).toBe(0)
  expect(queue(disk.world, 'two')).toBeUndefined()
  const again = await disk.connect('p')
  await put(again, '$queue/two', 'new', '9')
  await disk.settle()
  expect(operator(disk.world).show('two')).toMatchObject({ messages: 1, properties: { priorities: 1 } })
})

it('results find a message in a higher lane by its tag, also after a kill', async () => {
  const disk = await DiskWorld.make(jobs({ ...TEN, results: 'results/{topic}' }))
  const producer = await disk.connect('p')
  const client = await disk.connect('c', lasting())
  await client.subscribe('$queue/jobs;ack=explicit/+/#', 1)
  await put(producer, 'jobs/x', 'high', '7')
  await disk.settle()
  const [got] = publishes(client)
  await puback(client, got!.id)
  await disk.kill()
  const listener = await disk.connect('l')
  await listener.subscribe('results/#', 1)
  const tag = got!.line.split('/')[2]!
  const again = await disk.connect('c', lasting())
  await again.send({ cmd: 'publish', topic: `$ack/jobs/${tag}`, payload: 'done', qos: 1, messageId: 7 })
  await disk.settle()
  expect(lines(listener)).toEqual(['results/jobs/x done 1'])
  expect(operator(disk.world).show('jobs').messages).toBe(0)
})
