/**
 * HOT. Everything recorded since the last block was sealed: the open block, the table writes that go with it,
 * and the messages whose bodies it stores. No promise, closure or LevelDB call per record.
 */
import type { Message } from '../../mqtt/message.ts'
import type { OpenBatch } from '../files/database.ts'
import type { StoreDatabase } from '../files/store-database.ts'
import type { BatchOperation } from '../format/format.ts'
import { PendingRetainedAndWills } from '../format/retained.ts'
import type { BodyIndex } from '../journal/body-index.ts'
import type { Checkpoints } from '../journal/checkpoints.ts'
import type { OpenBlock } from '../journal/open-block.ts'
import type { WillRecord } from '../store.ts'
import type { CommitProgress } from './commit-progress.ts'
import type { JournalTail } from './journal-tail.ts'

/**
 * When the open block has this many table writes, they are handed to LevelDB before it is sealed, about 3 ms
 * of work. While the disk is slow a block grows to 16 MiB, 80,000 retained messages: encoding and copying all
 * of them at once took a third of a second.
 */
const EARLY_OPERATIONS = 1024
/** Bytes that LevelDB and JavaScript add to each entry of a batch; for the bounds that count bytes. */
export const ENTRY_BYTES = 32

/** The parts of the store that a record concerns. */
export interface RecordingParts {
  readonly pending: PendingCommit
  readonly progress: CommitProgress
  readonly tail: JournalTail
  readonly bodies: BodyIndex
  readonly checkpoints: Checkpoints
}

/** Something else that belongs to the open commit, and is encoded when it is sealed. */
export interface PendingPart {
  readonly isEmpty: boolean
  /** Bytes that are not among the table writes. */
  readonly bytes: number
  /** Appends its operations, and records what belongs to them. */
  seal(operations: BatchOperation[]): void
}

const NOTHING: PendingPart = { isEmpty: true, bytes: 0, seal: () => {} }

export class PendingCommit {
  /** The part about logs. */
  logs = NOTHING
  readonly block: OpenBlock
  readonly #database: StoreDatabase
  readonly #retained = new PendingRetainedAndWills()
  #operations: BatchOperation[] = []
  /**
   * Bytes of the table writes, handed over or not. Retained messages and Wills that are not handed over count
   * apart.
   */
  #tableBytes = 0
  /** The batch, once a part was handed over early. */
  #batch: OpenBatch | null = null
  #batchBytes = 0
  #messages: Message[] = []
  #isTimeWanted = false

  constructor(block: OpenBlock, database: StoreDatabase) {
    this.block = block
    this.#database = database
  }

  /** Bytes of everything that was recorded, as far as they are known before the block is sealed. */
  get bytes(): number {
    return this.block.bytes + this.#tableBytes + this.#retained.bytes + this.logs.bytes
  }

  /** True when there is nothing to commit. */
  get isEmpty(): boolean {
    if (this.#batch !== null || this.#isTimeWanted || !this.logs.isEmpty) return false
    return this.block.bytes === 0 && this.#operations.length === 0 && this.#retained.isEmpty
  }

  /** The table writes that are not yet handed over. Bytes that are added to them directly are not counted. */
  get operations(): BatchOperation[] {
    return this.#operations
  }

  write(operation: BatchOperation): void {
    this.#operations.push(operation)
    this.#tableBytes += operationBytes(operation)
    if (this.#operations.length >= EARLY_OPERATIONS) this.#handOverEarly()
  }

  /** Records the retained message of a topic; null when it has none any more. See `Store.putRetained`. */
  setRetained(topic: string, message: Message | null, liveAt: number): void {
    this.#retained.setRetained(topic, message, liveAt)
    if (this.#retained.count >= EARLY_OPERATIONS) this.#handOverEarly()
  }

  /** Records the Will of a client; null when it has none any more. */
  setWill(clientId: string, record: WillRecord | null): void {
    this.#retained.setWill(clientId, record)
    if (this.#retained.count >= EARLY_OPERATIONS) this.#handOverEarly()
  }

  /** Notes that the open block stores the body of this message. */
  addMessage(message: Message): void {
    this.#messages.push(message)
  }

  /** Makes the commit worth while even if nothing else is recorded: for the times that go with it. */
  wantTime(): void {
    this.#isTimeWanted = true
  }

  /**
   * Encodes retained messages, Wills and logs, and returns the operations that the rest of the commit is
   * added to.
   */
  seal(): BatchOperation[] {
    this.#retained.seal(this.#operations)
    this.logs.seal(this.#operations)
    return this.#operations
  }

  /** Bytes of the whole commit, to be asked once its operations are complete. */
  sealedBytes(): number {
    let bytes = this.#batchBytes
    for (const operation of this.#operations) bytes += operationBytes(operation)
    return bytes
  }

  /**
   * Hands the commit over, under this number. Keys and values are copied before this returns, so `clear` may
   * follow at once. Every failure rejects the promise.
   */
  handOver(sequence: number, isClosing: boolean): Promise<void> {
    return this.#database.write({ sequence, operations: this.#operations, batch: this.#batch, isClosing })
  }

  /** Begins the next commit. Returns the messages whose bodies the last one stores. */
  clear(): Message[] {
    const messages = this.#messages
    this.#messages = []
    this.#batch = null
    this.#batchBytes = 0
    this.block.clear()
    this.#retained.handedOver()
    this.#operations = []
    this.#tableBytes = 0
    this.#isTimeWanted = false
    return messages
  }

  /**
   * Forgets the part that was handed over early: the store has failed, and closing the database drops it.
   */
  dropBatch(): void {
    this.#batch = null
  }

  /** Encodes and copies all records so far, so that sealing the block has less to do at once. */
  #handOverEarly(): void {
    const operations = this.#operations
    const tables = operations.length
    this.#retained.seal(operations)
    for (let index = 0; index < operations.length; index++) {
      const bytes = operationBytes(operations[index]!)
      this.#batchBytes += bytes
      if (index >= tables) this.#tableBytes += bytes
    }
    this.#batch ??= this.#database.openBatch()
    this.#batch.add(operations)
    this.#retained.handedOver()
    this.#operations = []
  }
}

function operationBytes(operation: BatchOperation): number {
  return operation.key.length + ENTRY_BYTES + (operation.type === 'put' ? operation.value.length : 0)
}
