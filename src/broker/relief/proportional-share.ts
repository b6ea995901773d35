/**
 * PURE. A Session's part of the messages that it shares with others. Each message is in memory once, and each
 * Session with it accounts for an equal share. Asked only when clients have to give up memory.
 */
import type { Session } from '../../session/session.ts'

/** Messages sampled of each Session, in flight and queued. */
const MESSAGES_EACH = 500

/** Returns the share of its messages' bytes that a Session accounts for: 1 if it shares none of them. */
export function proportionalShare(session: Session): number {
  let bytes = 0
  let own = 0
  for (const { size, entries } of session.sample(MESSAGES_EACH)) {
    bytes += size
    own += size / Math.max(1, entries)
  }
  return bytes === 0 ? 1 : own / bytes
}
