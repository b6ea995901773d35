/**
 * HOT, PURE. Computes a digest of an Application Message. It tells a repeated QoS 2 PUBLISH from another
 * message with the same packet identifier.
 *
 * It covers Topic Name, RETAIN, the forwarded properties and the payload, but not DUP, Topic Alias and
 * Message Expiry Interval, which may differ when the same message is sent again. Digests are compared
 * within one Session only. A client that made two messages collide would lose one of its own, so 48 good
 * bits without a key are enough.
 */
import type { Topic } from './message.ts'
import type { PublishPacket } from './packet.ts'

const HIGH = 0x1_0000_0000

/** Computes a digest from 1 to 2^48 - 1; 0 stands for an unknown one. */
export function messageDigest(packet: PublishPacket, topic: Topic): number {
  const { bytes } = topic
  const { properties, buffer } = packet
  // Each part starts from the digest so far and ends with its length: bytes that move between parts change
  // the digest.
  let digest = mixed(bytes, 0, bytes.length, packet.retain ? 1 : 0)
  if (properties.length > 0) digest = mixed(properties, 0, properties.length, digest)
  digest = mixed(buffer, packet.payloadStart, packet.end, digest)
  return digest === 0 ? 1 : digest
}

/** Mixes bytes into 48 bits, in two lanes after MurmurHash3; `before` is the digest so far. */
function mixed(bytes: Buffer, from: number, to: number, before: number): number {
  let low = before | 0
  let high = (before / HIGH) | 0
  let at = from
  for (; at < to; at += 4) {
    let word = bytes[at]!
    if (at + 4 <= to) {
      word |= (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
    } else {
      for (let index = at + 1, shift = 8; index < to; index++, shift += 8) word |= bytes[index]! << shift
    }
    const a = Math.imul(word, 0xcc9e2d51)
    low ^= Math.imul((a << 15) | (a >>> 17), 0x1b873593)
    low = (Math.imul((low << 13) | (low >>> 19), 5) + 0xe6546b64) | 0
    const b = Math.imul(word, 0x38b34ae5)
    high ^= Math.imul((b << 16) | (b >>> 16), 0xa1e38b93)
    high = (Math.imul((high << 17) | (high >>> 15), 5) + low) | 0
  }
  low = finished(low ^ (to - from))
  high = finished(high ^ low)
  return (high & 0xffff) * HIGH + (low >>> 0)
}

function finished(value: number): number {
  let bits = value
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return bits ^ (bits >>> 16)
}
