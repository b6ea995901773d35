/** Packets that clients might send: right ones, nearly right ones, and bytes that were packets once. */

import {
  type Version,
  writeBinary,
  writePacket,
  writeString,
  writeUint16,
  writeUint32,
  writeVariable,
} from './plain.ts'
import type { Random } from './random.ts'

const NOTHING = Buffer.alloc(0)

/** How often something in a packet is not as it should be. */
const ODD = 0.02

const TEXTS = [
  'a',
  'b',
  'a/b',
  '',
  '/',
  'a//b',
  '$SYS/x',
  '$share/g/a',
  'größe',
  '\ufeff',
  '𝄞',
  '__proto__',
  'a b',
  '\u0001',
  '\uffff',
  'a'.repeat(130),
]
const FILTERS = [
  '#',
  '+',
  'a/+',
  'a/#',
  '+/b',
  '/+',
  '$share/g/#',
  '$share/g',
  '$share//a',
  '$share/+/a',
  'a#',
  'a/#/b',
  '+a',
]
const BAD_UTF8 = [
  '00',
  '6100',
  'eda080',
  'c080',
  'e080af',
  'f4908080',
  '6180',
  'e298',
  'ff',
  'f0808080',
  'edb080',
].map((hex) => Buffer.from(hex, 'hex'))

/** A length-prefixed string, now and then one that is none. */
function string(random: Random, choices: readonly string[] = TEXTS): Buffer {
  if (random.chance(ODD)) return writeBinary(random.of(BAD_UTF8))
  if (random.chance(ODD))
    return Buffer.concat([writeUint16(random.below(300)), random.bytes(random.below(8))])
  return writeString(random.of(choices))
}

function binary(random: Random): Buffer {
  return writeBinary(random.bytes(random.of([0, 1, 2, 20])))
}

function uint32(random: Random): Buffer {
  return writeUint32(random.of([0, 1, 2, 60, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff]))
}

function uint16(random: Random): Buffer {
  return writeUint16(random.of([0, 1, 1, 2, 3, 10, 255, 256, 65_535]))
}

function variable(random: Random): Buffer {
  if (random.chance(ODD))
    return Buffer.from(random.of(['8000', '808000', '80808000', 'ffffffff01', '8100']), 'hex')
  return writeVariable(random.of([0, 1, 1, 2, 127, 128, 16_383, 16_384, 2_097_152, 268_435_455]))
}

const VALUES: Readonly<Record<number, (random: Random) => Buffer>> = {
  1: flag,
  2: uint32,
  3: string,
  8: string,
  9: binary,
  11: variable,
  17: uint32,
  18: string,
  19: uint16,
  21: string,
  22: binary,
  23: flag,
  24: uint32,
  25: flag,
  26: string,
  28: string,
  31: string,
  33: uint16,
  34: uint16,
  35: uint16,
  36: flag,
  37: flag,
  38: pair,
  39: uint32,
  40: flag,
  41: flag,
  42: flag,
}
const IDENTIFIERS = Object.keys(VALUES).map(Number)

function flag(random: Random): Buffer {
  return Buffer.from([random.chance(ODD) ? random.below(256) : random.below(2)])
}

function pair(random: Random): Buffer {
  return Buffer.concat([string(random), string(random)])
}

/** Properties with their length: mostly those that are allowed, each once. */
function properties(random: Random, allowed: readonly number[], likely = 0.5): Buffer {
  const parts: Buffer[] = []
  for (const id of allowed) {
    const times = id === 38 ? random.of([0, 0, 1, 3]) : random.chance(likely / 2) ? 1 : 0
    for (let count = 0; count < times; count++) parts.push(property(random, id))
  }
  if (random.chance(ODD)) parts.push(property(random, random.of(IDENTIFIERS)))
  if (random.chance(ODD)) parts.push(Buffer.from([random.below(256)]))
  if (random.chance(ODD) && parts.length > 0) parts.push(random.of(parts))
  if (random.chance(0.3)) parts.reverse()
  const bytes = Buffer.concat(parts)
  if (random.chance(ODD)) return Buffer.concat([variable(random), bytes])
  return Buffer.concat([writeVariable(bytes.length), bytes])
}

