/** MQTT 5.0, section 3.3: PUBLISH. */
import { describe, expect, it } from 'vitest'
import { lasting, type TestClient, textsOf, World } from '../../broker/harness.ts'
import { connect, packet, properties, uint16, uint32 } from '../../mqtt/packets.ts'
import { acknowledge, expectRefused, publish, sent, subscribe } from '../wire.ts'
import { ask } from './answers.ts'

const NONE = properties()
const USER = 0x26
const X = Buffer.from('x')

/** A subscriber of `#` at QoS 2 whose output begins after its SUBACK, and a publisher. */
async function pair(): Promise<{ world: World; sub: TestClient; pub: TestClient }> {
  const world = await World.make({ limits: { topicAliasMaximum: 10 } })
  const sub = await world.connect('sub', lasting())
  await sub.subscribe('#', 2)
  sent(sub)
  return { world, sub, pub: await world.connect('pub') }
}

describe('DUP, QoS and RETAIN', () => {
  it(
    '[MQTT-3.3.1-1] [MQTT-3.3.1-3] ' +
      'DUP is set only on messages that are sent again, whatever the publisher set',
    async () => {
      const { world, sub, pub } = await pair()
      await pub.bytes(publish(5, 0x0a, 'a', 1)) // QoS 1, DUP
      await pub.bytes(publish(5, 0x04, 'b', 2)) // QoS 2
      await pub.bytes(publish(5, 0x0c, 'c', 3)) // QoS 2, DUP
      expect(sub.got().map((p) => p.cmd === 'publish' && [p.topic, p.qos, p.dup])).toEqual([
        ['a', 1, false],
        ['b', 2, false],
        ['c', 2, false],
      ])
      await sub.vanish()
      await pub.bytes(publish(5, 0x0a, 'd', 4)) // DUP, for a Session that is away
      const back = await world.connect('sub', lasting())
      expect(back.got().map((p) => p.cmd === 'publish' && [p.topic, p.dup])).toEqual([
        ['a', true],
        ['b', true],
        ['c', true],
        ['d', false],
      ])
    },
  )

  it(
    '[MQTT-3.3.1-2] ' + 'DUP at QoS 0 from a client is refused with 0x81, and the Server never sets it',
    async () => {
      const { sub, pub } = await pair()
      await pub.bytes(publish(5, 0, 'a'))
      expect(sent(sub)).toBe(publish(5, 0, 'a').toString('hex'))
      await expectRefused(pub, publish(5, 8, 'a'), 0x81)
      expect(sent(sub)).toBe('')
    },
  )

  it.each([0x6, 0x7, 0xe, 0xf])(
    '[MQTT-3.3.1-4] ' + 'both QoS bits (flags %i) are refused with 0x81',
    async (flags) => {
      const { sub, pub } = await pair()
      await expectRefused(pub, publish(5, flags, 'a', 1), 0x81)
      expect(sent(sub)).toBe('')
    },
  )

  it(
    '[MQTT-3.3.1-5] [MQTT-3.3.1-8] ' +
      'RETAIN 1 stores and replaces, RETAIN 0 neither stores, nor replaces, nor removes',
    async () => {
      const { world, pub } = await pair()
      const kept = async (): Promise<unknown> => {
        const late = await world.connect('late')
        await late.subscribe('t', 2)
        return late.got().map((p) => p.cmd === 'publish' && [p.payload.toString(), p.qos, p.retain])
      }
      await pub.publish('t', 'not kept', 2)
      expect(await kept()).toEqual([])
      await pub.publish('t', 'first', 1, { retain: true })
      expect(await kept()).toEqual([['first', 1, true]])
      await pub.publish('t', 'passing', 2)
      await pub.publish('t', '', 0)
      expect(await kept()).toEqual([['first', 1, true]])
      await pub.publish('t', 'second', 0, { retain: true })
      expect(await kept()).toEqual([['second', 0, true]])
    },
  )

  it(
    '[MQTT-3.3.1-6] [MQTT-3.3.1-7] ' +
      'an empty payload with RETAIN is delivered as usual, removes the retained message, and is not ' +
      'retained',
    async () => {
      const { world, sub, pub } = await pair()
      await pub.publish('t', 'kept', 1, { retain: true })
      sub.got()
      await pub.publish('t', '', 1, { retain: true })
      expect(sub.got()).toMatchObject([{ cmd: 'publish', topic: 't', qos: 1, payload: Buffer.alloc(0) }])
      const late = await world.connect('late')
      await late.subscribe('#')
      expect(late.got()).toEqual([])
      expect(world.server.state.retained.count).toBe(0)
    },
  )

  it(
    '[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] ' +
      'Retain Handling decides which Subscriptions bring retained messages',
    async () => {
      const { world, pub } = await pair()
      for (const topic of ['r/1', 'r/2']) await pub.publish(topic, topic, 1, { retain: true })
      const client = await world.connect('a')
      const texts = async (retainHandling: 0 | 1 | 2, filter = 'r/+'): Promise<string[]> => {
        const [suback, ...rest] = await client.bytes(subscribe(5, 9, filter, 1 | (retainHandling << 4)))
        expect(suback).toMatchObject({ cmd: 'suback', messageId: 9, granted: [1] })
        return textsOf(rest).sort()
      }
      expect(await texts(2)).toEqual([])
      expect(await texts(1)).toEqual([]) // it exists
      expect(await texts(0)).toEqual(['r/1', 'r/2'])
      expect(await texts(0)).toEqual(['r/1', 'r/2'])
      expect(await texts(1, 'r/#')).toEqual(['r/1', 'r/2']) // a new one
      await client.unsubscribe('r/#')
      expect(await texts(1, 'r/#')).toEqual(['r/1', 'r/2']) // new again
    },
  )

  it('[MQTT-3.3.1-12] [MQTT-3.3.1-13] Retain As Published decides whether RETAIN is passed on', async () => {
    const { world, pub } = await pair()
    const [plain, asPublished] = [await world.connect('0'), await world.connect('8')]
    await plain.bytes(subscribe(5, 1, 't', 0))
    await asPublished.bytes(subscribe(5, 1, 't', 8))
    for (const client of [plain, asPublished]) sent(client)
    for (const flags of [1, 0]) await pub.bytes(publish(5, flags, 't'))
    expect(sent(plain)).toBe(publish(5, 0, 't').toString('hex').repeat(2))
    expect(sent(asPublished)).toBe([1, 0].map((flags) => publish(5, flags, 't').toString('hex')).join(''))
  })
})

