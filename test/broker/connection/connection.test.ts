import mqttPacket from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { Message, NO_TOPIC, Topic } from '../../../src/mqtt/message.ts'
import { SESSION_NEVER_EXPIRES } from '../../../src/mqtt/packet.ts'
import { connectPacket, lasting, World } from '../harness.ts'

const connectBytes = (clientId: string): Buffer =>
  mqttPacket.generate({
    ...connectPacket(clientId),
    clean: false,
    properties: { sessionExpiryInterval: 20 },
  } as never)

describe('Keep Alive', () => {
  it('[MQTT-3.1.2-22] allows one and a half times the interval since any packet', async () => {
    const world = await World.make()
    const disconnected = world.record('disconnected')
    const client = await world.connect('a', { keepalive: 10 })
    for (let round = 0; round < 3; round++) {
      await world.pass(14.9)
      await client.send({ cmd: 'pingreq' })
    }
    expect(client.closed).toBe(false)
    await world.pass(14.9)
    expect(client.closed).toBe(false)
    await world.pass(0.3)
    expect(client.closed).toBe(true)
    expect(client.got().at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x8d })
    expect(disconnected).toMatchObject([{ clientId: 'a', reasonCode: 0x8d, by: 'server' }])
    expect(world.census()).toMatchObject({ deadlines: 0 })
  })

  it('bytes of a packet that never ends do not count', async () => {
    const world = await World.make()
    const client = await world.connect('a', { keepalive: 10 }, 4)
    await client.bytes(Buffer.from('30ff7f', 'hex'))
    for (let round = 0; round < 20; round++) {
      await world.pass(1)
      await client.bytes(Buffer.from('00', 'hex'))
    }
    expect(client.closed).toBe(true)
    expect(client.got()).toEqual([])
  })

  it('[MQTT-3.1.2-22] bytes count, so a large PUBLISH may take longer [field-B6]', async () => {
    const world = await World.make()
    const client = await world.connect('a', { keepalive: 10 }, 4)
    const payload = Buffer.alloc(4000, 'x')
    const bytes = Buffer.concat([Buffer.from('30a31f000174', 'hex'), payload])
    const published = world.record('published')
    for (let at = 0; at < bytes.length; at += 100) {
      await client.bytes(bytes.subarray(at, at + 100))
      await world.pass(12)
    }
    expect(client.closed).toBe(false)
    expect(published).toMatchObject([{ message: { topic: { name: 't' } } }])
    await world.pass(4)
    expect(client.closed).toBe(true)
  })

  it('so do those of a TLS record under way', async () => {
    const world = await World.make()
    const client = await world.connect('a', { keepalive: 10 }, 4)
    client.link.arrivedBytes = 0
    for (let round = 0; round < 5; round++) {
      await world.pass(14)
      client.link.arrivedBytes += 1000
    }
    expect(client.closed).toBe(false)
    await world.pass(31)
    expect(client.closed).toBe(true)
  })

  it('input that has arrived is read before the time is checked [field-B6]', async () => {
    const world = await World.make()
    const client = await world.connect('a', { keepalive: 10 })
    const silent = await world.connect('b', { keepalive: 10 })
    const will = { topic: 'will', payload: Buffer.from('lost'), qos: 0, retain: false } as const
    const back = await world.connect('c', {
      ...lasting(20),
      will: { ...will, properties: { willDelayInterval: 10 } },
    })
    await back.vanish()
    // The process is stopped. Timers run first when it goes on; then what the kernel has is read.
    world.monotonic += 60_000
    world.server.tick()
    client.link.handler!.received(Buffer.from('c000', 'hex'))
    const again = world.open()
    again.link.handler!.received(connectBytes('c'))
    await world.settle()
    expect(client.closed).toBe(false)
    expect(silent.closed).toBe(true)
    expect(again.got()).toMatchObject([{ cmd: 'connack', sessionPresent: true }])
    expect(world.server.state.counters.publishReceived).toBe(0)
    await world.pass(16)
    expect(client.closed).toBe(true)
  })

  it('packets of the Server do not count', async () => {
    const world = await World.make()
    const client = await world.connect('a', { keepalive: 10 })
    await client.subscribe('t')
    const pub = await world.connect('pub')
    for (let round = 0; round < 16; round++) {
      await world.pass(1)
      await pub.publish('t', 'x')
    }
    expect(client.closed).toBe(true)
  })

  it('0 sets no limit', async () => {
    const world = await World.make()
    const client = await world.connect('a', { keepalive: 0 })
    await world.pass(1_000_000)
    expect(client.closed).toBe(false)
  })
})

