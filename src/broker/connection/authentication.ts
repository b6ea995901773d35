/** Who a client is: by its CONNECT, or by an exchange of AUTH packets (section 4.12). */
import type { AuthPacket, ConnectPacket } from '../../mqtt/packet.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import type { LinkInfo } from '../boundary/link.ts'
import type {
  Authenticated,
  AuthenticationExchange,
  AuthenticationResult,
  AuthenticationStep,
  ConnackExtras,
  Credentials,
  Owner,
  Policy,
  Rejection,
  WaitingClient,
} from '../boundary/policy.ts'
import { authenticateAnonymous, credentialsOf } from './connect.ts'

/** What the Network Connection does with the answers. */
export interface AuthenticationSink {
  /** Handles a value now, or a promise's value later, with the packets behind it waiting. */
  settle<T>(answer: T | Promise<T>, then: (value: T) => void): void
  /** Sends AUTH. */
  auth(reasonCode: Reason, method: string, data: Buffer | undefined): void
  /** It is this user; `data` goes into CONNACK. Called once per connection. */
  authenticated(user: Owner, data: Buffer | undefined, extras: ConnackExtras): void
  /** The re-authentication of a connection succeeded for this user. */
  reauthenticated(user: Owner): boolean
  failed(rejection: Rejection): void
}

export class Authentication {
  readonly #policy: Policy
  readonly #sink: AuthenticationSink
  readonly #link: LinkInfo
  readonly #connect: ConnectPacket
  readonly #clientId: string
  readonly #waiting: WaitingClient
  #exchange: AuthenticationExchange | null = null
  /** True while the client's next AUTH is expected. */
  #waits = false
  #done = false

  constructor(
    policy: Policy,
    sink: AuthenticationSink,
    link: LinkInfo,
    connect: ConnectPacket,
    clientId: string,
    waiting: WaitingClient,
  ) {
    this.#policy = policy
    this.#sink = sink
    this.#link = link
    this.#connect = connect
    this.#clientId = clientId
    this.#waiting = waiting
  }

  /** Begins with what CONNECT brought. */
  start(): void {
    const { authenticationMethod: method, authenticationData } = this.#connect
    if (method !== undefined) {
      this.#begin(method, authenticationData)
      return
    }
    if (this.#policy.authenticate === undefined) this.#answered(authenticateAnonymous(this.#link))
    else this.#sink.settle(this.#policy.authenticate(this.#credentials), (result) => this.#answered(result))
  }

  #answered(result: AuthenticationResult): void {
    this.#done = result.allow
    if (result.allow) this.#sink.authenticated(ownerOf(result), undefined, result)
    else this.#sink.failed(result)
  }

  /** AUTH arrived. Throws ProtocolError when it is out of turn. */
  received(packet: AuthPacket): void {
    const method = this.#connect.authenticationMethod
    if (method === undefined) throw noAuthenticationMethod()
    if (packet.authenticationMethod !== method) {
      throw new ProtocolError(
        Reason.ProtocolError,
        'MQTT-4.12.0-5',
        'AUTH with another Authentication Method',
      )
    }
    if (packet.reasonCode === Reason.ContinueAuthentication && this.#waits) {
      this.#step(packet.authenticationData)
      return
    }
    if (packet.reasonCode !== Reason.ReAuthenticate || !this.#done || this.#exchange !== null) {
      throw new ProtocolError(Reason.ProtocolError, 'MQTT-4.12.0-3', 'AUTH out of turn')
    }
    this.#begin(method, packet.authenticationData)
  }

  #begin(method: string, data: Buffer | undefined): void {
    this.#exchange = this.#policy.authenticationExchange?.(method, this.#credentials) ?? null
    if (this.#exchange === null) {
      this.#sink.failed({
        reasonCode: Reason.BadAuthenticationMethod,
        reason: `unknown Authentication Method ${method}`,
      }) // [MQTT-4.12.0-1]
      return
    }
    this.#step(data)
  }

  get #credentials(): Credentials {
    return credentialsOf(this.#connect, this.#clientId, this.#link, this.#waiting)
  }

  #step(data: Buffer | undefined): void {
    this.#waits = false
    this.#sink.settle(this.#exchange!.next(data), (step) => this.#stepped(step))
  }

  #stepped(step: AuthenticationStep): void {
    const method = this.#connect.authenticationMethod!
    if (step.type === 'continue') {
      this.#waits = true
      this.#sink.auth(Reason.ContinueAuthentication, method, step.data) // [MQTT-4.12.0-2]
      return
    }
    this.#exchange = null
    if (step.type === 'failure') {
      this.#sink.failed(step)
    } else if (!this.#done) {
      this.#done = true
      this.#sink.authenticated(ownerOf(step), step.data, step)
    } else if (this.#sink.reauthenticated(ownerOf(step))) {
      this.#sink.auth(Reason.Success, method, step.data)
    }
  }
}

const ANONYMOUS: Owner = Object.freeze({ userName: null, userId: null })

function ownerOf({ userName, userId = null }: Authenticated): Owner {
  return userName === null ? ANONYMOUS : { userName, userId }
}

/** AUTH from a client whose CONNECT named no method: a value to throw. */
export function noAuthenticationMethod(): ProtocolError {
  return new ProtocolError(
    Reason.ProtocolError,
    'MQTT-4.12.0-7',
    'AUTH without an Authentication Method in CONNECT',
  )
}
