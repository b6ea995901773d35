/**
 * The oracle: knows what was sent, acknowledged and delivered, and in what order. Its clock counts events:
 * the whole harness is one process, so of two events it knows which was first.
 *
 * @typedef {ReturnType<Ledger['stream']>} Stream the messages of one publisher on one topic
 * @typedef {ReturnType<Ledger['receiver']>} Receiver a Session, or the group of a Shared Subscription
 */

/** Problems of one kind that are described in words, at most. */
const DETAILS_MAX = 5

/**
 * Returns a payload that names its publisher and its number, with a length that only the right payload has.
 */
export function payloadOf(publisher, sequence) {
  return `${publisher} ${sequence} ${'.'.repeat(paddingOf(publisher, sequence))}`
}

/** The payloads of publishers with names that begin with `big` have kilobytes, with `tiny` a few bytes. */
function paddingOf(publisher, sequence) {
  if (publisher.startsWith('tiny')) return (sequence * 37) % 40
  if (publisher.startsWith('big')) return 700 + ((sequence * 37) % 3300)
  return sequence % 61 === 60 ? 9000 + (sequence % 9000) : (sequence * 37) % 300
}

/** Kinds of problems. */
const KINDS = [
  'lost',
  'flagged',
  'doubled',
  'misordered',
  'sessionsLost',
  'retainedLost',
  'willsLost',
  'backups',
  'overdue',
  'strays',
]

/** An expired message may arrive so much later than it should: clients and brokers have other work. */
const LATE_MS = 4000
/** A broker's clock may tick in tenths. */
const EARLY_MS = 150
/** Messages that expire sooner than this may expire during a run, and are owed to nobody. */
const SHORT_SECONDS = 60

export class Ledger {
  acknowledged = 0
  delivered = 0
  /**
   * The first problems of each kind, in words.
   *
   * @type {string[]}
   */
  details = []
  /** @type {Record<string, number>} */
  #counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]))
  #time = 0
  #streams = new Map()
  #receivers = new Map()
  #wills = new Map()
  /** The time and the bytes of every message, in order. */
  #sizes = []

  /** The number of problems of each kind. */
  get counts() {
    return this.#counts
  }

