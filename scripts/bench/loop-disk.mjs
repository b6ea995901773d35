/** An ext4 file system on a loop device of its own, whose written sectors the kernel counts. Needs root. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'

const SECTOR_BYTES = 512
/** LevelDB and ext4 write later what they did not write at once. */
const SETTLE_MS = 3000

export class LoopDisk {
  #directory = mkdtempSync(join(tmpdir(), 'godwit-disk-'))
  /** Where it is mounted. */
  mount = join(this.#directory, 'mount')
  #device

  /** @param {number} mib */
  constructor(mib) {
    const image = join(this.#directory, 'image')
    execute('truncate', '-s', `${mib}M`, image)
    execute('mkfs.ext4', '-q', '-b', '4096', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image)
    mkdirSync(this.mount)
    execute('mount', '-o', 'loop', image, this.mount)
    this.#device = basename(execute('findmnt', '-n', '-o', 'SOURCE', this.mount).trim())
  }

  /** Resolves with the bytes written so far, once those are written that come later. */
  async writtenBytes() {
    await setTimeout(SETTLE_MS)
    execute('sync', '-f', this.mount)
    const fields = readFileSync(`/sys/block/${this.#device}/stat`, 'utf8').trim().split(/\s+/)
    return Number(fields[6]) * SECTOR_BYTES
  }

  /** Unmounts it and forgets what it holds. */
  remove() {
    execute('umount', this.mount)
    rmSync(this.#directory, { recursive: true })
  }
}

/**
 * Runs a program to its end; returns its output.
 *
 * @param {string} program
 * @param {string[]} words
 */
function execute(program, ...words) {
  const { status, stdout, stderr, error } = spawnSync(program, words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${words.join(' ')}: ${error?.message ?? stderr}`)
  return stdout
}
