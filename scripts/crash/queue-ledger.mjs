/**
 * The oracle of queues: who sent which message, what was acknowledged, and to whom queues handed it out. Each
 * message names itself in its payload.
 */

const DETAILS_MAX = 12

/** Returns the payload of a message; the padding makes segments fill up. */
export function payloadOf({ producer, number, isPoison }, padding) {
  return `${producer} ${number} ${isPoison ? 'poison' : 'job'} ${'.'.repeat(padding)}`
}

/** Returns the key by which the ledger knows a message. */
export function keyOf(payload) {
  const [producer, number] = payload.split(' ', 2)
  return `${producer} ${number}`
}

export class QueueLedger {
  /** Counts acknowledged messages, and hand-outs. */
  acknowledged = 0
  delivered = 0
  counts = { lost: 0, doubled: 0, misordered: 0, sessionsLost: 0, strays: 0 }
  /** @type {string[]} */
  details = []
  /** Changes with each event. */
  time = 0
  /** Changes when a broker ends: nobody reads what is sent to it later. */
  broker = 0
  /** Acknowledged messages that are gone after an answer of which nobody knows whether it was committed. */
  unsure = 0
  #messages = new Map()
  /** Explicit acknowledgement, by queue and place in it: what is known of each message. */
  #places = new Map()
  /** The latest first arrival by queue and producer, where order is promised. */
  #latest = new Map()

