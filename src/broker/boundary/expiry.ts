/**
 * HOT. Message Expiry Interval (section 3.3.2.3.3): seconds on the wire, a moment of broker time while a
 * message waits.
 *
 * Broker time has fractions of a millisecond, and arithmetic with them is not exact: an interval of 100
 * seconds, sent at once, became 100.00000000001 and was rounded up to 101. So both ends are whole
 * milliseconds.
 */

/** Returns when a message that is received now expires; `Infinity` without an interval. */
export function expiryTime(now: number, expirySeconds: number | undefined): number {
  return expirySeconds === undefined ? Number.POSITIVE_INFINITY : Math.floor(now) + expirySeconds * 1000
}

/**
 * Returns the interval to send: the received one less the whole seconds that the message waited
 * [MQTT-3.3.2-6]. It is never more than the received one, and at least 1 unless the message has expired.
 * Returns -1 without an interval.
 */
export function secondsLeft(expiresAt: number, now: number): number {
  if (expiresAt === Number.POSITIVE_INFINITY) return -1
  if (expiresAt <= now) return 0
  // Times with a fraction come from stores of format 1.
  return Math.max(1, Math.ceil((Math.floor(expiresAt) - Math.floor(now)) / 1000))
}
