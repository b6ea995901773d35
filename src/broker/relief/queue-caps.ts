/**
 * Caps queues of Sessions, and message queues, while memory or disk is short: those of the users with most of
 * it do not grow.
 */
import type { Session } from '../../session/session.ts'
import { type Usage, usageOf } from '../accounts/usage.ts'
import type { OwnedQueue } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'

export class QueueCaps {
  readonly #state: ServerState
  readonly #of: 'disk' | 'memory'
  readonly #leastBytes: number
  readonly #bytesOf: (session: Session) => number
  readonly #capped = new Set<Session>()
  readonly #cappedQueues = new Set<OwnedQueue>()

  /** `bytesOf` measures a queue in what is short; queues below `leastBytes` are left alone. */
  constructor(
    state: ServerState,
    of: 'disk' | 'memory',
    leastBytes: number,
    bytesOf: (session: Session) => number,
  ) {
    this.#state = state
    this.#of = of
    this.#leastBytes = leastBytes
    this.#bytesOf = bytesOf
  }

  /**
   * Caps the queues of these users' stored Sessions and those that they made, and uncaps others. `why` tells
   * the operator what is short.
   */
  cap(users: ReadonlySet<Usage>, why: string): void {
    this.#capSessions(users, why)
    this.#capQueues(users, why)
  }

  #capQueues(users: ReadonlySet<Usage>, why: string): void {
    const { counters, events, queues } = this.#state
    // Deleted ones, and those that are the operator's now, belong to nobody.
    for (const queue of this.#cappedQueues) {
      if (queue.owner !== null) continue
      this.#cappedQueues.delete(queue)
      queue.uncap()
    }
    for (const queue of queues?.owned ?? []) {
      const { owner } = queue
      if (owner === null) continue
      if (!users.has(owner)) {
        if (this.#cappedQueues.delete(queue)) queue.uncap()
        continue
      }
      if (queue.isCapped) continue
      queue.cap()
      this.#cappedQueues.add(queue)
      counters.relief.capped++
      const bytes = this.#of === 'disk' ? queue.countedStoredBytes : queue.countedBytes
      const detail = `queue ${queue.name} does not grow: its overflow says which messages are dropped; ${why}`
      const userName = owner.name
      events.emit('relieved', { clientId: '', userName, step: 'capped', of: this.#of, bytes, detail })
    }
  }

  #capSessions(users: ReadonlySet<Usage>, why: string): void {
    const { sessionsById, events, counters } = this.#state
    for (const session of this.#capped)
      if (sessionsById.get(session.id) !== session) this.#capped.delete(session)
    for (const session of sessionsById.values()) {
      const user = usageOf(session)?.user ?? null
      const isLarge = user !== null && users.has(user)
      if (!isLarge) {
        if (this.#capped.delete(session)) session.queue.uncap()
        continue
      }
      const bytes = this.#bytesOf(session)
      if (bytes < this.#leastBytes || session.queue.isCapped) continue
      session.queue.cap()
      this.#capped.add(session)
      counters.relief.capped++
      const { clientId, owner: userName } = session
      const detail = `its queue does not grow: limits.queue_full says which messages are dropped; ${why}`
      events.emit('relieved', { clientId, userName, step: 'capped', of: this.#of, bytes, detail })
    }
  }

  /** Uncaps all queues: nothing is short any more. */
  end(): void {
    for (const session of this.#capped) session.queue.uncap()
    this.#capped.clear()
    for (const queue of this.#cappedQueues) queue.uncap()
    this.#cappedQueues.clear()
  }
}
