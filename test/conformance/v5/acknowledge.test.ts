/** MQTT 5.0, sections 3.4 to 3.7: PUBACK, PUBREC, PUBREL and PUBCOMP. */
import { describe, expect, it } from 'vitest'
import { World, type WorldOptions } from '../../broker/harness.ts'
import { packet, properties, uint16, uint32 } from '../../mqtt/packets.ts'
import { acknowledge, expectRefused, publish, sent } from '../wire.ts'
import { ask } from './answers.ts'

const NONE = properties()
const USER = 0x26

/** The Reason Codes of a client; 0x10 is the Server's, and a bridge is a Server at its other end. */
const RECEIVED = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
const RELEASED = [0x00, 0x92]

const PACKETS = [
  ['PUBACK', '3.4.2', 0x40, RECEIVED],
  ['PUBREC', '3.5.2', 0x50, RECEIVED],
  ['PUBREL', '3.6.2', 0x62, RELEASED],
  ['PUBCOMP', '3.7.2', 0x70, RELEASED],
] as const

/** Worlds in which the Server has a reason to give, the PUBLISH that makes it, and the Reason Code. */
const REASONS: readonly (readonly [
  name: string,
  topic: string,
  reasonCode: number,
  options?: WorldOptions,
])[] = [
  ['nobody subscribed', 't', 0x10],
  ['a policy refuses', 't', 0x87, { policy: { authorizePublish: () => false } }],
  ['the topic is the Server’s', '$SYS/x', 0x87],
  ['the topic is too long', 'long/topic', 0x90, { limits: { topicBytesMax: 5 } }],
]

describe('acknowledgements of the Server', () => {
  it.each(REASONS.map(([name, topic, reasonCode, options]) => ({ name, topic, reasonCode, options })))(
    '[MQTT-3.4.2-1] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-1] [MQTT-3.5.2-2] [MQTT-3.5.2-3] ' +
      'PUBACK and PUBREC, $name: one of their Reason Codes, and nothing that could be too large',
    async ({ topic, reasonCode, options }) => {
      for (const more of [{}, { maximumPacketSize: 15 }]) {
        const world = await World.make(options)
        const client = await world.connect('a', { properties: more })
        const code = reasonCode.toString(16)
        expect(await ask(client, publish(5, 2, topic, 1))).toBe(`40030001${code}`)
        expect(await ask(client, publish(5, 4, topic, 2))).toBe(`50030002${code}`)
      }
    },
  )

  it('[MQTT-3.4.2-1] [MQTT-3.5.2-1] on success they have the short form of 0x00', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    await (await world.connect('sub')).subscribe('t')
    expect(await ask(client, publish(5, 2, 't', 1))).toBe('40020001')
    expect(await ask(client, publish(5, 4, 't', 2))).toBe('50020002')
  })

  it(
    '[MQTT-3.6.2-1] [MQTT-3.6.2-2] [MQTT-3.6.2-3] ' +
      'PUBREL: 0x00 or 0x92 and nothing that could be too large',
    async () => {
      for (const more of [{}, { maximumPacketSize: 15 }]) {
        const world = await World.make()
        const client = await world.connect('a', { properties: more })
        await client.subscribe('t', 2)
        await (await world.connect('pub')).publish('t', 'x', 2)
        expect(await ask(client, acknowledge(0x50, 1))).toBe('62020001')
        // Again, before PUBCOMP; and for an unknown identifier.
        expect(await ask(client, acknowledge(0x50, 1))).toBe('62020001')
        expect(await ask(client, acknowledge(0x50, 9))).toBe('6203000992')
        await client.bytes(acknowledge(0x70, 1))
        expect(await ask(client, acknowledge(0x50, 1))).toBe('6203000192')
      }
    },
  )

  it(
    '[MQTT-3.7.2-1] [MQTT-3.7.2-2] [MQTT-3.7.2-3] ' +
      'PUBCOMP: 0x00 or 0x92 and nothing that could be too large',
    async () => {
      for (const more of [{}, { maximumPacketSize: 15 }]) {
        const client = await (await World.make()).connect('a', { properties: more })
        await client.bytes(publish(5, 4, 't', 1))
        expect(await ask(client, acknowledge(0x62, 1))).toBe('70020001')
        expect(await ask(client, acknowledge(0x62, 1))).toBe('7003000192')
        expect(await ask(client, acknowledge(0x62, 2))).toBe('7003000292')
      }
    },
  )
})

describe('acknowledgements of a client', () => {
  it.each(PACKETS)(
    '%s (section %s): every form of each of its Reason Codes is accepted, any other code is ' +
      'refused with 0x82',
    async (_, __, first, allowed) => {
      const world = await World.make()
      for (let code = 0; code < 256; code++) {
        const forms = [
          packet(first, uint16(9), code),
          packet(first, uint16(9), code, NONE),
          packet(first, uint16(9), code, properties(0x1f, 'because', USER, 'a', '1', USER, 'a', '1')),
        ]
        for (const bytes of forms) {
          const client = await world.connect('a')
          if (!allowed.includes(code)) {
            await expectRefused(client, bytes, 0x82)
            continue
          }
          const answers = await client.bytes(bytes)
          expect([bytes.toString('hex'), answers.every(({ cmd }) => cmd !== 'disconnect')]).toEqual([
            bytes.toString('hex'),
            true,
          ])
          expect(client.closed).toBe(false)
        }
      }
    },
  )

  it.each(PACKETS)(
    '%s (section %s): fields that are cut, too long, repeated or misplaced are refused',
    async (_, __, first) => {
      const world = await World.make()
      for (const [bytes, reasonCode] of [
        [packet(first), 0x81],
        [packet(first, 0), 0x81],
        [packet(first, uint16(0)), 0x81],
        [packet(first, uint16(1), 0, 1), 0x81],
        [packet(first, uint16(1), 0, NONE, 0), 0x81],
        [packet(first, uint16(1), 0, properties(0x1f, 'a'), 0), 0x81],
        [packet(first, uint16(1), 0, properties(0x1f, [0, 2, 0x61])), 0x81],
        [packet(first, uint16(1), 0, properties(0x1f)), 0x81],
        [packet(first, uint16(1), 0, properties(USER, 'a')), 0x81],
        [packet(first, uint16(1), 0, properties(0x11, uint32(1))), 0x81],
        [packet(first, uint16(1), 0, properties(0x7f)), 0x81],
        [packet(first, uint16(1), 0, properties(0x1f, 'a', 0x1f, 'a')), 0x82],
      ] as const) {
        await expectRefused(await world.connect('a'), bytes, reasonCode)
      }
    },
  )

  it('an acknowledgement that does not fit the message is refused with 0x82', async () => {
    for (const [qos, first] of [
      [1, 0x50],
      [1, 0x70],
      [2, 0x40],
    ] as const) {
      const world = await World.make()
      const client = await world.connect('a')
      await client.subscribe('t', 2)
      await (await world.connect('pub')).publish('t', 'x', qos)
      client.got()
      sent(client)
      await expectRefused(client, acknowledge(first, 1), 0x82)
    }
  })
})
