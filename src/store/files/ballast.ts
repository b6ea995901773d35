/**
 * A file that only takes up space. It is deleted when the disk is full, so that a store can still be opened
 * (LevelDB copies its log first) and drained: deleting needs space, too.
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

  /** Bytes that the file takes now. */
  get bytes(): number {
    return this.#bytes
  }

  /** Whether the file should be filled as soon as there is room. */
  get isWanted(): boolean {
    return this.#bytes < this.#targetBytes && this.#filling === null && !this.#refused && !this.#stopped
  }

  /** Looks how large the file is: somebody else may have removed it. */
  async measure(): Promise<void> {
    if (this.#filling !== null) return
    try {
      this.#bytes = (await stat(this.#path)).size
    } catch {
      this.#bytes = 0
    }
  }

  /** Writes the file durably. If that fails, there is no ballast until the store is opened again. */
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

  /** Writes the file; returns false if it was stopped. */
  async #written(): Promise<boolean> {
    // File systems that compress, or store zeros as holes, would take no space for zeros.
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

  /** Deletes the file; returns whether that gave any space back. */
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
      // The file stays. Whatever is short of space reports that itself.
    }
  }

  /** Allows the file to be filled (again). */
  start(): void {
    this.#stopped = false
    this.#refused = false
  }

  /** Ends filling, if that is under way. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#filling
  }
}
