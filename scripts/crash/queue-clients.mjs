/** Producers and consumers of queues. They come and go, and are killed with the broker. */
import { Client } from './client.mjs'
import { acknowledge, publish, subscribe } from './packets.mjs'
import { keyOf, payloadOf } from './queue-ledger.mjs'

const TICK_MS = 8
/** Packet identifiers of producers: many, so that none is used again while an old answer is under way. */
const PACKET_ID_MAX = 60_000
/** A consumer makes sure after so many acknowledgements. */
const SURE_COUNT = 8
const SUBSCRIBE_AGAIN_MS = 100
const REFUSED = 0x99

/** Makes a client leave, vanish, be taken over or go deaf now and then. */
export function restless(client, random, share) {
  if (!random.chance(share)) return
  const how = random.pick(['vanish', 'leave', 'takeOver', 'goDeaf'])
  const pause = random.between(0, 100)
  client[how](pause)
  if (how === 'vanish' || how === 'leave') client.start(pause)
}

/**
 * Publishes at QoS 1 or 2, and sends again what was not acknowledged. With `hasIds`, each connection has a
 * Session of its own, so it publishes anew what it does not know of, and now and then what it does; the
 * queue knows by `message-id`.
 */
export class QueueProducer {
  #client
  #ledger
  #random
  #options
  /** By packet identifier, in the order in which they were sent. */
  #inFlight = new Map()
  #lastPacketId = 0
  #number = 0
  #isProducing = true
  #timer

