/**
 * HOT. Writes and reads the bytes of stored values. Integers are little-endian. A `varint` has up to 53 bits,
 * seven per byte, the lowest first.
 */

/** Appends to a buffer that grows. A `view` is valid until the next `clear`. */
export class ByteWriter {
  #bytes: Buffer
  /** Bytes written. */
  length = 0

  constructor(capacityBytes: number) {
    this.#bytes = Buffer.allocUnsafeSlow(capacityBytes)
  }

  /** Makes room for `bytes` more. Each record calls it once, so that single writes need no check. */
  reserve(bytes: number): void {
    const needed = this.length + bytes
    if (needed <= this.#bytes.length) return
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.length * 2))
    this.#bytes.copy(grown, 0, 0, this.length)
    this.#bytes = grown
  }

  u8(value: number): void {
    this.#bytes[this.length++] = value
  }

  u16(value: number): void {
    this.#bytes[this.length++] = value & 0xff
    this.#bytes[this.length++] = value >>> 8
  }

  u32(value: number): void {
    this.length = this.#bytes.writeUInt32LE(value, this.length)
  }

  u48(value: number): void {
    this.length = this.#bytes.writeUIntLE(value, this.length, 6)
  }

  f64(value: number): void {
    this.length = this.#bytes.writeDoubleLE(value, this.length)
  }

  varint(value: number): void {
    let rest = value
    while (rest >= 0x10000000) {
      this.#bytes[this.length++] = (rest % 128) | 0x80
      rest = Math.floor(rest / 128)
    }
    while (rest >= 128) {
      this.#bytes[this.length++] = (rest & 127) | 0x80
      rest >>>= 7
    }
    this.#bytes[this.length++] = rest
  }

  raw(bytes: Buffer): void {
    bytes.copy(this.#bytes, this.length)
    this.length += bytes.length
  }

  /** Writes a length and the bytes. */
  blob(bytes: Buffer): void {
    this.varint(bytes.length)
    this.raw(bytes)
  }

  /** Writes a length and the text as UTF-8. Needs room for `textBytesMax(text)`. */
  text(text: string): void {
    const bytes = Buffer.byteLength(text, 'utf8')
    this.varint(bytes)
    this.length += this.#bytes.write(text, this.length, bytes, 'utf8')
  }

  view(from: number, to: number): Buffer {
    return this.#bytes.subarray(from, to)
  }

  /** Bytes that it can hold before it grows. */
  get capacity(): number {
    return this.#bytes.length
  }

  /** Returns a copy of everything that was written. */
  taken(): Buffer {
    const copy = Buffer.allocUnsafeSlow(this.length)
    this.#bytes.copy(copy, 0, 0, this.length)
    return copy
  }

  /** Starts again from empty. Replaces a buffer that grew beyond `keepBytes`. */
  clear(keepBytes: number): void {
    this.length = 0
    if (this.#bytes.length > keepBytes) this.#bytes = Buffer.allocUnsafeSlow(keepBytes)
  }
}

/** Returns the most bytes that `text` may take in UTF-8, with its length. */
export function textBytesMax(text: string): number {
  return text.length * 3 + 5
}

/** A stored value ends before everything in it was read. */
export class TruncatedError extends Error {
  override readonly name = 'TruncatedError'
}

/** Reads values that ByteWriter wrote. Throws TruncatedError instead of reading over the end. */
export class ByteReader {
  #bytes: Buffer
  at: number
  #end: number

  constructor(bytes: Buffer, from = 0, to = bytes.length) {
    this.#bytes = bytes
    this.at = from
    this.#end = to
  }

  get atEnd(): boolean {
    return this.at >= this.#end
  }

  u8(): number {
    return this.#bytes[this.#advance(1)]!
  }

  u16(): number {
    const at = this.#advance(2)
    return this.#bytes[at]! | (this.#bytes[at + 1]! << 8)
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#advance(4))
  }

  u48(): number {
    return this.#bytes.readUIntLE(this.#advance(6), 6)
  }

  f64(): number {
    return this.#bytes.readDoubleLE(this.#advance(8))
  }

  varint(): number {
    let value = 0
    let factor = 1
    for (;;) {
      const byte = this.u8()
      value += (byte & 127) * factor
      if (byte < 128) return value
      factor *= 128
    }
  }

  /** Returns a view of the stored bytes. */
  blob(): Buffer {
    const length = this.varint()
    const at = this.#advance(length)
    return this.#bytes.subarray(at, at + length)
  }

  /** Skips a blob or text, and returns its length. */
  skip(): number {
    const length = this.varint()
    this.#advance(length)
    return length
  }

  text(): string {
    const length = this.varint()
    const at = this.#advance(length)
    return this.#bytes.toString('utf8', at, at + length)
  }

  #advance(bytes: number): number {
    const at = this.at
    this.at = at + bytes
    if (this.at > this.#end) throw new TruncatedError('a stored value ends too early')
    return at
  }
}
