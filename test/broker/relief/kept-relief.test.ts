import { describe, expect, it } from 'vitest'
import { connectPacket, type Given, lasting, World } from '../harness.ts'

const MIB = 1024 * 1024

const policy = {
  authenticate: ({ userName }: { userName: string | null | undefined }) =>
    ({ allow: true, userName: userName ?? null }) as const,
}

const limits = { profile: 'open', memoryBytesMax: 4 * MIB, whenExhausted: 'refuse' } as const

function of(username: string, more: Given = {}): Given {
  return { ...lasting(1000, more), username }
}

/** Returns a filter that takes about 10 KB. */
function long(name: string): string {
  return `${name}/${'x'.repeat(10_000)}`
}

/** `greedy` has 2.6 MiB of Subscriptions in a Session that is stored, `small` has next to nothing. */
async function manySubscriptions() {
  const world = await World.make({ limits, policy })
  const greedy = await world.connect('greedy 1', of('greedy'))
  const small = await world.connect('small 1', of('small'))
  for (let number = 0; number < 260; number++) await greedy.subscribe(long(`${number}`), 1)
  await world.pass(1.1)
  return { world, greedy, small }
}

/** `greedy` has 3.3 MiB of retained messages. */
async function manyRetained() {
  const world = await World.make({ limits, policy })
  const greedy = await world.connect('greedy 1', of('greedy'))
  const small = await world.connect('small 1', of('small'))
  for (let number = 0; number < 330; number++)
    await greedy.publish(`r/${number}`, 'x'.repeat(10_000), 1, { retain: true })
  await world.pass(1.1)
  return { world, greedy, small }
}

describe('a user with most of the Sessions, Subscriptions and Wills in memory', () => {
  it('gets no further Subscriptions (0x97); others do', async () => {
    const { world, greedy, small } = await manySubscriptions()
    const limited = world.record('limited')
    expect(await greedy.subscribe(long('another'), 1)).toBe(0x97)
    expect(await greedy.subscribe('short', 1)).toBe(0x97)
    expect(await small.subscribe(long('another'), 1)).toBe(1)
    const device = await world.connect('greedy 2', { username: 'greedy' })
    expect(await device.subscribe('short', 1)).toBe(1)
    expect(limited.map(({ limit, clientId }) => [limit, clientId])).toEqual(
      Array(2).fill(['memoryBytesMax', 'greedy 1']),
    )
    expect(world.server.health.state).toBe('pressed')
    const { detail } = world.server.health
    expect(detail).toMatch(/^3 MiB are in memory for Sessions.*limits\.memory_bytes_max is 4 MiB; /)
    expect(detail).toMatch(/ is 4 MiB; those who have most get no more: greedy with 3 MiB$/)
  })

  it('may resume Sessions and subscribe again, but make no stored ones, or ones with a Will', async () => {
    const { world, greedy } = await manySubscriptions()
    await greedy.vanish()
    const again = await world.connect('greedy 1', of('greedy'))
    expect(again.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
    expect(await again.subscribe(long('1'), 1)).toBe(1)
    const will = { topic: 'gone', payload: Buffer.from('x'), qos: 1, retain: false }
    for (const given of [of('greedy'), { username: 'greedy', will }]) {
      const refused = world.open()
      const [connack] = await refused.send({ ...connectPacket('greedy 2'), properties: {}, ...given })
      expect(connack).toMatchObject({ cmd: 'connack', reasonCode: 0x97 })
    }
    expect((await world.connect('greedy 3', { username: 'greedy' })).connack).toMatchObject({ reasonCode: 0 })
    expect((await world.connect('small 2', of('small', { will }))).connack).toMatchObject({ reasonCode: 0 })
    expect(world.server.state.counters.relief['session-refused']).toBe(2)
  })

  it('may go on once it has given up some of them', async () => {
    const { world, greedy } = await manySubscriptions()
    for (let number = 0; number < 20; number++) await greedy.unsubscribe(long(`${number}`))
    await world.pass(1.1)
    expect(await greedy.subscribe(long('another'), 1)).toBe(0x97)
    for (let number = 20; number < 40; number++) await greedy.unsubscribe(long(`${number}`))
    await world.pass(1.1)
    expect(world.server.health).toEqual({ state: 'ok', detail: '' })
    expect(await greedy.subscribe(long('another'), 1)).toBe(1)
  })
})

describe('a user with most of the retained messages in memory', () => {
  it('may replace and clear retained messages, but add none (0x97); others may', async () => {
    const { world, greedy, small } = await manyRetained()
    const retain = { retain: true }
    expect(await greedy.publish('r/new', 'x', 1, retain)).toMatchObject([{ reasonCode: 0x97 }])
    expect(await greedy.publish('r/1', 'x'.repeat(10_001), 1, retain)).toMatchObject([{ reasonCode: 0x97 }])
    expect(await greedy.publish('r/1', 'y'.repeat(10_000), 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await greedy.publish('r/2', '', 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await greedy.publish('r/new', 'x', 1)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await small.publish('s', 'x', 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(world.server.state.retained.get('r/2')).toBeUndefined()
    expect(world.server.state.counters.relief['publish-refused']).toBe(2)
    expect((await world.connect('clears', { username: 'greedy' })).connack).toMatchObject({ reasonCode: 0 })
  })

  it('half-way to the limit, is joined by all with much, before a second one takes the rest', async () => {
    const { world, small } = await manyRetained()
    const second = await world.connect('second', of('second'))
    const retain = { retain: true }
    const answers: (number | undefined)[] = []
    for (let number = 0; number < 60; number++) {
      const [puback] = await second.publish(`s/${number}`, 'x'.repeat(10_000), 1, retain)
      answers.push((puback as { reasonCode?: number }).reasonCode)
      await world.pass(1.1)
    }
    expect(new Set(answers)).toEqual(new Set([0x10, 0x97]))
    expect(await small.publish('s', 'x', 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
  })

  it('cannot add any by a Will', async () => {
    const { world, greedy } = await manyRetained()
    await greedy.vanish()
    const will = { topic: 'r/will', payload: Buffer.from('x'), qos: 1, retain: true }
    const back = await world.connect('greedy 1', of('greedy', { will }))
    expect(back.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
    await back.vanish()
    await world.pass(1.1)
    expect(world.server.state.retained.get('r/will')).toBeUndefined()
  })
})

describe('Sessions and Subscriptions of very many users', () => {
  const names = [...Array(40).keys()].map((number) => `user ${number}`)

  /** Each has some 80 KB for every 8 of `subscriptions`. */
  async function crowd(subscriptions: number): Promise<World> {
    const world = await World.make({ limits, policy })
    for (const name of names) {
      const client = await world.connect(name, of(name))
      for (let number = 0; number < subscriptions; number++)
        await client.subscribe(long(`${name}/${number}`), 1)
    }
    await world.pass(1.1)
    return world
  }

  it('are allowed as long as nobody has many of them', async () => {
    const world = await crowd(7)
    expect(world.server.state.usage.total.subscriptionBytes).toBeGreaterThan(0.6 * 4 * MIB)
    expect(world.server.health.state).toBe('ok')
    const client = await world.connect('user 1', of('user 1'))
    expect(await client.subscribe('another', 1)).toBe(1)
  })

  it('are refused for everybody once memory is nearly full of them', async () => {
    const world = await crowd(9)
    const client = await world.connect('user 1', of('user 1'))
    expect(client.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
    expect(await client.subscribe('another', 1)).toBe(0x97)
    expect(world.server.health.detail).toMatch(/nobody gets more$/)
  })
})