  /** The number of problems of all kinds. */
  get problems() {
    return Object.values(this.#counts).reduce((sum, count) => sum + count, 0)
  }

  /** Events so far; the number grows while anything happens. */
  get time() {
    return this.#time
  }

  problem(kind, detail) {
    this.#counts[kind]++
    if (this.#counts[kind] <= DETAILS_MAX) this.details.push(`${kind}: ${detail}`)
  }

  // ── publishers ─────────────────────────────────────────────────────────────────────────────────

  /**
   * Begins the messages of one publisher on one topic at one QoS. They have numbers from 0 on, and may
   * expire.
   */
  stream(publisher, topic, qos, retain, expirySeconds = Number.POSITIVE_INFINITY) {
    const stream = { publisher, topic, qos, retain, expirySeconds, messages: [] }
    this.#streams.set(`${publisher} ${topic}`, stream)
    return stream
  }

  /** Notes that a message is about to be sent for the first time. Returns its number. */
  sent(stream) {
    const sentMs = performance.now()
    const sentAt = ++this.#time
    const repeated = { attempts: 1, repeatedAt: sentAt, repeatedMs: sentMs }
    stream.messages.push({ sentAt, sentMs, ...repeated, acknowledgedAt: 0, acknowledgedMs: null })
    const sequence = stream.messages.length - 1
    this.#sizes.push([this.#time, stream.topic.length + payloadOf(stream.publisher, sequence).length])
    return sequence
  }

  repeated(stream, sequence) {
    const message = stream.messages[sequence]
    message.attempts++
    message.repeatedAt = this.#time
    message.repeatedMs = performance.now()
  }

  /** Notes a PUBACK or PUBREC without an error. */
  published(stream, sequence) {
    const message = stream.messages[sequence]
    if (message.acknowledgedAt > 0) return
    message.acknowledgedAt = ++this.#time
    message.acknowledgedMs = performance.now()
    this.acknowledged++
  }

  // ── Sessions and subscriptions ─────────────────────────────────────────────────────────────────

  sessionLost(clientId) {
    this.problem('sessionsLost', `Session Present is 0 for ${clientId}`)
  }

  /**
   * Returns the receiver with this name: a Session, or the whole group of a Shared Subscription, which no
   * order is promised to. It is owed the newest `owedBytes` that were published: a full queue may have
   * dropped older messages.
   *
   * @param {string} name
   * @param {boolean} ordered
   */
  receiver(name, ordered, owedBytes = Number.POSITIVE_INFINITY) {
    let receiver = this.#receivers.get(name)
    if (receiver === undefined) {
      receiver = { name, ordered, owedBytes, abandoned: false, subscriptions: [], arrivals: new Map() }
      this.#receivers.set(name, receiver)
    }
    return receiver
  }

  /** Notes that a receiver is about to give up its Session: nothing is owed to it any more. */
  abandon(receiver) {
    receiver.abandoned = true
  }

  /** Notes that SUBSCRIBE is about to be sent. */
  subscribing(receiver, filter, qos) {
    const subscription = {
      filter,
      matches: matcher(filter),
      qos,
      askedAt: ++this.#time,
      grantedAt: 0,
      leavingAt: Number.POSITIVE_INFINITY,
      leftAt: Number.POSITIVE_INFINITY,
    }
    receiver.subscriptions.push(subscription)
    return subscription
  }

  subscribed(subscription) {
    if (subscription.grantedAt === 0) subscription.grantedAt = ++this.#time
  }

  /** Notes that UNSUBSCRIBE is about to be sent. */
  unsubscribing(subscription) {
    if (subscription.leavingAt === Number.POSITIVE_INFINITY) subscription.leavingAt = ++this.#time
  }

  unsubscribed(subscription) {
    subscription.leftAt = ++this.#time
  }

  // ── deliveries ─────────────────────────────────────────────────────────────────────────────────

  /**
   * Judges a PUBLISH that does not repeat a QoS 2 identifier. `connection` names the receiver's connection.
   */
  arrived(receiver, packet, connection) {
    this.#time++
    const { topic, payload } = packet
    if (topic.startsWith('w/')) {
      this.#willArrived(receiver, packet)
      return
    }
    const [publisher, number] = payload.split(' ', 2)
    const sequence = Number(number)
    const stream = this.#streams.get(`${publisher} ${topic}`)
    const message = stream?.messages[sequence]
    if (message === undefined || payload !== payloadOf(publisher, sequence)) {
      this.problem('strays', `${receiver.name} got what nobody published: ${topic} ${payload.slice(0, 60)}`)
      return
    }
    const ageMs = performance.now() - expiryBeganMs(stream, message)
    // A delivery that was begun in time may be repeated later.
    if (!packet.dup && ageMs > stream.expirySeconds * 1000 + LATE_MS) {
      const late = (ageMs - stream.expirySeconds * 1000).toFixed(0)
      this.problem(
        'overdue',
        `${receiver.name} got ${payload.slice(0, 20)} on ${topic} ${late} ms after it had expired; ` +
          sendingsOf(message, performance.now()),
      )
    }
    if (packet.retain) {
      arrivalsOf(receiver, stream).flagged.add(sequence)
      return
    }
    const what = `${receiver.name} got ${publisher}'s ${sequence} on ${topic}`
    const allowed = receiver.subscriptions.filter(
      ({ matches, askedAt, leftAt }) =>
        matches(topic) &&
        leftAt > message.sentAt &&
        (message.acknowledgedAt === 0 || askedAt < message.acknowledgedAt),
    )
    if (!allowed.some(({ qos }) => Math.min(qos, stream.qos) === packet.qos)) {
      this.problem('strays', `${what} at QoS ${packet.qos}, without such a subscription`)
      if (allowed.length === 0) return
    }
    this.#deliver(receiver, stream, sequence, packet, connection, what)
  }

  #deliver(receiver, stream, sequence, packet, connection, what) {
    const arrivals = arrivalsOf(receiver, stream)
    const before = arrivals.bySequence.get(sequence)
    // At QoS 1, each time it was sent may have been another publication.
    const copies = stream.qos === 2 ? 1 : stream.messages[sequence].attempts
    if (before === undefined) {
      this.delivered++
      const arrival = {
        fresh: packet.dup ? 0 : 1,
        connection,
        onConnection: 1,
        first: { ms: performance.now(), qos: packet.qos, dup: packet.dup, connection },
      }
      arrivals.bySequence.set(sequence, arrival)
      const { highest } = arrivals
      if (sequence > highest) arrivals.highest = sequence
      else if (receiver.ordered && inOrder(receiver, stream, sequence, highest)) {
        this.problem('misordered', `${what} after ${highest}${historyOf(arrivals, stream, sequence)}`)
      }
      return
    }
    if (!packet.dup) before.fresh++
    before.onConnection = before.connection === connection ? before.onConnection + 1 : 1
    before.connection = connection
    if (packet.qos === 2) this.problem('doubled', `${what} twice at QoS 2`)
    else if (before.fresh > copies)
      this.problem('doubled', `${what} without DUP, more often than it was sent`)
    else if (before.onConnection > copies) this.problem('doubled', `${what} twice on one connection`)
  }

  // ── retained messages ──────────────────────────────────────────────────────────────────────────

  /**
   * Returns what a new subscriber has to find: by topic the number of the newest acknowledged message, or
   * later.
   */
  retainedNow() {
    const wanted = new Map()
    for (const { topic, retain, messages } of this.#streams.values()) {
      if (!retain) continue
      const newest = messages.findLastIndex(({ acknowledgedAt }) => acknowledgedAt > 0)
      if (newest >= 0) wanted.set(topic, newest)
    }
    return wanted
  }

  // ── Wills ──────────────────────────────────────────────────────────────────────────────────────

  /**
   * Notes that CONNECT with a Will is about to be sent. Returns the Will; the caller sets `kept` when CONNACK
   * arrives, and `goneMs` when the client leaves.
   *
   * @param {string} topic
   * @param {number} [delaySeconds]
   * @returns {{
   *   topic: string,
   *   delaySeconds: number,
   *   sentAt: number,
   *   goneMs: number | null,
   *   kept: boolean,
   *   arrivals: Set<Receiver>,
   * }}
   */
  will(topic, delaySeconds = 0) {
    const will = { topic, delaySeconds, sentAt: ++this.#time, goneMs: null, kept: false, arrivals: new Set() }
    this.#wills.set(topic, will)
    return will
  }

  #willArrived(receiver, { topic }) {
    const will = this.#wills.get(topic)
    if (will === undefined) this.problem('strays', `${receiver.name} got a Will that nobody has: ${topic}`)
    else if (will.arrivals.has(receiver))
      this.problem('doubled', `${receiver.name} got the Will ${topic} twice`)
    else {
      will.arrivals.add(receiver)
      const waitedMs = will.goneMs === null ? 0 : performance.now() - will.goneMs
      if (waitedMs + EARLY_MS < will.delaySeconds * 1000) {
        this.problem('overdue', `the Will ${topic} came after ${waitedMs.toFixed(0)} ms, before its delay`)
      }
      this.delivered++
    }
  }

  // ── the audit ──────────────────────────────────────────────────────────────────────────────────

  /** Returns how many acknowledged messages and Wills that are due have not been delivered. */
  missing() {
    let count = 0
    for (const _ of this.#lost()) count++
    return count
  }

  /**
   * Returns what a backup that began at `time` and ends now must have: the deliveries of each receiver, as
   * `[key, words]`, that were acknowledged by then and have not arrived.
   */
  owed(time) {
    const owed = []
    for (const receiver of this.#receivers.values()) {
      const granted = lastingOf(receiver)
      if (granted.length === 0 || receiver.abandoned) continue
      const deliveries = []
      for (const [key, stream] of this.#streams) {
        for (const sequence of missingOf(receiver, granted, key, stream, time)) {
          deliveries.push([`${key} ${sequence}`, `${stream.publisher}'s ${sequence} on ${stream.topic}`])
        }
      }
      owed.push({ receiver, deliveries })
    }
    return owed
  }

  /** Counts what is lost. Is called once, at the end. */
  audit() {
    for (const [kind, detail] of this.#lost()) this.problem(kind, detail)
  }

  *#lost() {
    for (const receiver of this.#receivers.values()) {
      const granted = lastingOf(receiver)
      if (granted.length === 0 || receiver.abandoned) continue
      const since = this.#owedSince(receiver)
      for (const [key, stream] of this.#streams) yield* lostOf(receiver, granted, key, stream, since)
      for (const will of this.#wills.values()) {
        const due =
          will.kept &&
          granted.some(({ matches, grantedAt }) => matches(will.topic) && grantedAt < will.sentAt)
        if (due && !will.arrivals.has(receiver))
          yield ['willsLost', `${receiver.name} did not get the Will ${will.topic}`]
      }
    }
  }

  /** Returns the time since which everything that was published is owed to a receiver. */
  #owedSince({ owedBytes }) {
    if (owedBytes === Number.POSITIVE_INFINITY) return 0
    let left = owedBytes
    for (let index = this.#sizes.length - 1; index >= 0; index--) {
      const [time, bytes] = this.#sizes[index]
      left -= bytes
      if (left < 0) return time + 1
    }
    return 0
  }
}

/** Returns what a receiver got of a stream; `flagged` are the numbers that arrived with RETAIN. */
function arrivalsOf(receiver, { publisher, topic }) {
  const key = `${publisher} ${topic}`
  let arrivals = receiver.arrivals.get(key)
  if (arrivals === undefined) {
    arrivals = { highest: -1, bySequence: new Map(), flagged: new Set() }
    receiver.arrivals.set(key, arrivals)
  }
  return arrivals
}

/**
 * Tells whether the standard promises that this message arrives before `highest`, which has arrived. A QoS 1
 * publisher that sends again may have published twice. A subscriber that misses the first copy gets the
 * second one, behind first copies of later messages.
 */
function inOrder({ subscriptions, owedBytes }, { topic, qos, expirySeconds, messages }, sequence, highest) {
  const { sentAt, sentMs, attempts, repeatedAt } = messages[sequence]
  if (qos === 2 || attempts === 1 || repeatedAt < messages[highest].sentAt) return true
  // A full queue may have dropped the first copy.
  if (owedBytes !== Number.POSITIVE_INFINITY) return false
  // It may have expired in the queue.
  if (performance.now() - sentMs > expirySeconds * 1000 - EARLY_MS) return false
  // A subscriber that subscribed between the two copies did not get the first one.
  return subscriptions.some(
    ({ matches, grantedAt, leavingAt }) =>
      matches(topic) && grantedAt > 0 && grantedAt < sentAt && leavingAt === Number.POSITIVE_INFINITY,
  )
}

/** Describes a message that arrived too late, and the one that it should have preceded. */
function historyOf({ highest, bySequence }, { qos, expirySeconds, messages }, sequence) {
  const now = performance.now()
  const expiry = Number.isFinite(expirySeconds) ? `, expires after ${expirySeconds} s` : ''
  const lines = [sequence, highest].map((number) => {
    const { first } = bySequence.get(number)
    const how = `at QoS ${first.qos}${first.dup ? ' with DUP' : ''}, connection ${first.connection}`
    return `\n${number}: ${sendingsOf(messages[number], now)}, came ${agoText(first.ms, now)} ${how}`
  })
  return `; QoS ${qos}${expiry}${lines.join('')}`
}

/**
 * Returns the latest time at which the broker may have begun to count a message's expiry; Infinity if it may
 * not have read it yet. A busy broker reads it seconds after it was sent.
 */
function expiryBeganMs({ qos }, { acknowledgedMs, repeatedMs }) {
  // When it was sent again, its time may have begun anew.
  return qos === 0 ? repeatedMs : (acknowledgedMs ?? Number.POSITIVE_INFINITY)
}

/** Describes when a message was sent and acknowledged. */
function sendingsOf({ attempts, sentMs, repeatedMs, acknowledgedMs }, now) {
  const again = attempts === 1 ? '' : `, the last of ${attempts} times ${agoText(repeatedMs, now)}`
  const acknowledged =
    acknowledgedMs === null ? 'not acknowledged' : `acknowledged ${agoText(acknowledgedMs, now)}`
  return `sent ${agoText(sentMs, now)}${again}, ${acknowledged}`
}

function agoText(ms, now) {
  return `${(now - ms).toFixed(0)} ms ago`
}

/** Returns the Subscriptions that were granted and not given up. */
function lastingOf({ subscriptions }) {
  return subscriptions.filter(
    ({ grantedAt, leavingAt }) => grantedAt > 0 && leavingAt === Number.POSITIVE_INFINITY,
  )
}

/** Yields the numbers of messages that were acknowledged until `time` and have not arrived. */
function* missingOf(receiver, granted, key, { topic, expirySeconds, messages }, time, owedSince = 0) {
  if (expirySeconds < SHORT_SECONDS) return
  const since = granted.filter(({ matches }) => matches(topic)).map(({ grantedAt }) => grantedAt)
  if (since.length === 0) return
  const from = Math.max(owedSince, Math.min(...since))
  const arrivals = receiver.arrivals.get(key)
  for (let sequence = 0; sequence < messages.length; sequence++) {
    const { sentAt, acknowledgedAt } = messages[sequence]
    if (acknowledgedAt === 0 || acknowledgedAt > time || sentAt < from) continue
    if (!arrivals?.bySequence.has(sequence)) yield sequence
  }
}

function* lostOf(receiver, granted, key, stream, owedSince) {
  const { publisher, topic } = stream
  const arrivals = receiver.arrivals.get(key)
  for (const sequence of missingOf(receiver, granted, key, stream, Number.POSITIVE_INFINITY, owedSince)) {
    const what = `${publisher}'s ${sequence} on ${topic}`
    // It arrived, but with RETAIN a subscriber that was there takes it for an old message [MQTT-3.3.1-9].
    if (arrivals?.flagged.has(sequence)) yield ['flagged', `${receiver.name} got ${what} only with RETAIN`]
    else yield ['lost', `${receiver.name} did not get ${what}, which was acknowledged`]
  }
}

/** Returns a test whether a topic name matches the filter. The prefix of a Shared Subscription is ignored. */
function matcher(filter) {
  const levels = filter.replace(/^\$share\/[^/]+\//, '').split('/')
  const known = new Map()
  return (topic) => {
    let matched = known.get(topic)
    if (matched === undefined) {
      matched = matches(levels, topic.split('/'))
      known.set(topic, matched)
    }
    return matched
  }
}

function matches(levels, names) {
  for (let index = 0; index < levels.length; index++) {
    if (levels[index] === '#') return true
    if (index >= names.length || (levels[index] !== '+' && levels[index] !== names[index])) return false
  }
  return levels.length === names.length
}
