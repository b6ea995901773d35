/** A queue's machine with everything around it in memory: log, records, time and consumers. */
import { Message, NO_TOPIC, type QoS, Topic } from '../../src/mqtt/message.ts'
import type { GoneReason } from '../../src/queue/figures.ts'
import { Group } from '../../src/queue/group.ts'
import type { Death, GroupContext } from '../../src/queue/group-context.ts'
import { DEFAULT_PROPERTIES } from '../../src/queue/properties.ts'
import type { Recovery } from '../../src/queue/recovery.ts'
import type { GroupRules } from '../../src/queue/rules.ts'
import type { Consumer, Handle, Member, MemberOptions } from '../../src/queue/state/consumer.ts'
import type { LogCursor, LogSegment } from '../../src/queue/state/lane.ts'
import { type Run, Runs } from '../../src/queue/state/runs.ts'
import type { HeldEntry } from '../../src/store/log-store.ts'

export const RULES: GroupRules = { ...DEFAULT_PROPERTIES, filters: ['#'] }

/** Entries of a segment. */
const SEGMENT = 8

export type RecordMade =
  | { readonly is: 'settled'; readonly lane: number; readonly first: number; readonly next: number }
  | {
      readonly is: 'returned'
      readonly lane: number
      readonly sequence: number
      readonly failures: number
      readonly attempts: number
      readonly due: number
    }
  | { readonly is: 'held'; readonly lane: number; readonly sequence: number; readonly until: number }
  | { readonly is: 'remembered'; readonly id: string }

/** The log, and the records as the store would apply them. */
export class Log {
  readonly messages: Message[][] = []
  /** When each was appended. */
  readonly times: number[][] = []
  readonly settled: Runs[] = []
  readonly count: number[] = []
  readonly bytes: number[] = []
  readonly returned = new Map<string, Recovery['group']['returned'][number]>()
  readonly held = new Map<string, Recovery['group']['held'][number]>()
  readonly remembered: { id: string; time: number }[] = []
  isPaused = false

  constructor(lanes: number) {
    this.widen(lanes)
  }

  /** Adds empty lanes, up to so many. */
  widen(lanes: number): void {
    for (let lane = this.messages.length; lane < lanes; lane++) {
      this.messages.push([])
      this.times.push([])
      this.settled.push(new Runs())
      this.count.push(0)
      this.bytes.push(0)
    }
  }

  recovery(): Recovery {
    return {
      isPaused: this.isPaused,
      group: {
        lanes: this.settled.map((runs) => {
          const floor = runs.skip(1)
          return { floor, runs: [...runs].filter(({ first }) => first >= floor) }
        }),
        returned: [...this.returned.values()],
        held: [...this.held.values()],
        remembered: this.remembered,
        rememberedHead: 0,
      },
      logs: this.messages.map((messages, lane) => ({
        next: messages.length + 1,
        messages: this.count[lane]!,
        bytes: this.bytes[lane]!,
      })),
    }
  }
}

/** One consumer, and what it was sent. */
export class FakeConsumer implements Consumer {
  readonly clientId: string
  isStored = false
  /** What `take` answers; 'no-room' for none. */
  capacity = Number.POSITIVE_INFINITY
  /** Larger messages are too large. */
  sizeMax = Number.POSITIVE_INFINITY
  /** In order of arrival; not what was acknowledged. */
  readonly has: Handle[] = []
  readonly payloads: string[] = []
  readonly released: Handle[] = []
  readonly abandoned: Handle[] = []
  member: Member | null = null
  readonly #stage: Stage

  constructor(stage: Stage, clientId: string) {
    this.#stage = stage
    this.clientId = clientId
  }

  take(message: Message, handle: Handle): 'taken' | 'no-room' | 'too-large' {
    if (message.size > this.sizeMax || this.capacity === 0) {
      const result = message.size > this.sizeMax ? 'too-large' : 'no-room'
      this.#stage.onRefusal(this, handle, result)
      return result
    }
    this.capacity--
    this.#stage.onTake(this, handle, message)
    if (handle.qos > 0) handle.packetId = ++this.#stage.packetId
    if (handle.qos > 0) this.has.push(handle)
    this.payloads.push(message.payload.toString())
    return 'taken'
  }

  release(handle: Handle): void {
    this.#forget(handle)
    this.released.push(handle)
  }

  abandon(handle: Handle): void {
    this.abandoned.push(handle)
  }

  /** Answers what it was sent as `payload`, or the oldest. */
  answer(code = 0, handle = this.has[0], retryAfter: number | null = null, detail = ''): void {
    this.#forget(handle!)
    this.#stage.group.acknowledged(handle!, code, retryAfter, detail)
    this.#stage.settle()
  }

