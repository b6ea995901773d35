/**
 * Relief while memory is short: the clients that hold most of it pay first, in steps that get harder as long
 * as memory stays short. New and small clients go on. Everybody is refused only if nobody holds much.
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
import { listed, sizeText } from './large-users.ts'
import { proportionalShare } from './proportional-share.ts'
import { type ShareBacklog, sharedDelivery } from './share-backlog.ts'

/** A client that may have to pay. */
interface Client extends Holder {
  bytes: number
  readonly session: Session
  /** Null while the client is away. */
  readonly connection: ClientConnection | null
}

/** The largest clients whose messages are checked for other holders. */
const SHARES_LOOKED_AT = 64

/**
 * Memory is short above the high mark, and until it is below `LOW_SHARE` of it. Payments aim at `AIM_SHARE`.
 */
const LOW_SHARE = 0.9
const AIM_SHARE = 0.8

/** A client that paid within this time goes on with the next step when memory is short again. */
const REMEMBERED_MS = 60_000

/** Shortest time in ms between two steps, in which a client may still give up memory. */
const STEP_MS = 900

/** A client that holds less does not pay. */
const HELD_BYTES_MIN = 512

/** Units that one payment takes. */
const PAYMENT_UNITS = 200

const TOLD = 'memory is short, and this client uses most of it'

/** The step that a client came to, and the broker time of it. */
interface Debt {
  readonly step: number
  readonly at: number
}

export class Relief {
  readonly #state: ServerState
  readonly #backlog: ShareBacklog
  /** The latest step of each Client Identifier. */
  readonly #debts = new Map<string, Debt>()
  /** Clients that pay at the moment. */
  readonly #paying = new Map<Session, Client>()
  /** Payments that the latest look demanded. */
  #due: readonly Payment<Client>[] = []
  /** Users who hold much by many clients, none of which is large. */
  #users: ReadonlySet<string> = new Set()
  #pressed: string | null = null

  constructor(state: ServerState, backlog: ShareBacklog) {
    this.#state = state
    this.#backlog = backlog
  }

  /** How short memory is and who pays; null if it is not short. */
  get pressed(): string | null {
    return this.#pressed
  }