describe('Topic Name', () => {
  it.each([
    ['that is cut', packet(0x30, [0])],
    ['that is missing', packet(0x30)],
    ['beyond the packet', packet(0x30, [0, 9, 0x61], NONE)],
    ['that is ill-formed', packet(0x30, [0, 1, 0xff], NONE)],
    ['behind the properties', packet(0x30, NONE, 't')],
  ])('[MQTT-3.3.2-1] a Topic Name %s is refused with 0x81', async (_, bytes) => {
    const { sub, pub } = await pair()
    await expectRefused(pub, bytes, 0x81)
    expect(sent(sub)).toBe('')
  })

  it.each(['#', '+', 'a/#', 'a+', '+/a', 'a/+/b', 'a#b', '$share/g/+'])(
    '[MQTT-3.3.2-2] [MQTT-4.7.0-1] %s has a wildcard and is refused with 0x90',
    async (topic) => {
      const { world, sub, pub } = await pair()
      await expectRefused(pub, publish(5, 0, topic), 0x90)
      const another = await world.connect('another')
      await expectRefused(another, packet(0x30, topic, properties(0x23, uint16(1))), 0x90)
      expect(sent(sub)).toBe('')
    },
  )

  it('an empty Topic Name without an alias is refused with 0x82', async () => {
    const { pub } = await pair()
    await expectRefused(pub, publish(5, 0, ''), 0x82)
  })

  it('[MQTT-3.3.2-3] a message is delivered with its own Topic Name, which matches the filter', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const names = ['a', 'a/b', '/a', 'a/', '/', 'A', 'a b', '$a/b', 'ä', 'a/b/c']
    for (const [filter, matches] of [
      ['a/b', ['a/b']],
      ['+', ['a', 'A', 'a b', 'ä']],
      ['/+', ['/a', '/']],
      ['a/+', ['a/b', 'a/']],
      ['a/#', ['a', 'a/b', 'a/', 'a/b/c']],
      ['$a/#', ['$a/b']],
      ['$share/g/a/#', ['a', 'a/b', 'a/', 'a/b/c']],
      ['#', names.filter((name) => name !== '$a/b')],
    ] as const) {
      const sub = await world.connect('sub')
      await sub.subscribe(filter)
      for (const name of names) await pub.publish(name, '')
      const got = sub.got().map((p) => p.cmd === 'publish' && p.topic)
      expect([filter, got]).toEqual([filter, matches])
    }
  })
})

