import { describe, expect, it } from 'vitest'
import type { LinkInfo } from '../../../src/broker/boundary/link.ts'
import { Message, NO_TOPIC, Topic } from '../../../src/mqtt/message.ts'
import { SESSION_NEVER_EXPIRES } from '../../../src/mqtt/packet.ts'
import { MemoryStore } from '../../../src/store/memory/memory-store.ts'
import { connectPacket, lasting, World } from '../harness.ts'

const clean = { clean: true, properties: { sessionExpiryInterval: 1000 } }
const NEVER = 0xffffffff

describe('an expired message in the queue of an absent client', () => {
  const publish = (world: World, topic: string, count: number, seconds?: number): void => {
    for (let n = 0; n < count; n++) {
      void world.server.publish({
        topic,
        payload: Buffer.alloc(1000),
        qos: 1,
        retain: false,
        publisher: '',
        ...(seconds !== undefined && { expiresAt: world.server.state.clock + seconds * 1000 }),
      })
    }
  }

  it('is given back in the background, also behind what stays [field-B8]', async () => {
    const store = new MemoryStore()
    const world = await World.make({ store })
    const client = await world.connect('away', lasting(100_000))
    await client.subscribe('#', 1)
    await client.vanish()
    publish(world, 'kept', 3)
    publish(world, 'gone', 5000, 10)
    publish(world, 'later', 10, 1000)
    await world.settle()
    expect(store.figures.residentBytes).toBeGreaterThan(5_000_000)
    await world.pass(13)
    expect(world.server.state.sessions.get('away')).toMatchObject({ queueLength: 13 })
    expect(store.figures.residentBytes).toBeLessThan(20_000)
    expect(world.server.state.counters.drops.expired).toBe(5000)
    await world.pass(1000)
    const back = await world.connect('away', lasting(100_000))
    expect(await back.drain()).toHaveLength(3)
    expect(world.census()).toMatchObject({ retainedDeliveries: 0 })
    expect(world.server.state.sweeps.size).toBe(0)
  })

  it('leaves nothing behind when the Session ends first [field-B8]', async () => {
    const world = await World.make()
    const client = await world.connect('away', lasting(5))
    await client.subscribe('#', 1)
    await client.vanish()
    publish(world, 'gone', 10, 100)
    await world.settle()
    expect(world.server.state.sweeps.size).toBe(1)
    await world.pass(6)
    expect(world.server.state.sweeps.size).toBe(0)
    expect(world.census()).toMatchObject({ deadlines: 0, sessions: 0 })
  })

  it('is refused no room: a publisher is let on as soon as it has expired [field-B8]', async () => {
    const world = await World.make({ limits: { queueMessagesMax: 10, queueFull: 'refuse' } })
    const client = await world.connect('away', lasting(100_000))
    await client.subscribe('#', 1)
    await client.vanish()
    const pub = await world.connect('pub')
    await pub.publish('t', 'kept', 1)
    publish(world, 't', 9, 10)
    await world.settle()
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ reasonCode: 0x97 }])
    world.monotonic += 10_000
    expect(await pub.publish('t', 'new', 1)).toMatchObject([{ reasonCode: 0 }])
  })
})

describe('a client that comes back to many messages', () => {
  const flood = async (version: 4 | 5, info: Partial<LinkInfo> = {}): Promise<number[]> => {
    const world = await World.make()
    const connect = { ...connectPacket('device', version), ...lasting(1000, { cmd: 'connect' }) }
    if (version === 4) delete (connect as { properties?: object }).properties
    const first = world.open(version, info)
    await first.send(connect)
    await first.subscribe('t', 1)
    await first.vanish()
    for (let n = 0; n < 600; n++) {
      void world.server.publish({
        topic: 't',
        payload: Buffer.from(`${n}`),
        qos: 1,
        retain: false,
        publisher: '',
      })
    }
    await world.settle()
    const back = world.open(version, info)
    let came = (await back.send(connect)).slice(1)
    const counts: number[] = []
    while (came.length > 0) {
      counts.push(came.length)
      came = await back.send(...came.map(({ messageId }) => ({ cmd: 'puback', messageId })))
    }
    return counts
  }

  it('starts with 20 in flight before 5.0, and with Receive Maximum in 5.0 [field-E28]', async () => {
    expect(await flood(4)).toEqual([20, 40, 80, 160, 300])
    expect(await flood(5)).toEqual([600])
  })

  it('gets no more than its listener allows, in each version [field-E28]', async () => {
    expect((await flood(4, { inFlightMax: 50 })).slice(0, 4)).toEqual([20, 40, 50, 50])
    expect((await flood(5, { inFlightMax: 50 })).slice(0, 2)).toEqual([50, 50])
  })
})

