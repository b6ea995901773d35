/** Fuzzing of a queue's machine against the naive model: random events, and its invariants after each. */
import { Message, Topic } from '../../src/mqtt/message.ts'
import { parseTag } from '../../src/queue/explicit/tag.ts'
import { completeRules, type GroupRules } from '../../src/queue/rules.ts'
import type { MemberOptions } from '../../src/queue/state/consumer.ts'
import { FakeConsumer, RULES, Stage } from '../queue/stage.ts'
import { Client, type Hand, Model } from './queue-model.ts'
import type { Random } from './random.ts'
import { shorter, type Target } from './target.ts'

export type Step =
  | {
      readonly do: 'put'
      readonly key: number
      readonly size: number
      /** Milliseconds from now; 0 for never. */
      readonly expires: number
      readonly qos: 0 | 1 | 2
      readonly priority: number
      /** A `message-id`; 0 for none. */
      readonly id: number
    }
  | {
      readonly do: 'join'
      readonly options: MemberOptions
      readonly stored: boolean
      /** Larger messages are too large; 0 for any. */
      readonly sizeMax: number
    }
  | {
      readonly do: 'answer'
      readonly who: number
      readonly at: number
      readonly code: number
      readonly after: number
    }
  | { readonly do: 'away' | 'back' | 'leave' | 'deprive' | 'end'; readonly who: number }
  | { readonly do: 'room'; readonly who: number; readonly room: number }
  | { readonly do: 'pass'; readonly ms: number }
  | {
      readonly do: 'tag'
      readonly at: number
      readonly verb: 'done' | 'retry' | 'dead' | 'extend'
      readonly seconds: number | null
    }
  | { readonly do: 'moved' | 'purge' | 'pause' | 'resume' | 'load' | 'crash' }
  | { readonly do: 'change'; readonly world: number }
  | { readonly do: 'extract'; readonly at: number }

export interface Play {
  readonly world: number
  /** Whether segments have to be read before they are there. */
  readonly lazy: boolean
  /** Messages that one call of `work` handles. */
  readonly budget: number
  readonly steps: readonly Step[]
}

const QUICK: GroupRules = {
  ...RULES,
  ackTimeoutSeconds: 5,
  passedOverSeconds: 2,
  deliveryLimit: 4,
  retryDelayMaxSeconds: 4,
  deduplicateSeconds: 5,
}

/** `lastValue` cannot change, and priorities only in an empty queue. */
const WORLDS: readonly GroupRules[] = [
  QUICK,
  { ...QUICK, dispatch: 'key' },
  { ...QUICK, dispatch: 'key', keyWindow: 3, key: 'level:1' },
  { ...QUICK, dispatch: 'exclusive', deduplicateIdsMax: 1 },
  { ...QUICK, prefetch: 3, hasDeadLetters: false, retryDelaySeconds: 0 },
  { ...QUICK, messagesMax: 12, bytesMax: 300, deadLetterReasons: ['overflow', 'purged', 'expired'] },
  { ...QUICK, messagesMax: 12, overflow: 'reject', isDeadLetters: true },
  { ...QUICK, unsettledMax: 5, dispatch: 'fair' },
  { ...QUICK, lookaheadMessagesMax: 3, dispatch: 'key' },
  { ...QUICK, priorities: 3, priorityBurst: 4 },
  { ...QUICK, lastValue: true },
  { ...QUICK, lastValue: true, dispatch: 'key' },
]

/** Where a message that could go may lie idle, since too much is in memory. */
const BOUNDED = new Set([7, 8])

const CODES = [0x00, 0x00, 0x00, 0x00, 0x10, 0x80, 0x83, 0x87, 0x87, 0x90, 0x91, 0x97, 0x99]

export class QueueTarget implements Target<Play> {
  readonly name = 'queue'
  readonly unit = 'sequences of steps'
  #steps = 0

