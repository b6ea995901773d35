/** A client that comes back: it connects again and again until it is told to stop. */
import { Connection } from './connection.mjs'
import { connect, disconnect } from './packets.mjs'

const RETRY_MS = 15

export class Client {
  clientId
  version
  /** The number of connections that were accepted so far. */
  connections = 0
  #port
  #ledger
  #cleanStart
  #will
  #receiveMaximum
  #handlers
  /** @type {Connection | null} */
  #connection = null
  #online = false
  #wanted = false
  #known = false
  #anew = false
  /** @type {NodeJS.Timeout | undefined} */
  #timer

  /**
   * The Session is kept unless `cleanStart`.
   *
   * @param {{
   *   port: number,
   *   ledger: Pick<import('./ledger.mjs').Ledger, 'problem' | 'sessionLost'>,
   *   clientId: string,
   *   version: number,
   *   cleanStart?: boolean,
   *   will?: import('./packets.mjs').Will,
   *   receiveMaximum?: number,
   * }} options
   * @param {{
   *   online: (present: boolean, receiveMaximum: number, anew: boolean) => void,
   *   packet: (packet) => void,
   *   offline: () => void,
   * }} handlers
   */
  constructor({ port, ledger, clientId, version, cleanStart = false, will, receiveMaximum }, handlers) {
    this.#port = port
    this.#ledger = ledger
    this.clientId = clientId
    this.version = version
    this.#cleanStart = cleanStart
    this.#will = will
    this.#receiveMaximum = receiveMaximum
    this.#handlers = handlers
  }

  get online() {
    return this.#online
  }

  /** Connects, and comes back after `pauseMs` whenever the connection is lost. */
  start(pauseMs = 0) {
    this.#wanted = true
    this.#later(pauseMs)
  }

  /**
   * Has the next connection begin a new Session, which is kept (5.0); `online` is told that it was asked for.
   */
  beginAnew() {
    this.#anew = true
  }

  send(bytes) {
    this.#connection?.send(bytes)
  }

  /**
   * Reads nothing for `ms`, then vanishes and comes back: a deaf socket does not notice that it was closed.
   */
  goDeaf(ms) {
    const connection = this.#connection
    connection?.goDeaf()
    setTimeout(() => {
      if (connection !== this.#connection || !this.#wanted) return
      this.vanish()
      this.start()
    }, ms).unref()
  }

  /** Goes without DISCONNECT; `start` brings it back. */
  vanish() {
    this.#drop((connection) => connection.vanish())
  }

  /** Goes with DISCONNECT; `start` brings it back. */
  leave() {
    if (!this.#online) this.vanish()
    else this.#drop((connection) => connection.leave(disconnect()))
  }

  /** Connects anew while the old connection is still open. */
  takeOver() {
    const old = this.#connection
    this.#connection = null
    this.#gone()
    this.start()
    if (old !== null) setTimeout(() => old.vanish(), 500).unref()
  }

  #drop(how) {
    this.#wanted = false
    clearTimeout(this.#timer)
    const connection = this.#connection
    this.#connection = null
    if (connection !== null) how(connection)
    this.#gone()
  }

  #gone() {
    if (!this.#online) return
    this.#online = false
    this.#handlers.offline()
  }

  #later(ms) {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#connect(), ms)
  }

  #connect() {
    if (!this.#wanted || this.#connection !== null) return
    const connection = new Connection(this.#port, this.version, {
      opened: () =>
        connection.send(
          connect({
            version: this.version,
            clientId: this.clientId,
            cleanStart: this.#cleanStart || this.#anew,
            kept: !this.#cleanStart,
            receiveMaximum: this.#receiveMaximum,
            will: this.#will,
          }),
        ),
      packet: (packet) => {
        if (connection === this.#connection) this.#packet(packet)
      },
      closed: () => {
        if (connection !== this.#connection) return
        this.#connection = null
        this.#gone()
        if (this.#wanted) this.#later(RETRY_MS)
      },
    })
    this.#connection = connection
  }

  #packet(packet) {
    if (packet.type === 'connack') this.#connack(packet)
    else if (packet.type !== 'disconnect' && this.#online) this.#handlers.packet(packet)
  }

  #connack({ sessionPresent, reasonCode, receiveMaximum }) {
    if (reasonCode !== 0) return // The broker closes the connection, and the client comes back.
    const anew = this.#anew
    this.#anew = false
    if (anew && sessionPresent)
      this.#ledger.problem('strays', `${this.clientId} still has a Session after Clean Start`)
    const lost = this.#known && !sessionPresent && !this.#cleanStart && !anew
    if (lost) this.#ledger.sessionLost(this.clientId)
    this.#known = true
    this.#online = true
    this.connections++
    this.#handlers.online(sessionPresent, receiveMaximum, anew)
  }
}
