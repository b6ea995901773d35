/**
 * Where the bodies of stored messages are, who still needs them, and which of them are in memory.
 *
 * A body lies once in a journal page, however many Sessions refer to it. A page whose bodies are all dead can be
 * deleted as soon as the journal's scan does not need it any more (`release`); one that is nearly empty can have the
 * rest of its bodies moved. A moved body keeps its first location as its name in journal and checkpoints: a
 * *forward*, stored under the page that it left, says where it is now. So no Session has to be written anew when
 * a body moves, and a forward lives exactly as long as its body.
 */
import type { Message } from '../mqtt/message.ts'
import type { StoreFigures } from './store.ts'

/** What a body takes in its page beside topic, properties and payload, about. */
const BODY_OVERHEAD_BYTES = 24
/** A released page with less than this share of live bytes is worth rewriting. */
const SPARSE_SHARE = 0.25

/** A journal page as the index knows it. */
export class Page {
  readonly number: number
  /** The sequence number of its block; 0 when it was not read since the start. */
  readonly sequence: number
  /** All that the store had written when its block was begun; see `release`. */
  readonly writtenBefore: number
  /** Size of the stored value. */
  bytes = 0
  liveBytes = 0
  /** Below the journal's scan: may be deleted once nothing in it is alive. */
  released = false
  /** Already among `Bodies.dead`. */
  buried = false
  /** Chain of the bodies that lie here, dead ones included. */
  first: StoredBody | null = null

  constructor(number: number, sequence: number, writtenBefore: number) {
    this.number = number
    this.sequence = sequence
    this.writtenBefore = writtenBefore
  }
}

/** `Message.stored`: where a body is, and how many deliveries refer to it. */
export class StoredBody {
  /** Where it can be read. */
  page: Page
  offset: number
  refs = 0
  /** Next body of the same page. */
  next: StoredBody | null
  forward: Forward | null = null
  /** Never evicted: the retained tree may hold the same Message. */
  readonly pinned: boolean

  constructor(page: Page, offset: number, pinned: boolean) {
    this.page = page
    this.offset = offset
    this.pinned = pinned
    this.next = page.first
    page.first = this
  }

  /** The page that names it in journal and checkpoints. */
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
  /** Where it is once the block that moves it is durable. */
  page: Page
  offset: number
}

/** The moved bodies of one page that was left. */
export interface ForwardGroup {
  readonly page: number
  /** By name offset. */
  readonly forwards: Map<number, Forward>
}

const DEAD = -1

export class Bodies {
  readonly pages = new Map<number, Page>()
  readonly groups = new Map<number, ForwardGroup>()
  /** Groups whose stored value is to be written or deleted. */
  readonly changedGroups = new Set<ForwardGroup>()
  /** Released pages without a live body, to be deleted. */
  dead: Page[] = []
  /** Released pages that are nearly empty. */
  readonly sparse = new Set<Page>()
  readonly #figures: StoreFigures
  /** Nobody refers to them now; whether that is final shows when the block is sealed. */
  #dying: Message[] = []

  constructor(figures: StoreFigures) {
    this.#figures = figures
  }

  addPage(page: Page): void {
    this.pages.set(page.number, page)
  }

  /** The handle of a message, or null when its body is not in this store (any more). */
  handle(message: Message): StoredBody | null {
    const body = message.stored
    if (!(body instanceof StoredBody) || body.refs === DEAD) return null
    return this.pages.get(body.page.number) === body.page ? body : null
  }

  /** Notes that the message's body now lies at this place. It has no reference yet. */
  place(message: Message, page: Page, offset: number, pinned: boolean): StoredBody {
    const body = new StoredBody(page, offset, pinned)
    message.stored = body
    page.liveBytes += message.size + BODY_OVERHEAD_BYTES
    this.#figures.storedBytes += message.size
    if (!message.evicted) this.#figures.residentBytes += message.size
    return body
  }

  /** A delivery does not need the message any more. */
  release(message: Message): void {
    const body = this.handle(message)
    if (body === null || body.refs === 0) throw new Error('a message that is not stored was completed')
    if (--body.refs === 0) this.#dying.push(message)
  }

  /**
   * Buries what nobody took up again since. Waiting for this lets a turn hand a message from one Session to
   * another in either order.
   */
  bury(): void {
    const dying = this.#dying
    if (dying.length === 0) return
    this.#dying = []
    for (const message of dying) {
      const body = this.handle(message)
      if (body !== null && body.refs === 0) this.#died(message, body)
    }
  }

  evict(message: Message): void {
    const body = this.handle(message)
    if (body === null || body.pinned || body.refs === 0 || message.evicted) return
    message.evict()
    this.#figures.residentBytes -= message.size
  }

  restored(message: Message): void {
    this.#figures.residentBytes += message.size
  }

  /** The journal's scan begins after this page from now on. */
  pageReleased(page: Page): void {
    page.released = true
    this.#weigh(page)
  }

  /** Bodies of a page that are alive. */
  *living(page: Page): Generator<StoredBody> {
    for (let body = page.first; body !== null; body = body.next) {
      if (body.refs > 0 && body.page === page) yield body
    }
  }

  /** The body's copy at `page`, `offset` is part of the open block. */
  moving(body: StoredBody, page: Page, offset: number): void {
    if (body.forward === null) {
      const number = body.page.number
      const group = this.groups.get(number) ?? { page: number, forwards: new Map<number, Forward>() }
      this.groups.set(number, group)
      body.forward = { group, nameOffset: body.offset, page, offset }
      group.forwards.set(body.offset, body.forward)
    } else {
      body.forward.page = page
      body.forward.offset = offset
    }
    this.changedGroups.add(body.forward.group)
  }

  /** The copy is durable: it is read from there now. `bytes` is its size in the page. */
  moved(from: Page, bodies: readonly StoredBody[], sizes: readonly number[]): void {
    from.first = null
    for (const [index, body] of bodies.entries()) {
      const forward = body.forward
      if (body.refs === DEAD || forward === null) continue
      body.page = forward.page
      body.offset = forward.offset
      body.next = body.page.first
      body.page.first = body
      const bytes = sizes[index]! + BODY_OVERHEAD_BYTES
      from.liveBytes -= bytes
      body.page.liveBytes += bytes
    }
    this.#weigh(from)
  }

  #died(message: Message, body: StoredBody): void {
    body.refs = DEAD
    message.stored = null
    this.#figures.storedBytes -= message.size
    if (!message.evicted) this.#figures.residentBytes -= message.size
    const page = body.page
    page.liveBytes -= message.size + BODY_OVERHEAD_BYTES
    if (body.forward !== null) {
      const group = body.forward.group
      group.forwards.delete(body.forward.nameOffset)
      this.changedGroups.add(group)
    }
    if (page.released) this.#weigh(page)
  }

  #weigh(page: Page): void {
    if (page.buried) return
    if (page.liveBytes === 0) {
      page.buried = true
      this.sparse.delete(page)
      page.first = null
      this.dead.push(page)
    } else if (page.liveBytes < page.bytes * SPARSE_SHARE) {
      this.sparse.add(page)
    }
  }
}
