/** Free space: refuses new work before the disk is full, so that acknowledgements and deletes still fit. */
import { statfs } from 'node:fs/promises'
import type { Ballast } from './ballast.ts'
import { COPIES } from './footprint.ts'

/** Bytes that an ordinary user may still write in the directory's file system. */
export type FreeSpaceProbe = (directory: string) => Promise<number>

export const freeSpace: FreeSpaceProbe = async (directory) => {
  const { bavail, bsize } = await statfs(directory)
  return bavail * bsize
}

/** What the guard asks of the store. */
export interface SpaceUser {
  /** Bytes that it may still take for what was written already. */
  neededBytes(): number
  /**
   * Space is short: what can be done now, such as moving the log into tables, is not to wait. `roomy` when new work is
   * refused and half of the reserve is left for merges.
   */
  settle(roomy: boolean): void
}

const IDLE_USER: SpaceUser = { neededBytes: () => 0, settle: () => {} }

/** Above this share of the reserve, what was refused is accepted again. */
const RESUME_SHARE = 1.25
/** Below this share of the reserve space is short, and asked for at every tick. */
const SHORT_SHARE = 3
const TICK_MS = 250
/** Where something was written, every so many ticks. */
const BUSY_TICKS = 4
/** Without trouble and without anything written, every so many ticks. */
const IDLE_TICKS = 40
const MIB = 1024 * 1024
/** Free space that is enough for a merge of one piece of the deleted pages. */
const PIECE_BYTES = 64 * MIB

/**
 * Decides by what was free when the disk was last asked, less what was written since, what waits to be written, and
 * what comes, each as often as LevelDB copies it. So nothing has to be waited for, and no message is too large to be
 * noticed in time.
 */
export class SpaceGuard {
  readonly #directory: string
  readonly #reserveBytes: number
  readonly #probe: FreeSpaceProbe
  readonly #user: SpaceUser
  readonly #ballast: Ballast | null
  #freeBytes = Number.POSITIVE_INFINITY
  /** What the store needed for itself when the disk was asked. */
  #neededBytes = 0
  #isRefusing = false
  /** Something was too much since the disk was asked, though smaller messages are accepted. */
  #refused = false
  #writtenBytes = 0
  #ticks = 0
  #probing = false
  #timer: NodeJS.Timeout | null = null

  /** The ballast is a part of the reserve. */
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

  /** Why so many bytes, those that already wait to be written included, are too much; null when there is room. */
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

  /** Bytes that may still be taken before new work is refused, beside so many that already wait to be written. */
  roomBytes(pendingBytes: number): number {
    if (this.#reserveBytes === 0) return Number.POSITIVE_INFINITY
    if (this.#isRefusing) return 0
    return Math.max(0, this.#available - COPIES * (this.#writtenBytes + pendingBytes) - this.#reserveBytes)
  }

  /** Less room than this is short. */
  get shortRoomBytes(): number {
    return (SHORT_SHARE - 1) * this.#reserveBytes
  }

  /** Whether half of the reserve is left for merges, which need space before they give it back. */
  get isRoomy(): boolean {
    if (this.#reserveBytes === 0 || this.#available > this.#reserveBytes / 2) return true
    // Merges that are due may want more than there is; those that drop what was deleted come in pieces, and are the cure.
    return this.#freeBytes > PIECE_BYTES + this.#reserveBytes / 2
  }

  /** To be called before the store is opened: where space is short, the ballast makes room. */
  async prepare(): Promise<void> {
    try {
      if ((await this.#probe(this.#directory)) < this.#reserveBytes) await this.release()
    } catch {
      // There is no directory yet, or it cannot be asked: opening it says why.
    }
  }

  /** Gives the ballast up, when the disk is full; returns whether that made room. */
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

  /** Nothing is written any more when this resolves. */
  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    await this.#ballast?.stop()
  }

  /** So many bytes are on disk now: probes early when that may have used up an eighth of the reserve. */
  wrote(bytes: number): void {
    this.#writtenBytes += bytes
    if (this.#writtenBytes > (this.#isShort ? MIB : Math.max(this.#reserveBytes / 8, MIB))) void this.check()
  }

  /** Probes now, unless that is under way. A probe that fails changes nothing: the next write tells. */
  async check(): Promise<void> {
    if (this.#probing) return
    this.#probing = true
    const before = this.#writtenBytes
    this.#ticks = 0
    try {
      if (this.#ballast !== null) await this.#ballast.measure()
      const freeBytes = (await this.#probe(this.#directory)) + (this.#ballast?.bytes ?? 0)
      // What was written while the disk was asked may be missing in its answer.
      this.#writtenBytes -= before
      this.#judge(freeBytes)
    } catch {
      // The directory vanished or cannot be asked; a commit that fails says so with its own reason.
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
