/** Policies: who may connect, publish and subscribe. Each answer is a value or a promise of one. */
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
  /** Tells the user's account from a later one of the same name; null or absent where the name is all there is. */
  readonly userId?: string | null
  readonly protocolVersion: ProtocolVersion
  readonly link: LinkInfo
}

/** A user, as a policy authenticated it, or as a Session keeps it. */
export interface Owner {
  /** Null for anonymous. */
  readonly userName: string | null
  /** Tells an account from a later one of the same name; null where the name is all there is. */
  readonly userId: string | null
}

/** A client that has no Network Connection: its Session, or its Will, is asked about. */
export function absentClient(clientId: string, { userName, userId }: Owner): ClientView {
  return { clientId, userName, userId, protocolVersion: 5, link: GONE }
}

/** The author of a retained message, by name alone where nothing else is known: its account may be younger than the message. */
export function absentAuthor(clientId: string, author: Owner): ClientView {
  const view = absentClient(clientId, author)
  if (author.userId !== null) return view
  const { userId: _, ...byName } = view
  return byName
}

/** The client that waits for a policy's answer. A policy that takes its time because of others says so, and hears when it leaves. */
export interface WaitingClient {
  /**
   * The client waits in a queue: the connect time-out stands still meanwhile, and after `secondsMax` the client is refused as one too
   * many. `leave` is called when it leaves before `served`; its answer is not waited for then.
   */
  queued(secondsMax: number, leave: () => void): void
  /** Its turn has come: the connect time-out begins anew. */
  served(): void
}

export interface Credentials {
  readonly clientId: string
  readonly userName: string | undefined
  readonly password: Buffer | undefined
  readonly protocolVersion: ProtocolVersion
  readonly userProperties: UserProperties
  readonly link: LinkInfo
  /** For policies that let clients wait for each other; always there at a log-in over the network. */
  readonly waiting?: WaitingClient
}

/** What CONNACK tells a client that was let in, beside what the Server says (section 3.2.2.3). */
export interface ConnackExtras {
  /** Sent to clients that asked for Response Information [MQTT-3.1.2-28]. */
  readonly responseInformation?: string
  readonly userProperties?: UserProperties
}

/** Why a client is not let in. */
export interface Rejection {
  readonly reasonCode: Reason
  readonly reason: string
  /** True where it is about who asks although the Reason Code does not say so: too many of its passwords were wrong. */
  readonly isGuess?: boolean
  /** For 0x9C and 0x9D: where to go instead. */
  readonly serverReference?: string
}

/** Whom a policy let in. */
export interface Authenticated {
  /** Null for anonymous. */
  readonly userName: string | null
  /**
   * Where users are accounts that come and go: what a later account of the same name does not have. Sessions are then
   * those of the account, not of the name.
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

/** One run of an enhanced authentication; made per CONNECT and per re-authentication. */
export interface AuthenticationExchange {
  /** `data` is the client's Authentication Data of CONNECT or AUTH. */
  next(data: Buffer | undefined): Awaitable<AuthenticationStep>
}

/** Undefined in a decision means allowed; a Reason Code refuses. */
export interface Policy {
  authenticate?(credentials: Credentials): Awaitable<AuthenticationResult>
  /** Returns null for a method it does not know: the client gets 0x8C. */
  authenticationExchange?(method: string, credentials: Credentials): AuthenticationExchange | null
  /** True to allow. Also asked for a Will at CONNECT and again when it is published. */
  authorizePublish?(client: ClientView, topic: string, qos: QoS, retain: boolean): Awaitable<boolean>
  /** True to allow, or a Reason Code of SUBACK that refuses. */
  authorizeSubscribe?(client: ClientView, filter: string, qos: QoS): Awaitable<boolean | Reason>
  /**
   * Whether this message may reach this client, by its topic name. Asked for every delivery, when it is queued and when it
   * is sent. Without it, what a Subscription finds is received.
   */
  authorizeReceive?(client: ClientView, topic: string): boolean
  /**
   * Whether there is no such user any more: what it left is nobody's, and ends when a user takes its Client Identifier.
   * Without it, users are taken to be there for ever.
   */
  isFormerUser?(userName: string, userId: string | null): boolean
  /**
   * What becomes of a PUBLISH that is denied to a client of 3.1 or 3.1.1: it is acknowledged and dropped, which is the
   * default [MQTT-3.3.5-2], or the Network Connection is closed.
   */
  readonly deniedBefore5?: 'ignore' | 'disconnect'
  /**
   * Whether a retained message is kept from new Subscriptions while its author may not publish it: `authorizePublish` is asked
   * about the author as an absent client. An answer that is a promise is not waited for: the message goes.
   */
  readonly checksRetainedAuthor?: boolean
}

/** The same policy, but what it throws becomes a rejected promise: its bug ends a connection, not the Server. */
export function guarded(policy: Policy): Policy {
  const { authenticate, authenticationExchange, authorizePublish, authorizeSubscribe } = policy
  const { authorizeReceive, isFormerUser, deniedBefore5, checksRetainedAuthor } = policy
  return {
    ...(deniedBefore5 && { deniedBefore5 }),
    ...(checksRetainedAuthor && { checksRetainedAuthor }),
    ...(isFormerUser && { isFormerUser: (...of) => isFormerUser.apply(policy, of) }),
    ...(authorizeReceive && { authorizeReceive: (...of) => authorizeReceive.apply(policy, of) }),
    ...(authenticate && { authenticate: (...of) => attempt(() => authenticate.apply(policy, of)) }),
    ...(authenticationExchange && {
      authenticationExchange: (...of) => guardedExchange(() => authenticationExchange.apply(policy, of)),
    }),
    ...(authorizePublish && {
      authorizePublish: (...of) => attempt(() => authorizePublish.apply(policy, of)),
    }),
    ...(authorizeSubscribe && {
      authorizeSubscribe: (...of) => attempt(() => authorizeSubscribe.apply(policy, of)),
    }),
  }
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
