/** What the Server tells the outside: typed events. The core knows no logger. Costs nothing when nobody listens. */
import type { Lenience } from '../../mqtt/lenience.ts'
import type { Message } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import type { DropReason } from '../../session/limits.ts'
import { COUNTED_LIMITS } from './limits.ts'
import type { LinkInfo } from './link.ts'
import type { ClientView } from './policy.ts'
import type { SecurityEvent } from './security.ts'

/** What refuses, and is counted in `Counters.limits`: limits of the table, and what is no key there. */
export const LIMITS = [
  ...COUNTED_LIMITS,
  /** An answer would exceed what the client accepts: its limit, not the Server's. */
  'clientMaximumPacketSize',
  'bans',
  'clientIdRule',
  'allowedOrigins',
  'disk',
] as const

export type Limit = (typeof LIMITS)[number]

/** What those meet who hold most of the memory, or of the disk, while it is short. Counted in `Counters.relief`. */
export const RELIEF_STEPS = [
  /** It is not read from. */
  'paused',
  /** Its queue takes no more than it holds. */
  'capped',
  /** It lost what waited for it. */
  'shed',
  'disconnected',
  /** A new Session of its user was refused. */
  'session-refused',
  /** A message of its user was refused. */
  'publish-refused',
] as const

export type ReliefStep = (typeof RELIEF_STEPS)[number]

/**
 * How the Server is: in `pressed`, memory or disk is short, and those who hold most pay for it; `refusing` takes no new messages
 * and Sessions; `recovering` reads the store again.
 */
export interface Health {
  readonly state: 'ok' | 'pressed' | 'refusing' | 'recovering'
  /** Why, as a sentence; empty when all is well. */
  readonly detail: string
}

/** A control packet as `log.level: trace` tells it. */
export interface PacketEvent {
  /** Empty before CONNECT was read. */
  readonly clientId: string
  readonly link: LinkInfo
  readonly direction: 'received' | 'sent'
  /** The packet's type, by its name in the standard. */
  readonly packet: string
  /** The whole packet's. */
  readonly bytes: number
  readonly packetId?: number
  readonly qos?: number
  readonly dup?: boolean
  readonly retain?: boolean
}

