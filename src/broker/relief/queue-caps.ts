/** Caps queues while memory or disk is short: those of the users with most of it do not grow. */
import type { Session } from '../../session/session.ts'
import { type Usage, usageOf } from '../accounts/usage.ts'
import type { ServerState } from '../state/server-state.ts'

export class QueueCaps {
  readonly #state: ServerState
  readonly #of: 'disk' | 'memory'
  readonly #leastBytes: number
  readonly #bytesOf: (session: Session) => number
  readonly #capped = new Set<Session>()

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
   * Caps the queues of these users' stored Sessions, and uncaps others. `why` tells the operator what is
   * short.
   */
  cap(users: ReadonlySet<Usage>, why: string): void {
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
    if (this.#capped.size === 0) return
    for (const session of this.#capped) session.queue.uncap()
    this.#capped.clear()
  }
}
