/**
 * HOT. The input of one Network Connection: bytes become packets, which are handled in order and in
 * slices. The read gate holds all reasons not to read.
 */
import { Framer } from '../../mqtt/codec/framer.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import type { Deadline } from '../state/deadlines.ts'
import { type HoldReason, ReadGate } from '../state/read-gate.ts'
import type { ServerState } from '../state/server-state.ts'
import type { Turn } from '../state/turn.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'
import { KeepAlive } from './keep-alive.ts'
import type { NetworkConnection } from './network-connection.ts'
import type { Output } from './output/output.ts'
import { receivedPacket } from './output/traced-packet.ts'
import type { RateGate } from './rate-gate.ts'

/** Bytes that are one unit of work, as a power of two. */
const BYTES_SHIFT = Math.log2(UNITS.bytesEach)

/** How long the last packets of a client that is gone may wait for a policy, in ms. */
const LAST_PACKETS_MS = 60_000

/** A client that logs in and waits for longer was kept waiting by the Server, in ms. */
const KEPT_WAITING_MS = 1000

/** The gate of connections that were never held. Shared: nothing is added to it. */
const NEVER_HELD = new ReadGate()

/**
 * The end of the client's input: why, since when in broker time, and how long its last packets may be held.
 */
export interface InputEnd {
  readonly reason: string
  readonly at: number
  timeout: Deadline | null
}

/**
 * 'new' until CONNECT has come, 'authenticating' until CONNACK, 'open' from then on, 'closed' when nothing
 * more is read.
 */
export type Phase = 'new' | 'authenticating' | 'open' | 'closed'

export class Input {
  phase: Phase = 'new'
  /** Null while the client may send more. Packets that came before the end are handled first. */
  end: InputEnd | null = null
  /** True once the transport is gone. */
  isGone = false
  /** Null where no rate is set for this client. */
  rates: RateGate | null = null
  readonly framer: Framer
  readonly keepAlive: KeepAlive
  readonly #state: ServerState
  readonly #output: Output
  readonly #connection: NetworkConnection
  /** Replaced by the connection's own gate when it is held for the first time. */
  #gate = NEVER_HELD
  /**
   * Whether the transport is paused; 'shortly' while the rest of the input is still a view of shared memory.
   */
  #paused: 'no' | 'shortly' | 'yes' = 'no'
  /** The latest turn in which packets were handled, and the units that these took. */
  #turn = 0
  #spent = 0
  /** The latest turn in which the connection used up its slice. */
  #servedIn = -1
  /** Guards against handling packets while a packet is being handled. */
  #running = false
  /** When the latest packet began to wait for an answer, in broker time. */
  #askedAt = 0
  /** The bytes that `state.incomplete` counts for this connection. */
  #countedBytes = 0

  constructor(state: ServerState, output: Output, connection: NetworkConnection) {
    this.#state = state
    this.#output = output
    this.#connection = connection
    this.framer = new Framer(state.limits.packetBytesMax)
    this.framer.controlBytesMax = state.limits.controlPacketBytesMax
    this.framer.propertyBytesMax = state.limits.propertyBytesMax
    this.keepAlive = new KeepAlive(state, connection)
  }

