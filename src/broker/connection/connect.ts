/** The checks of a CONNECT (section 3.1), before and after its user is known. */
import type { Leniences } from '../../mqtt/lenience.ts'
import type { Will } from '../../mqtt/message.ts'
import type { ConnectPacket } from '../../mqtt/packet.ts'
import { decodeForwardedProperties } from '../../mqtt/properties/forwarded.ts'
import { Reason } from '../../mqtt/reason.ts'
import { isServerTopic } from '../../mqtt/server-topics.ts'
import { isUtf8Payload } from '../../mqtt/utf8.ts'
import { connectExcess, type Excess } from '../accounts/form-limits.ts'
import type { Ban } from '../boundary/bans.ts'
import type { Limit } from '../boundary/events.ts'
import type { Limits } from '../boundary/limits.ts'
import type { LinkInfo } from '../boundary/link.ts'
import { ownerOf, ownershipOf } from '../boundary/ownership.ts'
import type { AuthenticationResult, Credentials, Owner, WaitingClient } from '../boundary/policy.ts'
import { sessionExcess } from '../relief/quotas.ts'
import type { ServerState } from '../state/server-state.ts'
import { sessionExpirySeconds } from './connack.ts'

/** The longest Client Identifier of MQTT 3.1, in characters (its section 3.1); 3.1.1 has no such limit. */
const CLIENT_ID_3_1_CHARACTERS_MAX = 23

/** The longest UTF-8 Encoded String (section 1.5.4), in bytes. */
const TEXT_BYTES_MAX = 65_535

/** Memory of a decoded User Property of a few characters. */
const USER_PROPERTY_BYTES = 120

export interface Refusal {
  readonly reasonCode: Reason
  /** For the log. */
  readonly reason: string
  /** The reason for the client if `reason` tells internals of the Server; `reason` when absent. */
  readonly told?: string
  /** The limit that refuses, for the caller to count. */
  readonly limit?: Limit
}

/** The reason for clients when disk or memory is short: paths and sizes are not for strangers. */
export const NO_ROOM = 'the Server has no room for this at the moment: try again later'

const RECOVERING = 'the Server is recovering: try again later'

/** Refuses a CONNECT that no user would be allowed, before authentication; null lets it pass. */
export function connectRefusal(
  state: ServerState,
  packet: ConnectPacket,
  link: LinkInfo,
  leniences: Leniences | null = null,
): Refusal | null {
  const { limits } = state
  if (link.certificateRefusal !== undefined) {
    return { reasonCode: Reason.NotAuthorized, reason: link.certificateRefusal }
  }
  if (state.stopping) return { reasonCode: Reason.ServerUnavailable, reason: 'the Server is shutting down' }
  if (state.unavailable !== null) return unavailable(state.unavailable)
  const ban = state.bans.ofClient(packet.clientId) ?? state.bans.ofUser(packet.userName ?? '')
  if (ban !== null) return banned(ban)
  const refusal = clientIdRefusal(packet, limits, leniences) ?? willRefusal(packet, state)
  if (refusal !== null) return refusal
  const excess = connectExcess(limits, packet)
  if (excess !== null) return refusalBy(excess)
  // A client with a Session may come back: it takes messages out of memory, or ends the Session.
  if (state.memoryRefusal !== null && !state.sessions.has(packet.clientId))
    return { reasonCode: Reason.ServerBusy, reason: state.memoryRefusal, told: NO_ROOM }
  return null
}

function clientIdRefusal(
  { clientId, cleanStart, protocolVersion: version }: ConnectPacket,
  limits: Readonly<Limits>,
  leniences: Leniences | null,
): Refusal | null {
  const refuse = (reason: string): Refusal => ({ reasonCode: Reason.ClientIdentifierNotValid, reason })
  if (clientId === '') {
    // [MQTT-3.1.3-8] of 3.1.1; 3.1 knows no empty identifier at all.
    const isForbidden = version === 3 || (version === 4 && !cleanStart)
    const isAllowed = limits.emptyClientIdentifierAllowed
    // `allows` counts a use, so it is asked last.
    if (!isAllowed || (isForbidden && leniences?.use('empty-client-identifier') !== true))
      return refuse('empty Client Identifier')
  }
  const isLong = version === 3 && isLongerThan(clientId, CLIENT_ID_3_1_CHARACTERS_MAX)
  if (isLong && leniences?.use('client-identifier-over-23') !== true)
    return refuse(`MQTT 3.1 allows Client Identifiers of ${CLIENT_ID_3_1_CHARACTERS_MAX} characters`)
  return null
}

