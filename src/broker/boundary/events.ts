/** Typed events, by which the Server reports to the outside. They cost nothing if nobody listens. */
import type { Lenience } from '../../mqtt/lenience.ts'
import type { Message } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import type { DropReason } from '../../session/limits.ts'
import { COUNTED_LIMITS } from './limits.ts'
import type { LinkInfo } from './link.ts'
import type { ClientView } from './policy.ts'
import type { SecurityEvent } from './security.ts'

/**
 * Reasons for refusals, counted in `Counters.limits`: limits of the table, and a few that are not keys there.
 */
export const LIMITS = [
  ...COUNTED_LIMITS,
  /** The client's own limit: an answer would be larger than it accepts. */
  'clientMaximumPacketSize',
  'bans',
  'clientIdRule',
  'allowedOrigins',
  'disk',
  /** Of the configuration of queues: its keys `queues_max` and `declared_by_use_max`. */
  'queuesMax',
  /** The key `declared_per_user_max` there. */
  'queuesPerUserMax',
  /** A queue refused a message because it is full, or the message too large for it. */
  'fullQueue',
  'queueConsumersMax',
  'queueUnsettledMax',
  /** A queue forgot a `message-id` before its time. */
  'queueIdsMax',
] as const

export type Limit = (typeof LIMITS)[number]

/** Steps against the clients that hold most while memory or disk is short. Counted in `Counters.relief`. */
export const RELIEF_STEPS = [
  /** The client is not read from. */
  'paused',
  /** Its queue does not grow. */
  'capped',
  /** Its queued messages were dropped. */
  'shed',
  'disconnected',
  /** A new Session of its user was refused. */
  'session-refused',
  /** A message of its user was refused. */
  'publish-refused',
] as const

export type ReliefStep = (typeof RELIEF_STEPS)[number]

/**
 * The state of the Server. `pressed`: memory or disk is short, and the clients that hold most of it pay.
 * `refusing`: new messages and Sessions are refused. `recovering`: the store is read again.
 */
export interface Health {
  readonly state: 'ok' | 'pressed' | 'refusing' | 'recovering'
  /** The reason as a sentence; empty for `ok`. */
  readonly detail: string
}

/** A control packet as `log.level: trace` shows it. */
export interface PacketEvent {
  /** Empty before CONNECT. */
  readonly clientId: string
  readonly link: LinkInfo
  readonly direction: 'received' | 'sent'
  /** The packet's type, by its name in the standard. */
  readonly packet: string
  /** Size of the whole packet. */
  readonly bytes: number
  readonly packetId?: number
  readonly qos?: number
  readonly dup?: boolean
  readonly retain?: boolean
}