  make(random: Random, corpus: readonly Play[]): Play {
    const old = corpus.length > 0 && random.chance(0.4) ? random.of(corpus) : null
    const before = old === null ? [] : old.steps.slice(0, random.below(old.steps.length + 1)).slice(0, 80)
    const fresh = Array.from({ length: random.between(5, 80) }, () => step(random))
    return {
      world: old !== null && random.chance(0.5) ? old.world : random.below(WORLDS.length),
      lazy: random.chance(0.25),
      budget: random.of([512, 512, 3]),
      steps: [...before, ...fresh],
    }
  }

  get summary(): string {
    return `${this.#steps} steps`
  }

  run(play: Play): string {
    const theatre = new Theatre(play)
    play.steps.forEach((step, at) => {
      this.#steps++
      try {
        theatre.act(step)
      } catch (error) {
        throw new Error(`step ${at} (${step.do}): ${error instanceof Error ? error.stack : error}`)
      }
    })
    return theatre.outcome
  }

  *smaller(play: Play): Iterable<Play> {
    for (const steps of shorter(play.steps)) yield { ...play, steps }
    if (play.lazy) yield { ...play, lazy: false }
    if (play.budget < 512) yield { ...play, budget: 512 }
  }

  write(play: Play): unknown {
    return play
  }

  read(json: never): Play {
    return json
  }
}

export const queue = new QueueTarget()

function step(random: Random): Step {
  const who = random.below(8)
  return random.weighted<() => Step>([
    [
      30,
      () => ({
        do: 'put',
        key: random.below(4),
        size: random.of([1, 1, 5, 20, 40]),
        expires: random.chance(0.15) ? random.of([500, 5000, 30_000]) : 0,
        qos: random.of([0, 1, 1, 2]),
        priority: random.below(10),
        id: random.chance(0.1) ? random.between(1, 3) : 0,
      }),
    ],
    [
      6,
      () => ({ do: 'join', options: options(random), stored: random.chance(0.5), sizeMax: sizeMax(random) }),
    ],
    [
      30,
      () => ({ do: 'answer', who, at: place(random), code: random.of(CODES), after: random.below(4) - 1 }),
    ],
    [5, () => ({ do: random.of(['away', 'back', 'back', 'leave', 'deprive', 'end'] as const), who })],
    [4, () => ({ do: 'room', who, room: random.of([0, 1, 2, 100]) })],
    [12, () => ({ do: 'pass', ms: random.of([1, 100, 999, 1000, 2000, 5000, 11_000, 61_000]) })],
    [
      5,
      () => ({
        do: 'tag',
        at: random.below(20),
        verb: random.of(['done', 'retry', 'dead', 'extend'] as const),
        seconds: random.chance(0.5) ? null : random.below(9),
      }),
    ],
    [5, () => ({ do: 'moved' })],
    [2, () => ({ do: random.of(['purge', 'pause', 'resume', 'resume'] as const) })],
    [4, () => ({ do: 'load' })],
    [2, () => ({ do: 'change', world: random.below(WORLDS.length) })],
    [1, () => ({ do: 'extract', at: random.below(10) })],
    [2, () => ({ do: 'crash' })],
  ])()
}

/** Mostly the oldest. */
function place(random: Random): number {
  return random.chance(0.6) ? 0 : random.below(6)
}

function sizeMax(random: Random): number {
  return random.chance(0.15) ? random.of([3, 25]) : 0
}

function options(random: Random): MemberOptions {
  const isExplicit = random.chance(0.25)
  const face = !isExplicit && random.chance(0.2) ? 'share' : 'queue'
  return {
    face,
    qos: random.of([0, 1, 1, 1, 2]),
    prefetch: random.of([null, 'auto', 1, 2, 3, 10]),
    isExplicit,
    leaseSeconds: isExplicit ? random.of([null, 1, 5]) : null,
  }
}

