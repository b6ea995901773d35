/** Free space: refuses new work before the disk is full, so that acknowledgements and deletes still fit. */
import { statfs } from 'node:fs/promises'

/** Bytes that an ordinary user may still write in the directory's file system. */
export type FreeSpaceProbe = (directory: string) => Promise<number>

export const freeSpace: FreeSpaceProbe = async (directory) => {
  const { bavail, bsize } = await statfs(directory)
  return bavail * bsize
}

/** Above this share of the reserve, what was refused is accepted again. */
const RESUME_SHARE = 1.25
const TICK_MS = 1000
/** Without trouble and without much written, every so many ticks. */
const IDLE_TICKS = 10
const MIB = 1024 * 1024

export class SpaceGuard {
  readonly #directory: string
  readonly #reserveBytes: number
  readonly #probe: FreeSpaceProbe
  #refusal: string | null = null
  #writtenBytes = 0
  #ticks = 0
  #probing = false
  #timer: NodeJS.Timeout | null = null

  constructor(directory: string, reserveBytes: number, probe: FreeSpaceProbe) {
    this.#directory = directory
    this.#reserveBytes = reserveBytes
    this.#probe = probe
  }

  /** Why new work is refused; null when there is room. */
  get refusal(): string | null {
    return this.#refusal
  }

  /** Probes once, then now and then until `stop`. */
  async start(): Promise<void> {
    await this.check()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    this.#timer.unref()
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
  }

  /** So many bytes were written: probes early when that may have used up an eighth of the reserve. */
  wrote(bytes: number): void {
    this.#writtenBytes += bytes
    if (this.#writtenBytes > Math.max(this.#reserveBytes / 8, MIB)) void this.check()
  }

  /** Probes now, unless that is under way. A probe that fails changes nothing: the next write tells. */
  async check(): Promise<void> {
    if (this.#probing) return
    this.#probing = true
    this.#writtenBytes = 0
    this.#ticks = 0
    try {
      this.#judge(await this.#probe(this.#directory))
    } catch {
      // The directory vanished or cannot be asked; a commit that fails says so with its own reason.
    } finally {
      this.#probing = false
    }
  }

  #tick(): void {
    this.#ticks++
    if (this.#refusal !== null || this.#writtenBytes > 0 || this.#ticks >= IDLE_TICKS) void this.check()
  }

  #judge(freeBytes: number): void {
    const limit = this.#refusal === null ? this.#reserveBytes : this.#reserveBytes * RESUME_SHARE
    this.#refusal =
      freeBytes >= limit
        ? null
        : `disk nearly full: ${mebibytes(freeBytes)} free on ${this.#directory}, reserve is ${mebibytes(this.#reserveBytes)}`
  }
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / MIB)} MiB`
}
