/** Policies decide who may connect, publish and subscribe. Each answer is a value or a promise of one. */
import type { ProtocolVersion, QoS, UserProperties } from '../../mqtt/packet.ts'
import type { Reason } from '../../mqtt/reason.ts'
import type { LinkInfo } from './link.ts'

type Awaitable<T> = T | Promise<T>

const GONE: LinkInfo = Object.freeze({
  transport: 'memory',
  listener: '',
  remoteAddress: '',
  remotePort: 0,
  allowAnonymous: false,
})

/** A client as policies and events see it. */
export interface ClientView {
  readonly clientId: string
  /** The authenticated user; null for anonymous. */
  readonly userName: string | null
  /**
   * Identifies the account, since a later one may have the same name; null or absent if there are only names.
   */
  readonly userId?: string | null
  readonly protocolVersion: ProtocolVersion
  readonly link: LinkInfo
}

/** A user, as a policy authenticated it, or as a Session keeps it. */
export interface Owner {
  /** Null for anonymous. */
  readonly userName: string | null
  /** Identifies the account, since a later one may have the same name; null if there are only names. */
  readonly userId: string | null
}

/** Returns the view of a client without a Network Connection, for questions about its Session or Will. */
export function absentClient(clientId: string, { userName, userId }: Owner): ClientView {
  return { clientId, userName, userId, protocolVersion: 5, link: GONE }
}

/**
 * Returns the view of a retained message's author. Without a `userId` it has the name alone: today's account
 * of that name may be younger than the message.
 */
export function absentAuthor(clientId: string, author: Owner): ClientView {
  const view = absentClient(clientId, author)
  if (author.userId !== null) return view
  const { userId: _, ...byName } = view
  return byName
}

/**
 * The client that waits for a policy's answer. A policy that makes clients wait for each other reports it
 * here.
 */
export interface WaitingClient {
  /**
   * Tells that the client waits in a queue. The connect time-out is stopped meanwhile; after `secondsMax` the
   * client is refused because there are too many. `leave` is called if the client leaves before `served`;
   * nobody needs its answer then.
   */
  queued(secondsMax: number, leave: () => void): void
  /** Tells that the client is next: the connect time-out begins anew. */
  served(): void
}

/** Everything that a client shows at its log-in. */
export interface Credentials {
  readonly clientId: string
  readonly userName: string | undefined
  readonly password: Buffer | undefined
  readonly protocolVersion: ProtocolVersion
  readonly userProperties: UserProperties
  readonly link: LinkInfo
  /** For policies that make clients wait for each other; always present at a log-in over the network. */
  readonly waiting?: WaitingClient
}

/** Properties that the policy adds to CONNACK (section 3.2.2.3). */
export interface ConnackExtras {
  /** Sent to clients that asked for Response Information [MQTT-3.1.2-28]. */
  readonly responseInformation?: string
  readonly userProperties?: UserProperties
}

/** Why a client is not let in. */
export interface Rejection {
  readonly reasonCode: Reason
  readonly reason: string
  /** Whether too many wrong passwords came before, which the Reason Code does not say. */
  readonly isGuess?: boolean
  /** For 0x9C and 0x9D: the Server to use instead. */
  readonly serverReference?: string
}

/** The user that a policy has authenticated. */
export interface Authenticated {
  /** Null for anonymous. */
  readonly userName: string | null
  /**
   * Identifies the account, if accounts come and go. Sessions then belong to the account, not to the name.
   */
  readonly userId?: string | null
}

export type AuthenticationResult =
  | ({ readonly allow: true } & Authenticated & ConnackExtras)
  | ({ readonly allow: false } & Rejection)

/** One step of enhanced authentication (section 4.12). */
export type AuthenticationStep =
  | { readonly type: 'continue'; readonly data: Buffer | undefined }
  | ({
      readonly type: 'success'
      readonly data: Buffer | undefined
    } & Authenticated &
      ConnackExtras)
  | ({ readonly type: 'failure' } & Rejection)

/** One run of enhanced authentication, for one CONNECT or one re-authentication. */
export interface AuthenticationExchange {
  /** `data` is the client's Authentication Data of CONNECT or AUTH. */
  next(data: Buffer | undefined): Awaitable<AuthenticationStep>
}

