/**
 * A store without a disk that forgets, when told, what was not durable: the naive meaning of every record.
 */
import { type Delivery, Message, Topic } from '../../src/mqtt/message.ts'
import { HeldBytes } from '../../src/store/held-bytes.ts'
import { MemoryLogs } from '../../src/store/memory/memory-logs.ts'
import type {
  BootTime,
  Parked,
  Recovered,
  RecoveredSession,
  SessionRecord,
  StateSource,
  Store,
  StoreFigures,
  SubscriptionRecord,
  WillRecord,
} from '../../src/store/store.ts'
import { Histogram } from '../../src/structures/histogram.ts'

interface Kept {
  record: SessionRecord
  readonly subscriptions: Map<string, SubscriptionRecord>
  readonly queue: Delivery[]
  readonly inFlight: Map<number, Delivery | null>
  readonly inbound: Map<number, number>
  lastPacketId: number
}

interface Block {
  readonly sequence: number
  readonly brokerTime: number
  readonly wallTime: number
  readonly bootTime: BootTime | null
  readonly records: readonly (() => void)[]
}

export class RecallStore implements Store {
  openSequence = 1
  committedSequence = 0
  readonly paceMs = 0
  pendingBytes = 0
  readonly refusal = null
  readonly canPark = true
  readonly roomBytes = Number.POSITIVE_INFINITY
  readonly shortRoomBytes = 0
  readonly figures: StoreFigures = { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }
  readonly commitLatency = new Histogram()
  held = new HeldBytes()
  /** What is in logs is not recalled. */
  readonly logs = new MemoryLogs()
  /** Messages that were recovered, and those that they were before. */
  readonly originals = new WeakMap<Message, Message>()
  readonly #sessions = new Map<number, Kept>()
  readonly #retained = new Map<string, Message>()
  readonly #liveAt = new Map<string, number>()
  readonly #wills = new Map<string, WillRecord>()
  #source: StateSource | null = null
  #underWay = new Set<string>()
  #records: (() => void)[] = []
  #sealed: Block[] = []
  #brokerTime = 0
  #wallTime = 0
  #bootTime: BootTime | null = null

  /** Broker time in ms of the newest durable block. */
  get brokerTime(): number {
    return this.#brokerTime
  }

  get recordedSequence(): number {
    return this.#records.length > 0 ? this.openSequence : this.openSequence - 1
  }

  /** How much is kept: nothing, when nothing is left to be kept. */
  get size(): number {
    return this.#sessions.size + this.#retained.size + this.#wills.size
  }

  /** Everything that is not durable is lost. */
  crash(): void {
    this.held = new HeldBytes()
    this.#records = []
    this.#sealed = []
    this.openSequence = this.committedSequence + 1
  }

  /** Makes sealed blocks durable up to this one. */
  durable(sequence: number): void {
    while (this.#sealed.length > 0 && this.#sealed[0]!.sequence <= sequence) {
      const block = this.#sealed.shift()!
      for (const record of block.records) record()
      this.#brokerTime = block.brokerTime
      this.#wallTime = block.wallTime
      this.#bootTime = block.bootTime
      this.committedSequence = block.sequence
      this.#source!.committed(block.sequence)
    }
  }

  open(source: StateSource): Promise<Recovered> {
    this.#source = source
    const kept = [...this.#sessions.values()].filter(({ subscriptions }) =>
      [...subscriptions.values()].some(({ retainedPending }) => retainedPending === true),
    )
    this.#underWay = new Set(kept.map(({ record }) => record.clientId))
    const sessions = [...this.#sessions].map(([id, kept]) => this.#recovered(id, kept))
    const retained = [...this.#retained.values()].map((message) => this.#again(message))
    const wills = [...this.#wills]
    return Promise.resolve({
      brokerTime: this.#brokerTime,
      wallTime: this.#wallTime,
      bootTime: this.#bootTime,
      doubt: null,
      sessions,
      retained,
      retainedLive: [...this.#liveAt],
      wills,
    })
  }

  /** Whether retained messages were under way to a Session when the store was opened. */
  wasUnderWay(clientId: string): boolean {
    return this.#underWay.has(clientId)
  }

  #recovered(id: number, kept: Kept): RecoveredSession {
    const { record, subscriptions, queue, inFlight, inbound, lastPacketId } = kept
    return {
      id,
      record,
      subscriptions: [...subscriptions],
      inFlight: [...inFlight].map(([packetId, delivery]) => ({
        packetId,
        delivery: delivery === null ? null : this.#deliveryAgain(delivery),
      })),
      queue: queue.map((delivery) => this.#deliveryAgain(delivery)),
      queueHead: 0,
      lastPacketId,
      inbound: [...inbound],
    }
  }

  #deliveryAgain(delivery: Delivery): Delivery {
    return { ...delivery, message: this.#again(delivery.message) }
  }

  #again(message: Message): Message {
    const copy = Message.of({
      topic: new Topic(message.topic.name),
      payload: Buffer.from(message.payload),
      qos: message.qos,
      retain: message.retain,
      properties: Buffer.from(message.properties),
      expiresAt: message.expiresAt,
      publisher: message.publisher,
    })
    this.originals.set(copy, this.originals.get(message) ?? message)
    return copy
  }

  recordTime(): void {}
  putDoubt(): void {}
  isOld(): boolean {
    return false
  }
  postpone(): void {}

  beginAtomic(): void {}
  endAtomic(): void {}

  commit(): void {
    if (this.#records.length === 0) return
    const source = this.#source!
    this.#sealed.push({
      sequence: this.openSequence,
      brokerTime: source.now(),
      wallTime: source.wallNow(),
      bootTime: source.bootTime(),
      records: this.#records,
    })
    this.#records = []
    this.openSequence++
  }

  #record(record: () => void): void {
    this.#records.push(record)
  }

  #of(id: number): Kept {
    const kept = this.#sessions.get(id)
    if (kept === undefined) throw new Error(`a record of Session ${id}, which is not stored`)
    return kept
  }

