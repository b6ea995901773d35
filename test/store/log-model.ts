/**
 * A naive broker of queues for tests of logs: it keeps in plain maps what a store should remember, tells the
 * store about every change, and can say at any time what a recovery has to bring back.
 */
import {
  type Delivery,
  type DeliverySource,
  Message,
  NO_IDENTIFIERS,
  NO_TOPIC,
  Topic,
} from '../../src/mqtt/message.ts'
import { type QoS, SESSION_NEVER_EXPIRES } from '../../src/mqtt/packet.ts'
import type {
  DefinitionRecord,
  GroupRecord,
  GroupSource,
  GroupState,
  HeldEntry,
  LaneState,
  LogSegment,
  RememberedId,
  ReturnedEntry,
  Run,
} from '../../src/store/log-store.ts'
import type {
  BootTime,
  InFlight,
  OutboundState,
  Recovered,
  StateSource,
  Store,
  StoreError,
} from '../../src/store/store.ts'
import type { Random } from './model.ts'

/** Returns the runs of sequences that are not in `unsettled`, between its lowest one and `next`. */
function runsOf(unsettled: ReadonlyMap<number, unknown>, next: number): LaneState {
  const live = [...unsettled.keys()].sort((a, b) => a - b)
  const floor = live[0] ?? next
  const runs: Run[] = []
  for (let index = 0; index < live.length; index++) {
    const first = live[index]! + 1
    const end = live[index + 1] ?? next
    if (end > first) runs.push({ first, next: end })
  }
  return { floor, runs }
}

export class ModelQueue implements GroupState {
  readonly number: number
  readonly group: number
  record: DefinitionRecord
  readonly groupRecord: GroupRecord
  /** By lane: what is not settled, as text with its size, by sequence. */
  readonly live: Map<number, { readonly text: string; readonly size: number }>[]
  readonly nexts: number[]
  readonly back = new Map<string, ReturnedEntry>()
  readonly leases = new Map<string, HeldEntry>()
  ids: RememberedId[] = []
  rememberedHead = 0
  counters: readonly number[] = []

  constructor(number: number, group: number, record: DefinitionRecord) {
    this.number = number
    this.group = group
    this.record = record
    this.groupRecord = { definition: number, kind: 'queue', name: '', filter: '' }
    this.live = record.logs.map(() => new Map())
    this.nexts = record.logs.map(() => 1)
  }

  get lanes(): LaneState[] {
    return this.live.map((entries, lane) => runsOf(entries, this.nexts[lane]!))
  }

  returned(): Iterable<ReturnedEntry> {
    return this.back.values()
  }

  held(): Iterable<HeldEntry> {
    return this.leases.values()
  }

  get rememberedTail(): number {
    return this.rememberedHead + this.ids.length
  }

  remembered(from: number, to: number): Iterable<RememberedId> {
    return this.ids.slice(from - this.rememberedHead, to - this.rememberedHead)
  }

  /** Forgets settled entries wherever they are known. */
  forget(lane: number, sequence: number): void {
    this.live[lane]!.delete(sequence)
    this.back.delete(`${lane} ${sequence}`)
    this.leases.delete(`${lane} ${sequence}`)
  }

  describe(): object {
    const inOrder = <T extends { lane: number; sequence: number }>(entries: Iterable<T>): T[] =>
      [...entries].sort((a, b) => a.lane - b.lane || a.sequence - b.sequence)
    const { kind, name, origin, properties, logs, paused } = this.record
    return {
      record: { kind, name, origin, properties, logs, paused },
      lanes: this.live.map((entries, lane) => ({
        next: this.nexts[lane],
        messages: entries.size,
        bytes: [...entries.values()].reduce((sum, { size }) => sum + size, 0),
        entries: [...entries].sort(([a], [b]) => a - b).map(([sequence, { text }]) => `${sequence} ${text}`),
      })),
      back: inOrder(this.back.values()),
      leases: inOrder(this.leases.values()),
      // Forgetting is not recorded.
      ids: this.ids,
    }
  }
}