describe('Clean Start and Session Present', () => {
  it.each([
    ['no Session, Clean Start 1', false, true, false],
    ['no Session, Clean Start 0 [MQTT-3.1.2-6]', false, false, false],
    ['a Session, Clean Start 1 [MQTT-3.1.2-4] [MQTT-3.2.2-2]', true, true, false],
    ['a Session, Clean Start 0 [MQTT-3.1.2-5] [MQTT-3.2.2-3]', true, false, true],
  ])('%s', async (_, exists, cleanStart, present) => {
    for (const version of [4, 5] as const) {
      const world = await World.make()
      if (exists) {
        const first = await world.connect('a', lasting(), version)
        await first.subscribe('t', 1)
        await first.vanish()
      }
      const client = await world.connect('a', cleanStart ? clean : lasting(), version)
      expect(client.connack).toMatchObject({ sessionPresent: present })
      const pub = await world.connect('pub')
      await pub.publish('t', 'x', 1)
      expect(client.texts()).toEqual(present ? ['x'] : [])
    }
  })

  it('3.1 has no Session Present flag, and resumes all the same', async () => {
    const world = await World.make()
    const first = await world.connect('a', { clean: false }, 3)
    await first.subscribe('t', 1)
    await first.vanish()
    await (await world.connect('pub')).publish('t', 'x', 1)
    const back = await world.connect('a', { clean: false }, 3)
    expect(back.connack).toMatchObject({ sessionPresent: false, returnCode: 0 })
    expect(back.texts()).toEqual(['x'])
  })

  it('Clean Start 0 on a Session that ends with its connection: taken over, it has ended', async () => {
    const world = await World.make()
    await world.connect('a', { clean: false })
    const next = await world.connect('a', { clean: false })
    expect(next.connack).toMatchObject({ sessionPresent: false })
  })

  it('a 3.1.1 Session goes on in 5.0, and back', async () => {
    const world = await World.make()
    const old = await world.connect('a', { clean: false }, 4)
    await old.subscribe('t', 1)
    await old.send({ cmd: 'disconnect' })
    const pub = await world.connect('pub')
    await pub.publish('t', '1', 1)
    const modern = await world.connect('a', lasting(50))
    expect(modern.connack).toMatchObject({ sessionPresent: true })
    expect(await modern.drain()).toEqual(['1'])
    await modern.vanish()
    await pub.publish('t', '2', 1)
    const again = await world.connect('a', { clean: false }, 4)
    expect(await again.drain()).toEqual(['2'])
  })
})

