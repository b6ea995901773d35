/** Commands for all that match a pattern: in slices, so that others are served meanwhile, and answered after the commit. */
import { setImmediate } from 'node:timers/promises'
import type { Inventory, Steps } from '../broker/inventory.ts'

/** What is looked at, or taken away, before others are served. */
const SLICE_STEPS = 256

/** How many are named. */
const NAMED_MAX = 5

/** The answer to a command for all that match. */
export interface Matches {
  readonly count: number
  /** Some of them. */
  readonly names: readonly string[]
  /** Of Sessions: those whose clients were connected, and messages that were waiting. */
  readonly connected: number
  readonly messages: number
}

/** One of them: its name, and what it is about. */
export interface Match {
  readonly name: string
  /** Clients of these are told to leave, and may be back before the command has ended. */
  readonly mayComeBack?: boolean
  readonly isConnected?: boolean
  readonly queuedMessages?: number
  readonly inFlightMessages?: number
}

/**
 * Goes through all that match, with `take` taking each away (false when it had gone meanwhile); without it they are only counted.
 * What comes back meanwhile is not taken again: clients that connect at once would keep the command from ending.
 * Resolves when all of it is durable. `expectAvailable` throws while nothing can be taken away.
 */
export async function processMatches<T>(
  inventory: Inventory,
  steps: Steps<T>,
  found: (entry: T) => Match,
  take: ((entry: T) => boolean) | null,
  expectAvailable: () => void,
): Promise<Matches> {
  let [count, connected, messages] = [0, 0, 0]
  const names: string[] = []
  const taken = new Set<string>()
  let step = 0
  for (const entry of steps) {
    if (entry !== null) {
      const {
        name,
        mayComeBack = false,
        isConnected = false,
        queuedMessages = 0,
        inFlightMessages = 0,
      } = found(entry)
      const isBack = taken.has(name)
      if (!isBack && (take === null || take(entry))) {
        if (mayComeBack && take !== null) taken.add(name)
        count++
        if (isConnected) connected++
        messages += queuedMessages + inFlightMessages
        if (names.length < NAMED_MAX) names.push(name)
      }
    }
    if (++step % SLICE_STEPS !== 0) continue
    if (take !== null && inventory.isBehind) await inventory.settled()
    else await setImmediate()
    if (take !== null) expectAvailable()
  }
  if (take !== null) await inventory.settled()
  return { count, names, connected, messages }
}
