/**
 * HOT. What a queue's machine keeps in memory: entries, hand-outs and members. An entry is a message that is
 * no longer just waiting in the log. A handle is one hand-out of an entry to a member, which is the
 * machine's side of one consumer.
 *
 * They refer to each other, so they are in one file.
 */
import type { Message, QoS } from '../../mqtt/message.ts'
import { LEASE_SECONDS } from '../../mqtt/server-topics.ts'
import { Window } from './window.ts'

/** Memory in bytes: of an entry, a hand-out, a member. */
export const ENTRY_BYTES = 180
export const HANDLE_BYTES = 144
const MEMBER_BYTES = 640

/** The states of an entry. A message without an entry is ready, or gone. */
export const State = {
  /** May be handed out. */
  Ready: 0,
  /** Ready, but its key is under way. */
  Waiting: 1,
  /** In flight to a Session with a Network Connection. */
  Sent: 2,
  /** In flight of an offline Session at QoS 1: another consumer may claim it. */
  Loose: 3,
  /** In flight of an offline Session at QoS 2: it stays that Session's. */
  Pinned: 4,
  /** Received by a consumer that acknowledges explicitly, until its lease ends. */
  Held: 5,
  /** Ready again at a time. */
  Deferred: 6,
  /** Its body is being read back, to be put into another queue. */
  Moving: 7,
  Gone: 8,
} as const

export type State = (typeof State)[keyof typeof State]

/** Why a member is not given an entry that is ready. */
export const Block = {
  /** A time-out took the message from the member, which may still be working on it. */
  Echo: 1,
  /** The member refused the message with 0x87: another one is to have it. */
  Refused: 2,
  /** The message exceeds the Maximum Packet Size of its connection. */
  TooLarge: 4,
} as const

export type Block = (typeof Block)[keyof typeof Block]

/** Why a member is not given an entry. */
interface Blocked {
  readonly member: Member
  /** Bits of `Block`. */
  reasons: number
  /** The connection of the member during which all reasons but a refusal hold. */
  connection: number
}

/** The Session's side of a consumer, or that of a function in this process. */
export interface Consumer {
  /** Client Identifier, for logs and dead letters. */
  readonly clientId: string
  /** Whether the store knows its hand-outs before the client does; absent for no. */
  readonly isStored?: boolean
  /**
   * Sends the message now or tells why not; never queues it. At QoS 0 it leaves with the open commit: the
   * machine records its settlement right after 'taken'. After 'no-room' nothing is offered until `room`.
   */
  take(message: Message, handle: Handle): 'taken' | 'no-room' | 'too-large'
  /** Away: the message went elsewhere. Its packet identifier is free, nothing is sent again. */
  release(handle: Handle): void
  /** Online: the message went elsewhere. Its packet identifier stays in use until it is acknowledged. */
  abandon(handle: Handle): void
}

/** The form of one consumer. */
export interface MemberOptions {
  /** The rules that hold: those of `$queue`, or those of Shared Subscriptions [MQTT-4.8.2-6]. */
  readonly face: 'queue' | 'share'
  readonly qos: QoS
  /** Null for the queue's. */
  readonly prefetch: 'auto' | number | null
  /** Whether an acknowledgement of the packet only says that it came. */
  readonly isExplicit: boolean
  /** How long it holds a message with explicit acknowledgement; null for `LEASE_SECONDS`. */
  readonly leaseSeconds: number | null
  /** Whether it acknowledges in any order, unlike clients: then nothing that it holds is passed over. */
  readonly answersInAnyOrder?: boolean
}

/** A message that the machine keeps in memory: it is or was handed out, came back, or waits for its key. */
export class Entry {
  readonly lane: number
  readonly sequence: number
  /** `Message.size`; -1 after a restart, until it is read. */
  size: number
  state: State = State.Ready
  /** Hand-outs that failed and count against the delivery limit. */
  failures = 0
  /** Hand-outs. */
  attempts = 0
  /** Reason Code of the latest refusal; 0 for none. */
  code = 0
  /** Broker time in ms at which it is ready again, or its lease ends. */
  at = 0
  heapIndex = -1
  /** Whether it is in `IdleEntries`. */
  isListedIdle = false
  /** The latest hand-out, while it is under way. */
  handle: Handle | null = null
  blocks: Blocked[] | null = null
  /** The dispatch's own object for its key. */
  key: object | null = null
  /** Whether a newer message of its key makes it go instead of coming back. */
  isSuperseded = false
  /** Its neighbours in order of sequence. */
  previous: Entry | null = null
  next: Entry | null = null

  constructor(lane: number, sequence: number, size: number) {
    this.lane = lane
    this.sequence = sequence
    this.size = size
  }

