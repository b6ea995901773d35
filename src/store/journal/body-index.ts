/**
 * HOT. An index of the bodies of stored messages: where each is, how many deliveries need it, and which of
 * them are in memory.
 *
 * A body is stored once, in a journal page, however many Sessions refer to it. A page whose bodies are all
 * dead can be deleted once the journal's scan no longer needs it (`pageReleased`). The last bodies of a page
 * that is nearly empty can be moved. The journal and checkpoints go on naming a moved body by its first
 * place. A *forward*, stored under the page that the body left, says where it is now. So no Session is
 * written again when a body moves, and a forward lives exactly as long as its body.
 *
 * A body with a Message in memory has a StoredBody in its page's chain, which counts the deliveries in
 * memory. Parked queue entries are counted in the page's `parked`. A body is alive while either count is
 * above 0.
 */
import { Message, type MessageFields, NO_TOPIC } from '../../mqtt/message.ts'
import type { EntryFields } from '../format/entry.ts'
import { corrupt, LOSS } from '../format/format.ts'
import { PageTimes } from '../format/time-record.ts'
import type { HeldBytes } from '../held-bytes.ts'
import type { StoreFigures } from '../store.ts'
import { ReferenceCounts } from './reference-counts.ts'

/** Bytes that a body takes in its page besides topic, properties and payload, about. */
const BODY_OVERHEAD_BYTES = 24
/** Memory of a queued message besides its bytes, measured: Message, Delivery, StoredBody, Buffers. */
const RESIDENT_BYTES = 480
/** Memory of a queued message whose body is on disk only: Message, Delivery, StoredBody. */
const EVICTED_BYTES = 320
/** A released page with less than this share of live bytes is worth rewriting. */
const SPARSE_SHARE = 0.25
/** Pages and bodies that one search for bodies to evict may look at. It takes some milliseconds. */
const EVICTION_STEPS = 50_000
const EMPTY = Buffer.alloc(0)

/** A journal page in the index. */
export class Page {
  readonly number: number
  /** The sequence number of its block; 0 if it was not read since the start. */
  readonly sequence: number
  /** The bytes that the store had written when the block was begun; see `PageCollector`. */
  readonly writtenBefore: number
  /** Size of the stored value. */
  bytes = 0
  liveBytes = 0
  /** True below the journal's scan: the page may be deleted once nothing in it is alive. */
  released = false
  /** True once it was added to `BodyIndex.dead`. */
  collected = false
  /** Chain of the bodies in this page that have a Message. */
  first: StoredBody | null = null
  /** Counts of the parked entries that refer to each body, by its offset here; null before the first. */
  parked: ReferenceCounts | null = null
  /** Bodies that moved here from other pages, by their offset here; null before the first. */
  movedIn: Map<number, Forward> | null = null

  constructor(number: number, sequence: number, writtenBefore: number) {
    this.number = number
    this.sequence = sequence
    this.writtenBefore = writtenBefore
  }
}

/** The value of `Message.stored`: where the body is, and how many deliveries in memory refer to it. */
export class StoredBody {
  readonly message: Message
  /** The place where it can be read. */
  page: Page
  offset: number
  refs = 0
  /** Neighbours in the page's chain. */
  next: StoredBody | null = null
  previous: StoredBody | null = null
  forward: Forward | null
  /** True if it must not be evicted: the retained tree may hold the same Message. */
  readonly pinned: boolean

  constructor(message: Message, page: Page, offset: number, forward: Forward | null, pinned: boolean) {
    this.message = message
    this.page = page
    this.offset = offset
    this.forward = forward
    this.pinned = pinned
  }

  /** The page that names it in the journal and in checkpoints. */
  get namePage(): number {
    return this.forward === null ? this.page.number : this.forward.group.page
  }

  get nameOffset(): number {
    return this.forward === null ? this.offset : this.forward.nameOffset
  }
}

/** One moved body. */
export interface Forward {
  readonly group: ForwardGroup
  readonly nameOffset: number
  /** The place where it can be read. */
  page: Page
  offset: number
  /** Its place once the block that moves it again is durable; null while none does. */
  nextPage: Page | null
  nextOffset: number
}

