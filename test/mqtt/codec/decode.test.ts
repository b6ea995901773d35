import { type Packet, parser } from 'mqtt-packet'
import { describe, expect, test } from 'vitest'
import type { ClientPacket } from '../../../src/mqtt/packet.ts'
import { ProtocolError, Reason } from '../../../src/mqtt/reason.ts'
import { bytesOf } from '../encoded.ts'
import { decodeAll, MALFORMED_PACKETS, packet, truncatedPackets, VALID_PACKETS } from '../packets.ts'
import { refusalOf } from './reading.ts'

/** The fields of a packet, without its position in a buffer. */
function fields(decoded: ClientPacket): object {
  if (decoded.type !== 'publish') return decoded
  return { ...decoded, payload: decoded.payload, buffer: null, start: 0, payloadStart: 0, end: 0 }
}

describe('every valid packet', () => {
  test.each(VALID_PACKETS)('$name (version $version) decodes whole and byte by byte alike', (valid) => {
    const whole = decodeAll([valid.bytes], valid.version)
    expect(whole).toHaveLength(1)
    const single = Array.from(valid.bytes, (byte) => Buffer.from([byte]))
    expect(decodeAll(single, valid.version)).toEqual(whole)
  })

  test.each(VALID_PACKETS.filter(({ bytes }) => bytes.length < 2000 && bytes[0]! >> 4 !== 1))(
    '$name is found again after others, wherever the chunks are cut',
    ({ bytes, version }) => {
      const stream = Buffer.concat([bytes, packet(0xc0), bytes])
      const [expected] = decodeAll([bytes], version).map(fields)
      for (let cut = 1; cut < stream.length; cut++) {
        const packets = decodeAll([stream.subarray(0, cut), stream.subarray(cut)], version)
        expect(packets.map(fields)).toEqual([expected, { type: 'pingreq' }, expected])
        for (const found of [packets[0]!, packets[2]!]) {
          if (found.type === 'publish') expect(bytesOf(found)).toEqual(bytes)
        }
      }
    },
  )
})

describe('every malformed packet', () => {
  test.each(MALFORMED_PACKETS)('$name (version $version) is refused for $statement', (wrong) => {
    const error = refusalOf(wrong.bytes, wrong.version)
    expect({ reasonCode: error.reasonCode, statement: error.statement }).toEqual({
      reasonCode: wrong.reasonCode,
      statement: wrong.statement,
    })
  })

  test('a packet cut short at any byte is malformed, or is valid and re-encodes to the same', () => {
    let refused = 0
    for (const cut of truncatedPackets()) {
      try {
        decodeAll([cut.bytes], cut.version)
      } catch (error) {
        expect(error, cut.name).toBeInstanceOf(ProtocolError)
        expect((error as ProtocolError).reasonCode, cut.name).not.toBe(Reason.ImplementationSpecificError)
        refused++
        continue
      }
      // Some packets stay valid: shorter payloads, omitted optional parts.
      expect(cut.name, cut.name).toMatch(/^(PUBLISH|PUB|SUBSCRIBE|UNSUBSCRIBE|DISCONNECT|CONNECT, 3.1, )/)
    }
    expect(refused).toBeGreaterThan(500)
  })

  test('no packet of a fixed structure takes a trailing byte', () => {
    for (const { name, version, bytes } of VALID_PACKETS) {
      const type = bytes[0]! >> 4
      // The payload of a PUBLISH takes any byte; acknowledgements and DISCONNECT of 5.0 have optional parts.
      if (type === 3 || bytes.length > 127) continue
      const optional = version === 5 && ((type >= 4 && type <= 7 && bytes.length < 6) || type === 14)
      if (optional) continue
      const longer = packet(bytes[0]!, bytes.subarray(2), 0)
      expect(() => decodeAll([longer], version), name).toThrow(ProtocolError)
    }
  })
})

test('mqtt-packet reads the same PUBLISH packets and acknowledgements', () => {
  for (const { name, version, bytes } of VALID_PACKETS) {
    const type = bytes[0]! >> 4
    if (type < 3 || type > 7 || version === 3) continue
    const packets: Packet[] = []
    const oracle = parser({ protocolVersion: version })
    oracle.on('packet', (one) => packets.push(one))
    oracle.parse(bytes)
    const [theirs] = packets
    const [ours] = decodeAll([bytes], version)
    if (ours!.type === 'publish' && theirs!.cmd === 'publish') {
      expect(Buffer.from(theirs!.payload), name).toEqual(ours!.payload)
      expect(theirs!.topic, name).toBe(ours!.topic?.name ?? '')
      expect(theirs!.messageId ?? 0, name).toBe(ours!.packetId)
      expect([theirs!.qos, theirs!.retain, theirs!.dup]).toEqual([ours!.qos, ours!.retain, ours!.dup])
    } else {
      expect(theirs!.cmd, name).toBe(ours!.type)
      expect(theirs, name).toMatchObject({ messageId: (ours as { packetId: number }).packetId })
    }
  }
})
