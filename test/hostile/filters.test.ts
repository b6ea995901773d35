/** Very many topic filters, very deep ones, and those that match very much. */
import { describe, expect, it } from 'vitest'
import { lasting, textsOf, World } from '../broker/harness.ts'
import { field, packet, properties, uint16 } from '../mqtt/packets.ts'

function subscribe(filters: readonly string[], packetId = 1): Buffer {
  const requests = filters.flatMap((filter) => [field(filter), Buffer.from([1])])
  return packet(0x82, uint16(packetId), properties(), Buffer.concat(requests))
}

function unsubscribe(filters: readonly string[], packetId = 2): Buffer {
  return packet(0xa2, uint16(packetId), properties(), Buffer.concat(filters.map((filter) => field(filter))))
}

const filtersOf = (count: number): string[] => Array.from({ length: count }, (_, index) => `f/${index}`)

describe('one SUBSCRIBE of very many filters', () => {
  it('is handled in slices: others are served in between, and later packets keep their order', async () => {
    const world = await World.make()
    const greedy = await world.connect('greedy')
    const other = await world.connect('other')
    await other.subscribe('o', 0)
    const { router, turn } = world.server.state
    const steps: number[] = []
    const begin = turn.begin.bind(turn)
    turn.begin = () => {
      const count = router.subscriptionCount
      if (steps.at(-1) !== count) steps.push(count)
      begin()
    }
    const filters = filtersOf(100_000)
    const bytes = Buffer.concat([subscribe(filters), Buffer.from([0xc0, 0])])
    greedy.link.handler!.received(bytes.subarray(0, 1000))
    greedy.link.handler!.received(bytes.subarray(1000))
    expect(router.subscriptionCount).toBeLessThan(1000)
    expect(textsOf(await other.publish('o', 'served'))).toEqual(['served'])
    await world.settle()
    expect(greedy.got().map(({ cmd }) => cmd)).toEqual(['suback', 'pingresp'])
    expect(router.subscriptionCount).toBe(100_001)
    const largest = Math.max(...steps.slice(1).map((count, index) => count - steps[index]!))
    expect(largest).toBeLessThanOrEqual(512)
    expect(greedy.link.paused).toBe(false)

    steps.length = 0
    await greedy.bytes(unsubscribe(filters))
    expect(router.subscriptionCount).toBe(1)
    expect(Math.max(...steps.slice(1).map((count, index) => steps[index]! - count))).toBeLessThanOrEqual(512)
  })

  it('one code per filter, in order, whatever each of them is', async () => {
    const refusedSubscriptions = [{ filter: 'f/1500', reasonCode: 0x87 }] as const
    const world = await World.make({ limits: { refusedSubscriptions, subscriptionsPerClientMax: 2000 } })
    const client = await world.connect('c')
    const [suback] = await client.bytes(subscribe(filtersOf(3000)))
    const granted = Array.from({ length: 3000 }, (_, at) => (at === 1500 ? 0x87 : at > 2000 ? 0x97 : 1))
    expect(suback).toMatchObject({ cmd: 'suback', messageId: 1, granted })
  })

  it('whose client vanishes in the middle leaves nothing behind', async () => {
    const world = await World.make()
    const client = await world.connect('c')
    client.link.handler!.received(subscribe(filtersOf(50_000)))
    // All of them are checked first, in slices, too.
    const { router } = world.server.state
    for (let turn = 0; turn < 100 && router.subscriptionCount === 0; turn++) await world.turn()
    expect(router.subscriptionCount).toBeGreaterThan(0)
    expect(router.subscriptionCount).toBeLessThan(50_000)
    await client.vanish()
    expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0, nodes: 0, connections: 0 })
  })

  it('with a wrong filter at its end does nothing at all', async () => {
    const world = await World.make()
    const client = await world.connect('c')
    const [disconnect] = await client.bytes(subscribe([...filtersOf(50_000), 'a#']))
    expect(disconnect).toMatchObject({ cmd: 'disconnect', reasonCode: 0x8f })
    expect(world.census()).toMatchObject({ subscriptions: 0, sessions: 0 })
  })

  it('a policy that thinks is asked slice by slice, and the order stays', async () => {
    const world = await World.make({
      policy: { authorizeSubscribe: async (_client, filter) => !filter.endsWith('7') },
    })
    const client = await world.connect('c')
    const filters = filtersOf(2000)
    const [suback, pingresp] = await client.bytes(Buffer.concat([subscribe(filters), Buffer.from([0xc0, 0])]))
    expect(suback).toMatchObject({ granted: filters.map((filter) => (filter.endsWith('7') ? 0x87 : 1)) })
    expect(pingresp).toMatchObject({ cmd: 'pingresp' })
  })

  it('retained messages come for each, after SUBACK; a stored Session keeps them in a crash', async () => {
    const world = await World.make()
    const publisher = await world.connect('publisher')
    for (const filter of ['f/0', 'f/700', 'f/1999'])
      await publisher.publish(filter, filter, 0, { retain: true })
    while (await world.commit());
    const plain = await world.connect('plain')
    const answers = await plain.bytes(subscribe(filtersOf(2000)))
    expect(answers[0]!.cmd).toBe('suback')
    expect(textsOf(answers).sort()).toEqual(['f/0', 'f/1999', 'f/700'])

    const stored = await world.connect('stored', lasting())
    stored.link.stuck = true
    await stored.bytes(subscribe(filtersOf(2000)))
    while (await world.commit());
    expect(world.server.retainedDeliveries).toBe(0)
    expect(world.server.state.sessions.get('stored')!.subscriptions.size).toBe(2000)
  })
})