describe('properties', () => {
  const FORWARDED = [
    ['[MQTT-3.3.2-4] Payload Format Indicator 0', properties(0x01, 0)],
    ['[MQTT-3.3.2-4] Payload Format Indicator 1', properties(0x01, 1)],
    ['[MQTT-3.3.2-15] Response Topic', properties(0x08, 'answers/$ä')],
    ['[MQTT-3.3.2-16] Correlation Data', properties(0x09, [0, 4, 0, 0xff, 0, 1])],
    ['[MQTT-3.3.2-16] empty Correlation Data', properties(0x09, '')],
    ['[MQTT-3.3.2-20] Content Type', properties(0x03, 'text/plain; charset=ä')],
    ['[MQTT-3.3.2-20] an empty Content Type', properties(0x03, '')],
    [
      '[MQTT-3.3.2-17] [MQTT-3.3.2-18] User Properties, repeated, empty, and of any name,',
      properties(
        USER,
        'z',
        '1',
        USER,
        '__proto__',
        '2',
        USER,
        'z',
        '1',
        USER,
        '',
        '',
        USER,
        'a',
        '',
        USER,
        'z',
        '0',
      ),
    ],
    [
      '[MQTT-3.3.2-18] properties between User Properties',
      properties(USER, 'b', '1', 0x01, 1, USER, 'a', '2', 0x03, 't', USER, 'b', '3', 0x09, 'c', 0x08, 'r'),
    ],
    [
      '[MQTT-3.3.2-17] 500 User Properties',
      properties(...Array.from({ length: 500 }, (_, n) => [USER, 'n', `${n}`]).flat()),
    ],
  ] as const

  it.each(FORWARDED)(
    '%s is forwarded unaltered: live, retained, from the queue, and again',
    async (_, forwarded) => {
      const { world, sub, pub } = await pair()
      const incoming = packet(0x33, 't', uint16(7), forwarded, X)
      const outgoing = (flags: number, packetId: number) =>
        packet(0x30 | flags, 't', uint16(packetId), forwarded, X).toString('hex')
      await pub.bytes(incoming)
      expect(sent(sub)).toBe(outgoing(2, 1))
      await sub.vanish()
      await pub.bytes(incoming)
      const back = world.open(5)
      await back.bytes(connect(5, 0, properties(0x11, uint32(60)), 'sub'))
      expect(sent(back)).toMatch(new RegExp(`${outgoing(10, 1)}${outgoing(2, 2)}$`))
      const late = await world.connect('late')
      sent(late)
      await late.subscribe('t', 1)
      expect(sent(late)).toMatch(new RegExp(`${outgoing(3, 1)}$`))
    },
  )

  it(
    '[MQTT-3.3.2-17] ' +
      'properties for the Server alone are taken out from between them, and the rest keeps its ' +
      'order',
    async () => {
      const { sub, pub } = await pair()
      await pub.bytes(
        packet(
          0x30,
          't',
          properties(USER, 'a', '1', 0x23, uint16(3), USER, 'b', '2', 0x03, 'c', USER, 'a', '3'),
          X,
        ),
      )
      expect(sent(sub)).toBe(
        packet(0x30, 't', properties(USER, 'a', '1', USER, 'b', '2', 0x03, 'c', USER, 'a', '3'), X).toString(
          'hex',
        ),
      )
    },
  )

  it(
    'a payload that is not the UTF-8 that it claims to be is refused with 0x99, in PUBACK, PUBREC ' +
      'or DISCONNECT',
    async () => {
      const { sub, pub } = await pair()
      const text = (first: number, id: Buffer, payload: string) =>
        packet(first, 't', id, properties(0x01, 1), Buffer.from(payload, 'hex'))
      expect(await ask(pub, text(0x32, uint16(1), 'ff'))).toBe('4003000199')
      expect(await ask(pub, text(0x34, uint16(2), 'eda080'))).toBe('5003000299')
      // U+0000 is well-formed, and the identifier of a refused message is free.
      expect(await ask(pub, text(0x34, uint16(2), '00'))).toBe('50020002')
      expect(sub.got()).toMatchObject([{ payload: Buffer.from([0]) }])
      await expectRefused(pub, text(0x30, Buffer.alloc(0), 'ff'), 0x99)
      expect(sub.got()).toEqual([])
    },
  )

  it(
    '[MQTT-3.3.2-5] [MQTT-3.3.2-6] ' +
      'a message counts down while it waits, and is deleted when it has expired',
    async () => {
      const { world, sub, pub } = await pair()
      const expiring = (seconds: number, payload: string, packetId: number) =>
        packet(0x32, 't', uint16(packetId), properties(0x02, uint32(seconds)), Buffer.from(payload))
      await pub.bytes(expiring(100, 'at once', 1))
      expect(sub.got()).toMatchObject([{ properties: { messageExpiryInterval: 100 } }])
      await sub.send({ cmd: 'puback', messageId: 1 })
      await sub.vanish()
      await pub.bytes(
        Buffer.concat([expiring(10, 'short', 2), expiring(60, 'long', 3), publish(5, 2, 't', 4)]),
      )
      await world.pass(20)
      const back = await world.connect('sub', lasting())
      const got = back.got()
      expect(got).toMatchObject([
        { payload: Buffer.from('long'), properties: { messageExpiryInterval: 40 } },
        { payload: X },
      ])
      expect(got[1]).not.toHaveProperty('properties.messageExpiryInterval')
    },
  )

  it.each([
    ['Payload Format Indicator', [0x01, 0]],
    ['Message Expiry Interval', [0x02, 0, 0, 0, 9]],
    ['Content Type', [0x03, 0, 1, 0x61]],
    ['Response Topic', [0x08, 0, 1, 0x61]],
    ['Correlation Data', [0x09, 0, 1, 0x61]],
    ['Topic Alias', [0x23, 0, 1]],
  ])('%s twice is refused with 0x82', async (_, bytes) => {
    const { sub, pub } = await pair()
    await expectRefused(pub, packet(0x30, 't', properties(bytes, bytes)), 0x82)
    expect(sent(sub)).toBe('')
  })

  it('properties of other packets, and unknown ones, are refused with 0x81', async () => {
    const { world } = await pair()
    const allowed = new Set([0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26])
    for (let id = 0; id < 256; id++) {
      if (allowed.has(id)) continue
      await expectRefused(await world.connect('a'), packet(0x30, 't', properties([id, 0, 0, 0, 0])), 0x81)
    }
  })

  it('Payload Format Indicator 2 is refused with 0x82', async () => {
    await expectRefused((await pair()).pub, packet(0x30, 't', properties(0x01, 2)), 0x82)
  })

  it.each([
    ['[MQTT-3.3.2-13] an ill-formed Response Topic: 0x81', properties(0x08, [0, 1, 0xff]), 0x81],
    ['[MQTT-3.3.2-13] a Response Topic with U+0000: 0x81', properties(0x08, [0, 1, 0]), 0x81],
    ['[MQTT-3.3.2-14] a Response Topic with #: 0x82', properties(0x08, 'a/#'), 0x82],
    ['[MQTT-3.3.2-14] a Response Topic with +: 0x82', properties(0x08, '+'), 0x82],
    ['an empty Response Topic: 0x82', properties(0x08, ''), 0x82],
    ['[MQTT-3.3.2-19] an ill-formed Content Type: 0x81', properties(0x03, [0, 2, 0xc3, 0x28]), 0x81],
    ['[MQTT-3.3.4-6] a Subscription Identifier: 0x82', properties(0x0b, 1), 0x82],
    ['[MQTT-3.3.2-8] Topic Alias 0: 0x94', properties(0x23, uint16(0)), 0x94],
  ])('%s, and nothing is delivered', async (_, bytes, reasonCode) => {
    const { sub, pub } = await pair()
    await expectRefused(pub, packet(0x30, 't', bytes, X), reasonCode)
    expect(sent(sub)).toBe('')
  })
})

