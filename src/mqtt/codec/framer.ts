/**
 * HOT. Cuts chunks of bytes into whole Control Packets (section 2.1), and refuses some before it keeps
 * anything.
 */
import {
  illegal,
  malformed,
  VARIABLE_BYTE_INTEGER_MAX,
  variableByteIntegerBytes,
  writeVariableByteInteger,
} from '../field.ts'
import type { Leniences } from '../lenience.ts'
import type { Topic } from '../message.ts'
import type { ProtocolVersion } from '../packet.ts'
import { PacketType } from '../packet-type.ts'
import { ProtocolError, Reason } from '../reason.ts'

const EMPTY = Buffer.alloc(0)

/** Shared and always empty, since chunks rarely wait. */
const NONE_WAITING: Buffer[] = []

/**
 * Initial room for a packet that spans chunks; it doubles from there, so memory follows the bytes that
 * arrived.
 */
const COLLECT_BYTES_MIN = 1024

/** Defaults of `controlBytesMax` and `propertyBytesMax`. */
const CONTROL_BYTES_MAX = 1024 * 1024

const PROPERTY_BYTES_MAX = 64 * 1024

const HEADER_PARTIAL = 0
const HEADER_WHOLE = 1
/** The properties are known not to be too long, or absent. A PUBLISH that spans chunks is checked early. */
const PROPERTIES_CHECKED = 2

/**
 * Cuts the bytes of a client into packets. Pull style: `push` a chunk, then call `next` until it returns
 * false. While it has returned true, `buffer[start..end)` is the packet's body; the whole packet is
 * `buffer[end - packetBytes..end)`.
 *
 * A packet that lies in one chunk is a view of it. One that spans chunks is collected in a buffer that
 * doubles, so that the work is linear in the bytes and the memory is bounded by the bytes that arrived, not
 * by the announced length.
 */
export class Framer {
  /** Largest packet in bytes, fixed header included. May be changed between packets. */
  packetBytesMax: number
  /**
   * Largest packet other than PUBLISH. The standard would allow 256 MiB of Topic Filters or User
   * Properties, before authentication; a MiB is room for 25,000 filters of 40 bytes, and takes little time
   * to decode.
   */
  controlBytesMax = CONTROL_BYTES_MAX
  /**
   * Largest properties of a packet or Will, in bytes. Each may become an object, and 64 KiB may hold
   * 13,000.
   */
  propertyBytesMax = PROPERTY_BYTES_MAX
  /** The client's protocol version; 0, as strict as 5, until it is known. */
  version: ProtocolVersion | 0 = 0
  /** Rules that the client may break; null, as usual, for none. */
  leniences: Leniences | null = null
  buffer: Buffer = EMPTY
  type = 0
  flags = 0
  start = 0
  end = 0
  packetBytes = 0
  /** The Topic Name of the latest PUBLISH: publishers repeat themselves. */
  latestTopic: Topic | null = null
  /** Bytes copied so far because packets spanned chunks. */
  bytesCopied = 0

  #bufferedBytes = 0
  #error: ProtocolError | null = null
  #greeted = false
  #chunk: Buffer = EMPTY
  #at = 0
  #waiting: Buffer[] = NONE_WAITING
  #waitingHead = 0
  /** Bytes of the current packet's fixed header seen so far. */
  #headerBytes = 0
  /** Progress with the current packet. */
  #known: typeof HEADER_PARTIAL | typeof HEADER_WHOLE | typeof PROPERTIES_CHECKED = HEADER_PARTIAL
  #remaining = 0
  /** A packet that spans chunks, fixed header included; null while there is none. */
  #collected: Buffer | null = null
  #collectedBytes = 0

  constructor(packetBytesMax: number) {
    this.packetBytesMax = packetBytesMax
  }

  /** Pushed bytes that were not yet returned as part of a packet. */
  get bufferedBytes(): number {
    return this.#bufferedBytes
  }

  /** Memory for these bytes: a packet that spans chunks may take twice its size. */
  get memoryBytes(): number {
    const collected = this.#collected
    if (collected === null) return this.#bufferedBytes
    return this.#bufferedBytes - this.#collectedBytes + collected.length
  }

