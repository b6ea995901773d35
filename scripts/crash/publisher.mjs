/**
 * A publisher of QoS 1 or 2 as the standard has it: after a reconnect it sends again all that was not
 * acknowledged, with its packet identifier and DUP; after a PUBREC only the PUBREL (section 4.4).
 */
import { Client } from './client.mjs'
import { payloadOf } from './ledger.mjs'
import { acknowledge, publish } from './packets.mjs'

const TICK_MS = 8

export class Publisher {
  #client
  #ledger
  #random
  #qos
  #window
  #burstMax
  #streams
  #inFlight = new Map()
  #packetIdMax
  #lastPacketId = 0
  #receiveMaximum = 1
  #producing = true
  #unrest = true
  #timer

  /** `topics` are `{topic, retain, expirySeconds}`; `window` messages may be unacknowledged at a time. */
  constructor({ port, ledger, random, name, version, qos, topics, window, burstMax }) {
    this.#ledger = ledger
    this.#random = random
    this.#qos = qos
    this.#window = window
    this.#burstMax = burstMax
    // Few, so that each is soon used again: a broker that keeps a released one loses the next message.
    this.#packetIdMax = random.pick([window + 1, window + 50, 65_535])
    this.#streams = topics.map(({ topic, retain, expirySeconds }) =>
      ledger.stream(name, topic, qos, retain, expirySeconds),
    )
    this.#client = new Client(
      { port, ledger, clientId: name, version },
      {
        online: (present, receiveMaximum) => this.#online(present, receiveMaximum),
        packet: (packet) => this.#packet(packet),
        offline: () => {},
      },
    )
  }

  start() {
    this.#client.start()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  /** Stops reading for `ms`: acknowledgements that the broker sends meanwhile do not arrive. */
  goDeaf(ms) {
    this.#client.goDeaf(ms)
  }

  /** Publishes nothing new, and stays connected until all messages in flight are acknowledged. */
  finish() {
    this.#producing = false
    this.#unrest = false
    this.#client.start()
  }

  get finished() {
    return this.#inFlight.size === 0
  }

  stop() {
    clearInterval(this.#timer)
    this.#client.vanish()
  }

  #tick() {
    if (this.#unrest && this.#random.chance(0.004)) this.#restless()
    if (!this.#producing || !this.#client.online) return
    for (let count = this.#random.between(0, this.#burstMax); count > 0; count--) this.#publishNext()
  }

  #restless() {
    const how = this.#random.pick(['vanish', 'leave', 'takeOver', 'goDeaf'])
    const pause = this.#random.between(0, 100)
    this.#client[how](pause)
    if (how === 'vanish' || how === 'leave') this.#client.start(pause)
  }

  #publishNext() {
    if (this.#inFlight.size >= Math.min(this.#window, this.#receiveMaximum)) return
    const stream = this.#random.pick(this.#streams)
    const sequence = this.#ledger.sent(stream)
    const packetId = this.#freePacketId()
    const outgoing = { packetId, stream, sequence, received: false }
    this.#inFlight.set(packetId, outgoing)
    this.#send(outgoing, false)
  }

  #freePacketId() {
    do this.#lastPacketId = (this.#lastPacketId % this.#packetIdMax) + 1
    while (this.#inFlight.has(this.#lastPacketId))
    return this.#lastPacketId
  }

  #send({ packetId, stream, sequence }, dup) {
    const { publisher, topic, retain } = stream
    const expirySeconds = Number.isFinite(stream.expirySeconds) ? stream.expirySeconds : undefined
    const payload = payloadOf(publisher, sequence)
    const { version } = this.#client
    this.#client.send(
      publish({ version, topic, payload, qos: this.#qos, packetId, dup, retain, expirySeconds }),
    )
  }

  #online(present, receiveMaximum) {
    this.#receiveMaximum = receiveMaximum
    // Without the Session nobody knows what became of these messages; the loss of the Session is counted.
    if (!present) this.#inFlight.clear()
    for (const outgoing of this.#inFlight.values()) {
      if (outgoing.received) this.#client.send(acknowledge('pubrel', outgoing.packetId))
    }
    for (const outgoing of this.#inFlight.values()) {
      if (outgoing.received) continue
      this.#ledger.repeated(outgoing.stream, outgoing.sequence)
      this.#send(outgoing, true)
    }
  }

  #packet({ type, packetId, reasonCode }) {
    const outgoing = this.#inFlight.get(packetId)
    if (outgoing === undefined) return
    const refused = reasonCode >= 0x80
    if (type === 'puback' && this.#qos === 1) {
      if (!refused) this.#ledger.published(outgoing.stream, outgoing.sequence)
      this.#inFlight.delete(packetId)
    } else if (type === 'pubrec' && this.#qos === 2) {
      this.#pubrec(outgoing, refused)
    } else if (type === 'pubcomp' && outgoing.received) {
      this.#inFlight.delete(packetId)
    }
  }

  #pubrec(outgoing, refused) {
    const { packetId } = outgoing
    this.#inFlight.delete(packetId)
    if (refused) return
    this.#ledger.published(outgoing.stream, outgoing.sequence)
    outgoing.received = true
    // PUBRELs are sent in the order of the PUBRECs.
    this.#inFlight.set(packetId, outgoing)
    this.#client.send(acknowledge('pubrel', packetId))
  }
}
