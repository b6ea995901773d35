/** Lists, shows and changes queues for the operator. */
import type { Message } from '../../mqtt/message.ts'
import { decodeForwardedProperties } from '../../mqtt/properties/forwarded.ts'
import { LEASE_SECONDS, parseSubscription } from '../../mqtt/server-topics.ts'
import { WAIT_BUCKETS_MS, type Waits } from '../../queue/figures.ts'
import type { Group } from '../../queue/group.ts'
import {
  declarationError,
  fixedProperty,
  type GivenProperties,
  PROPERTY_NAMES,
  propertiesError,
  propertiesOf,
  propertyKey,
  type QueueProperties,
} from '../../queue/properties.ts'
import { propertiesByName, type QueueOptions } from '../../queue/queue-options.ts'
import type { Member, MemberState } from '../../queue/state/consumer.ts'
import type { LogCursor } from '../../store/log-store.ts'
import { secondsLeft } from '../boundary/expiry.ts'
import type { ServerState } from '../state/server-state.ts'
import { userProperty } from './arriving.ts'
import type { Definitions } from './definitions.ts'
import { MessageMove } from './message-move.ts'
import { Queue } from './queue.ts'
import {
  type ConsumerEntry,
  counted,
  type MoveSelection,
  type QueueCounters,
  type QueuedMessage,
  type QueuedState,
  type QueueEntry,
  type QueueFigures,
  type QueueOperator,
  QueueRefusal,
  type QueueSteps,
  type QueueTimes,
  type QueueWaits,
} from './queue-view.ts'

const LIST = 'List what exists: godwit queue list.'

export class Operator implements QueueOperator {
  readonly #state: ServerState
  readonly #definitions: Definitions
  readonly #durable: (durableAt: number) => Promise<void>

  /** `durable` resolves when everything up to a commit sequence is durable. It rejects with StoreError. */
  constructor(state: ServerState, definitions: Definitions, durable: (durableAt: number) => Promise<void>) {
    this.#state = state
    this.#definitions = definitions
    this.#durable = durable
  }

  // ── looking ─────────────────────────────────────────────────────────────────────────────────────────────

