/**
 * The dispatch `key`: at most `window` messages of a key are under way at once, and all of them with the
 * same member. So order per key holds without partitions, while members come and go.
 *
 * A message is under way while it has an entry that does not wait: from its hand-out until it is settled or
 * dead, also while it is deferred.
 */
import type { Message } from '../../mqtt/message.ts'
import { type Entry, type Member, State } from '../state/consumer.ts'
import type { Dispatch, DispatchContext } from './dispatch.ts'
import { Fewest } from './fewest.ts'

/** Memory of a key, without its name. */
const KEY_BYTES = 200
/** Entries that have left are removed from a list when there are more than this, and more than half. */
const VACANT_MAX = 16

/** A key that has entries. */
class Key {
  readonly name: string
  /** Entries that do not wait. */
  underWay = 0
  /** The member of each hand-out that is under way. */
  readonly holders: Member[] = []
  /** In order of sequence; some may have left. */
  waiting: Entry[] = []
  /** How many of them still wait. */
  waitingCount = 0

  constructor(name: string) {
    this.name = name
  }

  /** The member that gets all further ones: it is connected and has some of them. Null if there is none. */
  get holder(): Member | null {
    const { holders } = this
    for (let at = 0; at < holders.length; at++) if (holders[at]!.isOnline) return holders[at]!
    return null
  }
}

export class ByKey implements Dispatch {
  readonly isStrict = false
  readonly active = null
  readonly needsMessages = true
  readonly #context: DispatchContext
  readonly #keyOf: (message: Message) => string
  readonly #window: number
  readonly #open = new Fewest()
  readonly #keys = new Map<string, Key>()
  #nameBytes = 0
  /** Keys with messages that wait only until their holder is open. */
  readonly #stalled = new Map<Member, Set<Key>>()

  constructor(context: DispatchContext, keyOf: (message: Message) => string, window: number) {
    this.#context = context
    this.#keyOf = keyOf
    this.#window = window
  }

  get hasOpen(): boolean {
    return this.#open.size > 0
  }

  present(member: Member): void {
    if (!member.isOnline) this.#unstall(member)
  }

  open(member: Member): void {
    this.#open.add(member)
    this.#unstall(member)
  }

  close(member: Member): void {
    this.#open.remove(member)
  }

  loadChanged(member: Member): void {
    this.#open.update(member)
  }

  pick(entry: Entry): Member | null {
    const { holder } = entry.key as Key
    if (holder === null) return this.#open.choose(entry)
    return holder.isOpen && !entry.isBlockedFor(holder) ? holder : null
  }

  admit(entry: Entry, message: Message): boolean {
    const key = this.#keyFor(this.#keyOf(message))
    entry.key = key
    // An entry that a member has, or that is deferred, is under way even if the window is full.
    if (entry.state === State.Ready && (key.waitingCount > 0 || key.underWay >= this.#window)) {
      this.#wait(key, entry)
      return false
    }
    key.underWay++
    if (entry.handle !== null) this.given(entry, entry.handle.member)
    return true
  }

  keep(entry: Entry): boolean {
    const key = entry.key as Key
    const { holder } = key
    if (holder === null || holder.isOpen) return false
    key.underWay--
    this.#wait(key, entry)
    this.#stall(holder, key)
    return true
  }

  given(entry: Entry, member: Member): void {
    const { holders } = entry.key as Key
    holders.push(member)
  }

  returned(entry: Entry, member: Member): void {
    const key = entry.key as Key | null
    if (key === null) return
    const { holders } = key
    const at = holders.indexOf(member)
    if (at !== -1) holders.splice(at, 1)
    this.#advance(key)
  }

  left(entry: Entry): void {
    const key = entry.key as Key | null
    if (key === null) return
    entry.key = null
    if (entry.state === State.Waiting) this.#leftWaiting(key)
    else key.underWay--
    this.#advance(key)
  }

  #keyFor(name: string): Key {
    const known = this.#keys.get(name)
    if (known !== undefined) return known
    const key = new Key(name)
    this.#keys.set(name, key)
    this.#nameBytes += name.length
    return key
  }

  /** Adds an entry in order of sequence: mostly at the end, before others if it came back. */
  #wait(key: Key, entry: Entry): void {
    const { waiting } = key
    let at = waiting.length
    while (at > 0 && isAfter(waiting[at - 1]!, entry)) at--
    if (at === waiting.length) waiting.push(entry)
    else waiting.splice(at, 0, entry)
    key.waitingCount++
  }

  #leftWaiting(key: Key): void {
    key.waitingCount--
    const vacant = key.waiting.length - key.waitingCount
    if (vacant > VACANT_MAX && vacant > key.waitingCount) {
      key.waiting = key.waiting.filter((entry) => entry.key === key && entry.state === State.Waiting)
    }
  }

  /** Makes entries ready as far as the window allows. Forgets a key without messages. */
  #advance(key: Key): void {
    while (key.waitingCount > 0 && key.underWay < this.#window) {
      const { holder } = key
      if (holder !== null && !holder.isOpen) {
        this.#stall(holder, key)
        return
      }
      const entry = key.waiting.shift()!
      if (entry.key !== key || entry.state !== State.Waiting) continue
      key.waitingCount--
      key.underWay++
      this.#context.ready(entry)
    }
    if (key.waitingCount > 0 || key.underWay > 0) return
    this.#keys.delete(key.name)
    this.#nameBytes -= key.name.length
  }

  #stall(holder: Member, key: Key): void {
    const keys = this.#stalled.get(holder)
    if (keys === undefined) this.#stalled.set(holder, new Set([key]))
    else keys.add(key)
  }

  #unstall(member: Member): void {
    const keys = this.#stalled.get(member)
    if (keys === undefined) return
    this.#stalled.delete(member)
    for (const key of keys) this.#advance(key)
  }

  get bytesHeld(): number {
    return this.#open.bytesHeld + KEY_BYTES * this.#keys.size + 2 * this.#nameBytes
  }
}

function isAfter(one: Entry, other: Entry): boolean {
  return one.lane === other.lane && one.sequence > other.sequence
}
