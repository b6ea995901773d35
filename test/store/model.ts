/**
 * A naive Server for tests of stores: it keeps in plain arrays and maps what a store should remember, tells
 * the store about every change, and can say at any time what a recovery has to bring back. Its queues park
 * entries as real Sessions do; it also knows their entries as text.
 */
import { type Delivery, Message, NO_IDENTIFIERS, Topic } from '../../src/mqtt/message.ts'
import { type QoS, SESSION_NEVER_EXPIRES } from '../../src/mqtt/packet.ts'
import { DeliveryQueue } from '../../src/session/delivery-queue.ts'
import type {
  BootTime,
  InboundPacket,
  InFlight,
  OutboundState,
  Parked,
  QueueReader,
  Recovered,
  RecoveredSession,
  SessionRecord,
  StateSource,
  Store,
  StoreError,
  SubscriptionRecord,
  WillRecord,
} from '../../src/store/store.ts'

export class ModelSession implements OutboundState {
  record: SessionRecord
  readonly subscriptions = new Map<string, SubscriptionRecord>()
  readonly sent = new Map<number, Delivery | null>()
  /** Digests by packet identifier. */
  readonly received = new Map<number, number>()
  readonly deliveries: DeliveryQueue
  /**
   * Describes `deliveries`, by position, as far as known: the message, and the particulars of the delivery.
   */
  readonly texts = new Map<number, { readonly message: string; readonly fields: string }>()
  lastPacketId = 0

  constructor(record: SessionRecord, deliveries: DeliveryQueue) {
    this.record = record
    this.deliveries = deliveries
  }

  /**
   * The whole queue. Parked entries are valid until the next commit; only `ModelServer.queue` describes them.
   */
  get queue(): Delivery[] {
    return [...this.deliveries]
  }

  get queueHead(): number {
    return this.deliveries.head
  }

  get queueTail(): number {
    return this.deliveries.tail
  }

  readQueue(from: number, to: number, reader: QueueReader): void {
    this.deliveries.read(from, to, reader)
  }

  inFlight(): Iterable<InFlight> {
    return [...this.sent].map(([packetId, delivery]) => ({ packetId, delivery }))
  }

  inbound(): Iterable<InboundPacket> {
    return this.received
  }

  messages(): Message[] {
    const sent = [...this.sent.values()].filter((delivery) => delivery !== null)
    return [...this.queue, ...sent].map((delivery) => delivery.message)
  }

  held(): (Message | Parked)[] {
    const sent = [...this.sent.values()].filter((delivery) => delivery !== null)
    return [...this.deliveries.parts(), ...sent].map((entry) => ('message' in entry ? entry.message : entry))
  }
}

export class ModelServer implements StateSource {
  readonly store: Store
  sessions = new Map<number, ModelSession>()
  retained = new Map<string, Message>()
  wills = new Map<string, WillRecord>()
  /** The state to be recovered after the block with this sequence number, as one text. */
  readonly states = new Map<number, string>()
  readonly committedSequences: number[] = []
  readonly failures: StoreError[] = []
  brokerTime = 1000
  wallTime = 1_700_000_000_000
  boot: BootTime | null = { bootId: '00112233445566778899aabbccddeeff', sinceBoot: 5000 }
  /** False for large tests: then `states` stays empty. */
  remember = true
  readonly #contents = new WeakMap<Message, string>()
  #waiting: (() => void)[] = []

  constructor(store: Store) {
    this.store = store
  }

  now(): number {
    return this.brokerTime
  }

  /** Called once per block, when it is sealed: a recovery brings back the state of this moment. */
  wallNow(): number {
    if (this.remember) this.states.set(this.store.openSequence, this.describe())
    return this.wallTime
  }

  bootTime(): BootTime | null {
    return this.boot
  }

  outbound(sessionId: number): OutboundState | undefined {
    return this.sessions.get(sessionId)
  }

  committed(sequence: number): void {
    this.committedSequences.push(sequence)
    this.#wake()
  }

  failed(error: StoreError): void {
    this.failures.push(error)
    this.#wake()
  }

