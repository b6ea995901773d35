import { describe, expect, test } from 'vitest'
import { Framer, PACKET_BYTES_MAX } from '../../../src/mqtt/codec/framer.ts'
import { ProtocolError, Reason } from '../../../src/mqtt/reason.ts'
import { connect, framerAfterConnect, packet, uint16 } from '../packets.ts'

function refusal(framer: Framer): ProtocolError {
  try {
    framer.next()
  } catch (error) {
    if (error instanceof ProtocolError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

function body(framer: Framer): Buffer {
  return framer.buffer.subarray(framer.start, framer.end)
}

describe('a packet in one chunk', () => {
  test('is a view of it', () => {
    const framer = framerAfterConnect(4)
    const chunk = Buffer.concat([packet(0x30, 'a', [1, 2, 3]), packet(0xc0), packet(0x30, 'b')])
    framer.push(chunk)
    expect(framer.next()).toBe(true)
    expect(framer.buffer).toBe(chunk)
    expect([framer.type, framer.flags, framer.packetBytes]).toEqual([3, 0, 8])
    expect(body(framer)).toEqual(Buffer.from([0, 1, 0x61, 1, 2, 3]))
    expect(framer.next()).toBe(true)
    expect([framer.type, framer.start, framer.end, framer.packetBytes]).toEqual([12, 10, 10, 2])
    expect(framer.bufferedBytes).toBe(5)
    expect(framer.next()).toBe(true)
    expect(framer.bufferedBytes).toBe(0)
    expect(framer.next()).toBe(false)
    expect(framer.bytesCopied).toBe(0)
  })

  test('with a long Remaining Length is a view, too', () => {
    const framer = framerAfterConnect(4)
    const chunk = packet(0x30, 'a', Buffer.alloc(20_000, 'x'))
    framer.push(chunk)
    expect(framer.next()).toBe(true)
    expect(framer.buffer).toBe(chunk)
    expect(framer.packetBytes).toBe(chunk.length)
    expect(framer.bytesCopied).toBe(0)
  })

  test('several chunks may wait before the first is read', () => {
    const framer = framerAfterConnect(4)
    for (let i = 1; i <= 1000; i++) framer.push(packet(0x40, uint16(i)))
    const seen: number[] = []
    while (framer.next()) seen.push(framer.buffer.readUInt16BE(framer.start))
    expect(seen).toEqual(Array.from({ length: 1000 }, (_, i) => i + 1))
  })

  test('detach copies waiting bytes, and the same packets follow', () => {
    const framer = framerAfterConnect(4)
    const chunk = Buffer.concat([packet(0x30, 'a'), packet(0x30, 'b', [7, 8]), packet(0xc0)])
    framer.push(chunk)
    framer.next()
    framer.detach()
    chunk.fill(0xff)
    expect(framer.next()).toBe(true)
    expect(body(framer)).toEqual(Buffer.from([0, 1, 0x62, 7, 8]))
    expect(framer.next()).toBe(true)
    expect(framer.type).toBe(12)
    framer.detach()
    expect(framer.next()).toBe(false)
    expect(framer.bytesCopied).toBe(9)
  })

  test('detach releases the chunk, even if bytes of it are left', () => {
    const framer = framerAfterConnect(4)
    for (const rest of [packet(0xc0), Buffer.alloc(0), Buffer.from([0x30])]) {
      framer.push(Buffer.concat([packet(0x30, 'a'), rest]))
      expect(framer.next()).toBe(true)
      framer.detach()
      expect(framer.buffer.length).toBe(0)
      while (framer.next());
    }
    framer.push(packet(0x30, 'b').subarray(1))
    expect(framer.next()).toBe(true)
    expect(body(framer)).toEqual(Buffer.from([0, 1, 0x62]))
  })

  test('a used chunk is released', () => {
    const framer = framerAfterConnect(4)
    framer.push(packet(0xc0))
    framer.next()
    framer.next()
    expect(framer.buffer.length).toBe(0)
  })
})

describe('a packet that spans chunks', () => {
  test('200 KB in chunks of one byte cost linear work, counted in bytes copied', () => {
    const whole = packet(0x30, 'a', Buffer.alloc(200_000, 'x'))
    const framer = framerAfterConnect(4)
    let packets = 0
    for (const byte of whole) {
      framer.push(Buffer.from([byte]))
      if (framer.next()) packets++
    }
    expect(packets).toBe(1)
    expect(framer.buffer.subarray(framer.end - framer.packetBytes, framer.end)).toEqual(whole)
    // Each byte once, and again at each doubling: below three times in all.
    expect(framer.bytesCopied).toBeLessThan(3 * whole.length)
    expect(framer.bytesCopied).toBeGreaterThanOrEqual(whole.length - 5)
  })

  test('memory follows what arrived, not what was announced', () => {
    const framer = framerAfterConnect(4)
    const before = process.memoryUsage().arrayBuffers
    framer.push(Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, 0x61]))
    expect(framer.next()).toBe(false)
    expect(framer.bufferedBytes).toBe(8)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1_000_000)
  })

  test('has its whole header in the buffer, wherever it was cut', () => {
    const whole = packet(0x30, 'a', Buffer.alloc(300, 'x'))
    for (let cut = 1; cut < whole.length; cut++) {
      const framer = framerAfterConnect(4)
      framer.push(whole.subarray(0, cut))
      expect(framer.next()).toBe(false)
      framer.push(whole.subarray(cut))
      expect(framer.next()).toBe(true)
      expect(framer.buffer.subarray(framer.end - framer.packetBytes, framer.end)).toEqual(whole)
      expect(framer.bufferedBytes).toBe(0)
    }
  })
})

