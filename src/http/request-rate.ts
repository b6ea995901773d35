/** PURE. Bounds the requests of all clients together, so that HTTP takes little time from MQTT. */

/** Requests a second that are answered at once. */
export const REQUESTS_PER_SECOND = 100

/** Requests that may come at once after a pause. */
export const REQUESTS_AT_ONCE = 200

/** A bucket of tokens, one for each request. */
export class RequestRate {
  #left = REQUESTS_AT_ONCE
  #atMs: number

  constructor(nowMs: number) {
    this.#atMs = nowMs
  }

  /** Takes a token. Returns false if none is left. */
  take(nowMs: number): boolean {
    const added = ((nowMs - this.#atMs) * REQUESTS_PER_SECOND) / 1000
    if (added > 0) {
      this.#left = Math.min(REQUESTS_AT_ONCE, this.#left + added)
      this.#atMs = nowMs
    }
    if (this.#left < 1) return false
    this.#left--
    return true
  }
}
