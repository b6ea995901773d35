/** HOT. Asks about the Sessions that a Route names. */
import { NO_INLETS } from '../../routing/inlet.ts'
import type { Route } from '../../routing/route.ts'
import type { Session } from '../../session/session.ts'

/** Larger groups are not searched for a member that has not ended: ended Sessions are taken out soon. */
const ENDED_MAX = 64

/** Whether a Session that has not ended subscribed to the topic: a Route may still name ended ones. */
export function isMatched(route: Route<Session>): boolean {
  if (route.sole !== null) return !route.sole.subscriber.ended
  return route.inlets !== NO_INLETS || isMatchedByAny(route)
}

function isMatchedByAny({ entries, groups }: Route<Session>): boolean {
  for (let index = 0; index < entries.length; index++) if (!entries[index]!.subscriber.ended) return true
  for (let index = 0; index < groups.length; index++) {
    const { members } = groups[index]!
    if (members.length > ENDED_MAX) return true
    for (const { subscriber } of members) if (!subscriber.ended) return true
  }
  return false
}

/** Whether a stored Session is to get a message above QoS 0, or a queue. */
export function hasStored(route: Route<Session>): boolean {
  const { sole } = route
  if (sole !== null) return sole.qos > 0 && isKept(sole.subscriber)
  return route.inlets !== NO_INLETS || hasStoredAmong(route)
}

function hasStoredAmong({ entries, groups }: Route<Session>): boolean {
  for (let index = 0; index < entries.length; index++) {
    const entry = entries[index]!
    if (entry.qos > 0 && isKept(entry.subscriber)) return true
  }
  for (let index = 0; index < groups.length; index++) {
    if (groups[index]!.kept > 0) return true
  }
  return false
}

function isKept({ stored, ended }: Session): boolean {
  return stored && !ended
}
