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
