/** Memory and disk that queues take: whoever made those that take most pays first, and others go on. */
import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import { lasting, type TestClient, World } from '../harness.ts'
import { DiskWorld, puback, publishes } from './queue-world.ts'

const MIB = 1024 * 1024

/** The user name is the user. */
const policy: Policy = {
  authenticate: ({ userName }) => ({ allow: true, userName: userName ?? null }),
}

const LATER = { reasonCode: 0x80, properties: { userProperties: { 'retry-after': '86400' } } }

/** Publishes some messages of one byte. Resolves with the Reason Codes of all PUBACK packets. */
async function put(disk: DiskWorld, client: TestClient, topic: string, count: number): Promise<number[]> {
  const sent = Array.from({ length: count }, () => client.publish(topic, 'x', 1))
  await disk.settle()
  const packets = [...(await Promise.all(sent)).flat(), ...client.got()]
  return packets.flatMap((packet) => (packet.cmd === 'puback' ? [packet.reasonCode ?? 0] : []))
}

describe('a user whose queues have most of the memory', () => {
  const limits = { profile: 'open', memoryBytesMax: MIB, whenExhausted: 'refuse', inFlightMax: 100 } as const

  /** `greedy` has messages deferred, which take memory each, until it is told to stop. */
  async function manyDeferred(): Promise<{ disk: DiskWorld; greedy: TestClient; worker: TestClient }> {
    const disk = await DiskWorld.make({}, { limits, policy })
    const { world } = disk
    const greedy = await disk.connect('greedy pub', { username: 'greedy' })
    const worker = await disk.connect('greedy worker', { username: 'greedy' })
    void worker.subscribe('$queue/box;prefetch=100', 1)
    await disk.settle()
    worker.got()
    for (let count = 0; count < 120; count++) {
      const codes = await put(disk, greedy, '$queue/box', 50)
      for (const { id } of publishes(worker)) await puback(worker, id, LATER)
      await world.pass(1.1)
      if (codes.includes(0x97)) return { disk, greedy, worker }
    }
    throw new Error('it is never told to stop')
  }

  it('is refused first (0x97), and its queues do not grow; others go on', async () => {
    const { disk, greedy, worker } = await manyDeferred()
    const { world } = disk
    expect(world.server.health.detail).toMatch(/message queues.*those who have most get no more: greedy with/)
    const box = world.server.queues!.definitions.byName.get('box')!
    expect(box.isCapped).toBe(true)
    expect(await put(disk, greedy, '$queue/box', 1)).toEqual([0x97])
    const small = await disk.connect('small', { ...lasting(), username: 'small' })
    expect(small.connack).toMatchObject({ reasonCode: 0 })
    void small.subscribe('$queue/mine', 1)
    await disk.settle()
    expect(small.got()).toMatchObject([{ cmd: 'suback', granted: [1] }])
    const sent = small.publish('$queue/mine', 'hello', 1)
    await disk.settle()
    const got = [...(await sent), ...small.got()]
    expect(got).toContainEqual(expect.objectContaining({ cmd: 'puback', reasonCode: 0 }))
    expect(got).toContainEqual(expect.objectContaining({ cmd: 'publish', payload: Buffer.from('hello') }))
    // Others cannot fill its queues either.
    const { messages } = box.group.states
    expect(await put(disk, small, '$queue/box', 5)).toEqual(Array(5).fill(0x97))
    expect(box.group.states.messages).toBe(messages)
    expect(publishes(worker)).toEqual([])
  })

  it('goes on once its queue is gone', async () => {
    const { disk, greedy } = await manyDeferred()
    const { definitions } = disk.world.server.queues!
    definitions.delete(definitions.byName.get('box')!, 'operator')
    await disk.settle()
    await disk.world.pass(1.1)
    expect(disk.world.server.health.state).toBe('ok')
    expect(await put(disk, greedy, '$queue/box', 1)).toEqual([0])
  })
})

describe('a user whose queues have most of the disk while it is short', () => {
  it('is refused first (0x97), and its queues do not grow; others go on', async () => {
    const world = await World.make({
      limits: { profile: 'open', whenExhausted: 'refuse' },
      policy,
      queues: {},
    })
    const greedy = await world.connect('greedy', { username: 'greedy' })
    const small = await world.connect('small', { username: 'small' })
    for (let number = 0; number < 12; number++) await greedy.publish('$queue/box', 'x'.padEnd(MIB), 1)
    await small.publish('$queue/mine', 'first', 1)
    world.ledger.shortRoomBytes = 32 * MIB
    world.ledger.roomBytes = 20 * MIB
    await world.pass(1.1)
    expect(world.server.health.detail).toMatch(/: greedy with 12 MiB$/)
    expect(await greedy.publish('$queue/box', 'x', 1)).toMatchObject([{ reasonCode: 0x97 }])
    expect(await small.publish('$queue/mine', 'second', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(await small.publish('$queue/box', 'x', 1)).toMatchObject([
      { reasonCode: 0x97, properties: { reasonString: expect.stringContaining('its owner has much') } },
    ])
    world.ledger.roomBytes = 60 * MIB
    await world.pass(1.1)
    expect(world.server.health.state).toBe('ok')
    expect(await greedy.publish('$queue/box', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(await small.publish('$queue/box', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
  })
})