export function textOf(message: Message): string {
  const { topic, payload, properties, qos, retain, publisher, expiresAt } = message
  return `${topic.name}|${payload}|${properties.toString('hex')}|${qos}|${retain}|${publisher}|${expiresAt}`
}

export class LogModel implements StateSource {
  readonly store: Store
  readonly queues = new Map<string, ModelQueue>()
  /** Packets in flight from groups, of one stored Session. */
  readonly flights = new Map<number, DeliverySource | null>()
  /** The state to be recovered after the block with this sequence number. */
  readonly states = new Map<number, string>()
  readonly failures: StoreError[] = []
  brokerTime = 1000
  wallTime = 1_700_000_000_000
  /** False for large tests. */
  remember = true
  lastPacketId = 0
  #waiting: (() => void)[] = []

  constructor(store: Store) {
    this.store = store
  }

  readonly groups: GroupSource = {
    state: (group) => [...this.queues.values()].find((queue) => queue.group === group),
  }

  now(): number {
    return this.brokerTime
  }

  wallNow(): number {
    return this.wallTime
  }

  /** Asked once per block, when it is sealed. */
  bootTime(): BootTime | null {
    if (this.remember) this.states.set(this.store.openSequence, this.describe())
    return null
  }

  outbound(): OutboundState {
    const flights = [...this.flights].map(([packetId, source]): InFlight => {
      return { packetId, delivery: source === null ? null : deliveryFrom(source) }
    })
    return {
      inFlight: () => flights,
      queueHead: 0,
      queueTail: 0,
      readQueue: () => {},
      lastPacketId: this.lastPacketId,
      inbound: () => [],
    }
  }

  committed(): void {
    for (const wake of this.#waiting.splice(0)) wake()
  }

  failed(error: StoreError): void {
    this.failures.push(error)
    this.committed()
  }

  /** Opens the store and takes over what it has. */
  async open(): Promise<Recovered> {
    const recovered = await this.store.open(this)
    this.queues.clear()
    this.flights.clear()
    const { definitions, groups } = recovered.logs ?? { definitions: [], groups: [] }
    for (const { number, record } of definitions) {
      const group = groups.find((each) => each.record.definition === number)!
      const queue = new ModelQueue(number, group.number, record)
      this.queues.set(record.name, queue)
      for (const entry of group.returned) queue.back.set(`${entry.lane} ${entry.sequence}`, entry)
      for (const entry of group.held) queue.leases.set(`${entry.lane} ${entry.sequence}`, entry)
      queue.ids = [...group.remembered]
      queue.rememberedHead = group.rememberedHead
      queue.counters = group.counters
      for (const [lane, log] of record.logs.entries())
        await this.#readLog(queue, lane, log, group.lanes[lane]!)
    }
    for (const { inFlight, lastPacketId } of recovered.sessions) {
      this.lastPacketId = lastPacketId
      if ('packetIds' in inFlight)
        for (const packetId of inFlight.packetIds) this.flights.set(-packetId, null)
      else for (const { packetId, delivery } of inFlight) this.flights.set(packetId, delivery?.source ?? null)
    }
    return recovered
  }

  async #readLog(queue: ModelQueue, lane: number, log: number, state: LaneState): Promise<void> {
    const { logs } = this.store
    const figures = logs.log(log)
    queue.nexts[lane] = figures.next
    const settled = (sequence: number): boolean =>
      sequence < state.floor ||
      [...state.runs].some(({ first, next }) => sequence >= first && sequence < next)
    for (let from = state.floor; ; ) {
      const segment: LogSegment | null = await logs.load(log, from)
      if (segment === null) break
      const cursor = segment.from(from)
      while (cursor.next()) {
        if (settled(cursor.sequence)) continue
        queue.live[lane]!.set(cursor.sequence, { text: textOf(cursor.message()), size: cursor.size })
      }
      from = segment.end
    }
    const live = queue.live[lane]!
    const bytes = [...live.values()].reduce((sum, { size }) => sum + size, 0)
    if (figures.messages !== live.size || figures.bytes !== bytes)
      throw new Error(
        `log ${log} counts ${figures.messages} messages of ${figures.bytes} bytes: ${live.size}, ${bytes}`,
      )
  }