function property(random: Random, id: number): Buffer {
  return Buffer.concat([Buffer.from([id]), VALUES[id]!(random)])
}

function packetId(random: Random): Buffer {
  return writeUint16(random.chance(ODD) ? 0 : random.of([1, 1, 2, 3, 4, 258, 65_535]))
}

/** A CONNECT of this version. */
export function connectBytes(random: Random, version: Version): Buffer {
  const v5 = version === 5
  const will = random.chance(0.4)
  let flags = (random.chance(0.5) ? 2 : 0) | (will ? 4 : 0)
  if (will) flags |= (random.below(3) << 3) | (random.chance(0.3) ? 0x20 : 0)
  if (random.chance(0.4)) flags |= 0x80
  if ((flags & 0x80) !== 0 || v5) flags |= random.chance(0.4) ? 0x40 : 0
  if (random.chance(ODD)) flags ^= 1 << random.below(8)
  const has = (bit: number): boolean => (flags & bit) !== 0
  const left = random.chance(ODD)
  return writePacket(
    0x10,
    writeString(
      random.chance(ODD)
        ? random.of(['MQTT', 'MQIsdp', 'mqtt', '', 'MQTTT'])
        : version === 3
          ? 'MQIsdp'
          : 'MQTT',
    ),
    Buffer.from([random.chance(ODD) ? random.of([0, 3, 4, 5, 6, 0x83, 0x84, 0x85, 255]) : version, flags]),
    uint16(random),
    v5 ? properties(random, [17, 33, 39, 34, 25, 23, 38, ...(random.chance(0.2) ? [21, 22] : [])]) : NOTHING,
    string(random),
    has(4) && v5 ? properties(random, [1, 2, 3, 8, 9, 24, 38]) : NOTHING,
    has(4) ? Buffer.concat([string(random), binary(random)]) : NOTHING,
    has(0x80) && !left ? string(random) : NOTHING,
    has(0x40) && !left ? binary(random) : NOTHING,
    random.chance(ODD) ? random.bytes(random.between(1, 5)) : NOTHING,
  )
}

/** Any packet but CONNECT. */
export function packetBytes(random: Random, version: Version): Buffer {
  const v5 = version === 5
  const some = (allowed: readonly number[]): Buffer => (v5 ? properties(random, allowed) : NOTHING)
  const tail = random.chance(ODD) ? random.bytes(random.between(1, 5)) : NOTHING
  switch (
    random.weighted([
      [8, 3],
      [4, 4],
      [4, 8],
      [2, 10],
      [1, 12],
      [2, 14],
      [v5 ? 1 : 0, 15],
    ])
  ) {
    case 3: {
      const qos = random.below(3)
      let first = 0x30 | (qos << 1) | random.below(2)
      if (qos > 0 && random.chance(0.3)) first |= 8
      if (random.chance(ODD)) first ^= 1 << random.below(4)
      const id = (first & 6) === 0 ? NOTHING : packetId(random)
      return writePacket(
        first,
        string(random),
        id,
        some([1, 2, 3, 8, 9, 35, 38]),
        random.bytes(random.of([0, 1, 5, 200])),
      )
    }
    case 4: {
      const type = random.between(4, 7)
      const flags = (type === 6 ? 2 : 0) ^ (random.chance(ODD) ? 1 << random.below(4) : 0)
      const code = type < 6 ? random.of([0, 0x80, 0x97, 0x91]) : random.of([0, 0x92])
      const said = Buffer.from([random.chance(ODD) ? random.below(256) : code])
      const rest =
        v5 && random.chance(0.6)
          ? Buffer.concat([said, random.chance(0.6) ? some([31, 38]) : NOTHING])
          : NOTHING
      return writePacket((type << 4) | flags, packetId(random), rest, tail)
    }
    case 8: {
      const first = 0x82 ^ (random.chance(ODD) ? 1 << random.below(4) : 0)
      const filters = Array.from({ length: random.of([1, 1, 1, 2, 5]) }, () =>
        Buffer.concat([
          string(random, random.chance(0.5) ? FILTERS : TEXTS),
          Buffer.from([options(random, v5)]),
        ]),
      )
      const list = random.chance(ODD) ? [] : filters
      return writePacket(first, packetId(random), some([11, 38]), ...list, tail)
    }
    case 10: {
      const first = 0xa2 ^ (random.chance(ODD) ? 1 << random.below(4) : 0)
      const filters = Array.from({ length: random.of([1, 1, 2, 5]) }, () => string(random, FILTERS))
      const list = random.chance(ODD) ? [] : filters
      return writePacket(first, packetId(random), some([38]), ...list, tail)
    }
    case 12:
      return writePacket(0xc0 | (random.chance(ODD) ? random.below(16) : 0), tail)
    case 14: {
      if (!v5 || random.chance(0.3)) return writePacket(0xe0, tail)
      const code = Buffer.from([random.chance(ODD) ? random.below(256) : random.of([0, 4, 0x80, 0x98, 0x99])])
      return writePacket(0xe0, code, random.chance(0.7) ? some([17, 31, 38]) : NOTHING, tail)
    }
    default:
      return writePacket(
        0xf0,
        Buffer.from([random.chance(ODD) ? random.below(256) : random.of([0x18, 0x19])]),
        some([21, 21, 22, 31, 38]),
        tail,
      )
  }
}

