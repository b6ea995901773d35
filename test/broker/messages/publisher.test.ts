import mqttPacket, { type Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import { SESSION_NEVER_EXPIRES } from '../../../src/mqtt/packet.ts'
import { lasting, World } from '../harness.ts'

describe('PUBLISH', () => {
  it('QoS 0, 1 and 2 reach a subscriber at the lower QoS of both', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    const pub = await world.connect('pub', {}, 4)
    const [suback] = await sub.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: 'a/+', qos: 1 }],
    })
    expect(suback).toMatchObject({ cmd: 'suback', granted: [1], messageId: 1 })
    const answers = await pub.send(
      { cmd: 'publish', topic: 'a/0', payload: 'zero', qos: 0 },
      { cmd: 'publish', topic: 'a/1', payload: 'one', qos: 1, messageId: 7 },
      { cmd: 'publish', topic: 'a/2', payload: 'two', qos: 2, messageId: 8 },
    )
    expect(answers).toMatchObject([
      { cmd: 'puback', messageId: 7 },
      { cmd: 'pubrec', messageId: 8 },
    ])
    expect(await pub.send({ cmd: 'pubrel', messageId: 8 })).toMatchObject([{ cmd: 'pubcomp', messageId: 8 }])
    expect(
      sub.got().map((p) => p.cmd === 'publish' && [p.topic, p.payload.toString(), p.qos, p.messageId]),
    ).toEqual([
      ['a/0', 'zero', 0, undefined],
      ['a/1', 'one', 1, 1],
      ['a/2', 'two', 1, 2],
    ])
  })

  it('QoS 0 is sent as it came to the same version, encoded once for others, in one piece', async () => {
    const world = await World.make()
    const clients = [await world.connect('old', {}, 4), await world.connect('new', {}, 5)]
    for (const client of clients) {
      await client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 1 }] })
    }
    const publish = (payload: string) => ({ cmd: 'publish', topic: 't', payload, qos: 0 })
    const properties = { userProperties: { a: 'b' } }
    const publishers = [await world.connect('pub4', {}, 4), await world.connect('pub5', {}, 5)]
    for (const publisher of publishers) {
      for (const { link } of clients) link.chunkBytes.length = 0
      await publisher.send({ ...publish('1'), properties }, publish('2'), publish('3'))
      for (const client of clients) {
        expect(client.got()).toMatchObject(
          ['1', '2', '3'].map((payload) => ({ topic: 't', payload: Buffer.from(payload), qos: 0 })),
        )
        expect(client.link.chunkBytes.length).toBe(1)
      }
    }
  })

  it('a message that is kept does not keep its encoding, which lies in shared memory', async () => {
    const world = await World.make()
    const published = world.record('published')
    const live = await world.connect('live', {}, 4)
    await live.subscribe('#')
    const absent = await world.connect('absent', lasting())
    await absent.subscribe('queued', 1)
    await absent.vanish()
    const publisher = await world.connect('publisher', {}, 4)
    await publisher.publish('kept', 'a', 0, { retain: true })
    await publisher.publish('queued', 'b', 1)
    await publisher.publish('passing', 'c')
    expect(live.texts()).toEqual(['a', 'b', 'c'])
    expect(published.map(({ message }) => [message.encoded3, message.encoded5])).toEqual(
      Array(3).fill([null, null]),
    )
  })

  it('a message that waits for a policy keeps no read buffer', async () => {
    let allow: (allowed: boolean) => void = () => {}
    const policy: Policy = { authorizePublish: () => new Promise((resolve) => (allow = resolve)) }
    const world = await World.make({ policy })
    const subscriber = await world.connect('subscriber')
    await subscriber.subscribe('t')
    const publisher = await world.connect('publisher')
    const packet = { cmd: 'publish', topic: 't', payload: 'text', qos: 0, properties: { contentType: 'x' } }
    const chunk = mqttPacket.generate(packet as Packet, { protocolVersion: 5 })
    await publisher.bytes(chunk)
    chunk.fill(0)
    allow(true)
    await world.settle()
    expect(subscriber.got()).toMatchObject([{ topic: 't', properties: { contentType: 'x' } }])
  })

  it('bytes that arrive while it waits, as over TLS, are kept apart, too', async () => {
    const answers: ((allowed: boolean) => void)[] = []
    const policy: Policy = { authorizePublish: () => new Promise((resolve) => answers.push(resolve)) }
    const world = await World.make({ policy })
    const subscriber = await world.connect('subscriber')
    await subscriber.subscribe('t')
    const publisher = await world.connect('publisher')
    for (const payload of ['first', 'second']) {
      const packet = { cmd: 'publish', topic: 't', payload, qos: 0 }
      const chunk = mqttPacket.generate(packet as Packet, { protocolVersion: 5 })
      await publisher.bytes(chunk)
      chunk.fill(0)
    }
    for (let asked = 0; asked < 2; asked++) {
      answers[asked]?.(true)
      await world.settle()
    }
    expect(subscriber.texts()).toEqual(['first', 'second'])
  })

  it('[MQTT-4.3.3-10] a repeated QoS 2 PUBLISH is acknowledged and not delivered twice', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 2 }] })
    const pub = await world.connect('pub')
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 5 }
    await pub.send(publish)
    expect(await pub.send({ ...publish, dup: true })).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
    expect(await pub.send(publish)).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
    expect(sub.got()).toHaveLength(1)
    await pub.send({ cmd: 'pubrel', messageId: 5 })
    await pub.send(publish)
    expect(sub.got()).toHaveLength(1)
  })

  it('an acknowledgement waits for the commit, and nothing passes it', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', { clean: false, properties: { sessionExpiryInterval: 100 } })
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 1 }] })
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    expect(await pub.send({ cmd: 'publish', topic: 't', payload: 'x', qos: 1, messageId: 1 })).toEqual([])
    expect(await pub.send({ cmd: 'pingreq' })).toEqual([])
    expect(sub.got()).toEqual([])
    world.ledger.durable()
    await world.settle()
    expect(pub.got().map((p) => p.cmd)).toEqual(['puback', 'pingresp'])
    expect(sub.got()).toMatchObject([{ cmd: 'publish', messageId: 1, dup: false }])
  })

  it('a message that nobody stores is acknowledged without a commit', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 1 }] })
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    const before = world.ledger.lines.length
    expect(await pub.send({ cmd: 'publish', topic: 't', payload: 'x', qos: 1, messageId: 1 })).toHaveLength(1)
    expect(sub.got()).toHaveLength(1)
    expect(world.ledger.lines).toHaveLength(before)
  })

  it('offline messages come in order when the client is back, in flight ones first with DUP', async () => {
    const world = await World.make()
    const options = { clean: false, properties: { sessionExpiryInterval: 100 } }
    const sub = await world.connect('sub', options)
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 2 }] })
    const pub = await world.connect('pub')
    await pub.send({ cmd: 'publish', topic: 't', payload: '1', qos: 1, messageId: 1 })
    await sub.vanish()
    for (const n of [2, 3, 4])
      await pub.send({ cmd: 'publish', topic: 't', payload: `${n}`, qos: 1, messageId: n })
    const back = await world.connect('sub', options)
    expect(back.connack).toMatchObject({ sessionPresent: true, reasonCode: 0 })
    expect(back.got().map((p) => p.cmd === 'publish' && [p.payload.toString(), p.messageId, p.dup])).toEqual([
      ['1', 1, true],
      ['2', 2, false],
      ['3', 3, false],
      ['4', 4, false],
    ])
  })
})

