/** HOT. Chooses the member of a Shared Subscription that takes a message (section 4.8.2). */
import type { Message } from '../../mqtt/message.ts'
import type { ShareGroup } from '../../routing/subscription.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import { MEMBER_BITS, type ShareBacklog } from '../relief/share-backlog.ts'
import type { ServerState } from '../state/server-state.ts'

/** Cost of asking whether a member may receive a message, in units. */
const ASK_MEMBER_UNITS = 4

/**
 * Returns the index of the member that takes the next message, searching from the group's cursor on; -1 for
 * none. The first choice is a member that has room, then the one for which others wait already, so that
 * whoever has room next finds all of them in one queue, in order. Then follow the online and the offline
 * member with the shortest queue.
 */
// biome-ignore lint/complexity/noExcessiveCognitiveComplexity: one loop over the members, for each message.
export function chooseMember(
  state: ServerState,
  backlog: ShareBacklog,
  group: ShareGroup<Session>,
  message: Message,
): number {
  const { members } = group
  const { evicted } = message
  const holder = backlog.holder(group.share)
  // Messages that wait for the holder, behind expired ones, go before this one.
  const isHeldUp = holder !== null && backlog.isDropping(holder)
  let holding = -1
  let waiting = -1
  let offline = -1
  for (let step = 0; step < members.length; step++) {
    const index = (group.cursor + step) % members.length
    const { subscriber, options } = members[index]!
    // A body that is on disk only stays there for a stored Session alone.
    if (subscriber.ended || (evicted && !subscriber.stored)) continue
    // A message that one member may not receive is for the others.
    if (state.checksReceiving && !evicted) {
      state.work.units += ASK_MEMBER_UNITS
      if (!state.rights.mayTake(subscriber, message)) continue
    }
    if (subscriber.hasRoom && !isHeldUp) {
      state.work.units += step >>> MEMBER_BITS
      return index
    }
    const mayWait = subscriber.online || subscriber.waitsWhileAway(effectiveQoS(message.qos, options.qos))
    if (subscriber === holder && mayWait && !subscriber.queueFullFor(message)) holding = index
    if (subscriber.online) {
      if (waiting === -1 || subscriber.queueLength < members[waiting]!.subscriber.queueLength) waiting = index
    } else if (mayWait) {
      if (offline === -1 || subscriber.queueLength < members[offline]!.subscriber.queueLength) offline = index
    }
  }
  state.work.units += members.length >>> MEMBER_BITS
  if (holding !== -1) return holding
  return waiting === -1 ? offline : waiting
}