describe('unexpected packets', () => {
  it('an acknowledgement of an unknown identifier is ignored, one of the wrong kind ends it', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    expect(await sub.send({ cmd: 'puback', messageId: 9 }, { cmd: 'pubcomp', messageId: 9 })).toEqual([])
    expect(await sub.send({ cmd: 'pubrec', messageId: 9 })).toMatchObject([
      { cmd: 'pubrel', messageId: 9, reasonCode: 0x92 },
    ])
    await sub.subscribe('t', 1)
    await (await world.connect('pub')).publish('t', 'x', 1)
    sub.got()
    expect(await sub.send({ cmd: 'pubrec', messageId: 1 })).toMatchObject([
      { cmd: 'disconnect', reasonCode: 0x82 },
    ])
    const old = await world.connect('old', {}, 4)
    expect(await old.send({ cmd: 'pubrec', messageId: 9 })).toMatchObject([{ cmd: 'pubrel', messageId: 9 }])
  })

  it('a repeated PUBREC gets PUBREL again', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 2)
    await (await world.connect('pub')).publish('t', 'x', 2)
    sub.got()
    for (let round = 0; round < 2; round++) {
      expect(await sub.send({ cmd: 'pubrec', messageId: 1 })).toMatchObject([
        { cmd: 'pubrel', messageId: 1, reasonCode: 0 },
      ])
    }
  })

  it('[MQTT-4.13.1-1] packets of a Server, reserved flags and nonsense end it', async () => {
    const world = await World.make()
    for (const [hex, reasonCode] of [
      ['20020000', 0x82], // CONNACK
      ['d000', 0x82], // PINGRESP
      ['0000', 0x81],
      ['c100', 0x81],
      ['36050001740001', 0x81], // QoS 3 [MQTT-3.3.1-4]
      ['3003000000', 0x82], // an empty topic without an alias
    ] as const) {
      const client = await world.connect('a')
      const [answer] = await client.bytes(Buffer.from(hex, 'hex'))
      expect([hex, answer]).toMatchObject([hex, { cmd: 'disconnect', reasonCode }])
      expect(client.closed).toBe(true)
      const old = await world.connect('b', {}, 4)
      expect(await old.bytes(Buffer.from(hex, 'hex'))).toEqual([])
      expect(old.closed).toBe(true)
    }
  })

  it('packets after DISCONNECT or a violation are not handled; earlier answers still leave', async () => {
    const world = await World.make()
    const published = world.record('published')
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 0 }
    const client = await world.connect('a')
    expect(
      await client.send({ cmd: 'pingreq' }, { cmd: 'disconnect', reasonCode: 0 }, publish),
    ).toMatchObject([{ cmd: 'pingresp' }])
    const wrong = await world.connect('b')
    const ping = Buffer.from('c000', 'hex')
    const answers = await wrong.bytes(Buffer.concat([ping, Buffer.from('20020000', 'hex'), ping]))
    expect(answers.map(({ cmd }) => cmd)).toEqual(['pingresp', 'disconnect'])
    expect(published).toEqual([])
  })

  it('packets may arrive byte by byte', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t')
    const pub = await world.connect('pub', {}, 4)
    for (const byte of Buffer.from('300400017478c000', 'hex')) await pub.bytes(Buffer.from([byte]))
    expect(sub.texts()).toEqual(['x'])
    expect(pub.link.raw.at(-1)?.toString('hex')).toBe('d000')
  })
})

