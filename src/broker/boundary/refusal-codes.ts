/** PURE. The Reason Codes that CONNACK and DISCONNECT may have. */
import { Reason } from '../../mqtt/reason.ts'

/**
 * Returns a Reason Code that DISCONNECT may have [MQTT-3.14.2-1]: those about identity are for CONNACK only.
 */
export function disconnectReasonCode(reasonCode: number): number {
  switch (reasonCode) {
    case Reason.ClientIdentifierNotValid:
    case Reason.BadUserNameOrPassword:
    case Reason.Banned:
    case Reason.BadAuthenticationMethod:
      return Reason.NotAuthorized
    case Reason.ServerUnavailable:
      return Reason.ServerBusy
    default:
      return DISCONNECT_REFUSALS.has(reasonCode) ? reasonCode : Reason.UnspecifiedError
  }
}

/** The Reason Codes of table 3-10 for Servers. */
const DISCONNECT_REFUSALS: ReadonlySet<number> = new Set([
  0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
  0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
])

/** Returns a Reason Code that CONNACK may have in a refusal [MQTT-3.2.2-8]: that of a policy may be any. */
export function connackReasonCode(reasonCode: Reason): Reason {
  if (reasonCode === Reason.ServerShuttingDown) return Reason.ServerUnavailable
  return CONNACK_REFUSALS.has(reasonCode) ? reasonCode : Reason.UnspecifiedError
}

const CONNACK_REFUSALS: ReadonlySet<number> = new Set([
  0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b,
  0x9c, 0x9d, 0x9f,
])
