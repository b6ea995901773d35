/** The bans of a running broker: what changes holds at once, and is in the file when the change is confirmed. */
import type { Ban, BanKind, Bans } from '../../broker/boundary/bans.ts'
import { bansVersion, readBans, writeBans } from './bans-file.ts'

/** Bans hold by broker time, which no file of another store, and no other program, knows. In the file they have wall time. */
export interface BanClock {
  /** Broker time in ms. */
  now(): number
  /** The wall clock in ms. */
  wallNow(): number
}

/** What somebody else's edit of the file did, in bans. */
export interface BansEdited {
  readonly added: number
  /** For another time, or for another reason. */
  readonly changed: number
  readonly lifted: number
}

/** Times in the file and times of the broker differ by so little where nobody changed them, in ms. */
const SAME_TIME_MS = 1000

export class KeptBans {
  readonly #bans: Bans
  readonly #clock: BanClock
  readonly #directory: string | null
  readonly #failed: (error: Error) => void
  /** Writes go one after the other; what comes meanwhile goes with the next one. */
  #writing: Promise<void> | null = null
  #next: Promise<void> | null = null
  /** Of the file as it was read or written last. */
  #version: string | null = null
  /** Changes since the start. */
  #changes = 0

  /** `directory` null keeps them in memory alone. `failed` is told where a ban that nobody waits for could not be written. */
  constructor(bans: Bans, clock: BanClock, directory: string | null, failed: (error: Error) => void) {
    this.#bans = bans
    this.#clock = clock
    this.#directory = directory
    this.#failed = failed
  }

  /**
   * Takes over what this version of the file has, at the start. A wall clock that was set back, or never set, makes no ban longer than it was to be.
   */
  take(bans: readonly Ban[], version: string | null = null): void {
    this.#version = version
    for (const ban of this.#inBrokerTime(bans)) this.#bans.add(ban)
  }

  /**
   * Reads the file again where somebody else has written it, and takes over what it says; null where that changes nothing. Throws
   * BansError, once per version, for a file that cannot be read: then all stays as it was.
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
    // What was changed meanwhile is newer than what was read, and takes its place in the file.
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

  /** Those that still hold. */
  #inBrokerTime(bans: readonly Ban[]): Ban[] {
    const [now, wall] = [this.#clock.now(), this.#clock.wallNow()]
    return bans.flatMap((ban) => {
      const since = now - Math.max(0, wall - ban.since)
      const left = ban.until === null ? null : Math.min(ban.until - wall, ban.until - ban.since)
      if (left !== null && left <= 0) return []
      return [{ ...ban, since, until: left === null ? null : now + left }]
    })
  }

  /** Those that hold. */
  list(): Ban[] {
    return this.#bans.list()
  }

  /** Adds an operator's ban. Rejects with BansError where it could not be written: it holds until the broker ends. */
  async add(ban: Ban): Promise<void> {
    this.#bans.add(ban)
    await this.#saved()
  }

  /** Lifts a ban; false where there is none. Rejects as `add` does. */
  async remove(kind: BanKind, subject: string): Promise<boolean> {
    if (this.#bans.remove(kind, subject) === null) return false
    await this.#saved()
    return true
  }

  /** Adds one of the broker itself; false where it may not be. */
  impose(ban: Ban): boolean {
    if (!this.#bans.add(ban)) return false
    this.#saved().catch(this.#failed)
    return true
  }

  /** Resolves when all that was changed before is written. Rejects never. */
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
    // The one that is under way may have begun before this change.
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
