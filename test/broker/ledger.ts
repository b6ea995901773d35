/** A store for tests of the Server. It lists all records, and makes them durable when the test says so. */
import { type Delivery, Message } from '../../src/mqtt/message.ts'
import { HeldBytes } from '../../src/store/held-bytes.ts'
import { MemoryLogs } from '../../src/store/memory/memory-logs.ts'
import type {
  Parked,
  Recovered,
  SessionRecord,
  StateSource,
  Store,
  StoreError,
  StoreFigures,
  SubscriptionRecord,
  TimeDoubt,
  WillRecord,
} from '../../src/store/store.ts'
import { Histogram } from '../../src/structures/histogram.ts'

const NOTHING: Recovered = {
  brokerTime: 0,
  wallTime: 0,
  bootTime: null,
  doubt: null,
  sessions: [],
  retained: [],
  wills: [],
}

export class LedgerStore implements Store {
  openSequence = 1
  committedSequence = 0
  paceMs = 4
  pendingBytes = 0
  refusal: string | null = null
  /** Messages larger than this are refused. */
  messageBytesMax = Number.POSITIVE_INFINITY
  canPark = true
  roomBytes = Number.POSITIVE_INFINITY
  shortRoomBytes = 0
  readonly figures: StoreFigures = { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }
  readonly commitLatency = new Histogram()
  readonly held = new HeldBytes()
  /** Records of logs leave no lines. */
  readonly logs = new MemoryLogs()
  /** All records in order, as short lines. */
  readonly lines: string[] = []
  /** Whether a commit is durable at once (at the end of the turn), or when `durable()` is called. */
  automatic = true
  /** Whether a block is sealed only when no commit is under way, as a real store does. */
  oneAtATime = false
  /** The number of durable `lines`. */
  durableLines = 0
  /** The answer of `open`. */
  recovered: Recovered = NOTHING
  source: StateSource | null = null
  #recorded = 0
  #sealed: number[] = []
  #sealedLines: number[] = []
  #failed = false

  open(source: StateSource): Promise<Recovered> {
    this.source = source
    this.logs.open(source)
    this.#failed = false
    this.#sealed = []
    this.#sealedLines = []
    this.#recorded = 0
    this.pendingBytes = 0
    this.openSequence = this.committedSequence + 1
    return Promise.resolve(this.recovered)
  }

  get recordedSequence(): number {
    return this.#recorded > 0 ? this.openSequence : this.openSequence - 1
  }

  evict(_bytes: number): number {
    return 0
  }

  refusalFor(bytes: number): string | null {
    return bytes > this.messageBytesMax ? 'there is no room for this message' : this.refusal
  }

  #record(line: string): void {
    if (this.#failed) return
    this.lines.push(line)
    this.#recorded++
    this.pendingBytes += 100
  }

  putSession(id: number, record: SessionRecord): void {
    this.#record(`putSession ${id} ${record.clientId}`)
  }
  deleteSession(id: number, held: Iterable<Message | Parked>): void {
    this.#record(`deleteSession ${id} holding ${[...held].length}`)
  }
  putSubscription(id: number, filter: string, record: SubscriptionRecord): void {
    this.#record(`putSubscription ${id} ${filter} ${record.qos}${record.retainedPending ? ' pending' : ''}`)
  }
  deleteSubscription(id: number, filter: string): void {
    this.#record(`deleteSubscription ${id} ${filter}`)
  }
  enqueue(id: number, delivery: Delivery): void {
    this.#record(
      `enqueue ${id} ${delivery.message.evicted ? '?' : delivery.message.payload.toString()} ${delivery.qos}`,
    )
  }
  sent(id: number, packetId: number): void {
    this.#record(`sent ${id} ${packetId}`)
  }
  dropped(id: number): void {
    this.#record(`dropped ${id}`)
  }
  received(id: number, packetId: number): void {
    this.#record(`received ${id} ${packetId}`)
  }
  completed(id: number, packetId: number): void {
    this.#record(`completed ${id} ${packetId}`)
  }
  readonly isMemoryShort: boolean = false
  countEntries(bytes: number): void {
    this.figures.entryBytes += bytes
  }
  /** Nothing is parked here; see `test/session/parking.ts`. */
  park(_delivery: Delivery, _onto: Parked | null): Parked | null {
    return null
  }
  unpark(_parked: Parked, _count: number): Delivery[] {
    throw new Error('nothing is parked')
  }
  peek(_parked: Parked, _index: number): Delivery {
    throw new Error('nothing is parked')
  }
  requeue(): never {
    throw new Error('nothing is parked')
  }
  droppedParked(_id: number, _parked: Parked): void {
    throw new Error('nothing is parked')
  }
  inboundAdded(id: number, packetId: number, digest: number): void {
    this.#record(`inboundAdded ${id} ${packetId} ${digest}`)
  }
  inboundRemoved(id: number, packetId: number): void {
    this.#record(`inboundRemoved ${id} ${packetId}`)
  }
  putRetained(message: Message, _liveAt: number): void {
    this.#record(`putRetained ${message.topic.name}`)
  }
  deleteRetained(topic: string): void {
    this.#record(`deleteRetained ${topic}`)
  }
  putWill(clientId: string, record: WillRecord): void {
    this.#record(`putWill ${clientId} ${record.dueAt}`)
  }
  deleteWill(clientId: string): void {
    this.#record(`deleteWill ${clientId}`)
  }

  recordTime(): void {
    this.#record('recordTime')
  }

  putDoubt(doubt: TimeDoubt | null): void {
    this.#record(`putDoubt ${doubt === null ? 'null' : `${doubt.ms} ${doubt.until}`}`)
  }

  /** Messages from before this run. */
  readonly old = new Set<Message>()

  isOld(message: Message): boolean {
    return this.old.has(message)
  }

  postpone(ms: number, since: number, held: Iterable<Message | Parked>): void {
    this.#record(`postpone ${ms} ${since}`)
    for (const message of held)
      if (message instanceof Message && this.old.has(message)) message.expiresAt += ms
  }

  #whole = 0

  beginAtomic(): void {
    this.#whole++
  }

  endAtomic(): void {
    this.#whole--
  }

  commit(): void {
    if (this.#whole > 0) return
    if (this.#recorded === 0 || (this.oneAtATime && this.#sealed.length > 0)) return
    this.#sealedLines.push(this.lines.length)
    this.#recorded = 0
    this.#sealed.push(this.openSequence)
    this.openSequence++
    if (this.automatic) queueMicrotask(() => this.durable())
  }

  /** Makes the oldest sealed block durable. Returns false if there is none. */
  durable(): boolean {
    const sequence = this.#sealed.shift()
    if (sequence === undefined) return false
    this.committedSequence = sequence
    this.durableLines = this.#sealedLines.shift()!
    this.figures.commits++
    if (this.#sealed.length === 0) this.pendingBytes = this.#recorded * 100
    if (this.oneAtATime) this.commit()
    this.source?.committed(sequence)
    return true
  }

  fail(error: StoreError): void {
    this.#failed = true
    this.#sealed = []
    this.#sealedLines = []
    this.source?.failed(error)
  }

  restore(messages: readonly Message[]): Promise<void> {
    for (const message of messages) this.onRestore(message)
    return Promise.resolve()
  }

  onRestore: (message: Message) => void = () => {}

  close(): Promise<void> {
    return Promise.resolve()
  }
}
