import { describe, expect, it } from 'vitest'
import { Message, Topic } from '../../src/mqtt/message.ts'
import { SESSION_NEVER_EXPIRES } from '../../src/mqtt/packet.ts'
import { lasting, World } from './harness.ts'

const KEEP = { retain: true }

describe('retained messages', () => {
  it('keep no memory alive but their own, also where a subscriber waits for them', async () => {
    const world = await World.make()
    await (await world.connect('sub', lasting())).subscribe('#', 1)
    const pub = await world.connect('pub')
    for (const qos of [0, 1, 2] as const) {
      await pub.publish(`t${qos}`, 'payload', qos, KEEP)
      const { payload, wire4, wire5 } = world.server.state.retained.get(`t${qos}`)!
      expect([payload.buffer.byteLength, wire4, wire5]).toEqual([7, null, null])
    }
  })

  it('[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] are set, replaced, and cleared by an empty payload', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const set = world.record('retainedSet')
    const cleared = world.record('retainedCleared')
    const seen = async () => {
      const sub = await world.connect('sub')
      await sub.subscribe('#', 1)
      return sub.got().map((p) => (p.cmd === 'publish' ? `${p.topic} ${p.payload} ${p.retain} ${p.qos}` : ''))
    }
    await pub.publish('a', '1', 1, KEEP)
    await pub.publish('b', '2', 0, KEEP)
    await pub.publish('b', 'passing', 0)
    expect(await seen()).toEqual(['a 1 true 1', 'b 2 true 0'])
    await pub.publish('a', '3', 2, KEEP)
    expect(await seen()).toEqual(expect.arrayContaining(['a 3 true 1', 'b 2 true 0']))
    await pub.publish('a', '', 1, KEEP)
    await pub.publish('none', '', 0, KEEP)
    expect(await seen()).toEqual(['b 2 true 0'])
    expect(set).toHaveLength(3)
    expect(cleared).toEqual([{ topic: 'a' }])
    expect(world.ledger.lines).toEqual([
      'putRetained a',
      'putRetained b',
      'putRetained a',
      'deleteRetained a',
    ])
  })

  it('the empty message itself is delivered to those who are subscribed', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 0, { rap: true })
    const pub = await world.connect('pub')
    await pub.publish('t', '', 0, KEEP)
    expect(sub.got()).toMatchObject([{ cmd: 'publish', retain: true, payload: Buffer.alloc(0) }])
  })

  it('[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] Retain Handling', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 0, KEEP)
    const sub = await world.connect('sub')
    const counts: number[] = []
    for (const rh of [2, 0, 0, 1, 2]) {
      await sub.subscribe('t', 0, { rh })
      counts.push(sub.got().length)
    }
    await sub.unsubscribe('t')
    await sub.subscribe('t', 0, { rh: 1 })
    expect([...counts, sub.got().length]).toEqual([0, 1, 1, 0, 0, 1])
    const old = await world.connect('old', {}, 4)
    await old.subscribe('t')
    await old.subscribe('t')
    expect(old.texts()).toEqual(['x', 'x'])
  })

  it('come after the SUBACK, with the identifier of the Subscription', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 1, KEEP)
    const sub = await world.connect('sub')
    const subscriptions = [{ topic: '#', qos: 1, nl: false, rap: false, rh: 0 }]
    const properties = { subscriptionIdentifier: 5 }
    expect(await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions, properties })).toMatchObject([
      { cmd: 'suback' },
      { cmd: 'publish', qos: 1, retain: true, properties: { subscriptionIdentifier: 5 } },
    ])
    expect(sub.link.writes).toBe(2)
  })

  it('a retained message waits for its commit before it is acknowledged', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const sub = await world.connect('sub')
    await sub.subscribe('t', 1)
    world.ledger.automatic = false
    expect(await pub.publish('t', 'x', 1, KEEP)).toEqual([])
    expect(sub.got()).toEqual([])
    await world.commit()
    expect(pub.got()).toMatchObject([{ cmd: 'puback' }])
    expect(sub.texts()).toEqual(['x'])
  })

  it('expire, and count down while they wait', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 0, { ...KEEP, properties: { messageExpiryInterval: 10 } })
    await pub.publish('u', 'x', 0, { ...KEEP, properties: { messageExpiryInterval: 10 } })
    await pub.publish('u', 'forever', 0, KEEP)
    await world.pass(4)
    const sub = await world.connect('sub')
    await sub.subscribe('t')
    expect(sub.got()).toMatchObject([{ properties: { messageExpiryInterval: 6 } }])
    await world.pass(7)
    expect(world.server.state.retained.count).toBe(1)
    expect(world.ledger.lines.at(-1)).toBe('deleteRetained t')
    expect(world.census()).toMatchObject({ deadlines: 0, retainedDeadlines: 0 })
    await sub.subscribe('#')
    expect(sub.texts()).toEqual(['forever'])
  })

  it('that were recovered are delivered and expire', async () => {
    const { Message } = await import('../../src/mqtt/message.ts')
    const world = await World.make({}, (made) => {
      const { topics } = made.server.state
      const message = (name: string, expiresAt?: number) =>
        new Message({
          topic: topics.intern(name),
          payload: Buffer.from(name),
          qos: 1,
          retain: true,
          publisher: '',
          ...(expiresAt !== undefined && { expiresAt }),
        })
      made.ledger.recovered = {
        brokerTime: 50_000,
        wallTime: made.wall,
        bootTime: null,
        sessions: [],
        wills: [],
        retained: [message('a'), message('b', 60_000)],
      }
    })
    const sub = await world.connect('sub')
    await sub.subscribe('#')
    expect(sub.texts().sort()).toEqual(['a', 'b'])
    await world.pass(11)
    expect(world.server.state.retained.count).toBe(1)
  })

  it('retainedMessagesMax and retainedBytesMax refuse new ones, not replacements or removals', async () => {
    const world = await World.make({ limits: { retainedMessagesMax: 2, retainedBytesMax: 20 } })
    const limited = world.record('limited')
    const pub = await world.connect('pub')
    const keep = async (topic: string, payload: string) =>
      ((await pub.publish(topic, payload, 1, KEEP))[0] as { reasonCode?: number }).reasonCode
    expect([await keep('a', '1'), await keep('b', '2'), await keep('c', '3')]).toEqual([0x10, 0x10, 0x97])
    expect([await keep('a', 'x'.repeat(16)), await keep('a', 'x'.repeat(18))]).toEqual([0x10, 0x97])
    expect([await keep('b', ''), await keep('c', '4')]).toEqual([0x10, 0x10])
    expect(limited.map(({ limit }) => limit)).toEqual(['retainedMessagesMax', 'retainedBytesMax'])
    const old = await world.connect('old', {}, 4)
    await old.publish('d', 'x', 0, KEEP)
    expect(old.closed).toBe(true)
  })

  it('retainAvailable: false delivers none, even if some are left from before', async () => {
    const world = await World.make({ limits: { retainAvailable: false } })
    world.server.publishOwn('$SYS/x', Buffer.from('x'))
    const sub = await world.connect('sub')
    await sub.subscribe('$SYS/#')
    expect(sub.got()).toEqual([])
  })
})

