/** The face of a running broker towards the command line. */
import type { Events } from '../../broker/boundary/events.ts'
import type { Capped } from '../../broker/sessions/session-cap.ts'
import type { CutOff } from '../../config/changes.ts'
import type { Config } from '../../config/config.ts'
import type { HttpOptions } from '../../http/http-options.ts'
import type { Listener, ListenerOptions } from '../../transport/listener/listener.ts'
import type { OpenFiles } from '../../transport/open-files.ts'

/** A running broker, as the command line uses it. */
export interface RunningBroker {
  /** A notice of the store about its start. */
  readonly notice?: string | undefined
  /** The reason why log-ins are not remembered over a restart although `runtimeDirectory` is set. */
  readonly loginsNotice?: string | null
  /** Whether any user exists. */
  readonly hasUsers: boolean
  readonly listeners: readonly Listener[]
  /** The URLs of the HTTP listener; empty or absent without one. */
  readonly httpAddresses?: readonly string[]
  /** Sentences about addresses of the HTTP listener that could not be opened. */
  readonly httpWarnings?: readonly string[]
  /** The connections that the limit of open files allows. */
  readonly openFiles: OpenFiles
  readonly events: Events
  readonly fatal: Promise<Error>
  /** Applies new settings; see `Broker.reconfigure`. */
  reconfigure(changes: {
    readonly listeners: readonly ListenerOptions[]
    readonly http?: HttpOptions | null
    readonly limits: Config['limits']
    readonly queues: Config['queues']
    readonly sysIntervalSeconds?: number
  }): Promise<readonly CutOff[]>
  cutOffBy(listeners: readonly ListenerOptions[]): readonly CutOff[]
  /** Counts the existing Sessions that this maximum of the Session Expiry Interval would shorten or end. */
  cappedBy(sessionExpirySecondsMax: number): Capped
  /** Lists in sentences what exceeds these limits at the moment. */
  beyondBy(limits: Config['limits']): readonly string[]
  /** Lists in sentences the queues of the configuration that these do not name any more. */
  orphanedBy(queues: Config['queues']): readonly string[]
  /** Rereads passwords, rights and certificates. Each change and each refusal becomes a `security` event. */
  reread(): Promise<void>
  close(options: { readonly seconds: number }): Promise<void>
}