describe('Session Expiry Interval', () => {
  it('[MQTT-4.1.0-2] [MQTT-3.1.2-23] a Session ends when it has passed, not before', async () => {
    const world = await World.make()
    const ended = world.record('sessionEnded')
    const client = await world.connect('a', lasting(10))
    await client.subscribe('t', 1)
    await world.pass(100)
    expect(ended).toEqual([]) // [MQTT-4.1.0-1]
    await client.vanish()
    await world.pass(9.9)
    expect(ended).toEqual([])
    await world.pass(0.2)
    expect(ended).toEqual([{ clientId: 'a', reason: 'expired' }])
    expect(world.census()).toEqual(Object.fromEntries(Object.keys(world.census()).map((key) => [key, 0])))
    expect(world.server.state.counters.clientsExpired).toBe(1)
  })

  it('0 or absent: it ends with the Network Connection, and is never stored', async () => {
    const world = await World.make()
    for (const properties of [{}, { sessionExpiryInterval: 0 }]) {
      const client = await world.connect('a', { clean: false, properties })
      await client.subscribe('t', 1)
      await client.vanish()
    }
    expect(world.ledger.lines).toEqual([])
    expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0 })
  })

  it('a client that comes back stops the clock, and the new interval counts', async () => {
    const world = await World.make()
    await (await world.connect('a', lasting(10))).vanish()
    await world.pass(9)
    const back = await world.connect('a', lasting(20))
    await world.pass(30)
    await back.vanish()
    await world.pass(19)
    expect((await world.connect('a', lasting(0))).connack).toMatchObject({ sessionPresent: true })
  })

  it('a Session that is resumed with 0 ends with that Network Connection', async () => {
    const world = await World.make()
    await (await world.connect('a', lasting(10))).vanish()
    await (await world.connect('a', { clean: false })).vanish()
    expect(world.census()).toMatchObject({ sessions: 0, sessionsById: 0, deadlines: 0 })
  })

  it('0xFFFFFFFF, and 3.1.1 without Clean Session: never, unless there is a maximum', async () => {
    for (const [version, properties] of [
      [5, { sessionExpiryInterval: NEVER }],
      [4, undefined],
    ] as const) {
      const world = await World.make()
      await (await world.connect('a', { clean: false, properties }, version)).vanish()
      expect(world.census()).toMatchObject({ sessions: 1, deadlines: 0 })
      const limited = await World.make({ limits: { sessionExpirySecondsMax: 60 } })
      await (await limited.connect('a', { clean: false, properties }, version)).vanish()
      await limited.pass(61)
      expect(limited.census()).toMatchObject({ sessions: 0 })
    }
  })

  it('DISCONNECT changes the interval, within the maximum; 0 ends the Session at once', async () => {
    const world = await World.make({ limits: { sessionExpirySecondsMax: 50 } })
    const leave = async (sessionExpiryInterval: number): Promise<void> => {
      const client = await world.connect('a', lasting(10))
      await client.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval } })
      expect(client.closed).toBe(true)
    }
    await leave(5)
    await world.pass(5.1)
    expect(world.census()).toMatchObject({ sessions: 0 })
    await leave(NEVER)
    await world.pass(49)
    expect(world.census()).toMatchObject({ sessions: 1 })
    await world.pass(2)
    expect(world.census()).toMatchObject({ sessions: 0 })
    await leave(0)
    expect(world.census()).toMatchObject({ sessions: 0, deadlines: 0 })
  })

  it('section 3.14.2.2.2: DISCONNECT may not change it from 0', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    const bad = { cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 1 } }
    expect(await client.send(bad)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x82 }])
    expect(world.census()).toMatchObject({ sessions: 0 })
    const same = await world.connect('a')
    const good = { cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } }
    expect(await same.send(good)).toEqual([])
  })
})

describe('takeover', () => {
  it('[MQTT-3.1.4-3] the old connection gets 0x8E and is closed before the new one is answered', async () => {
    const world = await World.make()
    for (const version of [4, 5] as const) {
      const old = await world.connect('a', lasting(), version)
      const next = await world.connect('a', lasting(), version)
      expect(next.connack).toMatchObject({ sessionPresent: true })
      expect(old.got()).toMatchObject(version === 5 ? [{ cmd: 'disconnect', reasonCode: 0x8e }] : [])
      expect(old.closed).toBe(true)
      expect(next.closed).toBe(false)
    }
    expect(world.census()).toMatchObject({ connected: 1, connections: 1, clientsConnected: 1 })
  })

  it('the old connection gets nothing from a commit that was under way', async () => {
    const world = await World.make()
    const old = await world.connect('a', lasting())
    await old.subscribe('t', 1)
    world.ledger.automatic = false
    await old.publish('t', 'mine', 1)
    expect(old.got()).toEqual([])
    const next = world.open(5)
    await next.send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'a', ...lasting() })
    expect(old.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8e }])
    while (await world.commit());
    expect(old.got()).toEqual([])
    expect(next.got()).toMatchObject([
      { cmd: 'connack', sessionPresent: true },
      { cmd: 'publish', messageId: 1, dup: true },
    ])
  })

  it('[MQTT-3.14.0-1] an old connection is closed without DISCONNECT before its CONNACK', async () => {
    const world = await World.make()
    world.ledger.automatic = false
    const packet = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'a', ...lasting() }
    const old = world.open(5)
    await old.send(packet)
    const next = world.open(5)
    await next.send(packet)
    while (await world.commit());
    expect(old.got()).toEqual([])
    expect(old.closed).toBe(true)
    expect(next.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
  })

  it('packets of the old connection are not handled after it was taken over', async () => {
    const world = await World.make()
    const old = await world.connect('a')
    const handler = old.link.handler
    await world.connect('a')
    const published = world.record('published')
    handler?.received(Buffer.from('30050001740078', 'hex'))
    await world.settle()
    expect(published).toEqual([])
  })

  it('takeover with Clean Start 1 ends the old Session', async () => {
    const world = await World.make()
    const ended = world.record('sessionEnded')
    const old = await world.connect('a', lasting())
    await old.subscribe('t', 1)
    const next = await world.connect('a', clean)
    expect(next.connack).toMatchObject({ sessionPresent: false })
    expect(ended).toEqual([{ clientId: 'a', reason: 'clean-start' }])
    await (await world.connect('pub')).publish('t', 'x', 1)
    expect(next.texts()).toEqual([])
  })
})

