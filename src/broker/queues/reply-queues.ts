/**
 * Reply queues: `reply.` and a Client Identifier. They are made for the client itself, without the right
 * `declare`, and nobody else consumes them. A queue lasts as long as its client's Session, and for
 * `idle_expiry_seconds` after that, so that a requester may go and come back for its replies.
 */

import { Reason } from '../../mqtt/reason.ts'
import { REPLY_PREFIX, replyName } from '../../mqtt/server-topics.ts'
import { replyProperties } from '../../queue/queue-options.ts'
import { ownershipOf } from '../boundary/ownership.ts'
import type { ClientView, Owner } from '../boundary/policy.ts'
import type { QueueRefusal } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import type { Definitions } from './definitions.ts'
import { Queue } from './queue.ts'

/** Units of work for looking at one queue. */
const LOOK_UNITS = 1

export class ReplyQueues {
  readonly #state: ServerState
  readonly #definitions: Definitions

  constructor(state: ServerState, definitions: Definitions) {
    this.#state = state
    this.#definitions = definitions
  }

  /** Returns the topic for Response Information; null for a client that can have no reply queue. */
  topicFor(view: ClientView): string | null {
    const name = replyName(view.clientId)
    return name !== null && this.mayConsume(view, name) ? `$queue/${name}` : null
  }

  /** Whether this client consumes the reply queue, if it is there or can be made. */
  mayConsume(view: ClientView, name: string): boolean {
    if (name !== replyName(view.clientId)) return false
    const { byName, options } = this.#definitions
    const queue = byName.get(name)
    return queue === undefined ? options.declare === 'auto' : this.#standing(queue, view) !== 'another'
  }

  /** Finds the client's queue, or makes it in the open block. The client has a Session. */
  open(view: ClientView): Queue | QueueRefusal {
    const name = replyName(view.clientId)
    if (name === null || !this.mayConsume(view, name)) {
      const reason = 'a reply queue is consumed only by the client that it is named after'
      return { reasonCode: Reason.NotAuthorized, reason }
    }
    const found = this.#definitions.byName.get(name)
    if (found !== undefined && this.#standing(found, view) === 'own') return found
    if (found !== undefined) this.#end(found)
    const made = this.#declare(view, name)
    if (made instanceof Queue || !this.#makeRoom(view, made)) return made
    return this.#declare(view, name)
  }

  #declare({ clientId, userName, userId = null }: ClientView, name: string): Queue | QueueRefusal {
    const properties = replyProperties(this.#definitions.options, name)
    return this.#definitions.declareReply(name, properties, clientId, { userName, userId })
  }

  /**
   * Tells whose a queue is, as seen by the client that has its Client Identifier now. What another user left
   * empty is in nobody's way, and with messages it waits for that user.
   */
  #standing(queue: Queue, { userName, userId = null }: ClientView): 'own' | 'another' | 'free' {
    if (queue.replyTo === null) return 'free'
    const ownership = ownershipOf(this.#state.policy, queue.replyTo, { userName, userId })
    if (ownership === 'own') return 'own'
    return ownership === 'nobody' || queue.group.states.messages === 0 ? 'free' : 'another'
  }

  /** Whether the Session of the queue's client is there. */
  isKept({ name, replyTo }: Queue): boolean {
    const session = this.#state.sessions.get(name.slice(REPLY_PREFIX.length))
    return session !== undefined && replyTo !== null && isSame(replyTo, session)
  }

  /** Deletes a queue; its messages count as those of an ended Session. */
  #end(queue: Queue): void {
    const { messages } = queue.group.states
    if (messages > 0) queue.context.drop('session-ended', messages)
    this.#definitions.delete(queue, 'server')
  }

  /** Deletes a queue whose client has been away for too long. */
  expire(queue: Queue): void {
    this.#end(queue)
  }

  /**
   * With too many queues, the empty one goes whose client has been away for longest. Where the user has too
   * many, one of this user. Returns false if there is none.
   */
  #makeRoom(view: ClientView, { limit }: QueueRefusal): boolean {
    if (limit === undefined) return false
    const { byName, owners } = this.#definitions
    const owner = owners.of(view.clientId)
    this.#state.work.units += LOOK_UNITS * byName.size
    let oldest: Queue | null = null
    for (const queue of byName.values()) {
      if (queue.replyTo === null || (limit !== 'queuesMax' && queue.owner !== owner)) continue
      if (oldest !== null && queue.idleSince >= oldest.idleSince) continue
      if (queue.isIdle && !this.isKept(queue)) oldest = queue
    }
    if (oldest !== null) this.#end(oldest)
    return oldest !== null
  }
}

function isSame(
  { userName, userId }: Owner,
  { owner, ownerId }: { readonly owner: string | null; readonly ownerId: string | null },
): boolean {
  return userName === owner && userId === ownerId
}
