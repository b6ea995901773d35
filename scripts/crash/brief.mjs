/**
 * Sessions that expire: a client that is away for longer than its Session lasts must find nothing, one that is back
 * sooner must find it. A Session's time goes on while the broker is down.
 */
import { Connection } from './connection.mjs'
import { connect, disconnect } from './packets.mjs'

const EXPIRY_SECONDS = 1
/** A busy broker may note so much later that a client went. */
const LATE_MS = 2000
/** A broker that lived for so long after a client went has stored that. */
const NOTED_MS = 1000
/** A broker's clock may tick in tenths. */
const EARLY_MS = 150
const RETRY_MS = 25
const CLIENTS = 4

export class BriefSessions {
  #port
  #ledger
  #random
  #stopped = false
  #brokerStarts = []
  #brokerUpAt = 0

  constructor({ port, ledger, random }) {
    this.#port = port
    this.#ledger = ledger
    this.#random = random
  }

  start() {
    for (let index = 0; index < CLIENTS; index++) this.#come(`brief${index}`, null)
  }

  stop() {
    this.#stopped = true
  }

  /** A Session that lost its connection by the kill, or was not noted to, ends so long after the next start. */
  brokerStarts() {
    this.#brokerStarts.push(performance.now())
    this.#brokerUpAt = Number.POSITIVE_INFINITY
  }

  brokerIsUp() {
    this.#brokerUpAt = performance.now()
  }

  /** `leftAt` is when it went away, by its own will; null when it does not know whether the broker noticed. */
  #come(name, leftAt) {
    if (this.#stopped) return
    const random = this.#random
    const askedAt = performance.now()
    let wasAsked = false
    let isGone = false
    const again = (at, pauseMs) => {
      isGone = true
      setTimeout(() => this.#come(name, at), pauseMs).unref()
    }
    const connection = new Connection(this.#port, 5, {
      opened: () => {
        wasAsked = true
        connection.send(
          connect({ version: 5, clientId: name, cleanStart: false, expirySeconds: EXPIRY_SECONDS }),
        )
      },
      packet: ({ type, reasonCode, sessionPresent }) => {
        if (type !== 'connack' || reasonCode !== 0) return
        if (leftAt !== null) this.#judge(name, sessionPresent, leftAt, askedAt)
        setTimeout(
          () => {
            if (isGone) return
            if (random.chance(0.5)) connection.leave(disconnect())
            else connection.vanish()
            again(performance.now(), random.pick([50, 200, 3200, 4000]))
          },
          random.between(20, 200),
        ).unref()
      },
      // Who asked was perhaps let in without knowing it: its Session's end is counted from then.
      closed: () => again(wasAsked ? null : leftAt, RETRY_MS),
    })
  }

  #judge(name, present, leftAt, askedAt) {
    const longest = performance.now() - leftAt
    const restart = this.#brokerStarts.find((startedAt) => startedAt > leftAt)
    const isNoted = restart === undefined || restart - leftAt > NOTED_MS
    const shortest = askedAt - (isNoted ? leftAt : Math.max(leftAt, this.#brokerUpAt))
    const expiryMs = EXPIRY_SECONDS * 1000
    if (!present && longest < expiryMs - EARLY_MS) {
      this.#ledger.problem('sessionsLost', `${name} was away for ${longest.toFixed(0)} ms of ${expiryMs}`)
    }
    if (present && shortest > expiryMs + LATE_MS) {
      this.#ledger.problem(
        'overdue',
        `the Session ${name} outlived ${expiryMs} ms by ${(shortest - expiryMs).toFixed(0)}; the broker was started ` +
          (restart === undefined ? 'before it left' : `${(restart - leftAt).toFixed(0)} ms after it left`),
      )
    }
  }
}
