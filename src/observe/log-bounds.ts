/** How much the logs say at most. */

/** How much is written at most of what repeats. */
export interface LogBounds {
  /** At most one line in this time for what repeats. */
  readonly repeatSeconds: number
  /** Lines of each kind; a hundred times as many may come at once. */
  readonly linesPerSecondMax: number
}

/** Ten lines a second are 260 MB a day for each kind of line; a fleet of a thousand that comes back is told in full. */
export const DEFAULT_LOG_BOUNDS: LogBounds = { repeatSeconds: 10, linesPerSecondMax: 10 }

/** What may wait for a reader that takes nothing, where nobody says otherwise: 4,000 lines or so. */
export const WAITING_BYTES_MAX = 1024 * 1024
