/** The queues that there are: how they are declared, changed and deleted, in memory and in the store. */
import { Reason } from '../../mqtt/reason.ts'
import { isDeadLetterName } from '../../mqtt/server-topics.ts'
import {
  checkedProperties,
  deadLetterQueue,
  declarationError,
  fixedProperty,
  type GivenProperties,
  PropertyError,
  propertiesError,
  propertiesOf,
  propertyKey,
  type QueueProperties,
  writtenProperties,
} from '../../queue/properties.ts'
import { propertiesByName, type QueueOptions } from '../../queue/queue-options.ts'
import type { DefinitionOrigin, RecoveredLogs } from '../../store/log-store.ts'
import { type Excess, excess } from '../accounts/form-limits.ts'
import type { Usage } from '../accounts/usage.ts'
import type { Owner } from '../boundary/policy.ts'
import type { QueueRefusal } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { DeadLetters } from './dead-letters.ts'
import { Queue, type QueueDefinition, type QueueEnvironment } from './queue.ts'
import { QueueOwners } from './queue-owners.ts'

/** The name in a stored definition, beside the properties, of the secret behind the tags of a queue. */
const TAG_SECRET = 'tag_secret'

/** Beside the properties of a stored reply queue: its user. */
const REPLY_TO = 'reply_to'

/** Changes who consumes a queue, when its definition changes. Set by `QueueRoom`. */
export interface ConsumerChanges {
  /** Members of Shared Subscriptions become consumers of this queue. */
  takeMembers(queue: Queue): void
  /** Consumers that came by a Shared Subscription become its members again. */
  giveMembersBack(queue: Queue): void
  /** A message of a queue went to the dead letters, in this turn. */
  moved(queue: Queue, lane: number, sequence: number): void
  /** Ends the consumers whose filters no longer fit the queue, or all of them. */
  endConsumers(queue: Queue, which: 'all' | 'unfitting', reason: string): void
}

export class Definitions implements QueueEnvironment {
  readonly state: ServerState
  readonly byName = new Map<string, Queue>()
  readonly byGroup = new Map<number, Queue>()
  options: QueueOptions
  /** Queues that were declared by use. */
  byUse = 0
  changes!: ConsumerChanges
  readonly owners: QueueOwners
  readonly #deadLetters: DeadLetters