  *list(): QueueSteps<QueueEntry> {
    for (const queue of this.#definitions.byName.values()) yield entryOf(queue)
  }

  show(name: string): QueueEntry {
    return entryOf(this.#queue(name))
  }

  *figures(): QueueSteps<QueueFigures> {
    const { logs } = this.#state.store
    const now = this.#state.now()
    for (const queue of this.#definitions.byName.values()) {
      const { group, numbers } = queue
      let appendedAt = Number.POSITIVE_INFINITY
      for (const [lane, sequence] of group.oldestReady.entries()) {
        const cursor =
          sequence === 0 ? undefined : logs.segment(numbers.logs[lane]!, sequence)?.from(sequence)
        if (cursor?.next() === true) appendedAt = Math.min(appendedAt, cursor.appendedAt)
      }
      const states: Partial<Record<MemberState, number>> = {}
      for (const { state } of group.members) states[state] = (states[state] ?? 0) + 1
      yield { ...entryOf(queue), ...timesOf(group, appendedAt, now), consumerStates: states }
    }
  }

  async times(name: string): Promise<QueueTimes> {
    const queue = this.#queue(name)
    const { logs } = this.#state.store
    let appendedAt = Number.POSITIVE_INFINITY
    for (const [lane, sequence] of queue.group.oldestReady.entries()) {
      if (sequence === 0) continue
      const log = queue.numbers.logs[lane]!
      const segment = logs.segment(log, sequence) ?? (await logs.load(log, sequence))
      const cursor = segment?.from(sequence)
      if (cursor?.next() === true) appendedAt = Math.min(appendedAt, cursor.appendedAt)
    }
    return timesOf(queue.group, appendedAt, this.#state.now())
  }

  explain(name: string): readonly string[] {
    return this.#queue(name).group.explain()
  }

  *consumers(name: string): QueueSteps<ConsumerEntry> {
    const queue = this.#queue(name)
    for (const { session, filter, member } of queue.consumers) {
      yield consumerOf(session.clientId, session.owner, filter, member)
    }
    for (const { clientId, filter, member } of queue.programs) {
      if (member !== null) yield consumerOf(clientId, null, filter, member)
    }
  }

  orphanedBy({ declared }: Pick<QueueOptions, 'declared'>): readonly string[] {
    const names = new Set(declared.map(({ name }) => name))
    return [...this.#definitions.byName.values()]
      .filter(({ name, origin }) => origin === 'file' && !names.has(name))
      .map(({ name }) => `queue ${name} is not declared any more; it stays until godwit queue delete`)
  }

  async peek(name: string, limit: number, state: QueuedState | null): Promise<readonly QueuedMessage[]> {
    const queue = this.#queue(name)
    const found: QueuedMessage[] = []
    for (const [lane, { floor }] of [...queue.group.lanes.entries()].reverse()) {
      const log = queue.numbers.logs[lane]!
      for (let from = floor; found.length < limit; ) {
        const { logs } = this.#state.store
        const segment = logs.segment(log, from) ?? (await logs.load(log, from))
        if (segment === null || queue.isGone) break
        this.#peekInto(found, queue, lane, segment.from(from), limit, state)
        from = segment.end
      }
    }
    return found
  }

  #peekInto(
    found: QueuedMessage[],
    queue: Queue,
    lane: number,
    cursor: LogCursor,
    limit: number,
    state: QueuedState | null,
  ): void {
    while (found.length < limit && cursor.next()) {
      const known = queue.group.look(lane, cursor.sequence)
      if (known === null || known.state === 'gone' || (state !== null && known.state !== state)) continue
      const { topic, publisher, qos, payload, properties, expiresAt } = cursor.message()
      found.push({
        sequence: cursor.sequence,
        state: known.state,
        failures: known.failures,
        attempts: known.attempts,
        topicName: topic.byteLength === 0 ? null : topic.name,
        publisher,
        qos,
        enqueuedAt: cursor.appendedWall,
        expiresInSeconds:
          expiresAt === Number.POSITIVE_INFINITY ? null : secondsLeft(expiresAt, this.#state.now()),
        lease:
          known.lease === null
            ? null
            : {
                clientId: known.lease.clientId,
                seconds: secondsLeft(known.lease.until, this.#state.now()),
              },
        payload,
        properties: decodeForwardedProperties(properties),
      })
    }
  }

  // ── changing ────────────────────────────────────────────────────────────────────────────────────────────

  async declare(name: string, given: GivenProperties, by: string): Promise<boolean> {
    const error = declarationError(name, given)
    if (error !== null) throw new QueueRefusal(error, 'Choose another name or other properties.')
    const queue = this.#definitions.byName.get(name)
    if (queue !== undefined) {
      const other = PROPERTY_NAMES.find(
        (one) => given[one] !== undefined && !isSame(given[one], queue.properties[one]),
      )
      if (other === undefined) return false
      throw new QueueRefusal(
        `queue ${name} is there already, with another ${other}`,
        'Change it: godwit queue change.',
      )
    }
    this.#expectSpace()
    this.#begin()
    const properties = propertiesByName(this.#definitions.options, name, given)
    const made = this.#definitions.declare(name, properties, 'operator', by)
    if (!(made instanceof Queue)) throw new QueueRefusal(made.reason, 'Delete queues, or raise the limit.')
    await this.#settled()
    return true
  }

  async change(name: string, given: GivenProperties, force: boolean, by: string): Promise<void> {
    const queue = this.#queue(name)
    expectOwn(queue, 'changed')
    const properties = propertiesOf(queue.properties, given)
    const error = propertiesError(name, properties)
    if (error !== null) throw new QueueRefusal(error, 'Choose other properties.')
    if (!isSame(properties.filters, queue.properties.filters)) expectFilterChange(queue, properties, force)
    expectEmpty(queue, properties)
    this.#begin()
    const refusal = this.#definitions.change(
      queue,
      properties,
      queue.replyTo === null ? 'operator' : queue.origin,
      by,
    )
    if (refusal !== null) throw new QueueRefusal(refusal.reason, 'Choose other properties.')
    await this.#settled()
  }

  async delete(name: string, force: boolean, by: string): Promise<number> {
    const queue = this.#queue(name)
    if (!queue.isOrphaned) expectOwn(queue, 'deleted')
    const { messages } = queue.group.states
    if (!force && (messages > 0 || queue.consumerCount > 0)) {
      throw new QueueRefusal(
        `queue ${name} has ${counted(messages, 'message')} and ${counted(queue.consumerCount, 'consumer')}`,
        'The same command with --force deletes it all the same.',
      )
    }
    this.#begin()
    this.#definitions.delete(queue, by)
    await this.#settled()
    return messages
  }

  async purge(name: string): Promise<number> {
    const queue = this.#queue(name)
    const { group } = queue
    this.#begin()
    const { ready, waiting, deferred } = group.states
    group.purge()
    while (group.isPurging && !queue.isGone) await this.#nextTurn()
    await this.#settled()
    return ready + waiting + deferred
  }

  async pause(name: string): Promise<void> {
    const { group } = this.#queue(name)
    this.#begin()
    group.pause()
    await this.#settled()
  }

  async resume(name: string): Promise<void> {
    const { group } = this.#queue(name)
    this.#begin()
    group.resume()
    await this.#settled()
  }

  async move(from: string, to: string, which: MoveSelection): Promise<number> {
    const target = this.#queue(to)
    const source = this.#queue(from)
    if (source === target) throw new QueueRefusal(`${from} is both source and target`, 'Name another one.')
    return this.#move(source, () => target, which)
  }

  async replay(from: string, to: string | null, which: MoveSelection): Promise<number> {
    if (to !== null) return this.move(from, to, which)
    const targetOf = (message: Message): Queue => {
      const name = userProperty(message.properties, 'x-death-queue')
      if (name === undefined) {
        throw new QueueRefusal(`a message of ${from} is no dead letter`, 'Name its target with --to.')
      }
      const queue = this.#definitions.byName.get(name)
      if (queue !== undefined) return queue
      throw new QueueRefusal(`there is no queue ${name} any more`, 'Name another target with --to.')
    }
    return this.#move(this.#queue(from), targetOf, which)
  }

  async #move(source: Queue, targetOf: (message: Message) => Queue, which: MoveSelection): Promise<number> {
    this.#expectSpace()
    const move = new MessageMove(this.#state, source, targetOf, which, () => this.#settled())
    await move.check()
    const count = await move.run()
    await this.#settled()
    return count
  }

  // ── tools ───────────────────────────────────────────────────────────────────────────────────────────────

  #queue(name: string): Queue {
    const queue = this.#definitions.byName.get(name)
    if (queue === undefined) throw new QueueRefusal(`there is no queue ${name}`, LIST)
    return queue
  }

  #expectStore(): void {
    const { stopping, unavailable } = this.#state
    const reason = stopping ? 'the Server is shutting down' : unavailable
    if (reason !== null) throw new QueueRefusal(`nothing can be changed: ${reason}`, 'Try again later.')
  }

  /** New messages and definitions need space; deleting goes on without it. */
  #expectSpace(): void {
    this.#expectStore()
    const { refusal } = this.#state.store
    if (refusal !== null) throw new QueueRefusal(`nothing can be stored: ${refusal}`, 'Free space first.')
  }

  #begin(): void {
    this.#expectStore()
    this.#state.turn.begin()
  }

  #nextTurn(): Promise<void> {
    return new Promise((resolve) => this.#state.turn.continueLater(resolve))
  }

  #settled(): Promise<void> {
    return this.#durable(this.#state.store.openSequence)
  }
}

