/**
 * Runs commands for all that match a pattern. They work in slices, so that the broker serves others in
 * between.
 */
import { setImmediate } from 'node:timers/promises'
import type { Inventory, Steps } from '../broker/inventory.ts'

/** Entries that are looked at before other work gets its turn. */
const SLICE_STEPS = 256

/** Most names that the answer lists. */
const NAMED_MAX = 5

/** The answer to a command for all that match. */
export interface Matches {
  readonly count: number
  /** The first names. */
  readonly names: readonly string[]
  /** Sessions whose clients were connected. */
  readonly connected: number
  /** Messages that were waiting in the Sessions. */
  readonly messages: number
}

/** One matching entry. */
export interface Match {
  readonly name: string
  /** Its client is disconnected and may be back before the command ends. */
  readonly mayComeBack?: boolean
  readonly isConnected?: boolean
  readonly queuedMessages?: number
  readonly inFlightMessages?: number
}

/**
 * Counts all that match and, with `take`, takes each away; `take` returns false for an entry that is
 * already gone. An entry that comes back is not taken again, or clients that reconnect at once would keep
 * the command from ending. Resolves once everything is durable. `expectAvailable` throws while nothing can
 * be taken away.
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