describe('acknowledgements of what the client publishes', () => {
  it('[MQTT-3.3.4-1] 5.0 is told when nobody subscribes; 3.1.1 has no word for it', async () => {
    const world = await World.make()
    const modern = await world.connect('a')
    expect(await modern.publish('t', 'x', 1)).toMatchObject([
      { cmd: 'puback', messageId: 1, reasonCode: 0x10 },
    ])
    expect(await modern.publish('t', 'x', 2)).toMatchObject([
      { cmd: 'pubrec', messageId: 2, reasonCode: 0x10 },
    ])
    const old = await world.connect('b', {}, 4)
    await old.publish('t', 'x', 1)
    expect(old.link.raw.at(-1)?.toString('hex')).toBe('40020001')
    await modern.subscribe('t', 0)
    expect(await old.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback' }])
  })

  it('[MQTT-4.6.0-2] [MQTT-4.6.0-3] acknowledgements keep the order, in one write', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const writes = pub.link.writes
    const answers = await pub.send(
      ...[3, 1, 2].map((messageId) => ({ cmd: 'publish', topic: 't', payload: '', qos: 1, messageId })),
      ...[9, 7, 8].map((messageId) => ({ cmd: 'publish', topic: 't', payload: '', qos: 2, messageId })),
    )
    expect(answers.map(({ messageId }) => messageId)).toEqual([3, 1, 2, 9, 7, 8])
    expect(pub.link.writes - writes).toBe(1)
  })

  it('[MQTT-4.3.3-12] after PUBCOMP an identifier is new; an unknown PUBREL gets 0x92', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 0)
    const pub = await world.connect('pub')
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 5 }
    for (let round = 0; round < 2; round++) {
      expect(await pub.send(publish)).toMatchObject([{ cmd: 'pubrec', reasonCode: 0 }])
      expect(await pub.send({ cmd: 'pubrel', messageId: 5 })).toMatchObject([
        { cmd: 'pubcomp', reasonCode: 0 },
      ])
    }
    expect(sub.texts()).toEqual(['x', 'x'])
    expect(await pub.send({ cmd: 'pubrel', messageId: 5 })).toMatchObject([
      { cmd: 'pubcomp', reasonCode: 0x92 },
    ])
    const old = await world.connect('old', {}, 4)
    expect(await old.send({ cmd: 'pubrel', messageId: 5 })).toMatchObject([{ cmd: 'pubcomp', messageId: 5 }])
  })

  it('[MQTT-4.3.2-5] a repeated QoS 1 identifier is a new message, whatever DUP says', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 0)
    const pub = await world.connect('pub')
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 1, messageId: 5 }
    await pub.send(publish, { ...publish, dup: true })
    expect(sub.texts()).toEqual(['x', 'x'])
  })

  it('[MQTT-3.3.1-3] DUP is not passed on', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 2, { dup: true })
    expect(sub.got()).toMatchObject([{ cmd: 'publish', dup: false }])
  })

  it('a QoS 2 identifier that was received survives the connection, and a restart', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 0)
    const pub = await world.connect('pub', lasting())
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 5 }
    await pub.send(publish)
    await pub.vanish()
    const back = await world.connect('pub', lasting())
    expect(await back.send({ ...publish, dup: true })).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
    expect(await back.send({ cmd: 'pubrel', messageId: 5 })).toMatchObject([
      { cmd: 'pubcomp', reasonCode: 0 },
    ])
    expect(sub.texts()).toEqual(['x'])
    expect(world.ledger.lines).toContainEqual(expect.stringMatching(/^inboundAdded 1 5 \d+$/))
    expect(world.ledger.lines.at(-1)).toBe('inboundRemoved 1 5')
  })

  describe('a QoS 2 identifier that was not released, and that the client forgot', () => {
    const first = { cmd: 'publish', topic: 't', payload: 'first', qos: 2, messageId: 5 } as const

    /** `pub` sent `first` and comes back. */
    async function returned(version: 4 | 5) {
      const world = await World.make()
      const sub = await world.connect('sub')
      await sub.subscribe('#', 0)
      const options = version === 5 ? lasting() : { clean: false }
      const pub = await world.connect('pub', options, version)
      await pub.send(first)
      await pub.vanish()
      return { world, sub, pub: await world.connect('pub', options, version) }
    }

    it.each([
      [4, { payload: 'second' }],
      [5, { payload: 'second' }],
      [5, { payload: 'second', dup: true }],
      [4, { topic: 'u' }],
      [5, { topic: 'u' }],
      [5, { retain: true }],
      [5, { properties: { correlationData: Buffer.from('2') } }],
    ] as const)(
      'a message of version %i that differs in %j is a new one, and not swallowed [field-B10]',
      async (version, difference) => {
        const { world, sub, pub } = await returned(version)
        expect(await pub.send({ ...first, ...difference })).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
        expect(sub.got()).toHaveLength(2)
        // It is known from now on, and the one before is not.
        expect(await pub.send({ ...first, ...difference, dup: true })).toMatchObject([{ cmd: 'pubrec' }])
        expect(sub.got()).toEqual([])
        expect(await pub.send({ cmd: 'pubrel', messageId: 5 })).toMatchObject([{ cmd: 'pubcomp' }])
        expect(world.ledger.lines.filter((line) => line.startsWith('inbound'))).toEqual([
          expect.stringMatching(/^inboundAdded 1 5 \d+$/),
          'inboundRemoved 1 5',
          expect.stringMatching(/^inboundAdded 1 5 \d+$/),
          'inboundRemoved 1 5',
        ])
      },
    )

    it.each([
      [4, { dup: true }],
      [4, { dup: false }],
      [5, { dup: true }],
      [5, { dup: false }],
      [5, { dup: true, properties: { messageExpiryInterval: 5, topicAlias: 1 } }],
    ] as const)(
      '[MQTT-4.3.3-10] the same message of version %i with %j is a repetition [field-B10]',
      async (version, difference) => {
        const { sub, pub } = await returned(version)
        expect(await pub.send({ ...first, ...difference })).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
        expect(sub.texts()).toEqual(['first'])
      },
    )

    it('in 5.0, on the same connection, another message under it gets 0x91 [field-B10]', async () => {
      const world = await World.make()
      const sub = await world.connect('sub')
      await sub.subscribe('#', 0)
      const pub = await world.connect('pub')
      await pub.send(first)
      expect(await pub.send({ ...first, payload: 'second' })).toMatchObject([
        { cmd: 'pubrec', messageId: 5, reasonCode: 0x91 },
      ])
      expect(await pub.send({ ...first, dup: true })).toMatchObject([{ cmd: 'pubrec', reasonCode: 0 }])
      expect(await pub.send({ cmd: 'pubrel', messageId: 5 })).toMatchObject([{ reasonCode: 0 }])
      expect(sub.texts()).toEqual(['first'])
    })

    it('before 5.0 it is a new message also on the same connection [field-B10]', async () => {
      const world = await World.make()
      const sub = await world.connect('sub')
      await sub.subscribe('#', 0)
      const pub = await world.connect('pub', {}, 4)
      await pub.send(first, { ...first, payload: 'second' })
      expect(sub.texts()).toEqual(['first', 'second'])
    })

    it('one that a store of format 1 left, without a digest, counts as repeated [field-B10]', async () => {
      const world = await World.make({}, (made) => {
        const record = {
          clientId: 'pub',
          owner: null,
          ownerId: null,
          expirySeconds: SESSION_NEVER_EXPIRES,
          disconnectedAt: 1,
        }
        const empty = { subscriptions: [], inFlight: [], queue: [], queueHead: 0, lastPacketId: 0 }
        made.ledger.recovered = {
          ...made.ledger.recovered,
          sessions: [{ id: 1, record, ...empty, inbound: [[5, 0]] }],
        }
      })
      const sub = await world.connect('sub')
      await sub.subscribe('#', 0)
      const pub = await world.connect('pub', lasting())
      expect(await pub.send(first)).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
      expect(sub.texts()).toEqual([])
    })
  })

  it('$SYS is the Server’s own: 0x87 in 5.0, acknowledged and dropped in 3.1.1', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('$SYS/#', 0)
    const modern = await world.connect('a')
    expect(await modern.publish('$SYS/broker/version', 'x', 1)).toMatchObject([{ reasonCode: 0x87 }])
    expect(await modern.publish('$SYS', 'x', 2)).toMatchObject([{ cmd: 'pubrec', reasonCode: 0x87 }])
    const old = await world.connect('b', {}, 4)
    expect(await old.publish('$SYS/x', 'x', 1)).toMatchObject([{ cmd: 'puback' }])
    expect(await old.publish('$SYS/x', 'x', 2)).toMatchObject([{ cmd: 'pubrec', messageId: 2 }])
    // [MQTT-4.3.3-10]: the repeated one is not refused a second time.
    const again = { cmd: 'publish', topic: '$SYS/x', payload: 'x', qos: 2, messageId: 2, dup: true }
    expect(await old.send(again)).toMatchObject([{ cmd: 'pubrec', messageId: 2 }])
    expect(await old.send({ cmd: 'pubrel', messageId: 2 })).toMatchObject([{ cmd: 'pubcomp' }])
    await old.publish('$SYS/x', 'x', 0)
    expect(sub.texts()).toEqual([])
    expect(world.server.state.counters.drops['not-authorized']).toBe(5)
    await modern.publish('$other/x', 'x', 0)
    expect([modern.closed, old.closed]).toEqual([false, false])
  })

  it('[MQTT-4.3.3-9] a refused QoS 2 identifier is free again, and counts no more', async () => {
    const world = await World.make({ limits: { receiveMaximum: 1 } })
    const pub = await world.connect('pub')
    for (let round = 0; round < 3; round++) {
      expect(await pub.publish('$SYS/x', 'x', 2)).toMatchObject([{ cmd: 'pubrec', reasonCode: 0x87 }])
    }
    const again = { cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 1 }
    expect(await pub.send(again)).toMatchObject([{ cmd: 'pubrec', reasonCode: 0x10 }])
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x93 }])
  })

  it('policies: refused, allowed, and answers that come late keep the order of the packets', async () => {
    const answers: ((allow: boolean) => void)[] = []
    const world = await World.make({
      policy: {
        authorizePublish: (_client, topic) =>
          topic === 'slow' ? new Promise((resolve) => answers.push(resolve)) : topic !== 'no',
      },
    })
    const sub = await world.connect('sub')
    await sub.subscribe('#', 1)
    const pub = await world.connect('pub', { keepalive: 10 })
    expect(await pub.publish('no', 'x', 1)).toMatchObject([{ reasonCode: 0x87 }])
    const late = { cmd: 'publish', topic: 'slow', payload: '1', qos: 1, messageId: 10 }
    const next = { cmd: 'publish', topic: 'quick', payload: '2', qos: 1, messageId: 11 }
    expect(await pub.send(late, next, { cmd: 'pingreq' })).toEqual([])
    expect(pub.link.paused).toBe(true)
    await world.pass(100) // [MQTT-3.1.2-22]: Keep Alive stands still while nothing is read
    expect(pub.closed).toBe(false)
    expect(await pub.send({ cmd: 'publish', topic: 'quick', payload: '3', qos: 0 })).toEqual([])
    answers[0]!(true)
    await world.settle()
    expect(pub.got().map(({ cmd, messageId }) => [cmd, messageId])).toEqual([
      ['puback', 10],
      ['puback', 11],
      ['pingresp', undefined],
    ])
    expect(sub.texts()).toEqual(['1', '2', '3'])
    expect(pub.link.paused).toBe(false)
    await pub.send(late, next)
    await pub.vanish()
    answers[1]!(true)
    await world.settle()
    // What came before the end is handled before the end.
    expect(sub.texts()).toEqual(['1', '2'])
  })

  it('a policy that fails ends the connection with 0x83, now or later', async () => {
    for (const authorizePublish of [
      () => Promise.reject(new Error('no database')),
      () => {
        throw new Error('no database')
      },
    ]) {
      const world = await World.make({ policy: { authorizePublish } })
      const pub = await world.connect('pub')
      expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x83 }])
    }
  })
})