function entryOf(queue: Queue): QueueEntry {
  const { name, origin, isOrphaned, isPaused, properties, consumerCount, group } = queue
  const { ready, waiting, inFlight, held, deferred, messages, bytes } = group.states
  const counts = { ready, waiting, inFlight, held, deferred, messages, bytes }
  const counters = countersOf(queue)
  return { name, origin, isOrphaned, isPaused, properties, consumers: consumerCount, ...counts, counters }
}

function countersOf({ group, ignoredIds }: Queue): QueueCounters {
  const {
    in: came,
    out,
    acknowledged,
    refused,
    redelivered,
    dead,
    dropped,
    duplicates,
    results,
  } = group.counts
  const byCode = [...refused].map(([code, count]) => [`0x${code.toString(16)}`, count] as const)
  return {
    in: came,
    out,
    acknowledged,
    refused: Object.fromEntries(byCode),
    redelivered: occurred(redelivered),
    dead: occurred(dead),
    dropped: occurred(dropped),
    ids: occurred({ duplicate: duplicates, forgotten: group.forgottenIds, ignored: ignoredIds }),
    results: occurred(results),
  }
}

/** `appendedAt` is the time of the oldest ready message; Infinity for none. */
function timesOf({ oldestSentAt, counts: { waits } }: Group, appendedAt: number, now: number): QueueTimes {
  const since = (time: number): number | null =>
    time === Number.POSITIVE_INFINITY ? null : Math.max(0, Math.round((now - time) / 1000))
  return {
    oldestReadySeconds: since(appendedAt),
    oldestUnacknowledgedSeconds: since(oldestSentAt),
    waits: waits === null ? null : waitsOf(waits),
  }
}