  /** Drops all pushed bytes. No more packets are made of them. */
  discard(): void {
    this.#chunk = EMPTY
    this.#at = 0
    this.#waiting = NONE_WAITING
    this.#waitingHead = 0
    this.#collected = null
    this.#bufferedBytes = 0
    this.buffer = EMPTY
  }

  /** Takes the next bytes. The chunk must not be changed while packets from it are in use. */
  push(chunk: Buffer): void {
    if (this.#error !== null || chunk.length === 0) return
    this.#bufferedBytes += chunk.length
    if (this.#at === this.#chunk.length) {
      this.#chunk = chunk
      this.#at = 0
    } else {
      if (this.#waiting === NONE_WAITING) this.#waiting = [chunk]
      else this.#waiting.push(chunk)
    }
  }

  /**
   * Copies the rest of the chunks and drops the current packet, so that a client that waits does not keep
   * memory that others read into.
   */
  detach(): void {
    const left = this.#chunk.length - this.#at
    this.#chunk = left === 0 ? EMPTY : Buffer.from(this.#chunk.subarray(this.#at))
    this.#at = 0
    this.bytesCopied += left
    this.buffer = EMPTY
    for (let index = this.#waitingHead; index < this.#waiting.length; index++) {
      this.#waiting[index] = Buffer.from(this.#waiting[index]!)
      this.bytesCopied += this.#waiting[index]!.length
    }
  }

  /**
   * Goes to the next whole packet; false when more bytes are needed. Throws ProtocolError, and throws it
   * again on every further call: after a malformed header the start of the next packet is unknown.
   */
  next(): boolean {
    if (this.#error !== null) throw this.#error
    if (this.#headerBytes === 0) {
      const chunk = this.#chunk
      const at = this.#at
      const left = chunk.length - at
      if (left >= 2) {
        const length = chunk[at + 1]!
        if (length < 0x80 && left - 2 >= length) {
          this.#header(chunk[at]!)
          this.#checkSize(length + 2)
          this.buffer = chunk
          this.start = at + 2
          this.end = at + 2 + length
          return this.#deliver(length + 2, at + 2 + length)
        }
      }
    }
    return this.#nextSlowly()
  }

  #nextSlowly(): boolean {
    for (;;) {
      if (this.#at === this.#chunk.length && !this.#advance()) {
        this.buffer = EMPTY
        return false
      }
      if (this.#known === HEADER_PARTIAL) {
        this.#headerByte(this.#chunk[this.#at++]!)
        if ((this.#known as number) === HEADER_PARTIAL || this.#remaining > 0) continue
      }
      if (this.#body()) return true
    }
  }

  /** Takes the next chunk in place of the used one; false when there is none. */
  #advance(): boolean {
    const chunk = this.#waiting[this.#waitingHead]
    this.#chunk = chunk ?? EMPTY
    this.#at = 0
    if (chunk === undefined) return false
    this.#waiting[this.#waitingHead++] = EMPTY
    if (this.#waitingHead === this.#waiting.length) {
      this.#waiting = NONE_WAITING
      this.#waitingHead = 0
    }
    return true
  }

  /** Reads one byte of the fixed header and checks it at once. */
  #headerByte(byte: number): void {
    const index = this.#headerBytes++
    if (index === 0) {
      this.#remaining = 0
      this.#header(byte)
      return
    }
    this.#remaining |= (byte & 0x7f) << (7 * (index - 1))
    if (byte >= 0x80) {
      if (index === 4) {
        throw this.#break(malformed('1.5.5', 'the Remaining Length has more than four bytes'))
      }
      return
    }
    if (byte === 0 && index > 1) {
      throw this.#break(malformed('MQTT-1.5.5-1', 'the Remaining Length is longer than it needs to be'))
    }
    const packetBytes = index + 1 + this.#remaining
    this.#checkSize(packetBytes)
    this.#known = HEADER_WHOLE
  }

  /** Checks a packet's size before any of its body is kept. */
  #checkSize(packetBytes: number): void {
    if (packetBytes > this.packetBytesMax) throw this.#tooLarge(packetBytes)
    if (packetBytes > this.controlBytesMax && this.type !== PacketType.Publish) {
      throw this.#controlTooLarge(packetBytes)
    }
  }

  /** Checks the first byte: type and flags. */
  #header(byte: number): void {
    this.type = byte >> 4
    this.flags = byte & 0x0f
    if (!this.#greeted) {
      // Refused at the first byte: a client of another protocol may never send a second one that we
      // understand.
      if (this.type !== PacketType.Connect) {
        throw this.#break(illegal('MQTT-3.1.0-1', 'the first packet is not a CONNECT'))
      }
      this.#greeted = true
    }
    if (HEADERS[byte] !== ALLOWED) this.#checkHeader(byte)
    if (this.type === PacketType.Auth && (this.version === 3 || this.version === 4)) {
      throw this.#break(malformed('2.2.1', 'packet type 15 is reserved before 5.0'))
    }
  }

  #checkHeader(byte: number): void {
    if (this.version === 3 && isUnusedIn31(byte)) return
    // PUBREL, SUBSCRIBE and UNSUBSCRIBE: their reserved flags are not all 0.
    const mayBeAllowed = HEADERS[byte] === RESERVED_FLAGS && HEADERS[(byte & 0xf0) | 2] === ALLOWED
    if (mayBeAllowed && this.leniences?.use('header-flags') === true) return
    switch (HEADERS[byte]) {
      case SERVER_ONLY:
        throw this.#break(illegal('4.13', `packet type ${this.type} is sent by Servers only`))
      case QOS_3:
        throw this.#break(malformed('MQTT-3.3.1-4', 'a PUBLISH has both QoS bits set'))
      case TYPE_0:
        throw this.#break(malformed('2.1.2', 'packet type 0 is forbidden'))
      default:
        throw this.#break(malformed('MQTT-2.1.3-1', `reserved flags of packet type ${this.type} are wrong`))
    }
  }

