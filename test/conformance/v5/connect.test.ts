/** MQTT 5.0, section 3.1: CONNECT. */
import { describe, expect, it } from 'vitest'
import type { Credentials } from '../../../src/broker/boundary/policy.ts'
import { connectPacket, lasting, World } from '../../broker/harness.ts'
import { connect, packet, properties, uint16, uint32 } from '../../mqtt/packets.ts'
import { acknowledge, publish, sent, subscribe, unsubscribe } from '../wire.ts'
import { ask, expectConnectRefused } from './answers.ts'

const NONE = properties()
const USER = 0x26

const will = { topic: 'will', payload: Buffer.from('lost'), qos: 1, retain: false }

/** A CONNECT with this protocol name and level; what follows is right for 5.0. */
function greeting(name: string | Buffer, level: number): Buffer {
  return packet(0x10, name, level, 2, uint16(60), NONE, 'a')
}

describe('protocol name, version and reserved flag', () => {
  it.each([
    ['MQTX', greeting('MQTX', 5)],
    ['mqtt', greeting('mqtt', 5)],
    ['nothing', greeting('', 5)],
    ['MQTT and more', greeting('MQTT5', 5)],
    ['MQTT with a byte order mark', greeting('\ufeffMQTT', 5)],
  ])(
    '[MQTT-3.1.2-1] %s is not the protocol and closes the connection without an answer',
    async (_, bytes) => {
      const client = (await World.make()).open(5)
      expect(await client.bytes(bytes)).toEqual([])
      expect(client.closed).toBe(true)
    },
  )

  it('[MQTT-3.1.2-1] the name of 3.1 with version 5 is refused by a CONNACK of 3.1', async () => {
    const world = await World.make()
    const client = world.open(3)
    expect(await ask(client, greeting('MQIsdp', 5))).toBe('20020001')
    expect(client.closed).toBe(true)
    expect(world.census()).toMatchObject({ sessions: 0 })
  })

  it.each([6, 7, 127, 133, 255])(
    '[MQTT-3.1.2-2] ' + 'version %i is answered by 0x84 and the close',
    async (level) => {
      await expectConnectRefused(await World.make(), greeting('MQTT', level), 0x84)
    },
  )

  it.each([0, 1, 2, 3])(
    '[MQTT-3.1.2-2] version %i, which knows no properties of CONNACK, is answered by 0x01 and the close',
    async (level) => {
      const client = (await World.make()).open(4)
      expect(await ask(client, greeting('MQTT', level))).toBe('20020001')
      expect(client.closed).toBe(true)
    },
  )

  it('[MQTT-3.1.2-3] a reserved Connect Flag other than 0 is refused with 0x81', async () => {
    await expectConnectRefused(await World.make(), connect(5, 0x03, NONE, 'a'), 0x81)
    await expectConnectRefused(await World.make(), connect(5, 0x01, NONE, 'a'), 0x81)
  })
})