describe('many retained messages for one Subscription', () => {
  const filled = async (count: number, limits: object, bytes = 10): Promise<World> => {
    const world = await World.make({ limits })
    for (let n = 0; n < count; n++) {
      const payload = `${n}`.padEnd(bytes, '.')
      void world.server.publish({
        topic: `t/${n}`,
        payload: Buffer.from(payload),
        qos: 1,
        retain: true,
        publisher: '',
      })
    }
    await world.settle()
    return world
  }

  it('come in slices while others are served, and none is lost', async () => {
    const world = await filled(1000, {})
    const sub = await world.connect('sub')
    const writes = sub.link.writes
    await sub.subscribe('t/#', 0)
    expect(new Set(sub.texts()).size).toBe(1000)
    expect(sub.link.writes - writes).toBeGreaterThan(3)
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('100,000 for a reader that is stuck: bounded bytes, and the rest when it takes them', async () => {
    const world = await filled(100_000, { outgoingBytesMax: 100_000 })
    const sub = await world.connect('sub')
    sub.link.stuck = true
    await sub.subscribe('#', 0)
    const got = new Set(sub.texts())
    expect(got.size).toBeLessThan(10_000)
    let most = 0
    for (let round = 0; round < 1000 && got.size < 100_000; round++) {
      most = Math.max(most, sub.link.bufferedBytes)
      sub.link.take()
      await world.settle()
      for (const text of sub.texts()) got.add(text)
    }
    expect(got.size).toBe(100_000)
    expect(most).toBeLessThan(120_000)
    sub.link.take()
    await world.settle()
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('more than the output may hold at a time, for a reader that takes all at once', async () => {
    const world = await filled(1000, { outgoingBytesMax: 1000 }, 100)
    const sub = await world.connect('sub')
    await sub.subscribe('#', 0)
    expect(sub.texts()).toHaveLength(1000)
    const gated = await world.connect('gated', lasting())
    world.ledger.automatic = false
    await gated.subscribe('#', 0)
    while (await world.commit());
    expect(gated.texts()).toHaveLength(1000)
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('at QoS 1 they come as the window allows', async () => {
    const world = await filled(1000, { inFlightMax: 10 })
    for (const options of [{}, lasting()]) {
      const sub = await world.connect('sub', options)
      await sub.subscribe('#', 1)
      const got = await sub.drain()
      expect(new Set(got).size).toBe(1000)
      expect(got).toHaveLength(1000)
      expect(world.server.state.sessions.get('sub')).toMatchObject({ queueLength: 0, inFlightCount: 0 })
    }
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('stop when it unsubscribes, begin again when it subscribes again, go on when it comes back', async () => {
    const world = await filled(1000, { inFlightMax: 10 })
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('#', 1)
    expect(sub.link.packets).toHaveLength(10)
    await sub.unsubscribe('#')
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
    expect(await sub.drain()).toHaveLength(10)
    await sub.subscribe('#', 1)
    await sub.subscribe('#', 1)
    await sub.vanish()
    const back = await world.connect('sub', lasting())
    const got = [...new Set(await back.drain())]
    expect(got.length).toBe(1000)
    await back.subscribe('#', 1)
    await back.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('what expires meanwhile does not come', async () => {
    const world = await World.make({ limits: { inFlightMax: 1 } })
    const pub = await world.connect('pub')
    for (const topic of ['a', 'b', 'c']) {
      await pub.publish(topic, topic, 1, { ...KEEP, properties: { messageExpiryInterval: 5 } })
    }
    const sub = await world.connect('sub')
    await sub.subscribe('#', 1)
    world.monotonic += 6000 // before the Server looks at its deadlines
    expect(await sub.drain()).toHaveLength(1)
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('one SUBSCRIBE of very many filters is one course, a bounded number of steps per turn', async () => {
    const world = await filled(50, { inFlightMax: 1 })
    const sub = await world.connect('sub')
    const { retained } = world.server.state
    const match = retained.match.bind(retained)
    let steps = 0
    retained.match = function* (filter) {
      for (const found of match(filter)) {
        steps++
        yield found
      }
    }
    const subscriptions = Array.from({ length: 1000 }, (_, index) => ({
      topic: `#`.padStart(2 * index + 1, '+/'),
      qos: 1,
    }))
    const subscribed = sub.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    // The packet was handled when `send` gave it over: so much work was done at once.
    expect(steps).toBeLessThanOrEqual(256)
    sub.link.packets.unshift(...(await subscribed))
    expect(world.census()).toMatchObject({ retainedDeliveries: 1 })
    expect((await sub.drain()).length).toBeGreaterThanOrEqual(50)
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })

  it('one that was replaced while it waited for room comes as it is now, one that was removed does not', async () => {
    const world = await World.make({ limits: { inFlightMax: 1 } })
    const pub = await world.connect('pub')
    for (const topic of ['a', 'b', 'c']) await pub.publish(topic, `old ${topic}`, 1, KEEP)
    const sub = await world.connect('sub')
    await sub.subscribe('#', 1, { nl: true })
    const first = sub.link.packets.map((packet) => (packet.cmd === 'publish' ? String(packet.payload) : ''))
    const rest = ['a', 'b', 'c'].filter((topic) => !first.includes(`old ${topic}`))
    await pub.publish(rest[0]!, '', 1, KEEP)
    await pub.publish(rest[1]!, 'new', 1, KEEP)
    const texts = (await sub.drain()).map(String)
    expect(texts).not.toContain(`old ${rest[1]}`)
    expect(texts.filter((text) => text === `old ${rest[0]}`)).toEqual([])
    expect(texts).toContain('new')
  })

  it("the Server's own values do not count against the limits", async () => {
    const world = await World.make({ limits: { retainedMessagesMax: 1 } })
    for (const name of ['a', 'b', 'a']) world.server.publishOwn(`$SYS/${name}`, Buffer.from('1'))
    const pub = await world.connect('pub')
    expect(await pub.publish('t', 'x', 1, KEEP)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await pub.publish('u', 'x', 1, KEEP)).toMatchObject([{ reasonCode: 0x97 }])
  })

  it('of a stored Session begin again after a crash that cut them off', async () => {
    const cut = await filled(3, { inFlightMax: 1 })
    const sub = await cut.connect('sub', lasting())
    await sub.subscribe('#', 1)
    const filters = cut.ledger.lines.filter((line) => line.startsWith('putSubscription'))
    expect(filters).toEqual(['putSubscription 1 # 1', 'putSubscription 1 # 1 pending'])
    expect(await sub.drain()).toHaveLength(3)
    expect(cut.ledger.lines.filter((line) => line.startsWith('putSubscription')).at(-1)).toBe(
      'putSubscription 1 # 1',
    )

    const subscription = { ...OPTIONS, qos: 1, identifier: 0, retainedPending: true } as const
    const world = await World.make({}, (made) => {
      made.ledger.recovered = {
        ...made.ledger.recovered,
        sessions: [
          {
            id: 1,
            record: {
              clientId: 'sub',
              owner: null,
              ownerId: null,
              expirySeconds: SESSION_NEVER_EXPIRES,
              disconnectedAt: 0,
            },
            subscriptions: [['#', subscription]],
            inFlight: [],
            queue: [],
            queueHead: 0,
            lastPacketId: 0,
            inbound: [],
          },
        ],
        retained: ['a', 'b'].map((name) => retained(name)),
      }
    })
    const back = await world.connect('sub', lasting())
    expect(await back.drain()).toHaveLength(2)
    expect(world.ledger.lines.filter((line) => line.startsWith('putSubscription')).at(-1)).toBe(
      'putSubscription 1 # 1',
    )
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })
})

const OPTIONS = { noLocal: false, retainAsPublished: false, retainHandling: 0 } as const

function retained(name: string): Message {
  return new Message({
    topic: new Topic(name),
    payload: Buffer.from(name),
    qos: 1,
    retain: true,
    publisher: '',
  })
}