export interface BrokerEvents {
  /** A Network Connection was accepted; nothing was received yet. */
  opened: { readonly link: LinkInfo }
  connected: {
    readonly client: ClientView
    readonly sessionPresent: boolean
    readonly cleanStart: boolean
    readonly keepAliveSeconds: number
  }
  /** CONNECT was refused. `clientId` is empty when it was not read. */
  refused: {
    readonly clientId: string
    readonly link: LinkInfo
    readonly reasonCode: number
    readonly reason: string
    /** As whom it asked to be let in, unverified; absent without a user name. */
    readonly userName?: string
    /** True where its password was not looked at, since too many before it were wrong. */
    readonly isGuess?: boolean
  }
  /** A Network Connection that had been accepted ended. `clientId` is empty before CONNECT. */
  disconnected: {
    readonly clientId: string
    readonly link: LinkInfo
    readonly reasonCode: number
    readonly reason: string
    /** Who ended it. */
    readonly by: 'client' | 'server' | 'network'
    /** The Network Connection that took its place, under the same Client Identifier. */
    readonly takenOverBy?: LinkInfo
  }
  /** A client connects again and again: so often within a minute. With each further connect. */
  flapping: { readonly clientId: string; readonly link: LinkInfo; readonly connects: number }
  /** A control packet came or leaves: what it is, never what is in it. */
  packet: PacketEvent
  sessionCreated: { readonly clientId: string; readonly persistent: boolean }
  sessionEnded: {
    readonly clientId: string
    readonly reason: 'clean-start' | 'expired' | 'disconnected' | 'deleted' | 'ownerless'
  }
  /** Sessions were held to a maximum of the Session Expiry Interval that is less than theirs; some ended by that. */
  sessionsCapped: { readonly maximumSeconds: number; readonly shortened: number; readonly ended: number }
  subscribed: { readonly client: ClientView; readonly filter: string; readonly reasonCode: number }
  unsubscribed: { readonly client: ClientView; readonly filter: string; readonly reasonCode: number }
  /** An Application Message was accepted (also Wills and in-process publishes). */
  published: { readonly message: Message; readonly receivers: number }
  /** A PUBLISH left for a client. */
  delivered: { readonly clientId: string; readonly message: Message; readonly qos: QoS }
  /** Deliveries were lost; with `count`, so many, of which `message` is one. Its body may be evicted. */
  dropped: {
    readonly clientId: string
    readonly reason: DropReason
    readonly message: Message
    readonly count?: number
  }
  /** A limit refused something. */
  limited: { readonly limit: Limit; readonly clientId: string; readonly detail: string }
  /** A client broke a rule that its listener forgives: once per Network Connection and rule. */
  forgiven: { readonly client: ClientView; readonly rule: Lenience }
  /** Memory or disk is short, and this client holds so many bytes of it. */
  relieved: {
    readonly clientId: string
    /** Null for anonymous. */
    readonly userName: string | null
    readonly step: ReliefStep
    readonly of: 'memory' | 'disk'
    readonly bytes: number
    /** What it means, and which key changes it. */
    readonly detail: string
  }
  willPublished: { readonly clientId: string; readonly topic: string }
  retainedSet: { readonly topic: string; readonly bytes: number }
  retainedCleared: { readonly topic: string }
  /** Publishers were paused or resumed because the broker is behind. */
  paused: { readonly clientId: string; readonly reason: 'commit' | 'memory' }
  resumed: { readonly clientId: string }
  /** The disk: trouble and its end. */
  storeFailed: { readonly error: Error }
  storeRecovered: { readonly sessions: number }
  /**
   * The wall clock was set by so many ms while the Server runs; with `corrected`, as much of the time before the start that was
   * in doubt did not pass.
   */
  clock: { readonly what: 'stepped' | 'corrected'; readonly ms: number }
  /** Users, rights, keys: what changed and by whom. Logins and refusals are `connected`, `refused`, `subscribed`, `dropped`. */
  security: SecurityEvent
  /** Once per change of the state. */
  health: Health & { readonly before: Health['state'] }
}

export type EventName = keyof BrokerEvents
type Listener<K extends EventName> = (event: BrokerEvents[K]) => void

/** A synchronous emitter. Callers on hot paths ask `has(name)` before they build an event. */
export class Events {
  readonly #listeners = new Map<EventName, ((event: never) => void)[]>()
  readonly #thrown: (error: unknown) => void
  /** `has` of what happens with every message: to look it up took 6 % of the time of one at QoS 0. */
  hearsPublished = false
  hearsDelivered = false
  hearsPackets = false

  /** `thrown` gets what a listener throws; without it, it is thrown to whoever emits. */
  constructor(thrown?: (error: unknown) => void) {
    this.#thrown =
      thrown ??
      ((error) => {
        throw error
      })
  }

  has(name: EventName): boolean {
    return this.#listeners.has(name)
  }

  /** Returns a function that takes the listener off again. */
  on<K extends EventName>(name: K, listener: Listener<K>): () => void {
    const list = this.#listeners.get(name) ?? []
    this.#listeners.set(name, [...list, listener])
    this.#listenersChanged()
    return () => {
      const left = (this.#listeners.get(name) ?? []).filter((other) => other !== listener)
      if (left.length === 0) this.#listeners.delete(name)
      else this.#listeners.set(name, left)
      this.#listenersChanged()
    }
  }

  #listenersChanged(): void {
    this.hearsPublished = this.has('published')
    this.hearsDelivered = this.has('delivered')
    this.hearsPackets = this.has('packet')
  }

  emit<K extends EventName>(name: K, event: BrokerEvents[K]): void {
    const list = this.#listeners.get(name)
    if (list === undefined) return
    for (const listener of list) {
      try {
        ;(listener as Listener<K>)(event)
      } catch (error) {
        this.#thrown(error)
      }
    }
  }
}