/** A play: the machine, its surroundings, and the model. */
class Theatre {
  readonly #play: Play
  #stage: Stage
  readonly #model: Model
  #rules: GroupRules
  #world: number
  #hasChanged = false
  readonly #hands: Hand[] = []
  readonly #tags = new Set<string>()
  #names = 0

  constructor(play: Play) {
    this.#play = play
    this.#world = play.world
    this.#rules = WORLDS[play.world]!
    this.#stage = new Stage(this.#rules)
    this.#model = new Model(() => this.#stage, completeRules(this.#rules))
    this.#wire()
  }

  #wire(): void {
    const stage = this.#stage
    const model = this.#model
    stage.isLazy = this.#play.lazy
    stage.budget = this.#play.budget
    stage.onTake = (consumer, handle) => {
      model.take(consumer, handle)
      const hand = model.handOf(handle)
      if (hand !== null) this.#hands.push(hand)
      const { tag } = handle
      if (tag !== '' && this.#tags.has(tag)) throw new Error(`the tag ${tag} is given out twice`)
      this.#tags.add(tag)
    }
    stage.onRefusal = (consumer, handle, result) => model.refused(consumer, handle, result)
    stage.onDrop = (reason, lane, sequence) => model.dropped(reason, lane, sequence)
    stage.onDeath = ({ reason, lane, sequence }) => model.dead(reason, lane, sequence)
    stage.onReturned = (lane, sequence, due) => model.returned(lane, sequence, due)
    stage.onTick = () => model.tick()
  }

