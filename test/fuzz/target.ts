/** What is fuzzed: a maker of inputs, and a check that throws when an input does what nothing may do. */
import { isDeepStrictEqual } from 'node:util'
import type { Random } from './random.ts'

export interface Target<I> {
  readonly name: string
  /** What one input is, in the plural. */
  readonly unit: string
  /** A new input; `corpus` has inputs that were of interest before. */
  make(random: Random, corpus: readonly I[]): I
  /** Throws for a find. Returns what the input led to, in a few words: inputs with new words are kept. */
  run(input: I): string | Promise<string>
  /** Inputs that are a little simpler, the simplest first; for shrinking. */
  smaller(input: I): Iterable<I>
  /** What a long run has to say beside what it found. */
  readonly summary?: string
  /** As JSON, and back. */
  write(input: I): unknown
  read(json: never): I
}

/** Throws with both sides unless two values say the same. */
export function same(actual: unknown, expected: unknown, what: string): void {
  const left = JSON.stringify(actual)
  const right = JSON.stringify(expected)
  if (left !== right && isDeepStrictEqual(actual, expected)) return
  if (left !== right) throw new Error(`${what}:\n  is     ${left}\n  not as ${right}`)
}

/** Shorter lists: without a half, a quarter, ... one. */
export function* shorter<T>(list: readonly T[]): Generator<T[]> {
  for (let size = list.length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at + size <= list.length; at += size) {
      yield [...list.slice(0, at), ...list.slice(at + size)]
    }
  }
}

export function* shorterBytes(bytes: Buffer): Generator<Buffer> {
  for (const each of shorter([...bytes])) yield Buffer.from(each)
  for (let at = 0; at < bytes.length; at++) {
    if (bytes[at] === 0) continue
    const copy = Buffer.from(bytes)
    copy[at] = 0
    yield copy
  }
}

/** The simplest input that still fails, as far as `tries` runs find it. */
export async function shrunk<I>(target: Target<I>, input: I, tries: number): Promise<I> {
  let best = input
  let left = tries
  for (let progress = true; progress && left > 0; ) {
    progress = false
    for (const candidate of target.smaller(best)) {
      if (left-- <= 0) break
      if (!(await fails(target, candidate))) continue
      best = candidate
      progress = true
      break
    }
  }
  return best
}

async function fails<I>(target: Target<I>, input: I): Promise<boolean> {
  try {
    await target.run(input)
    return false
  } catch {
    return true
  }
}