function waitsOf({ counts, sumMs }: Waits): QueueWaits {
  const buckets = counts.map((count, at) => {
    const ms = WAIT_BUCKETS_MS[at]
    return { seconds: ms === undefined ? null : ms / 1000, count }
  })
  return { buckets, sumSeconds: sumMs / 1000 }
}

/** Leaves out reasons that did not occur. */
function occurred(counts: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0))
}

function consumerOf(
  clientId: string,
  userName: string | null,
  topicFilter: string,
  member: Member,
): ConsumerEntry {
  const { state, window, inFlight, held, echoes, options } = member
  return {
    clientId,
    userName,
    topicFilter,
    qos: options.qos,
    state,
    window: window.size,
    inFlight,
    held,
    ack: options.isExplicit ? 'explicit' : 'packet',
    leaseSeconds: options.isExplicit ? (options.leaseSeconds ?? LEASE_SECONDS) : null,
    echoes,
  }
}

/** Throws QueueRefusal for a queue of the configuration. */
function expectOwn({ name, origin }: Queue, what: string): void {
  if (origin !== 'file') return
  throw new QueueRefusal(
    `queue ${name} stands in the configuration, and is ${what} there`,
    'Edit the file, then: godwit reload.',
  )
}

/** Throws QueueRefusal if a property would change that can do so only in an empty queue. */
function expectEmpty({ name, group, properties }: Queue, after: QueueProperties): void {
  const { messages } = group.states
  const fixed = fixedProperty(properties, after)
  if (messages === 0 || fixed === null) return
  const what = `${propertyKey(fixed)} can change only while it is empty`
  throw new QueueRefusal(
    `queue ${name} has ${counted(messages, 'message')}; ${what}`,
    'Let consumers take them, or move them first: godwit queue move.',
  )
}

/** Throws QueueRefusal if a change of filters would break what is under way. */
function expectFilterChange(
  { name, group, consumers }: Queue,
  { filters }: QueueProperties,
  force: boolean,
): void {
  const { messages } = group.states
  if (messages > 0) {
    // A consumer of the new filter would get topics that it does not match [MQTT-3.3.2-3].
    throw new QueueRefusal(
      `queue ${name} has ${counted(messages, 'message')} of its old filters`,
      'Let consumers take them, or move them: godwit queue move.',
    )
  }
  const lost = [...consumers].filter(({ filter }) => {
    const asked = parseSubscription(filter)
    return asked?.kind === 'queue' && asked.filter !== null && !isSame([asked.filter], filters)
  })
  if (lost.length === 0 || force) return
  throw new QueueRefusal(
    `${counted(lost.length, 'consumer')} of queue ${name} subscribed with its old filter`,
    'The same command with --force disconnects them and ends their Subscriptions.',
  )
}

function isSame(one: unknown, other: unknown): boolean {
  return one === other || JSON.stringify(one) === JSON.stringify(other)
}