  get outcome(): string {
    return [...this.#model.seen]
      .map(([what, count]) => `${what} ${Math.min(count, 3)}`)
      .sort()
      .join(', ')
  }

  act(step: Step): void {
    this.#do(step)
    const stage = this.#stage
    stage.settle()
    // What is in memory for one message pushes out what another one needs: each read makes progress.
    for (let reads = 0; this.#play.lazy && step.do === 'load' && stage.wanted.size > 0; reads++) {
      if (reads > 2000) throw new Error('it reads for ever')
      stage.load()
    }
    const isIdle = !stage.isAwake && !stage.group.hasWork && stage.wanted.size === 0
    this.#model.compare(isIdle && !BOUNDED.has(this.#world))
    const { unsettledMax } = completeRules(this.#rules)
    const { inFlight, held } = stage.group.states
    if (unsettledMax < 100 && !this.#hasChanged && inFlight + held > unsettledMax) {
      throw new Error('more in memory than it may be')
    }
  }

  #client(who: number): Client | undefined {
    const { clients } = this.#model
    return clients.length === 0 ? undefined : clients[who % clients.length]
  }

  #do(step: Step): void {
    const model = this.#model
    const stage = this.#stage
    switch (step.do) {
      case 'put':
        this.#put(step)
        return
      case 'join':
        this.#join(step.options, step.stored, step.sizeMax)
        return
      case 'answer': {
        const client = this.#client(step.who)
        if (client === undefined || !client.online) return
        const hands = [...client.hands.filter(({ qos }) => qos > 0), ...client.echoes]
        const hand = hands[step.at % Math.max(hands.length, 1)]
        if (hand === undefined) return
        const after = step.after < 0 ? null : step.after
        model.acknowledged(hand, step.code, after)
        stage.group.acknowledged(hand.handle, step.code, after)
        return
      }
      case 'tag': {
        const hands = this.#hands.filter(({ handle }) => handle.tag !== '')
        const hand = hands[step.at % Math.max(hands.length, 1)]
        if (hand === undefined || (this.#play.lazy && hand.item.hand === null)) return
        const expected = model.answer(this.#now(hand), step.verb, step.seconds)
        const answer = stage.group.answer(parseTag(hand.handle.tag)!, step.verb, step.seconds, '')
        if (answer !== expected) throw new Error(`the answer is ${answer}, not ${expected}`)
        return
      }
      case 'room': {
        const client = this.#client(step.who)
        if (client === undefined) return
        client.consumer.capacity = step.room
        client.room = true
        stage.group.room(client.consumer.member!)
        return
      }
      case 'pass':
        stage.pass(step.ms)
        model.judgeTime()
        return
      default:
        this.#doMore(step)
    }
  }

  /** The hand-out as the model knows it after a crash. */
  #now(hand: Hand): Hand {
    const { item } = hand
    const isSame = item.hand?.handle === hand.handle || item.hand?.handle.tag === hand.handle.tag
    return isSame ? item.hand! : hand
  }

  #doMore(step: Exclude<Step, { readonly do: 'put' | 'join' | 'answer' | 'tag' | 'room' | 'pass' }>): void {
    const model = this.#model
    const { group } = this.#stage
    switch (step.do) {
      case 'moved': {
        const death = this.#stage.deaths.shift()
        if (death === undefined) return
        model.moved(death.lane, death.sequence)
        group.moved(death)
        return
      }
      case 'purge':
        model.purgeTo = this.#stage.log.messages.map(({ length }) => length + 1)
        group.purge()
        return
      case 'pause':
        model.isPaused = true
        group.pause()
        return
      case 'resume':
        model.isPaused = false
        group.resume()
        return
      case 'load':
        return
      case 'crash':
        this.#crash()
        return
      case 'change': {
        const rules = WORLDS[step.world]!
        const isSame = (rules.priorities ?? 1) === (this.#rules.priorities ?? 1)
        if (
          (!isSame && model.items.length > 0) ||
          (rules.lastValue ?? false) !== (this.#rules.lastValue ?? false)
        )
          return
        this.#hasChanged = true
        this.#rules = rules
        this.#world = step.world
        this.#stage.log.widen(rules.priorities ?? 1)
        model.change(completeRules(rules))
        group.change(rules)
        return
      }
      case 'extract': {
        const item = model.items[step.at % Math.max(model.items.length, 1)]
        if (item === undefined || this.#play.lazy) return
        const isIdle = item.state === 'ready' || item.state === 'deferred'
        if (isIdle) model.extract(item)
        const isDone = group.extract(item.lane, item.sequence)
        if (isDone !== isIdle) throw new Error(`extract is ${isDone}, not ${isIdle}`)
        return
      }
      default:
        this.#doWith(step.do, this.#client(step.who))
    }
  }

  #doWith(what: 'away' | 'back' | 'leave' | 'deprive' | 'end', client: Client | undefined): void {
    if (client === undefined) return
    const model = this.#model
    const { group } = this.#stage
    const { member } = client.consumer
    model.note(what)
    switch (what) {
      case 'away':
        model.away(client)
        group.away(member!)
        return
      case 'back':
        model.back(client)
        group.back(member!)
        return
      case 'leave':
        model.leave(client)
        group.leave(member!)
        return
      default:
        model.end(client, what === 'end')
        group.end(member!, what === 'end')
    }
  }

  #put(step: Extract<Step, { readonly do: 'put' }>): void {
    const { log, group, time } = this.#stage
    const model = this.#model
    const expiresAt = step.expires === 0 ? Number.POSITIVE_INFINITY : time + step.expires
    const payload = Buffer.alloc(step.size)
    const topic = new Topic(`k${step.key}`)
    const { qos } = step
    const message = Message.of({ topic, payload, qos, retain: false, expiresAt, publisher: 'p' })
    const lanes = model.rules.priorities
    const lane = lanes === 1 ? 0 : Math.floor((step.priority * lanes) / 10)
    const id = step.id === 0 ? null : `id${step.id}`
    const isKnown = id !== null && model.knows(id)
    const append = this.#stage.append.bind(this.#stage)
    this.#stage.append = (number, appended) => {
      const sequence = append(number, appended)
      if (number !== lane) throw new Error(`lane ${number}, not ${lane}`)
      model.put({ lane, sequence, key: topic.name, size: message.size, qos, expiresAt })
      if (model.rules.lastValue) model.supersede(topic.name, lane, sequence)
      return sequence
    }
    const fits = this.#fits(message.size)
    const outcome = group.append(message, id, step.priority)
    this.#stage.append = append
    if ((outcome === 'duplicate') !== isKnown) throw new Error(`${outcome}, but known is ${isKnown}`)
    if (outcome === 'in' && id !== null) model.remember(id)
    const ids = [...this.#stage.group.remembered(0, Number.POSITIVE_INFINITY)].map((one) => one.id)
    if (id !== null && `${ids}` !== `${model.idNames}`)
      throw new Error(`it knows ${ids}, not ${model.idNames}`)
    const isDropping = model.rules.overflow === 'drop-oldest'
    if (outcome === 'overflow' && fits) throw new Error('it is not full')
    if (outcome === 'in' && !fits && !isDropping) throw new Error('it is full')
    if (isDropping && !this.#play.lazy && outcome === 'in' && !this.#fits(0, 0))
      throw new Error('too much in it')
    if (group.lanes.length < lanes || group.lanes.length !== log.count.length) throw new Error('lanes')
  }

  #fits(size: number, count = 1): boolean {
    const model = this.#model
    const kept = model.items.filter(({ state }) => state !== 'moving')
    const bytes = kept.reduce((sum, one) => sum + one.size, 0)
    return kept.length + count <= model.rules.messagesMax && bytes + size <= model.rules.bytesMax
  }

  #join(options: MemberOptions, stored: boolean, sizeMax: number): void {
    if (this.#model.clients.length >= 6) return
    const consumer = new FakeConsumer(this.#stage, `c${++this.#names}`)
    consumer.isStored = stored
    if (sizeMax > 0) consumer.sizeMax = sizeMax
    this.#model.join(new Client(consumer, options, stored, this.#model.rules.prefetch))
    consumer.member = this.#stage.group.join(consumer, options, true)
  }

  #crash(): void {
    const model = this.#model
    const before = this.#stage
    const nobody = new Client(new FakeConsumer(before, ''), NOBODY, false, 1)
    nobody.online = false
    const left = model.crash(nobody)
    this.#stage = before.restarted(this.#rules)
    this.#stage.packetId = before.packetId
    this.#wire()
    model.note('crash')
    for (const { client, hands, echoes } of left) {
      const consumer = new FakeConsumer(this.#stage, client.consumer.clientId)
      consumer.sizeMax = client.consumer.sizeMax
      consumer.isStored = true
      const again = new Client(consumer, client.options, true, model.rules.prefetch)
      again.online = false
      model.join(again)
      consumer.member = this.#stage.group.join(consumer, client.options, false)
      // A Session may still know of hand-outs that are over; it is not given them back.
      for (const { item, handle } of echoes) {
        if (item.state === 'moving' || item.record.attempts < handle.attempt) continue
        const { lane, sequence, qos, attempt, packetId } = handle
        const again = this.#stage.group.adopt(consumer.member, { lane, sequence, qos, attempt, packetId })
        if (again !== null) throw new Error(`${lane}/${sequence} is given back twice`)
      }
      for (const hand of hands) {
        const { lane, sequence } = hand.item
        const { qos, attempt, packetId } = hand.handle
        const handle = this.#stage.group.adopt(consumer.member, { lane, sequence, qos, attempt, packetId })
        if (handle === null) throw new Error(`${lane}/${sequence} is not given back`)
        const adopted: Hand = { ...hand, client: again, handle, sentAt: handle.sentAt, passedOver: false }
        again.hands.push(adopted)
        hand.item.hand = adopted
        this.#hands.push(adopted)
      }
    }
    // Deadlines that passed long ago.
    this.#stage.pass(0)
  }
}

const NOBODY = { face: 'queue', qos: 1, prefetch: 1, isExplicit: true, leaseSeconds: null } as const
