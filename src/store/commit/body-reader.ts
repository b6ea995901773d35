/** Reads bodies that were evicted from memory back from disk, and evicts them again when memory is short. */
import type { Message } from '../../mqtt/message.ts'
import { storeError } from '../files/failure.ts'
import type { StoreDatabase } from '../files/store-database.ts'
import { ByteReader } from '../format/encoding.ts'
import { corrupt, LOSS } from '../format/format.ts'
import { readPageHeader } from '../format/journal-page.ts'
import { copiedBytes, readBody } from '../format/journal-record.ts'
import type { BodyIndex } from '../journal/body-index.ts'
import { TopicCache } from '../journal/topic-cache.ts'
import type { StoreFigures } from '../store.ts'
import type { CommitProgress } from './commit-progress.ts'

/** Pages that one step of `restore` reads. */
const RESTORE_PAGES = 64
const TOPICS_MAX = 4096

/** Messages that were read back together. */
interface RestoredGroup {
  readonly messages: readonly Message[]
  /** The newest sealed block of that time. */
  readonly sequence: number
}

/** A message to be read back, and where its body lay when that began. */
interface Wanted {
  readonly message: Message
  readonly offset: number
}

/** Returns whether bodies and entries of queues take more memory than they may. */
export function exceedsMemory(figures: Readonly<StoreFigures>, residentBytesMax: number): boolean {
  return figures.residentBytes + figures.entryBytes > residentBytesMax
}

export class BodyReader {
  readonly #database: StoreDatabase
  readonly #bodies: BodyIndex
  readonly #progress: CommitProgress
  readonly #figures: Readonly<StoreFigures>
  readonly #residentBytesMax: number
  readonly #topics = new TopicCache(TOPICS_MAX)
  /** Groups with bodies that are still in memory, oldest first. */
  #restored: RestoredGroup[] = []

  constructor(
    database: StoreDatabase,
    bodies: BodyIndex,
    progress: CommitProgress,
    figures: Readonly<StoreFigures>,
    residentBytesMax: number,
  ) {
    this.#database = database
    this.#bodies = bodies
    this.#progress = progress
    this.#figures = figures
    this.#residentBytesMax = residentBytesMax
  }

  /** Reads evicted bodies back, also of messages that are completed meanwhile. Rejects with StoreError. */
  async restore(messages: readonly Message[]): Promise<void> {
    // A reference keeps each body alive until it was read.
    const held = messages.filter((message) => message.evicted && this.#hold(message))
    try {
      for (let from = 0; from < held.length; ) from = await this.#restoreSlice(held, from)
    } catch (error) {
      throw storeError(error, this.#database.directory, 'reading messages back')
    } finally {
      for (const message of held) if (this.#bodies.handle(message) !== null) this.#bodies.release(message)
    }
    this.#restored.push({ messages: held, sequence: this.#progress.sealed })
    this.#trimRestored()
  }

  /**
   * Evicts bodies while memory is short: of the block that has just become durable, and of messages read
   * back.
   */
  evictCommitted(messages: readonly Message[]): void {
    for (let index = 0; index < messages.length; index++) {
      if (!this.#isMemoryShort) break
      this.#bodies.evict(messages[index]!, this.#progress.committed)
    }
    this.#trimRestored()
  }

  get #isMemoryShort(): boolean {
    return exceedsMemory(this.#figures, this.#residentBytesMax)
  }

  #hold(message: Message): boolean {
    const body = this.#bodies.handle(message)
    if (body === null) return false
    body.refs++
    return true
  }

  /**
   * Looks at the two oldest groups of restored messages. Evicts a group when memory is short and its messages
   * had two commits of time to be sent; forgets messages that are no longer in memory.
   */
  #trimRestored(): void {
    for (let count = 0; count < 2; count++) {
      const group = this.#restored.shift()
      if (group === undefined) return
      if (this.#isMemoryShort && group.sequence + 1 < this.#progress.committed) {
        for (const message of group.messages) this.#bodies.evict(message, this.#progress.committed)
        continue
      }
      const resident = group.messages.filter(
        (message) => this.#bodies.handle(message) !== null && !message.evicted,
      )
      if (resident.length > 0) this.#restored.push({ messages: resident, sequence: group.sequence })
    }
  }

  /** Reads some messages back, beginning at index `from`. Returns the index at which to go on. */
  async #restoreSlice(messages: readonly Message[], from: number): Promise<number> {
    const wanted = new Map<number, Wanted[]>()
    let next = from
    for (; next < messages.length; next++) {
      const message = messages[next]!
      const body = message.evicted ? this.#bodies.handle(message) : null
      if (body === null) continue
      const number = body.page.number
      const list = wanted.get(number)
      if (list === undefined && wanted.size === RESTORE_PAGES) break
      if (list === undefined) wanted.set(number, [{ message, offset: body.offset }])
      else list.push({ message, offset: body.offset })
    }
    if (wanted.size === 0) return next
    if (!this.#database.isReadable) throw new Error('the store is closed')
    const numbers = [...wanted.keys()]
    // The pages are those of this moment: bodies that move meanwhile are still found where they were.
    const values = await this.#database.pages(numbers)
    for (const [index, number] of numbers.entries())
      this.#restorePage(number, values[index], wanted.get(number)!)
    return next
  }

  #restorePage(number: number, value: Buffer | undefined, wanted: readonly Wanted[]): void {
    if (value !== undefined) readPageHeader(number, value)
    for (const { message, offset } of wanted) {
      if (!message.evicted || this.#bodies.handle(message) === null) continue
      if (value === undefined) throw corrupt(`journal page ${number} is missing`, LOSS.messages)
      const read = readBody(new ByteReader(value, offset))
      message.restore(this.#topics.topic(read.topic), ...copiedBytes(read), read.publisher)
      this.#bodies.restored(message)
    }
  }
}