describe('Clean Start', () => {
  it(
    '[MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.4-4] ' +
      'decides whether a Session is discarded, resumed or made',
    async () => {
      const world = await World.make()
      const pub = await world.connect('pub')
      const first = await world.connect('a', lasting())
      expect(first.connack).toMatchObject({ sessionPresent: false, reasonCode: 0 })
      await first.subscribe('t', 1)
      await first.vanish()
      await pub.publish('t', 'while away', 1)
      const second = await world.connect('a', lasting())
      expect(second.connack).toMatchObject({ sessionPresent: true, reasonCode: 0 })
      expect(await second.drain()).toEqual(['while away'])
      await second.publish('other', 'qos 2 under way', 2)
      await second.vanish()
      await pub.publish('t', 'for nobody', 1)
      const third = await world.connect('a', lasting(1000, { clean: true }))
      expect(third.connack).toMatchObject({ sessionPresent: false, reasonCode: 0 })
      // Nothing of the old one is left: not its Subscription, not its record, not what waited in it.
      expect(world.census()).toMatchObject({ subscriptions: 0, sessionsById: 1 })
      expect(world.ledger.lines).toContainEqual(expect.stringMatching(/^deleteSession 1\b/))
      await pub.publish('t', 'no Subscription any more', 1)
      expect(third.got()).toEqual([])
      // The identifier of the old Session's QoS 2 message is not known any more.
      expect(await third.send({ cmd: 'pubrel', messageId: 1 })).toMatchObject([
        { cmd: 'pubcomp', reasonCode: 0x92 },
      ])
    },
  )

  it('[MQTT-3.1.2-23] Session State is kept for the Session Expiry Interval, if there is one', async () => {
    const world = await World.make()
    for (const [clientId, seconds] of [
      ['kept', 60],
      ['not', 0],
    ] as const) {
      const client = await world.connect(clientId, lasting(seconds))
      await client.subscribe('t', 1)
      await client.vanish()
    }
    await (await world.connect('pub')).publish('t', 'x', 1)
    await world.pass(59)
    expect(await (await world.connect('kept', lasting(60))).drain()).toEqual(['x'])
    const not = await world.connect('not', lasting(60))
    expect([not.connack, not.texts()]).toMatchObject([{ sessionPresent: false }, []])
  })
})

