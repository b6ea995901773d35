/**
 * Fills an empty directory with records, for import and repair. Refuses records that contradict each other.
 */
import { type Delivery, Message, NO_TOPIC, Topic } from '../../mqtt/message.ts'
import { LevelStore } from '../level/level-store.ts'
import type {
  InboundPacket,
  InFlight,
  OutboundState,
  QueueReader,
  StateSource,
  StoreError,
  TimeDoubt,
} from '../store.ts'
import { ConflictError } from './conflict-error.ts'
import type {
  DeliveryFields,
  InFlightRecord,
  LogFlightFields,
  MessageBody,
  SessionRecordLine,
  StoreRecord,
  WillLine,
} from './records.ts'
import { WrittenQueues } from './written-queues.ts'

const MIB = 1024 * 1024
/** Bytes of records after which a commit is made. */
const COMMIT_BYTES = 4 * MIB
const RESIDENT_BYTES_MAX = 32 * MIB

/** The numbers of records that were written. */
export interface RecordCounts {
  sessions: number
  messages: number
  inFlight: number
  queued: number
  retained: number
  wills: number
  /** Queues and streams. */
  queues: number
  /** Messages in queues and streams. */
  entries: number
}

/** Returns counts of nothing. */
export function noCounts(): RecordCounts {
  return { sessions: 0, messages: 0, inFlight: 0, queued: 0, retained: 0, wills: 0, queues: 0, entries: 0 }
}

/** The state of a Session while it is written. The store reads it for checkpoints. */
class WrittenSession implements OutboundState {
  readonly id: number
  readonly queue: Delivery[] = []
  readonly lastPacketId: number
  readonly packets = new Map<number, Delivery | null>()
  readonly #inbound: readonly InboundPacket[]
  /** Messages that were queued for a moment, in order to be in flight. */
  passed = 0

  constructor(id: number, { lastPacketId, inbound }: SessionRecordLine) {
    this.id = id
    this.lastPacketId = lastPacketId
    this.#inbound = inbound
  }

  get queueHead(): number {
    return this.passed
  }

  get queueTail(): number {
    return this.passed + this.queue.length
  }

  readQueue(from: number, to: number, reader: QueueReader): void {
    for (let position = from; position < to; position++) reader.delivery(this.queue[position - this.passed]!)
  }

  *inFlight(): Generator<InFlight> {
    for (const [packetId, delivery] of this.packets) yield { packetId, delivery }
  }

  inbound(): Iterable<InboundPacket> {
    return this.#inbound
  }
}

export class RecordWriter {
  readonly counts = noCounts()
  readonly #store: LevelStore
  readonly #queues: WrittenQueues
  readonly #sessions = new Map<string, WrittenSession>()
  readonly #byId = new Map<number, WrittenSession>()
  readonly #messages = new Map<number, Message>()
  readonly #topics = new Map<string, Topic>()
  readonly #retained = new Set<string>()
  readonly #wills = new Set<string>()
  #time = 0
  #doubt: TimeDoubt | null = null
  #failure: StoreError | null = null
  #committed: () => void = () => {}

