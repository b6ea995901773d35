/**
 * HOT. A turn is all packets handled in one pass of the event loop. At its end the store commits its records
 * in one piece, and every connection with output writes once.
 *
 * The work of a turn is bounded: the rest goes on in later turns, in order and round robin. If several
 * clients are active, turns are short, so that nobody waits for long. A client that is alone gets long turns,
 * which cost less per message.
 */

import { NewcomerPace } from './newcomer-pace.ts'
import { TurnMemory } from './turn-memory.ts'
import { SLICE_UNITS, UNITS, type Work } from './work.ts'

/** Bounds of a turn, in units. */
interface Budget {
  /** For one connection. */
  readonly slice: number
  /** For all input. */
  readonly input: number
  /** For all continuations. */
  readonly continued: number
  /** For writing output of earlier turns and of continuations. */
  readonly backlog: number
}

/** For several active clients: about 1 ms for each task, 10 ms for all input, and 5 ms for continuations. */
const SHARED: Budget = {
  slice: SLICE_UNITS,
  input: 10 * SLICE_UNITS,
  continued: 5 * SLICE_UNITS,
  backlog: SLICE_UNITS,
}

/**
 * For one active client, or none: all of it together, with a slice that has just begun, takes 40 ms at most.
 */
const ALONE: Budget = {
  slice: 6 * SLICE_UNITS,
  input: 10 * SLICE_UNITS,
  continued: 6 * SLICE_UNITS,
  backlog: 5 * SLICE_UNITS,
}

/**
 * CONNECTs that are handled in one turn; others of a fleet that comes back at once wait for later turns. Each
 * takes 0.1 to 0.3 ms with sockets, log and store, so active clients wait for them 2 ms at most. If no client
 * is active there may be more, since each turn has its own cost.
 */
const NEWCOMERS_MAX = 32
const NEWCOMERS_BESIDE_OTHERS_MAX = 8

/** Work that writing the output of a turn's input may take at its end. */
const WRITTEN_UNITS_MAX = 6 * SLICE_UNITS

/** A client stays active for this time. */
const ACTIVE_MS = 1000

/** Continuations that take more units are a load: their output is written after that of others. */
const LOAD_UNITS = SLICE_UNITS / 4

/** Connections that may wait without copying what they have read: two reads each, in buffers of 256 KiB. */
const SHORT_MAX = 128

/** Something with output that leaves at the end of the turn. */
export interface Flushable {
  flush(): void
}

/** Runs the turns. */
export class Turn {
  /** Broker time in ms, read once per turn. */
  now: number
  /** Units of work at which a Session stops sending from its queue; see `PacketSender.pumped`. */
  pumpUntil = Number.POSITIVE_INFINITY
  /** Number of the turn. */
  number = 0
  readonly memory = new TurnMemory()
  readonly #clock: () => number
  readonly #defer: (callback: () => void) => void
  readonly #ending: () => void
  readonly #commit: () => void
  readonly #work: Work
  #open = false
  #touched: Flushable[] = []
  /** Output that is written after that of later turns, if there is time. */
  readonly #backlog = new Waiting<Flushable>()
  readonly #continuations = new Waiting<() => void>()
  /** Actions for newcomers: to handle their CONNECT, or to read from them. */
  readonly #admissions = new Waiting<() => void>()
  readonly #pace = new NewcomerPace()
  /** Called at the end of a turn if newcomers wait only for time to pass: to begin a turn within 100 ms. */
  onNewcomersWait: () => void = () => {}
  /** Units of work done before this turn began to take input. */
  #units = 0
  #budget = ALONE
  #newcomers = 0
  /** The client that was active last; when it was active, and when any other client was, in broker time. */
  #active: object | null = null
  #activeAt = Number.NEGATIVE_INFINITY
  #othersActiveAt = Number.NEGATIVE_INFINITY
  readonly #end = (): void => this.end()

  /**
   * `clock` returns broker time in ms. `defer` runs a callback after the event loop has read its pending
   * input. At the end of a turn, `ending` is called and then `commit`.
   */
  constructor(
    clock: () => number,
    defer: (callback: () => void) => void,
    ending: () => void,
    commit: () => void,
    work: Work,
  ) {
    this.#clock = clock
    this.#defer = defer
    this.#ending = ending
    this.#commit = commit
    this.#work = work
    this.now = clock()
  }

  /** Broker time in ms: of the open turn, or of this moment if no turn is open. */
  get time(): number {
    return this.#open ? this.now : this.#clock()
  }

  /** Whether this turn has taken all the input that it may: further input waits. */
  get isFull(): boolean {
    return this.#work.units - this.#units >= this.#budget.input
  }

  /** Whether further CONNECTs have to wait for a later turn: connected clients go first. */
  get isCrowded(): boolean {
    return this.#newcomers >= this.#newcomersMax
  }

  /** Whether newcomers wait. */
  get newcomersWait(): boolean {
    return this.#admissions.length > 0
  }

