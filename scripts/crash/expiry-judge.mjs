/**
 * Judges whether a Session ended when it should have. PURE: the clock is passed in.
 *
 * A Session's time begins when the broker notices that its client left. If the broker is killed before it has
 * stored that, the time begins anew with the next start. So the judge needs to know when the broker lived on
 * a sound disk.
 */

/** A busy broker may notice so much later that a client left. */
const LATE_MS = 2000
/** A broker that lived on a sound disk for so long after a client left has stored that. */
const STORED_MS = 1000
/** A broker whose disk was full opens its store again within a second, and may take another to read it. */
const REOPENED_MS = 2000
/** A broker's clock may tick in tenths. */
const EARLY_MS = 150

/**
 * The broker was up and its disk was sound; `to` is Infinity as long as that lasts.
 *
 * @typedef {{ from: number, to: number }} Stretch
 */

export class ExpiryJudge {
  #expiryMs
  #now
  /** @type {number[]} */
  #starts = []
  /** @type {Stretch[]} */
  #stretches = []
  #isUp = false
  #isDiskSound = true
  /** The earliest time at which the running broker works with its store. */
  #soundFrom = Number.NEGATIVE_INFINITY

  /**
   * @param {number} expiryMs how long a Session lasts without its client
   * @param {() => number} now milliseconds
   */
  constructor(expiryMs, now) {
    this.#expiryMs = expiryMs
    this.#now = now
  }

  brokerStarts() {
    this.brokerEnded()
    this.#starts.push(this.#now())
    this.#soundFrom = Number.NEGATIVE_INFINITY
  }

  /** It answered its first client. */
  brokerIsUp() {
    this.#isUp = true
    this.#begin()
  }

  brokerEnded() {
    this.#isUp = false
    this.#end()
  }

  diskFails() {
    this.#isDiskSound = false
    this.#end()
  }

  diskIsMended() {
    this.#isDiskSound = true
    this.#soundFrom = this.#now() + REOPENED_MS
    this.#begin()
  }

  #begin() {
    if (!this.#isUp || !this.#isDiskSound) return
    const from = Math.max(this.#now(), this.#soundFrom)
    this.#stretches.push({ from, to: Number.POSITIVE_INFINITY })
  }

  #end() {
    const last = this.#stretches.at(-1)
    if (last?.to === Number.POSITIVE_INFINITY) last.to = this.#now()
  }

  /**
   * Judges a CONNECT that was sent at `askedAt` and was answered now. Returns what is wrong with the answer,
   * or null.
   *
   * @param {{ leftAt: number, askedAt: number, present: boolean }} answer `leftAt`: when the client had left
   * @returns {{ kind: 'sessionsLost' | 'overdue', words: string } | null}
   */
  judge({ leftAt, askedAt, present }) {
    const expiryMs = this.#expiryMs
    const longestMs = this.#now() - leftAt
    if (!present && longestMs < expiryMs - EARLY_MS) {
      return { kind: 'sessionsLost', words: `was away for ${longestMs.toFixed(0)} ms of ${expiryMs}` }
    }
    const shortestMs = askedAt - this.#countedFrom(leftAt)
    if (present && shortestMs > expiryMs + LATE_MS) {
      const overMs = (shortestMs - expiryMs).toFixed(0)
      const words = `outlived ${expiryMs} ms by ${overMs}; the broker was started ${this.#startAfter(leftAt)}`
      return { kind: 'overdue', words }
    }
    return null
  }

  /** The latest time from which a broker may count a Session that was left then; or Infinity. */
  #countedFrom(leftAt) {
    const counting = this.#stretches.find(
      ({ from, to }) => to === Number.POSITIVE_INFINITY || to - Math.max(from, leftAt) > STORED_MS,
    )
    return counting === undefined ? Number.POSITIVE_INFINITY : Math.max(counting.from, leftAt)
  }

  #startAfter(leftAt) {
    const restart = this.#starts.find((startedAt) => startedAt > leftAt)
    return restart === undefined ? 'before it left' : `${(restart - leftAt).toFixed(0)} ms after it left`
  }
}