function willRefusal({ will }: ConnectPacket, state: ServerState): Refusal | null {
  const { limits } = state
  if (will === undefined) return null
  if (will.qos > limits.maximumQoS) {
    return { reasonCode: Reason.QoSNotSupported, reason: `Will QoS ${will.qos}` } // [MQTT-3.2.2-12]
  }
  if (will.retain && !limits.retainAvailable) {
    return { reasonCode: Reason.RetainNotSupported, reason: 'Will Retain' } // [MQTT-3.2.2-13]
  }
  if (!isUtf8Payload(will.payload) && isText(will.properties)) {
    // section 3.1.3.2.3
    return { reasonCode: Reason.PayloadFormatInvalid, reason: 'the Will Payload is not UTF-8' }
  }
  if (isServerTopic(will.topic)) {
    // The same answer as to a PUBLISH to this topic, or to any topic that the client has no right to.
    const rule = 'below $SYS only bridges may tell their state'
    const reason = `clients may not publish to ${will.topic}: ${rule}`
    return { reasonCode: Reason.NotAuthorized, reason }
  }
  return addressRefusal(state, will)
}

/** Refuses a Will for a topic of queues that no message can go to. */
function addressRefusal({ queues }: ServerState, will: Will): Refusal | null {
  const address = queues?.address(will.topic) ?? null
  if (address === null) return null
  if (address.kind === 'invalid') return { reasonCode: address.reasonCode, reason: address.sentence }
  if (address.kind === 'ack') {
    return { reasonCode: Reason.TopicNameInvalid, reason: 'a Will cannot acknowledge a message' }
  }
  return queues!.straightRefusal(will)
}

function refusalBy({ limit, reasonCode, detail, told }: Excess): Refusal {
  return { reasonCode, reason: detail, told, limit }
}

/**
 * Estimates the memory of a decoded CONNECT of `packetBytes`; each User Property is an array with two
 * strings.
 */
export function connectBytes({ userProperties }: ConnectPacket, packetBytes: number): number {
  return packetBytes + USER_PROPERTY_BYTES * (userProperties?.length ?? 0)
}

/**
 * Refuses a banned client, before its password is checked: the answer tells neither whether the password is
 * right nor whether there is such a user.
 */
function banned({ kind, subject, reason }: Ban): Refusal {
  const what = kind === 'client' ? 'the Client Identifier' : `the ${kind} ${subject}`
  const why = reason === '' ? '' : `: ${reason}`
  return { reasonCode: Reason.Banned, reason: `${what} is banned${why}`, told: 'banned' }
}

function unavailable(reason: string): Refusal {
  return { reasonCode: Reason.ServerUnavailable, reason, told: RECOVERING }
}

/**
 * Makes the Session end with the connection where the Server assigns the Client Identifier of a client before
 * 5.0: the client does not learn its identifier, so it could not come back to the Session.
 */
export function cleanIfNameless(packet: ConnectPacket): ConnectPacket {
  if (packet.clientId !== '' || packet.protocolVersion === 5) return packet
  return { ...packet, cleanStart: true, sessionExpirySeconds: 0 }
}

/** Counts characters, not the UTF-16 units of `length`. */
function isLongerThan(text: string, characters: number): boolean {
  return text.length > characters && (text.length > 2 * characters || [...text].length > characters)
}

/**
 * Returns the Client Identifier: the one that the client asks for, or `assigned` by the Server where it asks
 * for none. Where the listener binds identifiers to users (`client_id`), refuses one that is not this user's.
 */
export function boundClientId(
  { clientIdRule: rule, certificate }: LinkInfo,
  packet: ConnectPacket,
  assigned: string,
  { userName }: Owner,
): string | Refusal {
  const { clientId } = packet
  if (rule === undefined) return clientId === '' ? assigned : clientId
  const refuse = (reason: string): Refusal => ({ reasonCode: Reason.ClientIdentifierNotValid, reason })
  if (rule === 'certificate') {
    const name = certificate?.subjectCommonName ?? null
    if (name === null)
      return refuse('the client shows no certificate with one Common Name (client_id: certificate)')
    if (clientId === name) return clientId
    return refuse("the Client Identifier is not the certificate's Common Name (client_id: certificate)")
  }
  if (userName === null)
    return refuse('a client without credentials may use no Client Identifier here (client_id: user)')
  // A slash ends the user name, so that `a/b` belongs to the user `a` and to nobody else.
  if (userName.includes('/'))
    return refuse('a user with / in the name may use no Client Identifier here (client_id: user)')
  const bound = clientId === '' ? `${userName}/${assigned}` : clientId
  const isTheirs = bound === userName || bound.startsWith(`${userName}/`)
  if (isTheirs && Buffer.byteLength(bound) <= TEXT_BYTES_MAX) return bound
  return refuse('the Client Identifier is neither the user name nor begins with it and / (client_id: user)')
}