  putSession(id: number, record: SessionRecord): void {
    this.#record(() => {
      const kept = this.#sessions.get(id)
      if (kept !== undefined) kept.record = record
      else
        this.#sessions.set(id, {
          record,
          subscriptions: new Map(),
          queue: [],
          inFlight: new Map(),
          inbound: new Map(),
          lastPacketId: 0,
        })
    })
  }

  deleteSession(id: number, held: Iterable<Message | Parked>): void {
    const count = [...held].length
    this.#record(() => {
      const { queue, inFlight } = this.#of(id)
      const kept = queue.length + [...inFlight.values()].filter((delivery) => delivery !== null).length
      if (kept !== count) throw new Error(`Session ${id} ended with ${count} messages, ${kept} are stored`)
      this.#sessions.delete(id)
    })
  }

  putSubscription(id: number, filter: string, record: SubscriptionRecord): void {
    this.#record(() => this.#of(id).subscriptions.set(filter, record))
  }

  deleteSubscription(id: number, filter: string): void {
    this.#record(() => this.#of(id).subscriptions.delete(filter))
  }

  enqueue(id: number, delivery: Delivery): void {
    this.#record(() => this.#of(id).queue.push(delivery))
  }

  sent(id: number, packetId: number): void {
    this.#record(() => {
      const kept = this.#of(id)
      if (kept.inFlight.has(packetId)) throw new Error(`packet identifier ${packetId} is in use twice`)
      kept.inFlight.set(packetId, kept.queue.shift()!)
      kept.lastPacketId = packetId
    })
  }

  dropped(id: number): void {
    this.#record(() => this.#of(id).queue.shift())
  }

  received(id: number, packetId: number): void {
    this.#record(() => {
      const { inFlight } = this.#of(id)
      if (!inFlight.delete(packetId)) throw new Error(`PUBREC of ${packetId}, which was not sent`)
      inFlight.set(packetId, null)
    })
  }

  completed(id: number, packetId: number): void {
    this.#record(() => {
      if (!this.#of(id).inFlight.delete(packetId)) throw new Error(`${packetId} was completed, not sent`)
    })
  }

  inboundAdded(id: number, packetId: number, digest: number): void {
    this.#record(() => this.#of(id).inbound.set(packetId, digest))
  }

  inboundRemoved(id: number, packetId: number): void {
    this.#record(() => this.#of(id).inbound.delete(packetId))
  }

  putRetained(message: Message, liveAt: number): void {
    const { name } = message.topic
    this.#record(() => {
      this.#retained.set(name, message)
      if (liveAt > 0) this.#liveAt.set(name, liveAt)
      else this.#liveAt.delete(name)
    })
  }

  deleteRetained(topic: string): void {
    this.#record(() => {
      this.#retained.delete(topic)
      this.#liveAt.delete(topic)
    })
  }

  putWill(clientId: string, record: WillRecord): void {
    this.#record(() => this.#wills.set(clientId, record))
  }

  deleteWill(clientId: string): void {
    this.#record(() => this.#wills.delete(clientId))
  }

  evict(_bytes: number): number {
    return 0
  }

  refusalFor(): null {
    return null
  }

  park(): null {
    return null
  }

  unpark(): never {
    throw new Error('nothing is parked')
  }

  readonly isMemoryShort = false
  countEntries(bytes: number): void {
    this.figures.entryBytes += bytes
  }

  droppedParked(): never {
    throw new Error('nothing is parked')
  }

  requeue(): never {
    throw new Error('nothing is parked')
  }

  peek(): never {
    throw new Error('nothing is parked')
  }

  restore(): never {
    throw new Error('nothing is evicted')
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}
