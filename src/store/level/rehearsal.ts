/**
 * Reads a store as a start would, without changing it. So check, repair and restore always agree with a start
 * on whether the store can be opened.
 */

import type { Database } from '../files/database.ts'
import { storeError } from '../files/failure.ts'
import type { DamageReport } from '../format/damage.ts'
import { corrupt, LOSS, META_KEY } from '../format/format.ts'
import { decodeMeta } from '../format/meta.ts'
import { HeldBytes } from '../held-bytes.ts'
import { BodyIndex } from '../journal/body-index.ts'
import { Checkpoints } from '../journal/checkpoints.ts'
import { type Checkpointed, DirtyList } from '../journal/dirty-list.ts'
import { Extensions } from '../journal/extensions.ts'
import { LogTimes } from '../logs/log-times.ts'
import { detachedLogs } from '../logs/stored-logs.ts'
import type { StoreError } from '../store.ts'
import { HeapGuard } from './heap-guard.ts'
import { recover } from './recovery.ts'

/** Returns why a start would refuse the database; null when it would not. */
export async function startRefusal(db: Database, directory: string): Promise<StoreError | null> {
  const bodies = new BodyIndex(
    { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 },
    new HeldBytes(),
  )
  const logTimes = new LogTimes()
  const dirty = new DirtyList<Checkpointed>()
  try {
    const described = await db.get(META_KEY)
    if (described === undefined) return corrupt('its description cannot be read', LOSS.session)
    const meta = decodeMeta(described, directory)
    await recover({
      db,
      meta,
      bodies,
      checkpoints: new Checkpoints(bodies, dirty),
      dirty,
      logTimes,
      logs: detachedLogs(logTimes),
      extensions: new Extensions(),
      guard: new HeapGuard(directory),
      pageCostBytes: (value) => value.length,
    })
    return null
  } catch (error) {
    return storeError(error, directory, 'opening it')
  }
}

/** Passes damage on to `report`, and adds a report when only a start would notice the damage. */
export class Rehearsal {
  readonly #report: DamageReport
  #isTold = false

  constructor(report: DamageReport) {
    this.#report = report
  }

  readonly report: DamageReport = (damage) => {
    this.#isTold = true
    this.#report(damage)
  }

  /** Call this when everything else was read. */
  async end(db: Database, directory: string): Promise<void> {
    if (this.#isTold) return
    const refusal = await startRefusal(db, directory)
    if (refusal !== null) {
      this.#report({ what: `a start refuses the store: ${refusal.message}`, lost: null })
    }
  }
}