describe('Will', () => {
  it(
    '[MQTT-3.1.2-7] [MQTT-3.1.2-10] ' +
      'is stored when CONNECT is accepted, and deleted when it is published or DISCONNECT arrives',
    async () => {
      const world = await World.make()
      const wills = () => world.ledger.lines.filter((line) => line.includes('Will'))
      const lost = await world.connect('a', lasting(100, { will }))
      expect(wills()).toEqual(['putWill a 0'])
      await lost.vanish()
      expect(wills().at(-1)).toBe('deleteWill a')
      const normal = await world.connect('a', lasting(100, { will }))
      expect(wills().at(-1)).toBe('putWill a 0')
      await normal.send({ cmd: 'disconnect', reasonCode: 0 })
      expect(wills().at(-1)).toBe('deleteWill a')
    },
  )

  it('[MQTT-3.1.2-8] is published when the connection ends without a DISCONNECT of 0x00', async () => {
    const world = await World.make()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('will', 1)
    const ends: readonly (readonly [string, Buffer | null, readonly string[]])[] = [
      ['the network fails', null, ['lost']],
      ['DISCONNECT 0x00', packet(0xe0), []],
      ['DISCONNECT 0x00, written out', packet(0xe0, 0, NONE), []],
      ['DISCONNECT 0x04', packet(0xe0, 4), ['lost']],
      ['DISCONNECT with an error', packet(0xe0, 0x80), ['lost']],
      ['a malformed packet', packet(0x00), ['lost']],
      ['a malformed DISCONNECT', packet(0xe1), ['lost']],
    ]
    for (const [name, bytes, expected] of ends) {
      const client = await world.connect('a', { will })
      if (bytes === null) await client.vanish()
      else await client.bytes(bytes)
      expect([name, watcher.texts()]).toEqual([name, expected])
    }
  })

  it(
    '[MQTT-3.1.2-8] [MQTT-3.1.3-9] ' +
      'waits for its delay or the Session’s end, and is dropped when the client is back before',
    async () => {
      const world = await World.make()
      const watcher = await world.connect('watcher')
      await watcher.subscribe('will', 1)
      const delayed = { will: { ...will, properties: { willDelayInterval: 10 } } }
      await (await world.connect('a', lasting(100, delayed))).vanish()
      await (await world.connect('b', lasting(5, delayed))).vanish()
      await (await world.connect('c', lasting(100, delayed))).vanish()
      await world.pass(4.9)
      expect(watcher.texts()).toEqual([])
      await world.pass(0.2)
      expect(watcher.texts()).toEqual(['lost']) // of b, whose Session ended
      const back = await world.connect('c', lasting(100))
      await world.pass(4)
      expect(watcher.texts()).toEqual([])
      await world.pass(2)
      expect(watcher.texts()).toEqual(['lost']) // of a
      expect(back.closed).toBe(false)
    },
  )

  it.each([
    ['Will Properties', connect(5, 0x06, NONE, 'a')],
    ['Will Topic', connect(5, 0x06, NONE, 'a', NONE)],
    ['Will Payload', connect(5, 0x06, NONE, 'a', NONE, 'w')],
    ['all three, a User Name in their place', connect(5, 0x86, NONE, 'a', 'user')],
  ])('[MQTT-3.1.2-9] Will Flag 1 without %s is refused with 0x81', async (_, bytes) => {
    await expectConnectRefused(await World.make(), bytes, 0x81)
  })

  it.each([0x0a, 0x12, 0x1a])(
    '[MQTT-3.1.2-11] ' + 'Will Flag 0 with Will QoS (flags %i) is refused with 0x81',
    async (flags) => {
      await expectConnectRefused(await World.make(), connect(5, flags, NONE, 'a'), 0x81)
      await expectConnectRefused(await World.make(), connect(5, flags, NONE, 'a', NONE, 'w', 'p'), 0x81)
    },
  )

  it('[MQTT-3.1.2-12] a Will is published at its QoS of 0, 1 or 2; 3 is malformed', async () => {
    const world = await World.make()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('w', 2)
    for (const qos of [0, 1, 2]) {
      const client = world.open(5)
      await client.bytes(connect(5, 0x06 | (qos << 3), NONE, 'a', NONE, 'w', 'p'))
      await client.vanish()
      expect(watcher.got()).toMatchObject([{ cmd: 'publish', qos, retain: false }])
    }
    await expectConnectRefused(world, connect(5, 0x1e, NONE, 'a', NONE, 'w', 'p'), 0x81)
  })

  it('[MQTT-3.1.2-13] Will Flag 0 with Will Retain is refused with 0x81', async () => {
    await expectConnectRefused(await World.make(), connect(5, 0x22, NONE, 'a'), 0x81)
  })

  it('[MQTT-3.1.2-14] [MQTT-3.1.2-15] is retained for later subscribers only with Will Retain', async () => {
    const world = await World.make()
    for (const retain of [false, true]) {
      const client = await world.connect('a', { will: { ...will, retain } })
      await client.vanish()
      const later = await world.connect('later')
      await later.subscribe('will')
      expect(later.texts()).toEqual(retain ? ['lost'] : [])
    }
  })

  it('[MQTT-3.1.3-10] has its User Properties in their order, repeated ones too', async () => {
    const world = await World.make()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('w')
    const client = world.open(5)
    const forwarded = [USER, 'z', '1', USER, '__proto__', '', USER, 'z', '0', USER, '', 'a'] as const
    // Properties for the Server alone are between them.
    const own = properties(...forwarded.slice(0, 6), 0x18, uint32(0), ...forwarded.slice(6))
    await client.bytes(connect(5, 0x06, NONE, 'a', own, 'w', 'p'))
    sent(watcher)
    await client.vanish()
    expect(sent(watcher)).toBe(packet(0x30, 'w', properties(...forwarded), Buffer.from('p')).toString('hex'))
  })

  it('a Will Payload that is not the UTF-8 that it claims to be is refused with 0x99', async () => {
    const wrong = connect(5, 0x06, NONE, 'a', properties(0x01, 1), 'w', Buffer.from('0001ff', 'hex'))
    await expectConnectRefused(await World.make(), wrong, 0x99)
    const bytes = connect(5, 0x06, NONE, 'a', properties(0x01, 0), 'w', Buffer.from('0001ff', 'hex'))
    expect(await (await World.make()).open(5).bytes(bytes)).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
  })
})