describe('Topic Alias', () => {
  const aliased = (topic: string, alias: number) => packet(0x30, topic, properties(0x23, uint16(alias)))

  it('[MQTT-3.3.2-7] neither side’s mappings outlive the Network Connection', async () => {
    const world = await World.make()
    const sub = await world.connect(
      'sub',
      lasting(60, { properties: { topicAliasMaximum: 1, sessionExpiryInterval: 60 } }),
    )
    await sub.subscribe('some/topic')
    const pub = await world.connect('pub', lasting())
    await pub.bytes(Buffer.concat([aliased('some/topic', 1), aliased('', 1), aliased('', 1)]))
    expect(sub.got().map((p) => p.cmd === 'publish' && [p.topic, p.properties?.topicAlias])).toEqual([
      ['some/topic', undefined],
      ['some/topic', 1],
      ['', 1],
    ])
    await Promise.all([sub.vanish(), pub.vanish()])
    const again = await world.connect(
      'sub',
      lasting(60, { properties: { topicAliasMaximum: 1, sessionExpiryInterval: 60 } }),
    )
    const back = await world.connect('pub', lasting())
    expect(back.connack).toMatchObject({ sessionPresent: true })
    for (let n = 0; n < 2; n++) await back.publish('some/topic', '')
    expect(again.got().map((p) => p.cmd === 'publish' && [p.topic, p.properties?.topicAlias])).toEqual([
      ['some/topic', undefined],
      ['some/topic', 1],
    ])
    await expectRefused(back, aliased('', 1), 0x82)
  })

  it('an alias that was never set is refused with 0x82', async () => {
    const { pub } = await pair()
    await pub.bytes(aliased('t', 1))
    await expectRefused(pub, aliased('', 2), 0x82)
  })

  it(
    '[MQTT-3.3.2-11] [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] ' +
      'the Server uses aliases from 1 to the client’s maximum, and none without one',
    async () => {
      for (const topicAliasMaximum of [0, 1, 3, 65_535]) {
        const world = await World.make()
        const sub = await world.connect('sub', {
          properties: topicAliasMaximum === 0 ? {} : { topicAliasMaximum },
        })
        await sub.subscribe('#')
        const pub = await world.connect('pub')
        for (let n = 0; n < 60; n++) await pub.publish(`topic/long/${n % 3}`, '')
        const known = new Map<number, string>()
        let used = 0
        const topics = sub.got().map((p) => {
          if (p.cmd !== 'publish') return ''
          const alias = p.properties?.topicAlias
          if (alias === undefined) return p.topic
          used++
          expect(alias).toBeGreaterThanOrEqual(1)
          expect(alias).toBeLessThanOrEqual(topicAliasMaximum)
          if (p.topic !== '') known.set(alias, p.topic)
          return known.get(alias)
        })
        expect(topics).toEqual(Array.from({ length: 60 }, (_, n) => `topic/long/${n % 3}`))
        expect(used > 0).toBe(topicAliasMaximum > 0)
      }
    },
  )
})

