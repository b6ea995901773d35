/**
 * PURE. What clients hold alone, and what they share: a body that waits for several Sessions is in memory once. Looked at only
 * when somebody has to pay, and at the newest messages only, which a publisher gave to all of them.
 */
import type { Message } from '../mqtt/message.ts'
import type { Session } from '../session/session.ts'

/** Messages that are looked at of each Session: of what is in flight, and of what waits. */
const MESSAGES_EACH = 500

/** What part of the bytes of their messages is each Session's own: 1 where it shares nothing. */
export function ownParts(sessions: readonly Session[]): number[] {
  const holders = new Map<Message, number>()
  const samples = sessions.map((session) => session.sample(MESSAGES_EACH))
  for (const messages of samples) {
    for (const message of messages) holders.set(message, (holders.get(message) ?? 0) + 1)
  }
  return samples.map((messages) => {
    let bytes = 0
    let own = 0
    for (const message of messages) {
      bytes += message.size
      own += message.size / holders.get(message)!
    }
    return bytes === 0 ? 1 : own / bytes
  })
}
