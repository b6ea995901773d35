/** Queues count for the users whose clients made them. */
import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import type { QueueOptions } from '../../../src/queue/queue-options.ts'
import { connectPacket, lasting, type TestClient, type World } from '../harness.ts'
import { DiskWorld, inMemory, jobs, puback, publishes } from './queue-world.ts'

/** The user name is the user. */
const NAMED: Policy = {
  authenticate: ({ userName }) => ({ allow: true, userName: userName ?? null }),
}

function definitions(world: World) {
  return world.server.queues!.definitions
}

/** The Usage of a user after a look; anonymous clients at an address if the name is null. */
function usage(world: World, userName: string | null, address = '') {
  world.server.memoryBytes()
  return world.server.state.usage.user(userName, address)!
}

async function at(world: World, remoteAddress: string, clientId: string): Promise<TestClient> {
  const client = world.open(5, { remoteAddress })
  await client.send({ ...connectPacket(clientId, 5), properties: {} })
  return client
}

function named(queues: Partial<QueueOptions> = {}): Promise<World> {
  return inMemory(queues, { policy: NAMED })
}

describe('queues that are declared by use', () => {
  it('have a limit for each user, so that one leaves names to others', async () => {
    const world = await named({ declaredPerUserMax: 2, declaredByUseMax: 100 })
    const a1 = await world.connect('a1', { username: 'anna' })
    const a2 = await world.connect('a2', { username: 'anna' })
    const b = await world.connect('b', { username: 'bert' })
    expect(await a1.publish('$queue/one', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(await a2.subscribe('$queue/two', 1)).toBe(1)
    expect(await a1.publish('$queue/three', 'x', 1)).toMatchObject([
      {
        reasonCode: 0x97,
        properties: { reasonString: 'the user has declared as many queues as the Server allows' },
      },
    ])
    expect(await a2.subscribe('$queue/three', 1)).toBe(0x97)
    expect(world.server.state.counters.limits.queuesPerUserMax).toBe(2)
    expect(await b.subscribe('$queue/three', 1)).toBe(1)
    // Deleting one gives its name back.
    definitions(world).delete(definitions(world).byName.get('one')!, 'test')
    expect(await a2.subscribe('$queue/four', 1)).toBe(1)
  })

  it('count for the address of clients without a user', async () => {
    const world = await inMemory({ declaredPerUserMax: 1 })
    const one = await at(world, '10.0.0.1', 'one')
    const other = await at(world, '10.0.0.1', 'other')
    const far = await at(world, '10.0.0.2', 'far')
    expect(await one.subscribe('$queue/q1', 1)).toBe(1)
    expect(await other.subscribe('$queue/q2', 1)).toBe(0x97)
    expect(await far.subscribe('$queue/q2', 1)).toBe(1)
  })

  it('count with dead letters, memory and disk, until they are the operator’s or deleted', async () => {
    const world = await named()
    const a = await world.connect('a', { username: 'anna' })
    await a.publish('$queue/box', 'x'.repeat(100_000), 1)
    await a.subscribe('$queue/box', 1)
    const [got] = publishes(a)
    await puback(a, got!.id, { reasonCode: 0x99 })
    expect(definitions(world).byName.get('box.dead')?.owner?.name).toBe('anna')
    expect(usage(world, 'anna').madeQueues).toBe(1)
    expect(usage(world, 'anna').madeQueueBytes).toBeGreaterThan(100_000)
    const box = definitions(world).byName.get('box')!
    definitions(world).change(box, box.properties, 'operator', 'operator')
    definitions(world).delete(definitions(world).byName.get('box.dead')!, 'operator')
    expect(usage(world, 'anna')).toMatchObject({ madeQueues: 0, madeQueueBytes: 0, madeStoredBytes: 0 })
  })

  it('keep their owner over a restart; those of the operator have none', async () => {
    const disk = await DiskWorld.make({ ...jobs(), declaredPerUserMax: 1 }, { policy: NAMED })
    const a = await disk.connect('a', { username: 'anna' })
    await a.publish('$queue/box', 'x'.repeat(100_000), 1)
    await disk.settle()
    await disk.kill()
    expect(definitions(disk.world).byName.get('jobs')?.owner).toBe(null)
    expect(usage(disk.world, 'anna')).toMatchObject({ madeQueues: 1 })
    expect(usage(disk.world, 'anna').madeStoredBytes).toBe(100_000)
    const again = await disk.connect('a', { username: 'anna' })
    expect(await again.subscribe('$queue/other', 1)).toBe(0x97)
  })

  it('go on where a version that knew no owners made them', async () => {
    const disk = await DiskWorld.make({ declaredPerUserMax: 1 }, { policy: NAMED })
    const a = await disk.connect('a', { username: 'anna' })
    await a.publish('$queue/box', 'x', 1)
    const { numbers, origin } = definitions(disk.world).byName.get('box')!
    const record = { kind: 'queue', name: 'box', origin, properties: '{}', logs: numbers.logs } as const
    disk.store.logs.putDefinition(numbers.definition, { ...record, paused: false, owner: null })
    await disk.kill()
    expect(definitions(disk.world).byName.get('box')).toMatchObject({ owner: null, origin: 'use' })
    const again = await disk.connect('a', { username: 'anna' })
    await again.subscribe('$queue/other', 1)
    await disk.settle()
    expect(definitions(disk.world).byName.get('other')?.owner?.name).toBe('anna')
  })
})

describe('memory of a queue', () => {
  it('that a consumer holds is the consumer’s, until its Session ends', async () => {
    const world = await named({ declared: [{ name: 'box', properties: { prefetch: 1000 } }] })
    const p = await world.connect('p', { username: 'paul' })
    for (let count = 0; count < 200; count++) await p.publish('$queue/box', 'x', 1)
    const c = await world.connect('c', { username: 'carl', ...lasting() })
    const before = usage(world, 'carl').bytes
    await c.subscribe('$queue/box', 1)
    const held = usage(world, 'carl').bytes - before
    expect(held).toBeGreaterThan(200 * 300)
    const all = world.server.memoryBytes()
    await c.send({ cmd: 'disconnect', properties: { sessionExpiryInterval: 0 } })
    await world.settle()
    expect(world.server.state.usage.user('carl')?.bytes ?? 0).toBeLessThan(before)
    expect(world.server.memoryBytes()).toBeLessThan(all)
  })
})
