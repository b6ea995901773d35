/** Examples 31 and 32 of queues, and what else is limited. */
import { describe, expect, it } from 'vitest'
import type { Handed } from '../../../src/broker/queues/program-consumer.ts'
import { StoreError } from '../../../src/store/store.ts'
import { answer, DiskWorld, inMemory, jobs, lines, publishes } from './queue-world.ts'

describe('a full queue', () => {
  it('31: one that is addressed refuses, and says so', async () => {
    const world = await inMemory({ declared: [{ name: 'box', properties: { messagesMax: 2 } }] })
    const client = await world.connect('p')
    const packet = { cmd: 'publish', topic: '$queue/box', payload: 'x', qos: 1, messageId: 1 }
    expect(await answer(client, 'puback', packet)).toMatchObject({ reasonCode: 0 })
    await answer(client, 'puback', { ...packet, messageId: 2 })
    const refused = await answer(client, 'puback', { ...packet, messageId: 3 })
    expect(refused).toMatchObject({
      reasonCode: 0x97,
      properties: { reasonString: 'queue box is full (2 messages)' },
    })
    expect(client.closed).toBe(false)
    const older = await world.connect('o', {}, 4)
    expect(await older.publish('$queue/box', 'x', 1)).toEqual([])
    expect(older.closed).toBe(true)
    await client.publish('$queue/box', 'x', 0)
    expect(world.server.state.counters.drops.overflow).toBe(1)
    expect(world.server.state.counters.limits.fullQueue).toBe(2)
    expect(world.server.queues!.definitions.byName.get('box')!.group.states.messages).toBe(2)
  })

  it('has its consumers counted, those of the Shared Subscription too', async () => {
    const declared = [{ name: 'jobs', properties: { filters: ['jobs/#'] } }]
    const world = await inMemory({ declared, consumersPerQueueMax: 2 })
    const client = await world.connect('a')
    expect(await client.subscribe('$queue/jobs', 1)).toBe(1)
    expect(await client.subscribe('$share/jobs/jobs/#', 1)).toBe(1)
    const other = await world.connect('b')
    const subscribed = world.record('subscribed')
    expect(await other.subscribe('$share/jobs/jobs/#', 1)).toBe(0x97)
    expect(await other.subscribe('$queue/jobs', 1)).toBe(0x97)
    const { limit, reason } = { limit: 'queueConsumersMax', reason: 'queue jobs has 2 consumers' } as const
    expect(subscribed).toMatchObject([
      { limit, reason },
      { limit, reason },
    ])
    // One that is there may subscribe again.
    expect(await client.subscribe('$queue/jobs', 0)).toBe(0)
    expect(world.server.state.counters.limits.queueConsumersMax).toBe(2)
  })

  it('32: one that listens drops its oldest, and hurts nobody', async () => {
    const world = await inMemory({
      declared: [{ name: 'last', properties: { filters: ['t/#'], messagesMax: 2 } }],
    })
    const live = await world.connect('live')
    await live.subscribe('t/#', 1)
    const publisher = await world.connect('p', {}, 4)
    for (const payload of ['1', '2', '3', '4', '5']) {
      expect(await publisher.publish('t/x', payload, 1)).toMatchObject([{ cmd: 'puback' }])
    }
    expect(lines(live)).toEqual(['1', '2', '3', '4', '5'].map((payload) => `t/x ${payload} 1`))
    const consumer = await world.connect('c')
    await consumer.subscribe('$queue/last;prefetch=5/#', 1)
    expect(publishes(consumer).map(({ line }) => line)).toEqual([
      '$queue/last;prefetch=5/t/x 4 1',
      '$queue/last;prefetch=5/t/x 5 1',
    ])
    expect(world.server.state.counters.drops.overflow).toBe(3)
  })
})

describe('a full disk', () => {
  it('has the store read again, while memory is looked at, and queues keep what they have', async () => {
    const disk = await DiskWorld.make(jobs())
    const { store, world } = disk
    const publisher = await disk.connect('p')
    await publisher.send({ cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 1, messageId: 1 })
    await disk.settle()
    const recovered = world.record('storeRecovered')
    const open = store.open.bind(store)
    const bytes = new Set<number>()
    store.open = async (source) => {
      let isOpen = false
      const opening = open(source).finally(() => {
        isOpen = true
      })
      while (!isOpen) {
        bytes.add(store.logs.memoryBytes)
        await new Promise((resolve) => setImmediate(resolve))
      }
      return opening
    }
    world.server.state.storeFailed(new StoreError('full', 'no space left', 'Free some.'))
    while (recovered.length === 0 && world.fatal === null) await disk.settle()
    expect(world.fatal).toBeNull()
    expect(bytes).toContain(0)
    const consumer = await disk.connect('c')
    await consumer.subscribe('$queue/jobs/#', 1)
    await disk.settle()
    expect(lines(consumer)).toEqual(['$queue/jobs/jobs/a x 1'])
  })

  it('has a consumer in this process get again what it had, however large', async () => {
    const limits = { packetBytesMax: 16 * 1024 * 1024 }
    const disk = await DiskWorld.make(jobs(), { limits })
    const { consuming, definitions } = disk.world.server.queues!
    const handed: Handed[] = []
    const handler = (message: Handed): number => handed.push(message)
    const options = { name: 'p', prefetch: 10, concurrency: 1, handler, ended: () => {} } as const
    const consumer = consuming.programs.add(definitions.byName.get('jobs')!, options)
    const publisher = await disk.connect('p')
    for (const first of ['1', '2']) {
      await publisher.publish('jobs/a', first.padEnd(9 * 1024 * 1024), 1)
      await disk.settle()
    }
    const recovered = disk.world.record('storeRecovered')
    disk.world.server.state.storeFailed(new StoreError('full', 'no space left', 'Free some.'))
    while (recovered.length === 0 && disk.world.fatal === null) await disk.settle()
    // What it had is offered again, and does not fit beside what it still has in hand.
    const { group } = definitions.byName.get('jobs')!
    const states = async (): Promise<string[]> => {
      await disk.settle()
      return [...group.members].map(({ state }) => state)
    }
    await expect.poll(states).toEqual(['full'])
    const left = async (): Promise<number> => {
      const [next] = handed.splice(0, 1)
      if (next !== undefined) consumer.settle(next, 0, null, '')
      await disk.settle()
      return group.states.messages
    }
    await expect.poll(left).toBe(0)
  })

  it('has no queue declared while the store is read again, and those of the file after it', async () => {
    const given = jobs()
    const disk = await DiskWorld.make(given)
    const { store, world } = disk
    const client = await disk.connect('c')
    const recovered = world.record('storeRecovered')
    const open = store.open.bind(store)
    let mend = (): void => {}
    const isMended = new Promise<void>((resolve) => {
      mend = resolve
    })
    store.open = async (source) => {
      await isMended
      return open(source)
    }
    world.server.state.storeFailed(new StoreError('full', 'no space left', 'Free some.'))
    await disk.settle()
    const queues = world.server.queues!
    expect(await client.subscribe('$queue/jobs/#', 1)).toBe(0x97)
    await client.publish('$queue/new', 'x', 0)
    const { options } = queues.definitions
    const declared = [...options.declared, { name: 'later', properties: {} }]
    expect(queues.configure({ ...options, declared })).toHaveLength(2)
    mend()
    while (recovered.length === 0 && world.fatal === null) await disk.settle()
    expect(world.fatal).toBeNull()
    expect([...queues.definitions.byName.keys()]).toEqual(['jobs', 'later'])
    expect(await client.subscribe('$queue/jobs/#', 1)).toBe(1)
  })
})