/** The bodies that moved out of one page. */
export interface ForwardGroup {
  readonly page: number
  /** By name offset. */
  readonly forwards: Map<number, Forward>
}

/** The `refs` of a StoredBody that is no longer in use. */
const DEAD = -1

export class BodyIndex {
  readonly pages = new Map<number, Page>()
  readonly groups = new Map<number, ForwardGroup>()
  /** Groups whose stored value must be written or deleted. */
  readonly changedGroups = new Set<ForwardGroup>()
  /** Released pages without a live body, which can be deleted. */
  dead: Page[] = []
  /** Released pages that are nearly empty. */
  readonly sparse = new Set<Page>()
  /** How much later messages expire than their bodies say. */
  readonly times = new PageTimes()
  readonly #figures: StoreFigures
  readonly #held: HeldBytes
  /** Bodies that no delivery in memory refers to. They may be taken up again until the block is sealed. */
  #unreferenced: StoredBody[] = []

  constructor(figures: StoreFigures, held: HeldBytes) {
    this.#figures = figures
    this.#held = held
  }

  addPage(page: Page): void {
    this.pages.set(page.number, page)
  }

  /** Returns the handle of a message, or null if its body is not or no longer in this store. */
  handle(message: Message): StoredBody | null {
    const body = message.stored
    if (!(body instanceof StoredBody) || body.refs === DEAD) return null
    return this.pages.get(body.page.number) === body.page ? body : null
  }

  /** Notes that the message's body is stored at this place. It has no reference yet. */
  place(message: Message, page: Page, offset: number, pinned: boolean): StoredBody {
    const body = new StoredBody(message, page, offset, null, pinned)
    this.#held.stored(message)
    message.stored = body
    link(page, body)
    this.#born(page, message.size)
    this.#count(message, 1)
    return body
  }

  /** Removes the reference of a delivery that is finished. */
  release(message: Message): void {
    const body = this.handle(message)
    if (body === null || body.refs === 0) throw new Error('a message that is not stored was completed')
    if (--body.refs === 0) this.#unreferenced.push(body)
  }

  /**
   * Lets go of the Messages that are still unreferenced. Their bodies are dead unless parked entries need
   * them. This waits for the end of the block, so a turn may hand a message from one Session to another in
   * either order.
   */
  collectDead(): void {
    const unreferenced = this.#unreferenced
    if (unreferenced.length === 0) return
    this.#unreferenced = []
    for (const body of unreferenced) {
      if (body.refs !== 0) continue
      const { message, page, offset, forward } = body
      body.refs = DEAD
      message.stored = null
      this.#held.unstored(message)
      unlink(body)
      this.#count(message, -1)
      if (page.parked === null || page.parked.count(offset) === 0) this.#died(page, message.size, forward)
    }
  }

  /**
   * Drops a body from memory if no delivery needs it there and it can be read back. Blocks up to the sequence
   * number `durable` are on disk. A body that died and was stored again may be in a later one.
   */
  evict(message: Message, durable: number): void {
    if (message.evicted || message.holders > 0) return
    const body = this.handle(message)
    if (body === null || body.pinned || body.refs === 0 || body.page.sequence > durable) return
    this.#count(message, -1)
    message.evict()
    this.#count(message, 1)
  }

  /**
   * Evicts bodies, those of the oldest pages first, until `bytes` are freed or its bounded search ends.
   * Returns the bytes that were freed.
   */
  evictOldest(bytes: number, durable: number): number {
    const before = this.#figures.residentBytes
    let left = EVICTION_STEPS
    for (const page of this.pages.values()) {
      for (let body = page.first; body !== null; body = body.next) {
        this.evict(body.message, durable)
        if (--left === 0 || before - this.#figures.residentBytes >= bytes) {
          return before - this.#figures.residentBytes
        }
      }
      if (--left <= 0) break
    }
    return before - this.#figures.residentBytes
  }

  /** Notes that the body of an evicted message was read back. */
  restored(message: Message): void {
    this.#figures.entryBytes -= EVICTED_BYTES
    this.#figures.residentBytes += message.size + RESIDENT_BYTES
  }

