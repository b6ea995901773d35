/**
 * HOT. All packets handled in one pass of the event loop are one turn. At its end what was recorded is given to the
 * store in one piece and every connection that has something to say writes once.
 *
 * A turn does so much and no more: what is left goes on in the next ones, in order, round robin. Where several clients are
 * active, turns are short, so that nobody waits for long; one that is alone gets long ones, which cost less per message.
 */
import { TurnMemory } from './turn-memory.ts'
import { SLICE_UNITS, UNITS, type Work } from './work.ts'

/** Units that a connection may use in one turn, that input may in all, what continues, and what is written. */
interface Budget {
  readonly slice: number
  readonly input: number
  readonly continued: number
  /** For what earlier turns left unwritten, or what continued had to say. */
  readonly backlog: number
}

/** Several clients are active: about 1 ms for each task, 10 ms for all that came in, and 5 ms for what continues. */
const SHARED: Budget = {
  slice: SLICE_UNITS,
  input: 10 * SLICE_UNITS,
  continued: 5 * SLICE_UNITS,
  backlog: SLICE_UNITS,
}

/** One client is, or none: all of this together, and a slice that was just begun, is still no more than 40 ms. */
const ALONE: Budget = {
  slice: 6 * SLICE_UNITS,
  input: 10 * SLICE_UNITS,
  continued: 6 * SLICE_UNITS,
  backlog: 5 * SLICE_UNITS,
}

/**
 * So many CONNECTs are handled between the ends of two turns; those of a fleet that comes back at once go on in later turns. With
 * sockets, log and store one takes 0.1 to 0.3 ms: while clients are active they wait 2 ms at most, and where none is there are more,
 * since each turn has its own cost.
 */
const NEWCOMERS_MAX = 32
const NEWCOMERS_BESIDE_OTHERS_MAX = 8

/** What a turn's input has to say is written at its end, but never for longer than this. */
const WRITTEN_UNITS_MAX = 6 * SLICE_UNITS

/** So long ago, in ms, a client is not active any more. */
const ACTIVE_MS = 1000

/** From so many units on, what continued is a load: its output gives way to that of others. */
const LOAD_UNITS = SLICE_UNITS / 4

/** Connections that may keep what they read as it is while they wait: each two reads, in pieces of memory of 256 KiB. */
const SHORT_MAX = 128

/** Something with output that leaves at the end of the turn. */
export interface Flushable {
  flush(): void
}

export class Turn {
  /** Broker time in ms, read once per turn. */
  now: number
  /** How far work may come while a Session gives its client what waits; see `Connection.pumped`. */
  pumpUntil = Number.POSITIVE_INFINITY
  /** Counts the turns. */
  number = 0
  readonly memory = new TurnMemory()
  readonly #clock: () => number
  readonly #defer: (callback: () => void) => void
  readonly #ending: () => void
  readonly #commit: () => void
  readonly #work: Work
  #open = false
  #touched: Flushable[] = []
  /** Those that are written after the ones of later turns, as far as there is time for it. */
  readonly #backlog = new Waiting<Flushable>()
  readonly #continuations = new Waiting<() => void>()
  /** What newcomers wait for: their CONNECT is handled, or they are read from. */
  readonly #admissions = new Waiting<() => void>()
  /** Work that had been done when this turn began to take input. */
  #units = 0
  #budget = ALONE
  #newcomers = 0
  /** Who was active last, and when; and when anybody else was. */
  #active: object | null = null
  #activeAt = Number.NEGATIVE_INFINITY
  #othersActiveAt = Number.NEGATIVE_INFINITY
  readonly #end = (): void => this.end()

  /**
   * `clock` is broker time in ms; `defer` runs a callback after the event loop's pending input was read; `ending` is called when
   * all that came in was handled, and `commit` behind it.
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

  /** Broker time in ms: that of the turn, or this very moment's where there is none. */
  get time(): number {
    return this.#open ? this.now : this.#clock()
  }

  /** Whether this turn has taken as much input as it may: what arrives waits. */
  get isFull(): boolean {
    return this.#work.units - this.#units >= this.#budget.input
  }

  /** Whether no more CONNECTs are heard in this turn as they come in: who is there already goes before a crowd. */
  get isCrowded(): boolean {
    return this.#newcomers >= this.#newcomersMax
  }

  /** Whether some wait to be let in. */
  get newcomersWait(): boolean {
    return this.#admissions.length > 0
  }

  get #newcomersMax(): number {
    return this.now - this.#activeAt < ACTIVE_MS ? NEWCOMERS_BESIDE_OTHERS_MAX : NEWCOMERS_MAX
  }

  /** CONNECT was heard. */
  newcomer(): void {
    this.#newcomers++
  }

  /** Units that a task which is nobody's alone may use in one turn. */
  get sliceUnits(): number {
    return this.#budget.slice
  }

  /** Units that this client may use in one turn. */
  sliceFor(client: object): number {
    return (this.isSharedWith(client) ? SHARED : ALONE).slice
  }

  /** Whether others than this client have been active lately. */
  isSharedWith(client: object): boolean {
    const at = client === this.#active ? this.#othersActiveAt : this.#activeAt
    return this.now - at < ACTIVE_MS
  }

  /** Whether all that continues has its turn soon, so that it may stay in memory that others read into. */
  get isShort(): boolean {
    return this.#continuations.length + this.#admissions.length <= SHORT_MAX
  }

  /** Whether several clients have been active lately. */
  get isShared(): boolean {
    return this.#budget === SHARED
  }

  /** Somebody published or asked for something: not who only reads, and acknowledges what is sent to it. */
  active(client: object): void {
    // Others are as active as can be already.
    if (this.#othersActiveAt === this.now) return
    if (client !== this.#active) {
      this.#othersActiveAt = this.#activeAt
      this.#active = client
    }
    this.#activeAt = this.now
    if (this.now - this.#othersActiveAt < ACTIVE_MS) this.#budget = SHARED
  }

  /** Called before anything is done. The turn ends by itself. */
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

  /** Flushes this one at the end of the turn; the caller sees to it that it asks once per turn. */
  touch(flushable: Flushable): void {
    this.#touched.push(flushable)
  }

  /** Runs `action` in a later turn, after what was asked for earlier: for work that is done in slices. */
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
    // Who was told of a failed write may have begun the next turn, with packets in the same memory.
    if (!this.#open && this.#backlog.length === 0) this.memory.turnEnded()
    if (this.#continuations.length > 0 || this.#admissions.length > 0) this.#continue()
    if (this.#backlog.length > 0) this.begin()
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

  /** Each continuation once, as far as there is time for it, the first one always; then a few newcomers. */
  #continue(): void {
    this.begin()
    const work = this.#work
    const from = work.units
    const until = from + this.#budget.continued
    for (let count = this.#continuations.length; count > 0 && work.units < until; count--) {
      work.units += UNITS.continuation
      this.#continuations.take()()
    }
    for (let count = Math.min(this.#admissions.length, this.#newcomersMax); count > 0; count--) {
      work.units += UNITS.continuation
      this.#admissions.take()()
    }
    if (!this.isShared || work.units - from < LOAD_UNITS) return
    // What comes in next is not to wait until all of that is written, nor is it kept from coming in.
    for (const flushable of this.#touched) this.#backlog.push(flushable)
    this.#touched = []
    this.#units = work.units
  }
}

/** First in, first out. */
class Waiting<T> {
  #items: (T | undefined)[] = []
  #head = 0

  get length(): number {
    return this.#items.length - this.#head
  }

  push(item: T): void {
    this.#items.push(item)
  }

  /** Takes the oldest of those that are there. */
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
