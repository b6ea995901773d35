/** The process as it serves the core. */
import type { BootTime } from '../../store/store.ts'

/** The process as the core sees it: time, a way to run something later, randomness. */
export interface Host {
  /** Monotonic, in ms. */
  now(): number
  /** Wall clock, in ms since 1970. */
  wallNow(): number
  /** Time since the machine started; null if the machine does not tell it. */
  bootTime(): BootTime | null
  /** Runs the callback after pending input was read (`setImmediate`). */
  defer(callback: () => void): void
  /** A fresh, unguessable identifier of printable characters. */
  randomId(): string
  /** HMAC-SHA256. */
  keyedHash(key: string, text: string): Buffer
}