  async commit(): Promise<void> {
    const { store } = this
    const wanted = store.recordedSequence
    while (store.committedSequence < wanted && this.failures.length === 0) {
      const committed = new Promise<void>((resolve) => this.#waiting.push(resolve))
      store.commit()
      await committed
    }
    store.commit()
  }

  createSession(): void {
    this.store.putSession(1, {
      clientId: 'consumer',
      owner: null,
      ownerId: null,
      expirySeconds: SESSION_NEVER_EXPIRES,
      disconnectedAt: 0,
    })
  }

  declare(name: string, lanes = 1): ModelQueue {
    const { logs } = this.store
    const [number, group] = [logs.takeNumber(), logs.takeNumber()]
    const record: DefinitionRecord = {
      ...{ kind: 'queue', name, origin: 'use', properties: '{"prefetch":"auto"}', paused: false },
      owner: lanes === 1 ? { userName: 'anna', address: '' } : { userName: null, address: '10.0.0.1' },
      logs: Array.from({ length: lanes }, () => logs.takeNumber()),
    }
    const queue = new ModelQueue(number, group, record)
    this.queues.set(name, queue)
    logs.putDefinition(number, record)
    logs.putGroup(group, queue.groupRecord)
    return queue
  }

  delete(name: string): void {
    const queue = this.queues.get(name)!
    this.store.logs.deleteDefinition(queue.number)
    this.queues.delete(name)
    for (const [packetId, source] of this.flights) {
      if (source?.group !== queue.group) continue
      this.store.completed(1, packetId, null)
      this.flights.delete(packetId)
    }
  }

  append(queue: ModelQueue, lane: number, message: Message, expiresAt = message.expiresAt): number {
    const sequence = this.store.logs.append(queue.record.logs[lane]!, message, expiresAt)
    if (sequence !== queue.nexts[lane]) throw new Error(`sequence ${sequence}, not ${queue.nexts[lane]}`)
    queue.nexts[lane] = sequence + 1
    queue.live[lane]!.set(sequence, { text: textOf(message), size: message.size })
    return sequence
  }

  /** Settles the unsettled ones from `first` up to, not including, `next`. */
  settle(queue: ModelQueue, lane: number, first: number, next: number): void {
    const live = queue.live[lane]!
    for (let from = first; from < next; ) {
      if (!live.has(from)) {
        from++
        continue
      }
      let to = from
      let bytes = 0
      for (; to < next && live.has(to); to++) bytes += live.get(to)!.size
      for (let sequence = from; sequence < to; sequence++) queue.forget(lane, sequence)
      this.store.logs.settled(queue.group, lane, from, to, bytes)
      this.#land(queue, lane, from, to)
      from = to
    }
  }

  #land(queue: ModelQueue, lane: number, from: number, to: number): void {
    for (const [packetId, source] of this.flights) {
      if (source === null || source.group !== queue.group || source.lane !== lane) continue
      if (source.sequence < from || source.sequence >= to) continue
      this.store.completed(1, packetId, null)
      this.flights.delete(packetId)
    }
  }

  return(queue: ModelQueue, entry: ReturnedEntry): void {
    queue.leases.delete(`${entry.lane} ${entry.sequence}`)
    queue.back.set(`${entry.lane} ${entry.sequence}`, entry)
    this.store.logs.returned(queue.group, entry)
  }

  hold(queue: ModelQueue, entry: HeldEntry): void {
    queue.leases.set(`${entry.lane} ${entry.sequence}`, entry)
    this.store.logs.held(queue.group, entry)
  }

  rememberId(queue: ModelQueue, id: string): void {
    const entry = { time: this.brokerTime, id }
    queue.ids.push(entry)
    this.store.logs.remembered(queue.group, entry)
  }