  /** Takes the part of the body that is in the chunk; true when the packet is whole. */
  #body(): boolean {
    const chunk = this.#chunk
    const left = chunk.length - this.#at
    const packetBytes = this.#headerBytes + this.#remaining
    if (this.#collected === null) {
      // A view needs the fixed header in the same chunk, so that the packet is whole in `buffer`.
      if (left >= this.#remaining && this.#at >= this.#headerBytes) {
        this.buffer = chunk
        this.start = this.#at
        this.end = this.#at + this.#remaining
        return this.#deliver(packetBytes, this.end)
      }
      this.#collected = Buffer.allocUnsafe(Math.min(packetBytes, COLLECT_BYTES_MIN))
      if (this.type !== PacketType.Publish || this.version !== 5) this.#known = PROPERTIES_CHECKED
      this.#collected[0] = (this.type << 4) | this.flags
      this.#collectedBytes = writeVariableByteInteger(this.#collected, 1, this.#remaining)
    }
    const wanted = Math.min(left, packetBytes - this.#collectedBytes)
    this.#reserve(this.#collectedBytes + wanted, packetBytes)
    const collected = this.#collected!
    chunk.copy(collected, this.#collectedBytes, this.#at, this.#at + wanted)
    this.bytesCopied += wanted
    this.#collectedBytes += wanted
    this.#at += wanted
    if (this.#known === HEADER_WHOLE) this.#checkProperties(collected, packetBytes)
    if (this.#collectedBytes < packetBytes) return false
    this.#collected = null
    this.buffer = collected
    this.start = this.#headerBytes
    this.end = packetBytes
    return this.#deliver(packetBytes, this.#at)
  }

  /** Checks a PUBLISH that spans chunks once its Property Length is there; `decode` finds malformed ones. */
  #checkProperties(collected: Buffer, packetBytes: number): void {
    const end = this.#collectedBytes
    const topicAt = this.#headerBytes + 2
    if (topicAt > end) return
    const packetIdBytes = (this.flags & 6) === 0 ? 0 : 2
    const topicBytes = (collected[topicAt - 2]! << 8) | collected[topicAt - 1]!
    let at = topicAt + topicBytes + packetIdBytes
    let bytes = 0
    for (let shift = 0; shift < 28; shift += 7, at++) {
      if (at >= end) return
      bytes |= (collected[at]! & 0x7f) << shift
      if (collected[at]! < 0x80) break
    }
    this.#known = PROPERTIES_CHECKED
    if (at + 1 + bytes > packetBytes || bytes <= this.propertyBytesMax) return
    throw this.#break(propertiesTooLong(bytes, this.propertyBytesMax))
  }

  /** Makes room for `bytes`, but not for more than the packet needs. */
  #reserve(bytes: number, packetBytes: number): void {
    const collected = this.#collected!
    if (bytes <= collected.length) return
    const larger = Buffer.allocUnsafe(Math.min(packetBytes, Math.max(bytes, collected.length * 2)))
    collected.copy(larger, 0, 0, this.#collectedBytes)
    this.bytesCopied += this.#collectedBytes
    this.#collected = larger
  }

  #deliver(packetBytes: number, at: number): boolean {
    this.packetBytes = packetBytes
    this.#at = at
    this.#headerBytes = 0
    this.#known = HEADER_PARTIAL
    this.#bufferedBytes -= packetBytes
    return true
  }

  #tooLarge(packetBytes: number): ProtocolError {
    const message = `a packet of ${packetBytes} bytes exceeds the maximum of ${this.packetBytesMax}`
    return this.#break(new ProtocolError(Reason.PacketTooLarge, '3.2.2.3.6', message, 'packetBytesMax'))
  }

