/**
 * What the Server does while memory is short: those who hold most pay first, in steps that get harder as long as it stays short.
 * Newcomers and small clients go on; only where nobody is large, everybody is refused.
 */
import type { Delivery } from '../../mqtt/message.ts'
import type { Session } from '../../session/session.ts'
import { connectionBytes } from '../accounts/costs.ts'
import {
  type Holder,
  LAST_STEP,
  largeBytes,
  type Payment,
  type Pressure,
  plan,
} from '../accounts/relief-plan.ts'
import { usageOf } from '../accounts/usage.ts'
import type { ReliefStep } from '../boundary/events.ts'
import type { ClientConnection, ServerState } from '../state/server-state.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'
import { proportionalShare } from './proportional-share.ts'
import { type ShareBacklog, sharedDelivery } from './share-backlog.ts'

/** A client that may have to pay. */
interface Client extends Holder {
  bytes: number
  readonly session: Session
  /** Null while the client is away. */
  readonly connection: ClientConnection | null
}

/** How many of the largest are looked at for what they share with others. */
const SHARES_LOOKED_AT = 64

/** Below this part of the high mark memory is not short any more, and so much less is aimed at. */
const LOW_SHARE = 0.9
const AIM_SHARE = 0.8

/** Whoever paid so lately goes on with the next step when memory is short again, in ms. */
const REMEMBERED_MS = 60_000

/** A step takes so long at least, in ms: a client may still do something about it. */
const STEP_MS = 900

/** Clients that hold less than this are none that could pay. */
const HELD_BYTES_MIN = 512

/** What it takes to have one client pay, of work. */
const PAYMENT_UNITS = 200

/** Clients that the operator is told by name. */
const NAMES_TOLD = 3

const MIB = 1024 * 1024

const TOLD = 'memory is short, and this client has the Server keep most of it'

/** The step that a client came to, and when, in broker time. */
interface Debt {
  readonly step: number
  readonly at: number
}

export class Relief {
  readonly #state: ServerState
  readonly #backlog: ShareBacklog
  /** By Client Identifier. */
  readonly #debts = new Map<string, Debt>()
  /** Those that pay at the moment. */
  readonly #paying = new Map<Session, Client>()
  /** Those that pay since the latest look. */
  #due: readonly Payment<Client>[] = []
  /** Users whose clients hold most, none of which is large. */
  #users: ReadonlySet<string> = new Set()
  /** What is said of it while memory is short. */
  #pressed: string | null = null

  constructor(state: ServerState, backlog: ShareBacklog) {
    this.#state = state
    this.#backlog = backlog
  }

  /** How short memory is and who pays, while it is short; null when all is well. */
  get pressed(): string | null {
    return this.#pressed
  }

  /** Why a user may make no new Session: its many clients hold most of the memory. Null where it may. */
  sessionRefusal(userName: string | null, remoteAddress: string): string | null {
    if (this.#users.size === 0) return null
    const user = this.#state.usage.user(userName, remoteAddress)
    if (user === null || !this.#users.has(user.name)) return null
    return `memory is short, and the many clients of this user hold most of it; ${this.#marks()}`
  }

  /** Looks at how much is held, each message once, and has the largest pay where it is too much. */
  look(bytes: number): void {
    const { memoryBytesMax: maxBytes, memoryReservedPercent } = this.#state.limits
    const highBytes = maxBytes * (1 - memoryReservedPercent / 100)
    const lowBytes = highBytes * AIM_SHARE
    const enough = this.#pressed === null ? highBytes : highBytes * LOW_SHARE
    if (bytes <= enough) {
      this.#end()
      return
    }
    this.#forget()
    const clients = this.#clients()
    this.#withoutShared(clients, largeBytes(highBytes))
    const parkedBytes = this.#state.store.evict(bytes - lowBytes)
    const heldBytes = bytes - parkedBytes
    if (heldBytes <= enough) {
      this.#end()
      return
    }
    this.#pay({ bytes: heldBytes, lowBytes, highBytes, maxBytes }, clients)
  }

  /** Everybody that holds something which can be freed, by what was counted at the last look. */
  #clients(): Client[] {
    const { connected, sessionsById, store, work } = this.#state
    const found: Client[] = []
    for (const [session, connection] of connected) this.#add(found, session, connection)
    work.units += connected.size
    if (store.parks) return found
    for (const session of sessionsById.values()) {
      if (!connected.has(session)) this.#add(found, session, null)
    }
    work.units += sessionsById.size
    return found
  }

  #add(found: Client[], session: Session, connection: ClientConnection | null): void {
    const usage = usageOf(session)
    if (usage === null) return
    const step = this.#stepOf(usage.name)
    const base = connection === null ? 0 : connectionBytes(connection.view.link.transport)
    let bytes = usage.bufferBytes - base
    if (!session.stored) bytes += usage.queueBytes + usage.subscriptionBytes
    // What cannot be parked was capped with the first step, and there is nothing else to pay with.
    else if (!this.#state.store.parks && step < LAST_STEP) bytes += usage.queueBytes
    if (bytes < HELD_BYTES_MIN) return
    found.push({ clientId: usage.name, user: usage.user?.name ?? '', bytes, step, session, connection })
  }

  /** The step that it came to, from which it goes on; one less where that was just now. */
  #stepOf(clientId: string): number {
    const debt = this.#debts.get(clientId)
    const now = this.#state.now()
    if (debt === undefined || now - debt.at > REMEMBERED_MS) return 0
    return now - debt.at < STEP_MS ? debt.step - 1 : debt.step
  }

