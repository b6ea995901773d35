/** Queues and streams while a store is filled from records. The store reads their groups for checkpoints. */
import type { DeliverySource, Message } from '../../mqtt/message.ts'
import type { LevelStore } from '../level/level-store.ts'
import type { GroupSource, GroupState, RememberedId } from '../log-store.ts'
import { ConflictError } from './conflict-error.ts'
import type { DefinitionLine, DefinitionName, EntryRecord, GroupLine, LogFlightFields } from './records.ts'

interface WrittenDefinition {
  readonly number: number
  readonly logs: readonly number[]
  /** Numbers of its groups, by name. */
  readonly groups: Map<string, number>
  /** The latest sequence of each lane. */
  readonly latest: number[]
}

export class WrittenQueues implements GroupSource {
  readonly #store: LevelStore
  readonly #definitions = new Map<string, WrittenDefinition>()
  readonly #states = new Map<number, GroupState>()

  constructor(store: LevelStore) {
    this.#store = store
  }

  state(group: number): GroupState | undefined {
    return this.#states.get(group)
  }

  define(line: DefinitionLine): void {
    const { kind, name, origin, paused, properties, lanes, owner } = line
    if (this.#definitions.has(keyOf(line))) throw new ConflictError(`is a second ${kind} ${name}`)
    const { logs } = this.#store
    const definition = {
      number: logs.takeNumber(),
      logs: Array.from({ length: lanes }, () => logs.takeNumber()),
      groups: new Map<string, number>(),
      latest: new Array<number>(lanes).fill(0),
    }
    this.#definitions.set(keyOf(line), definition)
    const record = { kind, name, origin, paused, properties, logs: definition.logs, owner }
    logs.putDefinition(definition.number, record)
  }

  /** Appends an entry; `message` has the topic NO_TOPIC if it has none. */
  append({ of, lane, sequence, appendedAt }: EntryRecord, message: Message): void {
    const definition = this.#definition(of)
    const log = definition.logs[lane]
    if (log === undefined) throw new ConflictError(`is for a lane that ${of.kind} ${of.name} does not have`)
    if (sequence <= definition.latest[lane]!) throw new ConflictError(`repeats the sequence ${sequence}`)
    definition.latest[lane] = sequence
    this.#store.restoreEntry(log, sequence, message, appendedAt)
  }

  group(line: GroupLine): void {
    const definition = this.#definition(line.of)
    if (definition.groups.has(line.name)) throw new ConflictError(`is a second group ${line.name}`)
    const { logs } = this.#store
    const group = logs.takeNumber()
    definition.groups.set(line.name, group)
    this.#states.set(group, new WrittenGroup(line))
    const { kind, name, filter } = line
    logs.putGroup(group, { definition: definition.number, kind, name, filter })
    // The head value of a new group says that nothing is settled.
    logs.touched(group)
  }

  source({ of, group: name, lane, sequence, attempt, filter }: LogFlightFields): DeliverySource {
    const group = this.#definition(of).groups.get(name)
    if (group === undefined) throw new ConflictError(`is of a group that ${of.kind} ${of.name} does not have`)
    return { group, lane, sequence, attempt, filter }
  }

  #definition(of: DefinitionName): WrittenDefinition {
    const definition = this.#definitions.get(keyOf(of))
    if (definition === undefined)
      throw new ConflictError(`is for ${of.kind} ${of.name}, which no earlier line defines`)
    return definition
  }
}

function keyOf({ kind, name }: DefinitionName): string {
  return `${kind} ${name}`
}

/** The state of a group, which does not change. */
class WrittenGroup implements GroupState {
  readonly #line: GroupLine
  readonly rememberedHead = 0

  constructor(line: GroupLine) {
    this.#line = line
  }

  get lanes(): GroupLine['lanes'] {
    return this.#line.lanes
  }

  get counters(): readonly number[] {
    return this.#line.counters
  }

  get rememberedTail(): number {
    return this.#line.remembered.length
  }

  returned(): GroupLine['returned'] {
    return this.#line.returned
  }

  held(): GroupLine['held'] {
    return this.#line.held
  }

  remembered(from: number, to: number): readonly RememberedId[] {
    return this.#line.remembered.slice(from, to)
  }
}
