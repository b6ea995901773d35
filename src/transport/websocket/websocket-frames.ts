/** HOT. Reads and writes a server's WebSocket frames (RFC 6455 section 5), without collecting messages. */
import { isUtf8 } from 'node:buffer'

/** The opcodes of frames (RFC 6455 section 5.2). */
export const Opcode = { Continuation: 0, Text: 1, Binary: 2, Close: 8, Ping: 9, Pong: 10 } as const

/** The reasons to close a WebSocket (RFC 6455 section 7.4.1). */
export const CloseStatus = {
  Normal: 1000,
  ProtocolError: 1002,
  UnsupportedData: 1003,
  InvalidPayload: 1007,
  TooBig: 1009,
} as const

/** A bit in the first byte of the last frame of a message, and of all control frames. */
export const FIN = 0x80

/** The second byte of a header: a bit that clients must set, and a length, or 126 or 127 for a field. */
const MASKED = 0x80
const LENGTH = 0x7f

/** The longest payload of a control frame (section 5.5). */
const CONTROL_BYTES_MAX = 125

/** The longest header of a client's frame: two bytes, eight of length, four of mask. */
const CLIENT_HEADER_BYTES_MAX = 14

/** The longest header of a server's frame, which has no mask. */
export const HEADER_BYTES_MAX = 10

/** Larger chunks are unmasked in words. Creating the necessary view costs as much as unmasking 100 bytes. */
const WORDS_FROM_BYTES = 160

/** Receives the events of a reader, which reads nothing more after `closing` or `violated`. */
export interface FrameSink {
  /** Bytes of binary messages have arrived. The sink may keep them. */
  payload(bytes: Buffer): void
  pinged(data: Buffer): void
  /** A Close frame has arrived; `status` is null if it has none. */
  closing(status: number | null): void
  /** The peer violated the protocol; the answer is this close status. */
  violated(status: number, message: string): void
}

/**
 * Reads the bytes of a client and passes on the payload of binary messages as it arrives, whatever lengths
 * the frames announce. MQTT packets may be split across frames [MQTT-6.0.0-2], and their reader refuses
 * packets that are too large.
 */
export class FrameReader {
  readonly #sink: FrameSink
  /** The beginning of a header that is split across chunks. */
  readonly #header = Buffer.alloc(CLIENT_HEADER_BYTES_MAX)
  #headerBytes = 0
  #opcode = 0
  /** The mask, little-endian and rotated so that its lowest byte belongs to the next byte of the payload. */
  #mask = 0
  /** Whether a message has begun and its last frame is still to come. */
  #fragmented = false
  /** Bytes of the current frame's payload that are still to come. */
  #remaining = 0
  #control: Buffer | undefined
  /** Bytes of the current control frame that have arrived. */
  #controlBytes = 0
  /** Whether reading is over: after a Close frame, or a violation. */
  #over = false
  /** The current chunk, with a view of it if it is large. */
  #chunk: Buffer | undefined
  #view: DataView | undefined
  /** Payload in the current chunk that is not passed on yet. Payload of several frames is moved together. */
  #start = 0
  #end = 0

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** Reads the next bytes. Changes the chunk, which then belongs to the sink. */
  push(chunk: Buffer): void {
    this.#chunk = chunk
    if (chunk.length >= WORDS_FROM_BYTES) {
      this.#view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length)
    }
    this.#start = 0
    this.#end = 0
    let at = 0
    while (at < chunk.length && !this.#over) {
      at = this.#remaining > 0 ? this.#readPayload(chunk, at) : this.#readHeader(chunk, at)
    }
    this.#passOn()
    this.#chunk = undefined
    this.#view = undefined
  }

