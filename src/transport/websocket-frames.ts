/** HOT. WebSocket frames (RFC 6455 section 5) as a server reads and writes them: a message is never collected. */
import { isUtf8 } from 'node:buffer'

export const Opcode = { Continuation: 0, Text: 1, Binary: 2, Close: 8, Ping: 9, Pong: 10 } as const

/** Why a WebSocket is closed (RFC 6455 section 7.4.1). */
export const CloseStatus = {
  Normal: 1000,
  ProtocolError: 1002,
  UnsupportedData: 1003,
  InvalidPayload: 1007,
  TooBig: 1009,
} as const

/** Stands in the first byte of the last frame of a message, and of all control frames. */
export const FIN = 0x80

/** Payload of a control frame in bytes (section 5.5). */
const CONTROL_BYTES_MAX = 125

/** Two bytes, eight of length, four of mask. */
const HEADER_BYTES_MAX = 14

/** What a reader is told about. After `closing` or `violated` it reads nothing any more. */
export interface FrameSink {
  /** Bytes of binary messages, as far as they arrived. Theirs from now on. */
  payload(bytes: Buffer): void
  pinged(data: Buffer): void
  /** A Close frame; `status` is null where it has none. */
  closing(status: number | null): void
  /** The peer may not send that; it is to be told the close status. */
  violated(status: number, message: string): void
}

/**
 * Takes the bytes of a client and hands on the payload of its binary messages as it comes, whatever lengths the
 * frames announce: MQTT packets know no frames [MQTT-6.0.0-2], and who reads them refuses what is too large.
 */
export class FrameReader {
  readonly #sink: FrameSink
  readonly #header = Buffer.alloc(HEADER_BYTES_MAX)
  #headerBytes = 0
  /** As far as the bytes of the header that are there tell. */
  #headerBytesNeeded = 2
  #opcode = 0
  /** A message has begun whose last frame has not. */
  #fragmented = false
  /** Payload of the frame under way in bytes: what is to come, and what has come. */
  #remaining = 0
  #offset = 0
  /** Payload of the control frame under way. */
  #control: Buffer | undefined
  #over = false
  /** Payload in the current chunk that was not handed on yet; that of several frames is moved together. */
  #chunk: Buffer | undefined
  #start = 0
  #end = 0

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** Reads the next bytes. The chunk is changed, and belongs to the sink afterwards. */
  push(chunk: Buffer): void {
    this.#chunk = chunk
    this.#start = 0
    this.#end = 0
    let at = 0
    while (at < chunk.length && !this.#over) {
      at = this.#remaining > 0 ? this.#readPayload(chunk, at) : this.#readHeader(chunk, at)
    }
    this.#handOn()
    this.#chunk = undefined
  }

  #readHeader(chunk: Buffer, from: number): number {
    let at = from
    while (this.#headerBytes < this.#headerBytesNeeded) {
      if (at === chunk.length) return at
      this.#header[this.#headerBytes++] = chunk[at++]!
      if (this.#headerBytes !== 2) continue
      if (!this.#checkHeader(this.#header[0]!, this.#header[1]!)) return at
    }
    this.#headerBytes = 0
    this.#headerBytesNeeded = 2
    this.#begin()
    return at
  }

  /** The first two bytes; false when they are refused. */
  #checkHeader(first: number, second: number): boolean {
    const opcode = first & 0x0f
    const length = second & 0x7f
    const isControl = opcode >= Opcode.Close
    if ((first & 0x70) !== 0) return this.#violated('a reserved bit is set, and no extension was agreed on')
    if (opcode > Opcode.Pong || (opcode > Opcode.Binary && !isControl)) {
      return this.#violated(`opcode ${opcode} is reserved`)
    }
    if ((second & 0x80) === 0) return this.#violated('a client has to mask its frames')
    if (isControl && (first & FIN) === 0) return this.#violated('a control frame is fragmented')
    if (isControl && length > CONTROL_BYTES_MAX) return this.#violated('a control frame is too long')
    if (opcode === Opcode.Continuation && !this.#fragmented)
      return this.#violated('nothing is to be continued')
    if (!isControl && opcode !== Opcode.Continuation && this.#fragmented) {
      return this.#violated('a message begins inside another')
    }
    if (opcode === Opcode.Text) {
      // [MQTT-6.0.0-1] any other type of data frame closes the Network Connection.
      return this.#refuse(
        CloseStatus.UnsupportedData,
        'a text frame was received; MQTT is sent in binary frames',
      )
    }
    this.#opcode = opcode
    if (!isControl) this.#fragmented = (first & FIN) === 0
    this.#headerBytesNeeded = length === 127 ? 14 : length === 126 ? 8 : 6
    return true
  }