/** Refuses a CONNECT that the authenticated user may not make; null lets it pass. */
export function sessionRefusal(
  state: ServerState,
  packet: ConnectPacket,
  clientId: string,
  user: Owner,
  { remoteAddress }: LinkInfo,
): Refusal | null {
  // Check again, since the policy may have taken its time.
  if (state.unavailable !== null) return unavailable(state.unavailable)
  const { userName, userId } = user
  // Check bans again, since user and Client Identifier may not be those of CONNECT.
  const ban = state.bans.ofClient(clientId) ?? state.bans.ofUser(userName ?? '')
  if (ban !== null) return banned(ban)
  if (userName !== null && state.policy.isFormerUser?.(userName, userId) === true) {
    return {
      reasonCode: Reason.NotAuthorized,
      reason: 'the user was removed, or added again, during the log-in',
    }
  }
  const existing = state.sessions.get(clientId)
  if (existing !== undefined && ownershipOf(state.policy, ownerOf(existing), user) === 'another') {
    return ownedByAnother(state, 'Session', clientId, ownerOf(existing), user)
  }
  const will = state.wills.get(clientId)?.record
  const isAnothersWill = will !== undefined && ownershipOf(state.policy, ownerOf(will), user) === 'another'
  if (existing === undefined && isAnothersWill) {
    return ownedByAnother(state, 'Will', clientId, ownerOf(will), user)
  }
  // A client with a Session may come back, also with a Will: it takes messages off the disk.
  const stores = sessionExpirySeconds(state, packet) > 0 || packet.will !== undefined
  if (stores && existing === undefined && state.store.refusal !== null) {
    return { reasonCode: Reason.QuotaExceeded, reason: state.store.refusal, told: NO_ROOM }
  }
  const excess = sessionExcess(state, clientId, state.usage.user(userName, remoteAddress), packet.will)
  return excess === null ? null : refusalBy(excess)
}

/**
 * Whether a client that has left already is still let in, so that the packets behind its CONNECT are handled.
 * It must not take the place of a newer connection.
 */
export function mayOpenAfterEnd(state: ServerState, clientId: string, endedAt: number): boolean {
  const session = state.sessions.get(clientId)
  if (session === undefined) return true
  const other = state.connected.get(session)
  // A newer connection may have left already.
  return (other?.connectedAt ?? session.disconnectedAt) <= endedAt
}

/** Refuses a Session or Will that another user left under this Client Identifier, and reports the attempt. */
function ownedByAnother(
  { events }: ServerState,
  what: 'Session' | 'Will',
  clientId: string,
  owner: Owner,
  user: Owner,
): Refusal {
  const detail = `the ${what} belongs to ${owner.userName ?? 'anonymous clients'}`
  const by = user.userName ?? 'anonymous'
  events.emit('security', { kind: 'session-of-another-user', subject: clientId, by, detail })
  const of = what === 'Will' ? 'Will of this Client Identifier' : what
  return { reasonCode: Reason.NotAuthorized, reason: `the ${of} belongs to another user` }
}

/** Whether the properties of a Will say that its payload is UTF-8. */
function isText(properties: Buffer): boolean {
  return decodeForwardedProperties(properties).payloadFormatIndicator === 1
}

const ANONYMOUS_ALLOWED: AuthenticationResult = Object.freeze({ allow: true, userName: null })

/** Authenticates without a policy: lets anonymous clients in where the listener allows them. */
export function authenticateAnonymous(link: LinkInfo): AuthenticationResult {
  if (link.allowAnonymous) return ANONYMOUS_ALLOWED
  return { allow: false, reasonCode: Reason.NotAuthorized, reason: 'anonymous clients are not allowed here' }
}

/** Returns the credentials of a CONNECT, for a policy. */
export function credentialsOf(
  packet: ConnectPacket,
  clientId: string,
  link: LinkInfo,
  waiting: WaitingClient,
): Credentials {
  return {
    clientId,
    userName: packet.userName,
    password: packet.password,
    protocolVersion: packet.protocolVersion,
    userProperties: packet.userProperties,
    link,
    waiting,
  }
}