describe('slow readers', () => {
  it('lose QoS 0, which is counted; QoS 1 and 2 stay and come later in order', async () => {
    const world = await World.make({ limits: { outgoingBytesMax: 1000 } })
    const dropped = world.record('dropped')
    const sub = await world.connect('sub')
    await sub.subscribe('t', 2)
    sub.link.stuck = true
    const pub = await world.connect('pub')
    for (let n = 0; n < 100; n++) await pub.publish('t', `${n}`.padEnd(100), (n % 3) as 0 | 1 | 2)
    expect(sub.link.bufferedBytes).toBeLessThan(1300)
    const first = sub.texts()
    expect(dropped.every(({ reason }) => reason === 'slow-reader')).toBe(true)
    expect(world.server.state.counters.drops['slow-reader']).toBe(dropped.length)
    const rest: string[] = []
    for (let round = 0; round < 50; round++) {
      sub.link.take()
      await world.settle()
      rest.push(...sub.texts())
    }
    const got = [...first, ...rest].map((text) => Number(text))
    expect(got).toEqual([...got].sort((a, b) => a - b))
    expect(got.filter((n) => n % 3 !== 0)).toHaveLength(66)
    expect(got.length + dropped.length).toBe(100)
  })

  it('output that waits for a commit counts as waiting', async () => {
    const world = await World.make({ limits: { outgoingBytesMax: 1000 } })
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    for (let n = 0; n < 30; n++) await pub.publish('t', `${n}`.padEnd(100), 1)
    expect(world.server.state.sessions.get('sub')!.inFlightCount).toBeLessThan(12)
    for (let round = 0; round < 60; round++) await world.commit()
    expect(sub.texts().map(Number)).toEqual(Array.from({ length: 30 }, (_, n) => n))
  })

  it('one that takes nothing for stalledReaderSeconds is cut off, no other', async () => {
    const world = await World.make({ limits: { stalledReaderSeconds: 10 } })
    const disconnected = world.record('disconnected')
    const sub = await world.connect('sub', lasting())
    const crawling = await world.connect('crawling')
    for (const client of [sub, crawling]) {
      await client.subscribe('t')
      client.link.stuck = true
    }
    const pub = await world.connect('pub')
    await pub.publish('t', 'x'.repeat(1000))
    for (let second = 0; second < 9; second++) {
      await world.pass(1)
      crawling.link.bufferedBytes -= 10
      crawling.link.flushedBytes += 10
    }
    expect(sub.closed).toBe(false)
    await world.pass(2)
    expect([sub.link.destroyed, crawling.closed]).toEqual([true, false])
    expect(disconnected).toMatchObject([{ clientId: 'sub', by: 'server' }])
    expect(world.census()).toMatchObject({ sessions: 3 })
    await world.pass(30)
    expect(crawling.link.destroyed).toBe(true)
    const idle = await world.connect('idle')
    await world.pass(100)
    expect(idle.closed).toBe(false)
  })

  it('get every turn as it was sent, even if several turns use the same memory', async () => {
    const world = await World.make()
    const subs = [await world.connect('a'), await world.connect('b')]
    for (const sub of subs) {
      await sub.subscribe('t', 1)
      sub.link.stuck = true
    }
    const pub = await world.connect('pub')
    const turns = Array.from(
      { length: 8 },
      (_, turn) => Array.from({ length: 4 }, (_, n) => `${turn} ${n}`.padEnd(1015, '.')), // packets of 1 KiB
    )
    for (const texts of turns) {
      await pub.send(
        ...texts.map((payload) => ({ cmd: 'publish', topic: 't', payload, qos: 1, messageId: 1 })),
      )
    }
    for (const sub of subs) expect(sub.texts()).toEqual(turns.flat())
  })

  it('are also cut off while the connection is closing', async () => {
    const world = await World.make({ limits: { stalledReaderSeconds: 10 } })
    const client = await world.connect('a')
    client.link.stuck = true
    client.link.end = () => {}
    world.server.disconnect('a', 0x98, '')
    await world.settle()
    await world.pass(11)
    expect(client.link.destroyed).toBe(true)
    expect(world.census()).toMatchObject({ deadlines: 0, connections: 0 })
  })
})