  /**
   * @param {{
   *   port: number,
   *   ledger: import('./queue-ledger.mjs').QueueLedger,
   *   random: import('./random.mjs').Random,
   *   name: string,
   *   version: number,
   *   qos: number,
   *   topic: string,
   *   window: number,
   *   poison: number,
   *   mayBeRefused?: boolean,
   *   hasIds?: boolean,
   *   responseTopic?: string,
   * }} options `poison` is the share of messages that consumers refuse; `mayBeRefused` says that the broker
   * may refuse messages
   */
  constructor(options) {
    const { port, ledger, random, name, version, hasIds = false } = options
    this.#options = options
    this.#ledger = ledger
    this.#random = random
    this.#client = new Client(
      { port, ledger, clientId: name, version, cleanStart: hasIds },
      {
        online: (present) => this.#online(present),
        packet: (packet) => this.#packet(packet),
        offline: () => {},
      },
    )
  }

  start() {
    this.#client.start()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  finish() {
    this.#isProducing = false
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
    if (!this.#isProducing) return
    restless(this.#client, this.#random, 0.003)
    if (!this.#client.online) return
    for (let count = this.#random.between(0, 3); count > 0; count--) this.#publishNext()
  }

  #publishNext() {
    const { name, window, poison } = this.#options
    if (this.#inFlight.size >= window) return
    const isPoison = this.#random.chance(poison)
    const padding = this.#random.chance(0.1) ? 3000 : this.#random.between(0, 200)
    const payload = payloadOf({ producer: name, number: this.#number++, isPoison }, padding)
    this.#begin(payload)
  }

  #begin(payload) {
    do this.#lastPacketId = (this.#lastPacketId % PACKET_ID_MAX) + 1
    while (this.#inFlight.has(this.#lastPacketId))
    const outgoing = { packetId: this.#lastPacketId, payload, isReceived: false }
    this.#inFlight.set(outgoing.packetId, outgoing)
    this.#send(outgoing, false)
  }

  #send({ packetId, payload }, dup) {
    const { version, qos, topic, hasIds = false, responseTopic } = this.#options
    const messageId = hasIds ? keyOf(payload) : undefined
    this.#ledger.sent(keyOf(payload), qos === 2 || hasIds)
    this.#client.send(publish({ version, topic, payload, qos, packetId, dup, messageId, responseTopic }))
  }

  /** Publishes again what is done, now and then. */
  #doubt(payload) {
    const { hasIds = false } = this.#options
    if (hasIds && this.#isProducing && this.#random.chance(0.2)) this.#begin(payload)
  }

  #online(present) {
    const { hasIds = false } = this.#options
    for (const outgoing of this.#inFlight.values()) {
      if (hasIds) outgoing.isReceived = false
      if (outgoing.isReceived) this.#client.send(acknowledge('pubrel', outgoing.packetId))
      else this.#send(outgoing, present)
    }
  }

  #packet({ type, packetId, reasonCode }) {
    const outgoing = this.#inFlight.get(packetId)
    if (outgoing === undefined) return
    if (type !== 'pubcomp' && reasonCode >= 0x80) {
      const how = `${keyOf(outgoing.payload)} was refused with ${reasonCode.toString(16)}`
      if (this.#options.mayBeRefused !== true) this.#ledger.problem('strays', how)
      this.#inFlight.delete(packetId)
    } else if (type === 'pubrec') {
      if (!outgoing.isReceived) this.#ledger.acknowledge(keyOf(outgoing.payload))
      outgoing.isReceived = true
      this.#client.send(acknowledge('pubrel', packetId))
    } else if (type === 'puback') {
      this.#ledger.acknowledge(keyOf(outgoing.payload))
      this.#inFlight.delete(packetId)
      this.#doubt(outgoing.payload)
    } else if (type === 'pubcomp') {
      this.#inFlight.delete(packetId)
      this.#doubt(outgoing.payload)
    }
  }
}

/**
 * Takes messages, works on them one after the other, and acknowledges or refuses each. Now and then it
 * publishes a retained message: when that is acknowledged, all that it acknowledged before is committed.
 */
export class QueueConsumer {
  #client
  #ledger
  #random
  #options
  #isSettling = false
  #isSubscribed = false
  /** Counts connections: work of an earlier one is not acknowledged. */
  #connection = 0
  /** The ledger's count of brokers when it connected. */
  #broker = 0
  /** @type {{ packetId: number, qos: number, payload: string }[]} */
  #work = []
  #isWorking = false
  /** QoS 2: keys by packet identifier, from PUBREC to PUBREL. */
  #released = new Map()
  /** QoS 1: keys that were acknowledged on this connection, and not yet made sure. */
  #acknowledged = []
  /** @type {{ packetId: number, keys: string[] } | null} */
  #marker = null
  #markers = 0
  #timer

  /**
   * @param {{
   *   port: number,
   *   ledger: import('./queue-ledger.mjs').QueueLedger,
   *   random: import('./random.mjs').Random,
   *   name: string,
   *   version: number,
   *   queue: string,
   *   filter: string,
   *   qos: number,
   *   workMs: number,
   *   absence: number,
   *   isAlone?: boolean,
   *   isBrief?: boolean,
   *   refuses?: boolean,
   * }} options `absence` is the chance in a tick that it leaves; `isAlone` says that order is promised, and
   * `isBrief` that its Session ends with each connection
   */
  constructor(options) {
    const { port, ledger, random, name, version, isBrief: cleanStart } = options
    this.#options = options
    this.#ledger = ledger
    this.#random = random
    const receiveMaximum = random.pick([10, 100, 65_535])
    this.#client = new Client(
      { port, ledger, clientId: name, version, cleanStart, receiveMaximum },
      {
        online: () => this.#online(),
        packet: (packet) => this.#packet(packet),
        offline: () => this.#offline(),
      },
    )
  }

  start() {
    this.#client.start()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  settle() {
    this.#isSettling = true
    this.#client.start()
  }

  /** A queue of dead letters may never come to be. */
  get isReady() {
    return this.#client.online && (this.#isSubscribed || this.#options.queue.endsWith('.dead'))
  }

  stop() {
    clearInterval(this.#timer)
    this.#client.vanish()
  }

  #tick() {
    if (!this.#isSettling) restless(this.#client, this.#random, this.#options.absence)
    if (this.#acknowledged.length >= (this.#random.chance(0.05) ? 1 : SURE_COUNT)) this.#makeSure()
  }

  #online() {
    this.#connection++
    this.#broker = this.#ledger.broker
    this.#subscribe()
  }

  #subscribe() {
    const { version, filter, qos } = this.#options
    this.#client.send(subscribe({ version, packetId: 65_000, filter, qos }))
  }

  #offline() {
    this.#connection++
    this.#work = []
    this.#acknowledged = []
    this.#marker = null
    if (this.#options.isBrief === true) this.#released.clear()
  }

  #packet(packet) {
    const { type, packetId, reasonCode } = packet
    const marker = this.#marker
    if (type === 'publish') this.#received(packet)
    else if (type === 'pubrel') this.#release(packetId)
    else if (type === 'puback' && marker !== null && marker.packetId === packetId)
      this.#sure(marker, reasonCode)
    else if (type === 'suback' && reasonCode <= 2) this.#isSubscribed = true
    else if (type === 'suback') {
      // A queue of dead letters is there once something is dead.
      const connection = this.#connection
      setTimeout(() => {
        if (connection === this.#connection) this.#subscribe()
      }, SUBSCRIBE_AGAIN_MS).unref()
    }
  }

  #received({ packetId, qos, payload }) {
    const { queue, isAlone = false } = this.#options
    const key = keyOf(payload)
    // A PUBLISH that is sent again although PUBREC was sent is the same hand-out.
    if (this.#released.get(packetId) === key) this.#ledger.unanswered(key)
    else this.#ledger.handed(key, queue, isAlone)
    this.#work.push({ packetId, qos, payload })
    if (!this.#isWorking) void this.#workOff()
  }

  async #workOff() {
    this.#isWorking = true
    for (let job = this.#work[0]; job !== undefined; job = this.#work[0]) {
      const connection = this.#connection
      const ms = this.#random.between(0, this.#options.workMs)
      if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms))
      if (connection !== this.#connection) continue
      this.#work.shift()
      this.#answer(job)
    }
    this.#isWorking = false
  }

  #answer({ packetId, qos, payload }) {
    const { version, refuses = true } = this.#options
    const key = keyOf(payload)
    const { queue } = this.#options
    const refused = version === 5 && refuses && payload.split(' ', 3)[2] === 'poison' ? REFUSED : 0
    if (refused === 0) this.#ledger.answered(key, this.#broker)
    else this.#ledger.refused(key, queue)
    if (qos === 2) {
      if (refused === 0) this.#released.set(packetId, key)
      this.#client.send(acknowledge('pubrec', packetId, refused))
    } else {
      this.#client.send(acknowledge('puback', packetId, refused))
      if (refused === 0) this.#acknowledged.push(key)
    }
  }

  #release(packetId) {
    const key = this.#released.get(packetId)
    this.#released.delete(packetId)
    if (key !== undefined) this.#ledger.settled(key, this.#options.queue)
    this.#client.send(acknowledge('pubcomp', packetId))
  }

  #makeSure() {
    if (this.#marker !== null || !this.#client.online) return
    const { name, version } = this.#options
    this.#marker = { packetId: 61_000 + (this.#markers++ % 1000), keys: this.#acknowledged }
    this.#acknowledged = []
    const { packetId } = this.#marker
    const [topic, payload] = [`sure/${name}`, `${this.#markers}`]
    this.#client.send(publish({ version, topic, payload, qos: 1, packetId, retain: true }))
  }

  #sure({ keys }, reasonCode) {
    this.#marker = null
    // A refusal is not committed. Whether what was before it is will not be known.
    if (reasonCode >= 0x80) return
    for (const key of keys) this.#ledger.settled(key, this.#options.queue)
  }
}
