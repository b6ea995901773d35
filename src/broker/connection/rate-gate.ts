/** Holds one Network Connection to its rates: back-pressure first, then refusals, then the end. */
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import { type ClientRates, type RateKind, REFUSED } from '../accounts/rates.ts'
import type { Limit } from '../boundary/events.ts'
import type { Deadline, Deadlines } from '../state/deadlines.ts'
import type { HoldReason } from '../state/read-gate.ts'

/** So many refusals in a row are told to the client; one more, and it is disconnected. */
const REFUSALS_MAX = 100

/** That a client is held back is told as often at most, in ms. */
const TOLD_MS = 10_000

interface Clock {
  readonly deadlines: Deadlines
  /** Broker time in ms. */
  now(): number
}

/** The Network Connection as this needs it. */
export interface RatedConnection {
  hold(reason: HoldReason): boolean
  release(reason: HoldReason): void
  limited(limit: Limit, detail: string): void
  disconnect(reasonCode: number, reason: string): void
  /** It may be sent to again. */
  sendsAgain(): void
}

export class RateGate {
  /** True while nothing more should be sent to the client. */
  isSendHeld = false
  readonly #clock: Clock
  readonly #rates: ClientRates
  readonly #connection: RatedConnection
  /** Until when it is not read from, in broker time, and not sent to. */
  #readAgain: Deadline | null = null
  #sendAgain: Deadline | null = null
  #refusals = 0
  #toldAt = Number.NEGATIVE_INFINITY

  constructor(clock: Clock, rates: ClientRates, connection: RatedConnection) {
    this.#clock = clock
    this.#rates = rates
    this.#connection = connection
  }

  /** How long CONNECT has to wait for its CONNACK, in ms; or REFUSED. */
  connect(): number {
    const wait = this.#rates.charge('connect', 1)
    if (wait !== 0) this.#tell(wait)
    return wait
  }

  /**
   * Whether a message, or so many topic filters, are refused with 0x97; else they are charged, and what comes behind them waits.
   * Throws ProtocolError after too many refusals.
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
      throw new ProtocolError(Reason.MessageRateTooHigh, 'section 3.14.2.1', this.#said)
    }
    return true
  }

  received(bytes: number): void {
    const wait = this.#rates.charge('receive', bytes)
    if (wait > 0) this.#waitFor(wait)
    if (wait !== REFUSED) return
    this.#tell(REFUSED)
    this.#connection.disconnect(Reason.MessageRateTooHigh, this.#said)
  }

  sent(bytes: number): void {
    const wait = this.#rates.charge('send', bytes)
    if (wait <= 0) return
    this.#tell(wait)
    this.isSendHeld = true
    const { deadlines } = this.#clock
    deadlines.cancel(this.#sendAgain)
    this.#sendAgain = deadlines.at(this.#clock.now() + wait, () => {
      this.isSendHeld = false
      this.#connection.sendsAgain()
    })
  }

  get #said(): string {
    return `more ${WORDS[kindOf(this.#rates.limit)]} in a second than is allowed`
  }

  #waitFor(ms: number): void {
    this.#tell(ms)
    const { deadlines } = this.#clock
    const time = this.#clock.now() + ms
    if (this.#readAgain !== null && this.#readAgain.time >= time) return
    deadlines.cancel(this.#readAgain)
    this.#connection.hold('rate')
    this.#readAgain = deadlines.at(time, () => {
      this.#readAgain = null
      this.#connection.release('rate')
    })
  }

  /** Each refusal is counted; that it has to wait, now and then. */
  #tell(wait: number): void {
    const now = this.#clock.now()
    if (wait !== REFUSED && now - this.#toldAt < TOLD_MS) return
    this.#toldAt = now
    const outcome = wait === REFUSED ? 'refused' : `waits for ${Math.ceil(wait)} ms`
    this.#connection.limited(this.#rates.limit, `${this.#said}: ${outcome}`)
  }

  /** The Network Connection is closed. */
  stop(): void {
    const { deadlines } = this.#clock
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