  #controlTooLarge(packetBytes: number): ProtocolError {
    const bytesMax = this.controlBytesMax
    const message = `a packet of type ${this.type} has ${packetBytes} bytes, more than ${bytesMax}`
    return this.#break(new ProtocolError(Reason.QuotaExceeded, '4.13', message, 'controlPacketBytesMax'))
  }

  /** Drops everything but the error, which it returns for the caller to throw. */
  #break(error: ProtocolError): ProtocolError {
    this.#error = error
    this.discard()
    return error
  }
}

/** Properties beyond `propertyBytesMax` (0x97): a value to throw. */
export function propertiesTooLong(bytes: number, bytesMax: number): ProtocolError {
  const message = `the properties of a packet have ${bytes} bytes, more than ${bytesMax}`
  return new ProtocolError(Reason.QuotaExceeded, '4.13', message, 'propertyBytesMax')
}

/** The largest packet that the standard can express: Remaining Length and its header of five bytes. */
export const PACKET_BYTES_MAX =
  VARIABLE_BYTE_INTEGER_MAX + 1 + variableByteIntegerBytes(VARIABLE_BYTE_INTEGER_MAX)

const ALLOWED = 0
const TYPE_0 = 1
const RESERVED_FLAGS = 2
const QOS_3 = 3
const SERVER_ONLY = 4

/** Verdicts on the first byte of a client's packet (table 2-2). */
const HEADERS = Uint8Array.from({ length: 256 }, (_, byte) => {
  const flags = byte & 0x0f
  switch (byte >> 4) {
    case 0:
      return TYPE_0
    case PacketType.Publish:
      return (flags & 6) === 6 ? QOS_3 : ALLOWED
    case PacketType.Connack:
    case PacketType.Suback:
    case PacketType.Unsuback:
    case PacketType.Pingresp:
      return SERVER_ONLY
    case PacketType.Pubrel:
    case PacketType.Subscribe:
    case PacketType.Unsubscribe:
      return flags === 2 ? ALLOWED : RESERVED_FLAGS
    default:
      return flags === 0 ? ALLOWED : RESERVED_FLAGS
  }
})

/**
 * Tells whether the flags are wrong only in bits that 3.1 does not use: DUP, QoS and RETAIN of
 * acknowledgements, PINGREQ and DISCONNECT; RETAIN of PUBREL, SUBSCRIBE and UNSUBSCRIBE, which it sends
 * again with DUP. CONNECT is checked before its version is known.
 */
function isUnusedIn31(byte: number): boolean {
  if (HEADERS[byte] !== RESERVED_FLAGS) return false
  const type = byte >> 4
  if (type === PacketType.Connect || type === PacketType.Auth) return false
  if (HEADERS[byte & 0xf0] === ALLOWED) return true
  return (byte & 6) === 2
}
