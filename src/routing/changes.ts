/**
 * HOT. Remembers in fixed memory when each part of the topic tree changed, so that a cached Route is
 * dropped only when a filter changed that could match its topic. It errs to one side: a touched topic is
 * always reported; another one rarely, when two hashes share a slot.
 *
 * A change is recorded under one anchor, the most that a filter demands of the beginning of a topic:
 *   `a/b`                          the whole filter
 *   `a/b/#`, `a/b/+`, `a/b/+/+`    the literal levels before the wildcard
 *   `a/+/c/#`                      the literal levels, and the literal level after one `+`
 * A topic is touched when one of its own anchors is.
 */
import { HASH, PLUS, SLASH } from './filter.ts'

/** Slots that anchors share: half a MiB, of which only the used pages take memory. */
const SLOTS = 65_536
// FNV-1a over UTF-16 units.
const SEED = 0x811c9dc5
const PRIME = 0x01000193

export class Changes {
  /** Changes so far; Routes are dated by it. */
  count = 0
  readonly #changedAt = new Float64Array(SLOTS)

  /** Records a change of Subscriptions to this filter (not a shared one). */
  record(filter: string): void {
    this.count++
    this.#changedAt[slot(anchor(filter))] = this.count
  }

  /** Tells whether a filter that matches this topic name may have changed since `count` was `since`. */
  touched(topic: string, since: number): boolean {
    const changedAt = this.#changedAt
    if (changedAt[slot(SEED)]! > since) return true
    let levels = 0
    let path = SEED // of everything up to here
    let before = SEED // `path` at the beginning of the level before this one
    let start = SEED // `path` at the beginning of this level
    let level = SEED // of this level alone
    for (let at = 0; at < topic.length; at++) {
      const char = topic.charCodeAt(at)
      path = Math.imul(path ^ char, PRIME)
      if (char !== SLASH) {
        level = Math.imul(level ^ char, PRIME)
        continue
      }
      if (changedAt[slot(path)]! > since) return true
      if (levels > 0 && changedAt[slot(afterPlus(before, level))]! > since) return true
      levels++
      before = start
      start = path
      level = SEED
    }
    if (changedAt[slot(path)]! > since) return true
    if (levels > 0 && changedAt[slot(afterPlus(before, level))]! > since) return true
    // `a/#` also matches `a`, and has its anchor at `a/`.
    return changedAt[slot(Math.imul(path ^ SLASH, PRIME))]! > since
  }
}

function anchor(filter: string): number {
  let path = SEED
  for (let at = 0; at < filter.length; at++) {
    const char = filter.charCodeAt(at)
    if (char === HASH) return path
    if (char === PLUS) return anchorFromPlus(filter, at, path)
    path = Math.imul(path ^ char, PRIME)
  }
  return path
}

function anchorFromPlus(filter: string, plus: number, path: number): number {
  const next = filter.charCodeAt(plus + 2)
  if (plus + 1 >= filter.length || next === PLUS || next === HASH) return path
  let level = SEED
  for (let at = plus + 2; at < filter.length && filter.charCodeAt(at) !== SLASH; at++) {
    level = Math.imul(level ^ filter.charCodeAt(at), PRIME)
  }
  return afterPlus(path, level)
}

function afterPlus(path: number, level: number): number {
  return Math.imul(path ^ PLUS, PRIME) ^ Math.imul(level, SEED)
}

function slot(hash: number): number {
  return (hash ^ (hash >>> 16)) & (SLOTS - 1)
}
