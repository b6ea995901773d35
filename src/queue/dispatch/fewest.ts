/**
 * HOT. The open members of a queue, by how much they hold: the next message goes to the one that holds
 * least, and of several to the one that was served longest ago.
 */
import type { Entry, Member } from '../state/consumer.ts'

/** Members with the same load, the one served longest ago first. */
class Bucket {
  first: Member | null = null
  last: Member | null = null
}

export class Fewest {
  readonly #buckets: Bucket[] = []
  /** No bucket below this one has members. */
  #lowest = 0
  size = 0

  add(member: Member): void {
    const load = member.used
    while (this.#buckets.length <= load) this.#buckets.push(new Bucket())
    const bucket = this.#buckets[load]!
    let before = bucket.last
    while (before !== null && before.servedAt > member.servedAt) before = before.before
    member.load = load
    member.before = before
    member.after = before === null ? bucket.first : before.after
    if (member.after === null) bucket.last = member
    else member.after.before = member
    if (before === null) bucket.first = member
    else before.after = member
    if (load < this.#lowest) this.#lowest = load
    this.size++
  }

  remove(member: Member): void {
    const { before, after } = member
    const bucket = this.#buckets[member.load]!
    if (before === null) bucket.first = after
    else before.after = after
    if (after === null) bucket.last = before
    else after.before = before
    member.before = null
    member.after = null
    this.size--
  }

  update(member: Member): void {
    this.remove(member)
    this.add(member)
  }

  /** Returns the one that is to have this entry; null if none may. */
  choose(entry: Entry): Member | null {
    if (this.size === 0) return null
    while (this.#buckets[this.#lowest]!.first === null) this.#lowest++
    if (entry.blocks === null) return this.#buckets[this.#lowest]!.first
    for (let load = this.#lowest; load < this.#buckets.length; load++) {
      for (let one = this.#buckets[load]!.first; one !== null; one = one.after) {
        if (!entry.isBlockedFor(one)) return one
      }
    }
    return null
  }

  get bytesHeld(): number {
    return 40 * this.#buckets.length
  }
}