describe('full queues', () => {
  it('refuse answers 0x97, ends 3.1.1, and gives the message to nobody else', async () => {
    for (const options of [lasting(), {}]) {
      const world = await World.make({ limits: { queueMessagesMax: 1, queueFull: 'refuse', inFlightMax: 1 } })
      const limited = world.record('limited')
      const full = await world.connect('full', options)
      await full.subscribe('t', 1)
      const other = await world.connect('other')
      await other.subscribe('t', 0)
      const pub = await world.connect('pub')
      const codes: unknown[] = []
      for (let n = 0; n < 3; n++) codes.push(...(await pub.publish('t', `${n}`, 1)))
      expect(codes).toMatchObject([{ reasonCode: 0 }, { reasonCode: 0 }, { reasonCode: 0x97 }])
      expect(other.texts()).toEqual(['0', '1'])
      expect(limited).toMatchObject([{ limit: 'queueMessagesMax', clientId: 'pub' }])
      await pub.publish('t', 'zero', 0)
      expect(other.texts()).toEqual(['zero'])
      const old = await world.connect('old', {}, 4)
      await old.publish('t', 'x', 1)
      expect(old.closed).toBe(true)
      expect(await full.drain()).toEqual(['0', 'zero', '1'])
    }
  })

  it('refuse in a group happens only if the member whose turn it is has no place', async () => {
    const world = await World.make({ limits: { queueMessagesMax: 1, queueFull: 'refuse', inFlightMax: 1 } })
    const members = [await world.connect('a'), await world.connect('b')]
    for (const member of members) await member.subscribe('$share/g/t', 1)
    const pub = await world.connect('pub')
    const codes: unknown[] = []
    for (let n = 0; n < 5; n++) codes.push(...(await pub.publish('t', `${n}`, 1)))
    expect(codes.map((code) => (code as { reasonCode: number }).reasonCode)).toEqual([0, 0, 0, 0, 0x97])
    expect(await Promise.all(members.map((member) => member.drain()))).toEqual([
      ['0', '2'],
      ['1', '3'],
    ])
  })

  it('drop-oldest reports whose message was lost', async () => {
    const world = await World.make({ limits: { queueMessagesMax: 2 } })
    const dropped = world.record('dropped')
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    await sub.vanish()
    const pub = await world.connect('pub')
    for (let n = 0; n < 4; n++) await pub.publish('t', `${n}`, 1)
    expect(
      dropped.map(({ clientId, reason, message }) => `${clientId} ${reason} ${message.payload}`),
    ).toEqual(['sub queue-full 0', 'sub queue-full 1'])
    const back = await world.connect('sub', lasting())
    expect(back.texts()).toEqual(['2', '3'])
  })
})

