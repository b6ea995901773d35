/**
 * HOT. Remembers in fixed memory which part of the topic tree changed when, so that a cached Route is given up only
 * when a filter changed that could match its topic. It errs to one side: a topic that was touched is always
 * reported; one that was not is reported rarely, when two hashes fall into the same slot.
 *
 * A change is noted under one anchor, the most that a filter demands of the beginning of a topic:
 *   `a/b`      the whole filter           `a/b/#`, `a/b/+`, `a/b/+/+`   the literal levels before the wildcard
 *   `a/+/c/#`  the literal levels and the literal level behind one `+`
 * A topic is then touched when one of its own anchors is.
 */
import { HASH, PLUS, SLASH } from './filter.ts'

/** Anchors share this many slots: half a MiB, touched only as far as it is used. */
const SLOTS = 65_536
// FNV-1a over UTF-16 units.
const SEED = 0x811c9dc5
const PRIME = 0x01000193

export class Changes {
  /** Changes so far; the time by which Routes are dated. */
  count = 0
  readonly #changedAt = new Float64Array(SLOTS)

  /** Notes that Subscriptions to this filter (not a shared one) have changed. */
  record(filter: string): void {
    this.count++
    this.#changedAt[slot(anchor(filter))] = this.count
  }

  /** Whether a filter that matches this topic name may have changed after `count` stood at `since`. */
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
      if (levels > 0 && changedAt[slot(behindPlus(before, level))]! > since) return true
      levels++
      before = start
      start = path
      level = SEED
    }
    if (changedAt[slot(path)]! > since) return true
    if (levels > 0 && changedAt[slot(behindPlus(before, level))]! > since) return true
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
  return behindPlus(path, level)
}

function behindPlus(path: number, level: number): number {
  return Math.imul(path ^ PLUS, PRIME) ^ Math.imul(level, SEED)
}

function slot(hash: number): number {
  return (hash ^ (hash >>> 16)) & (SLOTS - 1)
}
