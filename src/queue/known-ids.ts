/** The `message-id`s of a queue: what it took within `deduplicateSeconds` is not taken again. */
import type { Core } from './core.ts'
import { Remembered, type RememberedId } from './state/remembered.ts'

/** Ids are forgotten when one is asked for, and at least this often in ms. */
const FORGET_MS = 10_000

export class KnownIds {
  readonly #core: Core
  readonly list: Remembered
  /** Ids that were forgotten early, since there were too many. */
  forgotten = 0

  constructor(core: Core, head: number, ids: Iterable<RememberedId>) {
    this.#core = core
    this.list = new Remembered(head, ids)
    // The records still name those that were forgotten early before the restart.
    this.list.trim(core.rules.deduplicateIdsMax)
    this.#forgetLater()
  }

  /** Ids that are known now. */
  get size(): number {
    this.#forget()
    return this.list.size
  }

  has(id: string): boolean {
    this.#forget()
    return this.list.has(id)
  }

  /** Remembers the id of a message that was just appended, in the same commit. */
  add(id: string): void {
    const { rules, context } = this.#core
    if (rules.deduplicateSeconds === 0) return
    const now = context.now()
    this.list.add(id, now)
    context.remembered(id, now)
    this.#trim()
    this.#forgetLater()
  }

  /** Forgets those whose time is over. To be called at the time that it asked for, or later. */
  tick(): void {
    this.#forget()
    this.#forgetLater()
  }

  /** Other rules hold from now on. */
  changed(): void {
    this.#forget()
    this.#trim()
    this.#forgetLater()
  }

  /** With too many, the oldest are forgotten early. */
  #trim(): void {
    const early = this.list.trim(this.#core.rules.deduplicateIdsMax)
    this.forgotten += early
    if (early > 0) this.#core.context.forgottenIds(early)
  }

  #forget(): void {
    const { rules, context } = this.#core
    this.list.forget(context.now() - 1000 * rules.deduplicateSeconds)
  }

  #forgetLater(): void {
    if (this.list.size === 0) return
    const { rules, context } = this.#core
    this.#core.due(
      Math.max(this.list.oldestTime + 1000 * rules.deduplicateSeconds, context.now() + FORGET_MS),
    )
  }
}
