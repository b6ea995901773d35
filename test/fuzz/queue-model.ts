/**
 * A queue without cleverness: arrays that are searched from one end to the other. It judges each hand-out
 * and each loss of a machine when they happen, and compares all states after each step.
 */
import { type Rules, retryDelayMs } from '../../src/queue/rules.ts'
import type { Handle, MemberOptions } from '../../src/queue/state/consumer.ts'
import { Window } from '../../src/queue/state/window.ts'
import type { FakeConsumer, Stage } from '../queue/stage.ts'

type State = 'ready' | 'sent' | 'loose' | 'pinned' | 'held' | 'deferred' | 'moving' | 'gone'
type Reason = 'echo' | 'refused' | 'large'

/** A message that was put in. */
export interface Item {
  readonly lane: number
  readonly sequence: number
  readonly key: string
  readonly size: number
  readonly qos: number
  readonly expiresAt: number
  state: State
  failures: number
  attempts: number
  hand: Hand | null
  /** When it is ready again, or its lease ends. */
  at: number
  blocks: { client: Client; reason: Reason }[]
  superseded: boolean
  /** Whether it was handed out by another rule: then it need not keep to the one for keys. */
  isOlder: boolean
  /** What is known of it after a restart. */
  record: { failures: number; attempts: number; due: number }
  /** As recorded: by whom it is held, and until when. */
  lease: { hand: Hand; until: number } | null
  /** Nobody knows whether this consumer has it: it goes to the dead letters. */
  doubt: Hand | null
}

/** A hand-out. */
export interface Hand {
  readonly item: Item
  readonly client: Client
  readonly handle: Handle
  readonly attempt: number
  readonly qos: number
  readonly leaseSeconds: number
  sentAt: number
  passedOver: boolean
  is: 'current' | 'echo' | 'over'
}

/** A consumer. */
export class Client {
  readonly consumer: FakeConsumer
  options: MemberOptions
  readonly stored: boolean
  readonly window: Window
  online: boolean
  closing = false
  gone = false
  room = true
  silent = false
  pausedUntil = 0
  pauseMs = 0
  charged = false
  standby = false
  servedAt = 0
  /** In flight and held, in order of hand-out; and what was taken from it. */
  hands: Hand[] = []
  echoes: Hand[] = []

  constructor(consumer: FakeConsumer, options: MemberOptions, stored: boolean, prefetch: 'auto' | number) {
    this.consumer = consumer
    this.options = options
    this.stored = stored
    this.window = new Window(options.prefetch ?? prefetch)
    this.online = true
  }

  get flights(): Hand[] {
    return this.hands.filter(({ item }) => item.state !== 'held')
  }

  get used(): number {
    return this.hands.length + this.echoes.filter(({ passedOver }) => !passedOver).length
  }

  get isThere(): boolean {
    return this.online && !this.closing && !this.gone && !this.standby
  }

  get isOpen(): boolean {
    const isAble = this.isThere && !this.silent && this.pausedUntil === 0 && this.room
    return isAble && this.used < this.window.size
  }
}

const IDLE: readonly State[] = ['ready', 'deferred']
const UNDER_WAY: readonly State[] = ['sent', 'loose', 'pinned', 'held', 'deferred']

export class Model {
  rules: Rules
  items: Item[] = []
  clients: Client[] = []
  isPaused = false
  /** Ids and when they were taken, the oldest first. */
  #ids: { readonly id: string; readonly takenAt: number }[] = []
  /** The same with those that were forgotten early, as their records name them. */
  #recordedIds: { readonly id: string; readonly takenAt: number }[] = []
  /** The end of each lane when a purge began that is not over; 0 for none. */
  purgeTo: number[]
  /** Counts of what happened, for the outcome of a play. */
  readonly seen = new Map<string, number>()
  #active: Client | null = null
  #serial = 0
  #streak = 0
  #starved = 0
  readonly #stage: () => Stage

  constructor(stage: () => Stage, rules: Rules) {
    this.#stage = stage
    this.rules = rules
    this.purgeTo = Array.from({ length: rules.priorities }, () => 0)
  }