  send(queue: ModelQueue, lane: number, sequence: number, attempt: number): void {
    const source = { group: queue.group, lane, sequence, attempt, filter: `$queue/${queue.record.name}/#` }
    this.lastPacketId = (this.lastPacketId % 65_535) + 1
    this.flights.set(this.lastPacketId, source)
    this.store.logs.sent(1, this.lastPacketId, deliveryFrom(source))
  }

  /** PUBREC arrived. */
  receive(packetId: number): void {
    this.flights.delete(packetId)
    this.flights.set(packetId, null)
    this.store.received(1, packetId, null)
  }

  complete(packetId: number): void {
    this.flights.delete(packetId)
    this.store.completed(1, packetId, null)
  }

  describe(): string {
    const queues = [...this.queues].sort(([a], [b]) => (a < b ? -1 : 1))
    return JSON.stringify(
      { queues: queues.map(([, queue]) => queue.describe()), flights: [...this.flights] },
      null,
      1,
    )
  }
}

export function deliveryFrom(source: DeliverySource): Delivery {
  const message = Message.of({ topic: NO_TOPIC, qos: 1, retain: false, publisher: '' }, 0)
  return { message, qos: 1, retain: false, subscriptionIdentifiers: NO_IDENTIFIERS, share: null, source }
}

export function entry(text: string, fields: { topic?: string; qos?: QoS; expiresAt?: number } = {}): Message {
  const { topic = 'jobs/a', qos = 1, expiresAt = Number.POSITIVE_INFINITY } = fields
  return Message.of({
    topic: topic === '' ? NO_TOPIC : new Topic(topic),
    payload: Buffer.from(text),
    properties: text.length % 3 === 0 ? Buffer.from([0x01, 0x01]) : Buffer.alloc(0),
    ...{ qos, retain: text.length % 5 === 0, expiresAt, publisher: `pub-${text.length % 7}` },
  })
}

/** Does something at random. */
export function actOnLogs(model: LogModel, random: Random, bytesMax = 3000): void {
  const names = ['a', 'b', 'c', 'd']
  const name = random.pick(names)
  const queue = model.queues.get(name)
  if (queue === undefined) {
    model.declare(name, random.below(3) === 0 ? 3 : 1)
    return
  }
  const lane = random.below(queue.live.length)
  const live = [...queue.live[lane]!.keys()]
  const action = random.below(100)
  model.brokerTime += random.below(50)
  model.wallTime += random.below(50)
  if (action < 45) {
    for (let count = random.below(6); count >= 0; count--)
      model.append(
        queue,
        lane,
        entry('x'.repeat(random.below(bytesMax)), { expiresAt: randomExpiry(random) }),
      )
  } else if (action < 75 && live.length > 0) {
    const first = random.below(3) > 0 ? live[0]! : random.pick(live)
    model.settle(queue, lane, first, first + 1 + random.below(40))
  } else if (action < 80 && live.length > 0) {
    const due = random.below(2) * 5000
    model.return(queue, { lane, sequence: random.pick(live), failures: random.below(5), attempts: 3, due })
  } else if (action < 84 && live.length > 0) {
    // One without an end is in flight at QoS 2 to a Session that is not stored.
    const until = random.chance(0.8) ? model.brokerTime + 60_000 : Number.POSITIVE_INFINITY
    model.hold(queue, {
      lane,
      sequence: random.pick(live),
      attempt: 2,
      until,
      token: 'abcdefgh',
      leaseSeconds: 90,
      clientId: 'w',
    })
  } else if (action < 90) {
    model.rememberId(queue, `id-${random.below(1e9)}`)
  } else if (action < 94 && live.length > 0) {
    model.send(queue, lane, random.pick(live), 1)
  } else if (action < 97 && model.flights.size > 0) {
    const packetId = random.pick([...model.flights.keys()])
    if (model.flights.get(packetId) === null) model.complete(packetId)
    else model.receive(packetId)
  } else if (action === 97) {
    model.delete(name)
  } else if (action === 98) {
    // The wall clock is set.
    model.wallTime += 100_000
  }
}

function randomExpiry(random: Random): number {
  return random.below(4) === 0 ? 1000 + random.below(100_000) : Number.POSITIVE_INFINITY
}