describe('User Name and Password', () => {
  it.each([
    ['[MQTT-3.1.2-16] User Name Flag 0 and a User Name', connect(5, 0x02, NONE, 'a', 'user')],
    ['[MQTT-3.1.2-17] User Name Flag 1 and no User Name', connect(5, 0x82, NONE, 'a')],
    ['[MQTT-3.1.2-18] Password Flag 0 and a Password', connect(5, 0x82, NONE, 'a', 'user', 'pass')],
    ['[MQTT-3.1.2-18] neither flag, and both', connect(5, 0x02, NONE, 'a', 'user', 'pass')],
    ['[MQTT-3.1.2-19] Password Flag 1 and no Password', connect(5, 0xc2, NONE, 'a', 'user')],
    ['[MQTT-3.1.2-19] Password Flag 1 alone and no Password', connect(5, 0x42, NONE, 'a')],
  ])('%s is refused with 0x81', async (_, bytes) => {
    await expectConnectRefused(await World.make(), bytes, 0x81)
  })
})

describe('the payload', () => {
  it('[MQTT-3.1.3-1] [MQTT-3.1.2-17] [MQTT-3.1.2-19] its fields are read in their order', async () => {
    const seen: Credentials[] = []
    const world = await World.make({
      policy: {
        authenticate: (credentials) => {
          seen.push(credentials)
          return { allow: true, userName: credentials.userName ?? null }
        },
      },
    })
    const watcher = await world.connect('watcher')
    await watcher.subscribe('topic', 1)
    const client = world.open(5)
    const bytes = connect(
      5,
      0xce,
      NONE,
      'client',
      properties(0x03, 'type'),
      'topic',
      'payload',
      'user',
      'pass',
    )
    expect(await client.bytes(bytes)).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
    expect(seen.at(-1)).toMatchObject({
      clientId: 'client',
      userName: 'user',
      password: Buffer.from('pass'),
    })
    await client.vanish()
    expect(watcher.got()).toMatchObject([
      { topic: 'topic', payload: Buffer.from('payload'), qos: 1, properties: { contentType: 'type' } },
    ])
  })

  it('[MQTT-3.1.3-2] the Client Identifier names a Session, character by character', async () => {
    const world = await World.make()
    for (const clientId of ['a', 'A', 'a ', 'ä', 'a\u0308']) {
      const client = await world.connect(clientId, lasting())
      expect(client.connack).toMatchObject({ sessionPresent: false })
      await client.subscribe(`own/${clientId}`, 1)
      await client.vanish()
    }
    const pub = await world.connect('pub')
    for (const clientId of ['a', 'A', 'a ', 'ä', 'a\u0308']) await pub.publish(`own/${clientId}`, clientId, 1)
    for (const clientId of ['a', 'A', 'a ', 'ä', 'a\u0308']) {
      const back = await world.connect(clientId, lasting())
      expect(back.connack).toMatchObject({ sessionPresent: true })
      expect(await back.drain()).toEqual([clientId])
    }
  })

  it('[MQTT-3.1.3-3] a CONNECT without a Client Identifier is refused with 0x81', async () => {
    await expectConnectRefused(await World.make(), connect(5, 2, NONE), 0x81)
    await expectConnectRefused(await World.make(), connect(5, 2, NONE, [0]), 0x81)
    await expectConnectRefused(await World.make(), connect(5, 2, NONE, [0, 2, 0x61]), 0x81)
  })

  it.each([
    ['[MQTT-3.1.3-4] the Client Identifier', connect(5, 2, NONE, [0, 1, 0xff])],
    ['[MQTT-3.1.3-11] the Will Topic', connect(5, 6, NONE, 'a', NONE, [0, 1, 0xff], 'w')],
    ['[MQTT-3.1.3-12] the User Name', connect(5, 0x82, NONE, 'a', [0, 1, 0xff])],
  ])('%s that is no UTF-8 Encoded String is refused with 0x81', async (_, bytes) => {
    await expectConnectRefused(await World.make(), bytes, 0x81)
  })

  it(
    '[MQTT-3.1.3-5] ' + 'identifiers of 1 to 23 letters and digits are allowed, and longer and other ones',
    async () => {
      const world = await World.make({ limits: { profile: 'open' } })
      const all = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
      const windows = Array.from({ length: all.length - 22 }, (_, at) => all.slice(at, at + 23))
      for (const clientId of [...all, ...windows, all, 'with space/slash +#$', '😀', 'x'.repeat(65_535)]) {
        const client = await world.connect(clientId)
        expect([clientId, client.connack]).toMatchObject([clientId, { reasonCode: 0 }])
        await client.send({ cmd: 'disconnect' })
      }
    },
  )

  it(
    '[MQTT-3.1.3-6] [MQTT-3.1.3-7] ' +
      'an empty one is replaced by a unique one, which the client is told and may use again',
    async () => {
      const world = await World.make()
      const told: string[] = []
      for (let n = 0; n < 3; n++) {
        const client = await world.connect('', lasting(1000, { clean: true }))
        expect(client.connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
        const properties = client.connack?.cmd === 'connack' ? client.connack.properties : undefined
        told.push(properties?.assignedClientIdentifier ?? '')
        if (n === 1) await client.subscribe('t', 1)
        if (n === 1) await client.vanish()
      }
      expect(new Set(told).size).toBe(3)
      expect(told).not.toContain('')
      await (await world.connect('pub')).publish('t', 'x', 1)
      const back = await world.connect(told[1]!, lasting())
      expect(back.connack).toMatchObject({ sessionPresent: true })
      expect(back.connack).not.toHaveProperty('properties.assignedClientIdentifier')
      expect(await back.drain()).toEqual(['x'])
      // In 5.0 it needs no Clean Start.
      expect(await world.open(5).bytes(connect(5, 0, NONE, ''))).toMatchObject([
        { reasonCode: 0, properties: { assignedClientIdentifier: expect.stringMatching(/./) } },
      ])
    },
  )
})

describe('requests of CONNECT to the Server', () => {
  it(
    '[MQTT-3.1.2-29] ' +
      'Reason String and User Properties are only on PUBLISH, CONNACK and DISCONNECT, whatever is ' +
      'asked for',
    async () => {
      for (const requestProblemInformation of [false, true]) {
        const world = await World.make({
          policy: {
            authorizeSubscribe: (_, filter) => filter !== 'secret',
            authorizePublish: (_, topic) => topic !== 'secret',
          },
        })
        const client = await world.connect('a', { properties: { requestProblemInformation } })
        // Short forms, and lengths of 0 for what must have one.
        expect(await ask(client, publish(5, 2, 'secret', 1))).toBe('4003000187')
        expect(await ask(client, publish(5, 4, 'secret', 2))).toBe('5003000287')
        expect(await ask(client, acknowledge(0x62, 3))).toBe('7003000392')
        expect(await ask(client, acknowledge(0x50, 4))).toBe('6203000492')
        expect(await ask(client, subscribe(5, 5, 'secret', 0))).toBe('900400050087')
        expect(await ask(client, unsubscribe(5, 6, 'secret'))).toBe('b00400060011')
      }
    },
  )

  it(
    '[MQTT-3.1.2-24] [MQTT-3.1.2-25] ' +
      'a message larger than the client’s Maximum Packet Size is left out, one that just fits is not',
    async () => {
      const world = await World.make()
      const sub = await world.connect('sub', { properties: { maximumPacketSize: 30, receiveMaximum: 1 } })
      await sub.subscribe('t', 2)
      sent(sub)
      const pub = await world.connect('pub')
      const largest = 'y'.repeat(30 - '32xx0001740001'.length / 2 - 1)
      for (const payload of [`${largest}y`, largest]) await pub.publish('t', payload, 1)
      expect(sent(sub).length / 2).toBe(30)
      expect(sub.link.packets).toEqual([])
      // Left out, it takes no room of the window either.
      await pub.publish('t', 'later', 1)
      await sub.send({ cmd: 'puback', messageId: 1 })
      expect(sent(sub).slice(-10)).toBe(Buffer.from('later').toString('hex'))
    },
  )

  it(
    '[MQTT-3.1.2-21] [MQTT-3.2.2-21] ' +
      'a client that keeps to its own Keep Alive instead of the Server’s is closed with 0x8D',
    async () => {
      const world = await World.make({ limits: { keepAliveSecondsMax: 60 } })
      const clients = [
        await world.connect('own', { keepalive: 600 }),
        await world.connect('none', { keepalive: 0 }),
      ]
      const obeys = await world.connect('obeys', { keepalive: 600 })
      for (const { connack } of clients)
        expect(connack).toMatchObject({ properties: { serverKeepAlive: 60 } })
      for (let minute = 0; minute < 2; minute++) {
        await world.pass(59)
        await obeys.send({ cmd: 'pingreq' })
      }
      for (const client of clients) {
        expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8d }])
        expect(client.closed).toBe(true)
      }
      expect(obeys.closed).toBe(false)
    },
  )

  it('[MQTT-3.1.2-22] silence for one and a half Keep Alives ends it and publishes the Will', async () => {
    const world = await World.make()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('will')
    const client = await world.connect('a', { keepalive: 10, will })
    await world.pass(14.9)
    expect([client.closed, watcher.texts()]).toEqual([false, []])
    await world.pass(0.2)
    expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8d }])
    expect([client.closed, watcher.texts()]).toEqual([true, ['lost']])
  })
})

