/** What one client may have the Server keep, with the limits as they are by default. */
import { describe, expect, it } from 'vitest'
import { COSTS, retainedBytes } from '../../src/broker/accounts/costs.ts'
import { DEFAULT_LIMITS } from '../../src/broker/boundary/limits.ts'
import { lasting, type TestClient, World } from '../broker/harness.ts'
import { field, packet, properties, uint16 } from '../mqtt/packets.ts'

function subscribe(filters: readonly string[], packetId = 1): Buffer {
  const requests = filters.flatMap((filter) => [field(filter), Buffer.from([1])])
  return packet(0x82, uint16(packetId), properties(), Buffer.concat(requests))
}

/** A user, whose name is what is asked for. */
const policy = {
  authenticate: ({ userName }: { readonly userName: string | undefined }) => ({
    allow: true as const,
    userName: userName ?? null,
  }),
}

const never = (more: Record<string, unknown> = {}) => lasting(0xffffffff, more)

/** Subscribes to so many groups of one filter, each with a name of its own, and leaves. */
async function openGroups(world: World, clientId: string, from: number, count: number, filter = 'foo/#') {
  const client = await world.connect(clientId, never({ username: 'mallory' }))
  for (let at = from; at < from + count; at += 10_000) {
    const names = Array.from({ length: Math.min(10_000, from + count - at) }, (_, index) => at + index)
    await client.bytes(subscribe(names.map((name) => `$share/${name}/${filter}`)))
  }
  await client.vanish()
}

/** Messages that wait for anybody. */
function queued(world: World): number {
  return [...world.server.state.sessions.values()].reduce((sum, { queueLength }) => sum + queueLength, 0)
}

describe('groups of Shared Subscriptions', () => {
  it('100,000 of one client on one filter: a message becomes a thousand, and others get theirs', async () => {
    const world = await World.make({ policy })
    await openGroups(world, 'greedy', 0, 100_000)
    const { counters } = world.server.state
    const [publisher, reader] = [await world.connect('p', { username: 'ada' }), await world.connect('r')]
    expect(await reader.subscribe('$share/ordinary/foo/#', 0)).toBe(0)
    for (let number = 0; number < 3; number++) await publisher.publish('foo/x', '15 bytes of text', 1)
    expect(queued(world)).toBeLessThanOrEqual(3 * 1000)
    expect(reader.texts()).toHaveLength(3)
    expect(counters.limits.shareGroupsPerMessageMax).toBe(99_000)
  })

  it('100 of each of 1,000 Sessions of one user, with the limits of the README, too', async () => {
    const world = await World.make({
      policy,
      limits: { connectionsMax: 500, packetBytesMax: 65_536, subscriptionsPerClientMax: 100 },
    })
    for (let session = 0; session < 1000; session++)
      await openGroups(world, `s${session}`, session * 100, 100)
    const publisher = await world.connect('p', { username: 'ada' })
    await publisher.publish('foo/x', '15 bytes of text', 1)
    expect(queued(world)).toBeLessThanOrEqual(1000)
    expect(world.server.state.sessions.size).toBe(1001)
  })

  it('of one user on ten filters that match the same: a message becomes a thousand in all', async () => {
    const world = await World.make({ policy })
    const filters = ['#', '+/#', '+/+', '+/+/#', 'foo/#', 'foo/+', 'foo/+/#', '+/x', '+/x/#', 'foo/x']
    for (const [index, filter] of filters.entries()) await openGroups(world, `c${index}`, 0, 500, filter)
    const publisher = await world.connect('p', { username: 'ada' })
    await publisher.publish('foo/x', 'x', 1)
    expect(queued(world)).toBeLessThanOrEqual(1000)
  })
})

