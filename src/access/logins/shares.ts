/**
 * PURE. Keeps entries by two names, such as address and user name. Finds the name with the most entries, and
 * the entry whose turn it is.
 */
import { Line, type Standing } from './line.ts'

/** Names by the number of their entries, so that the one with the most is found without a search. */
class Lengths {
  readonly #names: Set<string>[] = []

  get largest(): number {
    return Math.max(0, this.#names.length - 1)
  }

  moved(name: string, from: number, to: number): void {
    const names = this.#names
    names[from]?.delete(name)
    while (names.length <= to) names.push(new Set())
    if (to > 0) names[to]!.add(name)
    while (names.length > 0 && names.at(-1)!.size === 0) names.pop()
  }

  /** Returns a name with the most entries; `preferred` if it is one of them. */
  nameOfLargest(preferred: string): string | undefined {
    const names = this.#names.at(-1)
    if (names?.has(preferred) === true) return preferred
    for (const name of names ?? []) return name
    return undefined
  }
}

/** The lines of entries of one outer name, by inner name. */
class Share<E extends Standing> {
  readonly #lines = new Map<string, Line<E>>()
  readonly #lengths = new Lengths()
  length = 0

  push(name: string, entry: E): void {
    let line = this.#lines.get(name)
    if (line === undefined) {
      line = new Line()
      this.#lines.set(name, line)
    }
    line.push(entry)
    this.length++
    this.#lengths.moved(name, line.length - 1, line.length)
  }

  left(name: string): void {
    const line = this.#lines.get(name)!
    line.left()
    this.length--
    if (line.length === 0) this.#lines.delete(name)
    this.#lengths.moved(name, line.length + 1, line.length)
  }

  next(): E | undefined {
    for (const [name, line] of this.#lines) {
      this.#lines.delete(name)
      this.#lines.set(name, line)
      return line.first
    }
    return undefined
  }

  newestOfLargest(preferred: string): E | undefined {
    const name = this.#lengths.nameOfLargest(preferred)
    return name === undefined ? undefined : this.#lines.get(name)?.last
  }
}

/** Lines of entries, by outer and inner name. */
export class Shares<E extends Standing> {
  readonly #shares = new Map<string, Share<E>>()
  readonly #lengths = new Lengths()

  /** The number of entries of the outer name that has the most. */
  get largestLength(): number {
    return this.#lengths.largest
  }

  lengthOf(outer: string): number {
    return this.#shares.get(outer)?.length ?? 0
  }

  push(outer: string, inner: string, entry: E): void {
    let share = this.#shares.get(outer)
    if (share === undefined) {
      share = new Share()
      this.#shares.set(outer, share)
    }
    share.push(inner, entry)
    this.#lengths.moved(outer, share.length - 1, share.length)
  }

  /** Call it for each entry whose `waits` became false. */
  left(outer: string, inner: string): void {
    const share = this.#shares.get(outer)!
    share.left(inner)
    if (share.length === 0) this.#shares.delete(outer)
    this.#lengths.moved(outer, share.length + 1, share.length)
  }

  /** Returns the entry whose turn it is, for the caller to remove. Both of its names go to the end. */
  next(): E | undefined {
    for (const [outer, share] of this.#shares) {
      this.#shares.delete(outer)
      this.#shares.set(outer, share)
      return share.next()
    }
    return undefined
  }

  /** Returns the newest entry of the inner name that has the most entries under this outer name. */
  newestOf(outer: string, inner: string): E | undefined {
    return this.#shares.get(outer)?.newestOfLargest(inner)
  }

  /** The same for the outer name with the most entries of all. The given names are preferred among equals. */
  newestOfLargest(outer: string, inner: string): E | undefined {
    const name = this.#lengths.nameOfLargest(outer)
    return name === undefined ? undefined : this.newestOf(name, inner)
  }
}
