/**
 * HOT. Messages at QoS 2 of Sessions that the store does not know. From the first PUBLISH on they are their
 * Session's, so the store keeps a note of them: after a restart they go to nobody else [MQTT-4.3.3-6].
 */
import type { HeldEntry } from '../store/log-store.ts'
import type { GroupContext } from './group-context.ts'
import { type Entry, type Handle, State } from './state/consumer.ts'

/** Whether the store would not know, after a restart, that a Session has this message. */
export function isUnknown({ qos, member }: Handle): boolean {
  return qos === 2 && member.consumer.isStored !== true
}

/** The note of a hand-out: a lease that does not end. */
function noteOf({ lane, sequence }: Entry, handle: Handle): HeldEntry {
  const { attempt, token, member, leaseSeconds } = handle
  const { clientId } = member.consumer
  const seconds = member.options.face === 'share' ? 0 : leaseSeconds
  return { lane, sequence, attempt, until: Number.POSITIVE_INFINITY, token, leaseSeconds: seconds, clientId }
}

/** The machine as this part sees it. */
interface Machine {
  readonly context: GroupContext
  wake(): void
  settle(entry: Entry): void
  dropped(reason: 'session-ended', lane: number, sequence: number, count: number): void
  kill(entry: Entry, reason: 'in-doubt', code: number, detail: string, clientId: string): void
}

export class Doubt {
  readonly #core: Machine
  /** Those that were in flight before the restart, until it is told what becomes of them. */
  readonly #before = new Set<Entry>()
  /** Those that are on their way to the dead letters. */
  readonly #moving = new Map<Entry, HeldEntry>()

  constructor(core: Machine) {
    this.#core = core
  }

  /** Records a hand-out, and again after a record that ends it. */
  record(handle: Handle): void {
    if (isUnknown(handle)) this.#core.context.held(noteOf(handle.entry, handle))
  }

  /** Its Session ended: the note holds until the dead letter is there. */
  moves(entry: Entry): void {
    const { handle } = entry
    if (handle === null || !isUnknown(handle)) return
    const note = noteOf(entry, handle)
    this.#moving.set(entry, note)
    this.#core.context.held(note)
  }

  left(entry: Entry): void {
    if (this.#moving.size > 0) this.#moving.delete(entry)
  }

  /** The note of an entry, for a checkpoint; null if it needs none. */
  note(entry: Entry): HeldEntry | null {
    const { handle, state } = entry
    if (handle === null) return this.#moving.get(entry) ?? null
    if (state === State.Held) return this.#before.has(entry) ? noteOf(entry, handle) : null
    return isUnknown(handle) ? noteOf(entry, handle) : null
  }

  /** At a start: an entry was in flight. */
  restored(entry: Entry): void {
    this.#before.add(entry)
    this.#core.wake()
  }

  get hasWork(): boolean {
    return this.#before.size > 0
  }

  /** Has entries go that were in flight before the restart. Returns the units of work that it did. */
  run(budget: number): number {
    let units = 0
    for (const entry of this.#before) {
      if (units >= budget) break
      units++
      this.#before.delete(entry)
      const { handle } = entry
      if (handle !== null && entry.state === State.Held) this.end(handle)
    }
    return units
  }

  /** Nobody knows whether the client has it: it may go to nobody else [MQTT-4.8.2-5]. */
  end({ entry, member }: Handle): void {
    const core = this.#core
    if (member.options.face === 'share') {
      core.dropped('session-ended', entry.lane, entry.sequence, 1)
      core.settle(entry)
    } else core.kill(entry, 'in-doubt', entry.code, '', member.consumer.clientId)
  }
}
