/**
 * Limits on what is kept for a client, for its user, and for all together. Each function returns the limit
 * that refuses, or null. Things that exist may stay and be replaced, so that a client at a limit can come
 * back.
 */
import type { Message, Will } from '../../mqtt/message.ts'
import type { Session } from '../../session/session.ts'
import { retainedBytes, willBytes } from '../accounts/costs.ts'
import { type Excess, excess } from '../accounts/form-limits.ts'
import { type Usage, usageOf } from '../accounts/usage.ts'
import type { LinkInfo } from '../boundary/link.ts'
import type { ServerState } from '../state/server-state.ts'

/**
 * Checks the Session and the Will that CONNECT would create. `user` is null if nothing is kept for it yet.
 */
export function sessionExcess(
  { limits, sessions, usage: { total }, wills }: ServerState,
  clientId: string,
  user: Usage | null,
  will: Will | undefined,
): Excess | null {
  if (!sessions.has(clientId)) {
    if (total.sessions >= limits.sessionsMax) {
      return excess('sessionsMax', `${total.sessions} Sessions`, 'the Server has as many Sessions as it may')
    }
    if (user !== null && user.sessions >= limits.sessionsPerUserMax) {
      const detail = `${user.sessions} Sessions of ${user.name}`
      return excess('sessionsPerUserMax', detail, 'the user has as many Sessions as the Server allows')
    }
  }
  if (will === undefined) return null
  const previous = wills.get(clientId)
  const added = previous === undefined ? 1 : 0
  const before = previous === undefined ? 0 : willBytes(previous.record.will)
  const bytes = willBytes(will)
  const full = 'the Server keeps no further Will'
  if (total.wills + added > limits.willsMax) return excess('willsMax', `${total.wills} Wills`, full)
  if (bytes > before && total.willBytes - before + bytes > limits.willsBytesMax) {
    return excess('willsBytesMax', `${total.willBytes} bytes of Wills`, full)
  }
  if (user === null) return null
  const ofUser = 'the user has as much in Wills as the Server allows'
  if (user.wills + added > limits.willsPerUserMax) {
    return excess('willsPerUserMax', `${user.wills} Wills of ${user.name}`, ofUser)
  }
  const own = previous?.usage.user === user ? before : 0
  if (bytes <= own || user.willBytes - own + bytes <= limits.willsBytesPerUserMax) return null
  return excess('willsBytesPerUserMax', `${user.willBytes} bytes of Wills of ${user.name}`, ofUser)
}

/** Checks a log-in that does not take over a Session from an older connection. */
export function connectionExcess(state: ServerState, user: Usage | null, link: LinkInfo): Excess | null {
  const { connected, limits } = state
  if (connected.size >= limits.connectionsMax) {
    const told = 'as many clients are connected as connections_max allows; try again later'
    return excess('connectionsMax', `${connected.size} clients are connected`, told)
  }
  // This connection is counted already.
  const full = addressExcess(state, link, 1)
  if (full !== null) return full
  if (user === null || user.connections < limits.connectionsPerUserMax) return null
  const detail = `${user.connections} clients of ${user.name} are connected`
  return excess(
    'connectionsPerUserMax',
    detail,
    'as many clients of the user are connected as the Server allows',
  )
}

/**
 * Checks one more connection from an address, where `beyond` connections before their log-in are tolerated.
 */
export function addressExcess({ limits, usage }: ServerState, link: LinkInfo, beyond: number): Excess | null {
  const { connectionsPerAddressMax } = limits
  if (connectionsPerAddressMax === Number.POSITIVE_INFINITY || isThisMachine(link)) return null
  const address = usage.address(link.remoteAddress)
  if (address === null || address.connections < connectionsPerAddressMax + beyond) return null
  const detail = `${address.connections} connections of ${address.name}`
  return excess('connectionsPerAddressMax', detail, 'too many connections come from this address')
}

/** Programs on this machine, such as a proxy, may connect for others. */
function isThisMachine({ remoteAddress }: LinkInfo): boolean {
  return remoteAddress === '' || remoteAddress === '::1' || /^(?:::ffff:)?127\./.test(remoteAddress)
}

