/**
 * HOT. The store without a disk: nothing survives the process, and every record counts as committed at once.
 */
import { type Delivery, Message } from '../../mqtt/message.ts'
import { Histogram } from '../../structures/histogram.ts'
import { HeldBytes, MESSAGE_BYTES } from '../held-bytes.ts'
import type {
  Parked,
  Recovered,
  SessionRecord,
  StateSource,
  Store,
  StoreFigures,
  SubscriptionRecord,
  TimeDoubt,
  WillRecord,
} from '../store.ts'
import { MemoryLogs } from './memory-logs.ts'

/** `Message.stored` of this store: counts the deliveries that refer to the message. */
class StoredReferences {
  refs = 0
}

export class MemoryStore implements Store {
  readonly openSequence = 0
  readonly recordedSequence = 0
  readonly committedSequence = 0
  readonly paceMs = 0
  readonly pendingBytes = 0
  readonly refusal = null
  readonly canPark = false
  readonly roomBytes = Number.POSITIVE_INFINITY
  readonly shortRoomBytes = 0
  readonly commitLatency = new Histogram()
  readonly held = new HeldBytes()
  readonly logs = new MemoryLogs()
  /** Nothing can be parked. */
  readonly isMemoryShort = false
  #figures: StoreFigures = { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }

  get figures(): Readonly<StoreFigures> {
    return this.#figures
  }

  async open(source: StateSource): Promise<Recovered> {
    this.logs.open(source)
    this.#figures = { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }
    return { brokerTime: 0, wallTime: 0, bootTime: null, doubt: null, sessions: [], retained: [], wills: [] }
  }

  refusalFor(_bytes: number): null {
    return null
  }

  putSession(_sessionId: number, _record: SessionRecord): void {}

  deleteSession(_sessionId: number, held: Iterable<Message | Parked>): void {
    for (const message of held) if (message instanceof Message) this.#release(message)
  }

  putSubscription(_sessionId: number, _filter: string, _record: SubscriptionRecord): void {}
  deleteSubscription(_sessionId: number, _filter: string): void {}

  enqueue(_sessionId: number, { message }: Delivery): void {
    let references = message.stored
    if (!(references instanceof StoredReferences)) {
      references = new StoredReferences()
      this.held.stored(message)
      message.stored = references
      this.#figures.storedBytes += message.size
      this.#figures.residentBytes += message.size + MESSAGE_BYTES
    }
    if (references instanceof StoredReferences) references.refs++
  }

  sent(_sessionId: number, _packetId: number): void {}

  dropped(_sessionId: number, message: Message): void {
    this.#release(message)
  }

  received(_sessionId: number, _packetId: number, message: Message | null): void {
    if (message !== null) this.#release(message)
  }

  completed(_sessionId: number, _packetId: number, message: Message | null): void {
    if (message !== null) this.#release(message)
  }

  countEntries(bytes: number): void {
    this.#figures.entryBytes += bytes
  }

  /** Without a disk, nothing can be parked. */
  park(_delivery: Delivery, _onto: Parked | null): null {
    return null
  }

  unpark(_parked: Parked, _count: number): never {
    throw new Error('this store has nothing parked')
  }

  peek(_parked: Parked, _index: number): never {
    throw new Error('this store has nothing parked')
  }

  requeue(): never {
    throw new Error('this store has nothing parked')
  }

  droppedParked(): never {
    throw new Error('this store has nothing parked')
  }

  inboundAdded(_sessionId: number, _packetId: number, _digest: number): void {}
  inboundRemoved(_sessionId: number, _packetId: number): void {}
  putRetained(_message: Message, _liveAt: number): void {}
  deleteRetained(_topic: string): void {}
  putWill(_clientId: string, _record: WillRecord): void {}
  deleteWill(_clientId: string): void {}
  recordTime(): void {}
  putDoubt(_doubt: TimeDoubt | null): void {}
  isOld(_message: Message): boolean {
    return false
  }
  postpone(_ms: number, _since: number, _held: Iterable<Message | Parked>): void {}
  beginAtomic(): void {}
  endAtomic(): void {}
  commit(): void {
    this.logs.commit()
  }
  evict(_bytes: number): number {
    return 0
  }

  async restore(_messages: readonly Message[]): Promise<void> {}
  async close(): Promise<void> {}

  #release(message: Message): void {
    const references = message.stored
    if (!(references instanceof StoredReferences)) {
      throw new Error('a message that is not stored was completed')
    }
    if (--references.refs > 0) return
    message.stored = null
    this.held.unstored(message)
    this.#figures.storedBytes -= message.size
    this.#figures.residentBytes -= message.size + MESSAGE_BYTES
  }
}
