/**
 * A disk that fails or loses power under a broker: `faults.c`, preloaded into it. Needs Linux and a C
 * compiler.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { History, readTrace, withoutLastChange } from './trace.mjs'

const SOURCE = fileURLToPath(new URL('faults.c', import.meta.url))

/**
 * Compiles the library into a new directory. Returns its path and `remove()`. Throws with the compiler's
 * output.
 */
export function buildFaults() {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-faults-'))
  const library = join(directory, 'faults.so')
  const words = ['-O2', '-shared', '-fPIC', '-o', library, SOURCE, '-ldl', '-lpthread']
  const { status, stderr, error } = spawnSync('cc', words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`cc cannot build ${SOURCE}: ${error?.message ?? stderr}`)
  return { library, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

/** Returns a fault of a disk: `forMs` is how long it lasts, `wellMs` how long all is well after it. */
export function faultOf(random) {
  return {
    error: random.pick(['ENOSPC', 'ENOSPC', 'EIO']),
    countdown: random.between(0, 20),
    torn: random.chance(0.5),
    forMs: random.between(1, 300),
    wellMs: random.pick([0, 50, 2500]),
  }
}

export class FaultyDisk {
  /** The broker's directory, which it makes itself. */
  data
  #library
  #root
  #flag
  #trace
  #random
  #powerCuts
  #rules
  /**
   * The files that are durable, by path below the root.
   *
   * @type {import('./trace.mjs').Files}
   */
  #base = new Map()

  /**
   * Each power cut follows one of `rules`, by chance. The disk's root is made in `directory`.
   *
   * @param {{
   *   library: string,
   *   directory: string,
   *   random: import('./random.mjs').Random,
   *   powerCuts: boolean,
   *   rules?: readonly import('./trace.mjs').NameRule[],
   * }} options
   */
  constructor({ library, directory, random, powerCuts, rules = ['ordered', 'own'] }) {
    this.#library = library
    this.#root = join(directory, 'disk')
    this.data = join(this.#root, 'data')
    this.#flag = join(directory, 'flag')
    this.#trace = join(directory, 'trace')
    this.#random = random
    this.#powerCuts = powerCuts
    this.#rules = rules
    mkdirSync(this.#root)
  }

  /** Returns the variables for the broker's next start. All files that are there then count as durable. */
  environment() {
    rmSync(this.#trace, { force: true })
    if (this.#powerCuts) this.#base = filesBelow(this.#root)
    const trace = this.#powerCuts ? { FAULTS_TRACE: this.#trace } : {}
    return { LD_PRELOAD: this.#library, FAULTS_DIRECTORY: this.#root, FAULTS_FLAG: this.#flag, ...trace }
  }

  /** The records since the latest start. */
  get records() {
    return readTrace(this.#trace)
  }

  /**
   * Makes all calls fail after the next `countdown` ones. With `torn`, half of the first write is made.
   *
   * @param {{ error: 'ENOSPC' | 'EIO', countdown: number, torn: boolean }} fault
   */
  fail({ error, countdown, torn }) {
    writeFileSync(this.#flag, `${constants.errno[error]} ${countdown} ${torn ? 1 : 0}`)
  }

  mend() {
    rmSync(this.#flag, { force: true })
  }

  /**
   * Lets the machine of a killed broker lose its power: anything that was not synced may be gone. Throws when
   * the files are not as the trace has them. Then the broker changed them in a way that the trace does not
   * record.
   */
  cutPower() {
    if (!this.#powerCuts || !existsSync(this.#trace)) return
    const { records } = this
    const history = new History(this.#base, records)
    this.#compare(history, records)
    const files = history.survivors(this.#random.pick(this.#rules), this.#random)
    rmSync(this.#root, { recursive: true })
    mkdirSync(this.#root)
    for (const [name, bytes] of files) {
      if (bytes === null) mkdirSync(join(this.#root, name), { recursive: true })
      else writeFileSync(join(this.#root, name), bytes)
    }
  }

  #compare(history, records) {
    const found = filesBelow(this.#root)
    const differing = differences(history.whole(), found)
    // It was killed between creating (or emptying) a file and recording that, or between a record and its
    // change.
    if (differing.length === 0 || (differing.length === 1 && found.get(differing[0])?.length === 0)) return
    if (differences(new History(this.#base, withoutLastChange(records)).whole(), found).length === 0) return
    throw new Error(`these files changed in a way that was not recorded: ${differing.join(', ')}`)
  }
}

/** Returns the files and directories below `root`, without sockets. */
function filesBelow(root) {
  const files = new Map()
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath ?? entry.path, entry.name)
    if (entry.isDirectory()) files.set(relative(root, path), null)
    else if (entry.isFile()) files.set(relative(root, path), readFileSync(path))
  }
  return files
}

/** Returns the names that are in one of the two only, or differ. */
function differences(expected, found) {
  const names = new Set([...expected.keys(), ...found.keys()])
  return [...names].filter((name) => {
    const [one, other] = [expected.get(name), found.get(name)]
    return (
      one === undefined ||
      other === undefined ||
      (one === null || other === null ? one !== other : !one.equals(other))
    )
  })
}