  #forget(handle: Handle): void {
    const at = this.has.indexOf(handle)
    if (at !== -1) this.has.splice(at, 1)
  }
}

export class Stage implements GroupContext {
  time = 1000
  readonly log: Log
  group: Group
  rules: GroupRules
  readonly records: RecordMade[] = []
  readonly deaths: Death[] = []
  readonly drops: { reason: GoneReason; lane: number; sequence: number; count: number }[] = []
  readonly silents: Member[] = []
  unsettledMaxTold = 0
  packetId = 0
  /** Starts of the broker before this one. */
  starts = 0
  tickTime = Number.POSITIVE_INFINITY
  isAwake = false
  /** Whether segments have to be read; those that are in memory, as `lane first`. */
  isLazy = false
  readonly inMemory = new Set<string>()
  readonly wanted = new Set<string>()
  /** Whether `settle` runs `work`, so that each test need not. */
  isAutomatic = true
  onTake: (consumer: FakeConsumer, handle: Handle, message: Message) => void = () => {}
  onRefusal: (consumer: FakeConsumer, handle: Handle, result: 'no-room' | 'too-large') => void = () => {}
  onDrop: (reason: GoneReason, lane: number, sequence: number) => void = () => {}
  onDeath: (death: Death) => void = () => {}
  onReturned: (lane: number, sequence: number, due: number) => void = () => {}
  onTick: () => void = () => {}
  /** Messages that `work` handles at once. */
  budget = 512
  /** Ids that were forgotten early. */
  forgotten = 0

  constructor(rules: Partial<GroupRules> = {}, log?: Log) {
    this.rules = { ...RULES, ...rules }
    this.log = log ?? new Log(this.rules.priorities ?? 1)
    this.group = new Group(this, 1, this.rules, log === undefined ? null : log.recovery())
  }

  // ── the context ─────────────────────────────────────────────────────────────────────────────────────

  now(): number {
    return this.time
  }

  token(lane: number, sequence: number, attempt: number, { isStored }: Consumer): string {
    const token = `t${lane}-${sequence}-${attempt}`
    return isStored === true ? token : `${token}-${this.starts}`
  }

  append(lane: number, message: Message): number {
    this.log.count[lane]!++
    this.log.bytes[lane]! += message.size
    this.log.times[lane]!.push(this.time)
    return this.log.messages[lane]!.push(message)
  }

  segment(lane: number, sequence: number): LogSegment | null {
    const first = sequence - ((sequence - 1) % SEGMENT)
    const name = `${lane} ${first}`
    if (this.isLazy && !this.inMemory.has(name)) {
      this.wanted.add(name)
      return null
    }
    return new FakeSegment(this.log.messages[lane]!, this.log.times[lane]!, first)
  }

  /** Reads what was asked for. */
  load(): void {
    for (const name of [...this.wanted]) {
      this.wanted.delete(name)
      this.inMemory.clear()
      this.inMemory.add(name)
      this.group.loaded(Number(name.split(' ')[0]))
      this.settle()
    }
  }

  *expiring(lane: number, now: number): Iterable<Run> {
    const messages = this.log.messages[lane]!
    for (let first = 1; first <= messages.length; first += SEGMENT) {
      const next = Math.min(first + SEGMENT, messages.length + 1)
      if (messages.slice(first - 1, next - 1).some(({ expiresAt }) => expiresAt <= now)) yield { first, next }
    }
  }

  settled(lane: number, first: number, next: number, bytes: number): void {
    const runs = this.log.settled[lane]!
    for (let sequence = first; sequence < next; sequence++) {
      if (runs.has(sequence)) throw new Error(`${sequence} is settled twice`)
      this.log.returned.delete(`${lane} ${sequence}`)
      this.log.held.delete(`${lane} ${sequence}`)
    }
    runs.add(first, next)
    this.log.count[lane]! -= next - first
    this.log.bytes[lane]! -= bytes
    this.records.push({ is: 'settled', lane, first, next })
  }

  returned(lane: number, sequence: number, failures: number, attempts: number, due: number): void {
    this.log.held.delete(`${lane} ${sequence}`)
    this.log.returned.set(`${lane} ${sequence}`, { lane, sequence, failures, attempts, due })
    this.onReturned(lane, sequence, due)
    this.records.push({ is: 'returned', lane, sequence, failures, attempts, due })
  }

  held(entry: HeldEntry): void {
    const { lane, sequence, until } = entry
    this.log.held.set(`${lane} ${sequence}`, entry)
    this.records.push({ is: 'held', lane, sequence, until })
  }

  remembered(id: string, time: number): void {
    this.log.remembered.push({ id, time })
    this.records.push({ is: 'remembered', id })
  }

  forgottenIds(count: number): void {
    this.forgotten += count
  }