describe('the answer to a PUBLISH, and its receivers', () => {
  it('[MQTT-3.3.4-1] the answer is nothing at QoS 0, PUBACK at QoS 1, PUBREC at QoS 2', async () => {
    const { pub } = await pair()
    expect(await ask(pub, publish(5, 0, 't'))).toBe('')
    expect(await ask(pub, publish(5, 2, 't', 5))).toBe('40020005')
    expect(await ask(pub, publish(5, 4, 't', 6))).toBe('50020006')
  })

  it(
    '[MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] ' +
      'overlapping Subscriptions get one copy with the highest QoS and every Subscription ' +
      'Identifier',
    async () => {
      const world = await World.make()
      const sub = await world.connect('sub')
      for (const [filter, qos, identifier] of [
        ['a/b', 0, 1],
        ['a/+', 2, 268_435_455],
        ['a/#', 1, 7],
        ['+/b', 1, 7],
      ] as const) {
        await sub.subscribe(filter, qos, {}, { subscriptionIdentifier: identifier })
      }
      await sub.subscribe('#', 1)
      await (await world.connect('pub')).publish('a/b', 'x', 2)
      const got = sub.got()
      expect(got).toMatchObject([{ cmd: 'publish', qos: 2 }])
      const identifiers = got[0]?.cmd === 'publish' ? got[0].properties?.subscriptionIdentifier : []
      expect([identifiers].flat().sort()).toEqual([1, 268_435_455, 7, 7].sort())
    },
  )

  it('[MQTT-3.3.4-5] if there are several copies, each has the identifier of its Subscription', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    await pub.publish('t/r', 'kept', 0, { retain: true })
    const sub = await world.connect('sub')
    const seen = () =>
      sub
        .got()
        .map((p) => p.cmd === 'publish' && p.properties?.subscriptionIdentifier)
        .sort()
    await sub.subscribe('t/+', 0, {}, { subscriptionIdentifier: 1 })
    await sub.subscribe('#', 0, {}, { subscriptionIdentifier: 2 })
    await sub.subscribe('t/r', 0)
    expect(seen()).toEqual([1, 2, undefined])
    await sub.unsubscribe('#')
    await sub.unsubscribe('t/r')
    // A Shared Subscription is a copy of its own.
    await sub.subscribe('$share/g/t/+', 0, {}, { subscriptionIdentifier: 3 })
    await pub.publish('t/x', '')
    expect(seen()).toEqual([1, 3])
  })
})

