/**
 * HOT. Message Expiry Interval (section 3.3.2.3.3): seconds on the wire, a moment of broker time while a message waits.
 *
 * Broker time has fractions of a millisecond, and arithmetic with them is not exact: 100 seconds that did not pass at all
 * came out as 100.00000000001, and were sent as 101. So both ends are whole milliseconds.
 */

/** When a message that is received now expires; `Infinity` for an interval that is undefined. */
export function expiryTime(now: number, expirySeconds: number | undefined): number {
  return expirySeconds === undefined ? Number.POSITIVE_INFINITY : Math.floor(now) + expirySeconds * 1000
}

/**
 * The interval to send: what was received less the whole seconds that the message waited [MQTT-3.3.2-6], so never more than
 * was received, and at least 1 as long as it has not expired. -1 for none.
 */
export function secondsLeft(expiresAt: number, now: number): number {
  if (expiresAt === Number.POSITIVE_INFINITY) return -1
  if (expiresAt <= now) return 0
  // Times with a fraction come from stores of format 1.
  return Math.max(1, Math.ceil((Math.floor(expiresAt) - Math.floor(now)) / 1000))
}