describe('filters of 32,500 levels', () => {
  it('are refused, as are those of 2,000 in 4 KiB, and leave nothing behind', async () => {
    const world = await World.make()
    const client = await world.connect('deep')
    for (let count = 0; count < 16; count++) {
      const deep = (levels: number): string => `${count}/${'a/'.repeat(levels - 2)}#`
      const filters = [deep(32_500), deep(2000), `$share/g/${deep(2000)}`, deep(200)]
      const [suback] = await client.bytes(subscribe(filters))
      expect(suback).toMatchObject({ granted: [0x8f, 0x8f, 0x8f, 1] })
    }
    const { limits } = world.server.state.counters
    expect([limits.topicBytesMax, limits.topicLevelsMax]).toEqual([16, 32])
    expect(world.census()).toMatchObject({ subscriptions: 16, nodes: 16 })
  })

  it('get 0x80 in 3.1.1', async () => {
    const world = await World.make()
    const client = await world.connect('deep', {}, 4)
    const filter = `${'+/'.repeat(32_000)}#`
    const [suback] = await client.bytes(packet(0x82, uint16(1), field(filter), Buffer.from([1])))
    expect(suback).toMatchObject({ granted: [0x80] })
  })
})

describe('Sessions that never expire', () => {
  it('with Client Identifiers of 64 KB are refused with 0x85, in 3.1.1 with 2', async () => {
    const world = await World.make()
    const long = (number: number): string => `${number}`.padEnd(65_000, 'x')
    for (let number = 0; number < 50; number++) {
      const client = await world.connect(long(number), never())
      expect(client.connack).toMatchObject({ reasonCode: 0x85 })
      expect((await world.connect(long(number), { clean: false }, 4)).connack).toMatchObject({
        returnCode: 2,
      })
    }
    expect(world.census()).toMatchObject({ sessions: 0 })
  })
})

describe('Wills', () => {
  const will = (bytes: number, more = {}) => ({
    topic: 'gone',
    payload: Buffer.alloc(bytes),
    qos: 1,
    retain: false,
    properties: { willDelayInterval: 100_000_000, ...more },
  })

  it('of 1 MiB with a long delay are refused with 0x97, in 3.1.1 with 3', async () => {
    const world = await World.make()
    const large = { p: Array.from({ length: 15 }, () => 'x'.repeat(60_000)) }
    for (let number = 0; number < 20; number++) {
      const client = await world.connect(
        `w${number}`,
        never({ will: will(60_000, { userProperties: large }) }),
      )
      expect(client.connack).toMatchObject({ reasonCode: 0x97 })
    }
    const { payload, ...plain } = { ...will(65_535), properties: undefined }
    const old = await world.connect('old', { clean: false, will: { ...plain, payload } }, 4)
    expect(old.connack).toMatchObject({ returnCode: 3 })
    expect(world.server.state.wills.size).toBe(0)
    const { limits } = world.server.state.counters
    expect([limits.propertyBytesMax, limits.willBytesMax]).toEqual([20, 1])
  })

  it('of 60 KB never exceed wills_bytes_per_user_max for one user, and leave room for others', async () => {
    const world = await World.make({ policy, limits: { willsBytesPerUserMax: 4 * 1024 ** 2 } })
    const refused: TestClient[] = []
    for (let number = 0; number < 100; number++) {
      const client = await world.connect(`w${number}`, never({ username: 'mallory', will: will(60_000) }))
      if (client.connack?.cmd === 'connack' && client.connack.reasonCode !== 0) refused.push(client)
      else await client.vanish()
    }
    const each = COSTS.will + 60_000 + 'gone'.length
    expect(refused).toHaveLength(100 - Math.floor((4 * 1024 ** 2) / each))
    expect((await world.connect('a', never({ username: 'ada', will: will(60_000) }))).connack).toMatchObject({
      reasonCode: 0,
    })
  })
})

describe('tiny retained messages', () => {
  it('of 5 bytes are refused beyond what one user may have, long before 512 MiB are full', async () => {
    const world = await World.make({ policy, limits: { retainedMessagesPerUserMax: 20_000 } })
    const client = await world.connect('c', { username: 'mallory' })
    for (let at = 0; at < 40_000; at += 2000) {
      const messages = Array.from({ length: 2000 }, (_, index) =>
        packet(0x31, (at + index).toString(36), properties(), Buffer.from('5byte')),
      )
      await client.bytes(Buffer.concat(messages))
    }
    expect(world.server.state.retained.count).toBe(20_000)
    expect(DEFAULT_LIMITS.retainedMessagesPerUserMax * retainedBytes(20)).toBeLessThan(400 * 1024 ** 2)
    const other = await world.connect('o', { username: 'ada' })
    expect(await other.publish('state', 'x', 1, { retain: true })).toMatchObject([{ reasonCode: 0x10 }])
  })
})
