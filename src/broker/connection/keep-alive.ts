/** Keep Alive of one Network Connection (section 3.1.2.10). */
import { Reason } from '../../mqtt/reason.ts'
import type { Deadline } from '../state/deadlines.ts'
import type { ServerState } from '../state/server-state.ts'
import type { NetworkConnection } from './network-connection.ts'

/**
 * This many bytes within one and a half Keep Alive count as activity, even without a whole packet. Fewer do
 * not: no link is so slow, but a hostile client may trickle bytes.
 */
const LIFE_BYTES_MIN = 64

/**
 * Disconnects a client that sends nothing for one and a half Keep Alive. Packets do not move the deadline:
 * when it is due, it checks for activity since. Bytes of an unfinished packet count as activity, since one
 * PUBLISH may take longer on a slow link.
 */
export class KeepAlive {
  readonly #state: ServerState
  readonly #connection: NetworkConnection
  #allowedMs = 0
  #activeAt: number
  #isSuspended = false
  /** Bytes received since the latest activity. */
  #bytes = 0
  /** The link's count of bytes at the latest check. */
  #arrivedBytes = 0
  #deadline: Deadline | null = null

  constructor(state: ServerState, connection: NetworkConnection) {
    this.#state = state
    this.#connection = connection
    this.#activeAt = state.now()
  }

  /** Starts with the Keep Alive in force; 0 for none. */
  start(seconds: number): void {
    if (seconds === 0) return
    this.#allowedMs = seconds * 1500 // [MQTT-3.1.2-22]
    this.#watch(this.#state.now() + this.#allowedMs)
  }

  /** Notes that a packet arrived. */
  active(): void {
    this.#activeAt = this.#state.now()
    this.#bytes = 0
  }

  /** Counts received bytes of any kind. */
  arrived(bytes: number): void {
    this.#bytes += bytes
    if (this.#bytes >= LIFE_BYTES_MIN) this.active()
  }

  /** Stops the client's time: the Server does not read from it, so its packets cannot arrive. */
  suspend(): void {
    this.#isSuspended = true
  }

  /** Starts the client's time anew, since the Server reads from it again. */
  resume(): void {
    this.#isSuspended = false
    this.#activeAt = this.#state.now()
  }

  stop(): void {
    this.#state.deadlines.cancel(this.#deadline)
    this.#deadline = null
  }

  /** Sets the deadline for the next check. */
  #watch(time: number): void {
    this.#arrivedBytes = this.#connection.link.arrivedBytes ?? 0
    this.#deadline = this.#state.deadlines.at(time, () => this.#look())
  }

  /** Bytes of a TLS record that is still arriving and cannot be read yet; on a slow link it may take long. */
  get #encryptedBytes(): number {
    return (this.#connection.link.arrivedBytes ?? 0) - this.#arrivedBytes
  }

  #look(): void {
    const now = this.#state.now()
    const due = (this.#isSuspended ? now : this.#activeAt) + this.#allowedMs
    if (due > now) this.#watch(due)
    else if (this.#encryptedBytes >= LIFE_BYTES_MIN) this.#watch(now + this.#allowedMs)
    else {
      this.#state.turn.begin()
      this.#connection.disconnect(Reason.KeepAliveTimeout, 'no packet within one and a half Keep Alive')
    }
  }
}