describe('the end of a connection', () => {
  it('of each kind is reported once, with the side that ended it', async () => {
    const world = await World.make()
    const disconnected = world.record('disconnected')
    await (await world.connect('a')).send({ cmd: 'disconnect', reasonCode: 0 })
    await (await world.connect('b')).vanish()
    await (await world.connect('c')).bytes(Buffer.from('20020000', 'hex'))
    await world.open().vanish()
    expect(disconnected.map(({ clientId, by, reasonCode }) => [clientId, by, reasonCode])).toEqual([
      ['a', 'client', 0],
      ['b', 'network', 0x80],
      ['c', 'server', 0x82],
    ])
    expect(world.census()).toEqual(Object.fromEntries(Object.keys(world.census()).map((key) => [key, 0])))
  })

  it('keeps messages that could not leave for when the client is back', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    await pub.publish('t', '1', 1)
    await sub.vanish()
    while (await world.commit());
    world.ledger.automatic = true
    expect(sub.got()).toEqual([])
    const back = await world.connect('sub', lasting())
    expect(back.got()).toMatchObject([{ cmd: 'publish', messageId: 1, dup: true }])
  })
})

describe('a broker that is behind', () => {
  it('pauses clients that store more, with whatever packets, until commits catch up', async () => {
    const world = await World.make({ limits: { pendingCommitBytesMax: 300 } })
    const client = await world.connect('a', lasting())
    world.ledger.automatic = false
    for (let id = 1; id <= 6; id++) {
      await client.send({ cmd: 'subscribe', messageId: id, subscriptions: [{ topic: `t/${id}`, qos: 1 }] })
    }
    expect(client.link.paused).toBe(true)
    expect(world.census()).toMatchObject({ paused: 1 })
    world.ledger.automatic = true
    while (world.ledger.durable()) await world.settle()
    await world.settle()
    expect(client.link.paused).toBe(false)
    expect(client.got().map((packet) => packet.cmd)).toEqual(Array(6).fill('suback'))
  })
})

describe('a client that does not read its answers', () => {
  it('is not read from until it has taken them', async () => {
    const world = await World.make({ limits: { outgoingBytesMax: 6600 } })
    const client = await world.connect('a')
    const other = await world.connect('b')
    client.link.stuck = true
    const before = world.server.memoryBytes()
    const hundred = Buffer.concat(Array.from({ length: 100 }, () => Buffer.from('c000', 'hex')))
    let sent = 0
    let answered = 0
    for (; sent < 5000 && !client.link.paused; sent += 100) answered += (await client.bytes(hundred)).length
    expect(client.link.paused).toBe(true)
    expect(await client.bytes(hundred)).toEqual([])
    expect(world.server.memoryBytes() - before).toBeLessThan(3 * 6600)
    expect(await other.send({ cmd: 'pingreq' })).toHaveLength(1)
    client.link.stuck = false
    client.link.take()
    await world.settle()
    expect(client.link.paused).toBe(false)
    expect(answered + client.got().length).toBe(sent + 100)
  })

  it('[MQTT-3.1.2-24] gets no SUBACK above its Maximum Packet Size, but an error', async () => {
    const world = await World.make()
    const client = await world.connect('a', { properties: { maximumPacketSize: 100 } })
    const subscriptions = Array.from({ length: 96 }, (_, index) => ({ topic: `t/${index}`, qos: 0 }))
    await client.send({ cmd: 'subscribe', messageId: 1, subscriptions: subscriptions.slice(1) })
    expect(client.link.raw.at(-1)).toHaveLength(100)
    expect(world.census()).toMatchObject({ subscriptions: 95 })
    const answers = await client.send({ cmd: 'subscribe', messageId: 2, subscriptions })
    expect(answers).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x95 }])
    expect(world.census()).toMatchObject({ subscriptions: 0 })
  })
})

describe('connectTimeoutSeconds', () => {
  it('includes the handshakes of TLS and WebSocket', async () => {
    const world = await World.make({ limits: { connectTimeoutSeconds: 10 } })
    const slow = world.open(5, { handshakeMs: 8000 })
    await world.pass(1.9)
    expect(slow.closed).toBe(false)
    await world.pass(0.3)
    expect(slow.closed).toBe(true)
  })
})