/** Decides who may do what. Every function is optional: if it is missing, what it would decide is allowed. */
export interface Policy {
  authenticate?(credentials: Credentials): Awaitable<AuthenticationResult>
  /** Returns null for an unknown method: the client gets 0x8C. */
  authenticationExchange?(method: string, credentials: Credentials): AuthenticationExchange | null
  /** Returns true to allow. Also called for a Will: at CONNECT, and again when it is published. */
  authorizePublish?(client: ClientView, topic: string, qos: QoS, retain: boolean): Awaitable<boolean>
  /** Returns true to allow, or false or a Reason Code of SUBACK to refuse. */
  authorizeSubscribe?(client: ClientView, filter: string, qos: QoS): Awaitable<boolean | Reason>
  /**
   * Tells whether this client may get a message with this topic name. Called for every delivery, when it is
   * queued and when it is sent. Without it, clients get whatever matches their Subscriptions.
   */
  authorizeReceive?(client: ClientView, topic: string): boolean
  /**
   * Tells whether the client may make this queue by using it; `topic` is `$queue/NAME`. The queue takes all
   * messages that match one of `filters`, and its consumers get them whatever their topics, so every one of
   * them must be allowed to this client. `authorizeSubscribe` is asked about each filter, too. Without this
   * function it is allowed; but a policy that has `authorizeReceive` allows only queues without filters then.
   */
  authorizeDeclare?(client: ClientView, topic: string, filters: readonly string[]): Awaitable<boolean>
  /**
   * Tells whether a user no longer exists. Its Sessions then belong to nobody, and end when a user takes
   * their Client Identifiers. Without it, users exist for ever.
   */
  isFormerUser?(userName: string, userId: string | null): boolean
  /**
   * The answer to a denied PUBLISH from a client of 3.1 or 3.1.1: `ignore`, the default, acknowledges and
   * drops it [MQTT-3.3.5-2]; `disconnect` closes the Network Connection.
   */
  readonly deniedBefore5?: 'ignore' | 'disconnect'
  /**
   * Whether new Subscriptions get a retained message only while its author may publish it. `authorizePublish`
   * is then called with the author as an absent client. If it answers by a promise, the message is sent at
   * once.
   */
  readonly checksRetainedAuthor?: boolean
}

/**
 * Returns the policy with thrown errors as rejected promises, so that its bugs end a connection and not the
 * Server.
 */
export function guarded(policy: Policy): Policy {
  const { authenticate, authenticationExchange, authorizePublish, authorizeSubscribe } = policy
  const { authorizeReceive, authorizeDeclare, isFormerUser, deniedBefore5, checksRetainedAuthor } = policy
  return {
    ...(deniedBefore5 && { deniedBefore5 }),
    ...(checksRetainedAuthor && { checksRetainedAuthor }),
    ...(isFormerUser && {
      isFormerUser: (userName, userId) => isFormerUser.call(policy, userName, userId),
    }),
    // Asked for every delivery and every PUBLISH: no arrays of arguments here, and no closures.
    ...(authorizeReceive && {
      authorizeReceive: (client, topic) => authorizeReceive.call(policy, client, topic),
    }),
    ...(authorizePublish && {
      authorizePublish: (client, topic, qos, retain) => {
        try {
          return authorizePublish.call(policy, client, topic, qos, retain)
        } catch (error) {
          return Promise.reject(error)
        }
      },
    }),
    ...(authenticate && {
      authenticate: (credentials) => attempt(() => authenticate.call(policy, credentials)),
    }),
    ...(authenticationExchange && {
      authenticationExchange: (method, credentials) =>
        guardedExchange(() => authenticationExchange.call(policy, method, credentials)),
    }),
    ...(authorizeSubscribe && {
      authorizeSubscribe: (client, filter, qos) =>
        attempt(() => authorizeSubscribe.call(policy, client, filter, qos)),
    }),
    ...(authorizeDeclare && {
      authorizeDeclare: (client, topic, filters) =>
        attempt(() => authorizeDeclare.call(policy, client, topic, filters)),
    }),
  }
}

/**
 * Tells whether a client may make a queue with these filters by using it; `topic` is `$queue/NAME`. The right
 * to use the queue is another question. Rejects if the policy fails.
 */
export function mayDeclare(
  policy: Policy,
  client: ClientView,
  topic: string,
  filters: readonly string[],
): Awaitable<boolean> {
  // Without a word about declaring, nobody says which messages may go into a queue that others read.
  if (policy.authorizeDeclare === undefined && policy.authorizeReceive !== undefined && filters.length > 0) {
    return false
  }
  const answers = [
    policy.authorizeDeclare?.(client, topic, filters) ?? true,
    ...filters.map((filter) => policy.authorizeSubscribe?.(client, filter, 2) ?? true),
  ]
  if (!answers.some((answer) => answer instanceof Promise)) return answers.every((answer) => answer === true)
  return Promise.all(answers).then((settled) => settled.every((answer) => answer === true))
}

function guardedExchange(begin: () => AuthenticationExchange | null): AuthenticationExchange | null {
  try {
    const exchange = begin()
    return exchange === null ? null : { next: (data) => attempt(() => exchange.next(data)) }
  } catch (error) {
    return { next: () => Promise.reject(error) }
  }
}

function attempt<T>(answer: () => Awaitable<T>): Awaitable<T> {
  try {
    return answer()
  } catch (error) {
    return Promise.reject(error)
  }
}
