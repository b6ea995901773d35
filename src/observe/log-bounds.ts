/** Bounds for the output of the logs. */

/** Bounds for repeated events. */
export interface LogBounds {
  /** A repeated event is logged at most once in this time. */
  readonly repeatSeconds: number
  /** The rate of each kind of line; bursts may have a hundred times as many. */
  readonly linesPerSecondMax: number
}

/**
 * Ten lines a second make 260 MB a day for each kind of line; a thousand clients that reconnect are logged
 * in full.
 */
export const DEFAULT_LOG_BOUNDS: LogBounds = { repeatSeconds: 10, linesPerSecondMax: 10 }

/** The default for bytes that may wait for a stalled reader, about 4,000 lines. */
export const WAITING_BYTES_MAX = 1024 * 1024
