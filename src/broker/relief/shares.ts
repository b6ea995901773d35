/**
 * PURE. What of its messages is a client's own: one that several Sessions have is in memory once, and each has its share. Looked at
 * only when somebody has to pay, and at some messages only.
 */
import type { Session } from '../../session/session.ts'

/** Messages that are looked at of each Session: of what is in flight, and of what waits. */
const MESSAGES_EACH = 500

/** What part of the bytes of its messages is a Session's own: 1 where it shares nothing. */
export function ownPart(session: Session): number {
  let bytes = 0
  let own = 0
  for (const { size, entries } of session.sample(MESSAGES_EACH)) {
    bytes += size
    own += size / Math.max(1, entries)
  }
  return bytes === 0 ? 1 : own / bytes
}