describe('limits on PUBLISH', () => {
  it('section 3.3.4: messages beyond Receive Maximum end the connection with 0x93', async () => {
    const world = await World.make({ limits: { receiveMaximum: 2 } })
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 2)
    await pub.publish('t', 'x', 2)
    // A repeated one does not count twice, and one that was released not at all.
    await pub.send({ cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 2, dup: true })
    await pub.send({ cmd: 'pubrel', messageId: 1 })
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback' }])
    await pub.publish('t', 'x', 2)
    expect(pub.closed).toBe(false)
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x93 }])
    expect(pub.closed).toBe(true)
    const old = await world.connect('old', {}, 4)
    for (let round = 0; round < 5; round++) await old.publish('t', 'x', 2)
    expect(old.closed).toBe(false)
  })

  it('a PUBACK that waits for its commit is not yet sent: the message still counts', async () => {
    const world = await World.make({ limits: { receiveMaximum: 1 } })
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    await pub.publish('t', 'x', 1)
    await world.commit()
    expect(pub.got()).toMatchObject([{ cmd: 'puback' }])
    await pub.publish('t', 'x', 1)
    await pub.publish('t', 'x', 1)
    while (await world.commit());
    expect(pub.got()).toMatchObject([{ cmd: 'puback' }, { cmd: 'disconnect', reasonCode: 0x93 }])
  })

  it('[MQTT-3.2.2-11] [MQTT-3.2.2-14] QoS and RETAIN beyond what was announced', async () => {
    const world = await World.make({ limits: { maximumQoS: 1, retainAvailable: false } })
    const limited = world.record('limited')
    const high = await world.connect('a')
    expect(await high.publish('t', 'x', 2)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x9b }])
    const retain = await world.connect('b')
    expect(await retain.publish('t', 'x', 0, { retain: true })).toMatchObject([{ reasonCode: 0x9a }])
    const old = await world.connect('c', {}, 4)
    expect(await old.publish('t', 'x', 2)).toEqual([])
    expect(old.closed).toBe(true)
    expect(limited.map(({ limit }) => limit)).toEqual(['maximumQoS', 'retainAvailable', 'maximumQoS'])
  })

  it('topicBytesMax and topicLevelsMax: 0x90 in 5.0, the end of the connection in 3.1.1', async () => {
    const world = await World.make({ limits: { topicBytesMax: 10, topicLevelsMax: 3 } })
    const limited = world.record('limited')
    const modern = await world.connect('a')
    expect(await modern.publish('12345678901', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x90 }])
    expect(await modern.publish('a/b/c/d', 'x', 2)).toMatchObject([{ cmd: 'pubrec', reasonCode: 0x90 }])
    expect(await modern.publish('a/b/c', 'x', 1)).toMatchObject([{ reasonCode: 0x10 }])
    const old = await world.connect('b', {}, 4)
    await old.publish('a/b/c/d', 'x', 0)
    expect(old.closed).toBe(true)
    expect(limited.map(({ limit }) => limit)).toEqual(['topicBytesMax', 'topicLevelsMax', 'topicLevelsMax'])
  })

  it('packetBytesMax: a larger packet ends the connection with 0x95 before it is read', async () => {
    const world = await World.make({ limits: { packetBytesMax: 100 } })
    const limited = world.record('limited')
    const client = await world.connect('a')
    expect(await client.bytes(Buffer.from('30ffffff7f', 'hex'))).toMatchObject([
      { cmd: 'disconnect', reasonCode: 0x95 },
    ])
    expect(limited).toMatchObject([{ limit: 'packetBytesMax', clientId: 'a' }])
  })

  it('[MQTT-3.3.2-9] [MQTT-3.3.2-12] aliases: set, used, changed, unknown, too high', async () => {
    const world = await World.make({ limits: { topicAliasMaximum: 2 } })
    const limited = world.record('limited')
    const sub = await world.connect('sub')
    await sub.subscribe('#', 0)
    const pub = await world.connect('pub')
    const send = (topic: string, topicAlias: number, payload: string) =>
      pub.send({ cmd: 'publish', topic, payload, qos: 0, properties: { topicAlias } })
    await send('a', 1, '1')
    await send('', 1, '2')
    await send('b', 2, '3')
    await send('c', 1, '4')
    await send('', 1, '5')
    await send('', 2, '6')
    const got = sub.got()
    expect(got.map((p) => (p.cmd === 'publish' ? `${p.topic}${p.payload}` : ''))).toEqual([
      'a1',
      'a2',
      'b3',
      'c4',
      'c5',
      'b6',
    ])
    expect(JSON.stringify(got)).not.toContain('topicAlias')
    expect(await send('d', 3, '7')).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x94 }])
    expect(limited).toMatchObject([{ limit: 'topicAliasMaximum' }])
    // [MQTT-3.3.2-7]
    const again = await world.connect('pub')
    const packet = { cmd: 'publish', topic: '', payload: '', qos: 0, properties: { topicAlias: 1 } }
    expect(await again.send(packet)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x82 }])
  })

  it('a full disk refuses with 0x97 if so set, and closes 3.1.1; unstored messages pass', async () => {
    const world = await World.make({ limits: { whenExhausted: 'refuse' } })
    const limited = world.record('limited')
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.refusal = 'the disk is nearly full'
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x97 }])
    expect(await pub.publish('t', 'x', 2)).toMatchObject([{ cmd: 'pubrec', reasonCode: 0x97 }])
    await pub.publish('t', 'zero', 0)
    expect(await pub.publish('u', 'x', 1)).toMatchObject([{ reasonCode: 0x10 }])
    await pub.publish('u', 'x', 0, { retain: true })
    expect(world.server.state.retained.count).toBe(0)
    expect(kept.texts()).toEqual(['zero'])
    const old = await world.connect('old', {}, 4)
    expect(await old.publish('t', 'x', 1)).toEqual([])
    expect(old.closed).toBe(true)
    expect(limited.every(({ limit }) => limit === 'disk')).toBe(true)
    expect(world.server.state.counters.publishRefused).toBe(4)
    world.ledger.refusal = null
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
  })

  it('while disk or memory is short, only clearing a retained message is allowed [field-D21]', async () => {
    const world = await World.make({ limits: { whenExhausted: 'refuse' } })
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t/#', 2)
    const pub = await world.connect('pub')
    for (const qos of [0, 1, 2] as const) await pub.publish(`t/${qos}`, 'x', qos, { retain: true })
    for (const short of ['disk', 'memory']) {
      if (short === 'disk') world.ledger.refusal = 'the disk is nearly full'
      else world.server.state.memoryRefusal = 'memory is short'
      expect(await pub.publish('t/none', '', 1, { retain: true })).toMatchObject([{ reasonCode: 0x97 }])
      expect(await pub.publish('t/2', 'y', 1, { retain: true })).toMatchObject([{ reasonCode: 0x97 }])
      if (short === 'memory') break
      await pub.publish('t/0', '', 0, { retain: true })
      expect(await pub.publish('t/1', '', 1, { retain: true })).toMatchObject([{ reasonCode: 0 }])
      expect(world.server.state.retained.count).toBe(1)
      world.ledger.refusal = null
    }
    expect(await pub.publish('t/2', '', 2, { retain: true })).toMatchObject([
      { cmd: 'pubrec', reasonCode: 0 },
    ])
    expect(world.server.state.retained.count).toBe(0)
  })

  it('while short, a message larger than the retained one it clears is refused [field-D21]', async () => {
    const world = await World.make({ limits: { whenExhausted: 'refuse' } })
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 1, { retain: true })
    const properties = { userProperties: { much: 'y'.repeat(1000) } }
    for (const short of ['disk', 'memory']) {
      world.ledger.refusal = short === 'disk' ? 'the disk is nearly full' : null
      if (short === 'memory') world.server.state.memoryRefusal = 'memory is short'
      const cleared = await pub.publish('t', '', 1, { retain: true, properties })
      expect(cleared).toMatchObject([{ reasonCode: 0x97 }])
    }
    expect(world.server.state.retained.count).toBe(1)
    expect(await pub.publish('t', '', 1, { retain: true })).toMatchObject([{ reasonCode: 0 }])
  })

  it('a message for which there is no room is refused, a smaller one is not', async () => {
    const world = await World.make({ limits: { whenExhausted: 'refuse' } })
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.messageBytesMax = 100
    expect(await pub.publish('t', 'x'.repeat(200), 1)).toMatchObject([{ reasonCode: 0x97 }])
    expect(await pub.publish('t', 'x'.repeat(50), 1)).toMatchObject([{ reasonCode: 0 }])
  })

  it('while the disk is short nothing is acknowledged, so that the publisher resends it', async () => {
    for (const version of [4, 5] as const) {
      const world = await World.make()
      const kept = await world.connect('kept', lasting())
      await kept.subscribe('t', 1)
      const pub = await world.connect('pub', {}, version)
      world.ledger.refusal = 'the disk is nearly full'
      expect(await pub.publish('t', 'zero', 0)).toEqual([])
      expect(await pub.publish('u', 'nobody stores it', 1)).toMatchObject([{ cmd: 'puback' }])
      const answers = await pub.publish('t', 'x', 1)
      expect(answers).toMatchObject(version === 5 ? [{ cmd: 'disconnect', reasonCode: 0x97 }] : [])
      expect(pub.closed).toBe(true)
      world.ledger.refusal = null
      const back = await world.connect('pub', {}, version)
      expect(await back.publish('t', 'x', 1, { dup: true })).toMatchObject([{ cmd: 'puback' }])
      expect(kept.texts()).toEqual(['zero', 'x'])
    }
  })
})

