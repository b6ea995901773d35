/**
 * A file that only takes space. It is thrown away when the disk is full, so that a store can still be opened (LevelDB
 * copies its log first) and drained: deleting needs space, too.
 */
import { randomFillSync } from 'node:crypto'
import { open, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory } from './data-directory.ts'

export const BALLAST = 'godwit.ballast'

const CHUNK_BYTES = 1024 * 1024

export class Ballast {
  readonly #directory: string
  readonly #path: string
  readonly #targetBytes: number
  #bytes = 0
  #filling: Promise<void> | null = null
  #stopped = false
  #refused = false

  constructor(directory: string, targetBytes: number) {
    this.#directory = directory
    this.#path = join(directory, BALLAST)
    this.#targetBytes = targetBytes
  }

  /** Bytes that it takes now. */
  get bytes(): number {
    return this.#bytes
  }

  /** It is to be filled as soon as there is room. */
  get isWanted(): boolean {
    return this.#bytes < this.#targetBytes && this.#filling === null && !this.#refused && !this.#stopped
  }

  /** Takes note of the file as it is, also when somebody else removed it. */
  async measure(): Promise<void> {
    if (this.#filling !== null) return
    try {
      this.#bytes = (await stat(this.#path)).size
    } catch {
      this.#bytes = 0
    }
  }

  /** Writes it durably. When that fails there is none until the store is opened again. */
  fill(): Promise<void> {
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = null
    })
    return this.#filling
  }

  async #fill(): Promise<void> {
    try {
      if (await this.#written()) return
    } catch {
      this.#refused = true
    }
    await this.#remove()
  }

  /** False when it was stopped. */
  async #written(): Promise<boolean> {
    // File systems that compress or find holes would make nothing of zeros.
    const chunk = randomFillSync(Buffer.alloc(Math.min(CHUNK_BYTES, this.#targetBytes)))
    const file = await open(this.#path, 'w', 0o600)
    this.#bytes = 0
    try {
      while (this.#bytes < this.#targetBytes) {
        if (this.#stopped) return false
        const length = Math.min(chunk.length, this.#targetBytes - this.#bytes)
        this.#bytes += (await file.write(chunk, 0, length)).bytesWritten
      }
      await file.sync()
    } finally {
      await file.close()
    }
    await syncDirectory(this.#directory)
    return true
  }

  /** Gives its space back; returns whether it had any. */
  async release(): Promise<boolean> {
    await this.stop()
    await this.measure()
    const had = this.#bytes > 0
    await this.#remove()
    return had && this.#bytes === 0
  }

  async #remove(): Promise<void> {
    try {
      await rm(this.#path, { force: true })
      this.#bytes = 0
    } catch {
      // It stays, and what is short of space says so by itself.
    }
  }

  /** It may be filled (again). */
  start(): void {
    this.#stopped = false
    this.#refused = false
  }

  /** Ends a filling that is under way. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#filling
  }
}
