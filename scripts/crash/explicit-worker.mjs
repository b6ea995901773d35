/** A consumer with explicit acknowledgement: it holds messages, and publishes to `$ack` when it is done. */
import { Client } from './client.mjs'
import { acknowledge, publish, subscribe } from './packets.mjs'
import { restless } from './queue-clients.mjs'
import { keyOf } from './queue-ledger.mjs'

const TICK_MS = 8
const LEASE_SECONDS = 8
/** For so long nobody else may get it: less than the lease, so that no slow machine is blamed. */
const SURE_MS = 3000
const SUBSCRIBE_PACKET_ID = 65_000
const NOTHING_DONE = 0x10

export class ExplicitWorker {
  #client
  #ledger
  #random
  #options
  #isSettling = false
  #isSubscribed = false
  /** Messages that it is to settle, by tag. @type {Map<string, { key: string, isPoison: boolean }>} */
  #held = new Map()
  /** Publications to `$ack` that were not acknowledged, by packet identifier. */
  #sent = new Map()
  #lastPacketId = 0
  #timer

  /**
   * @param {{
   *   port: number,
   *   ledger: import('./queue-ledger.mjs').QueueLedger,
   *   random: import('./random.mjs').Random,
   *   name: string,
   *   version: number,
   *   queue: string,
   *   qos: number,
   *   workMs: number,
   * }} options
   */
  constructor(options) {
    const { port, ledger, random, name, version } = options
    this.#options = options
    this.#ledger = ledger
    this.#random = random
    this.#client = new Client(
      { port, ledger, clientId: name, version },
      {
        online: () => this.#online(),
        packet: (packet) => this.#packet(packet),
        offline: () => {},
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

  get isReady() {
    return this.#client.online && this.#isSubscribed
  }

  stop() {
    clearInterval(this.#timer)
    this.#client.vanish()
  }

  #tick() {
    if (!this.#isSettling) restless(this.#client, this.#random, 0.005)
    if (!this.#client.online) return
    for (const [tag, { key, isPoison }] of this.#held) {
      const isDue = this.#isSettling || this.#random.chance(TICK_MS / (TICK_MS + this.#options.workMs))
      if (isDue) this.#answer(tag, key, isPoison)
    }
  }

  #online() {
    const { queue, version, qos } = this.#options
    const filter = `$queue/${queue};ack=explicit;lease=${LEASE_SECONDS}/+/#`
    this.#client.send(subscribe({ version, packetId: SUBSCRIBE_PACKET_ID, filter, qos }))
    for (const packetId of this.#sent.keys()) this.#send(packetId)
  }

  #packet({ type, packetId, reasonCode, topic, qos, payload }) {
    if (type === 'publish') {
      if (qos > 0) this.#client.send(acknowledge(qos === 1 ? 'puback' : 'pubrec', packetId))
      this.#received(topic.split('/')[2], qos, payload)
    } else if (type === 'pubrel') this.#client.send(acknowledge('pubcomp', packetId))
    else if (type === 'suback') this.#isSubscribed = reasonCode <= 2
    else if (type === 'puback') this.#acknowledged(packetId, reasonCode)
  }

  #received(tag, qos, payload) {
    const { queue } = this.#options
    const key = keyOf(payload)
    const place = placeOf(tag)
    // A PUBLISH that is sent again is the same hand-out.
    const isAgain = this.#held.has(tag) || [...this.#sent.values()].some((one) => one.tag === tag)
    if (isAgain) return
    const isResult = queue === 'answers'
    if (isResult) this.#ledger.result('tasks', payload.split(' ')[3], place)
    // At QoS 0 the lease is committed before the message is sent.
    this.#ledger.lent(key, queue, place, qos === 0 ? SURE_MS : 0)
    this.#held.set(tag, { key, isPoison: payload.split(' ', 3)[2] === 'poison' })
  }

  #answer(tag, key, isPoison) {
    const { queue } = this.#options
    const place = placeOf(tag)
    const isDead = isPoison && queue === 'tasks'
    const verb = isDead
      ? '/dead'
      : this.#isSettling
        ? ''
        : this.#random.pick(['', '', '', '', '/retry', '/extend'])
    if (verb !== '/extend') this.#held.delete(tag)
    if (verb === '/retry' || verb === '/dead') this.#ledger.givenUp(queue, place)
    if (verb === '/dead') this.#ledger.refused(key, queue)
    const result = queue === 'tasks' && verb === '' ? `${key} done ${place}` : ''
    do this.#lastPacketId = (this.#lastPacketId % 60_000) + 1
    while (this.#sent.has(this.#lastPacketId))
    const payload = verb === '/retry' ? '0' : result
    this.#sent.set(this.#lastPacketId, { tag, key, verb, payload, times: 0 })
    this.#send(this.#lastPacketId)
  }

  #send(packetId) {
    const { queue, version } = this.#options
    const sent = this.#sent.get(packetId)
    sent.times++
    const topic = `$ack/${queue}/${sent.tag}${sent.verb}`
    const dup = sent.times > 1
    this.#client.send(publish({ version, topic, payload: sent.payload, qos: 1, packetId, dup }))
  }

  #acknowledged(packetId, reasonCode) {
    const sent = this.#sent.get(packetId)
    if (sent === undefined) return
    this.#sent.delete(packetId)
    const { queue, version } = this.#options
    const { tag, key, verb } = sent
    if (reasonCode >= 0x80) {
      // A shortage is no fault; its lease ends, or it is answered once more.
      if (reasonCode === 0x97) this.#held.set(tag, { key, isPoison: false })
      else
        this.#ledger.problem(
          'strays',
          `$ack/${queue}/${tag}${verb} was refused with ${reasonCode.toString(16)}`,
        )
      return
    }
    const isFirst = version === 5 && reasonCode !== NOTHING_DONE && sent.times === 1
    if (verb === '') this.#ledger.settledAt(key, queue, placeOf(tag), isFirst && queue === 'tasks')
  }
}

/** Returns the part of a tag that names the message. */
function placeOf(tag) {
  return tag.split('.', 1)[0]
}
