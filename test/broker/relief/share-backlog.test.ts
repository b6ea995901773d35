import { describe, expect, it } from 'vitest'
import type { ClientView } from '../../../src/broker/boundary/policy.ts'
import { lasting, type TestClient, textsOf, World } from '../harness.ts'

const SHARE = '$share/g/t'

/** Makes a member of the group that takes `receiveMaximum` messages at a time. */
async function member(world: World, clientId: string, receiveMaximum: number, qos: 0 | 1 | 2 = 1) {
  const client = await world.connect(clientId, {
    clean: false,
    properties: { sessionExpiryInterval: 1000, receiveMaximum },
  })
  await client.subscribe(SHARE, qos)
  return client
}

async function publishAll(world: World, from: number, to: number, qos: 0 | 1 | 2 = 1): Promise<void> {
  for (let n = from; n < to; n++) {
    void world.server.publish({ topic: 't', payload: Buffer.from(`${n}`), qos, retain: false, publisher: '' })
  }
  await world.settle()
}

const numbers = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, n) => `${from + n}`)

function texts(client: TestClient): string[] {
  const packets = client.got()
  client.link.packets.unshift(...packets)
  return textsOf(packets)
}

describe('messages of a Shared Subscription', () => {
  it('that wait for a member without acknowledgements go to one with room again [field-B11]', async () => {
    const world = await World.make()
    const slow = await member(world, 'slow', 1)
    const fast = await member(world, 'fast', 1)
    await publishAll(world, 0, 20)
    expect([texts(slow), texts(fast)]).toEqual([['0'], ['1']])
    // All the rest in order, including messages queued for the slow one.
    expect(await fast.drain()).toEqual(numbers(1, 20))
    expect(await slow.drain()).toEqual(['0'])
    expect(world.server.state.sessions.get('slow')).toMatchObject({ queueLength: 0, inFlightCount: 0 })
  })

  it('that wait go to a member that gets its right to the Subscription back [field-B11]', async () => {
    const world = await World.make()
    let isDenied = false
    const policy = { authorizeSubscribe: ({ clientId }: ClientView) => !(isDenied && clientId === 'other') }
    world.server.usePolicy(policy)
    const slow = await member(world, 'slow', 1)
    await member(world, 'other', 10)
    isDenied = true
    world.server.usePolicy(policy)
    await world.server.reauthorized()
    const other = await world.connect('other', lasting())
    await publishAll(world, 0, 5)
    expect(texts(slow)).toEqual(['0'])
    expect(texts(other)).toEqual([])
    isDenied = false
    world.server.usePolicy(policy)
    await world.server.reauthorized()
    await world.settle()
    expect(await other.drain()).toEqual(numbers(1, 5))
  })

  it('that were queued for absent members go to one that connects, by its options [field-B11]', async () => {
    const world = await World.make()
    const away = await member(world, 'away', 10)
    await away.vanish()
    await publishAll(world, 0, 30)
    expect(world.server.state.sessions.get('away')).toMatchObject({ queueLength: 30 })
    const other = await world.connect('other', { properties: { receiveMaximum: 5 } })
    await other.subscribe(SHARE, 1, {}, { subscriptionIdentifier: 7 })
    const packets = other.got()
    expect(packets.map((p) => p.cmd === 'publish' && [p.qos, p.properties?.subscriptionIdentifier])).toEqual(
      Array(5).fill([1, 7]),
    )
    other.link.packets.unshift(...packets)
    expect(await other.drain()).toEqual(numbers(0, 30))
    const back = await world.connect('away', lasting())
    expect(await back.drain()).toEqual([])
  })

  it('that a member leaves behind go to idle ones, unless they were sent to it [field-B11]', async () => {
    for (const qos of [1, 2] as const) {
      const world = await World.make()
      const gone = await member(world, 'gone', 2, qos)
      await publishAll(world, 0, 6, qos)
      const idle = await member(world, 'idle', 10, qos)
      expect([texts(gone), texts(idle)]).toEqual([numbers(0, 2), numbers(2, 6)])
      await gone.vanish()
      expect(await idle.drain()).toEqual(numbers(2, 6))
      const back = await world.connect('gone', lasting())
      expect(await back.drain()).toEqual(numbers(0, 2))
    }
  })

  it('are moved in one commit, and sent after it [field-B11]', async () => {
    const world = await World.make()
    const away = await member(world, 'away', 10)
    await away.vanish()
    await publishAll(world, 0, 1)
    world.ledger.automatic = false
    const before = world.ledger.lines.length
    const other = world.open()
    other.link.handler!.received(Buffer.alloc(0))
    const stored = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'other', keepalive: 0 }
    await other.send({ ...stored, ...lasting() })
    await world.commit()
    const subscriptions = [{ topic: SHARE, qos: 1, nl: false, rap: false, rh: 0 }]
    await other.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    other.got()
    expect(world.ledger.lines.slice(before).filter((line) => /dropped|enqueue|sent/.test(line))).toEqual([
      expect.stringContaining('dropped 1'),
      expect.stringContaining('enqueue 2'),
      expect.stringContaining('sent 2'),
    ])
    await world.commit()
    expect(other.texts()).toEqual(['0'])
  })

  it('stay where they are behind a message of another Subscription [field-B11]', async () => {
    const world = await World.make()
    const away = await member(world, 'away', 10)
    await away.subscribe('own', 1)
    await away.vanish()
    await (await world.connect('pub')).publish('own', 'own', 1)
    await publishAll(world, 0, 2)
    const other = await member(world, 'other', 10)
    expect(await other.drain()).toEqual([])
    expect(await (await world.connect('away', lasting())).drain()).toEqual(['own', '0', '1'])
  })

  it('are not given to a member that the policy denies them [field-B11]', async () => {
    const policy = { authorizeReceive: ({ clientId }: { clientId: string }) => clientId !== 'denied' }
    const world = await World.make({ policy })
    await (await member(world, 'away', 10)).vanish()
    await publishAll(world, 0, 2)
    const denied = await member(world, 'denied', 10)
    expect(await denied.drain()).toEqual([])
    const allowed = await member(world, 'allowed', 10)
    expect(await allowed.drain()).toEqual(['0', '1'])
  })

  it('at QoS 0 wait for absent members if QoS 0 is queued [field-B11]', async () => {
    const world = await World.make({ limits: { queueQos0: true } })
    const away = await member(world, 'away', 10, 0)
    await away.vanish()
    await publishAll(world, 0, 3, 0)
    const back = await world.connect('away', lasting())
    expect(back.texts()).toEqual(['0', '1', '2'])
    const without = await World.make()
    await (await member(without, 'away', 10, 0)).vanish()
    const dropped = without.record('dropped')
    await publishAll(without, 0, 3, 0)
    expect(dropped.map(({ reason }) => reason)).toEqual(Array(3).fill('offline'))
  })

  it('count as work the members that are looked at, for each message and acknowledgement', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    const members = 2000
    for (let at = 0; at < members; at++) {
      const away = await member(world, `away${at}`, 10)
      away.link.destroy()
    }
    await world.settle()
    const slow = await member(world, 'slow', 1)
    const { work } = world.server.state
    await publishAll(world, 0, 1)
    expect(texts(slow)).toEqual(['0'])
    slow.got()
    const before = work.units
    await publishAll(world, 1, 11)
    expect(work.units - before).toBeGreaterThan((10 * members) / 8)
    const from = work.units
    expect(textsOf(await slow.send({ cmd: 'puback', messageId: 1 }))).toEqual(['1'])
    expect(work.units - from).toBeGreaterThan(members / 8)
  })

  it('are not searched for stored members', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    let asked = 0
    for (let at = 0; at < 300; at++) {
      const client = await world.connect(`c${at}`)
      await client.subscribe(SHARE, 1)
      const session = world.server.state.sessions.get(`c${at}`)!
      Object.defineProperty(session, 'stored', {
        get: () => {
          asked++
          return false
        },
      })
    }
    await publishAll(world, 0, 1)
    // By the one that gets it.
    expect(asked).toBeLessThan(20)
    const group = world.server.state.router.shareGroup(SHARE)!
    expect(group.kept).toBe(0)
    const kept = await member(world, 'kept', 1)
    expect(group.kept).toBe(1)
    await kept.subscribe(SHARE, 0)
    expect(group.kept).toBe(0)
    await kept.subscribe(SHARE, 2)
    await kept.subscribe(SHARE, 1)
    expect(group.kept).toBe(1)
    await kept.unsubscribe(SHARE)
    expect(group.kept).toBe(0)
  })
})
