/**
 * The library face: a whole broker in this process, for tests and for embedding.
 *
 *     const broker = await createBroker({ listeners: [{ type: 'tcp', port: 0 }] })
 *     await broker.publish({ topic: 'hello/world', payload: 'hi', qos: 1 })
 *     await broker.close()
 */
import type { Events, Health } from './broker/boundary/events.ts'
import type { Limits } from './broker/boundary/limits.ts'
import { type Census, takeCensus } from './broker/census.ts'
import type { Counters } from './broker/state/counters.ts'
import type { CutOff } from './config/changes.ts'
import { Reason } from './mqtt/reason.ts'
import type { QueueOptions } from './queue/queue-options.ts'
import type { BrokerChanges, BrokerOptions } from './runtime/broker-options.ts'
import { startProcess } from './runtime/broker-process.ts'
import { type BrokerBans, programBans } from './runtime/program-bans.ts'
import {
  type PublishOptions,
  publish,
  type ReceivedMessage,
  type SubscribeOptions,
  subscribe,
} from './runtime/program-messages.ts'
import { type BrokerQueues, programQueues } from './runtime/program-queues.ts'
import type { StoreFigures } from './store/store.ts'
import type { Listener } from './transport/listener/listener.ts'
import type { OpenFiles } from './transport/open-files.ts'

export type { AccessOptions } from './access/access-options.ts'
export { AccountsError } from './access/accounts-file.ts'
export type { BanView } from './access/bans/ban-commands.ts'
export { BansError } from './access/bans/bans-file.ts'
export { FileError, LinesError } from './access/files/watched-file.ts'
export { RuleError } from './access/rule.ts'
export type { BrokerEvents, EventName, Events, Health, Limit } from './broker/boundary/events.ts'
export type { Profile } from './broker/boundary/limit-row.ts'
export { DEFAULT_LIMITS, type Limits, PROFILES, type RefusedSubscription } from './broker/boundary/limits.ts'
export type { LinkInfo } from './broker/boundary/link.ts'
export type {
  AuthenticationExchange,
  AuthenticationResult,
  AuthenticationStep,
  ClientView,
  ConnackExtras,
  Credentials,
  Policy,
  Rejection,
  WaitingClient,
} from './broker/boundary/policy.ts'
export type { Census } from './broker/census.ts'
export type { ConsumerEnd } from './broker/queues/program-consumer.ts'
export {
  type ConsumerEntry,
  type QueueCounters,
  type QueuedMessage,
  type QueuedState,
  type QueueEntry,
  type QueueOrigin,
  QueueRefusal,
  type QueueTimes,
  type QueueWaits,
} from './broker/queues/queue-view.ts'
export { ConfigError } from './config/config-error.ts'
export { ERRORS, type ErrorCode } from './errors.ts'
export type { HttpOptions } from './http/http-options.ts'
export type { Lenience } from './mqtt/lenience.ts'
export type { QoS } from './mqtt/packet.ts'
export type { ForwardedProperties } from './mqtt/properties/forwarded.ts'
export { ProtocolError, Reason } from './mqtt/reason.ts'
export type { GivenProperties, QueueProperties } from './queue/properties.ts'
export type { DeclaredQueue, QueueOptions, QueuePattern } from './queue/queue-options.ts'
export type { BrokerChanges, BrokerOptions, Durability } from './runtime/broker-options.ts'
export type { Banned, BrokerBans } from './runtime/program-bans.ts'
export type { PublishOptions, ReceivedMessage, SubscribeOptions } from './runtime/program-messages.ts'
export {
  type BrokerQueues,
  type ConsumeOptions,
  DeadLetter,
  type MoveOptions,
  type QueueConsumption,
  type QueueHandler,
  type QueueMessage,
  type QueueStats,
} from './runtime/program-queues.ts'
export { StoreError } from './store/store.ts'
export type { Listener, ListenerOptions, ListenerType } from './transport/listener/listener.ts'
export { ListenError } from './transport/tls/listen-error.ts'