  /** Opens the store and takes over the recovered state; evicted bodies are read back to be compared. */
  async open(): Promise<Recovered> {
    const recovered = await this.store.open(this)
    this.sessions = new Map()
    for (const found of recovered.sessions) {
      const session = new ModelSession(
        found.record,
        new DeliveryQueue(this.store, found.queueHead, found.queue),
      )
      for (const [filter, record] of found.subscriptions) session.subscriptions.set(filter, record)
      for (const { packetId, delivery } of this.#inFlight(found)) session.sent.set(packetId, delivery)
      for (const [packetId, digest] of found.inbound) session.received.set(packetId, digest)
      session.lastPacketId = found.lastPacketId
      this.sessions.set(found.id, session)
    }
    this.retained = new Map(recovered.retained.map((message) => [message.topic.name, message]))
    this.wills = new Map(recovered.wills)
    return recovered
  }

  /** Returns what is in flight, unparked if necessary. */
  #inFlight({ inFlight }: RecoveredSession): readonly InFlight[] {
    if (!('packetIds' in inFlight)) return inFlight
    const deliveries = inFlight.parked.flatMap((entries) => this.store.unpark(entries, entries.length))
    return [...inFlight.packetIds].map((packetId) =>
      packetId < 0 ? { packetId: -packetId, delivery: null } : { packetId, delivery: deliveries.shift()! },
    )
  }

  /** Every message of every Session. Valid until the next commit. */
  messages(): Message[] {
    for (const id of this.sessions.keys()) this.queue(id)
    return [...this.sessions.values()].flatMap((session) => session.messages())
  }

  /** The queue of a Session. Valid until the next commit. */
  queue(id: number): Delivery[] {
    const session = this.session(id)
    const { queue } = session
    for (const [index, { message }] of queue.entries()) {
      const known = session.texts.get(session.queueHead + index)
      if (known !== undefined) this.#contents.set(message, known.message)
    }
    return queue
  }

  /** Reads all evicted bodies back, and compares them with what is known of them. */
  async restoreAll(): Promise<void> {
    const queues = [...this.sessions].map(([id, session]) => ({
      session,
      head: session.queueHead,
      queue: this.queue(id),
    }))
    await this.store.restore(this.messages().filter((message) => message.evicted))
    for (const { session, head, queue } of queues) {
      for (const [index, delivery] of queue.entries()) {
        // Throws if the body differs from what is known.
        const message = this.describeMessage(delivery.message)
        const fields = fieldsOf(delivery)
        const known = session.texts.get(head + index)?.fields ?? fields
        if (fields !== known) throw new Error(`a delivery changed: ${known} is now ${fields}`)
        if (head + index >= session.queueHead) session.texts.set(head + index, { message, fields })
      }
    }
  }

