/** Policies: who may connect, publish and subscribe. Each answer is a value or a promise of one. */
import type { ProtocolVersion, QoS, UserProperties } from '../mqtt/packet.ts'
import type { Reason } from '../mqtt/reason.ts'
import type { LinkInfo } from './link.ts'

type Awaitable<T> = T | Promise<T>

/** A client as policies and events see it. */
export interface ClientView {
  readonly clientId: string
  /** The authenticated user; null for anonymous. */
  readonly userName: string | null
  readonly protocolVersion: ProtocolVersion
  readonly link: LinkInfo
}

export interface Credentials {
  readonly clientId: string
  readonly userName: string | undefined
  readonly password: Buffer | undefined
  readonly protocolVersion: ProtocolVersion
  readonly userProperties: UserProperties
  readonly link: LinkInfo
}

export type AuthenticationResult =
  /** Let in as this user (null: anonymous). */
  | { readonly allow: true; readonly userName: string | null }
  | { readonly allow: false; readonly reasonCode: Reason; readonly reason: string }

/** One step of enhanced authentication (section 4.12). */
export type AuthenticationStep =
  | { readonly type: 'continue'; readonly data: Buffer | undefined }
  | { readonly type: 'success'; readonly userName: string | null; readonly data: Buffer | undefined }
  | { readonly type: 'failure'; readonly reasonCode: Reason; readonly reason: string }

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
}