  /** The header is whole: its length tells what follows. */
  #begin(): void {
    const header = this.#header
    const length = header[1]! & 0x7f
    this.#offset = 0
    if (length < 126) this.#remaining = length
    else if (length === 126) this.#remaining = header.readUInt16BE(2)
    else {
      this.#remaining = header.readUInt32BE(2) * 2 ** 32 + header.readUInt32BE(6)
      if (this.#remaining > Number.MAX_SAFE_INTEGER) {
        this.#refuse(CloseStatus.TooBig, 'a frame of more than 2^53 bytes')
        return
      }
    }
    if (this.#opcode < Opcode.Close) return
    this.#control = Buffer.allocUnsafe(this.#remaining)
    if (this.#remaining === 0) this.#controlled()
  }

  #readPayload(chunk: Buffer, at: number): number {
    const bytes = Math.min(this.#remaining, chunk.length - at)
    if (this.#control === undefined) {
      if (this.#start === this.#end) {
        this.#start = at
        this.#end = at
      }
      this.#unmask(chunk, at, bytes, chunk, this.#end)
      this.#end += bytes
    } else this.#unmask(chunk, at, bytes, this.#control, this.#offset)
    this.#offset += bytes
    this.#remaining -= bytes
    if (this.#remaining === 0 && this.#control !== undefined) this.#controlled()
    return at + bytes
  }

  /** `target` may be the chunk itself, at or before the place that is read. */
  #unmask(chunk: Buffer, from: number, bytes: number, target: Buffer, targetFrom: number): void {
    const header = this.#header
    // The mask ends the header, and goes on where the part of the payload before this one stopped.
    const length = header[1]! & 0x7f
    const mask = length === 127 ? 10 : length === 126 ? 4 : 2
    const phase = this.#offset & 3
    const m0 = header[mask + phase]!
    const m1 = header[mask + ((phase + 1) & 3)]!
    const m2 = header[mask + ((phase + 2) & 3)]!
    const m3 = header[mask + ((phase + 3) & 3)]!
    const whole = bytes & ~3
    let to = targetFrom
    let at = from
    for (const end = from + whole; at < end; at += 4, to += 4) {
      target[to] = chunk[at]! ^ m0
      target[to + 1] = chunk[at + 1]! ^ m1
      target[to + 2] = chunk[at + 2]! ^ m2
      target[to + 3] = chunk[at + 3]! ^ m3
    }
    const rest = bytes - whole
    if (rest > 0) target[to] = chunk[at]! ^ m0
    if (rest > 1) target[to + 1] = chunk[at + 1]! ^ m1
    if (rest > 2) target[to + 2] = chunk[at + 2]! ^ m2
  }

  /** A control frame is whole. */
  #controlled(): void {
    const data = this.#control!
    this.#control = undefined
    if (this.#opcode === Opcode.Ping) this.#sink.pinged(data)
    else if (this.#opcode === Opcode.Close) this.#closed(data)
  }

  /** Section 5.5.1: nothing, or a status and a reason. */
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
    this.#handOn()
    this.#sink.closing(status)
  }

  #violated(message: string): false {
    return this.#refuse(CloseStatus.ProtocolError, `invalid WebSocket frame: ${message}`)
  }

  #refuse(status: number, message: string): false {
    this.#over = true
    this.#remaining = 0
    this.#handOn()
    this.#sink.violated(status, message)
    return false
  }

  #handOn(): void {
    if (this.#start === this.#end) return
    const bytes = this.#chunk!.subarray(this.#start, this.#end)
    this.#start = this.#end
    this.#sink.payload(bytes)
  }
}

/** The header of a frame that a server sends: without a mask. `first` is the opcode, with FIN or without. */
export function frameHeader(first: number, payloadBytes: number): Buffer {
  const header = Buffer.allocUnsafe(headerBytes(payloadBytes))
  writeHeader(header, first, payloadBytes)
  return header
}

/** A whole frame in one buffer. `first` is the opcode, with FIN or without. */
export function frame(first: number, payload: Buffer): Buffer {
  const header = headerBytes(payload.length)
  const bytes = Buffer.allocUnsafe(header + payload.length)
  writeHeader(bytes, first, payload.length)
  payload.copy(bytes, header)
  return bytes
}

/** A Close frame; `status` null answers one that has none. */
export function closeFrame(status: number | null, reason = ''): Buffer {
  if (status === null) return frame(FIN | Opcode.Close, Buffer.alloc(0))
  const data = Buffer.from(`\0\0${reason}`)
  data.writeUInt16BE(status)
  return frame(FIN | Opcode.Close, data)
}

function headerBytes(payloadBytes: number): number {
  return payloadBytes < 126 ? 2 : payloadBytes < 65_536 ? 4 : 10
}

function writeHeader(target: Buffer, first: number, payloadBytes: number): void {
  target[0] = first
  if (payloadBytes < 126) {
    target[1] = payloadBytes
  } else if (payloadBytes < 65_536) {
    target[1] = 126
    target.writeUInt16BE(payloadBytes, 2)
  } else {
    target[1] = 127
    target.writeUInt32BE(Math.floor(payloadBytes / 2 ** 32), 2)
    target.writeUInt32BE(payloadBytes >>> 0, 6)
  }
}

/** Section 7.4: those that may stand in a Close frame. */
function isSendable(status: number): boolean {
  if (status >= 3000) return status < 5000
  return status >= 1000 && status <= 1014 && status !== 1004 && status !== 1005 && status !== 1006
}