  /**
   * Returns why a user may make no new Session, as its many clients hold most of the memory; null if it may.
   */
  sessionRefusal(userName: string | null, remoteAddress: string): string | null {
    if (this.#users.size === 0) return null
    const user = this.#state.usage.user(userName, remoteAddress)
    if (user === null || !this.#users.has(user.name)) return null
    return `memory is short, and the many clients of this user hold most of it; ${this.#marks()}`
  }

  /** Has the largest clients pay if all clients together hold too much; `bytes` counts each message once. */
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

  /** Collects the clients that hold something which can be freed, as counted by the latest look. */
  #clients(): Client[] {
    const { connected, sessionsById, store, work } = this.#state
    const found: Client[] = []
    for (const [session, connection] of connected) this.#add(found, session, connection)
    work.units += connected.size
    if (store.canPark) return found
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
    // A queue that cannot be parked was capped in the first step; there is nothing else to pay with.
    else if (!this.#state.store.canPark && step < LAST_STEP) bytes += usage.queueBytes
    if (bytes < HELD_BYTES_MIN) return
    found.push({ clientId: usage.name, user: usage.user?.name ?? '', bytes, step, session, connection })
  }

  /**
   * Returns the step from which the client goes on: its latest one, or the one before if that was just now.
   */
  #stepOf(clientId: string): number {
    const debt = this.#debts.get(clientId)
    const now = this.#state.now()
    if (debt === undefined || now - debt.at > REMEMBERED_MS) return 0
    return now - debt.at < STEP_MS ? debt.step - 1 : debt.step
  }

  /** Counts for the largest clients only their shares of messages that others hold as well. */
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
    // Between the marks only those who pay already go on, or a client that does nothing would pay for ever.
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
      const held = `${sizeText(pressure.bytes)} are in memory, and nobody holds much of it`
      state.memoryRefusal = `${held}; ${this.#marks()}`
      state.limited('memoryBytesMax', '', state.memoryRefusal)
    }
  }

  /** Takes the payments from this index on, in slices: there may be 20,000. A later look replaces them. */
  #takeDue(payments: readonly Payment<Client>[], from: number): void {
    const { work, turn } = this.#state
    const until = work.units + SLICE_UNITS
    let at = from
    for (; at < payments.length && work.units < until; at++) {
      work.units += PAYMENT_UNITS
      const { holder, step } = payments[at]!
      const { clientId, session } = holder
      // The Session may have ended meanwhile.
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
    const names = listed(
      payments,
      ({ holder }) => holder.clientId,
      ({ holder }) => holder.bytes,
    )
    const who = names === '' ? 'nobody holds much of it' : `those who hold most pay: ${names}`
    return `${sizeText(bytes)} are in memory; ${who}; ${this.#marks()}`
  }

  #marks(): string {
    const { memoryBytesMax, memoryReservedPercent } = this.#state.limits
    return (
      `limits.memory_bytes_max is ${sizeText(memoryBytesMax)}, ` +
      `of which limits.memory_reserved_percent keeps ${memoryReservedPercent} % for small clients`
    )
  }

  // ── the steps ────────────────────────────────────────────────────────────────────────────────────────────

  #take(client: Client, step: number): void {
    const { session, connection } = client
    const { events, store } = this.#state
    session.forgetSent()
    if (connection !== null && step >= LAST_STEP && (!session.stored || store.canPark)) {
      this.#tell(client, 'disconnected', 'it is disconnected; messages of a stored Session wait on the disk')
      connection.cut(`${TOLD}: ${sizeText(client.bytes)}`, TOLD)
      return
    }
    // Only if most of its memory is for what it sends: acknowledgements must be read, or it can never hold
    // less.
    if (connection !== null && connection.heldBytes * 2 >= client.bytes && connection.hold('pays')) {
      this.#tell(client, 'paused', 'nothing is read from it until there is room')
      events.emit('paused', { clientId: client.clientId, reason: 'memory' })
    }
    if (session.stored && store.canPark) return
    if (!session.queue.isCapped) {
      session.queue.cap()
      this.#tell(
        client,
        'capped',
        'its queue does not grow: limits.queue_full says which messages are dropped',
      )
    }
    if (step === 1 || session.stored || session.queueLength === 0) return
    this.#tell(client, 'shed', 'its queued messages are dropped, since its Session ends with the connection')
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

  /**
   * Drops the oldest queued messages, in slices. Those of a Shared Subscription go to another member if one
   * takes them.
   */
  #shed(session: Session, count: number): void {
    const state = this.#state
    const until = state.work.units + SLICE_UNITS
    let left = count
    for (; left > 0 && state.work.units < until; left--) {
      const delivery = session.queue.takeUnstored()
      if (delivery === null) return
      state.work.units += UNITS.delivery
      if (!this.#passOn(session, delivery)) state.drop(session.clientId, 'memory-short', delivery.message)
    }
    if (left > 0) state.turn.continueLater(() => this.#shed(session, left))
  }

  /**
   * Gives a message of a Shared Subscription to a member that has room, or else to one whose queue takes it.
   */
  #passOn(session: Session, { message, share }: Delivery): boolean {
    const group = share === null ? null : this.#state.router.shareGroup(share)
    if (share === null || group === null) return false
    this.#state.work.units += group.members.length
    const others = group.members.filter(
      ({ subscriber }) => subscriber !== session && !subscriber.queue.isCapped,
    )
    const taker =
      others.find(({ subscriber }) => subscriber.hasRoom) ??
      others.find(({ subscriber, options }) => subscriber.takes(message, options.qos))
    if (taker === undefined) return false
    const { subscriber, options, identifier } = taker
    if (!subscriber.hasRoom) this.#backlog.add(share, subscriber)
    subscriber.deliver(sharedDelivery(message, share, options, identifier), subscriber.durableAt)
    return true
  }

  /** Ends relief: memory is no longer short. */
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

  /** Leaves alone a stored Session with messages that can be parked: only `QueueCaps` may have capped it. */
  #uncap(session: Session): void {
    if (!session.stored || !this.#state.store.canPark) session.queue.uncap()
  }

  /** Forgets clients that paid long ago, or have gone. */
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
