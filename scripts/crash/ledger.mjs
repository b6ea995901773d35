/**
 * The oracle: what was sent, acknowledged and delivered, and in what order. Its clock counts events, since the whole
 * harness is one process: of two events it knows which was first.
 */

/** Problems of one kind that are told in words. */
const DETAILS_MAX = 5

/** Payloads say who published what, and are of a length that only the right one has. */
export function payloadOf(publisher, sequence) {
  return `${publisher} ${sequence} ${'.'.repeat(paddingOf(publisher, sequence))}`
}

/** Publishers whose name begins with `big` send kilobytes, those with `tiny` next to nothing. */
function paddingOf(publisher, sequence) {
  if (publisher.startsWith('tiny')) return (sequence * 37) % 40
  if (publisher.startsWith('big')) return 700 + ((sequence * 37) % 3300)
  return sequence % 61 === 60 ? 9000 + (sequence % 9000) : (sequence * 37) % 300
}

/** What went wrong, by kind. */
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

/** What expires, and Wills with a delay, may be so much later than they should: clients and brokers have other work. */
const LATE_MS = 4000
/** A broker's clock may tick in tenths. */
const EARLY_MS = 150
/** Messages that expire sooner than in a run's time are owed to nobody. */
const SHORT_SECONDS = 60

export class Ledger {
  acknowledged = 0
  delivered = 0
  /** The first problems of each kind, in words. */
  details = []
  #counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]))
  #time = 0
  #streams = new Map()
  #receivers = new Map()
  #wills = new Map()
  /** Of every message its time and its bytes, in their order. */
  #sizes = []

  /** Of all kinds. */
  get counts() {
    return this.#counts
  }

