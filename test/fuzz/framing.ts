/** Fuzzes `src/mqtt/codec/framer.ts`: any bytes in any chunks, against a framer that sees all at once. */
import { Framer } from '../../src/mqtt/codec/framer.ts'
import { ProtocolError } from '../../src/mqtt/reason.ts'
import { MALFORMED_PACKETS, VALID_PACKETS } from '../mqtt/packets.ts'
import { chunked, connectBytes, cuts, mutated, packetBytes } from './grammar.ts'
import { frame, Refusal, type Version } from './plain.ts'
import type { Random } from './random.ts'
import { same, shorter, shorterBytes, type Target } from './target.ts'

export interface Stream {
  readonly bytes: Buffer
  readonly cuts: readonly number[]
  /** What the client speaks, once its first packet is there; 0: the Server does not know. */
  readonly version: Version | 0
  readonly packetBytesMax: number
  readonly controlBytesMax: number
}

export const SEEDS: readonly Buffer[] = [...VALID_PACKETS, ...MALFORMED_PACKETS]
  .map(({ bytes }) => bytes)
  .filter((bytes) => bytes.length < 1000)

export const framing: Target<Stream> = {
  name: 'framing',
  unit: 'byte streams',

  make(random, corpus) {
    const bytes =
      corpus.length > 0 && random.chance(0.4)
        ? mutated(random, random.of(corpus).bytes, SEEDS)
        : stream(random)
    return {
      bytes,
      cuts: cuts(random, bytes.length),
      version: random.of([0, 3, 4, 5] as const),
      packetBytesMax: random.chance(0.7) ? 268_435_460 : random.between(2, 400),
      controlBytesMax: random.chance(0.8) ? 1_048_576 : random.between(2, 400),
    }
  },

  run(input) {
    const expected = plainFrames(input)
    const whole = frames(input, [input.bytes])
    same(whole.seen, expected, 'the packets of one chunk')
    const parts = chunked(input.bytes, input.cuts)
    const cut = frames(input, parts)
    same(cut.seen, expected, `the packets of ${parts.length} chunks`)
    // Each byte is copied once into the buffer, and at most twice more as it doubles: the work is linear.
    if (cut.copied > 3 * input.bytes.length)
      throw new Error(`${cut.copied} bytes copied of ${input.bytes.length}`)
    return expected.map((each) => each.slice(0, 2)).join(' ')
  },

  *smaller(input) {
    for (const bytes of shorterBytes(input.bytes)) yield { ...input, bytes }
    for (const fewer of shorter(input.cuts)) yield { ...input, cuts: fewer }
  },

  write: ({ bytes, ...rest }) => ({ bytes: bytes.toString('hex'), ...rest }),
  read: (json: Omit<Stream, 'bytes'> & { bytes: string }) => ({
    ...json,
    bytes: Buffer.from(json.bytes, 'hex'),
  }),
}

function stream(random: Random): Buffer {
  const version = random.of([3, 4, 5] as const)
  const parts = random.chance(0.9) ? [connectBytes(random, version)] : []
  for (let count = random.below(4); count > 0; count--) {
    parts.push(random.chance(0.3) ? random.of(SEEDS) : packetBytes(random, version))
  }
  const bytes = Buffer.concat(parts)
  return random.chance(0.4) ? mutated(random, bytes, SEEDS) : bytes
}

function frames(input: Stream, chunks: readonly Buffer[]): { seen: string[]; copied: number } {
  const framer = new Framer(input.packetBytesMax)
  framer.controlBytesMax = input.controlBytesMax
  // A PUBLISH in one chunk is left to the decoder.
  framer.propertyBytesMax = input.packetBytesMax
  const seen: string[] = []
  let pushed = 0
  let taken = 0
  try {
    for (const chunk of chunks) {
      framer.push(chunk)
      pushed += chunk.length
      while (framer.next()) {
        seen.push(`${framer.buffer.toString('hex', framer.end - framer.packetBytes, framer.end)}`)
        if (seen.length === 1) framer.version = input.version
        taken += framer.packetBytes
        if (framer.type << 4 !== (framer.buffer[framer.end - framer.packetBytes]! & 0xf0))
          throw new Error('type')
      }
      if (framer.bufferedBytes !== pushed - taken)
        throw new Error(`${framer.bufferedBytes} bytes said to be buffered`)
    }
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error
    seen.push(`refused 0x${error.reasonCode.toString(16)}`)
    expectBroken(framer, error)
  }
  return { seen, copied: framer.bytesCopied }
}

/** After an error nothing is taken or kept any more. */
function expectBroken(framer: Framer, error: ProtocolError): void {
  framer.push(Buffer.from('c000', 'hex'))
  try {
    framer.next()
  } catch (again) {
    if (again === error && framer.bufferedBytes === 0) return
  }
  throw new Error('a framer went on after an error')
}

function plainFrames(input: Stream): string[] {
  const seen: string[] = []
  let at = 0
  try {
    while (at < input.bytes.length) {
      const rest = input.bytes.subarray(at)
      // The first packet is a CONNECT, which is known by its first byte.
      if (at === 0 && rest[0]! >> 4 !== 1) throw new Refusal(0x82, 'no CONNECT')
      const version = at === 0 ? 0 : input.version
      const found = frame(rest, version, input.packetBytesMax, input.controlBytesMax)
      if (found === null) break
      const bytes = found.body.byteOffset - rest.byteOffset + found.body.length
      seen.push(rest.toString('hex', 0, bytes))
      at += bytes
    }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    seen.push(`refused 0x${error.code.toString(16)}`)
  }
  return seen
}