  get #newcomersMax(): number {
    return this.#isActive ? NEWCOMERS_BESIDE_OTHERS_MAX : NEWCOMERS_MAX
  }

  /** Whether any client has been active lately. */
  get #isActive(): boolean {
    return this.now - this.#activeAt < ACTIVE_MS
  }

  /** Counts a CONNECT. */
  newcomer(): void {
    this.#newcomers++
    this.#pace.cameIn()
  }

  /** Units for a task that does not belong to a single client. */
  get sliceUnits(): number {
    return this.#budget.slice
  }

  /** Returns the units that this client may use in one turn. */
  sliceFor(client: object): number {
    return (this.isSharedWith(client) ? SHARED : ALONE).slice
  }

  /** Tells whether other clients have been active lately. */
  isSharedWith(client: object): boolean {
    const at = client === this.#active ? this.#othersActiveAt : this.#activeAt
    return this.now - at < ACTIVE_MS
  }

  /** Whether everything that waits goes on soon, so that it may stay in the buffers it was read into. */
  get isShort(): boolean {
    return this.#continuations.length + this.#admissions.length <= SHORT_MAX
  }

  /** Whether several clients have been active lately. */
  get isShared(): boolean {
    return this.#budget === SHARED
  }

  /** Marks a client as active: it published or requested something. Acknowledging does not count. */
  active(client: object): void {
    // Another client has been active in this very turn: nothing can change.
    if (this.#othersActiveAt === this.now) return
    if (client !== this.#active) {
      this.#othersActiveAt = this.#activeAt
      this.#active = client
    }
    this.#activeAt = this.now
    if (this.now - this.#othersActiveAt < ACTIVE_MS) this.#budget = SHARED
  }

  /** Opens a turn unless one is open. To be called before any work; the turn ends by itself. */
  begin(): void {
    if (this.#open) return
    this.#open = true
    this.number++
    this.now = this.#clock()
    this.#units = this.#work.units
    this.#newcomers = 0
    this.#budget = this.now - this.#othersActiveAt < ACTIVE_MS ? SHARED : ALONE
    this.#defer(this.#end)
  }

  /** Flushes this output at the end of the turn. To be called once per turn. */
  touch(flushable: Flushable): void {
    this.#touched.push(flushable)
  }

  /** Runs `action` in a later turn, after earlier continuations. For work that is done in slices. */
  continueLater(action: () => void): void {
    this.begin()
    this.#continuations.push(action)
  }

  /** Runs `action` for a newcomer in a later turn: a few in each, in order. */
  admitLater(action: () => void): void {
    this.begin()
    this.#admissions.push(action)
  }

  /** Ends the turn now. Idempotent. */
  end(): void {
    if (!this.#open) return
    this.#ending()
    this.#open = false
    // The disk starts to work before the sockets do.
    this.#commit()
    this.#flush()
    // A failed write may have begun the next turn, with packets in the same memory.
    if (!this.#open && this.#backlog.length === 0) this.memory.turnEnded()
    const admitted = this.#admitted()
    if (this.#continuations.length > 0 || admitted > 0) this.#continue(admitted)
    else if (this.#admissions.length > 0) this.onNewcomersWait()
    if (this.#backlog.length > 0) this.begin()
  }

  /** Returns how many of the newcomers that wait are let in now. */
  #admitted(): number {
    const waiting = this.#admissions.length
    if (waiting === 0) return 0
    if (!this.#isActive) return Math.min(waiting, NEWCOMERS_MAX)
    const count = this.#pace.mayComeIn(this.now, waiting, NEWCOMERS_BESIDE_OTHERS_MAX)
    if (count === waiting) this.#pace.over()
    return count
  }

  #flush(): void {
    const work = this.#work
    const touched = this.#touched
    if (touched.length === 0 && this.#backlog.length === 0) return
    this.#touched = []
    const until = work.units + WRITTEN_UNITS_MAX
    const backlogUntil = work.units + this.#budget.backlog
    let count = 0
    while (count < touched.length && work.units < until) touched[count++]!.flush()
    for (let older = this.#backlog.length; older > 0 && work.units < backlogUntil; older--) {
      this.#backlog.take().flush()
    }
    while (count < touched.length) this.#backlog.push(touched[count++]!)
  }

  /**
   * Runs continuations once each: the first one always, others if there is time. Then lets in a few
   * newcomers.
   */
  #continue(admitted: number): void {
    this.begin()
    const work = this.#work
    const from = work.units
    const until = from + this.#budget.continued
    for (let count = this.#continuations.length; count > 0 && work.units < until; count--) {
      work.units += UNITS.continuation
      this.#continuations.take()()
    }
    for (let count = admitted; count > 0; count--) {
      work.units += UNITS.continuation
      this.#admissions.take()()
    }
    if (!this.isShared || work.units - from < LOAD_UNITS) return
    // The next input neither waits until all of that is written, nor is its budget reduced by it.
    for (const flushable of this.#touched) this.#backlog.push(flushable)
    this.#touched = []
    this.#units = work.units
  }
}

/** A queue, first in, first out. */
class Waiting<T> {
  #items: (T | undefined)[] = []
  #head = 0

  get length(): number {
    return this.#items.length - this.#head
  }

  push(item: T): void {
    this.#items.push(item)
  }

  /** Takes the oldest item. There must be one. */
  take(): T {
    const item = this.#items[this.#head] as T
    this.#items[this.#head++] = undefined
    if (this.#head === this.#items.length) {
      this.#items = []
      this.#head = 0
    } else if (this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#head)
      this.#head = 0
    }
    return item
  }
}