  /** Creates `directory`, or takes one that is empty. */
  constructor(directory: string) {
    // The directory is made durable as a whole when it is complete, so commits need no fsync.
    this.#store = new LevelStore({
      directory,
      sync: false,
      residentBytesMax: RESIDENT_BYTES_MAX,
      reserveBytes: 0,
    })
    this.#queues = new WrittenQueues(this.#store)
  }

  /** Writes all records. Throws StoreError, ConflictError, and any error of `records`; nothing stays open. */
  async write(records: AsyncIterable<StoreRecord>): Promise<RecordCounts> {
    await this.#store.open(this.#source())
    try {
      for await (const record of records) {
        this.#add(record)
        if (this.#store.pendingBytes > COMMIT_BYTES) await this.#commit()
      }
      await this.#commit()
      if (this.#doubt !== null) this.#store.restoreDoubt(this.#doubt)
      await this.#commit()
    } finally {
      await this.#store.close()
    }
    return this.counts
  }

  /** Uses the wall time of the records as broker time. It stands still until the broker starts. */
  #source(): StateSource {
    return {
      now: () => this.#time,
      wallNow: () => this.#time,
      // The records may be read on another machine, or after it was started again.
      bootTime: () => null,
      outbound: (sessionId) => this.#byId.get(sessionId),
      groups: this.#queues,
      committed: () => this.#committed(),
      failed: (error) => {
        this.#failure = error
        this.#committed()
      },
    }
  }

  async #commit(): Promise<void> {
    const wanted = this.#store.recordedSequence
    while (this.#failure === null && this.#store.committedSequence < wanted) {
      const committed = new Promise<void>((resolve) => {
        this.#committed = resolve
      })
      this.#store.commit()
      await committed
    }
    if (this.#failure !== null) throw this.#failure
  }

  #add(record: StoreRecord): void {
    switch (record.type) {
      case 'start':
        this.#time = record.time
        this.#doubt = record.doubt
        return
      case 'session':
        this.#session(record)
        return
      case 'definition':
        this.#queues.define(record)
        this.counts.queues++
        return
      case 'entry':
        this.#queues.append(record, this.#message(record))
        this.counts.entries++
        return
      case 'group':
        this.#queues.group(record)
        return
      case 'message':
        if (this.#messages.has(record.number))
          throw new ConflictError(`repeats the message number ${record.number}`)
        this.#messages.set(record.number, this.#message(record))
        this.counts.messages++
        return
      case 'inFlight':
        this.#inFlight(record)
        return
      case 'queued':
        this.#enqueue(this.#sessionOf(record.clientId), this.#delivery(record.delivery))
        this.counts.queued++
        return
      case 'retained':
        if (this.#retained.has(record.topic))
          throw new ConflictError(`is a second retained message of ${record.topic}`)
        this.#retained.add(record.topic)
        this.#store.putRetained(this.#message(record), 0)
        this.counts.retained++
        return
      case 'will':
        this.#will(record)
    }
  }

  #session(record: SessionRecordLine): void {
    const { clientId, owner, ownerId, disconnectedAt, subscriptions } = record
    if (this.#sessions.has(clientId)) throw new ConflictError(`is a second Session of ${clientId}`)
    const session = new WrittenSession(this.#sessions.size + 1, record)
    this.#sessions.set(clientId, session)
    this.#byId.set(session.id, session)
    this.#store.putSession(session.id, {
      clientId,
      owner,
      ownerId,
      expirySeconds: record.sessionExpirySeconds,
      disconnectedAt: stored(disconnectedAt),
    })
    const filters = new Set<string>()
    for (const [filter, subscription] of subscriptions) {
      if (filters.has(filter)) throw new ConflictError(`has a second Subscription to ${filter}`)
      filters.add(filter)
      this.#store.putSubscription(session.id, filter, subscription)
    }
    for (const [packetId, digest] of record.inbound) this.#store.inboundAdded(session.id, packetId, digest)
    // The last packet identifier is part of checkpoints, and only Sessions that changed get one.
    if (record.lastPacketId > 0 && record.inbound.length === 0) {
      this.#store.inboundAdded(session.id, record.lastPacketId, 0)
      this.#store.inboundRemoved(session.id, record.lastPacketId)
    }
    this.counts.sessions++
  }

  #inFlight({ clientId, packetId, delivery }: InFlightRecord): void {
    const session = this.#sessionOf(clientId)
    if (session.packets.has(packetId)) throw new ConflictError(`repeats packet ${packetId} of ${clientId}`)
    if (session.queue.length > 0)
      throw new ConflictError(`is in flight but follows queued messages of ${clientId}`)
    this.counts.inFlight++
    if (delivery !== null && 'of' in delivery) {
      this.#logFlight(session, packetId, delivery)
      return
    }
    const sent = delivery === null ? released() : this.#delivery(delivery)
    if (sent.qos === 0) throw new ConflictError('is in flight at QoS 0')
    this.#store.enqueue(session.id, sent)
    this.#store.sent(session.id, packetId)
    if (delivery === null) this.#store.received(session.id, packetId, sent.message)
    session.passed++
    session.packets.set(packetId, delivery === null ? null : sent)
  }

  #logFlight(session: WrittenSession, packetId: number, flight: LogFlightFields): void {
    const { qos, retain, subscriptionIdentifiers } = flight
    const source = this.#queues.source(flight)
    const message = Message.of({ topic: NO_TOPIC, qos, retain, publisher: '' }, 0)
    const delivery = { message, qos, retain, subscriptionIdentifiers, share: null, source }
    this.#store.logs.sent(session.id, packetId, delivery)
    session.packets.set(packetId, delivery)
  }

  #enqueue(session: WrittenSession, delivery: Delivery): void {
    this.#store.enqueue(session.id, delivery)
    session.queue.push(delivery)
  }

  #will({ clientId, owner, ownerId, dueAt, assigned, ...line }: WillLine): void {
    if (this.#wills.has(clientId)) throw new ConflictError(`is a second Will of ${clientId}`)
    this.#wills.add(clientId)
    const { topic, payload, properties, qos, retain, expirySeconds, delaySeconds } = line
    const will = { topic, payload, properties, qos, retain, expirySeconds, delaySeconds }
    this.#store.putWill(clientId, { will, owner, ownerId, dueAt: stored(dueAt), assigned })
    this.counts.wills++
  }

  #sessionOf(clientId: string): WrittenSession {
    const session = this.#sessions.get(clientId)
    if (session === undefined) throw new ConflictError(`is for ${clientId}, which has no Session before it`)
    return session
  }

  #delivery({ message: number, ...rest }: DeliveryFields): Delivery {
    const message = this.#messages.get(number)
    if (message === undefined)
      throw new ConflictError(`refers to message ${number}, which no earlier line has`)
    return { message, ...rest }
  }

  #message({ topic, payload, properties, qos, retain, expiresAt, publisher }: MessageBody): Message {
    const message = Message.of({
      topic: topic === '' ? NO_TOPIC : this.#topic(topic),
      payload: Buffer.from(payload),
      properties: Buffer.from(properties),
      qos,
      retain,
      publisher,
      ...(expiresAt !== null && { expiresAt }),
    })
    return message
  }

  #topic(name: string): Topic {
    let topic = this.#topics.get(name)
    if (topic === undefined) {
      topic = new Topic(name)
      this.#topics.set(name, topic)
    }
    return topic
  }
}

/** Returns a time as the store has it: 0 while the Network Connection is open. */
function stored(time: number | null): number {
  return time === null ? 0 : time || 1
}

/** Returns a substitute for a message that the client already received. Only its packet identifier stays. */
function released(): Delivery {
  const message = Message.of({
    topic: new Topic('released'),
    payload: Buffer.alloc(0),
    qos: 2,
    retain: false,
    publisher: '',
  })
  return { message, qos: 2, retain: false, subscriptionIdentifiers: [], share: null }
}