describe('the Server’s handling of a CONNECT', () => {
  it(
    '[MQTT-3.1.4-1] ' + 'one that is cut anywhere, or longer than its fields, is refused and leaves nothing',
    async () => {
      const world = await World.make()
      const whole = connect(
        5,
        0xee,
        properties(0x11, uint32(60), 0x21, uint16(9), USER, 'a', 'b'),
        'client',
        properties(0x18, uint32(9), USER, 'c', 'd'),
        'w',
        'gone',
        'user',
        'pass',
      ).subarray(2)
      for (let kept = 0; kept < whole.length; kept++) {
        const client = world.open(5)
        const answers = await client.bytes(packet(0x10, whole.subarray(0, kept)))
        // Up to the version nobody knows what the client speaks.
        expect([kept, answers]).toMatchObject([kept, kept < 7 ? [] : [{ cmd: 'connack', reasonCode: 0x81 }]])
        expect([kept, client.closed]).toEqual([kept, true])
      }
      await expectConnectRefused(world, packet(0x10, whole, 0), 0x81)
      expect(world.census()).toMatchObject({ sessions: 0, wills: 0, connections: 0 })
    },
  )

  it.each([
    [
      'a wrong password',
      { authenticate: () => ({ allow: false, reasonCode: 0x86, reason: '' }) as const },
      0x86,
    ],
    ['a ban', { authenticate: () => ({ allow: false, reasonCode: 0x8a, reason: '' }) as const }, 0x8a],
    ['a Will Topic that is not allowed', { authorizePublish: () => false }, 0x87],
    ['a policy that fails', { authenticate: () => Promise.reject(new Error('down')) }, 0x83],
  ])('[MQTT-3.1.4-2] %s ends the connection', async (_, policy, reasonCode) => {
    const world = await World.make({ policy })
    await expectConnectRefused(world, connect(5, 0x06, NONE, 'a', NONE, 'w', 'p'), reasonCode)
  })

  it(
    '[MQTT-3.1.4-3] ' + 'a client that is connected under the same Client Identifier gets 0x8E and the close',
    async () => {
      const world = await World.make()
      const old = await world.connect('a')
      const next = await world.connect('a')
      expect(old.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8e }])
      expect([old.closed, next.closed]).toEqual([true, false])
      expect(await next.send({ cmd: 'pingreq' })).toMatchObject([{ cmd: 'pingresp' }])
    },
  )

  it('[MQTT-3.1.4-5] an accepted CONNECT is acknowledged with 0x00', async () => {
    const world = await World.make()
    for (const clean of [true, false]) {
      const client = world.open(5)
      expect(await client.send({ ...connectPacket('a'), clean, properties: {} })).toMatchObject([
        { cmd: 'connack', reasonCode: 0 },
      ])
      expect(client.closed).toBe(false)
    }
  })

  it('[MQTT-3.1.4-6] packets after a refused CONNECT are not processed', async () => {
    const world = await World.make()
    const seen = world.record('published')
    const client = world.open(5)
    const bytes = [connect(5, 3, NONE, 'a'), publish(5, 2, 't', 1), subscribe(5, 2, 't', 0), packet(0xc0)]
    expect(await client.bytes(Buffer.concat(bytes))).toMatchObject([{ cmd: 'connack', reasonCode: 0x81 }])
    for (const later of bytes.slice(1)) expect(await client.bytes(later)).toEqual([])
    expect([seen.length, world.census().subscriptions]).toEqual([0, 0])
  })

  it('[MQTT-3.1.0-1] a packet before CONNECT is not processed and closes the connection', async () => {
    const world = await World.make()
    const seen = world.record('published')
    for (const bytes of [
      publish(5, 0, 't'),
      subscribe(5, 1, 't', 0),
      packet(0xc0),
      packet(0xe0),
      packet(0x20, 0, 0),
    ]) {
      const client = world.open(5)
      expect(await client.bytes(Buffer.concat([bytes, connect(5, 2, NONE, 'a')]))).toEqual([])
      expect(client.closed).toBe(true)
    }
    expect([seen.length, world.census().sessions]).toEqual([0, 0])
  })

  it('[MQTT-3.1.0-2] a second CONNECT is a Protocol Error, whatever is in it', async () => {
    const world = await World.make()
    for (const second of [
      connect(5, 2, NONE, 'a'),
      connect(5, 2, NONE, 'b'),
      connect(4, 2, 'a'),
      packet(0x10),
    ]) {
      const client = await world.connect('a')
      expect(await client.bytes(second)).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x82 }])
      expect(client.closed).toBe(true)
    }
    expect(world.census()).toMatchObject({ sessions: 0 })
  })
})

