/** The bans of a running broker: what changes holds at once, and is in the file when the change is confirmed. */
import type { Ban, BanKind, Bans } from '../broker/bans.ts'
import { writeBans } from './bans-file.ts'

/** Bans hold by broker time, which no file of another store, and no other program, knows. In the file they have wall time. */
export interface BanClock {
  /** Broker time in ms. */
  now(): number
  /** The wall clock in ms. */
  wallNow(): number
}

export class KeptBans {
  readonly #bans: Bans
  readonly #clock: BanClock
  readonly #directory: string | null
  readonly #failed: (error: Error) => void
  /** Writes go one after the other; what comes meanwhile goes with the next one. */
  #writing: Promise<void> | null = null
  #next: Promise<void> | null = null

  /** `directory` null keeps them in memory alone. `failed` is told where a ban that nobody waits for could not be written. */
  constructor(bans: Bans, clock: BanClock, directory: string | null, failed: (error: Error) => void) {
    this.#bans = bans
    this.#clock = clock
    this.#directory = directory
    this.#failed = failed
  }

  /**
   * Takes over what the file has at the start. A wall clock that was set back, or never set, makes no ban longer than it was to be.
   */
  take(bans: readonly Ban[]): void {
    const [now, wall] = [this.#clock.now(), this.#clock.wallNow()]
    for (const ban of bans) {
      const since = now - Math.max(0, wall - ban.since)
      const left = ban.until === null ? null : Math.min(ban.until - wall, ban.until - ban.since)
      if (left === null || left > 0)
        this.#bans.add({ ...ban, since, until: left === null ? null : now + left })
    }
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
    } finally {
      this.#writing = null
    }
  }
}
