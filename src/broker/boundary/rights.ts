/** Asks the policy about the clients of Sessions, which may be away. */
import type { Author, Message } from '../../mqtt/message.ts'
import type { Session } from '../../session/session.ts'
import { ownerOf } from './ownership.ts'
import { absentAuthor, absentClient, type ClientView, guarded, type Policy } from './policy.ts'

/** The part of the Server that the rights need. */
export interface RightsContext {
  /** Sessions of clients by Client Identifier; subscribers in this process are not among them. */
  readonly sessions: { get(clientId: string): Session | undefined }
  /** Network Connections of Sessions that have one. */
  readonly connected: { get(session: Session): { readonly view: ClientView } | undefined }
  /** Throws an error of the policy later, outside of the Server's work. */
  thrownOutside(error: unknown): void
}

/** The rights that the policy in force gives. */
export class Rights {
  /** Whether the policy is to be asked before a message is sent. */
  checksReceiving = false
  readonly #context: RightsContext
  #policy: Policy
  /** Views of Sessions without a Network Connection. */
  readonly #absent = new WeakMap<Session, ClientView>()
  /** Views of authors of retained messages. */
  readonly #authors = new WeakMap<Author, ClientView>()

  constructor(context: RightsContext, policy: Policy) {
    this.#context = context
    this.#policy = guarded(policy)
    this.checksReceiving = policy.authorizeReceive !== undefined
  }

  get policy(): Policy {
    return this.#policy
  }

  /** Leaves earlier decisions as they are: `Reauthorization` asks for them again. */
  set policy(policy: Policy) {
    this.#policy = guarded(policy)
    this.checksReceiving = policy.authorizeReceive !== undefined
  }

  /** Tells whether a Session's user may receive this message now. */
  mayReceive(session: Session, message: Message): boolean {
    const { authorizeReceive } = this.#policy
    if (authorizeReceive === undefined) return true
    try {
      return authorizeReceive(this.viewOf(session), message.topic.name)
    } catch (error) {
      this.#context.thrownOutside(error)
      return false
    }
  }

  /** As `mayReceive`, for a member of a Shared Subscription. Subscribers in this process have all rights. */
  mayTake(subscriber: Session, message: Message): boolean {
    const isClient = this.#context.sessions.get(subscriber.clientId) === subscriber
    return !isClient || this.mayReceive(subscriber, message)
  }

  /**
   * Tells whether the author of a retained message may still publish it. True for an unknown author, and if
   * the policy does not want to be asked.
   */
  authorMayPublish(message: Message): boolean {
    const { author, publisher, topic, qos } = message
    const { checksRetainedAuthor, authorizePublish } = this.#policy
    if (author === null || checksRetainedAuthor !== true || authorizePublish === undefined) return true
    let view = this.#authors.get(author)
    if (view === undefined || view.clientId !== publisher) {
      view = absentAuthor(publisher, author)
      this.#authors.set(author, view)
    }
    const answer = authorizePublish(view, topic.name, qos, true)
    if (typeof answer === 'boolean') return answer
    answer.catch(() => {}) // a policy that does not answer at once is not waited for
    return true
  }

  /** Returns the policy's view of a Session's client, which may be away. */
  viewOf(session: Session): ClientView {
    const connection = this.#context.connected.get(session)
    if (connection !== undefined) return connection.view
    const known = this.#absent.get(session)
    if (known !== undefined) return known
    const view = absentClient(session.clientId, ownerOf(session))
    this.#absent.set(session, view)
    return view
  }

  /** Makes the next view of a Session anew, since its owner has changed. */
  forget(session: Session): void {
    this.#absent.delete(session)
  }
}
