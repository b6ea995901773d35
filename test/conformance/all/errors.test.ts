/**
 * Errors that end a Network Connection in every version: flags, identifiers, lengths, packets of a Server.
 */
import { describe, expect, it } from 'vitest'
import { World } from '../../broker/harness.ts'
import { connect, packet, properties, uint16 } from '../../mqtt/packets.ts'
import {
  acknowledge,
  DIALECTS,
  expectEachRefused,
  expectRefused,
  publish,
  sent,
  subscribe,
  unsubscribe,
} from '../wire.ts'

describe.each(DIALECTS)('MQTT %s', (_, version) => {
  const none = version === 5 ? properties() : Buffer.alloc(0)

  /** The same packet with other flags. */
  const flagged = (bytes: Buffer, flags: number): Buffer => {
    const copy = Buffer.from(bytes)
    copy[0] = (copy[0]! & 0xf0) | flags
    return copy
  }

  /** 3.1 uses QoS and DUP in PUBREL, SUBSCRIBE and UNSUBSCRIBE, and no flag in all other types. */
  const isUnused = (flags: number, right: number): boolean => right === 0 || (flags & 6) === 2

  /** All flags of a packet type but the one that is right: refused, each on a connection of its own. */
  async function expectOtherFlagsRefused(bytes: Buffer): Promise<void> {
    const world = await World.make()
    const right = bytes[0]! & 0x0f
    for (let flags = 0; flags < 16; flags++) {
      if (flags === right || (version === 3 && isUnused(flags, right))) continue
      await expectRefused(await world.connect('wrong', {}, version), flagged(bytes, flags), 0x81)
    }
    expect(world.census()).toMatchObject({ connections: 0, sessions: 0, subscriptions: 0 })
  }

  it('[MQTT-3.8.1-1] [MQTT-3.8.1-1, 3.1.1] SUBSCRIBE has flags 0010', async () => {
    await expectOtherFlagsRefused(subscribe(version, 1, 't', 0))
  })

  it('[MQTT-3.10.1-1] [MQTT-3.10.1-1, 3.1.1] UNSUBSCRIBE has flags 0010', async () => {
    await expectOtherFlagsRefused(unsubscribe(version, 1, 't'))
  })

  it('[MQTT-3.6.1-1] [MQTT-3.6.1-1, 3.1.1] PUBREL has flags 0010', async () => {
    await expectOtherFlagsRefused(acknowledge(0x62, 1))
  })

  it('[MQTT-3.14.1-1] [MQTT-3.14.1-1, 3.1.1] DISCONNECT has flags 0000', async () => {
    await expectOtherFlagsRefused(packet(0xe0))
  })

  it(
    '[MQTT-2.1.3-1] [MQTT-2.2.2-1, 3.1.1] [MQTT-2.2.2-2, 3.1.1] ' +
      'reserved flags of every other packet type are 0',
    async () => {
      for (const bytes of [
        acknowledge(0x40, 1),
        acknowledge(0x50, 1),
        acknowledge(0x70, 1),
        packet(0xc0),
        ...(version === 5 ? [packet(0xf0, 0x19, properties(0x15, 'M'))] : []),
      ]) {
        await expectOtherFlagsRefused(bytes)
      }
      const world = await World.make()
      for (let flags = 1; flags < 16; flags++) {
        const client = world.open(version)
        const hello = connect(version, 2, none, 'a')
        expect(await client.bytes(flagged(hello, flags))).toEqual([])
        expect(client.closed).toBe(true)
      }
    },
  )

  it(
    '[MQTT-3.3.1-4] [MQTT-3.3.1-2] [MQTT-3.3.1-4, 3.1.1] [MQTT-3.3.1-2, 3.1.1] ' +
      'a PUBLISH with QoS 3, or with DUP at QoS 0, is refused',
    async () => {
      const world = await World.make()
      await expectEachRefused(
        world,
        version,
        // With QoS 0 3.1 does not use DUP.
        [6, 7, ...(version === 3 ? [] : [8, 9]), 14, 15].map(
          (flags) => [publish(version, flags, 't', 1), 0x81] as const,
        ),
      )
    },
  )

  it('[MQTT-2.2.1-3] [MQTT-2.3.1-1, 3.1.1] a packet identifier that is 0 or missing is refused', async () => {
    const world = await World.make()
    await expectEachRefused(world, version, [
      [publish(version, 2, 't', 0), 0x81],
      [publish(version, 4, 't', 0), 0x81],
      [subscribe(version, 0, 't', 0), 0x81],
      [unsubscribe(version, 0, 't'), 0x81],
      ...[0x40, 0x50, 0x62, 0x70].flatMap(
        (first) =>
          [
            [acknowledge(first, 0), 0x81],
            [packet(first), 0x81],
            [packet(first, 1), 0x81],
          ] as const,
      ),
      [packet(0x32, 't'), 0x81],
      [packet(0x34, 't', 1), 0x81],
      [packet(0x82), 0x81],
      [packet(0xa2, 0), 0x81],
    ])
  })

  it(
    '[MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT-4.8.0-1, 3.1.1] ' +
      'packets of a Server or of no type, or with too many or too few bytes, end the connection and ' +
      'have no effect',
    async () => {
      const world = await World.make()
      const watcher = await world.connect('watcher')
      await watcher.subscribe('#', 0)
      const subscribed = world.record('subscribed')
      const wrong: [Buffer, number][] = [
        [packet(0x00), 0x81],
        [packet(0x20, 0, 0, ...(version === 5 ? [0] : [])), 0x82], // CONNACK
        [packet(0x90, uint16(1), none, 0), 0x82], // SUBACK
        [packet(0xb0, uint16(1), none, ...(version === 5 ? [0] : [])), 0x82], // UNSUBACK
        [packet(0xd0), 0x82], // PINGRESP
        [packet(0xc0, 0), 0x81], // trailing bytes
        [acknowledge(0x40, 1, 0, 0, 0), 0x81],
        [packet(0x82, uint16(1), none, 't'), 0x81], // options are missing
        [packet(0x82, uint16(1), none, [0, 9, 0x74], 0), 0x81], // the filter ends after the packet
        [packet(0xa2, uint16(1), none, [0, 9, 0x74]), 0x81],
        [packet(0x30, [0, 9, 0x74]), 0x81],
        [packet(0x30, 0), 0x81],
        [Buffer.from([0xc0, 0x80, 0x00]), 0x81], // a Remaining Length that is longer than it needs to be
        [Buffer.from([0x30, 0x80, 0x80, 0x80, 0x80, 0x01]), 0x81], // ... of five bytes
        [connect(version, 2, none, 'again'), 0x82],
      ]
      if (version < 5)
        wrong.push([packet(0xf0), 0x81], [packet(0xe0, 0), 0x81], [acknowledge(0x40, 1, 0), 0x81])
      await expectEachRefused(world, version, wrong)
      expect(watcher.got()).toEqual([])
      expect(subscribed).toEqual([])
    },
  )

  it(
    '[MQTT-4.8.0-1, 3.1.1] [MQTT-4.13.1-1] ' +
      'packets before the wrong one are handled, packets after it are not, and other clients go on',
    async () => {
      const world = await World.make()
      const watcher = await world.connect('watcher', {}, version)
      await watcher.subscribe('#', 0)
      const client = await world.connect('a', {}, version)
      sent(client)
      await client.bytes(
        Buffer.concat([
          publish(version, 2, 'before', 1),
          packet(0xd0),
          publish(version, 2, 'behind', 2),
          packet(0xc0),
        ]),
      )
      const written = sent(client)
      expect(written.startsWith('40020001')).toBe(true)
      expect(written.slice(8)).toMatch(version === 5 ? /^e0/ : /^$/)
      expect(client.closed).toBe(true)
      expect(watcher.got()).toMatchObject([{ topic: 'before' }])
      expect(await watcher.send({ cmd: 'pingreq' })).toMatchObject([{ cmd: 'pingresp' }])
    },
  )

  it(
    '[MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-3.14.4-2, 3.1.1] [MQTT-3.14.4-1, 3.1.1] ' +
      'after DISCONNECT no packet of the client is handled, none is sent, and the connection is ' +
      'closed',
    async () => {
      const world = await World.make()
      const published = world.record('published')
      const client = await world.connect('a', {}, version)
      sent(client)
      await client.bytes(Buffer.concat([packet(0xe0), publish(version, 2, 't', 1), packet(0xc0)]))
      expect(sent(client)).toBe('')
      expect(client.closed).toBe(true)
      expect(published).toEqual([])
      // The Server's own DISCONNECT is its last packet, too, whatever is published to the client afterwards.
      const sub = await world.connect('sub', {}, version)
      await sub.subscribe('t', 0)
      sent(sub)
      sub.link.handler?.received(packet(0xd0))
      const pub = await world.connect('pub')
      await pub.publish('t', 'late')
      expect(sub.closed).toBe(true)
      expect(sent(sub)).toMatch(version === 5 ? /^e0/ : /^$/)
      expect(sub.texts()).toEqual([])
    },
  )
})
