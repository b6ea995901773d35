/**
 * HOT. Copies of large parts of read buffers for readers that are behind. All of these readers share one
 * copy.
 */

/** Copies that are remembered for one buffer. They live as long as it does. */
const COPIES_MAX = 16

/** Remembers copies of parts of buffers. */
export class SharedCopies {
  readonly #copies = new WeakMap<ArrayBufferLike, { readonly from: number; readonly copy: Buffer }[]>()

  /** Returns these bytes in memory of their own, which nobody may change. */
  of(part: Buffer): Buffer {
    const { buffer, byteOffset: from, length } = part
    let copies = this.#copies.get(buffer)
    if (copies === undefined) {
      copies = []
      this.#copies.set(buffer, copies)
    }
    for (let index = copies.length - 1; index >= 0; index--) {
      const known = copies[index]!
      if (known.from === from && known.copy.length === length) return known.copy
    }
    const copy = Buffer.allocUnsafeSlow(length)
    part.copy(copy)
    if (copies.length === COPIES_MAX) copies.shift()
    copies.push({ from, copy })
    return copy
  }
}