  /** Adds the memory of a message to the figures, or takes it off (-1). */
  #count(message: Message, sign: 1 | -1): void {
    if (message.evicted) this.#figures.entryBytes += sign * EVICTED_BYTES
    else this.#figures.residentBytes += sign * (message.size + RESIDENT_BYTES)
  }

  // ── parked entries ─────────────────────────────────────────────────────────────────────────────────────

  /** Turns the reference of a delivery into that of a parked entry, which the page counts. */
  park(body: StoredBody): void {
    referenceCounts(body.page).add(body.offset, 1)
    if (--body.refs === 0) this.#unreferenced.push(body)
  }

  /**
   * Turns the reference of a parked entry into that of a delivery. Returns the Message of the body, which is
   * evicted unless another delivery has it.
   */
  unpark(entry: EntryFields): Message {
    const body = this.#body(entry)
    body.refs++
    body.page.parked!.take(body.offset, 1)
    return body.message
  }

  /**
   * Returns the Message of an entry that stays parked. It is valid until the open block is sealed, or while
   * it is being restored.
   */
  peek(entry: EntryFields): Message {
    const body = this.#body(entry)
    if (body.refs === 0) this.#unreferenced.push(body)
    return body.message
  }

  /** Removes the reference of a parked entry. */
  releaseParked(entry: EntryFields): void {
    const forward = this.#forward(entry)
    const page = this.#page(entry, forward)
    const offset = forward === undefined ? entry.offset : forward.offset
    if (page.parked!.take(offset, 1) > 0 || find(page, offset) !== null) return
    this.#died(page, entry.size, forward ?? null)
  }

  /** Adds the reference of a parked entry during recovery. Throws StoreError if its body is missing. */
  recoverParked(entry: EntryFields): void {
    const forward = this.#forward(entry)
    const page = this.#page(entry, forward)
    const offset = forward === undefined ? entry.offset : forward.offset
    const parked = referenceCounts(page)
    const size = parked.size
    parked.add(offset, 1)
    if (parked.size > size) this.#born(page, entry.size)
  }

  /**
   * Ends a recovery, after `recoverParked` of all entries: connects forwards with their pages, and drops
   * those whose body is dead.
   */
  recoverForwards(): void {
    for (const group of this.groups.values()) {
      for (const [nameOffset, forward] of group.forwards) {
        const page = this.pages.get(forward.page.number)
        if (page !== undefined && this.isAlive(page, forward.offset)) {
          forward.page = page
          page.movedIn ??= new Map()
          page.movedIn.set(forward.offset, forward)
          continue
        }
        // Its body died in the last block before a crash.
        group.forwards.delete(nameOffset)
        this.changedGroups.add(group)
      }
    }
  }

  /** Returns whether any delivery or parked entry needs the body at this place. */
  isAlive(page: Page, offset: number): boolean {
    return (page.parked !== null && page.parked.count(offset) > 0) || find(page, offset) !== null
  }

  /** Returns the lowest number of a page that names a body. */
  oldestName(): number {
    let oldest = Number.POSITIVE_INFINITY
    for (const page of this.pages.keys()) if (page < oldest) oldest = page
    for (const page of this.groups.keys()) if (page < oldest) oldest = page
    return oldest
  }

  // ── pages ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Notes that the journal's scan begins after this page from now on. */
  pageReleased(page: Page): void {
    page.released = true
    this.#weigh(page)
  }

  /** Returns the offsets of a page's bodies that are alive. */
  living(page: Page): number[] {
    const offsets = new Set<number>()
    for (let body = page.first; body !== null; body = body.next) offsets.add(body.offset)
    if (page.parked !== null) {
      for (let index = 0; index < page.parked.size; index++) offsets.add(page.parked.offsetAt(index))
    }
    return [...offsets]
  }

  /** Notes that the open block has a copy of the body at `from`, `offset`. */
  moving(from: Page, offset: number, nextPage: Page, nextOffset: number): Forward {
    let forward = from.movedIn?.get(offset)
    if (forward === undefined) {
      const group = this.groups.get(from.number) ?? {
        page: from.number,
        forwards: new Map<number, Forward>(),
      }
      this.groups.set(from.number, group)
      forward = { group, nameOffset: offset, page: from, offset, nextPage, nextOffset }
      group.forwards.set(offset, forward)
      const body = find(from, offset)
      if (body !== null) body.forward = forward
      from.movedIn ??= new Map()
      from.movedIn.set(offset, forward)
    } else {
      forward.nextPage = nextPage
      forward.nextOffset = nextOffset
    }
    this.changedGroups.add(forward.group)
    return forward
  }

  /** Reads the copies from now on, since they are durable. `sizes` are those of the bodies in their page. */
  moved(from: Page, forwards: readonly Forward[], sizes: readonly number[]): void {
    for (const [index, forward] of forwards.entries()) {
      const { nextPage: page, nextOffset, offset, group, nameOffset } = forward
      if (page === null || group.forwards.get(nameOffset) !== forward) continue
      forward.nextPage = null
      forward.page = page
      forward.offset = nextOffset
      from.movedIn?.delete(offset)
      page.movedIn ??= new Map()
      page.movedIn.set(nextOffset, forward)
      const body = find(from, offset)
      if (body !== null) {
        unlink(body)
        body.page = page
        body.offset = nextOffset
        link(page, body)
      }
      const count = from.parked?.count(offset) ?? 0
      if (count > 0) {
        from.parked!.take(offset, count)
        referenceCounts(page).add(nextOffset, count)
      }
      const bytes = sizes[index]! + BODY_OVERHEAD_BYTES
      from.liveBytes -= bytes
      page.liveBytes += bytes
    }
    this.#weigh(from)
  }

  /** Returns the StoredBody of an entry's body. A new one has an evicted Message and no reference. */
  #body(entry: EntryFields): StoredBody {
    const forward = this.#forward(entry)
    const page = this.#page(entry, forward)
    const offset = forward === undefined ? entry.offset : forward.offset
    const known = find(page, offset)
    if (known !== null) return known
    const fields: MessageFields = {
      topic: NO_TOPIC,
      payload: EMPTY,
      qos: entry.messageQoS,
      retain: entry.messageRetain,
      expiresAt: entry.expiresAt,
      publisher: '',
    }
    const body = new StoredBody(Message.of(fields, entry.size), page, offset, forward ?? null, false)
    body.message.stored = body
    link(page, body)
    this.#count(body.message, 1)
    return body
  }

  #forward(entry: EntryFields): Forward | undefined {
    return this.groups.size === 0 ? undefined : this.groups.get(entry.page)?.forwards.get(entry.offset)
  }

  #page(entry: EntryFields, forward: Forward | undefined): Page {
    const page = this.pages.get(forward === undefined ? entry.page : forward.page.number)
    if (page === undefined) throw corrupt('the body of a queued message is missing', LOSS.messages)
    return page
  }

  #born(page: Page, size: number): void {
    page.liveBytes += size + BODY_OVERHEAD_BYTES
    this.#figures.storedBytes += size
  }

  #died(page: Page, size: number, forward: Forward | null): void {
    this.#figures.storedBytes -= size
    page.liveBytes -= size + BODY_OVERHEAD_BYTES
    if (forward !== null) {
      forward.group.forwards.delete(forward.nameOffset)
      forward.page.movedIn?.delete(forward.offset)
      this.changedGroups.add(forward.group)
    }
    if (page.released) this.#weigh(page)
  }

  #weigh(page: Page): void {
    if (page.collected) return
    if (page.liveBytes === 0) {
      page.collected = true
      this.sparse.delete(page)
      this.dead.push(page)
    } else if (page.liveBytes < page.bytes * SPARSE_SHARE) {
      this.sparse.add(page)
    }
  }
}

function referenceCounts(page: Page): ReferenceCounts {
  page.parked ??= new ReferenceCounts()
  return page.parked
}

function find(page: Page, offset: number): StoredBody | null {
  let body = page.first
  while (body !== null && body.offset !== offset) body = body.next
  return body
}

function link(page: Page, body: StoredBody): void {
  body.previous = null
  body.next = page.first
  if (page.first !== null) page.first.previous = body
  page.first = body
}

function unlink(body: StoredBody): void {
  if (body.previous === null) body.page.first = body.next
  else body.previous.next = body.next
  if (body.next !== null) body.next.previous = body.previous
  body.next = null
  body.previous = null
}