describe('subscribers see', () => {
  it('[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-18] [MQTT-3.3.2-20] unaltered', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 0)
    const pub = await world.connect('pub')
    const properties = {
      payloadFormatIndicator: true,
      contentType: 'text/plain',
      responseTopic: 'answer',
      correlationData: Buffer.from([1, 2, 3]),
      userProperties: { b: ['1', '2'], a: '3' },
    }
    await pub.publish('t', 'x', 0, { properties })
    expect(sub.got()).toMatchObject([{ properties }])
    const old = await world.connect('old', {}, 4)
    await old.subscribe('t', 0)
    await pub.publish('t', 'x', 0, { properties })
    expect(old.link.raw.at(-1)?.toString('hex')).toBe('300400017478')
  })

  it('[MQTT-3.3.2-6] expiry counts down while it waits; [MQTT-3.3.2-5] then it is dropped', async () => {
    const world = await World.make()
    const dropped = world.record('dropped')
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    await sub.vanish()
    const pub = await world.connect('pub')
    const publish = (payload: string, messageExpiryInterval: number) =>
      pub.publish('t', payload, 1, { properties: { messageExpiryInterval } })
    await publish('long', 100)
    await publish('short', 10)
    await pub.publish('t', 'ever', 1)
    await world.pass(10.5)
    const back = await world.connect('sub', lasting())
    expect(back.got()).toMatchObject([
      { payload: Buffer.from('long'), properties: { messageExpiryInterval: 90 } },
      { payload: Buffer.from('ever') },
    ])
    expect(dropped.map(({ reason, message }) => `${reason} ${message.payload}`)).toEqual(['expired short'])
    expect(world.ledger.lines).toContain('dropped 1')
  })

  it('a message that may be sent again does not depend on the read buffer', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    const chunk = Buffer.from('32070001740001' + '00' + '78', 'hex')
    await pub.bytes(chunk)
    chunk.fill(0)
    await sub.vanish()
    const back = await world.connect('sub', lasting())
    expect(back.got()).toMatchObject([{ cmd: 'publish', dup: true, payload: Buffer.from('x') }])
  })

  it('[MQTT-4.3.3-7] a message that was sent once is sent again although it has expired', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 2, { properties: { messageExpiryInterval: 1 } })
    await sub.vanish()
    await world.pass(10)
    const back = await world.connect('sub', lasting())
    expect(back.got()).toMatchObject([{ dup: true, properties: { messageExpiryInterval: 0 } }])
  })

  it('[MQTT-3.1.2-25] a message beyond Maximum Packet Size counts as sent', async () => {
    const world = await World.make()
    const dropped = world.record('dropped')
    const small = lasting(1000, {
      properties: { sessionExpiryInterval: 1000, maximumPacketSize: 100, receiveMaximum: 1 },
    })
    const sub = await world.connect('sub', small)
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    const big = 'x'.repeat(100)
    for (const qos of [0, 1, 2] as const) await pub.publish('t', big, qos)
    await pub.publish('t', '1', 1)
    await pub.publish('t', big, 1)
    await pub.publish('t', '2', 1)
    expect(await sub.drain()).toEqual(['1', '2'])
    expect(dropped.map(({ reason }) => reason)).toEqual(Array(4).fill('packet-too-large'))
    // In flight when a smaller maximum comes.
    await pub.publish('t', 'y'.repeat(50), 1)
    await sub.vanish()
    const smaller = { ...small, properties: { sessionExpiryInterval: 1000, maximumPacketSize: 40 } }
    const back = await world.connect('sub', smaller)
    expect(back.got()).toEqual([])
    await pub.publish('t', '3', 1)
    expect(await back.drain()).toEqual(['3'])
    expect(dropped).toHaveLength(5)
    expect(world.server.state.sessions.get('sub')).toMatchObject({ inFlightCount: 0, queueLength: 0 })
  })

  it('[MQTT-3.1.2-26] [MQTT-3.1.2-27] a repeated topic gets an alias [field-E29]', async () => {
    const world = await World.make({ limits: { topicAliasOutMaximum: 2 } })
    const pub = await world.connect('pub')
    const sub = await world.connect('sub', { properties: { topicAliasMaximum: 5, maximumPacketSize: 60 } })
    const none = await world.connect('none')
    for (const client of [sub, none]) await client.subscribe('#', 0)
    const [a, b, c] = ['topic/long/a', 'topic/long/b', 'topic/long/c']
    for (const topic of ['t', a, 't', a, b, a, 't', c, b, c, b, c]) await pub.publish(topic, '')
    const seen = (packets: Packet[]) =>
      packets.map((p) => (p.cmd === 'publish' ? [p.topic, p.properties?.topicAlias ?? 0] : []))
    expect(seen(sub.got())).toEqual([
      ['t', 0],
      [a, 0],
      ['t', 0],
      [a, 1],
      [b, 0],
      ['', 1],
      ['t', 0],
      [c, 0],
      [b, 2],
      [c, 0],
      ['', 2],
      [c, 0],
    ])
    expect(seen(none.got()).flat()).not.toContain(1)
    await sub.vanish()
    // [MQTT-3.3.2-7], and a packet that was not sent sets nothing.
    const back = await world.connect('sub', { properties: { topicAliasMaximum: 1, maximumPacketSize: 60 } })
    await back.subscribe('#', 0)
    await pub.publish(a, '')
    await pub.publish(a, 'x'.repeat(100))
    await pub.publish(a, '')
    await pub.publish(a, '')
    expect(seen(back.got())).toEqual([
      [a, 0],
      [a, 1],
      ['', 1],
    ])
  })

  it('topics that come once each get no alias, and few of them are remembered [field-E29]', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const sub = await world.connect('sub', { properties: { topicAliasMaximum: 65_535 } })
    await sub.subscribe('#', 0)
    for (let n = 0; n < 200; n++) await pub.publish(`sensors/room/${n}`, '')
    for (const topic of ['sensors/room/0', 'sensors/room/199']) await pub.publish(topic, '')
    const aliases = sub.got().flatMap((p) => (p.cmd === 'publish' ? [p.properties?.topicAlias ?? 0] : []))
    expect(aliases).toEqual([...Array(201).fill(0), 1])
  })
})

