/** Holds one Network Connection to its rates: back-pressure first, then refusals, then the end. */
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import { type ClientRates, type RateKind, REFUSED } from '../accounts/rates.ts'
import type { Deadline } from '../state/deadlines.ts'
import type { ClientConnection, ServerState } from '../state/server-state.ts'

/** Refusals in a row that the client is told of. One more disconnects it. */
const REFUSALS_MAX = 100

/** The shortest time between two events `limited` about a client that is only held back, in ms. */
const TOLD_MS = 10_000

export class RateGate {
  /** True while nothing more should be sent to the client. */
  isSendHeld = false
  readonly #state: ServerState
  readonly #rates: ClientRates
  readonly #connection: ClientConnection
  readonly #sendsAgain: () => void
  /** The times in broker time at which the client is read from and sent to again. */
  #readAgain: Deadline | null = null
  #sendAgain: Deadline | null = null
  #refusals = 0
  #toldAt = Number.NEGATIVE_INFINITY

  /** Calls `sendsAgain` when the client may be sent to again. */
  constructor(state: ServerState, rates: ClientRates, connection: ClientConnection, sendsAgain: () => void) {
    this.#state = state
    this.#rates = rates
    this.#connection = connection
    this.#sendsAgain = sendsAgain
  }

  /** Charges a CONNECT; returns how long its CONNACK has to wait, in ms, or REFUSED. */
  connect(): number {
    const wait = this.#rates.charge('connect', 1)
    if (wait !== 0) this.#tell(wait)
    return wait
  }

  /**
   * Charges one message, or `count` topic filters. Holds the packets behind for as long as the rate demands.
   * Returns true if the packet must be refused with 0x97 instead. Throws ProtocolError after too many
   * refusals.
   */
  refuses(kind: 'publish' | 'subscribe', count: number): boolean {
    const wait = this.#rates.charge(kind, count)
    if (wait !== REFUSED) {
      this.#refusals = 0
      if (wait > 0) this.#waitFor(wait)
      return false
    }
    this.#tell(REFUSED)
    if (++this.#refusals > REFUSALS_MAX) {
      throw new ProtocolError(Reason.MessageRateTooHigh, 'section 3.14.2.1', this.#excess)
    }
    return true
  }

  /** Charges bytes from the client. Holds the connection, or ends it if it is too far ahead. */
  received(bytes: number): void {
    const wait = this.#rates.charge('receive', bytes)
    if (wait > 0) this.#waitFor(wait)
    if (wait !== REFUSED) return
    this.#tell(REFUSED)
    this.#connection.disconnect(Reason.MessageRateTooHigh, this.#excess)
  }

  /** Charges bytes to the client, and sets `isSendHeld` until the rate allows more. */
  sent(bytes: number): void {
    const wait = this.#rates.charge('send', bytes)
    if (wait <= 0) return
    this.#tell(wait)
    this.isSendHeld = true
    const { deadlines } = this.#state
    deadlines.cancel(this.#sendAgain)
    this.#sendAgain = deadlines.at(this.#state.now() + wait, () => {
      this.isSendHeld = false
      this.#sendsAgain()
    })
  }

  /** Says which rate was exceeded. */
  get #excess(): string {
    return `more ${WORDS[kindOf(this.#rates.limit)]} in a second than is allowed`
  }

  #waitFor(ms: number): void {
    this.#tell(ms)
    const { deadlines } = this.#state
    const time = this.#state.now() + ms
    if (this.#readAgain !== null && this.#readAgain.time >= time) return
    deadlines.cancel(this.#readAgain)
    this.#connection.hold('rate')
    this.#readAgain = deadlines.at(time, () => {
      this.#readAgain = null
      this.#connection.release('rate')
    })
  }

  /** Reports every refusal, and waits from time to time. */
  #tell(wait: number): void {
    const now = this.#state.now()
    if (wait !== REFUSED && now - this.#toldAt < TOLD_MS) return
    this.#toldAt = now
    const outcome = wait === REFUSED ? 'refused' : `waits for ${Math.ceil(wait)} ms`
    const { clientId } = this.#connection.view
    this.#state.limited(this.#rates.limit, clientId, `${this.#excess}: ${outcome}`)
  }

  /** Stops all waits, since the Network Connection is closed. */
  stop(): void {
    const { deadlines } = this.#state
    deadlines.cancel(this.#readAgain)
    deadlines.cancel(this.#sendAgain)
    this.#rates.leave()
  }
}

const WORDS: Readonly<Record<RateKind, string>> = {
  publish: 'messages',
  receive: 'bytes',
  send: 'bytes to the client',
  subscribe: 'topic filters',
  connect: 'connections',
}

function kindOf(limit: string): RateKind {
  return limit.slice(0, limit.indexOf('Rate')) as RateKind
}
