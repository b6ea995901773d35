import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { Message, Topic } from '../../../src/mqtt/message.ts'
import { SESSION_NEVER_EXPIRES } from '../../../src/mqtt/packet.ts'
import { RecallStore } from '../../fuzz/recall.ts'
import { answersTo, connectPacket, type Given, lasting, textsOf, World } from '../harness.ts'

const KEEP = { retain: true }

describe('retained messages', () => {
  it('keep no memory alive but their own, also where a subscriber waits for them', async () => {
    const world = await World.make()
    await (await world.connect('sub', lasting())).subscribe('#', 1)
    const pub = await world.connect('pub')
    for (const qos of [0, 1, 2] as const) {
      await pub.publish(`t${qos}`, 'payload', qos, KEEP)
      const { payload, encoded3, encoded5 } = world.server.state.retained.get(`t${qos}`)!
      expect([payload.buffer.byteLength, encoded3, encoded5]).toEqual([7, null, null])
    }
  })

  it('[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] are set, replaced and cleared', async () => {
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

  it('wait for the disk when a stored Session subscribes again while it is short [field-D21]', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    for (const topic of ['a', 'b', 'c']) await pub.publish(topic, topic, 1, KEEP)
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('+', 1, { rh: 2 })
    world.ledger.refusal = 'the disk is nearly full'
    expect(await kept.subscribe('+', 1, { rh: 0 })).toBe(1)
    world.server.tick()
    await world.settle()
    expect(kept.texts()).toEqual([])
    world.ledger.refusal = null
    world.server.tick()
    await world.settle()
    expect(kept.texts().sort()).toEqual(['a', 'b', 'c'])
  })

  it('a live QoS 0 message does not bring them onto a short disk: it is dropped [field-B7]', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    for (const topic of ['a', 'b']) await pub.publish(topic, topic, 1, KEEP)
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('+', 1, { rh: 2 })
    world.ledger.refusal = 'the disk is nearly full'
    await kept.subscribe('+', 1, { rh: 0 })
    await pub.publish('a', 'live', 0)
    await pub.publish('c', 'of another topic', 0)
    expect(kept.texts()).toEqual(['of another topic'])
    world.ledger.refusal = null
    world.server.tick()
    await world.settle()
    expect(kept.texts().sort()).toEqual(['a', 'b'])
    await pub.publish('a', 'live', 0)
    expect(kept.texts()).toEqual(['live'])
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
    const { Message } = await import('../../../src/mqtt/message.ts')
    const world = await World.make({}, (made) => {
      const { topics } = made.server.state
      const message = (name: string, expiresAt?: number) =>
        Message.of({
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
        doubt: null,
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

  it('stop with UNSUBSCRIBE, begin again with SUBSCRIBE, go on after a reconnect', async () => {
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

  it('messages that expire meanwhile are not sent', async () => {
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

  it('one that was replaced while it waited comes as it is now; a removed one does not', async () => {
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

  it('one that has expired makes room for another at once [field-B8]', async () => {
    const world = await World.make({ limits: { retainedMessagesMax: 2 } })
    const pub = await world.connect('pub')
    await pub.publish('a', 'x', 1, { ...KEEP, properties: { messageExpiryInterval: 10 } })
    await pub.publish('b', 'x', 1, KEEP)
    expect(await pub.publish('c', 'x', 1, KEEP)).toMatchObject([{ reasonCode: 0x97 }])
    world.monotonic += 10_000
    expect(await pub.publish('c', 'x', 1, KEEP)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await pub.publish('d', 'x', 1, KEEP)).toMatchObject([{ reasonCode: 0x97 }])
    expect(world.server.state.retained.count).toBe(2)
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

describe('retained messages and newer live ones of the same topic', () => {
  /** By topic, what a client got, in order. */
  const byTopic = (packets: readonly Packet[]): Map<string, string[]> => {
    const got = new Map<string, string[]>()
    for (const packet of packets) {
      if (packet.cmd !== 'publish') continue
      got.set(packet.topic, [...(got.get(packet.topic) ?? []), `${packet.payload}`])
    }
    return got
  }

  const topicNames = (count: number): string[] => Array.from({ length: count }, (_, n) => `d/${n % 50}/${n}`)

  const publishAll = async (
    world: World,
    names: readonly string[],
    payload: string,
    retain: boolean,
    qos = 0,
  ) => {
    for (const [n, topic] of names.entries()) {
      const fields = { payload: Buffer.from(payload), qos: qos as 0, retain, publisher: 'pub' }
      void world.server.publish({ topic, ...fields })
      if (n % 1000 === 999) await world.settle()
    }
    await world.settle()
  }

  for (const [retainedQos, liveQos, granted] of [
    [0, 0, 0],
    [1, 0, 1],
    [0, 1, 1],
    [1, 1, 1],
    [2, 1, 2],
  ] as const) {
    it(`QoS ${retainedQos}, live QoS ${liveQos}: no topic ends on the old value [field-B7]`, async () => {
      const world = await World.make({ limits: { outgoingBytesMax: 64 * 1024 } })
      const names = topicNames(20_000)
      await publishAll(world, names, 'old', true, retainedQos)
      const sub = await world.connect('sub', { properties: { receiveMaximum: 20 } })
      sub.link.stuck = true
      await sub.subscribe('#', granted)
      const packets: Packet[] = []
      const answers: Given[] = []
      const step = async (count: number): Promise<void> => {
        const came = sub.got()
        packets.push(...came)
        answers.push(...came.flatMap((packet) => answersTo(packet)))
        const now = answers.splice(0, count)
        if (now.length > 0) sub.link.packets.unshift(...(await sub.send(...now)))
      }
      // The reader takes and acknowledges some now and then, and is behind all the while.
      for (let from = 0; from < names.length; from += 500) {
        await publishAll(world, names.slice(from, from + 500), 'new', false, liveQos)
        sub.link.take()
        await step(10)
      }
      sub.link.stuck = false
      sub.link.take()
      await world.settle()
      do await step(1000)
      while (answers.length > 0 || sub.link.packets.length > 0)
      const got = byTopic(packets)
      const wrong = names.filter((name) => {
        const texts = got.get(name) ?? []
        // Live messages at QoS 0 may be dropped for a slow reader; then the retained one is what is left.
        const isLossy = Math.min(liveQos, granted) === 0
        return texts[0] !== 'old' || (texts.length === 1 ? !isLossy : texts.join() !== 'old,new')
      })
      expect(wrong.slice(0, 3).map((name) => [name, got.get(name)])).toEqual([])
      expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
    })
  }

  it('a live message that a slow reader cannot take leaves the retained one to come [field-B7]', async () => {
    const world = await World.make({ limits: { outgoingBytesMax: 1024 } })
    const names = topicNames(100)
    await publishAll(world, names, 'old '.padEnd(100, '.'), true)
    const sub = await world.connect('sub')
    sub.link.stuck = true
    await sub.subscribe('#', 0)
    await publishAll(world, names, 'dropped', false)
    sub.link.stuck = false
    sub.link.take()
    await world.settle()
    expect([...byTopic(sub.got()).values()].filter(([first]) => first!.startsWith('old'))).toHaveLength(100)
    for (const name of names) await publishAll(world, [name], 'new', false)
    expect([...byTopic(sub.got()).values()].filter((texts) => texts.join() === 'new')).toHaveLength(100)
  })

  it('many overlapping Subscriptions are owed no more memory than one [field-B7]', async () => {
    const world = await World.make({ limits: { outgoingBytesMax: 1024 } })
    const names = topicNames(300).map((name) => `1/2/3/4/5/6/7/8/${name}`)
    await publishAll(world, names, 'old '.padEnd(100, '.'), true)
    const sub = await world.connect('sub')
    sub.link.stuck = true
    const filters = Array.from({ length: 256 }, (_, mask) => {
      const levels = Array.from({ length: 8 }, (_each, level) => ((mask >> level) & 1 ? '+' : `${level + 1}`))
      return [...levels, '#'].join('/')
    })
    const subscriptions = filters.map((topic) => ({ topic, qos: 0 }))
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    let dropped = 0
    world.server.state.events.on('dropped', ({ reason, message, count = 1 }) => {
      if (reason === 'slow-reader' && message.retain) dropped += count
    })
    await publishAll(world, names, 'dropped', false)
    // Of 65,536 names each Subscription has its share.
    expect(dropped).toBeGreaterThanOrEqual((300 - 256) * 255)
  })

  it('No Local: own messages cost a subscriber no retained message [field-B7]', async () => {
    const world = await World.make({ limits: { inFlightMax: 1 } })
    const names = topicNames(10)
    await publishAll(world, names, 'old', true, 1)
    const sub = await world.connect('sub')
    await sub.subscribe('#', 1, { nl: true })
    const first = sub.got()
    for (const name of names) await sub.publish(name, 'mine', 0)
    sub.link.packets.unshift(...first)
    const texts = await sub.drain()
    expect(texts).toEqual(names.map(() => 'old'))
  })

  it('QoS 0 behind a retained message that waits for a slot keeps its order [field-B7]', async () => {
    const world = await World.make()
    await publishAll(world, ['t'], 'old', true, 1)
    const pub = await world.connect('pub')
    const sub = await world.connect('sub', { properties: { receiveMaximum: 1 } })
    await sub.subscribe('first', 1)
    await pub.publish('first', 'in flight', 1)
    await sub.subscribe('t', 1)
    for (const text of ['1', '2', '3']) await pub.publish('t', text, 0)
    expect(sub.link.packets.filter(({ cmd }) => cmd === 'publish')).toHaveLength(1)
    expect(await sub.drain()).toEqual(['in flight', 'old', '1', '2', '3'])
  })

  it('a Session that is away gets the retained one first, then what was queued [field-B7]', async () => {
    const world = await World.make({ limits: { inFlightMax: 1 } })
    const names = topicNames(20)
    await publishAll(world, names, 'old', true, 1)
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('#', 1)
    const before = sub.got()
    await sub.vanish()
    await publishAll(world, names, 'new', false, 1)
    const back = await world.connect('sub', lasting())
    const packets: Packet[] = [...before]
    for (let came = back.got(); came.length > 0; came = back.got()) {
      packets.push(...came)
      back.link.packets.unshift(...(await back.send(...came.flatMap((packet) => answersTo(packet)))))
    }
    for (const [topic, texts] of byTopic(packets)) {
      expect([topic, ...texts.filter((text, at) => text !== texts[at - 1])]).toEqual([topic, 'old', 'new'])
    }
  })

  it('over a restart, too, no skipped message comes after a newer one [field-B7]', async () => {
    const store = new RecallStore()
    const limits = { inFlightMax: 1 }
    const world = await World.make({ limits, store })
    const durable = async (of: World): Promise<void> => {
      await of.settle()
      store.durable(Number.POSITIVE_INFINITY)
      await of.settle()
    }
    const names = topicNames(20)
    await publishAll(world, names, 'old', true, 1)
    const sub = world.open()
    await sub.send({ ...connectPacket('sub'), ...lasting() })
    await durable(world)
    sub.got()
    void sub.subscribe('#', 1)
    await durable(world)
    await publishAll(world, names, 'new', false, 1)
    const packets: Packet[] = []
    for (let count = 0; count < 20; count++) {
      await durable(world)
      const came = sub.got()
      packets.push(...came)
      const answers = came.flatMap((packet) => answersTo(packet))
      if (answers.length > 0) sub.link.packets.unshift(...(await sub.send(...answers)))
    }
    await durable(world)
    store.crash()
    const again = await World.make({ limits, store })
    again.monotonic = world.monotonic + 1000
    const back = again.open()
    await back.send({ ...connectPacket('sub'), ...lasting() })
    await durable(again)
    for (;;) {
      await durable(again)
      const came = back.got()
      if (came.length === 0) break
      packets.push(...came)
      const answers = came.flatMap((packet) => answersTo(packet))
      if (answers.length > 0) back.link.packets.unshift(...(await back.send(...answers)))
    }
    const got = byTopic(packets)
    expect(got.size).toBe(20)
    for (const [topic, texts] of got) {
      expect([topic, texts[0], texts.at(-1), texts.lastIndexOf('old') < texts.indexOf('new')]).toEqual([
        topic,
        'old',
        'new',
        true,
      ])
    }
  })

  it('a full in-flight window holds back no retained message at QoS 0 [field-B7]', async () => {
    const world = await World.make()
    const names = topicNames(300)
    for (const [n, name] of names.entries()) await publishAll(world, [name], `${n % 2}`, true, (n % 2) as 0)
    const sub = await world.connect('sub', { properties: { receiveMaximum: 1 } })
    await sub.subscribe('#', 1)
    const came = sub.got()
    const texts = textsOf(came)
    expect([
      texts.filter((text) => text === '0').length,
      texts.filter((text) => text === '1').length,
    ]).toEqual([150, 1])
    sub.link.packets.unshift(...came)
    const all = await sub.drain()
    expect([all.length, all.filter((text) => text === '1').length]).toEqual([300, 150])
  })

  it('after a new SUBSCRIBE the rest comes with the new options, also after a crash [field-B7]', async () => {
    const world = await World.make({ limits: { inFlightMax: 1 } })
    const names = topicNames(5)
    await publishAll(world, names, 'x', true, 2)
    const sub = await world.connect('sub', lasting())
    const again = async (qos: 1 | 2, rh: number, subscriptionIdentifier: number): Promise<void> => {
      await sub.subscribe('#', qos, { rh }, { subscriptionIdentifier })
    }
    await again(2, 0, 7)
    const first = sub.got()
    await again(1, 1, 8)
    await again(1, 2, 9)
    expect(world.ledger.lines.filter((line) => line.startsWith('putSubscription')).at(-1)).toBe(
      'putSubscription 1 # 1 pending',
    )
    sub.link.packets.unshift(...first)
    const packets: Packet[] = []
    for (let came = sub.got(); came.length > 0; came = sub.got()) {
      packets.push(...came)
      sub.link.packets.unshift(...(await sub.send(...came.flatMap((packet) => answersTo(packet)))))
    }
    const seen = packets.flatMap((packet) =>
      packet.cmd === 'publish' ? [`${packet.qos} ${packet.properties?.subscriptionIdentifier}`] : [],
    )
    expect(seen).toEqual(['2 7', '1 9', '1 9', '1 9', '1 9'])
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
  })
})

const OPTIONS = { noLocal: false, retainAsPublished: false, retainHandling: 0 } as const

function retained(name: string): Message {
  return Message.of({
    topic: new Topic(name),
    payload: Buffer.from(name),
    qos: 1,
    retain: true,
    publisher: '',
  })
}
