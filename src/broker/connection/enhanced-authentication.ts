/**
 * Enhanced authentication (section 4.12): the exchange of AUTH packets by which a client logs in whose
 * CONNECT names an Authentication Method, and later its re-authentication.
 */
import type { AuthPacket } from '../../mqtt/packet.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import type {
  Authenticated,
  AuthenticationExchange,
  AuthenticationStep,
  ConnackExtras,
  Credentials,
  Owner,
  Policy,
  Rejection,
} from '../boundary/policy.ts'

/** Acts on the answers of a policy. */
export interface AuthenticationSink {
  /** Handles a value now, or a promise's value later; the packets behind wait. */
  whenAnswered<T>(answer: T | Promise<T>, then: (value: T) => void): void
  /** Sends AUTH. */
  auth(reasonCode: Reason, method: string, data: Buffer | undefined): void
  /** The log-in succeeded for this user; `data` goes into CONNACK. Called once per connection. */
  authenticated(user: Owner, data: Buffer | undefined, extras: ConnackExtras): void
  /** A re-authentication succeeded for this user. Returns false for another user: the connection ends. */
  reauthenticated(user: Owner): boolean
  failed(rejection: Rejection): void
}

export class EnhancedAuthentication {
  readonly #policy: Policy
  readonly #sink: AuthenticationSink
  readonly #method: string
  readonly #credentials: Credentials
  #exchange: AuthenticationExchange | null = null
  /** True while the client's next AUTH is expected. */
  #isAuthExpected = false
  #isLoggedIn = false

  /** `credentials` are those of a CONNECT that names `method`. */
  constructor(policy: Policy, sink: AuthenticationSink, method: string, credentials: Credentials) {
    this.#policy = policy
    this.#sink = sink
    this.#method = method
    this.#credentials = credentials
  }

  /** Handles AUTH. Throws ProtocolError when it is out of turn. */
  received(packet: AuthPacket): void {
    if (packet.authenticationMethod !== this.#method) {
      throw new ProtocolError(
        Reason.ProtocolError,
        'MQTT-4.12.0-5',
        'AUTH with another Authentication Method',
      )
    }
    if (packet.reasonCode === Reason.ContinueAuthentication && this.#isAuthExpected) {
      this.#step(packet.authenticationData)
      return
    }
    if (packet.reasonCode !== Reason.ReAuthenticate || !this.#isLoggedIn || this.#exchange !== null) {
      throw new ProtocolError(Reason.ProtocolError, 'MQTT-4.12.0-3', 'AUTH out of turn')
    }
    this.begin(packet.authenticationData)
  }

  /** Begins a log-in, or a re-authentication, with the Authentication Data of CONNECT or AUTH. */
  begin(data: Buffer | undefined): void {
    this.#exchange = this.#policy.authenticationExchange?.(this.#method, this.#credentials) ?? null
    if (this.#exchange === null) {
      this.#sink.failed({
        reasonCode: Reason.BadAuthenticationMethod,
        reason: `unknown Authentication Method ${this.#method}`,
      }) // [MQTT-4.12.0-1]
      return
    }
    this.#step(data)
  }

  #step(data: Buffer | undefined): void {
    this.#isAuthExpected = false
    this.#sink.whenAnswered(this.#exchange!.next(data), (step) => this.#stepped(step))
  }

  #stepped(step: AuthenticationStep): void {
    if (step.type === 'continue') {
      this.#isAuthExpected = true
      this.#sink.auth(Reason.ContinueAuthentication, this.#method, step.data) // [MQTT-4.12.0-2]
      return
    }
    this.#exchange = null
    if (step.type === 'failure') {
      this.#sink.failed(step)
    } else if (!this.#isLoggedIn) {
      this.#isLoggedIn = true
      this.#sink.authenticated(userOf(step), step.data, step)
    } else if (this.#sink.reauthenticated(userOf(step))) {
      this.#sink.auth(Reason.Success, this.#method, step.data)
    }
  }
}

const ANONYMOUS: Owner = Object.freeze({ userName: null, userId: null })

/** Returns the user that a policy let in. */
export function userOf({ userName, userId = null }: Authenticated): Owner {
  return userName === null ? ANONYMOUS : { userName, userId }
}

/** Makes the error for AUTH from a client whose CONNECT named no Authentication Method. */
export function noAuthenticationMethod(): ProtocolError {
  return new ProtocolError(
    Reason.ProtocolError,
    'MQTT-4.12.0-7',
    'AUTH without an Authentication Method in CONNECT',
  )
}