  /** Leaves to the largest their shares of what they have in common with others. */
  #withoutShared(clients: readonly Client[], most: number): void {
    const large = clients.filter(({ bytes, session }) => bytes >= most && !session.stored)
    large.sort((one, other) => other.bytes - one.bytes)
    for (const client of large.slice(0, SHARES_LOOKED_AT)) {
      const { queueBytes, inFlightBytes } = client.session
      client.bytes -= Math.round((queueBytes + inFlightBytes) * (1 - proportionalShare(client.session)))
    }
  }

  #pay(pressure: Pressure, clients: readonly Client[]): void {
    const state = this.#state
    if (pressure.bytes < pressure.maxBytes * LOW_SHARE) state.memoryRefusal = null
    // Between the marks nobody new pays; those who do go on, or a client that stands still would do so for ever.
    const isHigh = pressure.bytes > pressure.highBytes
    const payers = isHigh ? clients : clients.filter(({ session }) => this.#paying.has(session))
    const { payments, users, uncoveredBytes } = plan(pressure, payers)
    if (isHigh) this.#users = users
    this.#pressed = this.#described(pressure, payments)
    this.#due = payments
    this.#takeDue(payments, 0)
    if (uncoveredBytes === 0 && isHigh) {
      state.memoryRefusal = null
    } else if (state.memoryRefusal === null && pressure.bytes > pressure.maxBytes) {
      state.memoryRefusal = `${mebibytes(pressure.bytes)} are in memory, and nobody holds much of it; ${this.#marks()}`
      state.limited('memoryBytesMax', '', state.memoryRefusal)
    }
  }

  /** Has them pay from this one on, in slices: they may be 20,000. A later look makes others due. */
  #takeDue(payments: readonly Payment<Client>[], from: number): void {
    const { work, turn } = this.#state
    const until = work.units + SLICE_UNITS
    let at = from
    for (; at < payments.length && work.units < until; at++) {
      work.units += PAYMENT_UNITS
      const { holder, step } = payments[at]!
      const { clientId, session } = holder
      // Meanwhile it may have gone.
      if (usageOf(session) === null) continue
      const known = this.#debts.get(clientId)
      const now = this.#state.now()
      if (known?.step !== step || now - known.at >= STEP_MS) this.#debts.set(clientId, { step, at: now })
      this.#paying.set(session, holder)
      this.#take(holder, step)
    }
    if (at === payments.length) return
    turn.continueLater(() => {
      if (this.#due === payments) this.#takeDue(payments, at)
    })
  }

  #described({ bytes }: Pressure, payments: readonly Payment<Client>[]): string {
    const names = payments
      .slice(0, NAMES_TOLD)
      .map(({ holder: { clientId, bytes: own } }) => `${clientId} with ${mebibytes(own)}`)
    const more = payments.length - names.length
    const others = more > 0 ? ` and ${more} more` : ''
    const who =
      names.length === 0 ? 'nobody holds much of it' : `those who hold most pay: ${names.join(', ')}${others}`
    return `${mebibytes(bytes)} are in memory; ${who}; ${this.#marks()}`
  }

  #marks(): string {
    const { memoryBytesMax, memoryReservedPercent } = this.#state.limits
    return (
      `limits.memory_bytes_max is ${mebibytes(memoryBytesMax)}, ` +
      `of which limits.memory_reserved_percent keeps ${memoryReservedPercent} % for small clients`
    )
  }

  // ── the steps ─────────────────────────────────────────────────────────────────────────────────────────────

  #take(client: Client, step: number): void {
    const { session, connection } = client
    const { events, store } = this.#state
    session.forgetSent()
    if (connection !== null && step >= LAST_STEP && (!session.stored || store.parks)) {
      this.#tell(client, 'disconnected', 'it is disconnected; what a stored Session has waits on the disk')
      connection.cut(`${TOLD}: ${mebibytes(client.bytes)}`, TOLD)
      return
    }
    // Of what it sends; what it acknowledges must be read, or it can never hold less.
    if (connection !== null && connection.heldBytes * 2 >= client.bytes && connection.hold('pays')) {
      this.#tell(client, 'paused', 'nothing is read from it until there is room')
      events.emit('paused', { clientId: client.clientId, reason: 'memory' })
    }
    if (session.stored && store.parks) return
    if (!session.isCapped) {
      session.capQueue()
      this.#tell(
        client,
        'capped',
        'its queue takes no more than it holds: limits.queue_full says what is dropped',
      )
    }
    if (step === 1 || session.stored || session.queueLength === 0) return
    this.#tell(client, 'shed', 'what waits for it is dropped, since its Session ends with the connection')
    this.#shed(session, session.queueLength)
  }

  #tell({ clientId, session, bytes }: Client, step: ReliefStep, means: string): void {
    const { counters, events } = this.#state
    counters.relief[step]++
    if (!events.has('relieved')) return
    events.emit('relieved', {
      clientId,
      userName: session.owner,
      step,
      of: 'memory',
      bytes,
      detail: `${means}; ${this.#marks()}`,
    })
  }

  /** Drops the oldest messages that wait, so many, in slices. What came by a Shared Subscription goes to another member. */
  #shed(session: Session, count: number): void {
    const state = this.#state
    const until = state.work.units + SLICE_UNITS
    let left = count
    for (; left > 0 && state.work.units < until; left--) {
      const delivery = session.takeWaiting()
      if (delivery === null) return
      state.work.units += UNITS.delivery
      if (!this.#passOn(session, delivery)) state.drop(session.clientId, 'memory-short', delivery.message)
    }
    if (left > 0) state.turn.continueLater(() => this.#shed(session, left))
  }

  /** Gives a message of a Shared Subscription to a member that has room, else to one for which it may wait. */
  #passOn(session: Session, { message, share }: Delivery): boolean {
    const group = share === null ? null : this.#state.router.shareGroup(share)
    if (share === null || group === null) return false
    this.#state.work.units += group.members.length
    const others = group.members.filter(({ subscriber }) => subscriber !== session && !subscriber.isCapped)
    const taker =
      others.find(({ subscriber }) => subscriber.hasRoom) ??
      others.find(({ subscriber, options }) => subscriber.takes(message, options.qos))
    if (taker === undefined) return false
    const { subscriber, options, identifier } = taker
    if (!subscriber.hasRoom) this.#backlog.add(share, subscriber)
    subscriber.deliver(sharedDelivery(message, share, options, identifier), subscriber.durableAt)
    return true
  }

  /** Memory is not short any more. */
  #end(): void {
    const state = this.#state
    if (this.#pressed === null) return
    this.#pressed = null
    this.#due = []
    this.#users = new Set()
    state.memoryRefusal = null
    for (const [session, { connection }] of this.#paying) {
      this.#uncap(session)
      if (connection?.isPaying !== true) continue
      state.events.emit('resumed', { clientId: session.clientId })
      connection.release('pays')
    }
    this.#paying.clear()
    this.#forget()
  }

  /** A stored Session whose messages can be parked was not capped here, but perhaps for the disk. */
  #uncap(session: Session): void {
    if (!session.stored || !this.#state.store.parks) session.uncapQueue()
  }

  /** Forgets who has paid long ago, and who is gone. */
  #forget(): void {
    const { connected, sessions } = this.#state
    const now = this.#state.now()
    for (const [clientId, { at }] of this.#debts) {
      if (now - at > REMEMBERED_MS) this.#debts.delete(clientId)
    }
    for (const [session, { connection }] of this.#paying) {
      const isThere = sessions.get(session.clientId) === session
      if (isThere && (connection === null || connected.get(session) === connection)) continue
      this.#paying.delete(session)
      this.#uncap(session)
    }
  }
}

function mebibytes(bytes: number): string {
  return bytes < MIB ? `${Math.ceil(bytes / 1024)} KiB` : `${Math.round(bytes / MIB)} MiB`
}
