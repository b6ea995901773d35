/**
 * Guards free space: refuses new work before the disk is full, so that acknowledgements and deletes still
 * fit.
 */
import { statfs } from 'node:fs/promises'
import type { Ballast } from './ballast.ts'
import { COPIES } from './footprint.ts'

/** Resolves to the bytes that an ordinary user may still write in the directory's file system. */
export type FreeSpaceProbe = (directory: string) => Promise<number>

export const freeSpace: FreeSpaceProbe = async (directory) => {
  const { bavail, bsize } = await statfs(directory)
  return bavail * bsize
}

/** The store whose space is guarded. */
export interface SpaceUser {
  /** Returns the bytes that it may still take for data that was written already. */
  neededBytes(): number
  /**
   * Space is short: tidy up now, such as by moving the log into tables. `roomy` says that new work is refused
   * and half of the reserve is left for merges.
   */
  settle(roomy: boolean): void
}

const IDLE_USER: SpaceUser = { neededBytes: () => 0, settle: () => {} }

/** Work is accepted again above this share of the reserve. */
const RESUME_SHARE = 1.25
/** Space is short below this share of the reserve; then every tick probes it. */
const SHORT_SHARE = 3
const TICK_MS = 250
/** Ticks between two probes while something is written. */
const BUSY_TICKS = 4
/** Ticks between two probes while nothing is written and space is not short. */
const IDLE_TICKS = 40
const MIB = 1024 * 1024
/** Free space that suffices for merging one piece of the deleted pages. */
const PIECE_BYTES = 64 * MIB

/**
 * Decides by the space that was free at the last probe. It subtracts the bytes written since, the bytes that
 * wait to be written and the bytes that come, each as often as LevelDB copies them. So no decision has to
 * wait for a probe, and even the largest message is noticed in time.
 */
export class SpaceGuard {
  readonly #directory: string
  readonly #reserveBytes: number
  readonly #probe: FreeSpaceProbe
  readonly #user: SpaceUser
  readonly #ballast: Ballast | null
  #freeBytes = Number.POSITIVE_INFINITY
  /** Bytes that the store needed for itself at the last probe. */
  #neededBytes = 0
  #isRefusing = false
  /** Something was refused since the last probe, though smaller messages are accepted. */
  #refused = false
  #writtenBytes = 0
  #ticks = 0
  #probing = false
  #timer: NodeJS.Timeout | null = null

  /** `ballast` is a part of the reserve. */
  constructor(
    directory: string,
    reserveBytes: number,
    probe: FreeSpaceProbe,
    user: SpaceUser = IDLE_USER,
    ballast: Ballast | null = null,
  ) {
    this.#directory = directory
    this.#reserveBytes = reserveBytes
    this.#probe = probe
    this.#user = user
    this.#ballast = ballast
  }

  /** Returns why `bytes`, including those that wait to be written, do not fit; null if they do. */
  refusalFor(bytes: number): string | null {
    if (this.#reserveBytes === 0) return null
    const comingBytes = COPIES * (this.#writtenBytes + bytes)
    if (!this.#isRefusing && this.#available - comingBytes >= this.#reserveBytes) return null
    this.#refused = true
    const needed = this.#neededBytes + comingBytes
    const purpose =
      needed < MIB ? '' : `; ${mebibytes(needed)} of it may be needed for what is being written and merged`
    return (
      `disk nearly full: ${mebibytes(this.#freeBytes)} free on ${this.#directory}, ` +
      `reserve is ${mebibytes(this.#reserveBytes)}${purpose}`
    )
  }

  /**
   * Returns the bytes that may still come before new work is refused, given those that wait to be written.
   */
  roomBytes(pendingBytes: number): number {
    if (this.#reserveBytes === 0) return Number.POSITIVE_INFINITY
    if (this.#isRefusing) return 0
    return Math.max(0, this.#available - COPIES * (this.#writtenBytes + pendingBytes) - this.#reserveBytes)
  }

  /** Room is short below this many bytes. */
  get shortRoomBytes(): number {
    return (SHORT_SHARE - 1) * this.#reserveBytes
  }

  /** Whether half of the reserve is left for merges, which need space before they give it back. */
  get isRoomy(): boolean {
    if (this.#reserveBytes === 0 || this.#available > this.#reserveBytes / 2) return true
    // Due merges may need more than there is. Merges that drop deleted pages come in pieces, and they free
    // space.
    return this.#freeBytes > PIECE_BYTES + this.#reserveBytes / 2
  }

  /** Makes room by the ballast if space is short. Call this before the store is opened. */
  async prepare(): Promise<void> {
    try {
      if ((await this.#probe(this.#directory)) < this.#reserveBytes) await this.release()
    } catch {
      // The directory does not exist yet or cannot be probed. Opening it reports that.
    }
  }

  /** Gives the ballast up because the disk is full; returns whether that made room. */
  async release(): Promise<boolean> {
    return (await this.#ballast?.release()) === true
  }

  /** Probes once, then now and then until `stop`. */
  async start(): Promise<void> {
    this.#ballast?.start()
    await this.check()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    this.#timer.unref()
  }

  /** Stops probing. When this resolves, the ballast is not written any more. */
  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    await this.#ballast?.stop()
  }

  /** Counts bytes that were written; probes early if they may have used up an eighth of the reserve. */
  wrote(bytes: number): void {
    this.#writtenBytes += bytes
    if (this.#writtenBytes > (this.#isShort ? MIB : Math.max(this.#reserveBytes / 8, MIB))) void this.check()
  }

  /**
   * Probes now, unless a probe is under way. A probe that fails changes nothing: the next write will tell.
   */
  async check(): Promise<void> {
    if (this.#probing) return
    this.#probing = true
    const before = this.#writtenBytes
    this.#ticks = 0
    try {
      if (this.#ballast !== null) await this.#ballast.measure()
      const freeBytes = (await this.#probe(this.#directory)) + (this.#ballast?.bytes ?? 0)
      // The answer may not include bytes that were written during the probe.
      this.#writtenBytes -= before
      this.#judge(freeBytes)
    } catch {
      // The directory vanished or cannot be probed. The next commit fails with its own reason.
    } finally {
      this.#probing = false
    }
  }

  #tick(): void {
    this.#ticks++
    const ticks = this.#isShort ? 1 : this.#writtenBytes > 0 ? BUSY_TICKS : IDLE_TICKS
    if (this.#ticks >= ticks) void this.check()
    if (!this.#isRefusing && this.#ballast?.isWanted) void this.#ballast.fill()
  }

  #judge(freeBytes: number): void {
    this.#freeBytes = freeBytes
    this.#neededBytes = this.#user.neededBytes()
    const limit = this.#isRefusing ? this.#reserveBytes * RESUME_SHARE : this.#reserveBytes
    this.#isRefusing = this.#available < limit
    if (this.#isShort) this.#user.settle((this.#isRefusing || this.#refused) && this.isRoomy)
    this.#refused = false
  }

  get #available(): number {
    return this.#freeBytes - this.#neededBytes
  }

  get #isShort(): boolean {
    return this.#available < this.#reserveBytes * SHORT_SHARE
  }
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / MIB)} MiB`
}