describe('ownership', () => {
  const policy = {
    authenticate: ({ userName }: { userName: string | undefined }) =>
      ({ allow: true, userName: userName ?? null }) as const,
  }

  it("another user's CONNECT is refused and takes nothing over, online or offline", async () => {
    const world = await World.make({ policy })
    const anna = { ...lasting(), username: 'anna' }
    const online = await world.connect('a', anna)
    await online.subscribe('t', 1)
    for (const other of [{ ...clean, username: 'bert' }, clean]) {
      const intruder = await world.connect('a', other)
      expect(intruder.connack).toMatchObject({ reasonCode: 0x87, sessionPresent: false })
      expect(intruder.closed).toBe(true)
    }
    expect(online.closed).toBe(false)
    await online.vanish()
    expect((await world.connect('a', { ...clean, username: 'bert' })).connack).toMatchObject({
      reasonCode: 0x87,
    })
    const back = await world.connect('a', anna)
    expect(back.connack).toMatchObject({ sessionPresent: true })
  })

  it('a Session made by another user while a policy was thinking is safe', async () => {
    let decide: (answer: boolean) => void = () => {}
    const world = await World.make({
      policy: {
        ...policy,
        authorizePublish: (client) =>
          client.userName === 'slow' ? new Promise((resolve) => (decide = resolve)) : true,
      },
    })
    const slow = world.open(5)
    const will = { topic: 'w', payload: Buffer.from('w'), qos: 0 as const, retain: false }
    const packet = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'a', clean: true }
    await slow.send({ ...packet, keepalive: 0, username: 'slow', will })
    const quick = await world.connect('a', { username: 'quick' })
    decide(true)
    await world.settle()
    expect(slow.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    expect(quick.closed).toBe(false)
  })
})

describe('the end of a Session', () => {
  it('undelivered messages are counted as lost with it', async () => {
    const world = await World.make()
    const dropped = world.record('dropped')
    const sub = await world.connect('a', lasting(10))
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    await pub.publish('t', 'sent', 1)
    await sub.vanish()
    await pub.publish('t', 'queued', 1)
    await world.pass(11)
    expect(dropped.map(({ reason, message }) => [reason, message.payload.toString()])).toEqual([
      ['session-ended', 'sent'],
      ['session-ended', 'queued'],
    ])
    expect(world.ledger.lines.slice(-3)).toEqual(['completed 1 1', 'dropped 1', 'deleteSession 1 holding 0'])
  })

  it('the store hears of a Session before its Subscriptions, and of the end of both', async () => {
    const world = await World.make()
    const sub = await world.connect('a', lasting(10))
    await sub.subscribe('t', 1)
    await sub.unsubscribe('t')
    await sub.vanish()
    await world.connect('a', clean)
    expect(world.ledger.lines).toEqual([
      'putSession 1 a',
      'putSubscription 1 t 1',
      'deleteSubscription 1 t',
      'putSession 1 a',
      'deleteSession 1 holding 0',
      'putSession 2 a',
    ])
  })
})

