/** Every named malformed packet of 5.0, and every valid one cut at every byte, through the Server. */
import { describe, expect, it } from 'vitest'
import { World } from '../../broker/harness.ts'
import {
  connect,
  MALFORMED_PACKETS,
  packet,
  properties,
  truncatedPackets,
  uint16,
  VALID_PACKETS,
} from '../../mqtt/packets.ts'
import { publish, subscribe } from '../wire.ts'

const NONE = properties()

/** Returns the answers to a client that speaks 5.0, and whether the Network Connection is closed. */
async function verdict(world: World, bytes: Buffer): Promise<{ told: string[]; closed: boolean }> {
  const isConnect = bytes[0]! >> 4 === 1
  const client = isConnect ? world.open(5) : await world.connect('client')
  const answers = await client.bytes(bytes)
  const told = answers.map((answer) => {
    const code = answer.cmd === 'connack' || answer.cmd === 'disconnect' ? (answer.reasonCode ?? 0) : 0
    return `${answer.cmd} ${code.toString(16)}`
  })
  const { closed } = client
  await client.vanish()
  return { told, closed }
}

describe('[MQTT-4.13.1-1] every malformed packet is answered by its Reason Code and the close', () => {
  it.each(MALFORMED_PACKETS.filter(({ version }) => version === 5))(
    '$name',
    async ({ bytes, reasonCode }) => {
      const world = await World.make()
      const published = world.record('published')
      const packetType = bytes[0]! >> 4 === 1 ? 'connack' : 'disconnect'
      expect(await verdict(world, bytes)).toEqual({
        told: [`${packetType} ${reasonCode.toString(16)}`],
        closed: true,
      })
      expect(published).toEqual([])
      expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0, wills: 0 })
    },
  )
})

describe('packets that are cut', () => {
  it('at every byte, with a Remaining Length to match: 0x81 wherever a field is incomplete', async () => {
    const world = await World.make({ limits: { topicAliasMaximum: 100 } })
    let malformed = 0
    const others: string[] = []
    for (const { name, version, bytes } of truncatedPackets()) {
      if (version !== 5) continue
      const { told, closed } = await verdict(world, bytes)
      if (closed && /81$/.test(told.join())) malformed++
      else others.push(`${name}: ${told.join()}${closed ? ' and closed' : ''}`)
    }
    expect(malformed).toBeGreaterThan(300)
    // A CONNECT that is cut before its version cannot be answered.
    const silent = /^CONNECT, .* cut to [0-6]: {2}and closed$/
    // Shorter payloads, optional parts that are left out, and fewer filters are whole packets.
    const types = 'PUBLISH|PUBACK|PUBREC|PUBREL|PUBCOMP|SUBSCRIBE|UNSUBSCRIBE'
    const answers = 'puback 0|pubrec 0|pubrel 0|pubcomp 0|suback 0|unsuback 0'
    const whole = new RegExp(String.raw`^(${types})\b.* cut to \d+: (${answers})?$`)
    expect(others.filter((line) => !silent.test(line) && !whole.test(line))).toEqual([
      // These remainders are whole packets, which are wrong or end the connection for another reason.
      'PUBLISH, alias for the topic name, cut to 6: disconnect 82 and closed', // not known here
      'SUBSCRIBE, 5.0, cut to 3: disconnect 82 and closed', // no Topic Filter
      'SUBSCRIBE, syntax left to the Server, cut to 3: disconnect 82 and closed',
      'SUBSCRIBE, syntax left to the Server, cut to 8: disconnect 8f and closed', // a filter that is none
      'SUBSCRIBE, 5.0, properties, cut to 22: disconnect 82 and closed',
      'UNSUBSCRIBE, 5.0, cut to 10: disconnect 82 and closed',
      'DISCONNECT, 5.0, Reason Code, cut to 0:  and closed',
      'DISCONNECT, 5.0, no properties, cut to 0:  and closed',
      'DISCONNECT, 5.0, no properties, cut to 1:  and closed',
      'DISCONNECT, 5.0, properties, cut to 0:  and closed',
      'DISCONNECT, 5.0, properties, cut to 1:  and closed',
      'AUTH, cut to 0: disconnect 82 and closed', // no Reason Code that a client may send
      'AUTH, re-authentication without data, cut to 0: disconnect 82 and closed',
    ])
  })

  it(
    'at every byte, with the rest missing, have no effect until the connect time-out or Keep ' +
      'Alive ends the connection',
    async () => {
      const world = await World.make({ limits: { connectTimeoutSeconds: 10 } })
      const published = world.record('published')
      const whole = VALID_PACKETS.filter(({ version, bytes }) => version === 5 && bytes.length < 400)
      for (const { name, bytes } of whole) {
        const isConnect = bytes[0]! >> 4 === 1
        for (let kept = 1; kept < bytes.length; kept++) {
          const client = isConnect ? world.open(5) : await world.connect('client', { keepalive: 10 })
          expect([name, await client.bytes(bytes.subarray(0, kept)), client.closed]).toEqual([
            name,
            [],
            false,
          ])
          if (kept % 16 === 1) {
            await world.pass(15.2)
            const told = client.got()
            expect([name, told.length, client.closed]).toEqual([name, isConnect ? 0 : 1, true])
            if (!isConnect) expect(told).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8d }])
          }
          await client.vanish()
        }
      }
      expect(published).toEqual([])
      expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0, connections: 0, deadlines: 0 })
    },
  )
})