/** All events with their data. */
export interface BrokerEvents {
  /** A Network Connection was accepted. Nothing was received yet. */
  opened: { readonly link: LinkInfo }
  connected: {
    readonly client: ClientView
    readonly sessionPresent: boolean
    readonly cleanStart: boolean
    readonly keepAliveSeconds: number
  }
  /** CONNECT was refused. `clientId` is empty if CONNECT was not read. */
  refused: {
    readonly clientId: string
    readonly link: LinkInfo
    readonly reasonCode: number
    readonly reason: string
    /** The user name of CONNECT, unverified; absent without one. */
    readonly userName?: string
    /** Whether the password was not checked, since too many before it were wrong. */
    readonly isGuess?: boolean
  }
  /** A Network Connection that had been accepted ended. `clientId` is empty before CONNECT. */
  disconnected: {
    readonly clientId: string
    readonly link: LinkInfo
    readonly reasonCode: number
    readonly reason: string
    readonly by: 'client' | 'server' | 'network'
    /** The Network Connection that took over the Session. */
    readonly takenOverBy?: LinkInfo
  }
  /** A client connects too often: `connects` times in a minute. Emitted with each further connect. */
  flapping: { readonly clientId: string; readonly link: LinkInfo; readonly connects: number }
  /** A control packet was received or sent. Its content is never reported. */
  packet: PacketEvent
  sessionCreated: { readonly clientId: string; readonly persistent: boolean }
  sessionEnded: {
    readonly clientId: string
    readonly reason: 'clean-start' | 'expired' | 'disconnected' | 'deleted' | 'ownerless'
  }
  /** Sessions with a longer Session Expiry Interval were cut to the maximum; some of them ended. */
  sessionsCapped: { readonly maximumSeconds: number; readonly shortened: number; readonly ended: number }
  subscribed: {
    readonly client: ClientView
    readonly filter: string
    readonly reasonCode: number
    /** Why a Subscription to a queue was refused. */
    readonly reason?: string
    /** The limit that refused it, if one did: the event `limited` came before. */
    readonly limit?: Limit
  }
  unsubscribed: { readonly client: ClientView; readonly filter: string; readonly reasonCode: number }
  /** An Application Message was accepted, which includes Wills and messages of this process. */
  published: { readonly message: Message; readonly receivers: number }
  /** A PUBLISH left for a client. */
  delivered: { readonly clientId: string; readonly message: Message; readonly qos: QoS }
  /**
   * Deliveries were lost: `count` of them (default 1), of which `message` is one. Its body may be evicted.
   */
  dropped: {
    readonly clientId: string
    readonly reason: DropReason
    readonly message: Message
    readonly count?: number
  }
  /** A limit refused something. */
  limited: { readonly limit: Limit; readonly clientId: string; readonly detail: string }
  /** A client broke a rule that its listener forgives. Emitted once per Network Connection and rule. */
  forgiven: { readonly client: ClientView; readonly rule: Lenience }
  /** A step was taken against a client that holds `bytes` of memory or disk, which is short. */
  relieved: {
    readonly clientId: string
    /** Null for anonymous. */
    readonly userName: string | null
    readonly step: ReliefStep
    readonly of: 'memory' | 'disk'
    readonly bytes: number
    /** The meaning of the step, and the key that changes it. */
    readonly detail: string
  }
  /**
   * A queue was declared, changed or deleted; `by` is a Client Identifier, `operator`, `file` or `server`.
   */
  queueDeclared: { readonly queue: string; readonly by: string }
  queueChanged: { readonly queue: string; readonly by: string }
  queueDeleted: { readonly queue: string; readonly by: string }
  /** A message of a queue went to the dead letters. `clientId` is who had it last; empty for nobody. */
  queueDead: {
    readonly queue: string
    readonly sequence: number
    readonly reason: string
    readonly clientId: string
  }
  /** Messages of a queue were lost. */
  queueDropped: { readonly queue: string; readonly reason: DropReason; readonly count: number }
  consumerJoined: { readonly queue: string; readonly clientId: string; readonly filter: string }
  consumerLeft: { readonly queue: string; readonly clientId: string; readonly filter: string }
  /** A consumer lets messages time out, and gets none until it acknowledges one. */
  consumerSilent: { readonly queue: string; readonly clientId: string }
  willPublished: { readonly clientId: string; readonly topic: string }
  retainedSet: { readonly topic: string; readonly bytes: number }
  retainedCleared: { readonly topic: string }
  /** A publisher is not read from: commits are behind, or memory is short and it holds much of it. */
  paused: { readonly clientId: string; readonly reason: 'commit' | 'memory' }
  resumed: { readonly clientId: string }
  /** The store failed. */
  storeFailed: { readonly error: Error }
  /** The store was read again after its disk was full. */
  storeRecovered: { readonly sessions: number }
  /**
   * `stepped`: the wall clock was set by `ms` while the Server runs. `corrected`: `ms` of the time in doubt
   * before the start did not pass.
   */
  clock: { readonly what: 'stepped' | 'corrected'; readonly ms: number }
  /**
   * A change of users, rights or keys. Log-ins and refusals are `connected`, `refused`, `subscribed`,
   * `dropped`.
   */
  security: SecurityEvent
  /** The state of the Server changed. */
  health: Health & { readonly before: Health['state'] }
}

export type EventName = keyof BrokerEvents
type Listener<K extends EventName> = (event: BrokerEvents[K]) => void

/** A synchronous emitter. Callers on hot paths ask `has(name)` before they build an event. */
export class Events {
  readonly #listeners = new Map<EventName, ((event: never) => void)[]>()
  readonly #thrown: (error: unknown) => void
  /** `has` for events of every message: the look-up took 6 % of the time of a message at QoS 0. */
  hearsPublished = false
  hearsDelivered = false
  hearsPackets = false

  /** `thrown` gets the errors of listeners; without it, `emit` throws them. */
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

  /** Adds a listener. Returns a function that removes it. */
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
