/** Random numbers that a seed repeats. */
export class Random {
  constructor(seed: number)
  next(): number
  between(from: number, to: number): number
  chance(share: number): boolean
  pick<T>(list: readonly T[]): T
  fork(): Random
}