describe('Receive Maximum', () => {
  it(
    '[MQTT-3.3.4-7] ' +
      'more messages than the Server’s are refused with 0x93; acknowledged ones do not count, a ' +
      'repeated QoS 2 counts once',
    async () => {
      const world = await World.make({ limits: { receiveMaximum: 2 } })
      const client = await world.connect('a')
      expect(client.connack).toMatchObject({ properties: { receiveMaximum: 2 } })
      await client.bytes(publish(5, 4, 't', 1))
      for (let round = 0; round < 5; round++) {
        expect(await client.bytes(publish(5, round % 2 === 0 ? 12 : 4, 't', 1))).toMatchObject([
          { cmd: 'pubrec' },
        ])
        expect(await client.bytes(publish(5, 2, 't', 2))).toMatchObject([{ cmd: 'puback' }])
      }
      await client.bytes(publish(5, 4, 't', 3))
      await client.bytes(acknowledge(0x62, 1))
      expect(client.closed).toBe(false)
      await client.bytes(publish(5, 4, 't', 4))
      await client.bytes(publish(5, 0, 't'))
      client.got()
      await expectRefused(client, publish(5, 2, 't', 5), 0x93)
    },
  )

  it('[MQTT-3.3.4-9] [MQTT-3.3.4-10] the Server obeys the client’s, and goes on with all else', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', { properties: { receiveMaximum: 2 } })
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    for (const [payload, qos] of [
      ['1', 1],
      ['2', 2],
      ['3', 1],
      ['4', 2],
    ] as const) {
      await pub.publish('t', payload, qos)
    }
    expect(sub.texts()).toEqual(['1', '2'])
    // PINGRESP, SUBACK, PUBACK and PUBREL are not delayed.
    expect(await ask(sub, packet(0xc0))).toBe('d000')
    expect(await sub.subscribe('u', 1)).toBe(1)
    expect(await ask(sub, publish(5, 2, 'other', 7))).toBe('4003000710')
    expect(await ask(sub, acknowledge(0x50, 2))).toBe('62020002')
    sub.got()
    // PUBREC below 0x80 gives no room; PUBACK, PUBCOMP and PUBREC of 0x80 and above do.
    await pub.publish('t', '5', 1)
    expect(sub.texts()).toEqual([])
    expect(textsOf(await sub.bytes(acknowledge(0x70, 2)))).toEqual(['3'])
    const fourth = await sub.bytes(acknowledge(0x40, 1))
    expect(textsOf(fourth)).toEqual(['4'])
    expect(textsOf(await sub.bytes(acknowledge(0x50, fourth[0]!.messageId!, 0x80)))).toEqual(['5'])
  })
})