/** Checks a Subscription; null for one that exists already. `inner` is the filter without `$share/name/`. */
export function subscriptionExcess(
  state: ServerState,
  session: Session,
  filter: string,
  inner: string,
): Excess | null {
  const { limits, shareGroups } = state
  const { subscriptions } = session
  if (subscriptions.has(filter)) return null
  if (subscriptions.size >= limits.subscriptionsPerClientMax) {
    return excess('subscriptionsPerClientMax', `${subscriptions.size} Subscriptions`)
  }
  const client = usageOf(session)
  const user = client?.user ?? null
  if (client === null || user === null) return null
  if (user.subscriptions >= limits.subscriptionsPerUserMax) {
    return excess('subscriptionsPerUserMax', `${user.subscriptions} Subscriptions of ${user.name}`)
  }
  if (inner === filter) return null
  if (client.sharedSubscriptions >= limits.sharedSubscriptionsPerClientMax) {
    return excess('sharedSubscriptionsPerClientMax', `${client.sharedSubscriptions} Shared Subscriptions`)
  }
  // To join a group adds no deliveries.
  if (state.router.shareGroup(filter) !== null) return null
  const groups = shareGroups.countOf(user)
  if (groups >= limits.shareGroupsPerUserMax) {
    return excess('shareGroupsPerUserMax', `${groups} groups of ${user.name}`)
  }
  const together = shareGroups.sharingMessage(user, inner, limits.shareGroupsPerMessageMax)
  if (together < limits.shareGroupsPerMessageMax) return null
  return excess('shareGroupsPerMessageMax', `${together} groups of ${user.name} get the same message`)
}

/** Returns the user for whom a message is retained; null for the Server and the program that embeds it. */
export function retainerOf(
  { usage }: ServerState,
  { author }: Message,
  publisher: Session | null,
): Usage | null {
  if (publisher !== null) return usageOf(publisher)?.user ?? null
  return author === null ? null : usage.user(author.userName)
}

/**
 * Tells whether one more retained message is surely allowed, without a look at the one that it may replace.
 */
export function hasRoomToRetain(state: ServerState, message: Message, publisher: Session | null): boolean {
  const { limits, retained, ownRetained } = state
  if (retained.count - ownRetained.count >= limits.retainedMessagesMax) return false
  if (retained.bytes - ownRetained.bytes + message.size > limits.retainedBytesMax) return false
  const user = retainerOf(state, message, publisher)
  if (user === null) return true
  const bytes = user.retainedBytes + retainedBytes(message.size)
  return user.retainedMessages < limits.retainedMessagesPerUserMax && bytes <= limits.retainedBytesPerUserMax
}

/** Checks a message that is to be retained. It may always replace one that is not smaller. */
export function retainedExcess(
  state: ServerState,
  message: Message,
  publisher: Session | null,
): Excess | null {
  const { limits, retained, ownRetained, retainedExpiry } = state
  const previous = retained.get(message.topic.name)
  const { size } = message
  const before = previous?.size ?? 0
  const expired = retainedExpiry.expiredBy(state.now())
  const count = retained.count - ownRetained.count - expired.count
  if (previous === undefined && count >= limits.retainedMessagesMax) {
    return excess('retainedMessagesMax', `${count} messages are retained`)
  }
  const bytes = retained.bytes - ownRetained.bytes - expired.bytes
  if (size > before && bytes - before + size > limits.retainedBytesMax) {
    return excess('retainedBytesMax', `${bytes} bytes are retained`)
  }
  const user = retainerOf(state, message, publisher)
  if (user === null) return null
  const isOwn = previous?.charged === user
  if (!isOwn && user.retainedMessages >= limits.retainedMessagesPerUserMax) {
    return excess(
      'retainedMessagesPerUserMax',
      `${user.retainedMessages} messages of ${user.name} are retained`,
    )
  }
  const own = isOwn ? retainedBytes(before) : 0
  const wanted = retainedBytes(size)
  if (wanted <= own || user.retainedBytes - own + wanted <= limits.retainedBytesPerUserMax) return null
  return excess('retainedBytesPerUserMax', `${user.retainedBytes} bytes of ${user.name} are retained`)
}