function options(random: Random, v5: boolean): number {
  if (random.chance(ODD)) return random.below(256)
  if (!v5) return random.below(3)
  return random.below(3) | (random.below(4) << 2) | (random.below(3) << 4)
}

const INTERESTING = [0, 1, 2, 0x0f, 0x10, 0x20, 0x7f, 0x80, 0x81, 0xc0, 0xed, 0xf0, 0xfe, 0xff]

/** Changes some bytes; `others` is where pieces may come from. */
export function mutated(random: Random, bytes: Buffer, others: readonly Buffer[] = []): Buffer {
  let result = bytes
  for (let count = random.of([1, 1, 2, 4]); count > 0; count--) result = mutatedOnce(random, result, others)
  return result.length > 4096 ? result.subarray(0, 4096) : result
}

function mutatedOnce(random: Random, bytes: Buffer, others: readonly Buffer[]): Buffer {
  const at = random.below(bytes.length + 1)
  const before = bytes.subarray(0, at)
  const after = bytes.subarray(at)
  switch (random.below(9)) {
    case 0:
      return flipped(bytes, at, 1 << random.below(8))
    case 1:
      return changed(bytes, at, random.of(INTERESTING))
    case 2:
      return changed(bytes, at, random.below(256))
    case 3:
      return Buffer.concat([before, random.bytes(random.between(1, 4)), after])
    case 4:
      return Buffer.concat([before, after.subarray(random.between(1, 4))])
    case 5:
      return Buffer.concat([before, after.subarray(0, random.below(20)), after])
    case 6:
      return before
    case 7: {
      const other = others.length === 0 ? bytes : random.of(others)
      return Buffer.concat([before, other.subarray(random.below(other.length + 1))])
    }
    default:
      return withRightLength(bytes)
  }
}

function flipped(bytes: Buffer, at: number, mask: number): Buffer {
  return at < bytes.length ? changed(bytes, at, bytes[at]! ^ mask) : bytes
}

function changed(bytes: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(bytes)
  if (at < copy.length) copy[at] = value
  return copy
}

/** Sets the Remaining Length to the number of bytes that follow it, so that the changes after it are read. */
function withRightLength(bytes: Buffer): Buffer {
  let at = 1
  while (at < Math.min(5, bytes.length) && bytes[at]! >= 128) at++
  return bytes.length === 0 ? bytes : writePacket(bytes[0]!, bytes.subarray(at + 1))
}

/** Cuts bytes into chunks at these positions, which need not be in order. */
export function chunked(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const positions = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  const chunks: Buffer[] = []
  let from = 0
  for (const to of [...positions, bytes.length]) {
    chunks.push(bytes.subarray(from, to))
    from = to
  }
  return chunks
}

/** Where to cut: nowhere, at a few places, or everywhere. */
export function cuts(random: Random, length: number): number[] {
  if (random.chance(0.1) && length <= 300) return Array.from({ length }, (_, at) => at)
  return Array.from({ length: random.of([0, 1, 2, 5]) }, () => random.below(length + 1))
}
