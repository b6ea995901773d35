import { randomInt } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import {
  closeFrame,
  FIN,
  FrameReader,
  type FrameSink,
  frame,
  HEADER_BYTES_MAX,
  Opcode,
  writeHeader,
} from '../../../src/transport/websocket/websocket-frames.ts'

class Recorded implements FrameSink {
  readonly payloads: Buffer[] = []
  readonly pings: string[] = []
  readonly ends: string[] = []

  payload(bytes: Buffer): void {
    if (this.ends.length > 0) throw new Error('payload behind the end')
    this.payloads.push(bytes)
  }

  pinged(data: Buffer): void {
    this.pings.push(data.toString('latin1'))
  }

  closing(status: number | null): void {
    this.ends.push(`closing ${status}`)
  }

  violated(status: number, message: string): void {
    this.ends.push(`violated ${status} ${message}`)
  }

  get bytes(): Buffer {
    return Buffer.concat(this.payloads)
  }
}

function headerOf(first: number, payloadBytes: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES_MAX, 0xee)
  return header.subarray(writeHeader(header, HEADER_BYTES_MAX, first, payloadBytes))
}

/** A frame as a client sends it. `announced` is what its header says that the payload has. */
function masked(first: number, payload: Buffer, mask = 0xa1b2c3d4, announced = payload.length): Buffer {
  const header = headerOf(first, announced)
  header[1]! |= 0x80
  const key = Buffer.alloc(4)
  key.writeUInt32BE(mask)
  return Buffer.concat([header, key, payload.map((byte, i) => byte ^ key[i & 3]!)])
}

function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return Math.floor((state / 0x80000000) * below)
  }
}

const FINAL = FIN | Opcode.Binary
const text = (value: string) => Buffer.from(value)