  get problems() {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0)
  }

  /** @param {string} kind one of `counts` */
  problem(kind, text) {
    this.counts[kind]++
    if (this.details.length < DETAILS_MAX) this.details.push(text)
  }

  sessionLost(clientId) {
    this.problem('sessionsLost', `the Session of ${clientId} is lost`)
  }

  /**
   * A message is sent, perhaps again. `once` says that the broker takes it once, however often it is sent.
   */
  sent(key, once) {
    this.time++
    let message = this.#messages.get(key)
    if (message === undefined) {
      const outcome = { handed: 0, answered: 0, refused: 0, settled: 0, dead: 0, deadSettled: 0 }
      message = { key, once, sends: 0, isAcknowledged: false, ...outcome }
      this.#messages.set(key, message)
    }
    message.sends++
  }

  acknowledge(key) {
    this.time++
    this.acknowledged++
    this.#messages.get(key).isAcknowledged = true
  }

  /** A queue hands a message out. `isOrdered` says that its producer's messages arrive in order at first. */
  handed(key, queue, isOrdered) {
    this.time++
    this.delivered++
    const message = this.#messages.get(key)
    if (message === undefined) {
      this.problem('strays', `queue ${queue} hands out ${key}, which nobody sent`)
      return
    }
    const isDead = queue.endsWith('.dead')
    const copies = message.once ? 1 : message.sends
    if (message.settled + message.deadSettled >= copies) {
      const how = `${message.settled} times acknowledged, ${message.deadSettled} times as a dead letter`
      this.problem('doubled', `queue ${queue} hands out ${key} again: ${how}, ${copies} copies`)
    }
    this.unanswered(key)
    if (isOrdered && message.handed === 0) this.#inOrder(key, queue)
    if (isDead) message.dead++
    else message.handed++
  }

  /**
   * A consumer acknowledges it: whether the broker learns of that is not known yet. `broker` is the one that
   * its connection was made to; if that has ended, it does not.
   */
  answered(key, broker) {
    this.time++
    const message = this.#messages.get(key)
    if (message !== undefined && broker === this.broker) message.answered++
  }

  /** It comes again: what was answered before was not read, or not committed, unless there are copies. */
  unanswered(key) {
    const message = this.#messages.get(key)
    if (message !== undefined && (message.once || message.sends === 1)) message.answered = 0
  }

  /** A consumer refuses it for good: it is a dead letter, or comes again if that did not arrive. */
  refused(key, queue) {
    this.time++
    const message = this.#messages.get(key)
    if (message !== undefined && !queue.endsWith('.dead')) message.refused++
  }

  /** A consumer has acknowledged it, and knows that the broker has committed that. */
  settled(key, queue) {
    this.time++
    const message = this.#messages.get(key)
    if (message === undefined) return
    if (queue.endsWith('.dead')) message.deadSettled++
    else message.settled++
  }

  // ── explicit acknowledgement ──────────────────────────────────────────────────────────────────────────

  #place(queue, place) {
    const name = `${queue} ${place}`
    const known = this.#places.get(name)
    if (known !== undefined) return known
    const made = { name, isSettled: false, isDone: false, leasedUntil: 0, results: new Set() }
    this.#places.set(name, made)
    return made
  }

  /**
   * A queue hands out what is at a place in it. `leaseMs` is how long nobody else may get it if that is known
   * to be committed; 0 for nothing.
   */
  lent(key, queue, place, leaseMs) {
    this.time++
    this.delivered++
    const found = this.#place(queue, place)
    const message = this.#messages.get(key)
    if (message === undefined) {
      this.problem('strays', `queue ${queue} hands out ${key}, which nobody sent`)
      return
    }
    message.handed++
    this.unanswered(key)
    if (found.isSettled)
      this.problem('doubled', `queue ${queue} hands out ${key} at ${place} again, and it was settled`)
    const now = performance.now()
    if (now < found.leasedUntil) {
      const left = Math.round(found.leasedUntil - now)
      this.problem('doubled', `queue ${queue} hands out ${key} at ${place}, which is lent for ${left} ms yet`)
    }
    found.leasedUntil = leaseMs === 0 ? 0 : now + leaseMs
  }

  /** Somebody asks for the message to be handed out again, or to be dead: the lease is over. */
  givenUp(queue, place) {
    this.time++
    this.#place(queue, place).leasedUntil = 0
  }

  /** It is acknowledged, and that is committed. `isFirst`: by this acknowledgement, if it has a result. */
  settledAt(key, queue, place, isFirst) {
    this.time++
    const found = this.#place(queue, place)
    found.isSettled = true
    found.isDone ||= isFirst
    const message = this.#messages.get(key)
    if (message !== undefined) message.answered++
  }

  /** A result arrived: of the message at `place`, itself at `at` of the queue for results. */
  result(queue, place, at) {
    this.time++
    const { results, name } = this.#place(queue, place)
    results.add(at)
    if (results.size > 1) this.problem('doubled', `${name} has ${results.size} results`)
  }

  #auditResults() {
    for (const { name, isDone, results } of this.#places.values())
      if (isDone && results.size === 0) this.problem('lost', `the result of ${name} never came`)
  }

  #inOrder(key, queue) {
    const [producer, text] = key.split(' ')
    const name = `${queue} ${producer}`
    const latest = this.#latest.get(name) ?? -1
    if (Number(text) < latest)
      this.problem('misordered', `queue ${queue} hands out ${key} after ${producer} ${latest}`)
    this.#latest.set(name, Math.max(latest, Number(text)))
  }

  /** How many acknowledged messages nobody has finished. */
  missing() {
    let count = 0
    for (const { isAcknowledged, answered } of this.#messages.values())
      if (isAcknowledged && answered === 0) count++
    return count
  }

  /** Judges what never came. */
  audit() {
    this.#auditResults()
    for (const message of this.#messages.values()) {
      const { key, isAcknowledged, handed, dead, answered, refused, settled, deadSettled } = message
      if (isAcknowledged && answered > 0 && settled + deadSettled === 0) this.unsure++
      if (!isAcknowledged || answered > 0) continue
      const how =
        handed + dead === 0
          ? 'never handed out'
          : `handed out ${handed} times, refused ${refused} times, and ${dead} times a dead letter`
      this.problem('lost', `${key} was acknowledged to its producer, and ${how}`)
    }
  }
}