describe('refusals', () => {
  test.each([
    ['HTTP', Buffer.from('G'), Reason.ProtocolError],
    ['a PINGREQ', Buffer.from([0xc0]), Reason.ProtocolError],
    ['packet type 0', Buffer.from([0x00]), Reason.ProtocolError],
    ['TLS, which looks like a CONNECT with flags', Buffer.from([0x16]), Reason.MalformedPacket],
  ])('[MQTT-3.1.0-1] %s is refused at the first byte', (_, bytes, reasonCode) => {
    const framer = new Framer(PACKET_BYTES_MAX)
    framer.push(bytes)
    expect(refusal(framer).reasonCode).toBe(reasonCode)
  })

  test('a packet above the maximum is refused once its length is known, and no byte of it is kept', () => {
    for (const bytes of [
      Buffer.from([0x30, 0x80, 0x80, 0x80, 0x01]),
      packet(0x30, 'a', Buffer.alloc(200)),
      packet(0x30, 'a', Buffer.alloc(96)),
    ]) {
      const framer = framerAfterConnect(4, 100)
      framer.push(bytes)
      expect(refusal(framer).reasonCode).toBe(Reason.PacketTooLarge)
      expect(framer.bufferedBytes).toBe(0)
      expect(framer.bytesCopied).toBe(0)
    }
  })

  test('only a PUBLISH may have more than a MiB', () => {
    const announced = [0xff, 0xff, 0x7f]
    const framer = framerAfterConnect(5)
    framer.push(Buffer.from([0x30, ...announced]))
    expect(framer.next()).toBe(false)
    for (const first of [0x40, 0x82, 0xa2, 0xe0, 0xf0]) {
      const refusing = framerAfterConnect(5)
      refusing.push(Buffer.from([first, ...announced]))
      expect(refusal(refusing).reasonCode).toBe(Reason.QuotaExceeded)
    }
    const connecting = new Framer(PACKET_BYTES_MAX)
    connecting.push(Buffer.from([0x10, ...announced]))
    expect(refusal(connecting).reasonCode).toBe(Reason.QuotaExceeded)
  })

  test('a packet of exactly the maximum is accepted', () => {
    const framer = framerAfterConnect(4, 100)
    framer.push(packet(0x30, 'a', Buffer.alloc(95)))
    expect(framer.next()).toBe(true)
    expect(framer.packetBytes).toBe(100)
  })

  test('after a refusal nothing more is read or kept', () => {
    const framer = framerAfterConnect(4)
    framer.push(Buffer.from([0x36]))
    const first = refusal(framer)
    framer.push(packet(0xc0))
    expect(refusal(framer)).toBe(first)
    expect(framer.bufferedBytes).toBe(0)
  })

  test('DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE is for 3.1 only', () => {
    for (const first of [0x6a, 0x8a, 0xaa]) {
      for (const version of [4, 5] as const) {
        const framer = framerAfterConnect(version)
        framer.push(Buffer.from([first]))
        expect(refusal(framer).statement).toBe('MQTT-2.1.3-1')
      }
      const framer = framerAfterConnect(3)
      framer.push(packet(first, uint16(1)))
      expect(framer.next()).toBe(true)
    }
  })

  test('a CONNECT that comes byte by byte is framed', () => {
    const framer = new Framer(PACKET_BYTES_MAX)
    let framed = 0
    for (const byte of connect(4, 2, 'a')) {
      framer.push(Buffer.from([byte]))
      if (framer.next()) framed++
    }
    expect(framed).toBe(1)
    expect(framer.type).toBe(1)
  })
})

describe('the properties of a PUBLISH', () => {
  const empty = Buffer.from([0x26, 0, 0, 0, 0])

  /** A PUBLISH with so many bytes of empty User Properties, as its parts. */
  function withProperties(bytes: number, flags = 0): { head: Buffer; rest: Buffer } {
    const properties = Buffer.alloc(bytes, empty)
    const whole = packet(
      0x30 | flags,
      'topic',
      flags === 0 ? [] : uint16(1),
      writtenLength(bytes),
      properties,
    )
    return { head: whole.subarray(0, 24), rest: whole.subarray(24) }
  }

  function writtenLength(value: number): number[] {
    return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...writtenLength(value >>> 7)]
  }

  test.each([0, 2])('are refused when their length is known, with flags %i', (flags) => {
    const framer = framerAfterConnect(5)
    framer.version = 5
    const { head } = withProperties(10_000_000, flags)
    framer.push(head)
    const { reasonCode, limit } = refusal(framer)
    expect([reasonCode, limit, framer.bufferedBytes]).toEqual([Reason.QuotaExceeded, 'propertyBytesMax', 0])
  })

  test('are checked byte by byte, too, and accepted up to the limit', () => {
    for (const bytes of [1000, 1005]) {
      const framer = framerAfterConnect(5)
      framer.version = 5
      framer.propertyBytesMax = 1000
      const { head, rest } = withProperties(bytes, 2)
      // Fixed header, Topic Name, Packet Identifier, and the length of the properties but for its last byte.
      const before = 3 + 7 + 2 + 1
      for (let at = 0; at < before; at++) {
        framer.push(head.subarray(at, at + 1))
        expect(framer.next()).toBe(false)
      }
      framer.push(head.subarray(before, before + 1))
      if (bytes > 1000) {
        expect(refusal(framer).limit).toBe('propertyBytesMax')
        continue
      }
      expect(framer.next()).toBe(false)
      framer.push(Buffer.concat([head.subarray(before + 1), rest]))
      expect(framer.next()).toBe(true)
    }
  })

  test('do not exist before 5.0', () => {
    const framer = framerAfterConnect(4)
    framer.version = 4
    const { head, rest } = withProperties(100_000)
    framer.push(head)
    framer.push(rest)
    expect([framer.next(), framer.next()]).toEqual([true, false])
  })
})
