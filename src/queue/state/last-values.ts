/** The newest message of each key of one lane, where a newer message of a key replaces an older one. */
import type { Entry } from './consumer.ts'

/** Memory of a key, without its name. */
const KEY_BYTES = 200

/** The newest message of a key. */
export interface Latest {
  readonly key: string
  readonly sequence: number
  readonly size: number
  /** Null while it is unread. */
  entry: Entry | null
}

export class LastValues {
  readonly #byKey = new Map<string, Latest>()
  readonly #bySequence = new Map<number, Latest>()
  #characters = 0

  get size(): number {
    return this.#byKey.size
  }

  get bytesHeld(): number {
    return KEY_BYTES * this.size + 2 * this.#characters
  }

  get(key: string): Latest | undefined {
    return this.#byKey.get(key)
  }

  /** Takes notice of a newer message. Returns the one that it replaces. */
  set(key: string, sequence: number, size: number, entry: Entry | null): Latest | undefined {
    const older = this.#byKey.get(key)
    if (older === undefined) this.#characters += key.length
    else this.#bySequence.delete(older.sequence)
    const latest = { key, sequence, size, entry }
    this.#byKey.set(key, latest)
    this.#bySequence.set(sequence, latest)
    return older
  }

  /** An unread message got an entry. */
  entered(entry: Entry): void {
    const latest = this.#bySequence.get(entry.sequence)
    if (latest !== undefined) latest.entry = entry
  }

  /** A message is settled. */
  left(sequence: number): void {
    const latest = this.#bySequence.get(sequence)
    if (latest === undefined) return
    this.#bySequence.delete(sequence)
    this.#byKey.delete(latest.key)
    this.#characters -= latest.key.length
  }
}
