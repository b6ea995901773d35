/** Runs targets: makes inputs, keeps those that are of interest, shrinks those that fail. */
import { Random } from './random.ts'
import { shrunk, type Target } from './target.ts'

/** The pieces of code that ran since it was asked last. */
export type Coverage = () => ReadonlySet<string>

export interface Find {
  readonly target: string
  /** The simplest input that was found to fail, as JSON. */
  readonly input: unknown
  readonly wrong: string
}

/** Beyond so many, an input that is kept takes a random one's place. */
const CORPUS_MAX = 4000

const OUTCOMES_MAX = 100_000

const SHRINK_TRIES = 3000

/** One target under way. Its inputs follow from the seed and from what was asked of it. */
export class Campaign<I> {
  readonly target: Target<I>
  inputs = 0
  readonly #random: Random
  readonly #corpus: I[] = []
  readonly #outcomes = new Set<string>()
  readonly #coverage: Coverage | null
  readonly #code = new Set<string>()

  /** With `coverage`, inputs that reach new code are kept, too, not only those with a new outcome. */
  constructor(target: Target<I>, seed: number, coverage: Coverage | null = null) {
    this.target = target
    this.#random = new Random(seed, hash(target.name))
    this.#coverage = coverage
  }

  /** Inputs that were kept, since they led to something new. */
  get kept(): number {
    return this.#corpus.length
  }

  /** Pieces of code that were reached. */
  get reached(): number {
    return this.#code.size
  }

  /** Runs `count` inputs up to the first that fails; returns it shrunk. Calls `started` before each. */
  async run(count: number, started: () => void = () => {}): Promise<Find | null> {
    const batch: I[] = []
    for (let n = 0; n < count; n++) {
      const input = this.target.make(this.#random, this.#corpus)
      this.inputs++
      started()
      try {
        const outcome = this.target.run(input)
        this.#ledTo(input, typeof outcome === 'string' ? outcome : await outcome)
      } catch (error) {
        return this.#find(input, error)
      }
      if (this.#coverage !== null) batch.push(input)
    }
    await this.#keepWhatReachedNewCode(batch)
    return null
  }

  #ledTo(input: I, outcome: string): void {
    if (this.#outcomes.has(outcome)) return
    if (this.#outcomes.size < OUTCOMES_MAX) this.#outcomes.add(outcome)
    this.#keep(input)
  }

  #keep(input: I): void {
    if (this.#corpus.length < CORPUS_MAX) this.#corpus.push(input)
    else this.#corpus[this.#random.below(CORPUS_MAX)] = input
  }

  async #keepWhatReachedNewCode(batch: readonly I[]): Promise<void> {
    if (this.#coverage === null) return
    const fresh = new Set([...this.#coverage()].filter((piece) => !this.#code.has(piece)))
    for (const piece of fresh) this.#code.add(piece)
    if (fresh.size > 0) await this.#locate(batch, fresh)
  }

  /** Looks by halves for the inputs that reach these pieces of code. */
  async #locate(batch: readonly I[], wanted: ReadonlySet<string>): Promise<void> {
    if (batch.length <= 1) {
      for (const input of batch) this.#keep(input)
      return
    }
    const middle = batch.length >> 1
    const first = batch.slice(0, middle)
    this.#coverage!()
    for (const input of first) await this.target.run(input)
    const ran = this.#coverage!()
    const there = new Set([...wanted].filter((piece) => ran.has(piece)))
    const elsewhere = new Set([...wanted].filter((piece) => !ran.has(piece)))
    if (there.size > 0) await this.#locate(first, there)
    if (elsewhere.size > 0) await this.#locate(batch.slice(middle), elsewhere)
  }

  async #find(input: I, error: unknown): Promise<Find> {
    const small = await shrunk(this.target, input, SHRINK_TRIES)
    let wrong = text(error)
    try {
      await this.target.run(small)
    } catch (again) {
      wrong = text(again)
    }
    return { target: this.target.name, input: this.target.write(small), wrong }
  }
}

function text(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

function hash(name: string): number {
  let value = 0
  for (const letter of name) value = (Math.imul(value, 31) + letter.charCodeAt(0)) | 0
  return value
}