describe('properties of CONNECT', () => {
  it.each([
    ['Session Expiry Interval', [0x11, ...uint32(1)]],
    ['Receive Maximum', [0x21, ...uint16(1)]],
    ['Maximum Packet Size', [0x27, ...uint32(100)]],
    ['Topic Alias Maximum', [0x22, ...uint16(1)]],
    ['Request Response Information', [0x19, 1]],
    ['Request Problem Information', [0x17, 1]],
    ['Authentication Method', [0x15, 0, 1, 0x61]],
    ['Authentication Data', [0x15, 0, 1, 0x61, 0x16, 0, 0, 0x16, 0, 0]],
  ] as const)('%s twice is refused with 0x82', async (name, bytes) => {
    const twice = name === 'Authentication Data' ? bytes : [...bytes, ...bytes]
    await expectConnectRefused(await World.make(), connect(5, 2, properties(twice), 'a'), 0x82)
  })

  it.each([
    ['Receive Maximum 0', properties(0x21, uint16(0))],
    ['Maximum Packet Size 0', properties(0x27, uint32(0))],
    ['Request Problem Information 2', properties(0x17, 2)],
    ['Request Response Information 255', properties(0x19, 255)],
    ['Authentication Data without a Method', properties(0x16, 'x')],
  ])('%s is refused with 0x82', async (_, bytes) => {
    await expectConnectRefused(await World.make(), connect(5, 2, bytes, 'a'), 0x82)
  })

  it('properties of other packets, and unknown ones, are refused with 0x81', async () => {
    const world = await World.make()
    const allowed = new Set([0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27])
    for (let id = 0; id < 256; id++) {
      if (allowed.has(id)) continue
      const bytes = connect(5, 2, properties([id, 0, 0, 0, 0, 0]), 'a')
      await expectConnectRefused(world, bytes, 0x81)
    }
  })
})