/** A running broker. */
export interface Broker {
  readonly listeners: readonly Listener[]
  /** The URLs of the HTTP listener, such as `http://127.0.0.1:18083`; empty without one. */
  readonly httpAddresses: readonly string[]
  /** Sentences about addresses of the HTTP listener that are taken or missing. */
  readonly httpWarnings: readonly string[]
  /** A notice about the start for the operator, such as an import by the store. */
  readonly notice: string | undefined
  /** The reason why log-ins are not remembered in `runtimeDirectory`; null if they are, or need not be. */
  readonly loginsNotice: string | null
  /** The connections that the limit of open files allows, whatever `connectionsMax` says. */
  readonly openFiles: OpenFiles
  /** Whether `access` knows the password of any user. */
  readonly hasUsers: boolean
  readonly events: Events
  /** Resolves with the reason when the broker cannot go on: close it then. Never rejects. */
  readonly fatal: Promise<Error>
  /** Counters since the start. */
  readonly figures: Readonly<Counters>
  readonly storeFigures: Readonly<StoreFigures>
  /** Whether the broker takes new work, and the reason if it does not. */
  readonly health: Health
  /** Counts the objects that the broker holds at the moment, for `$SYS` and for tests that look for leaks. */
  census(): Census
  /** Resolves when the message is as durable as promised. Rejects if it is refused. */
  publish(options: PublishOptions): Promise<void>
  /** Calls `handler` for every message that matches. Returns a function that ends the Subscription. */
  subscribe(
    filter: string,
    handler: (message: ReceivedMessage) => void,
    options?: SubscribeOptions,
  ): () => void
  /** Message queues: to declare, look into and consume them. */
  readonly queues: BrokerQueues
  /** Bans, which outlive the broker if it has a data directory. `godwit ban` works on the same bans. */
  readonly bans: BrokerBans
  /** Ends a client's Network Connection. Returns false if it has none. */
  disconnect(clientId: string, reasonCode?: Reason): boolean
  /**
   * Returns the stored data at this moment as the bytes of a backup file for `godwit restore`. Read it
   * without long pauses. Throws StoreError, or RangeError if the broker stores nothing.
   */
  backup(): AsyncGenerator<Buffer>
  /**
   * Applies new settings without losing connections, except those of clients that the new listeners do not
   * accept: these get 0x98, and the answer lists them. Rejects with ListenError if a listener cannot be
   * opened; then nothing has changed.
   */
  reconfigure(changes: BrokerChanges): Promise<readonly CutOff[]>
  /** Lists the clients that `reconfigure` would cut off. */
  cutOffBy(listeners: NonNullable<BrokerOptions['listeners']>): readonly CutOff[]
  /**
   * Counts the existing Sessions that `reconfigure` would shorten or end with this `sessionExpirySecondsMax`.
   * The event `sessionsCapped` reports the actual numbers.
   */
  cappedBy(sessionExpirySecondsMax: number): { readonly shortened: number; readonly ended: number }
  /** Lists in sentences what exceeds these limits. It would stay, and further things would be refused. */
  beyondBy(limits: Limits): readonly string[]
  /** Lists in sentences the queues that an earlier `declared` named and this one does not: they stay. */
  orphanedBy(queues: Pick<QueueOptions, 'declared'>): readonly string[]
  /** Rereads certificates, users and rights. Each change and each refusal becomes a `security` event. */
  reread(): Promise<void>
  /**
   * Stops the consumers of queues in this process, waits for their handlers, disconnects the clients, commits
   * and closes, all within so many seconds (5). No handle stays open.
   */
  close(options?: { readonly seconds?: number }): Promise<void>
}

/**
 * Starts a broker. Rejects with StoreError, ListenError, or the problem of a file of `access`; nothing stays
 * open then.
 */
export async function createBroker(options: BrokerOptions = {}): Promise<Broker> {
  const broker = await startProcess(options)
  const { server, store, access, guard, loginsNotice, fatal } = broker.core
  const { queues, stop: stopConsumers } = programQueues(server)
  return {
    get listeners() {
      return broker.listeners
    },
    get httpAddresses() {
      return broker.httpAddresses
    },
    get httpWarnings() {
      return broker.httpWarnings
    },
    get hasUsers() {
      return access?.hasUsers === true
    },
    get storeFigures() {
      return store.figures
    },
    get health() {
      return server.health
    },
    notice: broker.notice,
    loginsNotice,
    openFiles: broker.openFiles,
    events: server.state.events,
    fatal,
    figures: server.state.counters,
    queues,
    bans: programBans(guard),
    census: () => takeCensus(server),
    publish: (message) => publish(server, message),
    subscribe: (filter, handler, subscription = {}) => subscribe(server, filter, handler, subscription),
    disconnect: (clientId, reasonCode = Reason.AdministrativeAction) =>
      server.disconnect(clientId, reasonCode, 'ended by the operator'),
    backup: () => broker.backup(),
    reconfigure: (changes) => broker.reconfigure(changes),
    cutOffBy: (listeners) => broker.cutOffBy(listeners),
    cappedBy: (sessionExpirySecondsMax) => server.cappedBy(sessionExpirySecondsMax),
    beyondBy: (limits) => server.beyondBy(limits),
    orphanedBy: (queues) => server.queueOperator?.orphanedBy(queues) ?? [],
    reread: () => broker.reread(),
    close: ({ seconds = 5 } = {}) => broker.close(seconds, stopConsumers),
  }
}
