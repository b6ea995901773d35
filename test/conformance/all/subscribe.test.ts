/** SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK and PINGREQ, as all versions have them. */
import { describe, expect, it } from 'vitest'
import { World } from '../../broker/harness.ts'
import { DIALECTS, expectEachRefused, sent, subscribe, unsubscribe } from '../wire.ts'

describe.each(DIALECTS)('MQTT %s', (_, version) => {
  /** The part before the Reason Codes, which is in 5.0 only: no properties. */
  const none = version === 5 ? '00' : ''

  it(
    '[MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-1, 3.1.1] [MQTT-3.8.4-2, 3.1.1] ' +
      '[MQTT-2.3.1-7, 3.1.1] ' +
      'SUBACK answers with the identifier of its SUBSCRIBE',
    async () => {
      const world = await World.make()
      const client = await world.connect('a', {}, version)
      sent(client)
      for (const [packetId, hex] of [
        [1, '0001'],
        [0x1234, '1234'],
        [65_535, 'ffff'],
      ] as const) {
        await client.bytes(subscribe(version, packetId, 't', 1))
        expect(sent(client)).toBe(`90${version === 5 ? '04' : '03'}${hex}${none}01`)
      }
    },
  )

  it(
    '[MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] ' +
      '[MQTT-3.8.4-4, 3.1.1] [MQTT-3.8.4-5, 3.1.1] [MQTT-3.9.3-1, 3.1.1] ' +
      'many filters make as many Subscriptions and get one answer, with a code for each in order',
    async () => {
      const world = await World.make()
      const client = await world.connect('a', {}, version)
      const pub = await world.connect('pub')
      sent(client)
      // The last one replaces the first, as it would in a packet of its own.
      await client.bytes(subscribe(version, 7, 'a', 2, 'b/+', 0, 'c', 1, 'a', 0))
      expect(sent(client)).toBe(`90${version === 5 ? '07' : '06'}0007${none}02000100`)
      for (const topic of ['a', 'b/x', 'c', 'd']) await pub.publish(topic, topic, 2)
      expect(client.got().map((p) => p.cmd === 'publish' && [p.topic, p.qos])).toEqual([
        ['a', 0],
        ['b/x', 0],
        ['c', 1],
      ])
    },
  )

  it(
    '[MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT-3.8.4-3, 3.1.1] ' +
      'the same filter again replaces the Subscription, brings retained messages again, and loses ' +
      'no message',
    async () => {
      const world = await World.make()
      const pub = await world.connect('pub')
      await pub.publish('t/r', 'kept', 1, { retain: true })
      const client = await world.connect(
        'a',
        version === 5 ? { properties: { receiveMaximum: 1 } } : {},
        version,
      )
      await client.subscribe('t/#', 1)
      await pub.publish('t/a', '1', 1)
      await pub.publish('t/b', '2', 1)
      expect(await client.subscribe('t/#', 2)).toBe(2)
      await pub.publish('t/c', '3', 2)
      expect((await client.drain()).sort()).toEqual(['1', '2', '3', 'kept', 'kept'])
      expect(world.census()).toMatchObject({ subscriptions: 1 })
      await client.unsubscribe('t/#')
      await pub.publish('t/d', '4', 0)
      expect(client.texts()).toEqual([])
    },
  )

  it(
    '[MQTT-3.8.4-8] [MQTT-3.8.4-6, 3.1.1] ' +
      'a message arrives at the lower QoS of the publisher and the Subscription',
    async () => {
      const world = await World.make()
      const pub = await world.connect('pub', {}, version)
      const seen: unknown[] = []
      for (const granted of [0, 1, 2] as const) {
        const client = await world.connect(`s${granted}`, {}, version)
        expect(await client.subscribe('t', granted)).toBe(granted)
        for (const qos of [0, 1, 2] as const) await pub.publish('t', '', qos)
        seen.push(client.got().map((p) => p.cmd === 'publish' && p.qos))
      }
      expect(seen).toEqual([
        [0, 0, 0],
        [0, 1, 1],
        [0, 1, 2],
      ])
    },
  )

  it(
    '[MQTT-3.8.3-2] [MQTT-3.10.3-2] [MQTT-3.8.3-3, 3.1.1] [MQTT-3.10.3-2, 3.1.1] ' +
      'a SUBSCRIBE or UNSUBSCRIBE without a filter is refused',
    async () => {
      const world = await World.make()
      await expectEachRefused(world, version, [
        [subscribe(version, 1), 0x82],
        [unsubscribe(version, 1), 0x82],
      ])
    },
  )

  it(
    '[MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT-3.8.3-1, 3.1.1] [MQTT-3.10.3-1, 3.1.1] ' +
      'a filter that is no UTF-8 string is refused',
    async () => {
      const world = await World.make()
      const wrong = [
        [0xff],
        [0x61, 0xc0, 0x80],
        [0xed, 0xa0, 0x80],
        [0xf4, 0x90, 0x80, 0x80],
        [0xe2, 0x82],
        [0x00],
      ].map((bytes) => Buffer.from([0, bytes.length, ...bytes]))
      await expectEachRefused(
        world,
        version,
        wrong.flatMap((filter) => [
          [subscribe(version, 1, 'fine', 0, filter, 0), 0x81],
          [unsubscribe(version, 1, 'fine', filter), 0x81],
        ]),
      )
      expect(world.census()).toMatchObject({ subscriptions: 0 })
    },
  )

  it('[MQTT-3.8.3-5] [MQTT-3.8.3-4, 3.1.1] an options byte unknown to the version is refused', async () => {
    const world = await World.make()
    for (let options = 0; options < 256; options++) {
      const isKnown =
        version === 5
          ? options < 0x40 && (options & 3) < 3 && options >> 4 < 3 // with Retain Handling in bits 4 and 5
          : version === 3
            ? (options & 3) < 3 // the upper six bits are not used
            : options < 3
      const reserved = version < 5 || (options & 0xc0) !== 0
      const client = await world.connect('a', {}, version)
      const bytes = subscribe(version, 1, 't', options)
      const [answer] = await client.bytes(bytes)
      if (isKnown) expect([options, answer]).toMatchObject([options, { cmd: 'suback' }])
      else if (version < 5) expect([options, answer]).toEqual([options, undefined])
      else expect([options, answer]).toMatchObject([options, { reasonCode: reserved ? 0x81 : 0x82 }])
      expect([options, client.closed]).toEqual([options, !isKnown])
    }
  })

  it(
    '[MQTT-3.10.4-1] [MQTT-3.10.4-1, 3.1.1] ' +
      'an UNSUBSCRIBE deletes the Subscription with exactly its characters, and no other',
    async () => {
      const world = await World.make()
      const client = await world.connect('a', {}, version)
      const filters = ['a/+', 'a/b', 'A/b', 'a/b/', '/a/b', 'a/\u00c5', 'a/A\u030a', '#']
      for (const filter of filters) await client.subscribe(filter)
      const left = () => [...world.server.state.sessions.get('a')!.subscriptions.keys()]
      for (const filter of ['a/#', 'a', 'a/c', '+/b', 'a/b/c']) await client.unsubscribe(filter)
      expect(left()).toEqual(filters)
      for (const filter of ['a/b', 'a/\u00c5', 'a/+']) await client.unsubscribe(filter)
      expect(left()).toEqual(['A/b', 'a/b/', '/a/b', 'a/A\u030a', '#'])
      await client.unsubscribe('#')
      const pub = await world.connect('pub')
      for (const topic of ['a/b', 'A/b', 'a/\u00c5']) await pub.publish(topic, topic)
      expect(client.texts()).toEqual(['A/b'])
    },
  )

  it(
    '[MQTT-3.10.4-2] [MQTT-3.10.4-3] [MQTT-3.10.4-2, 3.1.1] [MQTT-3.10.4-3, 3.1.1] ' +
      'after UNSUBSCRIBE no new message arrives, and deliveries begun at QoS 1 and 2 are completed',
    async () => {
      const world = await World.make()
      const client = await world.connect('a', version === 5 ? {} : { clean: false }, version)
      const pub = await world.connect('pub')
      await client.subscribe('t', 2)
      await pub.publish('t', 'one', 1)
      await pub.publish('t', 'two', 2)
      await client.unsubscribe('t')
      for (const qos of [0, 1, 2] as const) await pub.publish('t', 'new', qos)
      expect(client.texts()).toEqual(['one', 'two'])
      expect(await client.send({ cmd: 'puback', messageId: 1 })).toEqual([])
      expect(await client.send({ cmd: 'pubrec', messageId: 2 })).toMatchObject([
        { cmd: 'pubrel', messageId: 2 },
      ])
      expect(await client.send({ cmd: 'pubcomp', messageId: 2 })).toEqual([])
      expect(world.server.state.sessions.get('a')).toMatchObject({ inFlightCount: 0, queueLength: 0 })
    },
  )

  it(
    '[MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] ' +
      '[MQTT-3.10.4-4, 3.1.1] [MQTT-3.10.4-5, 3.1.1] [MQTT-3.10.4-6, 3.1.1] ' +
      'UNSUBACK has the identifier even if nothing was deleted, and in 5.0 a code for each filter',
    async () => {
      const world = await World.make()
      const client = await world.connect('a', {}, version)
      for (const filter of ['a', 'b']) await client.subscribe(filter)
      sent(client)
      await client.bytes(unsubscribe(version, 0xfffe, 'a', 'c', 'b', 'a'))
      expect(sent(client)).toBe(version === 5 ? 'b007fffe0000110011' : 'b002fffe')
      expect(world.census()).toMatchObject({ subscriptions: 0 })
      await client.bytes(unsubscribe(version, 1, 'nothing'))
      expect(sent(client)).toBe(version === 5 ? 'b00400010011' : 'b0020001')
    },
  )

  it('[MQTT-3.12.4-1] [MQTT-3.12.4-1, 3.1.1] every PINGREQ gets its PINGRESP', async () => {
    const world = await World.make()
    const client = await world.connect('a', {}, version)
    sent(client)
    await client.bytes(Buffer.from('c000c000c000', 'hex'))
    expect(sent(client)).toBe('d000d000d000')
  })
})
