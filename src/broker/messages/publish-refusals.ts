/**
 * HOT. Refuses messages for which there is no room: on disk, in memory, in a subscriber's queue, or in a
 * queue.
 */
import type { Message } from '../../mqtt/message.ts'
import { Reason } from '../../mqtt/reason.ts'
import { type Inlet, NO_INLETS } from '../../routing/inlet.ts'
import type { Route } from '../../routing/route.ts'
import type { Session } from '../../session/session.ts'
import { usageOf } from '../accounts/usage.ts'
import type { Limit } from '../boundary/events.ts'
import type { DiskRelief } from '../relief/disk-relief.ts'
import type { KeptRelief } from '../relief/kept-relief.ts'
import { hasRoomToRetain, retainedExcess, retainerOf } from '../relief/quotas.ts'
import type { ShareBacklog } from '../relief/share-backlog.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { PublishOutcome } from './publish-outcome.ts'
import { chooseMember } from './share-member.ts'

/** Each refusal is written into the outcome of the message. */
export class PublishRefusals {
  readonly #state: ServerState
  readonly #backlog: ShareBacklog
  readonly #disk: DiskRelief
  readonly #kept: KeptRelief

  constructor(state: ServerState, backlog: ShareBacklog, disk: DiskRelief, kept: KeptRelief) {
    this.#state = state
    this.#backlog = backlog
    this.#disk = disk
    this.#kept = kept
  }

  /** Refuses a message for which there is no room. Returns whether it did. */
  isRefused(
    outcome: PublishOutcome,
    message: Message,
    publisher: Session | null,
    route: Route<Session>,
    stores: boolean,
  ): boolean {
    const { limits, store, memoryRefusal } = this.#state
    const retains = message.retain && message.payloadBytes > 0
    const short = stores || retains ? store.refusalFor(message.size) : null
    if (short !== null && !this.#clears(message)) return this.refuse(outcome, 'disk', message, short)
    if (this.#disk.pressed !== null && (stores || retains) && publisher !== null && !this.#clears(message)) {
      const refusal = this.#disk.refusal(usageOf(publisher))
      if (refusal !== null) {
        this.#state.counters.relief['publish-refused']++
        return this.refuse(outcome, 'disk', message, refusal)
      }
    }
    if (stores && route.inlets !== NO_INLETS && publisher !== null) {
      // The memory that a queue takes for it stays until it is worked off.
      const refusal = this.#kept.refusal(usageOf(publisher))
      if (refusal !== null) {
        this.#state.counters.relief['publish-refused']++
        return this.refuse(outcome, 'memoryBytesMax', message, refusal)
      }
    }
    if (memoryRefusal !== null && (stores || retains) && !this.#clears(message)) {
      return this.refuse(outcome, 'memoryBytesMax', message, memoryRefusal)
    }
    if (retains && this.isRetainingRefused(outcome, message, publisher)) return true
    if (
      message.qos > 0 &&
      limits.queueFull === 'refuse' &&
      anyQueueFull(this.#state, this.#backlog, route, message)
    ) {
      return this.refuse(
        outcome,
        'queueMessagesMax',
        message,
        `the queue of a subscriber of ${message.topic.name} is full`,
      )
    }
    return (
      message.qos > 0 && route.inlets !== NO_INLETS && this.#isRefusedByInlet(outcome, message, route.inlets)
    )
  }

  #isRefusedByInlet(outcome: PublishOutcome, message: Message, inlets: readonly Inlet[]): boolean {
    for (const inlet of inlets) {
      const refusal = inlet.refusal(message)
      if (refusal === null) continue
      outcome.detail = refusal.detail
      return this.refuse(outcome, 'fullQueue', message, refusal.detail)
    }
    return false
  }

  /**
   * Whether the message clears a retained one that takes at least as much room: its subscribers may store it.
   */
  #clears({ retain, payloadBytes, topic, size }: Message): boolean {
    if (!retain || payloadBytes > 0) return false
    const previous = this.#state.retained.get(topic.name)
    return previous !== undefined && size <= previous.size
  }

  /** Whether retaining the message takes no more room than now. */
  #replaces({ topic, size, payloadBytes }: Message): boolean {
    return payloadBytes === 0 || size <= (this.#state.retained.get(topic.name)?.size ?? 0)
  }

  /**
   * Refuses to retain beyond the limits. Returns whether it did. The Server's own values and expired messages
   * do not count.
   */
  isRetainingRefused(outcome: PublishOutcome, message: Message, publisher: Session | null): boolean {
    const { counters, retainedExpiry, work } = this.#state
    const { deadlines } = retainedExpiry
    if (this.#kept.pressed !== null && !this.#replaces(message)) {
      const user = retainerOf(this.#state, message, publisher)
      const refusal = user === null ? null : this.#kept.refusal(user)
      if (refusal !== null) {
        counters.relief['publish-refused']++
        return this.refuse(outcome, 'memoryBytesMax', message, refusal)
      }
    }
    if (message.payloadBytes === 0 || hasRoomToRetain(this.#state, message, publisher)) return false
    const now = this.#state.now()
    if (deadlines.nextTime <= now) deadlines.advance(now, work.units + SLICE_UNITS / 10)
    const excess = retainedExcess(this.#state, message, publisher)
    return excess !== null && this.refuse(outcome, excess.limit, message, excess.detail)
  }

  refuse(outcome: PublishOutcome, limit: Limit, message: Message, detail: string): true {
    outcome.refusedBy = limit
    outcome.reasonCode = Reason.QuotaExceeded
    this.#state.counters.publishRefused++
    this.#state.limited(limit, message.publisher, detail)
    return true
  }
}

function anyQueueFull(
  state: ServerState,
  backlog: ShareBacklog,
  route: Route<Session>,
  message: Message,
): boolean {
  for (const entry of route.entries) {
    if (entry.qos > 0 && !entry.subscriber.ended && entry.subscriber.queueFullFor(message)) return true
  }
  for (const group of route.groups) {
    const member = group.members[chooseMember(state, backlog, group, message)]
    if (member !== undefined && member.options.qos > 0 && member.subscriber.queueFullFor(message)) return true
  }
  return false
}