  constructor(state: ServerState, options: QueueOptions) {
    this.state = state
    this.options = options
    this.owners = new QueueOwners(state)
    this.#deadLetters = new DeadLetters(
      state,
      (queue) => this.#deadLettersOf(queue),
      (queue, { lane, sequence }) => this.changes.moved(queue, lane, sequence),
    )
  }

  get unsettledMax(): number {
    return this.options.unsettledMax
  }

  get lookaheadMessagesMax(): number {
    return this.options.lookaheadMessagesMax
  }

  moveToDeadLetters(queue: Queue, death: Parameters<QueueEnvironment['moveToDeadLetters']>[1]): void {
    this.#deadLetters.add(queue, death)
  }

  /** Finds or makes the dead letter queue of another. */
  #deadLettersOf(queue: Queue): Queue | null {
    const name = deadLetterQueue(queue.name, queue.properties)
    if (name === null) return null
    const found = this.byName.get(name)
    if (found !== undefined) return found.properties.filters.length === 0 ? found : null
    if (!isDeadLetterName(name)) return null
    const made = this.declare(name, propertiesByName(this.options, name), 'server', 'server', queue.owner)
    return made instanceof Queue ? made : null
  }

  /**
   * Makes a queue, which is not there yet; or says why it cannot. The definition goes with the open block.
   * By use, `by` is the Client Identifier, and the queue counts for the client's user.
   */
  declare(
    name: string,
    properties: QueueProperties,
    origin: DefinitionOrigin,
    by: string,
    owner: Usage | null = origin === 'use' ? this.owners.of(by) : null,
  ): Queue | QueueRefusal {
    const error = declarationError(name, properties)
    if (error !== null) return { reasonCode: Reason.TopicFilterInvalid, reason: error }
    return this.#make({ name, properties, origin, owner, replyTo: null }, by)
  }

  /** Makes the reply queue of a client and its user. */
  declareReply(
    name: string,
    properties: QueueProperties,
    clientId: string,
    replyTo: Owner,
  ): Queue | QueueRefusal {
    const owner = this.owners.of(clientId)
    return this.#make({ name, properties, origin: 'use', owner, replyTo }, clientId)
  }

  #make(wanted: Omit<QueueDefinition, 'numbers' | 'tagSecret'>, by: string): Queue | QueueRefusal {
    const { name, origin, owner } = wanted
    const { unavailable } = this.state
    // It may be in the store that is being read again.
    if (unavailable !== null) return { reasonCode: Reason.QuotaExceeded, reason: unavailable }
    const excess = origin === 'use' ? this.#excess(owner) : null
    if (excess !== null) {
      const { limit, detail, told: reason } = excess
      this.state.limited(limit, by, `${detail}; refused ${name}`)
      return { reasonCode: Reason.QuotaExceeded, reason, limit }
    }
    const { logs } = this.state.store
    const numbers = {
      definition: logs.takeNumber(),
      group: logs.takeNumber(),
      logs: this.#logsFor(wanted.properties, []),
    }
    const definition = { ...wanted, numbers, tagSecret: this.#newSecret() }
    this.#put(definition, false)
    logs.putGroup(numbers.group, { definition: numbers.definition, kind: 'queue', name: '', filter: '' })
    const queue = this.#add(new Queue(this, definition, null))
    this.changes.takeMembers(queue)
    this.state.events.emit('queueDeclared', { queue: name, by })
    return queue
  }

  /** Returns a log for each lane: those that there are, and new ones. */
  #logsFor({ priorities }: QueueProperties, before: readonly number[]): readonly number[] {
    const { logs } = this.state.store
    const missing = Math.max(0, priorities - before.length)
    return [...before, ...Array.from({ length: missing }, () => logs.takeNumber())]
  }

  /** Declarations of the operator, and dead letter queues, must not fail for those of clients. */
  #excess(owner: Usage | null): Excess | null {
    const { queuesMax, declaredByUseMax, declaredPerUserMax } = this.options
    if (owner !== null && owner.madeQueues >= declaredPerUserMax) {
      const detail = `${owner.madeQueues} queues of ${owner.name} were declared by use`
      return excess('queuesPerUserMax', detail, 'the user has declared as many queues as the Server allows')
    }
    const all = `there are ${queuesMax} queues`
    if (this.byName.size >= queuesMax) return excess('queuesMax', all, all)
    const byUse = `${declaredByUseMax} queues were declared by use`
    return this.byUse >= declaredByUseMax ? excess('queuesMax', byUse, byUse) : null
  }

  #add(queue: Queue): Queue {
    this.byName.set(queue.name, queue)
    this.byGroup.set(queue.numbers.group, queue)
    if (queue.origin === 'use') this.byUse++
    this.owners.added(queue)
    for (const filter of queue.properties.filters) this.state.router.addInlet(filter, queue)
    return queue
  }

  /** 192 bits. */
  #newSecret(): string {
    const { host } = this.state
    return host.randomId() + host.randomId()
  }

  #recordOf(definition: QueueDefinition, paused: boolean) {
    const { name, numbers, origin, properties, owner, replyTo, tagSecret } = definition
    const own = replyTo === null ? {} : { [REPLY_TO]: replyTo }
    const written = JSON.stringify({ ...writtenProperties(properties), [TAG_SECRET]: tagSecret, ...own })
    const record = { kind: 'queue', name, origin, properties: written, logs: numbers.logs, paused } as const
    return { ...record, owner: owner === null ? null : this.state.usage.identityOf(owner) }
  }

  record(queue: Queue): void {
    this.#put(queue, queue.isPaused)
  }

  #put(definition: QueueDefinition, isPaused: boolean): void {
    const record = this.#recordOf(definition, isPaused)
    this.state.store.logs.putDefinition(definition.numbers.definition, record)
  }

  /**
   * Gives a queue other properties, from the next message on; or says why it cannot. With other filters it
   * has to be empty: the topics of its messages would not match its consumers' filters [MQTT-3.3.2-3]. So it
   * has with other priorities: the places of its messages belong to lanes.
   */
  change(
    queue: Queue,
    properties: QueueProperties,
    origin: DefinitionOrigin,
    by: string,
  ): QueueRefusal | null {
    const { router } = this.state
    const before = queue.properties.filters
    const after = properties.filters
    const error = propertiesError(queue.name, properties)
    if (error !== null) return { reasonCode: Reason.TopicFilterInvalid, reason: error }
    const isSame = before.length === after.length && after.every((filter) => before.includes(filter))
    const fixed = fixedProperty(queue.properties, properties)
    const stays = isSame
      ? fixed && `${propertyKey(fixed)} cannot change until they are consumed or moved`
      : `filters stay ${before.join(', ') || 'none'}`
    if (stays !== null && queue.group.states.messages > 0) {
      const reason = `queue ${queue.name} has messages, so its ${stays}`
      return { reasonCode: Reason.TopicFilterInvalid, reason }
    }
    if (queue.shareFilter !== null) this.changes.giveMembersBack(queue)
    for (const filter of before) if (!after.includes(filter)) router.removeInlet(filter, queue)
    for (const filter of after) if (!before.includes(filter)) router.addInlet(filter, queue)
    if (queue.origin !== origin) {
      // The operator takes charge of it.
      if (queue.origin === 'use') this.byUse--
      this.owners.removed(queue)
      queue.origin = origin
    }
    queue.properties = properties
    queue.numbers = { ...queue.numbers, logs: this.#logsFor(properties, queue.numbers.logs) }
    // The store has to know the logs of new lanes before the machine asks for them.
    this.record(queue)
    queue.changed()
    this.changes.endConsumers(queue, 'unfitting', `queue ${queue.name} takes other messages now`)
    this.changes.takeMembers(queue)
    this.state.events.emit('queueChanged', { queue: queue.name, by })
    return null
  }

  /** Deletes a queue with everything in it. */
  delete(queue: Queue, by: string): void {
    const { router, store, events, turn } = this.state
    turn.begin()
    this.changes.giveMembersBack(queue)
    this.changes.endConsumers(queue, 'all', `queue ${queue.name} was deleted`)
    for (const filter of queue.properties.filters) router.removeInlet(filter, queue)
    this.byName.delete(queue.name)
    this.byGroup.delete(queue.numbers.group)
    if (queue.origin === 'use') this.byUse--
    this.owners.removed(queue)
    queue.close()
    store.logs.deleteDefinition(queue.numbers.definition)
    events.emit('queueDeleted', { queue: queue.name, by })
  }

  /** Applies the configuration. Returns notices. */
  configure(options: QueueOptions): string[] {
    this.options = options
    const notices: string[] = []
    const declared = new Map(options.declared.map(({ name, properties }) => [name, properties]))
    for (const [name, given] of declared) this.#configureOne(name, given, notices)
    for (const queue of this.byName.values()) {
      if (queue.origin !== 'file') continue
      queue.isOrphaned = !declared.has(queue.name)
      if (queue.isOrphaned) {
        notices.push(
          `Queue ${queue.name} is not in the configuration any more, and stays until it is deleted.`,
        )
      }
    }
    return notices
  }

  #configureOne(name: string, given: GivenProperties, notices: string[]): void {
    const properties = propertiesByName(this.options, name, given)
    const queue = this.byName.get(name)
    if (queue === undefined) {
      const made = this.declare(name, properties, 'file', 'file')
      if (!(made instanceof Queue)) notices.push(`Queue ${name} was not declared: ${made.reason}.`)
      return
    }
    const isSame = JSON.stringify(queue.properties) === JSON.stringify(properties)
    if (isSame && queue.origin === 'file') return
    const refusal = this.change(queue, properties, 'file', 'file')
    if (refusal !== null) notices.push(`Queue ${name} was not changed: ${refusal.reason}.`)
  }

  /** Takes over what the store has, before its Sessions. Returns notices. */
  recover({ definitions, groups }: RecoveredLogs): string[] {
    const notices: string[] = []
    for (const { number, record } of definitions) {
      const group = groups.find((one) => one.record.definition === number)
      if (record.kind !== 'queue' || group === undefined) continue
      const stored = JSON.parse(record.properties) as Record<string, unknown>
      const { [TAG_SECRET]: secret, [REPLY_TO]: replyTo, ...found } = stored
      const isKnown = typeof secret === 'string'
      const properties = this.#readProperties(record.name, found, notices)
      // An import may have fewer lanes than priorities.
      const logs = this.#logsFor(properties, record.logs)
      const definition = {
        name: record.name,
        numbers: { definition: number, group: group.number, logs },
        origin: record.origin,
        owner: record.owner === null ? null : this.state.usage.ownerOf(record.owner),
        properties,
        tagSecret: isKnown ? secret : this.#newSecret(),
        replyTo: readOwner(replyTo),
      }
      // Earlier versions had no secret.
      if (!isKnown || logs.length > record.logs.length) this.#put(definition, record.paused)
      this.#add(new Queue(this, definition, { isPaused: record.paused, group }))
    }
    return notices
  }

  /** Reads stored properties. Of those of a later version, the defaults take the place. */
  #readProperties(name: string, found: Record<string, unknown>, notices: string[]): QueueProperties {
    try {
      return propertiesOf(checkedProperties(found))
    } catch (error) {
      if (!(error instanceof PropertyError)) throw error
      notices.push(`Queue ${name} has the default properties, since ${error.message}.`)
      const { filters } = found
      return propertiesOf(this.options.defaults, checkedProperties({ filters }))
    }
  }

  /** Forgets all queues: the store is read again. */
  clear(): void {
    this.#deadLetters.clear()
    for (const queue of this.byName.values()) {
      for (const filter of queue.properties.filters) this.state.router.removeInlet(filter, queue)
      this.owners.removed(queue)
      queue.close()
    }
    this.byName.clear()
    this.byGroup.clear()
    this.byUse = 0
  }
}

/** Reads the user of a stored reply queue; null for any other queue. */
function readOwner(found: unknown): Owner | null {
  if (typeof found !== 'object' || found === null) return null
  const { userName, userId } = found as { readonly userName?: unknown; readonly userId?: unknown }
  const textOf = (one: unknown): string | null => (typeof one === 'string' ? one : null)
  return { userName: textOf(userName), userId: textOf(userId) }
}
