/** A disk that fails or loses its power under a broker: `faults.c`, preloaded into it. Linux, with a C compiler. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readTrace, survivors } from './trace.mjs'

const SOURCE = fileURLToPath(new URL('faults.c', import.meta.url))

/** Compiles the library into a new directory. Returns its path and `remove()`. Throws with the compiler's words. */
export function buildFaults() {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-faults-'))
  const library = join(directory, 'faults.so')
  const words = ['-O2', '-shared', '-fPIC', '-o', library, SOURCE, '-ldl', '-lpthread']
  const { status, stderr, error } = spawnSync('cc', words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`cc cannot build ${SOURCE}: ${error?.message ?? stderr}`)
  return { library, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

export class FaultyDisk {
  #library
  #data
  #flag
  #trace
  #random
  #powerCuts
  /** What the disk holds for certain, by file name. */
  #base = new Map()

  /** `data` is the broker's directory; `directory`, next to it, takes flag and trace. */
  constructor({ library, directory, data, random, powerCuts }) {
    this.#library = library
    this.#data = data
    this.#flag = join(directory, 'flag')
    this.#trace = join(directory, 'trace')
    this.#random = random
    this.#powerCuts = powerCuts
  }

  /** For the broker's next start. */
  environment() {
    rmSync(this.#trace, { force: true })
    const trace = this.#powerCuts ? { FAULTS_TRACE: this.#trace } : {}
    return { LD_PRELOAD: this.#library, FAULTS_DIRECTORY: this.#data, FAULTS_FLAG: this.#flag, ...trace }
  }

  /** What was recorded since the latest start. */
  get records() {
    return readTrace(this.#trace)
  }

  /** From the call after `countdown` calls on, all fail with this error; `torn`: half of the first write is made. */
  fail({ error, countdown, torn }) {
    writeFileSync(this.#flag, `${constants.errno[error]} ${countdown} ${torn ? 1 : 0}`)
  }

  mend() {
    rmSync(this.#flag, { force: true })
  }

  /** The broker was killed and its machine lost its power: of what was not synced, anything may be gone. */
  cutPower() {
    if (!this.#powerCuts || !existsSync(this.#trace)) return
    this.#base = survivors(this.#base, this.records, this.#random)
    if (existsSync(this.#data)) {
      for (const name of readdirSync(this.#data)) rmSync(join(this.#data, name), { recursive: true })
    }
    mkdirSync(this.#data, { recursive: true })
    for (const [name, bytes] of this.#base) writeFileSync(join(this.#data, name), bytes)
  }

  /** The files as they are now. */
  files() {
    return new Map(readdirSync(this.#data).map((name) => [name, readFileSync(join(this.#data, name))]))
  }
}