  received(chunk: Buffer): void {
    if (this.phase === 'closed') return
    this.#state.turn.begin()
    if (this.#connection.memoryTrackedIndex < 0) this.#state.memoryWatch.track(this.#connection)
    this.#state.counters.bytesReceived += chunk.length
    this.#state.work.units += UNITS.read + (chunk.length >>> BYTES_SHIFT)
    this.keepAlive.arrived(chunk.length)
    this.rates?.received(chunk.length)
    if (this.#gate.isHeld) {
      this.#receiveHeld(chunk)
      return
    }
    this.framer.push(chunk)
    this.run()
    // Nearly always every packet was whole, and all are handled.
    if (this.phase !== 'open' || this.#gate.isHeld || this.framer.bufferedBytes + this.#countedBytes > 0)
      this.#count()
  }

  #receiveHeld(chunk: Buffer): void {
    if (this.#gate.isOnly('slice') && this.#state.turn.isShort) {
      this.#pauseShortly(chunk)
      return
    }
    this.#pause()
    // TLS goes on with bytes that it decrypted before `pause`: these must not be pinned either.
    this.framer.push(Buffer.from(chunk))
    this.#count()
  }

  /** Counts the buffered bytes of all connections; beyond a bound, one of them is cut off. */
  #count(): void {
    const bytes = this.phase === 'closed' ? 0 : this.#connection.incompleteBytes
    const more = bytes - this.#countedBytes
    if (more === 0) return
    this.#countedBytes = bytes
    const { incomplete, limits } = this.#state
    incomplete.changed(this.#connection.isStranger, more)
    if (more > 0) incomplete.bound(limits)
  }

  /**
   * Handles packets up to the end of the slice. `isContinued` says that others have been served meanwhile.
   */
  run(isContinued = false): void {
    if (this.#running) return
    this.#running = true
    const { counters, turn, work } = this.#state
    const from = work.units
    const published = counters.publishReceived
    if (this.#turn !== turn.number) {
      this.#turn = turn.number
      this.#spent = 0
    }
    const mayRun = isContinued || this.#mayRun(turn)
    let until = mayRun ? from + SLICE_UNITS - this.#spent : from
    try {
      this.#handleUntil(until)
      // Ask how many others are active only now: few connections use up a slice.
      if (mayRun && work.units >= until) {
        until = from + turn.sliceFor(this) - this.#spent
        this.#handleUntil(until)
      }
      this.#spent += work.units - from
      if (counters.publishReceived !== published) turn.active(this)
      if (work.units >= until && this.framer.bufferedBytes > 0 && this.#reading()) this.#yield()
      // Any packet may have stored something or produced answers, and both have a bound.
      if (this.phase === 'open' && this.#isBehind()) this.fallBehind()
      if (this.phase === 'open' && this.#output.backpressured) this.#stopReading()
      if (this.end !== null && !this.#gate.isHeld)
        this.#connection.close('network', Reason.UnspecifiedError, this.end.reason)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.#connection.violated(error)
    } finally {
      this.#running = false
    }
  }

  #handleUntil(units: number): void {
    const { events, counters, work } = this.#state
    const { framer } = this
    while (work.units < units && this.#reading() && framer.next()) {
      counters.packetsReceived++
      work.units += UNITS.packet
      this.keepAlive.active()
      if (events.hearsPackets) this.#trace()
      this.#connection.handle(framer)
    }
  }

  #trace(): void {
    const { clientId, link } = this.#connection.view
    const direction = 'received'
    this.#state.events.emit('packet', { clientId, link, direction, ...receivedPacket(this.framer) })
  }

  /**
   * Returns false if the connection used up its slice and others wait, or if the turn has taken enough input.
   */
  #mayRun(turn: Turn): boolean {
    if (this.phase === 'new' && turn.isCrowded) return false
    return !turn.isFull && (turn.number - this.#servedIn > 1 || !turn.isSharedWith(this))
  }

  /** Goes on in a later turn, after the others. */
  #yield(): void {
    if (!this.#ownGate().add('slice')) return
    this.#state.counters.slicesEnded++
    this.#servedIn = this.#turn
    this.keepAlive.suspend()
    const goOn = (): void => this.#continue()
    if (this.phase === 'new') this.#state.connectQueue.defer(this.#connection, goOn)
    else this.#state.turn.continueLater(goOn)
  }

  #continue(): void {
    if (this.#gate.remove('slice') && this.phase !== 'closed') this.#goOn(true)
  }

  #isBehind(): boolean {
    return this.#state.store.pendingBytes > this.#state.limits.pendingCommitBytesMax
  }

  #reading(): boolean {
    return (
      this.phase !== 'closed' && !this.#gate.isHeld && (!this.#output.backpressured || this.#gate.isHurried)
    )
  }

  // ── the read gate ──────────────────────────────────────────────────────────────────────────────────────

  get isHeld(): boolean {
    return this.#gate.isHeld
  }

  isHeldFor(reason: HoldReason): boolean {
    return this.#gate.has(reason)
  }

  /**
   * Stops reading for this reason; packets that have arrived wait as well. Returns false if the reason held
   * already, or may no longer hold.
   */
  hold(reason: HoldReason): boolean {
    if (this.phase === 'closed' || !this.#ownGate().add(reason)) return false
    this.keepAlive.suspend()
    if (reason === 'packet' && this.#waitsAlone) this.framer.detach()
    else this.#pause()
    return true
  }

  /**
   * Whether the client has sent nothing behind the CONNECT that waits. It is still read from, since its end
   * shows only then: a client that gave up must not be let in, as its Will would be published.
   */
  get #waitsAlone(): boolean {
    return this.phase === 'authenticating' && this.#paused === 'no' && this.framer.bufferedBytes === 0
  }

  /** Removes a reason, and goes on with the packets that have arrived unless another one holds. */
  release(reason: HoldReason): void {
    if (this.#gate.remove(reason) && this.phase !== 'closed') this.#goOn()
  }

  /**
   * Handles all that the client sent before it left, since it connected anew. Only a packet that waits for an
   * answer still holds it up. Nothing more comes, so the work is bounded. Returns false while it needs later
   * turns.
   */
  finish(): boolean {
    if (this.phase === 'closed' || this.end === null || this.#gate.has('packet')) return true
    this.#ownGate().hurry()
    this.#state.paused.delete(this.#connection)
    if (!this.#gate.has('slice')) this.run()
    return !this.#gate.has('slice')
  }

  #ownGate(): ReadGate {
    if (this.#gate === NEVER_HELD) this.#gate = new ReadGate()
    return this.#gate
  }

  /**
   * Pauses the transport, and copies the rest of the input so that it does not pin the shared read buffer.
   */
  #pause(): void {
    const before = this.#paused
    if (before === 'yes') return
    this.#paused = 'yes'
    this.framer.detach()
    if (before === 'no') this.#connection.link.pause()
  }

  /** Pauses the transport for less than a turn, so nothing is copied. */
  #pauseShortly(chunk: Buffer): void {
    const before = this.#paused
    this.#paused = 'shortly'
    this.framer.push(chunk)
    if (before === 'no') this.#connection.link.pause()
  }

  /** Handles the packets that wait and resumes the transport, unless a reason still holds. */
  #goOn(isContinued = false): void {
    this.#state.turn.begin()
    if (!this.#gate.isHeld) this.keepAlive.resume()
    this.run(isContinued)
    this.#count()
    if (this.#paused === 'no' || !this.#reading()) return
    this.#paused = 'no'
    this.#connection.link.resume()
  }

  /** Stops reading from a client that does not read its answers, until it does. */
  #stopReading(): void {
    if (!this.hold('answers') || !this.isGone) return
    // Nobody reads these answers any more.
    this.#output.discard()
    this.#state.turn.continueLater(() => this.continueReading())
  }

  /** Reads again from a client that has taken its answers. */
  continueReading(): void {
    if (!this.#output.congested) this.release('answers')
  }

  continueReadingLater(): void {
    if (this.#gate.has('answers')) this.#state.turn.continueLater(() => this.continueReading())
  }

  /** Stops reading until `caughtUp`, since the Server has more to commit than it may. */
  fallBehind(): void {
    if (!this.hold('commit')) return
    this.#state.paused.add(this.#connection)
    const { events } = this.#state
    if (!events.has('paused')) return
    events.emit('paused', { clientId: this.#connection.view.clientId, reason: 'commit' })
  }

  caughtUp(): void {
    if (!this.#gate.has('commit')) return
    const { events, paused } = this.#state
    paused.delete(this.#connection)
    if (this.phase !== 'closed' && events.has('resumed'))
      events.emit('resumed', { clientId: this.#connection.view.clientId })
    this.release('commit')
  }

  // ── packets that wait for an answer ────────────────────────────────────────────────────────────────────

  /** Calls `then` with a value now, or with a promise's value in a later turn; the packets behind wait. */
  whenAnswered<T>(answer: T | Promise<T>, then: (value: T) => void): void {
    if (isPromise(answer)) this.#await(answer, then)
    else then(answer)
  }

  #await<T>(promise: Promise<T>, then: (value: T) => void): void {
    this.#askedAt = this.#state.now()
    this.hold('packet')
    promise.then(
      (value) => this.resumeWith(() => then(value)),
      (error: unknown) => this.resumeWith(() => this.#policyFailed(error)),
    )
  }

  /** Runs `action` in a later turn, so that others are served meanwhile; the packets behind wait. */
  later(action: () => void): void {
    this.#askedAt = this.#state.now()
    this.hold('packet')
    this.#state.turn.continueLater(() => this.resumeWith(action))
  }

  /** Runs `action` after `ms`; the packets behind wait. */
  after(ms: number, action: () => void): void {
    this.#askedAt = this.#state.now()
    this.hold('packet')
    this.#state.deadlines.at(this.#askedAt + ms, () => this.resumeWith(action))
  }

  /** Runs `action`, for which `hold('packet')` held up the packets behind, and then goes on with these. */
  resumeWith(action: () => void): void {
    this.#gate.remove('packet')
    if (this.phase === 'closed') return
    this.#state.turn.begin()
    if (this.phase === 'authenticating' && this.#state.now() - this.#askedAt >= KEPT_WAITING_MS) {
      this.#connection.parts.wills.keptWaiting()
    }
    try {
      action()
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.#connection.violated(error)
    }
    this.#goOn()
  }

  #policyFailed(error: unknown): void {
    const reason = `a policy failed: ${error instanceof Error ? error.message : String(error)}`
    // The error is only for the log, since it may name hosts, files or secrets.
    this.#connection.disconnect(
      Reason.ImplementationSpecificError,
      reason,
      'the Server could not decide: try again later',
    )
  }

  // ── beginning and end ──────────────────────────────────────────────────────────────────────────────────

  /** Begins the phase 'open', since CONNECT was accepted. */
  open(): void {
    this.#state.incomplete.letIn(this.#countedBytes)
    this.phase = 'open'
  }

  /**
   * Notes that the client sends nothing more, but handles its packets first, however long they are held: the
   * end comes after them. If very many connections end at once, some of them end in later turns.
   */
  ended(reason: string): void {
    if (this.phase === 'closed' || this.end !== null) return
    const { turn } = this.#state
    turn.begin()
    const end: InputEnd = { reason, at: this.#state.now(), timeout: null }
    this.end = end
    this.keepAlive.stop()
    if (turn.isFull) turn.continueLater(() => this.#handleLastPackets(end))
    else this.#handleLastPackets(end)
  }

  #handleLastPackets(end: InputEnd): void {
    if (this.phase === 'closed') return
    // A client that left before CONNACK, and sent nothing behind CONNECT, wants nothing.
    const wantsNothing = this.phase !== 'open' && this.framer.bufferedBytes === 0
    if (wantsNothing) this.#connection.close('network', Reason.UnspecifiedError, end.reason)
    else this.run()
    this.#boundLastPackets(end)
  }

  /**
   * Bounds the wait for a policy. Other waits end by themselves: a commit ends, a reader is cut off, and
   * before CONNACK there is the connect time-out, or the longest time in the log-in queue.
   */
  #boundLastPackets(end: InputEnd): void {
    if (this.phase !== 'authenticating' && this.phase !== 'open') return
    const { deadlines } = this.#state
    end.timeout = deadlines.at(this.#state.now() + LAST_PACKETS_MS, () => {
      this.#state.turn.begin()
      if (this.#gate.has('packet') && !this.#connection.isQueuedToLogIn) {
        const reason = `${end.reason}; its last packets waited too long`
        this.#connection.close('network', Reason.UnspecifiedError, reason)
      } else this.#boundLastPackets(end)
    })
  }

  /** Ends reading and all waits, since the Network Connection is closed. */
  close(): void {
    const { deadlines, incomplete, paused } = this.#state
    if (this.#countedBytes !== 0) incomplete.changed(this.#connection.isStranger, -this.#countedBytes)
    this.#countedBytes = 0
    this.phase = 'closed'
    this.framer.discard()
    if (this.end !== null) deadlines.cancel(this.end.timeout)
    this.rates?.stop()
    this.rates = null
    this.keepAlive.stop()
    paused.delete(this.#connection)
  }
}

/** True also for promises of another realm. */
function isPromise<T>(answer: T | Promise<T>): answer is Promise<T> {
  return typeof answer === 'object' && answer !== null && 'then' in answer
}