describe('an ended Session whose share is on disk', () => {
  const share = '$share/g/t'
  const recovered = (
    texts: readonly string[],
    store: { restore: (messages: readonly Message[]) => Promise<void> },
  ) => {
    const queue = texts.map((text) => {
      const fields = {
        topic: NO_TOPIC,
        payload: Buffer.alloc(0),
        qos: 1,
        retain: false,
        publisher: '',
      } as const
      return {
        message: Message.of(fields, text.length),
        qos: 1,
        retain: false,
        subscriptionIdentifiers: [],
        share,
      } as const
    })
    store.restore = async (messages) => {
      for (const message of messages) {
        const text = texts[queue.findIndex((delivery) => delivery.message === message)]!
        message.restore(new Topic('t'), Buffer.alloc(0), Buffer.from(text))
      }
    }
    const options = {
      qos: 1,
      noLocal: false,
      retainAsPublished: false,
      retainHandling: 0,
      identifier: 0,
    } as const
    const record = {
      clientId: 'a',
      owner: null,
      ownerId: null,
      expirySeconds: SESSION_NEVER_EXPIRES,
      disconnectedAt: 0,
    }
    const empty = { inFlight: [], queueHead: 0, lastPacketId: 0, inbound: [] }
    return [{ id: 1, record, queue, subscriptions: [[share, options] as const], ...empty }]
  }

  /** A member without room: it takes nothing of what waits for others. */
  const busy = async (world: World) => {
    const member = await world.connect('b', { properties: { receiveMaximum: 1 } })
    await member.subscribe('busy', 1)
    await (await world.connect('pub')).publish('busy', 'busy', 1)
    return member
  }

  it('passes it on to a member that is not stored, in order, and is deleted after that', async () => {
    const texts = Array.from({ length: 600 }, (_, index) => `${index}`)
    const world = await World.make({}, (made) => {
      made.ledger.recovered = { ...made.ledger.recovered, sessions: recovered(texts, made.ledger) }
    })
    const member = await busy(world)
    await member.subscribe(share, 1)
    const again = await world.connect('a')
    expect(again.connack).toMatchObject({ sessionPresent: false })
    expect(await member.drain()).toEqual(['busy', ...texts])
    expect(world.ledger.lines.filter((line) => line === 'dropped 1').length).toBe(600)
    expect(world.ledger.lines.filter((line) => line.startsWith('deleteSession'))).toEqual([
      'deleteSession 1 holding 0',
    ])
    expect(world.server.state.sessionsById.size).toBe(0)
    expect(world.server.state.counters.publishDropped).toBe(0)
  })

  it('keeps it stored until then, under a name that no client can have', async () => {
    const world = await World.make({}, (made) => {
      made.ledger.recovered = { ...made.ledger.recovered, sessions: recovered(['x'], made.ledger) }
    })
    const member = await busy(world)
    await member.subscribe(share, 1)
    const { restore } = world.ledger
    let read: () => void = () => {}
    world.ledger.restore = async (messages) => {
      await new Promise<void>((resolve) => (read = resolve))
      await restore(messages)
    }
    await world.connect('a', clean)
    expect(world.ledger.lines.filter((line) => line.startsWith('putSession 1 '))).toEqual([
      'putSession 1 a',
      'putSession 1 \0ended 1',
    ])
    expect(world.server.state.sessions.get('a')).toMatchObject({ id: 2 })
    read()
    await world.settle()
    expect(await member.drain()).toEqual(['busy', 'x'])
    expect([...world.server.state.sessionsById.keys()]).toEqual([2])
  })
})

it.each([
  ['not stored', { properties: { receiveMaximum: 2 } }],
  ['stored', { clean: false, properties: { receiveMaximum: 2, sessionExpiryInterval: 1000 } }],
] as const)(
  'a Session that has ended and was %s keeps no messages for the Routes that still name it',
  async (_, how) => {
    const world = await World.make()
    const client = await world.connect('c', how)
    await client.subscribe('a', 2)
    const publisher = await world.connect('p')
    for (let number = 0; number < 10; number++) await publisher.publish('a', `${number}`, 2)
    while (await world.commit());
    const { router, topics, sessions } = world.server.state
    const session = sessions.get('c')!
    expect(session.inFlightCount).toBe(2)
    expect(session.queueLength).toBeGreaterThan(0)
    await client.vanish()
    await world.connect('c', clean) // ends the one that is stored
    expect(router.route(topics.intern('a')).entries.length).toBe(0)
    expect([session.inFlightCount, session.inFlightBytes]).toEqual([0, 0])
    expect([session.queueLength, session.queueBytes]).toEqual([0, 0])
    expect([...session.held()]).toEqual([])
  },
)
