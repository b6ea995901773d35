/** Everything that is fuzzed. */
import { codec } from './codec.ts'
import { costInTime, costInUnits } from './cost.ts'
import { framing } from './framing.ts'
import { queue } from './queue.ts'
import { session } from './session.ts'
import type { Target } from './target.ts'
import { topics } from './topics.ts'

/** The share of the time that each gets in a long run, and how many inputs of it a short run has. */
export interface Plan {
  // biome-ignore lint/suspicious/noExplicitAny: a campaign makes, runs and writes inputs of its target alone.
  readonly target: Target<any>
  readonly share: number
  readonly shortRun: number
  /**
   * A short run keeps at least this many inputs; it keeps one if all inputs seem to lead to the same. The
   * fewest seen were 580, 239, 270, 549 and 8, in the order of this table.
   */
  readonly keptMin: number
  /** The same, judged more severely: for long runs. */
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  readonly long?: Target<any>
}

export const PLANS: readonly Plan[] = [
  { target: framing, share: 2, shortRun: 4000, keptMin: 400 },
  { target: codec, share: 3, shortRun: 8000, keptMin: 150 },
  { target: session, share: 6, shortRun: 400, keptMin: 150 },
  { target: queue, share: 3, shortRun: 1000, keptMin: 300 },
  { target: topics, share: 1, shortRun: 3000, keptMin: 350 },
  { target: costInUnits, share: 2, shortRun: 40, keptMin: 2, long: costInTime },
]
