/** The state that the parts of the HTTP listener share. */
import type { HttpFigures } from './http-figures.ts'
import type { HttpOptions } from './http-options.ts'
import type { Readiness } from './readiness.ts'

/** The questions that the HTTP listener asks the broker. None of the functions may throw. */
export interface HttpSources {
  readonly readiness: () => Readiness
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
