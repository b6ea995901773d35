/** The state that a queue's machine gets back from the store at a start. */
import type { QoS } from '../mqtt/message.ts'
import type { HeldEntry, ReturnedEntry } from '../store/log-store.ts'
import type { Core } from './core.ts'
import { type Consumer, type Entry, Handle, Member, State } from './state/consumer.ts'
import type { RememberedId } from './state/remembered.ts'
import type { Run } from './state/runs.ts'

export interface Recovery {
  readonly isPaused: boolean
  readonly group: {
    readonly lanes: readonly { readonly floor: number; readonly runs: Iterable<Run> }[]
    readonly returned: readonly ReturnedEntry[]
    readonly held: readonly HeldEntry[]
    /** Oldest first. */
    readonly remembered: readonly RememberedId[]
    readonly rememberedHead: number
  }
  /**
   * By lane: one past the last sequence, and the messages that are not settled, with the sum of their sizes.
   */
  readonly logs: readonly { readonly next: number; readonly messages: number; readonly bytes: number }[]
}

/** A message in flight of a stored Session. */
export interface Place {
  readonly lane: number
  readonly sequence: number
  readonly attempt: number
  readonly qos: QoS
  readonly packetId: number
}

/** The holder of what was held before a restart: only its name is known. */
function formerConsumer(clientId: string): Consumer {
  return { clientId, take: () => 'no-room', release: () => {}, abandon: () => {} }
}

export function restoreEntries(core: Core, { group, logs }: Recovery): void {
  for (const lane of core.lanes) {
    const log = logs[lane.number]
    const state = group.lanes[lane.number]
    if (log === undefined) continue
    lane.recover(state?.floor ?? 1, state?.runs ?? [], log.next, log.messages, log.bytes)
  }
  const entries = new Map<string, Entry>()
  const entryOf = (number: number, sequence: number): Entry | null => {
    const name = `${number} ${sequence}`
    const known = entries.get(name)
    if (known !== undefined) return known
    const lane = core.lanes[number]
    if (lane === undefined || !lane.isUnread(sequence)) return null
    const entry = core.enterAt(lane, sequence, -1)
    entries.set(name, entry)
    core.tagged[number]!.set(sequence, entry)
    return entry
  }
  for (const { lane, sequence, failures, attempts, due } of group.returned) {
    const entry = entryOf(lane, sequence)
    if (entry === null) continue
    entry.failures = failures
    entry.attempts = attempts
    entry.at = due
  }
  restoreHeld(core, group.held, entryOf)
  for (const entry of entries.values()) {
    if (entry.state !== State.Ready) continue
    if (entry.at > 0) {
      core.setState(entry, State.Deferred)
      core.deferred.push(entry)
      core.due(entry.at)
    } else {
      core.lanes[entry.lane]!.ready.push(entry)
      core.idled(entry)
    }
  }
}

function restoreHeld(
  core: Core,
  held: readonly HeldEntry[],
  entryOf: (lane: number, sequence: number) => Entry | null,
): void {
  const holders = new Map<string, Member>()
  for (const { lane, sequence, attempt, until, token, leaseSeconds, clientId } of held) {
    const entry = entryOf(lane, sequence)
    if (entry === null) continue
    const isInDoubt = until === Number.POSITIVE_INFINITY
    const name = `${isInDoubt} ${leaseSeconds} ${clientId}`
    const options = {
      face: isInDoubt && leaseSeconds === 0 ? 'share' : 'queue',
      qos: isInDoubt ? 2 : 1,
      ...{ prefetch: null, isExplicit: !isInDoubt, leaseSeconds },
    } as const
    const holder = holders.get(name) ?? new Member(formerConsumer(clientId), options, 1, false)
    holders.set(name, holder)
    core.former.add(holder)
    entry.attempts = Math.max(entry.attempts, attempt)
    entry.at = until
    entry.handle = new Handle(entry, holder, options.qos, attempt, core.context.now(), token)
    core.handles++
    holder.held++
    core.setState(entry, State.Held)
    if (isInDoubt) core.doubt.restored(entry)
    else {
      core.leases.push(entry)
      core.due(until)
    }
  }
}
