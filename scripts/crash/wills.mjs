/**
 * Clients that connect with a Will and never send DISCONNECT. Each comes once, so that no Will is cancelled.
 */
import { Connection } from './connection.mjs'
import { connect } from './packets.mjs'

export class WillClients {
  #port
  #ledger
  #random
  #versions
  #count = 0
  /** The Will of each connection. */
  #open = new Map()
  #timer

  constructor({ port, ledger, random, versions }) {
    this.#port = port
    this.#ledger = ledger
    this.#random = random
    this.#versions = versions
  }

  start() {
    this.#timer = setInterval(() => {
      if (this.#open.size < 4) this.#come()
    }, 120)
  }

  /** Starts no more clients, and has those that are connected vanish. */
  stop() {
    clearInterval(this.#timer)
    for (const connection of [...this.#open.keys()]) this.#vanish(connection)
  }

  #come() {
    const number = this.#count++
    const topic = `w/${number}`
    const version = this.#random.pick(this.#versions)
    const delaySeconds = version === 5 && this.#random.chance(0.4) ? 1 : undefined
    const will = this.#ledger.will(topic, delaySeconds)
    const connection = new Connection(this.#port, version, {
      opened: () => {
        const sentWill = { topic, payload: topic, qos: 2, delaySeconds }
        // A delay ends with the Session, so the Session has to last longer.
        const session = delaySeconds === undefined ? {} : { kept: true, expirySeconds: 300 }
        connection.send(
          connect({ version, clientId: `will${number}`, cleanStart: true, ...session, will: sentWill }),
        )
      },
      packet: ({ type, reasonCode }) => {
        if (type === 'connack' && reasonCode === 0) will.kept = true
      },
      closed: () => {
        will.goneMs ??= performance.now()
        this.#open.delete(connection)
      },
    })
    this.#open.set(connection, will)
    const staysMs = this.#random.between(20, this.#random.chance(0.5) ? 200 : 3000)
    setTimeout(() => {
      this.#vanish(connection)
    }, staysMs).unref()
  }

  #vanish(connection) {
    const will = this.#open.get(connection)
    if (will === undefined) return
    will.goneMs = performance.now()
    connection.vanish()
    this.#open.delete(connection)
  }
}
