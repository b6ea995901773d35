/** Encodes the CONNACK that lets a client in (section 3.2), and decides what the Server grants. */
import { encodeConnack } from '../../mqtt/codec/connack.ts'
import type { ConnackProperties, ConnectPacket } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import type { LinkInfo } from '../boundary/link.ts'
import type { ClientView, ConnackExtras, Owner } from '../boundary/policy.ts'
import { STANDARD_PACKET_BYTES_MAX } from '../boundary/session-limits.ts'
import type { ServerState } from '../state/server-state.ts'

/** A log-in that the policy accepted; `data` is the Authentication Data for CONNACK. */
export interface Login {
  readonly packet: ConnectPacket
  readonly user: Owner
  readonly data: Buffer | undefined
  readonly extras: ConnackExtras
}

/** An encoded CONNACK of 5.0. */
export interface Connack5 {
  readonly bytes: Buffer
  /** The topic of the client's reply queue that it names; null without one. */
  readonly replyTopic: string | null
}

/**
 * Encodes CONNACK of 5.0 as `acceptedConnack5` does, with the reply queue that the client asks for. Null for
 * a client before 5.0.
 */
export function connackFor(
  state: ServerState,
  login: Login,
  view: ClientView,
  maximumPacketSize: number,
): Connack5 | null {
  if (login.packet.protocolVersion !== 5) return null
  return acceptedConnack5(state, login, view, maximumPacketSize, replyTopicFor(state, login, view))
}

/**
 * Encodes CONNACK of 5.0 with Success, without Session Present. `replyTopic` is that of the client's reply
 * queue; null without one. Leaves Response Information out if the packet would exceed `maximumPacketSize`:
 * the Server need not send it (section 3.1.2.11.6). The rest can still be larger.
 */
export function acceptedConnack5(
  state: ServerState,
  { packet, data, extras }: Login,
  { clientId, link }: ClientView,
  maximumPacketSize: number,
  replyTopic: string | null,
): Connack5 {
  const { authenticationMethod } = packet
  const properties = connackProperties(state, packet, link, clientId)
  if (authenticationMethod !== undefined) {
    properties.authenticationMethod = authenticationMethod // [MQTT-4.12.0-5]
    if (data !== undefined) properties.authenticationData = data
  }
  const { responseInformation = replyTopic, userProperties } = extras
  if (responseInformation !== null && packet.requestResponseInformation) {
    properties.responseInformation = responseInformation // [MQTT-3.1.2-28]
  }
  if (userProperties !== undefined) properties.userProperties = userProperties
  const connack = { sessionPresent: false, reasonCode: Reason.Success, properties }
  const bytes = encodeConnack(connack, 5, maximumPacketSize)!
  if (bytes.length <= maximumPacketSize || properties.responseInformation === undefined) {
    return { bytes, replyTopic }
  }
  delete properties.responseInformation
  return { bytes: encodeConnack(connack, 5, maximumPacketSize)!, replyTopic: null }
}

/** Returns the topic of the client's reply queue for CONNACK; null if it does not ask, or can have none. */
function replyTopicFor({ queues }: ServerState, { packet, extras }: Login, view: ClientView): string | null {
  if (packet.protocolVersion < 5 || !packet.requestResponseInformation || queues === null) return null
  return extras.responseInformation === undefined ? queues.replyTopic(view) : null
}

/** Returns the Session Expiry Interval that the Server grants, in seconds. */
export function sessionExpirySeconds(state: ServerState, packet: ConnectPacket): number {
  return Math.min(packet.sessionExpirySeconds, state.limits.sessionExpirySecondsMax)
}

/** Returns the Keep Alive in force, in seconds; 0 for none. Clients before 5.0 cannot be told another one. */
export function keepAliveSeconds(state: ServerState, packet: ConnectPacket, link: LinkInfo): number {
  const { keepAliveSecondsMax } = state.limits
  if (packet.protocolVersion < 5) return packet.keepAliveSeconds
  const wanted = link.serverKeepAliveSeconds ?? packet.keepAliveSeconds
  if (keepAliveSecondsMax === Number.POSITIVE_INFINITY) return wanted
  return wanted === 0 ? keepAliveSecondsMax : Math.min(wanted, keepAliveSecondsMax)
}

/**
 * Returns only properties that differ from what the client asked for, or from the standard's defaults, so
 * that CONNACK is short.
 */
function connackProperties(
  state: ServerState,
  packet: ConnectPacket,
  link: LinkInfo,
  clientId: string,
): ConnackProperties {
  const { limits } = state
  const properties: ConnackProperties = {}
  const expiry = sessionExpirySeconds(state, packet)
  const keepAlive = keepAliveSeconds(state, packet, link)
  if (expiry !== packet.sessionExpirySeconds) properties.sessionExpirySeconds = expiry
  if (limits.receiveMaximum < 65_535) properties.receiveMaximum = limits.receiveMaximum
  if (limits.maximumQoS < 2) properties.maximumQoS = limits.maximumQoS as 0 | 1
  if (!limits.retainAvailable) properties.retainAvailable = false
  // The largest size that the standard can express need not be announced.
  if (limits.packetBytesMax < STANDARD_PACKET_BYTES_MAX) properties.maximumPacketSize = limits.packetBytesMax
  if (packet.clientId === '') properties.assignedClientIdentifier = clientId // [MQTT-3.2.2-16]
  if (limits.topicAliasMaximum > 0) properties.topicAliasMaximum = limits.topicAliasMaximum
  if (keepAlive !== packet.keepAliveSeconds) properties.serverKeepAliveSeconds = keepAlive
  if (!limits.wildcardSubscriptionAvailable) properties.wildcardSubscriptionAvailable = false
  if (!limits.subscriptionIdentifierAvailable) properties.subscriptionIdentifiersAvailable = false
  if (!limits.sharedSubscriptionAvailable) properties.sharedSubscriptionAvailable = false
  return properties
}