describe('100,000 Subscriptions of one client', () => {
  it('cost a publisher to another topic nothing, and end with their Session', async () => {
    const world = await World.make()
    const greedy = await world.connect('greedy')
    for (let number = 0; number < 10; number++) {
      const filters = Array.from({ length: 10_000 }, (_, index) => `+/${number}/${index}/#`)
      await greedy.bytes(subscribe(filters))
    }
    const { router } = world.server.state
    expect(router.subscriptionCount).toBe(100_000)
    const publisher = await world.connect('publisher')
    await publisher.publish('quiet/topic', 'x')
    const { misses } = router
    for (let times = 0; times < 100; times++) await publisher.publish('quiet/topic', 'x')
    expect(router.misses).toBe(misses)
    await publisher.publish('any/3/77/deep', 'found')
    expect(greedy.texts()).toEqual(['found'])
    await greedy.vanish()
    expect(world.census()).toMatchObject({ subscriptions: 0, nodes: 0, sessions: 1 })
  })
})

describe('filters of 65,535 levels', () => {
  const literal = '/'.repeat(65_534)
  const pluses = `${'+/'.repeat(32_766)}+`
  const shared = `$share/g/${'+/'.repeat(32_000)}+`

  it('match what they should, and are forgotten without a trace', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    const client = await world.connect('deep')
    for (const filter of [literal, pluses, `${'+/'.repeat(32_766)}#`, shared]) {
      expect(await client.subscribe(filter, 1)).toBe(1)
    }
    const publisher = await world.connect('publisher')
    await publisher.publish(literal, 'literal')
    expect(client.texts()).toEqual(['literal'])
    await publisher.publish(`${'a/'.repeat(32_000)}a`, 'pluses')
    expect(client.texts()).toEqual(['pluses'])
    for (const filter of [literal, pluses, `${'+/'.repeat(32_766)}#`, shared]) {
      expect(await client.unsubscribe(filter)).toBe(0)
    }
    expect(world.server.state.router.nodeCount).toBe(0)
  })

  it('that share all levels cost as much as their bytes; a topic is looked up once per level', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    const client = await world.connect('deep')
    const long = '+/'.repeat(32_000)
    for (let number = 0; number < 50; number++) await client.subscribe(`${long}${number}`, 0)
    const { router } = world.server.state
    expect(router.nodeCount).toBeLessThan(32_000 + 200)
    const publisher = await world.connect('publisher')
    await publisher.publish(`${'x/'.repeat(32_000)}7`, 'found')
    expect(client.texts()).toEqual(['found'])
    await client.vanish()
    expect(router.nodeCount).toBe(0)
  })

  it('retained messages are found by them, and by # under 65,535 levels', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    const publisher = await world.connect('publisher')
    await publisher.publish(literal, 'deep', 0, { retain: true })
    for (const filter of [literal, '#', `${'/'.repeat(60_000)}#`, '+/#']) {
      const client = await world.connect('reader')
      await client.subscribe(filter, 0)
      expect(client.texts()).toEqual(['deep'])
    }
  })

  it('are refused and counted where the operator has a limit', async () => {
    const world = await World.make({ limits: { profile: 'open', topicLevelsMax: 100 } })
    const client = await world.connect('deep')
    for (const filter of [literal, pluses, shared]) {
      expect(await client.subscribe(filter, 1)).toBe(0x8f)
    }
    expect(world.server.state.counters.limits.topicLevelsMax).toBe(3)
    expect(client.closed).toBe(false)
  })
})

describe('filters that share no work', () => {
  it('every combination of + and a literal: a topic costs at most what there are branches', async () => {
    const world = await World.make()
    const client = await world.connect('combined')
    const filters = Array.from({ length: 2 ** 12 }, (_, bits) =>
      Array.from({ length: 12 }, (_, level) => ((bits >> level) & 1 ? 'a' : '+')).join('/'),
    )
    await client.bytes(subscribe(filters))
    const publisher = await world.connect('publisher')
    await publisher.publish(Array(12).fill('a').join('/'), 'once')
    expect(client.texts()).toEqual(['once']) // one message however many Subscriptions match
  })
})

describe('a Subscription to # among very many retained messages', () => {
  it('is served in slices with everybody else, and its client may vanish', async () => {
    const world = await World.make()
    const publisher = await world.connect('publisher')
    for (let number = 0; number < 20_000; number++) {
      publisher.link.handler!.received(packet(0x31, `r/${number}`, properties(), Buffer.from('x')))
    }
    await world.settle()
    const greedy = Array.from({ length: 5 }, (_, number) => world.connect(`greedy${number}`))
    for (const client of await Promise.all(greedy)) {
      client.link.stuck = true
      client.link.handler!.received(subscribe(['#']))
    }
    expect(world.server.retainedDeliveries).toBe(5)
    const other = await world.connect('other')
    await other.subscribe('o', 0)
    expect(textsOf(await other.publish('o', 'served'))).toEqual(['served'])
    expect(world.server.memoryBytes()).toBeLessThan(5 * 5 * 1024 ** 2)
    for (const client of await Promise.all(greedy)) await client.vanish()
    expect(world.server.retainedDeliveries).toBe(0)
  })
})