  /**
   * Returns the start of the payload; the chunk's end if the header continues in the next chunk or is
   * refused.
   */
  #readHeader(chunk: Buffer, from: number): number {
    if (this.#headerBytes > 0 || chunk.length - from < 2) return this.#gatherHeader(chunk, from)
    const second = chunk[from + 1]!
    if (chunk.length - from < clientHeaderBytes(second)) return this.#gatherHeader(chunk, from)
    if (!this.#checkHeader(chunk[from]!, second)) return chunk.length
    return from + this.#begin(chunk, from)
  }

  #gatherHeader(chunk: Buffer, from: number): number {
    const header = this.#header
    let needed = this.#headerBytes < 2 ? 2 : clientHeaderBytes(header[1]!)
    for (let at = from; at < chunk.length; ) {
      header[this.#headerBytes++] = chunk[at++]!
      if (this.#headerBytes === 2) {
        if (!this.#checkHeader(header[0]!, header[1]!)) break
        needed = clientHeaderBytes(header[1]!)
      } else if (this.#headerBytes === needed) {
        this.#headerBytes = 0
        this.#begin(header, 0)
        return at
      }
    }
    return chunk.length
  }

  /** Checks the first two bytes; returns false if it refuses them. */
  #checkHeader(first: number, second: number): boolean {
    const opcode = first & 0x0f
    const isControl = opcode >= Opcode.Close
    if ((first & 0x70) !== 0) return this.#violated('a reserved bit is set, but no extension was negotiated')
    if (opcode > Opcode.Pong || (opcode > Opcode.Binary && !isControl)) {
      return this.#violated(`opcode ${opcode} is reserved`)
    }
    if ((second & MASKED) === 0) return this.#violated('a client must mask its frames')
    if (isControl && (first & FIN) === 0) return this.#violated('a control frame is fragmented')
    if (isControl && (second & LENGTH) > CONTROL_BYTES_MAX) {
      return this.#violated('a control frame is too long')
    }
    if (opcode === Opcode.Continuation && !this.#fragmented)
      return this.#violated('there is no message to continue')
    if (!isControl && opcode !== Opcode.Continuation && this.#fragmented) {
      return this.#violated('a message begins inside another')
    }
    if (opcode === Opcode.Text) {
      // [MQTT-6.0.0-1] Any other type of data frame closes the Network Connection.
      return this.#refuse(
        CloseStatus.UnsupportedData,
        'a text frame was received; MQTT is sent in binary frames',
      )
    }
    this.#opcode = opcode
    if (!isControl) this.#fragmented = (first & FIN) === 0
    return true
  }

  /** Reads the length and the mask from a complete header. Returns the bytes of the header. */
  #begin(header: Buffer, from: number): number {
    const length = header[from + 1]! & LENGTH
    let at = from + 2
    if (length < 126) this.#remaining = length
    else if (length === 126) {
      this.#remaining = header.readUInt16BE(at)
      at += 2
    } else {
      this.#remaining = header.readUInt32BE(at) * 2 ** 32 + header.readUInt32BE(at + 4)
      at += 8
      if (this.#remaining > Number.MAX_SAFE_INTEGER) {
        this.#refuse(CloseStatus.TooBig, 'a frame of more than 2^53 bytes')
        return at - from
      }
    }
    this.#mask = header.readInt32LE(at)
    if (this.#opcode >= Opcode.Close) {
      this.#control = Buffer.allocUnsafe(this.#remaining)
      this.#controlBytes = 0
      if (this.#remaining === 0) this.#controlled()
    }
    return at + 4 - from
  }

  #readPayload(chunk: Buffer, at: number): number {
    const bytes = Math.min(this.#remaining, chunk.length - at)
    this.#remaining -= bytes
    if (this.#control !== undefined) {
      this.#unmask(chunk, at, bytes, at)
      this.#controlBytes += chunk.copy(this.#control, this.#controlBytes, at, at + bytes)
      if (this.#remaining === 0) this.#controlled()
      return at + bytes
    }
    if (this.#start === this.#end) {
      this.#start = at
      this.#end = at
    }
    this.#unmask(chunk, at, bytes, this.#end)
    this.#end += bytes
    return at + bytes
  }

  /** Unmasks bytes inside the chunk; `to` is `from` or a position before it. */
  #unmask(chunk: Buffer, from: number, bytes: number, to: number): void {
    const mask = this.#mask
    const view = this.#view
    const words = bytes & ~3
    if (view === undefined) {
      for (let i = 0; i < words; i += 4) {
        chunk[to + i] = chunk[from + i]! ^ mask
        chunk[to + i + 1] = chunk[from + i + 1]! ^ (mask >> 8)
        chunk[to + i + 2] = chunk[from + i + 2]! ^ (mask >> 16)
        chunk[to + i + 3] = chunk[from + i + 3]! ^ (mask >> 24)
      }
    } else {
      for (let i = 0; i < words; i += 4) view.setInt32(to + i, view.getInt32(from + i, true) ^ mask, true)
    }
    for (let i = words; i < bytes; i++) chunk[to + i] = chunk[from + i]! ^ (mask >> ((i - words) * 8))
    // The frame may continue in the next chunk, so rotate the mask to its next byte.
    const turned = (bytes & 3) * 8
    if (turned !== 0) this.#mask = (mask >>> turned) | (mask << (32 - turned))
  }

  /** Handles a complete control frame. */
  #controlled(): void {
    const data = this.#control!
    this.#control = undefined
    if (this.#opcode === Opcode.Ping) this.#sink.pinged(data)
    else if (this.#opcode === Opcode.Close) this.#closed(data)
  }

  /** Reads a Close frame: nothing, or a status and a reason (section 5.5.1). */
  #closed(data: Buffer): void {
    const status = data.length >= 2 ? data.readUInt16BE(0) : null
    if (data.length === 1 || (status !== null && !isSendable(status))) {
      this.#violated('a Close frame without a valid status')
      return
    }
    if (!isUtf8(data.subarray(2))) {
      this.#refuse(CloseStatus.InvalidPayload, 'the reason in a Close frame is not UTF-8')
      return
    }
    this.#over = true
    this.#passOn()
    this.#sink.closing(status)
  }

  #violated(message: string): false {
    return this.#refuse(CloseStatus.ProtocolError, `invalid WebSocket frame: ${message}`)
  }