  paused(isPaused: boolean): void {
    this.log.isPaused = isPaused
  }

  dead(death: Death): void {
    this.deaths.push(death)
    this.onDeath(death)
  }

  dropped(reason: GoneReason, lane: number, sequence: number, count: number): void {
    this.drops.push({ reason, lane, sequence, count })
    this.onDrop(reason, lane, sequence)
  }

  silent(member: Member): void {
    this.silents.push(member)
  }

  unsettledMax(): void {
    this.unsettledMaxTold++
  }

  wake(): void {
    if (this.isAwake) throw new Error('woken twice')
    this.isAwake = true
  }

  tickAt(time: number): void {
    this.tickTime = time
  }

  // ── what tests do ───────────────────────────────────────────────────────────────────────────────────

  join(clientId: string, options: Partial<MemberOptions> = {}, isOnline = true): FakeConsumer {
    const consumer = new FakeConsumer(this, clientId)
    const all = { face: 'queue', qos: 1, prefetch: 10, isExplicit: false, leaseSeconds: null } as const
    consumer.member = this.group.join(consumer, { ...all, ...options }, isOnline)
    this.settle()
    return consumer
  }

  put(...payloads: readonly string[]): void {
    for (const payload of payloads) this.group.append(message(payload))
    this.settle()
  }

  /** Lets `work` go on until nothing is left to do. */
  settle(): void {
    while (this.isAutomatic && (this.isAwake || this.group.hasWork)) {
      this.isAwake = false
      this.group.work(this.budget)
      if (this.wanted.size > 0) return
    }
  }

  /** Lets time pass, in steps from one deadline to the next. */
  pass(ms: number): void {
    const until = this.time + ms
    for (let guard = 0; this.tickTime <= until; guard++) {
      if (guard > 10_000) throw new Error('it ticks for ever')
      this.time = Math.max(this.time, this.tickTime)
      this.tickTime = Number.POSITIVE_INFINITY
      this.onTick()
      this.group.tick()
      this.settle()
    }
    this.time = until
  }

  away(consumer: FakeConsumer): void {
    consumer.has.splice(
      0,
      consumer.has.length,
      ...consumer.has.filter((one) => !consumer.abandoned.includes(one)),
    )
    this.group.away(consumer.member!)
    this.settle()
  }

  back(consumer: FakeConsumer): void {
    this.group.back(consumer.member!)
    this.settle()
  }

  end(consumer: FakeConsumer, isCharged = true): void {
    this.group.end(consumer.member!, isCharged)
    this.settle()
  }

  /** A new start of the broker on what was recorded. */
  restarted(rules = this.rules): Stage {
    const stage = new Stage(rules, this.log)
    stage.time = this.time
    stage.starts = this.starts + 1
    return stage
  }

  /** Failures of a message, as recorded. */
  failures(sequence: number, lane = 0): number {
    return this.log.returned.get(`${lane} ${sequence}`)?.failures ?? 0
  }
}

class FakeSegment implements LogSegment {
  readonly first: number
  readonly #messages: readonly Message[]

  readonly #times: readonly number[]

  constructor(messages: readonly Message[], times: readonly number[], first: number) {
    this.#messages = messages
    this.#times = times
    this.first = first
  }

  get end(): number {
    return Math.min(this.first + SEGMENT, this.#messages.length + 1)
  }

  from(sequence: number): LogCursor {
    return new FakeCursor(this.#messages, this.#times, Math.max(sequence, this.first) - 1, () => this.end)
  }
}

class FakeCursor implements LogCursor {
  sequence: number
  readonly #messages: readonly Message[]
  readonly #times: readonly number[]
  readonly #end: () => number

  constructor(messages: readonly Message[], times: readonly number[], before: number, end: () => number) {
    this.#messages = messages
    this.#times = times
    this.sequence = before
    this.#end = end
  }

  next(): boolean {
    if (this.sequence + 1 >= this.#end()) return false
    this.sequence++
    return true
  }

  get size(): number {
    return this.message().size
  }

  get expiresAt(): number {
    return this.message().expiresAt
  }

  get appendedAt(): number {
    return this.#times[this.sequence - 1]!
  }

  message(): Message {
    return this.#messages[this.sequence - 1]!
  }
}

/** A message to `topic` of so many bytes in all, at least. */
export function message(
  payload: string,
  { topic = 'a', qos = 1 as QoS, expiresAt = Number.POSITIVE_INFINITY, properties = Buffer.alloc(0) } = {},
): Message {
  const name = topic === '' ? NO_TOPIC : new Topic(topic)
  return Message.of({
    topic: name,
    payload: Buffer.from(payload),
    qos,
    retain: false,
    properties,
    expiresAt,
    publisher: 'p',
  })
}