  get #now(): number {
    return this.#stage().time
  }

  note(what: string): void {
    this.seen.set(what, (this.seen.get(what) ?? 0) + 1)
  }

  /** Whether a message with this id is a repetition. */
  knows(id: string): boolean {
    const since = this.#now - 1000 * this.rules.deduplicateSeconds
    this.#ids = this.#ids.filter(({ takenAt }) => takenAt > since)
    return this.#ids.some((one) => one.id === id)
  }

  /** A message with this id was taken. */
  remember(id: string): void {
    const taken = { id, takenAt: this.#now }
    this.#ids.push(taken)
    this.#recordedIds.push(taken)
    this.#ids = this.#ids.slice(-this.rules.deduplicateIdsMax)
  }

  get idNames(): string[] {
    return this.#ids.map(({ id }) => id)
  }

  item(lane: number, sequence: number): Item {
    const found = this.items.find((one) => one.lane === lane && one.sequence === sequence)
    if (found === undefined) throw new Error(`${lane}/${sequence} is not in the queue`)
    return found
  }

  /** The hand-out that a handle is; null if it is over. */
  handOf({ lane, sequence }: Handle): Hand | null {
    return this.items.find((one) => one.lane === lane && one.sequence === sequence)?.hand ?? null
  }

  // ── who may have what ───────────────────────────────────────────────────────────────────────────────

  #isBlocked(item: Item, client: Client): boolean {
    return item.blocks.some((block) => block.client === client)
  }

  block(item: Item, client: Client, reason: Reason): void {
    if (item.blocks.some((one) => one.client === client && one.reason === reason)) return
    item.blocks.push({ client, reason })
  }

  #unblock(item: Item, client: Client, reasons: readonly Reason[]): void {
    item.blocks = item.blocks.filter((one) => one.client !== client || !reasons.includes(one.reason))
  }

  /** Whether its key and the rule of order let it go. */
  #mayGo(item: Item): boolean {
    if (item.state !== 'ready' && item.state !== 'loose') return false
    if (item.expiresAt <= this.#now || item.superseded) return false
    if (this.rules.dispatch === 'key' && !item.isOlder) {
      const before = this.#ofKey(item).filter(
        ({ state, sequence }) => UNDER_WAY.includes(state) || (state === 'ready' && sequence < item.sequence),
      )
      return before.length < this.rules.keyWindow
    }
    if (this.rules.dispatch !== 'exclusive') return true
    // What came back holds up what follows, and so does what one that was active before still holds.
    const isBefore = (one: Item) => one.lane === item.lane && one.sequence < item.sequence
    const holdsUp = (one: Item) =>
      one.state === 'deferred' || this.#isStuck(one) || this.#isHeldElsewhere(one)
    return !this.items.some((one) => isBefore(one) && holdsUp(one))
  }

  #isHeldElsewhere({ state, hand }: Item): boolean {
    return state === 'held' && hand?.client !== this.#active
  }

  /** Others of its key, that are not dead. */
  #ofKey(item: Item): Item[] {
    return this.items.filter((one) => one !== item && one.key === item.key && one.state !== 'moving')
  }

  /** With `exclusive`: it was offered, and the active one may not have it. */
  #isStuck(item: Item): boolean {
    return item.state === 'ready' && this.#active !== null && this.#isBlocked(item, this.#active)
  }

  /** Whether this member may be given it now. */
  #mayTake(item: Item, client: Client): boolean {
    if (!client.isOpen || this.#isBlocked(item, client)) return false
    if (this.rules.dispatch === 'exclusive') return client === this.#active
    if (this.rules.dispatch !== 'key') return true
    const holders = this.#holders(item)
    return holders.length === 0 || holders.includes(client)
  }

  /** Members that are connected and have others of its key. */
  #holders(item: Item): Client[] {
    const hands = this.#ofKey(item).flatMap(({ hand }) => (hand === null ? [] : [hand.client]))
    return [...new Set(hands.filter(({ online, gone }) => online && !gone))]
  }

  /**
   * Whether it may go to any of several that have its key since before another rule: all of them are right.
   */
  #isOpenQuestion(item: Item): boolean {
    return this.rules.dispatch === 'key' && (item.isOlder || this.#holders(item).length > 1)
  }

  takers(item: Item): Client[] {
    return this.#mayGo(item) ? this.clients.filter((client) => this.#mayTake(item, client)) : []
  }

  // ── putting in and going out ────────────────────────────────────────────────────────────────────────

  put(item: Pick<Item, 'lane' | 'sequence' | 'key' | 'size' | 'qos' | 'expiresAt'>): void {
    const record = { failures: 0, attempts: 0, due: 0 }
    const rest = {
      failures: 0,
      attempts: 0,
      hand: null,
      at: 0,
      blocks: [],
      superseded: false,
      isOlder: false,
      lease: null,
      doubt: null,
    }
    this.items.push({ ...item, state: 'ready', ...rest, record })
  }

  /** Older messages of its key go: at once, or instead of coming back. */
  supersede(key: string, lane: number, sequence: number): void {
    for (const one of this.items) {
      if (one.key !== key || one.lane !== lane || one.sequence >= sequence) continue
      if (!IDLE.includes(one.state)) one.superseded = true
    }
  }

  /** The machine gave a message to a consumer. */
  take(consumer: FakeConsumer, handle: Handle): void {
    const item = this.item(handle.lane, handle.sequence)
    const client = this.clients.find((one) => one.consumer === consumer)
    if (client === undefined) throw new Error('handed out to nobody')
    this.#judge(item, client, handle)
    const before = item.hand
    if (before !== null) {
      before.is = 'over'
      before.client.hands = before.client.hands.filter((one) => one !== before)
      this.note('claimed')
      this.#unsubscribed(before.client)
    }
    item.attempts++
    const { sentAt } = handle
    const { attempt, qos } = handle
    const leaseSeconds = client.options.leaseSeconds ?? 60
    const fresh = { passedOver: false, is: 'current' } as const
    const hand: Hand = { item, client, handle, attempt, qos, leaseSeconds, sentAt, ...fresh }
    client.servedAt = ++this.#serial
    this.note(`qos ${handle.qos}`)
    if (handle.qos === 0 && !client.options.isExplicit) {
      hand.is = 'over'
      this.#gone(item)
      return
    }
    item.hand = hand
    item.state = 'sent'
    client.hands.push(hand)
    if (handle.qos === 0) this.#hold(hand, 1000 * leaseSeconds)
  }

  #judge(item: Item, client: Client, handle: Handle): void {
    const name = `${item.lane}/${item.sequence}`
    const to = client.consumer.clientId
    if (this.isPaused) throw new Error(`${name} was handed out while paused`)
    if (item.hand !== null && item.state !== 'loose') throw new Error(`${name} has two holders`)
    const takers = this.takers(item)
    if (!takers.includes(client)) throw new Error(`${name} (${item.state}) must not go to ${to}`)
    const { face, qos } = client.options
    const due = face === 'share' ? Math.min(qos, item.qos) : qos
    if (handle.qos !== due) throw new Error(`${name} goes at QoS ${handle.qos}, not ${due}`)
    if (handle.attempt !== item.attempts + 1) {
      throw new Error(`${name} is attempt ${handle.attempt}, not ${item.attempts + 1}`)
    }
    const fewest = Math.min(...takers.map(({ used }) => used))
    const best = takers.filter(({ used }) => used === fewest)
    const first = Math.min(...best.map(({ servedAt }) => servedAt))
    const isUnfair = client.used !== fewest || client.servedAt !== first
    if (isUnfair && !this.#isOpenQuestion(item)) throw new Error(`${name} went to ${to}: unfair`)
    // With too much in memory, only what is there already goes.
    if (this.rules.unsettledMax < this.items.length) return
    for (const one of this.items) {
      if (this.#isOpenQuestion(one)) continue
      if (one.lane !== item.lane || one.sequence >= item.sequence || this.takers(one).length === 0) continue
      throw new Error(`${name} went before ${one.lane}/${one.sequence}`)
    }
    this.#judgeLane(item)
  }

  #judgeLane(item: Item): void {
    const { priorityBurst } = this.rules
    // While a lane is read, others are served.
    if (this.purgeTo.length === 1 || this.#stage().isLazy) return
    const others = this.items.filter((one) => one.lane !== item.lane && this.takers(one).length > 0)
    const isHigher = others.some((one) => one.lane > item.lane)
    // A lane counts as waiting, too, where nobody who is open may have what is ready in it.
    const isReady = ({ state }: Item) => state === 'ready' || state === 'loose'
    const isLower = this.items.some((one) => one.lane < item.lane && isReady(one))
    if (isHigher && this.#streak < priorityBurst)
      throw new Error(`lane ${item.lane} went before a higher one`)
    this.#streak = isLower ? this.#streak + 1 : 0
    this.#starved = others.some((one) => one.lane < item.lane) ? this.#starved + 1 : 0
    if (this.#starved > 2 * priorityBurst) throw new Error('a lower lane starves')
  }

  /** `take` answered that it cannot. */
  refused(consumer: FakeConsumer, handle: Handle, result: 'no-room' | 'too-large'): void {
    const client = this.clients.find((one) => one.consumer === consumer)!
    if (result === 'no-room') client.room = false
    else this.block(this.item(handle.lane, handle.sequence), client, 'large')
  }

  /** The machine let go of a message, or of a new one (sequence 0). */
  dropped(reason: string, lane: number, sequence: number): void {
    this.note(`dropped ${reason}`)
    if (sequence === 0) return
    const item = this.item(lane, sequence)
    this.#judgeLoss(item, reason)
    this.#free(item)
    this.#gone(item)
  }

  dead(reason: string, lane: number, sequence: number): void {
    this.note(`dead ${reason}`)
    const item = this.item(lane, sequence)
    // One that an event made so.
    if (item.state === 'moving') return
    this.#judgeLoss(item, reason)
    this.#free(item)
    item.state = 'moving'
  }

  #judgeLoss(item: Item, reason: string): void {
    const isIdle = IDLE.includes(item.state)
    const { lane, sequence } = item
    const isFine =
      (reason === 'expired' && item.expiresAt <= this.#now && (isIdle || item.state === 'loose')) ||
      (reason === 'purged' && isIdle && sequence < this.purgeTo[lane]!) ||
      (reason === 'superseded' && this.#isReplaced(item) && (isIdle || item.state === 'loose')) ||
      (reason === 'overflow' && isIdle && item === this.#oldestIdle) ||
      ((reason === 'too-large' || reason === 'packet-too-large') && this.#isTooLarge(item)) ||
      (reason === 'dead' && this.#isTooLarge(item)) ||
      (item.state === 'moving' && ['dead', 'refused-by-client', 'session-ended'].includes(reason))
    if (!isFine) throw new Error(`${lane}/${sequence} (${item.state}) left for ${reason}`)
  }

  #isReplaced(item: Item): boolean {
    return item.superseded || this.#hasNewer(item)
  }

  #hasNewer({ lane, key, sequence }: Item): boolean {
    const isNewer = (one: Item) => one.lane === lane && one.key === key && one.sequence > sequence
    return this.rules.lastValue && this.items.some(isNewer)
  }

  get #oldestIdle(): Item | undefined {
    const idle = this.items.filter(({ state }) => IDLE.includes(state))
    return idle.sort((one, other) => one.lane - other.lane || one.sequence - other.sequence)[0]
  }

  #isTooLarge(item: Item): boolean {
    const isTried = item.blocks.some(({ reason }) => reason === 'large')
    return isTried && this.#isEachBlocked(item, 'large')
  }

  #isEachBlocked(item: Item, reason: Reason): boolean {
    return this.clients.every(
      (client) =>
        !client.isThere || item.blocks.some((one) => one.client === client && one.reason === reason),
    )
  }

  /** The machine recorded that a message came back. */
  returned(lane: number, sequence: number, due: number): void {
    const item = this.items.find((one) => one.lane === lane && one.sequence === sequence)
    if (item === undefined) throw new Error(`${lane}/${sequence} came back and is gone`)
    const { failures, attempts } = this.#stage().log.returned.get(`${lane} ${sequence}`)!
    item.record = { failures, attempts, due }
    // At QoS 0 the message is held already by the next consumer.
    if (item.state !== 'held') item.lease = null
    const isAway = item.state === 'loose' && attempts === item.attempts
    if ((item.state !== 'ready' && !isAway) || (due === 0 && this.rules.retryDelaySeconds > 0)) return
    const isRefused = item.blocks.some(({ reason }) => reason === 'refused')
    if (due === 0 && !(isRefused && this.#isEachBlocked(item, 'refused'))) return
    // Everybody has refused it: they get it again after the delay.
    if (!this.#isEachBlocked(item, 'refused')) throw new Error(`${sequence} was put off for no reason`)
    item.blocks = item.blocks.filter(({ reason }) => reason !== 'refused')
    this.#free(item)
    item.state = due > 0 ? 'deferred' : 'ready'
    item.at = due
    this.note('put off')
  }

  // ── steps of a message ──────────────────────────────────────────────────────────────────────────────

  #gone(item: Item): void {
    item.state = 'gone'
    this.items = this.items.filter((one) => one !== item)
  }

  moved(lane: number, sequence: number): void {
    const item = this.items.find((one) => one.lane === lane && one.sequence === sequence)
    if (item?.state === 'moving') this.#gone(item)
  }

  /** The operator took it out. */
  extract(item: Item): void {
    this.#gone(item)
  }

  /** Takes a message from whoever has it. */
  #free(item: Item): void {
    const { hand } = item
    if (hand === null) return
    item.hand = null
    hand.is = 'over'
    hand.client.hands = hand.client.hands.filter((one) => one !== hand)
  }

  #ready(item: Item): void {
    // One that was replaced is dropped at once: `dropped` follows.
    item.state = 'ready'
  }

  #defer(item: Item, ms: number): void {
    if (ms <= 0) {
      this.#ready(item)
      return
    }
    item.state = 'deferred'
    item.at = this.#now + ms
  }

  #hold(hand: Hand, ms: number): void {
    const { item } = hand
    item.state = 'held'
    item.at = this.#now + ms
    item.lease = { hand, until: item.at }
  }

  #fail(item: Item): boolean {
    item.failures++
    if (item.failures < this.rules.deliveryLimit) return false
    this.#kill(item)
    return true
  }

  #kill(item: Item): void {
    this.#free(item)
    item.state = 'moving'
  }

  #echo(hand: Hand): void {
    hand.is = 'echo'
    hand.client.echoes.push(hand)
  }

  // ── events of consumers ─────────────────────────────────────────────────────────────────────────────

  join(client: Client): void {
    this.clients.push(client)
    this.#present()
  }

  #present(): void {
    if (this.rules.dispatch !== 'exclusive') {
      this.#active = null
      for (const client of this.clients) client.standby = false
      return
    }
    const isPresent = (one: Client) => one.online && !one.closing && !one.gone
    if (this.#active === null || !isPresent(this.#active)) this.#active = this.clients.find(isPresent) ?? null
    for (const client of this.clients) client.standby = client !== this.#active
  }

  acknowledged(hand: Hand, code: number, retryAfter: number | null): void {
    const { client, item } = hand
    if (hand.is === 'over' || item.state === 'held') return
    if (hand.is === 'echo') this.#echoAnswered(hand, code)
    else {
      for (const one of client.flights) {
        if (one === hand) break
        if (!hand.passedOver) one.passedOver = true
      }
      if (!client.options.isExplicit) client.window.acknowledged(this.#now, hand.sentAt)
      client.silent = false
      if (code >= 0x80) this.#refuse(hand, code, retryAfter)
      else if (client.options.isExplicit) this.#hold(hand, 1000 * hand.leaseSeconds)
      else {
        this.#free(item)
        this.#gone(item)
      }
    }
    if (code < 0x80) {
      client.pausedUntil = 0
      client.pauseMs = 0
    }
    this.#unsubscribed(client)
  }

  #echoAnswered(hand: Hand, code: number): void {
    const { client, item } = hand
    client.echoes = client.echoes.filter((one) => one !== hand)
    hand.is = 'over'
    client.silent = false
    if (item.state === 'gone') return
    this.#unblock(item, client, ['echo'])
    if (code < 0x80 && !client.options.isExplicit && item.state !== 'moving') this.#complete(item)
  }

  /** Done is done, wherever it is. */
  #complete(item: Item): void {
    const { hand, state } = item
    this.#free(item)
    this.#gone(item)
    if (hand === null) return
    if (state === 'sent') this.#echo(hand)
    this.#unsubscribed(hand.client)
  }

  #refuse(hand: Hand, code: number, retryAfter: number | null): void {
    const { client, item } = hand
    this.#free(item)
    if (client.options.face === 'share') {
      item.state = 'moving'
      return
    }
    if (code === 0x97) {
      client.pauseMs = Math.min(Math.max(2 * client.pauseMs, 1000), 60_000)
      client.pausedUntil = this.#now + client.pauseMs
    }
    if (code === 0x97 || code === 0x91) {
      this.#ready(item)
      return
    }
    const isForGood = code === 0x83 || code === 0x90 || code === 0x99
    if (isForGood && !this.rules.isDeadLetters) {
      item.failures++
      this.#kill(item)
      return
    }
    if (this.#fail(item)) return
    const others = this.clients.filter((one) => one !== client && one.isThere)
    if (code === 0x87 && others.length > 0) {
      this.block(item, client, 'refused')
      this.#ready(item)
    } else
      this.#defer(item, retryAfter === null ? retryDelayMs(this.rules, item.failures) : 1000 * retryAfter)
  }

  away(client: Client): void {
    if (!client.online) return
    this.#disconnected(client)
    const [oldest] = client.flights
    if (oldest !== undefined && !client.silent) {
      client.charged = true
      if (oldest.qos === 2) oldest.item.failures++
      else this.#fail(oldest.item)
    }
    client.silent = false
    for (const { item, qos } of client.flights) item.state = qos === 2 ? 'pinned' : 'loose'
    this.#present()
    this.#unsubscribed(client)
  }

  #disconnected(client: Client): void {
    client.online = false
    for (const hand of client.echoes) hand.is = 'over'
    client.echoes = []
    for (const item of this.items) this.#unblock(item, client, ['echo', 'large'])
  }

  back(client: Client): void {
    if (client.online) return
    client.online = true
    client.charged = false
    client.room = true
    for (const hand of client.flights) {
      hand.item.state = 'sent'
      hand.sentAt = this.#now
    }
    this.#present()
    this.#unsubscribed(client)
  }

  leave(client: Client): void {
    client.closing = true
    this.#present()
    this.#unsubscribed(client)
  }

  #unsubscribed(client: Client): void {
    if (client.closing && !client.gone && client.flights.length === 0) this.#forget(client)
  }

  #forget(client: Client): void {
    client.gone = true
    this.#disconnected(client)
    this.clients = this.clients.filter((one) => one !== client)
    this.#present()
  }

  end(client: Client, isCharged: boolean): void {
    if (client.gone) return
    const [oldest] = client.flights
    const charged = isCharged && !client.charged && !client.silent ? oldest : undefined
    this.#disconnected(client)
    for (const hand of client.flights) {
      const { item } = hand
      this.#free(item)
      if (hand.qos === 2) {
        item.state = 'moving'
        if (!client.stored) item.doubt = hand
      } else if (hand !== charged || !this.#fail(item)) this.#ready(item)
    }
    this.#forget(client)
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────

  tick(): void {
    const now = this.#now
    const { ackTimeoutMs, passedOverMs } = this.rules
    const timing = this.clients
      .flatMap(({ flights }) => flights)
      .filter((one) => one.item.state === 'sent' && one.qos === 1 && one.client.options.face === 'queue')
      .sort((one, other) => one.sentAt - other.sentAt)
    for (const hand of timing.filter((one) => one.passedOver && one.sentAt + passedOverMs <= now)) {
      this.#timeOut(hand)
    }
    for (const hand of timing.filter((one) => !one.passedOver && one.sentAt + ackTimeoutMs <= now)) {
      this.#timeOut(hand)
    }
    for (const item of this.items) if (item.state === 'deferred' && item.at <= now) this.#ready(item)
    for (const item of [...this.items].sort((one, other) => one.at - other.at)) {
      if (item.state !== 'held' || item.at > now) continue
      this.note('lease over')
      const { client } = item.hand!
      this.#free(item)
      if (!this.#fail(item)) this.#defer(item, retryDelayMs(this.rules, item.failures))
      this.#unsubscribed(client)
    }
    for (const client of this.clients) if (client.pausedUntil <= now) client.pausedUntil = 0
  }

  /** Nothing may be late once time has passed. */
  judgeTime(): void {
    const now = this.#now
    const { ackTimeoutMs, passedOverMs } = this.rules
    for (const { state, at, sequence } of this.items) {
      if ((state === 'deferred' || state === 'held') && at <= now)
        throw new Error(`${sequence} is late: ${state}`)
    }
    for (const client of this.clients) {
      const { pausedUntil, consumer, options } = client
      if (pausedUntil > 0 && pausedUntil <= now) throw new Error(`${consumer.clientId} is paused for ever`)
      if (options.face === 'share' || !client.online) continue
      for (const { qos, sentAt, passedOver, item } of client.flights) {
        const isLate = sentAt + (passedOver ? passedOverMs : ackTimeoutMs) <= now
        if (qos === 1 && isLate) throw new Error(`${item.sequence} does not time out`)
      }
    }
  }

  #timeOut(hand: Hand): void {
    const { client, item } = hand
    this.note(hand.passedOver ? 'passed over' : 'timed out')
    const isOldest = client.flights.find(({ passedOver }) => !passedOver) === hand
    const isCharged = hand.passedOver || (isOldest && !client.silent)
    this.#free(item)
    this.#echo(hand)
    if (!hand.passedOver) {
      this.block(item, client, 'echo')
      client.silent = true
    }
    if (!isCharged || !this.#fail(item)) this.#ready(item)
    this.#unsubscribed(client)
  }

  // ── answers by tag ──────────────────────────────────────────────────────────────────────────────────

  answer(hand: Hand, verb: 'done' | 'retry' | 'dead' | 'extend', seconds: number | null): 'done' | 'gone' {
    const { item, client } = hand
    if (item.state === 'gone' || item.state === 'moving') return 'gone'
    const isLatest = item.hand === hand
    if (isLatest && verb !== 'extend') {
      client.window.acknowledged(this.#now, hand.sentAt)
      client.silent = false
      client.pausedUntil = 0
      client.pauseMs = 0
    }
    if (verb === 'done') {
      this.#complete(item)
      return 'done'
    }
    if (!isLatest) return 'gone'
    if (verb === 'extend') {
      if (item.state !== 'held') return 'gone'
      this.#hold(hand, 1000 * (seconds ?? hand.leaseSeconds))
      return 'done'
    }
    const wasSent = item.state === 'sent'
    this.#free(item)
    if (wasSent) this.#echo(hand)
    if (verb === 'dead' && !this.rules.isDeadLetters) {
      item.failures++
      this.#kill(item)
    } else if (!this.#fail(item)) {
      this.#defer(item, seconds === null ? retryDelayMs(this.rules, item.failures) : 1000 * seconds)
    }
    this.#unsubscribed(client)
    return 'done'
  }

  // ── the operator, and a crash ───────────────────────────────────────────────────────────────────────

  change(rules: Rules): void {
    const before = this.rules
    this.rules = { ...rules, lastValue: before.lastValue }
    while (this.purgeTo.length < rules.priorities) this.purgeTo.push(0)
    this.#ids = this.#ids.slice(-this.rules.deduplicateIdsMax)
    for (const client of this.clients) {
      if (client.options.prefetch === null && rules.prefetch !== before.prefetch) {
        client.window.ask(rules.prefetch)
      }
    }
    const isSame =
      before.dispatch === rules.dispatch && before.key === rules.key && before.keyWindow === rules.keyWindow
    if (!isSame) {
      this.#active = null
      for (const item of this.items) item.isOlder ||= item.hand !== null || item.attempts > 0
    }
    this.#present()
    this.tick()
  }

  /**
   * After a crash, nothing is left in memory. Returns the stored consumers with what they had in flight.
   * `nobody` stands for those who held what is held.
   */
  crash(nobody: Client): { client: Client; hands: readonly Hand[]; echoes: readonly Hand[] }[] {
    // A limit that was raised meanwhile has room for ids that were forgotten early: their time is not over.
    this.#ids = this.#recordedIds.slice(-this.rules.deduplicateIdsMax)
    const kept = this.clients.filter(({ stored }) => stored)
    const left = kept.map((client) => ({ client, hands: client.flights, echoes: client.echoes }))
    for (const item of this.items) {
      // One that was dead is alive again, so those after it may have gone before it.
      if (item.state !== 'moving') continue
      for (const one of this.items) if (one.key === item.key) one.isOlder = true
    }
    for (const item of this.items) {
      const { hand, record, lease } = item
      item.blocks = []
      item.failures = record.failures
      const isKept = hand !== null && lease === null && hand.client.stored
      const attempt = lease?.hand.attempt ?? (isKept ? hand.attempt : 0)
      item.attempts = Math.max(attempt, record.attempts)
      if (lease !== null) {
        item.hand = { ...lease.hand, client: nobody, is: 'current' }
        item.state = 'held'
        item.at = lease.until
      } else if (isKept) item.state = hand.qos === 2 ? 'pinned' : 'loose'
      else {
        item.hand = null
        item.state = record.due > 0 ? 'deferred' : 'ready'
        item.at = record.due
      }
      const isUnknown = hand !== null && lease === null && hand.qos === 2 && !isKept
      if (isUnknown) item.doubt = hand
      if (item.doubt !== null) {
        item.hand = null
        item.state = 'moving'
        item.attempts = Math.max(item.doubt.attempt, record.attempts)
      }
      item.superseded = item.hand !== null && this.#hasNewer(item)
    }
    this.purgeTo = this.purgeTo.map(() => 0)
    this.#active = null
    this.#streak = 0
    this.#starved = 0
    this.#serial = 0
    this.clients = []
    return left
  }

  // ── comparing ───────────────────────────────────────────────────────────────────────────────────────

  /** Throws unless the machine says the same. `isSettled`: it has nothing left to do. */
  compare(isSettled: boolean): void {
    const { group } = this.#stage()
    for (const item of this.items) {
      const name = `${item.lane}/${item.sequence}`
      const look = group.look(item.lane, item.sequence)
      const isOut = item.state === 'sent' || item.state === 'loose' || item.state === 'pinned'
      const expected = isOut ? 'in-flight' : item.state
      // After a crash it moves as soon as there is a turn for it.
      const isNext = item.doubt !== null && look?.state === 'held'
      const state = isNext ? 'moving' : look?.state === 'waiting' ? 'ready' : look?.state
      if (state !== expected) throw new Error(`${name} is ${look?.state}, not ${item.state}`)
      if (look!.failures !== item.failures) {
        throw new Error(`${name} has ${look!.failures} failures, not ${item.failures}`)
      }
      if (look!.attempts !== item.attempts) {
        throw new Error(`${name} has ${look!.attempts} attempts, not ${item.attempts}`)
      }
    }
    this.#compareCounts()
    for (const client of this.clients) this.#compareClient(client)
    if (isSettled && !this.isPaused) this.#judgeRest()
  }

  #compareCounts(): void {
    const { group, log } = this.#stage()
    const { states } = group
    const bytes = this.items.reduce((sum, { size }) => sum + size, 0)
    if (states.messages !== this.items.length) {
      throw new Error(`${states.messages} messages, not ${this.items.length}`)
    }
    // What is settled after a crash before it was read counts with the average size.
    const isExact = !this.#stage().isLazy || !this.seen.has('crash')
    if (isExact && states.bytes !== bytes) throw new Error(`${states.bytes} bytes, not ${bytes}`)
    const { ready, waiting, inFlight, held, deferred, moving } = states
    if (ready + waiting + inFlight + held + deferred + moving !== states.messages || ready < 0) {
      throw new Error(`the states do not add up: ${JSON.stringify(states)}`)
    }
    group.lanes.forEach(({ floor, runs }, lane) => {
      const lowest = Math.min(
        log.messages[lane]!.length + 1,
        ...this.items.filter((one) => one.lane === lane).map(({ sequence }) => sequence),
      )
      if (floor !== lowest) throw new Error(`the floor is ${floor}, not ${lowest}`)
      const kept = [...log.settled[lane]!].filter(({ first }) => first >= floor)
      if (JSON.stringify([...runs]) !== JSON.stringify(kept)) {
        throw new Error(`runs ${JSON.stringify([...runs])} are not ${JSON.stringify(kept)}`)
      }
    })
  }

  #compareClient(client: Client): void {
    const { member, clientId } = client.consumer
    if (member!.used !== client.used) throw new Error(`${clientId} holds ${member!.used}, not ${client.used}`)
    if (member!.inFlight !== client.flights.length) throw new Error(`${clientId}: wrong in flight`)
    if (member!.window.size !== client.window.size) throw new Error(`${clientId}: wrong window`)
    const isOpen = member!.state === 'open'
    if (isOpen !== client.isOpen) throw new Error(`${clientId} is ${member!.state}, open is ${client.isOpen}`)
    // A window that has learned shrinks under what is held already.
    if (member!.options.prefetch !== 'auto' && member!.isOpen && client.used >= client.window.size) {
      throw new Error(`${clientId} has more than its window`)
    }
  }

  /** Nothing may be ready while somebody could have it. */
  #judgeRest(): void {
    for (const item of this.items) {
      if (this.#isOpenQuestion(item)) continue
      const [taker] = this.takers(item)
      const name = `${item.lane}/${item.sequence}`
      if (taker !== undefined) throw new Error(`${name} lies idle while ${taker.consumer.clientId} is open`)
      const isOffered = this.#mayGo(item) && item.state === 'ready' && this.clients.some((one) => one.isOpen)
      if (isOffered && this.#isTooLarge(item)) throw new Error(`${name} is too large for all, and stays`)
      if (item.state === 'ready' && this.rules.lastValue && this.#isReplaced(item)) {
        throw new Error(`${name} was replaced, and stays`)
      }
    }
  }
}