describe('FrameReader', () => {
  test('[MQTT-6.0.0-2] [MQTT-6.0.0-2, 3.1.1] payload arrives in order, however frames are cut', () => {
    const seed = randomInt(0x7fffffff)
    console.log(`seed ${seed}`)
    const next = random(seed)
    for (let round = 0; round < 60; round++) {
      const sent: Buffer[] = []
      const frames: Buffer[] = []
      const pings: string[] = []
      let continued = false
      for (let i = 0; i < 40; i++) {
        if (next(4) === 0) {
          const ping = Buffer.alloc(next(126), next(256))
          pings.push(ping.toString('latin1'))
          frames.push(masked(FIN | (next(2) === 0 ? Opcode.Pong : Opcode.Ping), ping, next(0x7fffffff)))
          if ((frames.at(-1)![0]! & 0x0f) === Opcode.Pong) pings.pop()
        }
        const size = [0, next(10), next(126), 126 + next(400), next(20) === 0 ? 65_536 + next(9) : 3][
          next(5)
        ]!
        const payload = Buffer.from(Array.from({ length: size }, () => next(256)))
        const last = next(3) > 0
        frames.push(
          masked(
            (last ? FIN : 0) | (continued ? Opcode.Continuation : Opcode.Binary),
            payload,
            next(0x7fffffff),
          ),
        )
        continued = !last
        sent.push(payload)
      }
      const stream = Buffer.concat(frames)
      const recorded = new Recorded()
      const reader = new FrameReader(recorded)
      const largest = [1, 7, 200, 70_000][next(4)]!
      for (let at = 0; at < stream.length; ) {
        const end = at + 1 + next(largest)
        reader.push(Buffer.from(stream.subarray(at, end)))
        at = end
      }
      expect(recorded.ends).toEqual([])
      expect(recorded.bytes.equals(Buffer.concat(sent))).toBe(true)
      expect(recorded.pings).toEqual(pings)
    }
  })

  test('the payload of an incomplete frame is passed on as it arrives', () => {
    const recorded = new Recorded()
    const reader = new FrameReader(recorded)
    reader.push(masked(FINAL, text('first'), 1, 250_000_000))
    expect(recorded.bytes.toString()).toBe('first')
    reader.push(Buffer.from([0x41 ^ 0, 0x42 ^ 0, 0x43 ^ 1]))
    expect(recorded.bytes.toString()).toBe('firstABC')
  })

  test('only payload bytes change in memory that the chunk shares', () => {
    for (const bytes of [1, 50, 157, 158, 159, 160, 3001]) {
      const sent = masked(FINAL, Buffer.alloc(bytes, 'p'))
      const memory = Buffer.alloc(sent.length + 20, 'm')
      sent.copy(memory, 7)
      const recorded = new Recorded()
      new FrameReader(recorded).push(memory.subarray(7, 7 + sent.length))
      expect(recorded.bytes.equals(Buffer.alloc(bytes, 'p'))).toBe(true)
      expect(memory.subarray(0, 7).toString()).toBe('mmmmmmm')
      expect(memory.subarray(7 + sent.length).toString()).toBe('m'.repeat(13))
    }
  })

  test('the payload of many frames in one chunk is passed on together', () => {
    const recorded = new Recorded()
    new FrameReader(recorded).push(
      Buffer.concat([
        masked(FINAL, text('one')),
        masked(FIN | Opcode.Ping, text('p')),
        masked(FINAL, text('two')),
      ]),
    )
    expect(recorded.payloads.map(String)).toEqual(['onetwo'])
    expect(recorded.pings).toEqual(['p'])
  })

  test.each<[string, Buffer, string]>([
    ['a status', masked(FIN | Opcode.Close, Buffer.from([0x03, 0xe8])), 'closing 1000'],
    [
      'a status and a reason',
      masked(FIN | Opcode.Close, Buffer.from('\x0f\xa0bye', 'latin1')),
      'closing 4000',
    ],
    ['nothing', masked(FIN | Opcode.Close, Buffer.alloc(0)), 'closing null'],
  ])('a Close frame with %s ends the input', (_name, close, end) => {
    const recorded = new Recorded()
    const reader = new FrameReader(recorded)
    reader.push(Buffer.concat([masked(FINAL, text('last')), close, masked(FINAL, text('behind'))]))
    reader.push(masked(FINAL, text('behind')))
    expect(recorded.bytes.toString()).toBe('last')
    expect(recorded.ends).toEqual([end])
  })

  test.each<[string, Buffer, number, RegExp]>([
    ['no mask', frame(FINAL, text('x')), 1002, /mask/],
    ['RSV1', masked(FINAL | 0x40, text('x')), 1002, /reserved bit/],
    ['RSV3', masked(FINAL | 0x10, text('x')), 1002, /reserved bit/],
    ['a reserved opcode for data', masked(FIN | 3, text('x')), 1002, /opcode 3/],
    ['a reserved opcode for control', masked(FIN | 11, text('x')), 1002, /opcode 11/],
    ['a continuation of nothing', masked(FIN, text('x')), 1002, /to continue/],
    [
      'a message inside another',
      Buffer.concat([masked(Opcode.Binary, text('')), masked(FINAL, text('x'))]),
      1002,
      /inside another/,
    ],
    [
      'a continuation behind the end',
      Buffer.concat([masked(Opcode.Binary, text('')), masked(FIN, text('')), masked(FIN, text('x'))]),
      1002,
      /to continue/,
    ],
    ['a fragmented ping', masked(Opcode.Ping, text('x')), 1002, /fragmented/],
    ['a ping of 126 bytes', masked(FIN | Opcode.Ping, Buffer.alloc(126)), 1002, /too long/],
    ['a Close of one byte', masked(FIN | Opcode.Close, text('x')), 1002, /status/],
    ['a Close with 1005', masked(FIN | Opcode.Close, Buffer.from([0x03, 0xed])), 1002, /status/],
    ['a Close with 999', masked(FIN | Opcode.Close, Buffer.from([0x03, 0xe7])), 1002, /status/],
    ['a Close with 5000', masked(FIN | Opcode.Close, Buffer.from([0x13, 0x88])), 1002, /status/],
    [
      'a Close whose reason is not UTF-8',
      masked(FIN | Opcode.Close, Buffer.from([0x03, 0xe8, 0xff])),
      1007,
      /UTF-8/,
    ],
    ['[MQTT-6.0.0-1] [MQTT-6.0.0-1, 3.1.1] text', masked(FIN | Opcode.Text, text('x')), 1003, /text frame/],
    ['a frame of 2^63 bytes', masked(FINAL, text('x'), 1, 2 ** 63), 1009, /2\^53/],
  ])('%s is refused once, after earlier payload', (_name, bytes, status, message) => {
    for (const whole of [true, false]) {
      const recorded = new Recorded()
      const reader = new FrameReader(recorded)
      const stream = Buffer.concat([masked(FINAL, text('before')), bytes, masked(FINAL, text('behind'))])
      if (whole) reader.push(stream)
      else for (const byte of stream) reader.push(Buffer.from([byte]))
      expect(recorded.bytes.toString()).toBe('before')
      expect(recorded.ends.length).toBe(1)
      expect(recorded.ends[0]).toMatch(new RegExp(`^violated ${status} `))
      expect(recorded.ends[0]).toMatch(message)
    }
  })
})

describe('frames of a server', () => {
  test.each([
    [0, '8200'],
    [125, '827d'],
    [126, '827e007e'],
    [65_535, '827effff'],
    [65_536, '827f0000000000010000'],
  ])('%i bytes have the shortest header', (bytes, header) => {
    expect(headerOf(FINAL, bytes).toString('hex')).toBe(header)
    const whole = frame(FINAL, Buffer.alloc(bytes, 'p'))
    expect(whole.length).toBe(header.length / 2 + bytes)
    expect(whole.subarray(0, header.length / 2).toString('hex')).toBe(header)
    expect(whole.subarray(header.length / 2).equals(Buffer.alloc(bytes, 'p'))).toBe(true)
  })

  test('a Close frame has its status and reason, or nothing', () => {
    expect(closeFrame(1003, 'no').toString('hex')).toBe('880403eb6e6f')
    expect(closeFrame(null).toString('hex')).toBe('8800')
  })
})
