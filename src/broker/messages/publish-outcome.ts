/**
 * The outcome of publishing a message. The Publisher reuses one object: it is valid until the next message.
 */
import { Reason } from '../../mqtt/reason.ts'
import type { Limit } from '../boundary/events.ts'
import type { FanOut } from './fan-out.ts'

export class PublishOutcome {
  /**
   * Success, NoMatchingSubscribers, or the code that refuses the message as a whole; then nothing has
   * happened.
   */
  reasonCode: Reason = Reason.Success
  /** The limit that refused the message; null when none did. */
  refusedBy: Limit | null = null
  /** Why, for the client; null where the Reason Code says enough. */
  detail: string | null = null
  /** Sessions that took the message. */
  receivers = 0
  /**
   * The commit that makes the message durable; 0 when nothing of it is stored. Not known while it is
   * `underWay`.
   */
  durableAt = 0
  /** The message while it is given out in slices, and some receivers do not have it yet; else null. */
  underWay: FanOut | null = null

  reset(): void {
    this.reasonCode = Reason.Success
    this.refusedBy = null
    this.detail = null
    this.receivers = 0
    this.durableAt = 0
    this.underWay = null
  }
}