describe('packets that are too long', () => {
  it('a byte after the last field is refused with 0x81', async () => {
    const world = await World.make()
    for (const bytes of [
      packet(0x40, uint16(1), 0, NONE, 0),
      packet(0x62, uint16(1), 0, NONE, 0),
      packet(0x82, uint16(1), NONE, 't', 0, 0),
      packet(0xa2, uint16(1), NONE, 't', 0),
      packet(0xc0, 0),
      packet(0xe0, 0, NONE, 0),
      packet(0xf0, 0x18, properties(0x15, 'm'), 0),
    ]) {
      expect([bytes.toString('hex'), await verdict(world, bytes)]).toEqual([
        bytes.toString('hex'),
        { told: ['disconnect 81'], closed: true },
      ])
    }
    expect(await verdict(world, connect(5, 2, NONE, 'a', 0))).toEqual({ told: ['connack 81'], closed: true })
  })

  it('many packets in one chunk, one byte at a time, and any two pieces, are the same packets', async () => {
    const stream = Buffer.concat([
      connect(5, 2, NONE, 'a'),
      subscribe(5, 1, 't', 1),
      publish(5, 2, 't', 2),
      packet(0xc0),
      publish(5, 4, 't', 3),
      packet(0x62, uint16(3)),
      packet(0xe0),
    ])
    const run = async (...chunks: Buffer[]): Promise<string> => {
      const client = (await World.make()).open(5)
      for (const chunk of chunks) await client.bytes(chunk)
      expect(client.closed).toBe(true)
      return Buffer.concat(client.link.raw).toString('hex')
    }
    const whole = await run(stream)
    expect(whole.length).toBeGreaterThan(80)
    expect(await run(...Array.from(stream, (byte) => Buffer.from([byte])))).toBe(whole)
    for (let cut = 1; cut < stream.length; cut++) {
      expect(await run(stream.subarray(0, cut), stream.subarray(cut))).toBe(whole)
    }
  })
})

describe('properties of a Will', () => {
  const willed = (...bytes: readonly number[]) => connect(5, 6, NONE, 'a', properties(bytes), 'w', 'p')

  it.each([
    ['Will Delay Interval', [0x18, 0, 0, 0, 1]],
    ['Payload Format Indicator', [0x01, 1]],
    ['Message Expiry Interval', [0x02, 0, 0, 0, 9]],
    ['Content Type', [0x03, 0, 1, 0x61]],
    ['Response Topic', [0x08, 0, 1, 0x61]],
    ['Correlation Data', [0x09, 0, 1, 0x61]],
  ])('%s is accepted once, and refused with 0x82 twice', async (_, bytes) => {
    const world = await World.make()
    expect(await verdict(world, willed(...bytes))).toEqual({ told: ['connack 0'], closed: false })
    expect(await verdict(world, willed(...bytes, ...bytes))).toEqual({ told: ['connack 82'], closed: true })
  })

  it('properties of other packets, and unknown ones, are refused with 0x81', async () => {
    const world = await World.make()
    const allowed = new Set([0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26])
    for (let id = 0; id < 256; id++) {
      if (allowed.has(id)) continue
      const wrong = await verdict(world, willed(id, 0, 0, 0, 0))
      expect([id, wrong]).toEqual([id, { told: ['connack 81'], closed: true }])
    }
  })
})

it('Binary Data takes any bytes: Password, Will Payload, Correlation Data', async () => {
  const world = await World.make({
    policy: {
      authenticate: ({ password }) =>
        password?.equals(Buffer.from([0, 0xff, 0xc0, 0]))
          ? { allow: true, userName: null }
          : { allow: false, reasonCode: 0x86, reason: '' },
    },
  })
  const data = [0, 4, 0, 0xff, 0xc0, 0]
  const bytes = connect(5, 0x46, NONE, 'a', properties(0x09, data), 'w', data, data)
  expect(await verdict(world, bytes)).toEqual({ told: ['connack 0'], closed: false })
})
