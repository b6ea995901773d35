/** The bans of a running broker. A change takes effect at once, and is in the file before it is confirmed. */
import type { Ban, BanKind, Bans } from '../../broker/boundary/bans.ts'
import { bansVersion, readBans, writeBans } from './bans-file.ts'

/**
 * Converts times: in memory bans have broker time, which only this store knows; in the file they have wall
 * time.
 */
export interface BanClock {
  /** Broker time in ms. */
  now(): number
  /** The wall clock in ms. */
  wallNow(): number
}

/** How many bans an edit of the file by somebody else changed. */
export interface BansEdited {
  readonly added: number
  /** Bans with a new end or a new reason. */
  readonly changed: number
  readonly lifted: number
}

/** Times that differ by less are the same: converting them back and forth rounds. In ms. */
const SAME_TIME_MS = 1000

/** Keeps the bans in memory and in their file. */
export class KeptBans {
  readonly #bans: Bans
  readonly #clock: BanClock
  readonly #directory: string | null
  readonly #failed: (error: Error) => void
  /** One write at a time; changes during it go with the next one. */
  #writing: Promise<void> | null = null
  #next: Promise<void> | null = null
  /** The version of the file that was read or written last. */
  #version: string | null = null
  /** Counts changes, so that `reread` notices one. */
  #changes = 0

  /**
   * `directory` is null for bans in memory only. `failed` is called if an automatic ban could not be written.
   */
  constructor(bans: Bans, clock: BanClock, directory: string | null, failed: (error: Error) => void) {
    this.#bans = bans
    this.#clock = clock
    this.#directory = directory
    this.#failed = failed
  }

  /**
   * Takes over the bans of this version of the file, at the start. A wall clock that was set back, or never
   * set, makes no ban longer than it was when it was imposed.
   */
  take(bans: readonly Ban[], version: string | null = null): void {
    this.#version = version
    for (const ban of this.#inBrokerTime(bans)) this.#bans.add(ban)
  }

  /**
   * Reads the file again if somebody else has written it, and takes over its bans. Resolves with null if
   * nothing changed. Throws BansError, once per version, for a file that cannot be read; then no ban changes.
   */
  async reread(): Promise<BansEdited | null> {
    if (this.#directory === null) return null
    await this.settled()
    const [changes, version] = [this.#changes, await bansVersion(this.#directory)]
    if (version === this.#version) return null
    const read = await readBans(this.#directory).catch((error: unknown) => {
      this.#version = version
      throw error
    })
    // A change of our own during the read is newer and overwrites the file, so read again after it.
    if (changes !== this.#changes) return this.reread()
    this.#version = version
    return this.#replace(this.#inBrokerTime(read))
  }

  #replace(bans: readonly Ban[]): BansEdited | null {
    const before = new Map(this.list().map((ban) => [`${ban.kind} ${ban.subject}`, ban]))
    let [added, changed] = [0, 0]
    for (const ban of bans) {
      const key = `${ban.kind} ${ban.subject}`
      const old = before.get(key)
      before.delete(key)
      if (old === undefined) added++
      else if (isSame(old, ban)) continue
      else changed++
      if (old !== undefined) this.#bans.remove(old.kind, old.subject)
      this.#bans.add(ban)
    }
    for (const { kind, subject } of before.values()) this.#bans.remove(kind, subject)
    return added + changed + before.size === 0 ? null : { added, changed, lifted: before.size }
  }

  /** Converts the bans of the file to broker time, without those that are over. */
  #inBrokerTime(bans: readonly Ban[]): Ban[] {
    const [now, wall] = [this.#clock.now(), this.#clock.wallNow()]
    return bans.flatMap((ban) => {
      const since = now - Math.max(0, wall - ban.since)
      const left = ban.until === null ? null : Math.min(ban.until - wall, ban.until - ban.since)
      if (left !== null && left <= 0) return []
      return [{ ...ban, since, until: left === null ? null : now + left }]
    })
  }

  /** The bans in force. */
  list(): Ban[] {
    return this.#bans.list()
  }

  /**
   * Adds an operator's ban. Rejects with BansError if it could not be written; it then holds until the
   * broker ends.
   */
  async add(ban: Ban): Promise<void> {
    this.#bans.add(ban)
    await this.#saved()
  }

  /** Lifts a ban. Resolves with false if there is no such ban. Rejects as `add` does. */
  async remove(kind: BanKind, subject: string): Promise<boolean> {
    if (this.#bans.remove(kind, subject) === null) return false
    await this.#saved()
    return true
  }

  /** Adds an automatic ban. Returns false for this machine, and if an operator has banned the subject. */
  impose(ban: Ban): boolean {
    if (!this.#bans.add(ban)) return false
    this.#saved().catch(this.#failed)
    return true
  }

  /** Resolves when all changes so far are written. Never rejects. */
  async settled(): Promise<void> {
    await this.#next?.catch(() => {})
    await this.#writing?.catch(() => {})
  }

  #saved(): Promise<void> {
    this.#changes++
    if (this.#directory === null) return Promise.resolve()
    if (this.#writing === null) {
      this.#writing = this.#write()
      return this.#writing
    }
    // The write under way may have begun before this change.
    this.#next ??= this.#writing.then(
      () => this.#writeNext(),
      () => this.#writeNext(),
    )
    return this.#next
  }

  #writeNext(): Promise<void> {
    this.#next = null
    this.#writing = this.#write()
    return this.#writing
  }

  async #write(): Promise<void> {
    try {
      const ahead = this.#clock.wallNow() - this.#clock.now()
      const bans = this.#bans.list().map((ban) => {
        const until = ban.until === null ? null : Math.round(ban.until + ahead)
        return { ...ban, since: Math.round(ban.since + ahead), until }
      })
      await writeBans(this.#directory!, bans)
      this.#version = await bansVersion(this.#directory!)
    } finally {
      this.#writing = null
    }
  }
}

function isSame(one: Ban, other: Ban): boolean {
  const isSameTime =
    one.until === null || other.until === null
      ? one.until === other.until
      : Math.abs(one.until - other.until) < SAME_TIME_MS
  return isSameTime && one.reason === other.reason
}
