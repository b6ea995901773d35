/** The running broker, as far as the command line needs it. */
import type { Events } from '../../broker/boundary/events.ts'
import type { Capped } from '../../broker/sessions/session-cap.ts'
import type { CutOff } from '../../config/changes.ts'
import type { Config } from '../../config/config.ts'
import type { Listener, ListenerOptions } from '../../transport/listener/listener.ts'
import type { OpenFiles } from '../../transport/open-files.ts'

/** What a running broker is to the command line. */
export interface RunningBroker {
  /** What the store had to say at the start. */
  readonly notice?: string | undefined
  /** Why log-ins are not remembered over a restart, though `runtimeDirectory` says where. */
  readonly loginsNotice?: string | null
  /** Whether there is anybody whose password it knows. */
  readonly hasUsers: boolean
  readonly listeners: readonly Listener[]
  /** What the limit of open files allows. */
  readonly openFiles: OpenFiles
  readonly events: Events
  readonly fatal: Promise<Error>
  /** Takes other settings; see `Broker.reconfigure`. */
  reconfigure(changes: {
    readonly listeners: readonly ListenerOptions[]
    readonly limits: Config['limits']
    readonly sysIntervalSeconds?: number
  }): Promise<readonly CutOff[]>
  cutOffBy(listeners: readonly ListenerOptions[]): readonly CutOff[]
  /** What this maximum of the Session Expiry Interval would do to Sessions that are there. */
  cappedBy(sessionExpirySecondsMax: number): Capped
  /** What is there beyond these limits, as sentences. */
  beyondBy(limits: Config['limits']): readonly string[]
  /** What changed, or cannot be used, is told as `security`. */
  reread(): Promise<void>
  close(options: { readonly seconds: number }): Promise<void>
}