describe('bounds in bytes', () => {
  it('messages in flight have the limit of the queue, in addition to it', async () => {
    const world = await World.make({ limits: { queueBytesMax: 1000 } })
    const sub = await world.connect('sub')
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    for (let n = 0; n < 5; n++) await pub.publish('t', `${n}`.padEnd(400), 1)
    expect(sub.link.packets).toHaveLength(3)
    expect(world.server.state.sessions.get('sub')).toMatchObject({ inFlightCount: 3, queueLength: 2 })
    expect(world.server.memoryBytes()).toBeGreaterThanOrEqual(5 * 400)
    expect((await sub.drain()).map((text) => text.trim())).toEqual(['0', '1', '2', '3', '4'])
    expect(world.server.state.sessions.get('sub')?.inFlightBytes).toBe(0)
  })

  it('bodies are read back a MiB at a time, however many messages they are', async () => {
    const asked: number[] = []
    const world = await World.make({}, (made) => {
      const queue = Array.from({ length: 4 }, () => {
        const message = Message.of(
          { topic: NO_TOPIC, payload: Buffer.alloc(0), qos: 1, retain: false, publisher: '' },
          600 * 1024,
        )
        return { message, qos: 1, retain: false, subscriptionIdentifiers: [], share: null } as const
      })
      const record = {
        clientId: 'sub',
        owner: null,
        ownerId: null,
        expirySeconds: SESSION_NEVER_EXPIRES,
        disconnectedAt: 0,
      }
      const empty = { subscriptions: [], inFlight: [], queueHead: 0, lastPacketId: 0, inbound: [] }
      made.ledger.recovered = { ...made.ledger.recovered, sessions: [{ id: 1, record, queue, ...empty }] }
      made.ledger.restore = async (messages) => {
        asked.push(messages.length)
        for (const message of messages)
          message.restore(new Topic('t'), Buffer.alloc(0), Buffer.alloc(600 * 1024))
      }
    })
    const sub = await world.connect('sub', lasting())
    expect(await sub.drain()).toHaveLength(4)
    expect(Math.max(...asked)).toBe(2)
  })

  it('[MQTT-4.6.0-6] a QoS 0 message waits behind others of QoS 0 in the queue', async () => {
    const world = await World.make({ limits: { queueQos0: true } })
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    await sub.vanish()
    const pub = await world.connect('pub')
    await pub.publish('t', 'q1-1', 1)
    await pub.publish('t', 'q1-2', 1)
    await pub.publish('t', 'q0-a', 0)
    const back = await world.connect('sub', {
      clean: false,
      properties: { sessionExpiryInterval: 100, receiveMaximum: 1 },
    })
    await pub.publish('t', 'q0-b', 0)
    expect(await back.drain()).toEqual(['q1-1', 'q1-2', 'q0-a', 'q0-b'])
  })
})

it('a packet that is too large for its reader keeps no memory that others write into', async () => {
  const world = await World.make()
  const small = await world.connect('small', { properties: { maximumPacketSize: 120 } })
  const other = await world.connect('other')
  const publisher = await world.connect('publisher')
  await small.subscribe('small', 1)
  await other.subscribe('other', 1)
  let messageId = 0
  const messages = (topic: string, count: number, bytes: number) =>
    Array.from({ length: count }, (_, i) => ({
      cmd: 'publish',
      topic,
      qos: 1,
      messageId: ++messageId,
      payload: `${topic} ${i}`.padEnd(bytes, '.'),
    }))
  // After much in one turn it is given as much room in the next one, of which it needs nothing.
  await publisher.send(...messages('small', 20, 80))
  expect(small.texts()).toHaveLength(20)
  await publisher.send(...messages('small', 1, 200))
  expect(small.got()).toEqual([])
  const forOther = messages('other', 10, 60)
  const forSmall = messages('small', 5, 60)
  await publisher.send(...forOther, ...forSmall)
  expect(other.texts()).toEqual(forOther.map(({ payload }) => payload))
  expect(small.texts()).toEqual(forSmall.map(({ payload }) => payload))
})