  /** Whether a member is not to be given it. */
  isBlockedFor(member: Member): boolean {
    const { blocks } = this
    if (blocks === null) return false
    for (let at = 0; at < blocks.length; at++) {
      if (blocks[at]!.member === member) return reasonsOf(blocks[at]!) !== 0
    }
    return false
  }

  /** How many members are not given it for this reason. */
  countBlocked(reason: Block): number {
    let count = 0
    for (const one of this.blocks ?? []) if ((reasonsOf(one) & reason) !== 0) count++
    return count
  }

  /** The same for members that might take messages now. */
  countBlockedThere(reason: Block): number {
    let count = 0
    for (const one of this.blocks ?? []) if (one.member.isThere && (reasonsOf(one) & reason) !== 0) count++
    return count
  }

  isBlockedAs(member: Member, reason: Block): boolean {
    const blocked = this.blocks?.find((one) => one.member === member)
    return blocked !== undefined && (reasonsOf(blocked) & reason) !== 0
  }

  block(member: Member, reason: Block): void {
    this.blocks ??= []
    const blocked = this.blocks.find((one) => one.member === member)
    const { connection } = member
    if (blocked === undefined) this.blocks.push({ member, reasons: reason, connection })
    else {
      blocked.reasons = reasonsOf(blocked) | reason
      blocked.connection = connection
    }
  }

  unblock(member: Member, reason: Block): void {
    const at = this.blocks === null ? -1 : this.blocks.findIndex((one) => one.member === member)
    if (at === -1) return
    const blocked = this.blocks![at]!
    blocked.reasons &= ~reason
    if (blocked.reasons === 0) this.#dropBlock(at)
  }

  /** Lifts a reason for all members, and forgets those who are gone. */
  unblockAll(reason: Block): void {
    for (let at = (this.blocks?.length ?? 0) - 1; at >= 0; at--) {
      const blocked = this.blocks![at]!
      blocked.reasons &= ~reason
      if (blocked.reasons === 0 || blocked.member.isGone) this.#dropBlock(at)
    }
  }

  #dropBlock(at: number): void {
    this.blocks!.splice(at, 1)
    if (this.blocks!.length === 0) this.blocks = null
  }
}

/** Whether nobody holds an entry. */
export function isIdle({ state }: Entry): boolean {
  return state === State.Ready || state === State.Waiting || state === State.Deferred
}

/** All reasons but a refusal end with the connection. */
function reasonsOf(blocked: Blocked): number {
  const isSame = blocked.connection === blocked.member.connection
  return isSame ? blocked.reasons : blocked.reasons & Block.Refused
}

/** The state of a hand-out. */
export const Hold = {
  /** The entry's latest one. */
  Current: 0,
  /** The message was taken from it; the packet identifier is still in use. */
  Echo: 1,
  /** It was answered or forgotten. */
  Over: 2,
} as const

export type Hold = (typeof Hold)[keyof typeof Hold]

/** One hand-out of a message. */
export class Handle {
  readonly entry: Entry
  readonly member: Member
  /** The QoS to send with. */
  readonly qos: QoS
  /** Number of the hand-out among those of the message, from 1 on. */
  readonly attempt: number
  /** Broker time in ms. */
  sentAt: number
  /** With explicit acknowledgement, what proves that a tag is of this hand-out; '' otherwise. */
  readonly token: string
  /** How long a lease is that it asks for without a time. */
  readonly leaseSeconds: number
  /** Belongs to the consumer. */
  packetId = 0
  hold: Hold = Hold.Current
  /** Whether a later one of the same member was acknowledged. */
  isPassedOver = false
  /** Its neighbours among those of its member. */
  previous: Handle | null = null
  next: Handle | null = null
  list: HandleList | null = null
  /** Its neighbours among those that time out. */
  earlier: Handle | null = null
  later: Handle | null = null
  timeouts: Timeouts | null = null

  constructor(entry: Entry, member: Member, qos: QoS, attempt: number, sentAt: number, token: string) {
    this.entry = entry
    this.member = member
    this.qos = qos
    this.attempt = attempt
    this.sentAt = sentAt
    this.token = token
    this.leaseSeconds = member.options.leaseSeconds ?? LEASE_SECONDS
  }

  get lane(): number {
    return this.entry.lane
  }

  get sequence(): number {
    return this.entry.sequence
  }

  /** The word for it in a PUBLISH to `$ack`; '' without explicit acknowledgement. */
  get tag(): string {
    return this.token === '' ? '' : `${this.lane}${this.sequence.toString(36)}.${this.attempt}.${this.token}`
  }
}

/** Handles of one member, in order of their hand-out. */
export class HandleList {
  first: Handle | null = null
  last: Handle | null = null
  size = 0

