/** How long a Network Connection may keep the Server waiting: for CONNECT, for a packet, for its reading. */

import type { Link } from '../boundary/link.ts'
import type { Deadline, Deadlines } from '../state/deadlines.ts'

interface Clock {
  readonly deadlines: Deadlines
  /** Broker time in ms. */
  now(): number
}

/** So many bytes in one and a half Keep Alive are life without a whole packet: less is no slow link, but a dribble. */
const LIFE_BYTES_MIN = 64

/** The Network Connection. */
export interface KeepAliveSink {
  keepAliveTimedOut(): void
}

/**
 * Keep Alive (section 3.1.2.10). Looked at only when it might have run out. Bytes of a packet that is under way are life,
 * too: on a slow link one PUBLISH may take longer. A few bytes are not: whoever sends byte by byte has to end its packet.
 */
export class KeepAlive {
  readonly #clock: Clock
  readonly #link: Link
  readonly #sink: KeepAliveSink
  #allowedMs = 0
  #activeAt: number
  #standing = false
  /** Bytes that came since it was active. */
  #bytes = 0
  /** Of the link, when it was looked at last. */
  #arrivedBytes = 0
  #deadline: Deadline | null = null

  constructor(clock: Clock, link: Link, sink: KeepAliveSink) {
    this.#clock = clock
    this.#link = link
    this.#sink = sink
    this.#activeAt = clock.now()
  }

  /** Starts with the Keep Alive in force; 0 for none. */
  start(seconds: number): void {
    if (seconds === 0) return
    this.#allowedMs = seconds * 1500 // [MQTT-3.1.2-22]
    this.#watch(this.#clock.now() + this.#allowedMs)
  }

  /** A packet arrived. */
  active(): void {
    this.#activeAt = this.#clock.now()
    this.#bytes = 0
  }

  /** Bytes arrived, of whatever. */
  arrived(bytes: number): void {
    this.#bytes += bytes
    if (this.#bytes >= LIFE_BYTES_MIN) this.active()
  }

  /** While the Server does not read, the client's packets cannot arrive: its time stands still. */
  stand(still: boolean): void {
    this.#standing = still
    this.#activeAt = this.#clock.now()
  }

  stop(): void {
    this.#clock.deadlines.cancel(this.#deadline)
    this.#deadline = null
  }

  #watch(time: number): void {
    this.#arrivedBytes = this.#link.arrivedBytes ?? 0
    this.#deadline = this.#clock.deadlines.at(time, () => this.#look())
  }

  /** A TLS record under way, of which nothing can be read yet, is long on a slow link, too. */
  get #encryptedBytes(): number {
    return (this.#link.arrivedBytes ?? 0) - this.#arrivedBytes
  }

  #look(): void {
    const now = this.#clock.now()
    const due = (this.#standing ? now : this.#activeAt) + this.#allowedMs
    if (due > now) this.#watch(due)
    else if (this.#encryptedBytes >= LIFE_BYTES_MIN) this.#watch(now + this.#allowedMs)
    else this.#sink.keepAliveTimedOut()
  }
}

/** Watches a reader with bytes waiting: one that takes nothing for too long is given up. */
export class ReaderWatch {
  readonly #clock: Clock
  readonly #link: Link
  readonly #allowedMs: number
  readonly #stalled: () => void
  #flushedBytes = 0
  #deadline: Deadline | null = null

  constructor(clock: Clock, link: Link, allowedSeconds: number, stalled: () => void) {
    this.#clock = clock
    this.#link = link
    this.#allowedMs = allowedSeconds * 1000
    this.#stalled = stalled
  }

  /** Something was written. */
  written(): void {
    if (this.#deadline !== null || this.#link.bufferedBytes === 0) return
    if (this.#allowedMs === Number.POSITIVE_INFINITY) return
    this.#flushedBytes = this.#link.flushedBytes
    this.#deadline = this.#clock.deadlines.at(this.#clock.now() + this.#allowedMs, () => this.#look())
  }

  stop(): void {
    this.#clock.deadlines.cancel(this.#deadline)
    this.#deadline = null
  }

  #look(): void {
    this.#deadline = null
    if (this.#link.bufferedBytes === 0) return
    if (this.#link.flushedBytes > this.#flushedBytes) this.written()
    else this.#stalled()
  }
}
