/** Types of everything that the command line needs from its process, and returns to it. */
import type { AccessOptions } from '../../access/access-options.ts'
import type { ControlCommand } from '../../admin/control.ts'
import type { Config } from '../../config/config.ts'
import type { HttpOptions } from '../../http/http-options.ts'
import type { ListenerOptions } from '../../transport/listener/listener.ts'
import type { Output } from '../actions/output.ts'
import type { RunningBroker } from '../start/running-broker.ts'

/** Exit codes, which scripts depend on. */
export const ExitCode = { CleanEnd: 0, Failure: 1, Usage: 2 } as const

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/** The options with which the command line starts a broker. */
export interface StartOptions {
  readonly dataDirectory: string
  readonly durability: Config['data']['durability']
  readonly durabilityIntervalSeconds: number
  readonly commitPaceMs: number
  readonly reserveBytes: number
  readonly residentBytesMax: number
  readonly listeners: readonly ListenerOptions[]
  /** Null for no HTTP listener. */
  readonly http: HttpOptions | null
  readonly access: AccessOptions
  readonly limits: Config['limits']
  readonly sysIntervalSeconds: number
  readonly runtimeDirectory?: string
  readonly controlSocket: boolean
  readonly renewsCertificates: boolean
  readonly controlCommands: Readonly<Record<string, ControlCommand>>
}

/** An output that may be a terminal. */
export interface Terminal extends Output {
  readonly isTTY?: boolean
}

/** Everything that the command line needs from the process. */
export interface ProcessContext {
  /** The arguments after the program's name. */
  readonly words: readonly string[]
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly stdin: AsyncIterable<Uint8Array>
  /** Asks on the terminal without echoing; null without a terminal. */
  readonly askSecret: ((prompt: string) => Promise<string>) | null
  readonly stdout: Terminal
  readonly stderr: Output
  readonly startBroker: (options: StartOptions) => Promise<RunningBroker>
  /** Calls back for SIGTERM and SIGINT. */
  readonly onStopSignal: (callback: (signal: string) => void) => void
  /** Calls back for SIGHUP. */
  readonly onReloadSignal: (callback: () => void) => void
  /** Calls back for every uncaught exception and unhandled rejection. */
  readonly onUncaught: (callback: (error: unknown) => void) => void
  /** A monotonic clock in ms. */
  readonly now: () => number
  /** Ends the process at once. */
  readonly exit: (code: ExitCode) => void
}
