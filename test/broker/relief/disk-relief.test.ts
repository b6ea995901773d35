import { describe, expect, it } from 'vitest'
import { StoreError } from '../../../src/store/store.ts'
import { connectPacket, type Given, lasting, type TestClient, World } from '../harness.ts'

const MIB = 1024 * 1024

const authenticate = ({ userName }: { userName: string | null | undefined }) =>
  ({ allow: true, userName: userName ?? null }) as const

function as(username: string, more: Given = {}): Given {
  return { username, ...more }
}

/** `greedy` has 12 MiB in the queue of an absent client, `small` has little; both have a publisher. */
async function shortDisk(more: { queueFull?: 'drop-oldest' | 'drop-newest' } = {}): Promise<{
  world: World
  greedy: TestClient
  small: TestClient
}> {
  const limits = { profile: 'open', whenExhausted: 'refuse', ...more } as const
  const world = await World.make({ limits, policy: { authenticate } })
  for (const name of ['greedy', 'small']) {
    const hoard = await world.connect(`${name} hoard`, { ...lasting(), username: name })
    await hoard.subscribe(`${name}/#`, 1)
    await hoard.vanish()
  }
  const greedy = await world.connect('greedy pub', as('greedy'))
  const small = await world.connect('small pub', as('small'))
  for (let number = 0; number < 12; number++) await greedy.publish('greedy/t', `${number}`.padEnd(MIB), 1)
  await small.publish('small/t', 'first', 1)
  world.ledger.shortRoomBytes = 32 * MIB
  world.ledger.roomBytes = 20 * MIB
  await world.pass(1.1)
  return { world, greedy, small }
}

describe('a user who has most on the disk while it is short', () => {
  it('writes no more: its messages are refused with 0x97, unlike those of others', async () => {
    const { world, greedy, small } = await shortDisk()
    const limited = world.record('limited')
    expect(await greedy.publish('greedy/t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x97 }])
    expect(await greedy.publish('small/t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x97 }])
    expect(await greedy.publish('r', 'x', 0, { retain: true })).toEqual([])
    expect(world.server.state.retained.get('r')).toBeUndefined()
    expect(await greedy.publish('nobody', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x10 }])
    expect(await small.publish('small/t', 'second', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0 }])
    expect(await small.publish('r', 'x', 1, { retain: true })).toMatchObject([
      { cmd: 'puback', reasonCode: 0x10 },
    ])
    expect(world.server.state.counters.relief['publish-refused']).toBe(3)
    expect(limited.map(({ limit, clientId }) => [limit, clientId])).toEqual(
      Array(3).fill(['disk', 'greedy pub']),
    )
  })

  it('is named in health and events until there is room, with the key that changes it', async () => {
    const { world, greedy } = await shortDisk()
    expect(world.server.health).toMatchObject({ state: 'pressed' })
    expect(world.server.health.detail).toMatch(
      /^20 MiB may still be written .*data\.reserve_bytes.*: greedy with 12 MiB$/,
    )
    world.ledger.roomBytes = 35 * MIB
    await world.pass(1.1)
    expect(world.server.health.state).toBe('pressed')
    world.ledger.roomBytes = 41 * MIB
    await world.pass(1.1)
    expect(world.server.health).toEqual({ state: 'ok', detail: '' })
    expect(await greedy.publish('greedy/t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0 }])
    expect([...world.server.state.sessions.values()].some(({ queue }) => queue.isCapped)).toBe(false)
  })

  it.each(['drop-oldest', 'drop-newest'] as const)(
    'has queues that do not grow, as if full: %s; messages of others for them are acknowledged',
    async (queueFull) => {
      const { world, small } = await shortDisk({ queueFull })
      const relieved = world.server.state.counters.relief
      expect(relieved.capped).toBe(1)
      expect(await small.publish('greedy/t', 'new'.padEnd(MIB), 1)).toMatchObject([{ reasonCode: 0 }])
      expect(world.server.state.counters.drops['queue-full']).toBe(1)
      const back = await world.connect('greedy hoard', { ...lasting(), username: 'greedy' })
      const texts = (await back.drain()).map((text) => text.trim())
      const all = [...Array(12).keys()].map(String)
      expect(texts).toEqual(queueFull === 'drop-oldest' ? [...all.slice(1), 'new'] : all)
    },
  )

  it('may come back to its Sessions, but make no new stored ones', async () => {
    const { world } = await shortDisk()
    expect((await world.connect('greedy hoard', { ...lasting(), username: 'greedy' })).connack).toMatchObject(
      {
        reasonCode: 0,
        sessionPresent: true,
      },
    )
    const refused = world.open()
    const [connack] = await refused.send({ ...connectPacket('new'), ...lasting(), username: 'greedy' })
    expect(connack).toMatchObject({ cmd: 'connack', reasonCode: 0x97 })
    expect((await world.connect('clean', as('greedy'))).connack).toMatchObject({ reasonCode: 0 })
    expect((await world.connect('other', { ...lasting(), username: 'small' })).connack).toMatchObject({
      reasonCode: 0,
    })
    expect(world.server.state.counters.relief['session-refused']).toBe(1)
  })

  it('may clear a retained message', async () => {
    const { world, greedy } = await shortDisk()
    world.ledger.roomBytes = Number.POSITIVE_INFINITY
    await world.pass(1.1)
    await greedy.publish('r', 'kept', 1, { retain: true })
    world.ledger.roomBytes = 20 * MIB
    await world.pass(1.1)
    await greedy.publish('r', '', 1, { retain: true })
    expect(world.server.state.retained.get('r')).toBeUndefined()
  })

  it('is nobody if all have little: everybody goes on until the reserve', async () => {
    const { world, greedy } = await shortDisk()
    world.ledger.shortRoomBytes = 64 * MIB
    await world.pass(1.1)
    expect(world.server.health.state).toBe('ok')
    expect(await greedy.publish('greedy/t', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
  })

  it('is found again after the store was read again', async () => {
    const { world, greedy } = await shortDisk()
    // The disk becomes full, and everything that was not durable is lost: here all of it.
    world.ledger.fail(new StoreError('full', 'the disk is full', ''))
    await world.settle()
    await world.pass(1.1)
    expect(world.server.health).toEqual({ state: 'ok', detail: '' })
    expect(greedy.closed).toBe(false)
    const hoard = await world.connect('greedy hoard', { ...lasting(), username: 'greedy' })
    await hoard.subscribe('greedy/#', 1)
    await hoard.vanish()
    for (let number = 0; number < 12; number++) await greedy.publish('greedy/t', `${number}`.padEnd(MIB), 1)
    await world.pass(1.1)
    expect(world.server.health.state).toBe('pressed')
    expect(await greedy.publish('greedy/t', 'x', 1)).toMatchObject([{ reasonCode: 0x97 }])
  })
})
