/** The state that the parts of the HTTP listener share. */
import type { QueueOperator } from '../broker/queues/queue-view.ts'
import type { Snapshot } from '../observe/snapshot.ts'
import type { HttpFigures } from './http-figures.ts'
import type { HttpOptions } from './http-options.ts'
import type { Readiness } from './readiness.ts'

/** Everything that the broker counts. */
export interface CountedFacts {
  readonly snapshot: Snapshot
  /** Null without queues. */
  readonly queues: QueueOperator | null
  readonly version: string
}

/** The questions that the HTTP listener asks the broker. None of the functions may throw. */
export interface HttpSources {
  readonly readiness: () => Readiness
  /** Whether the broker has started and is not stopping. */
  readonly isRunning: () => boolean
  /** Everything that is counted; null unless the broker runs. */
  readonly metrics: () => CountedFacts | null
  /** Names and addresses of this machine. */
  readonly machineNames: () => readonly string[]
  /** Whether sockets of this address are closed before anything is read. */
  readonly isBanned: (remoteAddress: string) => boolean
}

/** The state that all sockets of the HTTP listener share. */
export interface HttpContext {
  /** A reload replaces these. */
  options: HttpOptions
  readonly sources: HttpSources
  readonly figures: HttpFigures
}