  /** Commits and waits until all records are durable (or the store failed). */
  async commit(): Promise<void> {
    const wanted = this.store.recordedSequence
    this.store.commit()
    while (this.store.committedSequence < wanted && this.failures.length === 0) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  createSession(
    id: number,
    clientId = `client-${id}`,
    owner: string | null = null,
    ownerId: string | null = null,
  ): ModelSession {
    const record = { clientId, owner, ownerId, expirySeconds: SESSION_NEVER_EXPIRES, disconnectedAt: 0 }
    const session = new ModelSession(record, new DeliveryQueue(this.store))
    this.sessions.set(id, session)
    this.store.putSession(id, session.record)
    return session
  }

  disconnect(id: number): void {
    const session = this.session(id)
    session.record = { ...session.record, disconnectedAt: this.brokerTime, expirySeconds: 3600 }
    this.store.putSession(id, session.record)
  }

  deleteSession(id: number): void {
    this.store.deleteSession(id, this.session(id).held())
    this.session(id).deliveries.release()
    this.sessions.delete(id)
  }

  subscribe(id: number, filter: string, record: SubscriptionRecord): void {
    this.session(id).subscriptions.set(filter, record)
    this.store.putSubscription(id, filter, record)
  }

  unsubscribe(id: number, filter: string): void {
    this.session(id).subscriptions.delete(filter)
    this.store.deleteSubscription(id, filter)
  }

  enqueue(id: number, delivery: Delivery): void {
    const session = this.session(id)
    this.store.enqueue(id, delivery)
    if (this.remember) {
      const text = { message: this.describeMessage(delivery.message), fields: fieldsOf(delivery) }
      session.texts.set(session.queueTail, text)
    }
    session.deliveries.push(delivery)
  }

  /** Sends the head of the queue; at QoS 0 it is gone then. */
  send(id: number): void {
    const session = this.session(id)
    const delivery = this.#shift(session)
    if (delivery === undefined) return
    if (delivery.qos === 0) {
      this.store.dropped(id, delivery.message)
      return
    }
    session.sent.set(this.#freePacketId(session), delivery)
    this.store.sent(id, session.lastPacketId)
  }

  /** A delivery that arrives while nothing waits is sent at once and takes no place in the queue. */
  deliver(id: number, delivery: Delivery): void {
    const session = this.session(id)
    if (session.deliveries.length > 0 || delivery.qos === 0) {
      this.enqueue(id, delivery)
      return
    }
    this.store.enqueue(id, delivery)
    session.sent.set(this.#freePacketId(session), delivery)
    this.store.sent(id, session.lastPacketId)
  }

  drop(id: number): void {
    const session = this.session(id)
    const delivery = this.#shift(session)
    if (delivery === undefined) return
    this.store.dropped(id, delivery.message)
  }

  /** The client answers an in-flight message: PUBACK, or PUBREC and then PUBCOMP. */
  acknowledge(id: number, packetId: number): void {
    const session = this.session(id)
    const delivery = session.sent.get(packetId)
    if (delivery === undefined) return
    if (delivery !== null && delivery.qos === 2) {
      session.sent.delete(packetId)
      session.sent.set(packetId, null)
      this.store.received(id, packetId, delivery.message)
      return
    }
    session.sent.delete(packetId)
    this.store.completed(id, packetId, delivery?.message ?? null)
  }

  addInbound(id: number, packetId: number, digest = packetId * 0x123456789): void {
    this.session(id).received.set(packetId, digest)
    this.store.inboundAdded(id, packetId, digest)
  }

  removeInbound(id: number, packetId: number): void {
    if (this.session(id).received.delete(packetId)) this.store.inboundRemoved(id, packetId)
  }

  retain(message: Message): void {
    this.describeMessage(message)
    this.retained.set(message.topic.name, message)
    this.store.putRetained(message, 0)
  }

  clearRetained(topic: string): void {
    this.retained.delete(topic)
    this.store.deleteRetained(topic)
  }

  setWill(clientId: string, record: WillRecord): void {
    this.wills.set(clientId, record)
    this.store.putWill(clientId, record)
  }

  clearWill(clientId: string): void {
    this.wills.delete(clientId)
    this.store.deleteWill(clientId)
  }

  session(id: number): ModelSession {
    const session = this.sessions.get(id)
    if (session === undefined) throw new Error(`no Session ${id}`)
    return session
  }

  /** Returns everything that a recovery must bring back, as comparable text. */
  describe(): string {
    const sessions = [...this.sessions].sort(([a], [b]) => a - b)
    const lines = sessions.flatMap(([id, session]) => [
      `session ${id} ${JSON.stringify(session.record)} last ${session.lastPacketId}`,
      ...[...session.subscriptions]
        .sort(byKey)
        .map(([filter, record]) => `  sub ${filter} ${subscription(record)}`),
      ...[...session.sent].map(([id, delivery]) => `  sent ${id} ${this.#describeDelivery(delivery)}`),
      ...[...session.received]
        .sort(([a], [b]) => a - b)
        .map(([packetId, digest]) => `  inbound ${packetId} ${digest}`),
      ...[...session.texts.values()].map(({ message, fields }) => `  queued ${fields} ${message}`),
    ])
    for (const [topic, message] of [...this.retained].sort(byKey)) {
      lines.push(`retained ${topic} ${this.describeMessage(message)}`)
    }
    for (const [clientId, { will, owner, dueAt, assigned = false }] of [...this.wills].sort(byKey)) {
      const { payload, properties, expirySeconds = 'none' } = will
      const bytes = `${payload.toString('hex')} ${properties.toString('hex')}`
      lines.push(`will ${clientId} ${owner} ${dueAt} ${will.topic} ${will.qos} ${will.retain} ${bytes}`)
      lines.push(`  ${expirySeconds} ${will.delaySeconds} ${assigned}`)
    }
    return lines.join('\n')
  }

  /** Returns the message as text. It is remembered, so that an evicted message can still be described. */
  describeMessage(message: Message): string {
    const known = this.#contents.get(message)
    if (known !== undefined && message.evicted) return known
    if (message.evicted) return `evicted ${message.size}`
    const { topic, payload, properties, qos, retain, expiresAt, publisher, size } = message
    const flags = `${qos} ${retain} ${expiresAt} ${publisher} ${size}`
    const text = `${topic.name} ${payload.toString('latin1')} ${properties.toString('hex')} ${flags}`
    if (known !== undefined && known !== text) throw new Error(`a message changed: ${known} is now ${text}`)
    this.#contents.set(message, text)
    return text
  }

  #describeDelivery(delivery: Delivery | null): string {
    if (delivery === null) return 'released'
    return `${fieldsOf(delivery)} ${this.describeMessage(delivery.message)}`
  }

  #shift(session: ModelSession): Delivery | undefined {
    const position = session.queueHead
    const known = session.texts.get(position)
    session.texts.delete(position)
    const delivery = session.deliveries.shift()
    if (delivery !== undefined && known !== undefined) this.#contents.set(delivery.message, known.message)
    return delivery
  }

  #freePacketId(session: ModelSession): number {
    do session.lastPacketId = (session.lastPacketId % 65_535) + 1
    while (session.sent.has(session.lastPacketId))
    return session.lastPacketId
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}

function fieldsOf({ qos, retain, subscriptionIdentifiers, share }: Delivery): string {
  return `${qos} ${retain} [${subscriptionIdentifiers}] ${share}`
}

function byKey([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function subscription(record: SubscriptionRecord): string {
  const { qos, noLocal, retainAsPublished, retainHandling, identifier } = record
  return `${qos} ${noLocal} ${retainAsPublished} ${retainHandling} ${identifier}`
}

/** A message for tests. */
export function message(topic: string, payload: string, fields: Partial<MessageDetails> = {}): Message {
  const { qos = 1, retain = false, publisher = 'publisher', properties, expiresAt } = fields
  return Message.of({
    topic: new Topic(topic),
    payload: Buffer.from(payload),
    qos,
    retain,
    publisher,
    ...(properties === undefined ? {} : { properties }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
  })
}

interface MessageDetails {
  qos: QoS
  retain: boolean
  publisher: string
  properties: Buffer
  expiresAt: number
}

export function delivery(of: Message, fields: Partial<Omit<Delivery, 'message'>> = {}): Delivery {
  return {
    message: of,
    qos: of.qos,
    retain: false,
    subscriptionIdentifiers: NO_IDENTIFIERS,
    share: null,
    ...fields,
  }
}

/** A small seeded generator (mulberry32): integers below `bound`. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  below(bound: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 0x100000000) * bound)
  }

  chance(share: number): boolean {
    return this.below(1_000_000) < share * 1_000_000
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }
}

/** Sessions from this number on are the test's own: `act` leaves them alone. */
export const RESERVED_IDS = 100

/** Does one random operation on the Server; `step` makes texts unique. */
export function act(server: ModelServer, random: Random, step: number): void {
  const ids = [...server.sessions.keys()].filter((id) => id < RESERVED_IDS)
  if (ids.length < 2 || (ids.length < 12 && random.chance(0.02))) {
    const id = random.below(20)
    if (!server.sessions.has(id))
      server.createSession(id, `client ${id} ä`, random.chance(0.5) ? `user-${id}` : null)
    return
  }
  const id = random.pick(ids)
  const what = random.below(100)
  if (what < 30) enqueueRandom(server, random, step, ids)
  else if (what < 50) server.send(id)
  else if (what < 54) server.drop(id)
  else if (what < 74) acknowledgeRandom(server, random, id)
  else if (what < 78) server.addInbound(id, 1 + random.below(50))
  else if (what < 82) server.removeInbound(id, 1 + random.below(50))
  else if (what < 86) subscribeRandom(server, random, id)
  else if (what < 88) server.unsubscribe(id, `filter/${random.below(5)}/+`)
  else if (what < 93) retainRandom(server, random, step)
  else if (what < 96) willRandom(server, random, id, step)
  else if (what < 97) server.disconnect(id)
  else if (what < 98) server.session(id).deliveries.park(random.below(300))
  else if (what < 99) server.deleteSession(id)
  else handOver(server, random, ids)
}

function enqueueRandom(server: ModelServer, random: Random, step: number, ids: readonly number[]): void {
  const big = random.chance(0.02)
  const fresh = message(
    `topic/${random.below(30)}/ü`,
    `payload ${step}${'.'.repeat(big ? 20_000 : random.below(300))}`,
    {
      qos: random.below(3) as QoS,
      retain: random.chance(0.1),
      publisher: random.chance(0.1) ? '' : `publisher-${random.below(4)}`,
      ...(random.chance(0.3) ? { properties: Buffer.from(`props ${step}`) } : {}),
      ...(random.chance(0.3) ? { expiresAt: step * 1000 } : {}),
    },
  )
  // Some messages come from another queue: they are enqueued again later, as for a member that took over.
  const known = random.chance(0.1) ? server.messages() : []
  const chosen = known.length > 0 ? random.pick(known) : fresh
  const receivers = random.chance(0.3) ? ids : [random.pick(ids)]
  for (const id of receivers) {
    const one = delivery(chosen, {
      qos: Math.min(chosen.qos, random.below(3)) as QoS,
      retain: random.chance(0.2),
      subscriptionIdentifiers: random.chance(0.2) ? [1, random.below(268_435_455)] : NO_IDENTIFIERS,
      share: random.chance(0.1) ? '$share/group/filter' : null,
    })
    if (random.chance(0.5)) server.enqueue(id, one)
    else server.deliver(id, one)
  }
}

function acknowledgeRandom(server: ModelServer, random: Random, id: number): void {
  const packetIds = [...server.session(id).sent.keys()]
  for (const packetId of packetIds.slice(0, 1 + random.below(4))) server.acknowledge(id, packetId)
}

function subscribeRandom(server: ModelServer, random: Random, id: number): void {
  server.subscribe(id, `filter/${random.below(5)}/+`, {
    qos: random.below(3) as QoS,
    noLocal: random.chance(0.5),
    retainAsPublished: random.chance(0.5),
    retainHandling: random.below(3) as 0 | 1 | 2,
    identifier: random.below(1000),
  })
}

function retainRandom(server: ModelServer, random: Random, step: number): void {
  const topic = `retained/${random.below(8)}/é:%`
  if (random.chance(0.2)) {
    server.clearRetained(topic)
    return
  }
  server.retain(
    message(topic, `retained ${step}`, {
      retain: true,
      properties: Buffer.from([step & 0xff, 0, 255]),
      ...(random.chance(0.5) ? { expiresAt: step + 0.5 } : {}),
    }),
  )
}

function willRandom(server: ModelServer, random: Random, id: number, step: number): void {
  const clientId = `client ${id} ä`
  if (random.chance(0.3)) {
    server.clearWill(clientId)
    return
  }
  const payload = random.chance(0.2) ? Buffer.alloc(0) : Buffer.from(`will ${step}`)
  server.setWill(clientId, {
    will: {
      topic: `wills/${id}`,
      payload,
      qos: random.below(3) as QoS,
      retain: random.chance(0.5),
      properties: Buffer.from([1, 2, step & 0xff]),
      expirySeconds: random.chance(0.5) ? step : undefined,
      delaySeconds: random.below(100),
    },
    owner: random.chance(0.5) ? 'owner' : null,
    dueAt: random.chance(0.5) ? step * 10 : 0,
    assigned: step % 3 === 0,
  })
}

/** Ends a Session and lets another one take its messages over, in either order. */
function handOver(server: ModelServer, random: Random, ids: readonly number[]): void {
  const [from, to] = [random.pick(ids), random.pick(ids)]
  if (from === to) return
  const queue = server.queue(from)
  if (random.chance(0.5)) {
    for (const moved of queue) server.enqueue(to, moved)
    server.deleteSession(from)
  } else {
    server.deleteSession(from)
    for (const moved of queue) server.enqueue(to, moved)
  }
}