  push(handle: Handle): void {
    handle.list = this
    handle.previous = this.last
    if (this.last === null) this.first = handle
    else this.last.next = handle
    this.last = handle
    this.size++
  }

  remove(handle: Handle): void {
    const { previous, next } = handle
    if (previous === null) this.first = next
    else previous.next = next
    if (next === null) this.last = previous
    else next.previous = previous
    handle.previous = null
    handle.next = null
    handle.list = null
    this.size--
  }
}

/** Handles that time out all after the same time, in order of their hand-out. */
export class Timeouts {
  first: Handle | null = null
  last: Handle | null = null

  /** Most are the latest; one that is passed over goes between others. */
  add(handle: Handle): void {
    let before = this.last
    while (before !== null && before.sentAt > handle.sentAt) before = before.earlier
    handle.timeouts = this
    handle.earlier = before
    handle.later = before === null ? this.first : before.later
    if (handle.later === null) this.last = handle
    else handle.later.earlier = handle
    if (before === null) this.first = handle
    else before.later = handle
  }

  remove(handle: Handle): void {
    const { earlier, later } = handle
    if (earlier === null) this.first = later
    else earlier.later = later
    if (later === null) this.last = earlier
    else later.earlier = earlier
    handle.earlier = null
    handle.later = null
    handle.timeouts = null
  }
}

export type MemberState = 'open' | 'full' | 'paused' | 'silent' | 'standby' | 'away' | 'closing'

/** One consumer of a queue, in its machine. */
export class Member {
  readonly consumer: Consumer
  options: MemberOptions
  readonly window: Window
  /** Sent and not passed over, in order; `passedOver` are older ones that the client skipped. */
  readonly sent = new HandleList()
  readonly passedOver = new HandleList()
  /** Handles whose messages were taken from it. */
  readonly echoList = new HandleList()
  /** Echoes that count against the window: those that were not passed over. */
  echoesCounted = 0
  /** Messages that it holds with explicit acknowledgement. */
  held = 0
  isOnline: boolean
  /** Number of its connection. */
  connection = 0
  isClosing = false
  /** Closing, with nothing left: the group has forgotten it. */
  isGone = false
  /** False from a 'no-room' until the consumer says that it has room. */
  hasRoom = true
  /** Whether a message timed out and nothing was acknowledged since. */
  isSilent = false
  /** Whether another member is the active one. Belongs to the dispatch. */
  isStandby = false
  /** Whether it is connected, and neither closing nor standing by. Belongs to the group. */
  isThere = false
  /** Broker time in ms until which it is given nothing, since it had too much; 0 if it is not paused. */
  pausedUntil = 0
  pauseMs = 0
  /** Whether its oldest message was charged when its connection was lost. */
  isCharged = false
  /** Whether the dispatch may choose it. Belongs to the group. */
  isOpen = false
  /** Number of the hand-out by which it was served last. */
  servedAt = 0
  /** Belong to the dispatch: its place among the open ones, by load. */
  load = 0
  before: Member | null = null
  after: Member | null = null

  constructor(consumer: Consumer, options: MemberOptions, prefetch: 'auto' | number, isOnline: boolean) {
    this.consumer = consumer
    this.options = options
    this.window = new Window(prefetch)
    this.isOnline = isOnline
  }

  /** Messages in flight. */
  get inFlight(): number {
    return this.sent.size + this.passedOver.size
  }

  /** Packet identifiers in use by messages that were taken from it. */
  get echoes(): number {
    return this.echoList.size
  }

  /** How much of its window is used. */
  get used(): number {
    return this.sent.size + this.passedOver.size + this.held + this.echoesCounted
  }

  /** The oldest message in flight; null for none. */
  get oldest(): Handle | null {
    return this.passedOver.first ?? this.sent.first
  }

  /** All messages in flight, in order of their hand-out. */
  get flights(): Handle[] {
    const flights: Handle[] = []
    for (let one = this.passedOver.first; one !== null; one = one.next) flights.push(one)
    for (let one = this.sent.first; one !== null; one = one.next) flights.push(one)
    return flights
  }

  /** Memory of itself, and of all that it was handed out and has not answered. */
  get bytesHeld(): number {
    return (
      MEMBER_BYTES + (ENTRY_BYTES + HANDLE_BYTES) * (this.inFlight + this.held) + HANDLE_BYTES * this.echoes
    )
  }

  get state(): MemberState {
    if (this.isClosing) return 'closing'
    if (!this.isOnline) return 'away'
    if (this.isStandby) return 'standby'
    if (this.pausedUntil > 0) return 'paused'
    if (this.isSilent) return 'silent'
    return this.hasRoom && this.used < this.window.size ? 'open' : 'full'
  }
}