describe('commits and turns', () => {
  it('PUBREC, PUBCOMP and PUBREL wait for the commit they depend on', async () => {
    const world = await World.make()
    const pub = await world.connect('pub', lasting())
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 2)
    world.ledger.automatic = false
    const steps: [() => Promise<Packet[]>, string, string][] = [
      [() => pub.publish('t', 'x', 2), 'pubrec', 'publish'],
      [() => pub.send({ cmd: 'pubrel', messageId: 1 }), 'pubcomp', ''],
      [() => sub.send({ cmd: 'pubrec', messageId: 1 }), '', 'pubrel'],
    ]
    for (const [step, toPub, toSub] of steps) {
      expect(await step()).toEqual([])
      expect([...pub.got(), ...sub.got()]).toEqual([])
      await world.commit()
      expect(pub.got().map(({ cmd }) => cmd)).toEqual(toPub === '' ? [] : [toPub])
      expect(sub.got().map(({ cmd }) => cmd)).toEqual(toSub === '' ? [] : [toSub])
    }
    await sub.send({ cmd: 'pubcomp', messageId: 1 })
    expect(world.ledger.lines.slice(-6)).toEqual([
      'enqueue 2 x 2',
      'sent 2 1',
      expect.stringMatching(/^inboundAdded 1 1 \d+$/),
      'inboundRemoved 1 1',
      'received 2 1',
      'completed 2 1',
    ])
  })

  it('the QoS 2 identifier of a stored Session is durable before PUBREC', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    const passing = await world.connect('passing')
    world.ledger.automatic = false
    expect(await kept.publish('t', 'x', 2)).toEqual([])
    expect(await passing.publish('t', 'x', 2)).toMatchObject([{ cmd: 'pubrec' }])
    await world.commit()
    expect(kept.got()).toMatchObject([{ cmd: 'pubrec' }])
  })

  it('nothing passes what waits, not even QoS 0 and PINGRESP, and it leaves in one write', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    await pub.publish('t', '1', 1)
    await pub.publish('t', '2', 0)
    await sub.send({ cmd: 'pingreq' })
    expect([...sub.got(), ...pub.got()]).toEqual([])
    const writes = sub.link.writes
    await world.commit()
    expect(sub.got().map(({ cmd }) => cmd)).toEqual(['publish', 'publish', 'pingresp'])
    expect(sub.link.writes - writes).toBe(1)
  })

  it('each turn waits for its own commit', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    for (const text of ['1', '2', '3']) await pub.publish('t', text, 1)
    for (const text of ['1', '2', '3']) {
      await world.commit()
      expect(sub.texts()).toEqual([text])
      expect(pub.got()).toHaveLength(1)
    }
    expect(world.census()).toMatchObject({ waiting: 0 })
  })

  it('one write per connection and turn, however much came in', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('#', 0)
    const pubs = [await world.connect('a'), await world.connect('b')]
    const writes = sub.link.writes
    for (const pub of pubs) {
      pub.link.handler?.received(Buffer.from('3005000174007830050001740079', 'hex'))
    }
    await world.settle()
    expect(sub.texts()).toEqual(['x', 'y', 'x', 'y'])
    expect(sub.link.writes - writes).toBe(1)
  })

  it('publishers are paused when too much waits for a commit, and go on by commits alone', async () => {
    const world = await World.make({ limits: { pendingCommitBytesMax: 1000 } })
    const paused = world.record('paused')
    const resumed = world.record('resumed')
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub', { keepalive: 10 })
    world.ledger.automatic = false
    const packets = Array.from({ length: 20 }, (_, n) => ({
      cmd: 'publish',
      topic: 't',
      payload: `${n}`,
      qos: 1,
      messageId: n + 1,
    }))
    await pub.send(...packets, { cmd: 'pingreq' })
    expect(pub.link.paused).toBe(true)
    expect(paused).toEqual([{ clientId: 'pub', reason: 'commit' }])
    await world.pass(60)
    expect(pub.closed).toBe(false)
    const handled = world.server.state.counters.publishReceived
    expect(handled).toBeLessThan(20)
    for (let round = 0; round < 20; round++) await world.commit()
    expect(pub.link.paused).toBe(false)
    expect(resumed.length).toBe(paused.length)
    expect(pub.got().map(({ cmd }) => cmd)).toEqual([...Array(20).fill('puback'), 'pingresp'])
    expect(sub.texts()).toEqual(packets.map(({ payload }) => payload))
    await world.pass(16)
    expect(pub.closed).toBe(true)
    expect(world.census()).toMatchObject({ paused: 0, waiting: 0 })
  })
})
