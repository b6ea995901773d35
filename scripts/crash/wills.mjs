/** Clients that connect with a Will and never say goodbye. Each comes once: nobody takes its Will back. */
import { Connection } from './connection.mjs'
import { connect } from './packets.mjs'

export class WillClients {
  #port
  #ledger
  #random
  #versions
  #count = 0
  #open = new Set()
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

  /** No more of them; those that are here vanish. */
  stop() {
    clearInterval(this.#timer)
    for (const connection of this.#open) connection.vanish()
    this.#open.clear()
  }

  #come() {
    const number = this.#count++
    const topic = `w/${number}`
    const version = this.#random.pick(this.#versions)
    const will = this.#ledger.will(topic)
    const connection = new Connection(this.#port, version, {
      opened: () => {
        const sentWill = { topic, payload: topic, qos: 2 }
        connection.send(connect({ version, clientId: `will${number}`, cleanStart: true, will: sentWill }))
      },
      packet: ({ type, reasonCode }) => {
        if (type === 'connack' && reasonCode === 0) will.kept = true
      },
      closed: () => this.#open.delete(connection),
    })
    this.#open.add(connection)
    const staysMs = this.#random.between(20, this.#random.chance(0.5) ? 200 : 3000)
    setTimeout(() => {
      connection.vanish()
      this.#open.delete(connection)
    }, staysMs).unref()
  }
}