  #refuse(status: number, message: string): false {
    this.#over = true
    this.#remaining = 0
    this.#passOn()
    this.#sink.violated(status, message)
    return false
  }

  /** Passes on the payload of this chunk so far. */
  #passOn(): void {
    if (this.#start === this.#end) return
    const bytes = this.#chunk!.subarray(this.#start, this.#end)
    this.#start = this.#end
    this.#sink.payload(bytes)
  }
}

/** Returns a complete frame in one buffer. `first` is the opcode, with or without FIN. */
export function frame(first: number, payload: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES_MAX + payload.length)
  payload.copy(bytes, HEADER_BYTES_MAX)
  return bytes.subarray(writeHeader(bytes, HEADER_BYTES_MAX, first, payload.length))
}

/**
 * Writes the header of a server's frame, without a mask, in front of its payload. Returns the start of the
 * header, at most `HEADER_BYTES_MAX` before the payload. `first` is the opcode, with or without FIN.
 */
export function writeHeader(
  target: Buffer,
  payloadStart: number,
  first: number,
  payloadBytes: number,
): number {
  if (payloadBytes < 126) {
    target[payloadStart - 2] = first
    target[payloadStart - 1] = payloadBytes
    return payloadStart - 2
  }
  if (payloadBytes < 65_536) {
    target[payloadStart - 4] = first
    target[payloadStart - 3] = 126
    target.writeUInt16BE(payloadBytes, payloadStart - 2)
    return payloadStart - 4
  }
  target[payloadStart - 10] = first
  target[payloadStart - 9] = 127
  target.writeUInt32BE(Math.floor(payloadBytes / 2 ** 32), payloadStart - 8)
  target.writeUInt32BE(payloadBytes >>> 0, payloadStart - 4)
  return payloadStart - 10
}

/** Returns a Close frame; with status null it answers a Close frame without one. */
export function closeFrame(status: number | null, reason = ''): Buffer {
  if (status === null) return frame(FIN | Opcode.Close, Buffer.alloc(0))
  const data = Buffer.from(`\0\0${reason}`)
  data.writeUInt16BE(status)
  return frame(FIN | Opcode.Close, data)
}

/** Returns the length of a client's header, which its second byte determines. */
function clientHeaderBytes(second: number): number {
  const length = second & LENGTH
  return length === 127 ? 14 : length === 126 ? 8 : 6
}

/** Whether a Close frame may contain this status (section 7.4). */
function isSendable(status: number): boolean {
  if (status >= 3000) return status < 5000
  return status >= 1000 && status <= 1014 && status !== 1004 && status !== 1005 && status !== 1006
}
