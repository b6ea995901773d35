/**
 * A subscriber with a Session that outlives its connections. It goes away and comes back, takes over from
 * itself, and acknowledges late or not at all. At QoS 2 it keeps the identifiers that it received, and so
 * takes every message once.
 */
import { Client } from './client.mjs'
import { acknowledge, subscribe, unsubscribe } from './packets.mjs'

const TICK_MS = 8
const ANSWER_TO = { publish1: 'puback', publish2: 'pubrec', pubrel: 'pubcomp' }

export class Subscriber {
  #client
  #ledger
  #random
  /** The share of its ticks in which it goes away. */
  #absence
  /** Gives up its Session from time to time. */
  #fickle
  /** True when it leaves as soon as it has its Subscriptions, and comes back for the end. */
  #isLate
  /** The number of acknowledgements that it sends in a tick, at most. */
  #pace
  #owedBytes
  #generation = 0
  /** `{filter, qos, changing, receiver, state, entry}` */
  #subscriptions
  #pending = new Map()
  #lastPacketId = 0
  /** Payloads by QoS 2 identifier, as long as it is not released. */
  #received = new Map()
  #owed = []
  #prompt = true
  #unrest = true
  #timer

  /**
   * @param {{
   *   port: number,
   *   ledger: import('./ledger.mjs').Ledger,
   *   random: import('./random.mjs').Random,
   *   name: string,
   *   version: number,
   *   filters: readonly { filter: string, qos: number, changing: boolean }[],
   *   share?: string,
   *   absence: number,
   *   fickle?: boolean,
   *   late?: boolean,
   *   pace?: number,
   *   owedBytes?: number,
   *   receiveMaximum: number,
   * }} options with a `pace` it lags behind and acknowledges so many packets a tick; all members of the group
   * `share` count as one receiver; `absence`, `fickle`, `late` and `owedBytes` are explained at the fields
   */
  constructor({
    port,
    ledger,
    random,
    name,
    version,
    filters,
    share,
    absence,
    fickle = false,
    late = false,
    pace = Number.POSITIVE_INFINITY,
    owedBytes,
    receiveMaximum,
  }) {
    this.#ledger = ledger
    this.#random = random
    this.#absence = absence
    this.#fickle = fickle && version === 5
    this.#isLate = late
    this.#pace = pace
    this.#owedBytes = owedBytes
    const receiver = ledger.receiver(share ?? name, share === undefined, owedBytes)
    this.#subscriptions = filters.map((filter) => ({ ...filter, receiver, state: 'none', entry: null }))
    this.#client = new Client(
      { port, ledger, clientId: name, version, receiveMaximum },
      {
        online: (present, _, anew) => this.#online(present, anew),
        packet: (packet) => this.#packet(packet),
        offline: () => {
          this.#owed = []
        },
      },
    )
  }

  get name() {
    return this.#client.clientId
  }

  get version() {
    return this.#client.version
  }

  /** The receiver that its messages count for, see `Ledger.receiver`. */
  get receiver() {
    return this.#subscriptions[0].receiver
  }

  /** Whether it has a Session that it will not give up. */
  get lasts() {
    return this.ready && !this.#fickle
  }

  get online() {
    return this.#client.online
  }

  /** Whether all its lasting subscriptions are granted. */
  get ready() {
    return this.#subscriptions.every(({ changing, state }) => changing || state === 'active')
  }

  start() {
    this.#client.start()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  goDeaf(ms) {
    this.#client.goDeaf(ms)
  }

  /** Stays connected from now on, and acknowledges everything at once. */
  settle() {
    this.#unrest = false
    this.#isLate = false
    this.#prompt = true
    this.#pace = Number.POSITIVE_INFINITY
    this.#pay()
    this.#client.start()
  }

  stop() {
    clearInterval(this.#timer)
    this.#client.vanish()
  }

  #tick() {
    if (!this.#unrest) return
    if (this.#isLate) {
      if (this.ready && this.#client.online) this.#client.leave()
      return
    }
    const random = this.#random
    if (random.chance(this.#absence)) this.#goAway()
    else if (random.chance(0.005)) this.#client.takeOver()
    if (this.#lags) this.#pay()
    else {
      if (random.chance(0.02)) this.#prompt = random.chance(0.6)
      if (random.chance(0.15)) this.#pay()
    }
    for (const subscription of this.#subscriptions) {
      if (subscription.changing && random.chance(0.02)) this.#toggle(subscription)
    }
  }

  #goAway() {
    const how = this.#random.pick(['vanish', 'leave'])
    this.#client[how]()
    if (this.#fickle && this.#random.chance(0.3)) {
      for (const { receiver } of this.#subscriptions) this.#ledger.abandon(receiver)
      this.#client.beginAnew()
    }
    this.#client.start(this.#random.between(0, this.#random.chance(0.2) ? 2000 : 200))
  }

  #toggle(subscription) {
    if (!this.#client.online) return
    if (subscription.state === 'active') this.#unsubscribe(subscription)
    else if (subscription.state === 'none') this.#subscribe(subscription)
  }

  /**
   * Begins as a new receiver, as nothing is left of the Session: all it gets from now on is published after
   * this.
   */
  #renew() {
    const receiver = this.#ledger.receiver(`${this.name}/${++this.#generation}`, true, this.#owedBytes)
    for (const subscription of this.#subscriptions)
      Object.assign(subscription, { receiver, state: 'none', entry: null })
  }

  #online(present, anew) {
    this.#pending.clear()
    if (anew) this.#renew()
    if (!present) this.#received.clear()
    for (const subscription of this.#subscriptions) {
      const { state } = subscription
      if (state === 'leaving' && present) this.#unsubscribe(subscription)
      else if (state === 'asked' || !present || (state === 'none' && !subscription.changing)) {
        this.#subscribe(subscription)
      }
    }
  }

  #subscribe(subscription) {
    const { filter, qos, receiver } = subscription
    if (subscription.state === 'none' || subscription.state === 'leaving') {
      subscription.entry = this.#ledger.subscribing(receiver, filter, qos)
    }
    subscription.state = 'asked'
    const packetId = this.#packetId(subscription)
    this.#client.send(subscribe({ version: this.#client.version, packetId, filter, qos }))
  }

  #unsubscribe(subscription) {
    subscription.state = 'leaving'
    this.#ledger.unsubscribing(subscription.entry)
    const { filter } = subscription
    const packetId = this.#packetId(subscription)
    this.#client.send(unsubscribe({ version: this.#client.version, packetId, filter }))
  }

  #packetId(subscription) {
    this.#lastPacketId = (this.#lastPacketId % 65_535) + 1
    this.#pending.set(this.#lastPacketId, subscription)
    return this.#lastPacketId
  }

  #packet(packet) {
    switch (packet.type) {
      case 'suback':
      case 'unsuback':
        this.#answered(packet)
        break
      case 'publish':
        this.#publish(packet)
        break
      case 'pubrel':
        this.#received.delete(packet.packetId)
        this.#owe(ANSWER_TO.pubrel, packet.packetId)
        break
    }
  }

  #answered({ type, packetId, reasonCode }) {
    const subscription = this.#pending.get(packetId)
    this.#pending.delete(packetId)
    if (subscription === undefined) return
    if (type === 'unsuback' && subscription.state === 'leaving') {
      this.#ledger.unsubscribed(subscription.entry)
      subscription.state = 'none'
    } else if (type === 'suback' && subscription.state === 'asked' && reasonCode <= 2) {
      this.#ledger.subscribed(subscription.entry)
      subscription.state = 'active'
    }
  }

  #publish(packet) {
    const { qos, packetId, payload } = packet
    const { receiver } = this.#subscriptions[0]
    const connection = `${this.name} ${this.#client.connections}`
    if (qos < 2) {
      this.#ledger.arrived(receiver, packet, connection)
      if (qos === 1) this.#owe(ANSWER_TO.publish1, packetId)
      return
    }
    const before = this.#received.get(packetId)
    if (before === undefined) {
      this.#received.set(packetId, payload)
      this.#ledger.arrived(receiver, packet, connection)
    } else if (before !== payload) {
      this.#ledger.problem(
        'strays',
        `${this.name} got another message under the unreleased identifier ${packetId}`,
      )
    }
    this.#owe(ANSWER_TO.publish2, packetId)
  }

  #owe(type, packetId) {
    this.#owed.push(acknowledge(type, packetId))
    if (this.#prompt && !this.#lags) this.#pay()
  }

  get #lags() {
    return this.#pace !== Number.POSITIVE_INFINITY
  }

  #pay() {
    const paid = this.#owed.splice(0, this.#pace)
    if (paid.length > 0 && this.#client.online) this.#client.send(Buffer.concat(paid))
  }
}
