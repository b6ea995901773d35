/**
 * Clients whose Sessions expire: one that is away for longer than its Session lasts must not find it, and one
 * that is back sooner must find it. A Session's time goes on while the broker is down.
 */
import { Connection } from './connection.mjs'
import { ExpiryJudge } from './expiry-judge.mjs'
import { connect, disconnect } from './packets.mjs'

const EXPIRY_SECONDS = 1
const RETRY_MS = 25
const CLIENTS = 4

export class BriefSessions {
  #port
  #ledger
  #random
  #stopped = false
  /** Has to be told when the broker starts and ends, and when its disk fails. */
  judge = new ExpiryJudge(EXPIRY_SECONDS * 1000, () => performance.now())

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

  /** `leftAt` is when the client left by its own will; null if it cannot know when the broker noticed. */
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
        if (leftAt !== null) this.#judge(name, { leftAt, askedAt, present: sessionPresent })
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
      // A client that asked may have been let in without knowing it. Its Session's time then began anew.
      closed: () => again(wasAsked ? null : leftAt, RETRY_MS),
    })
  }

  #judge(name, answer) {
    const fault = this.judge.judge(answer)
    if (fault !== null) this.#ledger.problem(fault.kind, `the Session ${name} ${fault.words}`)
  }
}
