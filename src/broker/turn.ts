/**
 * HOT. All packets handled in one pass of the event loop are one turn. At its end what was recorded is given to the
 * store in one piece and every connection that has something to say writes once.
 */
import { TurnMemory } from './turn-memory.ts'

/** Something with output that leaves at the end of the turn. */
export interface Flushable {
  flush(): void
}

export class Turn {
  /** Broker time in ms, read once per turn. */
  now: number
  readonly memory = new TurnMemory()
  readonly #clock: () => number
  readonly #defer: (callback: () => void) => void
  readonly #commit: () => void
  #open = false
  #touched: Flushable[] = []
  #continuations: (() => void)[] = []
  readonly #end = (): void => this.end()

  /** `clock` is broker time in ms; `defer` runs a callback after the event loop's pending input was read. */
  constructor(clock: () => number, defer: (callback: () => void) => void, commit: () => void) {
    this.#clock = clock
    this.#defer = defer
    this.#commit = commit
    this.now = clock()
  }

  /** Broker time in ms: that of the turn, or this very moment's where there is none. */
  get time(): number {
    return this.#open ? this.now : this.#clock()
  }

  /** Called before anything is done. The turn ends by itself. */
  begin(): void {
    if (this.#open) return
    this.#open = true
    this.now = this.#clock()
    this.#defer(this.#end)
  }

  /** Flushes this one at the end of the turn; the caller sees to it that it asks once per turn. */
  touch(flushable: Flushable): void {
    this.#touched.push(flushable)
  }

  /** Runs `action` in a later turn: for work that is done in slices. */
  continueLater(action: () => void): void {
    this.begin()
    this.#continuations.push(action)
  }

  /** Ends the turn now. Idempotent. */
  end(): void {
    if (!this.#open) return
    this.#open = false
    // The disk starts to work before the sockets do.
    this.#commit()
    const touched = this.#touched
    this.#touched = []
    for (const flushable of touched) flushable.flush()
    // Who was told of a failed write may have begun the next turn, with packets in the same memory.
    if (!this.#open) this.memory.turnEnded()
    if (this.#continuations.length === 0) return
    const continuations = this.#continuations
    this.#continuations = []
    this.begin()
    for (const action of continuations) action()
  }
}