  /** All problems together. */
  get problems() {
    return Object.values(this.#counts).reduce((sum, count) => sum + count, 0)
  }

  /** Events so far: what grows while anything happens. */
  get time() {
    return this.#time
  }

  problem(kind, detail) {
    this.#counts[kind]++
    if (this.#counts[kind] <= DETAILS_MAX) this.details.push(`${kind}: ${detail}`)
  }

  // ── publishers ────────────────────────────────────────────────────────────────────────────────────────────

  /** What one publisher says on one topic, at one QoS: messages with numbers from 0 on, which may expire. */
  stream(publisher, topic, qos, retain, expirySeconds = Number.POSITIVE_INFINITY) {
    const stream = { publisher, topic, qos, retain, expirySeconds, messages: [] }
    this.#streams.set(`${publisher} ${topic}`, stream)
    return stream
  }

  /** A message is about to be sent for the first time; returns its number. */
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

  /** PUBACK, or PUBREC, without an error. */
  published(stream, sequence) {
    const message = stream.messages[sequence]
    if (message.acknowledgedAt > 0) return
    message.acknowledgedAt = ++this.#time
    message.acknowledgedMs = performance.now()
    this.acknowledged++
  }

  // ── Sessions and subscriptions ────────────────────────────────────────────────────────────────────────────

  sessionLost(clientId) {
    this.problem('sessionsLost', `Session Present is 0 for ${clientId}`)
  }

  /**
   * Whoever gets messages: a Session, or all of a Shared Subscription's group, in which no order is promised. Of what
   * was published last it is owed `owedBytes`: a full queue may have dropped what is older.
   */
  receiver(name, ordered, owedBytes = Number.POSITIVE_INFINITY) {
    let receiver = this.#receivers.get(name)
    if (receiver === undefined) {
      receiver = { name, ordered, owedBytes, abandoned: false, subscriptions: [], arrivals: new Map() }
      this.#receivers.set(name, receiver)
    }
    return receiver
  }

  /** It is about to give up its Session: nothing is owed to it any more. */
  abandon(receiver) {
    receiver.abandoned = true
  }

  /** SUBSCRIBE is about to be sent. */
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

  /** UNSUBSCRIBE is about to be sent. */
  unsubscribing(subscription) {
    if (subscription.leavingAt === Number.POSITIVE_INFINITY) subscription.leavingAt = ++this.#time
  }

  unsubscribed(subscription) {
    subscription.leftAt = ++this.#time
  }

  // ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────

  /** A PUBLISH arrived that is not a repetition of a QoS 2 identifier. `connection` numbers the receiver's ones. */
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
    // Its time may have begun anew.
    const ageMs = performance.now() - message.repeatedMs
    // What was begun to be delivered may be repeated later.
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
    // A QoS 1 publisher that sends again may have published twice.
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

  // ── retained messages ─────────────────────────────────────────────────────────────────────────────────────

  /** What a new subscriber has to find: by topic the number of the newest acknowledged message, at the least. */
  retainedNow() {
    const wanted = new Map()
    for (const { topic, retain, messages } of this.#streams.values()) {
      if (!retain) continue
      const newest = messages.findLastIndex(({ acknowledgedAt }) => acknowledgedAt > 0)
      if (newest >= 0) wanted.set(topic, newest)
    }
    return wanted
  }

  // ── Wills ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** CONNECT with a Will is about to be sent. `kept` is false until CONNACK came, `goneMs` null until its client went. */
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

  // ── the audit ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Acknowledged and still not delivered, with every Will that is due. */
  missing() {
    let count = 0
    for (const _ of this.#lost()) count++
    return count
  }

  /**
   * What a backup that began at `time` and ends now has to hold: by receiver the deliveries, as `[key, words]`, that were
   * acknowledged by then and did not arrive yet.
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

  /** Counts what is lost. To be called once, at the end. */
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

  /** The time since which everything that was published is owed to a receiver. */
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

/** What a receiver got of a stream; `flagged` are the numbers that came with RETAIN, as a new subscriber gets them. */
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
 * Whether the standard promises that this message arrives before `highest`, which did. A QoS 1 publisher that sends
 * again may have published twice: who misses the first copy gets the second one, behind first copies of later messages.
 */
function inOrder({ subscriptions, owedBytes }, { topic, qos, expirySeconds, messages }, sequence, highest) {
  const { sentAt, sentMs, attempts, repeatedAt } = messages[sequence]
  if (qos === 2 || attempts === 1 || repeatedAt < messages[highest].sentAt) return true
  // A full queue may have dropped the first copy.
  if (owedBytes !== Number.POSITIVE_INFINITY) return false
  // It may have expired in the queue.
  if (performance.now() - sentMs > expirySeconds * 1000 - EARLY_MS) return false
  // Who subscribed in between did not get it.
  return subscriptions.some(
    ({ matches, grantedAt, leavingAt }) =>
      matches(topic) && grantedAt > 0 && grantedAt < sentAt && leavingAt === Number.POSITIVE_INFINITY,
  )
}

/** Tells in words what became of a message that came too late, and of the one that it was to come before. */
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

/** Tells in words when a message was sent and acknowledged. */
function sendingsOf({ attempts, sentMs, repeatedMs, acknowledgedMs }, now) {
  const again = attempts === 1 ? '' : `, the last of ${attempts} times ${agoText(repeatedMs, now)}`
  const acknowledged =
    acknowledgedMs === null ? 'not acknowledged' : `acknowledged ${agoText(acknowledgedMs, now)}`
  return `sent ${agoText(sentMs, now)}${again}, ${acknowledged}`
}

function agoText(ms, now) {
  return `${(now - ms).toFixed(0)} ms ago`
}

/** The Subscriptions that are granted and not given up. */
function lastingOf({ subscriptions }) {
  return subscriptions.filter(
    ({ grantedAt, leavingAt }) => grantedAt > 0 && leavingAt === Number.POSITIVE_INFINITY,
  )
}

/** Numbers of the messages that were acknowledged until `time` and did not arrive as they should. */
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
    // It has it, and yet a subscriber that was there takes it for something old [MQTT-3.3.1-9].
    if (arrivals?.flagged.has(sequence)) yield ['flagged', `${receiver.name} got ${what} only with RETAIN`]
    else yield ['lost', `${receiver.name} did not get ${what}, which was acknowledged`]
  }
}

/** Whether a topic name matches the filter; a share's prefix does not count. */
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
