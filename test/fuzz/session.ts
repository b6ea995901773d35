/** Fuzzing of the whole Server: what clients of all versions do, right and wrong, against the naive model. */
import { createHmac } from 'node:crypto'
import { type Limits, limitsWith } from '../../src/broker/boundary/limits.ts'
import type { Link, LinkHandler, LinkInfo } from '../../src/broker/boundary/link.ts'
import { Server } from '../../src/broker/server.ts'
import type { Delivery, Message } from '../../src/mqtt/message.ts'
import { Session } from '../../src/session/session.ts'
import { type Answer, answers } from './answers.ts'
import { SEEDS } from './framing.ts'
import { connectBytes, mutated, packetBytes } from './grammar.ts'
import { type Deed, type Expected, Model, type ModelConnection, type ModelLimits } from './model.ts'
import { type Plain, type PlainConnect, type PlainWill, type Version, write, writeProperty } from './plain.ts'
import type { Random } from './random.ts'
import { RecallStore } from './recall.ts'
import { same, shorter, type Target } from './target.ts'

export type Step =
  /** A new Network Connection; `who` speaks through it from now on. Its first packet comes with it. */
  | { readonly do: 'connect'; readonly who: number; readonly packet: Plain }
  | { readonly do: 'open'; readonly who: number; readonly bytes: string }
  /** Packets in one chunk, as if this were the client's version. */
  | { readonly do: 'send'; readonly who: number; readonly packets: readonly Plain[] }
  | { readonly do: 'bytes'; readonly who: number; readonly bytes: string }
  /** Answers as many packets as that, in order; with a Reason Code for all of them. */
  | { readonly do: 'answer'; readonly who: number; readonly count: number; readonly reasonCode: number }
  | { readonly do: 'vanish'; readonly who: number }
  | { readonly do: 'pass'; readonly seconds: number }
  /** What was done up to so many steps ago becomes durable. */
  | { readonly do: 'commit'; readonly ago: number }
  | { readonly do: 'crash' }

export interface Play {
  /** Which of `WORLDS`. */
  readonly world: number
  /** Whether every step is durable at its end. */
  readonly automatic: boolean
  readonly steps: readonly Step[]
}

const GENEROUS: ModelLimits = {
  receiveMaximum: 65_535,
  inFlightMax: 1000,
  maximumQoS: 2,
  retainAvailable: true,
  topicAliasMaximum: 64,
  topicAliasOutMaximum: 16,
  packetBytesMax: 268_435_460,
  sessionExpirySecondsMax: 1000,
  queueMessagesMax: Number.POSITIVE_INFINITY,
  keepAliveSecondsMax: Number.POSITIVE_INFINITY,
  willGraceSeconds: 30,
  connectTimeoutSeconds: 10,
}

const WORLDS: readonly ModelLimits[] = [
  GENEROUS,
  { ...GENEROUS, receiveMaximum: 3, inFlightMax: 2, topicAliasMaximum: 2, topicAliasOutMaximum: 1 },
  { ...GENEROUS, packetBytesMax: 200, queueMessagesMax: 3, inFlightMax: 1, keepAliveSecondsMax: 60 },
  { ...GENEROUS, maximumQoS: 1, retainAvailable: false, topicAliasMaximum: 0, receiveMaximum: 1 },
]

const CLIENTS = 4

export const session: Target<Play> = {
  name: 'session',
  unit: 'sequences of steps',

  make(random, corpus) {
    const old = corpus.length > 0 && random.chance(0.4) ? random.of(corpus) : null
    const before = old === null ? [] : old.steps.slice(0, random.below(old.steps.length + 1)).slice(0, 60)
    const fresh = Array.from({ length: random.between(5, 40) }, () => step(random))
    const after = old !== null && random.chance(0.5) ? random.of(corpus).steps.slice(-20) : []
    return {
      world: random.chance(0.5) && old !== null ? old.world : random.below(WORLDS.length),
      automatic: random.chance(0.5),
      steps: [...before, ...fresh, ...after],
    }
  },

  async run(play) {
    const stage = await Stage.make(play)
    try {
      for (const [at, each] of play.steps.entries()) await inStep(at, each, () => stage.run(each))
      await inStep(play.steps.length, 'the end', () => stage.finish())
    } finally {
      stage.close()
    }
    return stage.outcome()
  },

  *smaller(play) {
    for (const steps of shorter(play.steps)) yield { ...play, steps }
    for (const [at, each] of play.steps.entries()) {
      const others = smallerSteps(each).map((other) => play.steps.with(at, other))
      for (const steps of others) yield { ...play, steps }
    }
    if (!play.automatic) yield { ...play, automatic: true }
    if (play.world > 0) yield { ...play, world: 0 }
  },

  write: (play) => play,
  read: (json: Play) => json,
}

function smallerSteps(step: Step): Step[] {
  if (step.do !== 'send' || step.packets.length < 2) return []
  return [...shorter(step.packets)].map((packets) => ({ ...step, packets }))
}

async function inStep(at: number, step: unknown, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    const { stack, message } = error as Error
    throw new Error(`step ${at}, ${JSON.stringify(step)}: ${message}\n${stack}`)
  }
}

// ── the stage ─────────────────────────────────────────────────────────────────────────────────────────────

/** A transport that keeps what is written until somebody looks. */
class StageLink implements Link {
  readonly info: LinkInfo = {
    transport: 'memory',
    listener: 'fuzz',
    remoteAddress: '',
    remotePort: 0,
    allowAnonymous: true,
  }
  readonly leavesWritten = true
  readonly bufferedBytes = 0
  flushedBytes = 0
  over = false
  written: Buffer[] = []
  handler: LinkHandler | null = null

  write(chunks: readonly Buffer[], bytes: number): void {
    const whole = Buffer.concat(chunks)
    if (whole.length !== bytes) throw new Error(`a write of ${whole.length} bytes was announced as ${bytes}`)
    if (!this.over) this.written.push(whole)
    this.flushedBytes += bytes
  }

  pause(): void {}
  resume(): void {}

  end(): void {
    if (this.over) return
    this.over = true
    queueMicrotask(() => this.handler?.closed(undefined))
  }

  destroy(): void {
    this.end()
  }
}

/** A Network Connection on both sides. */
interface Seat {
  readonly link: StageLink
  readonly connection: ModelConnection
  /** What has to be answered, in order. */
  unanswered: Answer[]
}

interface Tagged extends Expected {
  /** The block of the store that it may promise. */
  sequence?: number
}

/** Who watches what Sessions are given. */
let watching: ((session: Session, delivery: Delivery) => void) | null = null

const deliver = Session.prototype.deliver
Session.prototype.deliver = function (delivery, durableAt): void {
  watching?.(this, delivery)
  deliver.call(this, delivery, durableAt)
}

const deliverAhead = Session.prototype.deliverAhead
Session.prototype.deliverAhead = function (delivery, durableAt): void {
  const watcher = watching
  watching = null
  watcher?.(this, delivery)
  deliverAhead.call(this, delivery, durableAt)
  watching = watcher
}

class Stage {
  readonly #play: Play
  readonly #limits: Limits
  readonly #store = new RecallStore()
  readonly #model: Model
  /** By who speaks through them. */
  readonly #seats: (Seat | null)[] = Array.from({ length: CLIENTS }, () => null)
  readonly #all = new Set<Seat>()
  readonly #seen = new Set<string>()
  #server!: Server
  /** With a fraction that no binary number has, as a real clock. */
  #monotonic = 1_000_000.1
  #deferred: (() => void)[] = []
  #deeds: Deed[] = []
  #fatal: Error | null = null
  #ids = 0
  /** What is left if everything up to a block is durable. */
  #snapshots: { sequence: number; snapshot: ReturnType<Model['snapshot']> }[] = []

  private constructor(play: Play) {
    this.#play = play
    const limits = WORLDS[play.world]!
    this.#limits = limitsWith(limits)
    const original = (message: object): object => this.#store.originals.get(message as Message) ?? message
    const queued = (clientId: string): number => this.#server.state.sessions.get(clientId)?.queueLength ?? 0
    this.#model = new Model(limits, 0, original, queued, (clientId) => this.#store.wasUnderWay(clientId))
    watching = ({ clientId }, { message, share, qos, subscriptionIdentifiers: identifiers }) =>
      this.#deeds.push({ did: 'deliver', clientId, message, share, qos, identifiers })
  }

  static async make(play: Play): Promise<Stage> {
    const stage = new Stage(play)
    await stage.#start()
    stage.#keepSnapshot()
    return stage
  }

  async #start(): Promise<void> {
    const host = {
      now: () => this.#monotonic,
      wallNow: () => 1_700_000_000_000 + this.#monotonic,
      // Every crash is one within the same start of the machine: what passed is known.
      bootTime: () => ({ bootId: '00000000000000000000000000000001', sinceBoot: this.#monotonic }),
      defer: (callback: () => void) => {
        this.#deferred.push(callback)
      },
      randomId: () => `id${++this.#ids}`,
      keyedHash: (key: string, text: string) => createHmac('sha256', key).update(text).digest(),
    }
    const fatal = (error: Error): void => {
      this.#fatal = error
    }
    const options = { host, store: this.#store, limits: this.#limits, policy: {} }
    this.#server = new Server(options, fatal)
    const { events } = this.#server.state
    events.on('published', ({ message }) =>
      this.#deeds.push({ did: 'publish', message, publisher: message.publisher }),
    )
    events.on('sessionEnded', ({ clientId }) => this.#deeds.push({ did: 'end', clientId }))
    events.on('disconnected', ({ clientId }) => this.#deeds.push({ did: 'disconnect', clientId }))
    await this.#server.start()
    await this.#settle()
    this.#model.now = this.#server.state.now()
  }

  close(): void {
    watching = null
  }

  /** Runs turns until nothing is deferred any more. */
  async #settle(): Promise<void> {
    for (let quiet = 0; quiet < 2; ) {
      for (let count = 0; count < 4; count++) await Promise.resolve()
      const callbacks = this.#deferred
      this.#deferred = []
      quiet = callbacks.length === 0 ? quiet + 1 : 0
      for (const callback of callbacks) callback()
    }
  }

  #takeDeeds(): Deed[] {
    const deeds = this.#deeds
    this.#deeds = []
    return deeds
  }

  async run(step: Step): Promise<void> {
    await this.#do(step)
    await this.#after()
  }

  async #do(step: Step): Promise<void> {
    switch (step.do) {
      case 'connect':
        await this.#received(this.#open(step.who), write(step.packet, versionOf(step.packet)))
        return
      case 'open':
        await this.#received(this.#open(step.who), Buffer.from(step.bytes, 'hex'))
        return
      case 'vanish':
        await this.#vanish(this.#seats[step.who] ?? null)
        return
      case 'pass':
        await this.#pass(step.seconds)
        return
      case 'commit': {
        const kept = this.#snapshots[Math.max(0, this.#snapshots.length - 1 - step.ago)]!
        await this.#durable(kept.sequence)
        return
      }
      case 'crash':
        await this.#crash()
        return
      default: {
        const seat = this.#seats[step.who]
        if (seat !== null && seat !== undefined) await this.#received(seat, bytesOf(step, seat))
      }
    }
  }

  async #durable(sequence: number): Promise<void> {
    this.#store.durable(sequence)
    await this.#settle()
    this.#model.committed(this.#takeDeeds())
  }

  #open(who: number): Seat {
    const link = new StageLink()
    const seat: Seat = { link, connection: this.#model.open(), unanswered: [] }
    link.handler = this.#server.accept(link)
    this.#seats[who] = seat
    this.#all.add(seat)
    return seat
  }

  async #received(seat: Seat, bytes: Buffer): Promise<void> {
    // Accepting it was a turn of its own.
    await this.#settle()
    if (bytes.length === 0) return
    // The Server makes other identifiers as well, but later.
    this.#model.assigned = `auto-id${this.#ids + 1}`
    // A chunk of its own, which nobody else may have a view of.
    if (!seat.link.over) seat.link.handler?.received(Buffer.from(bytes))
    await this.#settle()
    this.#model.received(seat.connection, bytes, this.#takeDeeds())
  }

  async #vanish(seat: Seat | null): Promise<void> {
    if (seat === null) return
    const who = this.#seats.indexOf(seat)
    if (who !== -1) this.#seats[who] = null
    this.#all.delete(seat)
    seat.link.destroy()
    await this.#settle()
    this.#model.lost(seat.connection, this.#takeDeeds())
  }

  async #pass(seconds: number): Promise<void> {
    this.#monotonic += seconds * 1000
    this.#server.tick()
    await this.#settle()
    this.#model.passed(this.#server.state.now(), this.#takeDeeds())
  }

  async #crash(): Promise<void> {
    this.#seats.fill(null)
    this.#all.clear()
    this.#deferred = []
    this.#store.crash()
    this.#deeds = []
    const kept = this.#snapshots.findLast(({ sequence }) => sequence <= this.#store.committedSequence)!
    await this.#start()
    this.#model.recovered(kept.snapshot, this.#takeDeeds())
    this.#snapshots = [kept]
  }

  async #after(): Promise<void> {
    const { recordedSequence } = this.#store
    for (const { connection } of this.#all) {
      for (const expected of connection.expected as Tagged[]) expected.sequence ??= recordedSequence
    }
    this.#keepSnapshot()
    if (this.#play.automatic) {
      await this.#durable(Number.POSITIVE_INFINITY)
    }
    this.#look()
    this.#compare()
    if (this.#fatal !== null) throw this.#fatal
  }

  #keepSnapshot(): void {
    const sequence = this.#store.recordedSequence
    const snapshot = this.#model.snapshot()
    if (this.#snapshots.at(-1)?.sequence === sequence) this.#snapshots.pop()
    this.#snapshots.push({ sequence, snapshot })
    const { committedSequence } = this.#store
    while (this.#snapshots.length > 1 && this.#snapshots[1]!.sequence <= committedSequence)
      this.#snapshots.shift()
  }

  /** What came is what was expected, in order, and not before what it promises. */
  #look(): void {
    const { committedSequence, recordedSequence } = this.#store
    for (const seat of [...this.#all]) {
      const { link, connection } = seat
      const bytes = Buffer.concat(link.written.splice(0))
      for (const answer of answers(bytes, connection.version)) {
        const expected = (connection.expected as Tagged[]).shift()
        same(answer.text, expected?.text, `what ${connection.clientId} was sent`)
        if (expected!.promise && expected!.sequence! > committedSequence) {
          throw new Error(`${answer.text} was sent before it was durable`)
        }
        if (answer.bytes > connection.packetMaximum) throw new Error(`${answer.bytes} bytes were sent`)
        this.#took(seat, answer, expected!)
      }
      if (committedSequence < recordedSequence) continue
      if (connection.expected.length > 0) throw new Error(`${connection.expected[0]!.text} was not sent`)
      same(link.over, connection.phase === 'closed', 'whether the Network Connection is closed')
      if (link.over) this.#all.delete(seat)
    }
  }

  #took({ connection, unanswered }: Seat, answer: Answer, { credits }: Expected): void {
    connection.receiving -= credits
    if (answer.type === 2) connection.connackSeen = true
    if ((answer.type === 3 && answer.qos > 0) || answer.type === 5 || answer.type === 6)
      unanswered.push(answer)
    this.#seen.add(`${answer.type}:${answer.reasonCode}${answer.text.includes(' dup') ? 'd' : ''}`)
  }

  /** What the Server has is what the model has. */
  #compare(): void {
    const { state } = this.#server
    const model = this.#model
    const open = [...model.connections].filter(({ phase }) => phase === 'open').length
    const subscriptions = [...model.sessions.values()].reduce((sum, each) => sum + each.subscriptions.size, 0)
    const expected = [model.sessions.size, model.retained.size, model.wills.size, open, open, subscriptions]
    const { clientsConnected } = state.counters
    const actual = [
      state.sessions.size,
      state.retained.count,
      state.wills.size,
      state.connected.size,
      clientsConnected,
    ]
    same(
      [...actual, state.router.subscriptionCount],
      expected,
      'Sessions, retained, Wills, connected, Subscriptions',
    )
    for (const [clientId, each] of model.sessions) {
      const real = state.sessions.get(clientId)
      if (real === undefined) throw new Error(`${clientId} has no Session`)
      same(
        [
          real.stored,
          real.queueLength,
          real.inFlightCount,
          real.inboundCount,
          [...real.subscriptions.keys()],
        ],
        [
          each.stored,
          each.queue.length,
          each.inFlight.length,
          each.inbound.size,
          [...each.subscriptions.keys()],
        ],
        `the Session of ${clientId}: stored, queue, in flight, inbound, filters`,
      )
      const flight = each.inFlight.map(({ packetId, delivery }) => [packetId, delivery?.qos ?? null])
      const really = [...real.inFlight()].map(({ packetId, delivery }) => [packetId, delivery?.qos ?? null])
      same(really, flight, `what is in flight to ${clientId}`)
    }
  }

  /** Everybody goes for good, and nothing is left anywhere. */
  async finish(): Promise<void> {
    for (const seat of [...this.#all]) {
      await this.#vanish(seat)
      await this.#after()
    }
    await this.run({ do: 'pass', seconds: 70_000 * 2 })
    await this.run({ do: 'connect', who: 0, packet: { ...CONNECT, clientId: 'sweeper', clean: true } })
    const topics = [...this.#model.retained.keys()]
    for (const topic of topics) {
      await this.run({ do: 'send', who: 0, packets: [{ ...PUBLISH, topic, retain: true, payload: '' }] })
    }
    await this.run({ do: 'vanish', who: 0 })
    await this.run({ do: 'pass', seconds: 2000 })
    // Reply queues outlive their clients by a day.
    await this.run({ do: 'pass', seconds: 70_000 * 2 })
    await this.#durable(Number.POSITIVE_INFINITY)
    await this.#after()
    this.#expectNothingLeft()
  }

  #expectNothingLeft(): void {
    const { state, connectionCount, retainedDeliveries } = this.#server
    this.#server.memoryBytes()
    const left = {
      connections: connectionCount,
      retainedDeliveries,
      sessions: state.sessions.size,
      sessionsById: state.sessionsById.size,
      sessionDeadlines: state.sessionDeadlines.size,
      connected: state.connected.size,
      wills: state.wills.size,
      waiting: state.waiting.size,
      paused: state.paused.size,
      deadlines: state.deadlines.size,
      retainedDeadlines: state.retainedExpiry.size,
      retained: state.retained.count,
      retainedBytes: state.retained.bytes,
      subscriptions: state.router.subscriptionCount,
      nodes: state.router.nodeCount,
      clientsConnected: state.counters.clientsConnected,
      // Names of topics stay in their table.
      memoryBytes: state.usage.total.bytes,
      stored: this.#store.size,
    }
    same(left, Object.fromEntries(Object.keys(left).map((name) => [name, 0])), 'what is left')
  }

  outcome(): string {
    return `${this.#play.world} ${[...this.#seen].sort().join(' ')}`
  }
}

function versionOf(packet: Plain): Version {
  return packet.type === 'connect' ? packet.version : 5
}

function bytesOf(step: Step & { do: 'send' | 'bytes' | 'answer' }, seat: Seat): Buffer {
  const { version } = seat.connection
  if (step.do === 'bytes') return Buffer.from(step.bytes, 'hex')
  if (step.do === 'send')
    return Buffer.concat(step.packets.map((packet) => write(spokenIn(packet, version), version)))
  const { reasonCode } = step
  const taken = seat.unanswered.splice(0, step.count)
  return Buffer.concat(
    taken.map(({ type, qos, packetId }) => {
      if (type === 3) return write({ type: qos === 1 ? 'puback' : 'pubrec', packetId, reasonCode }, version)
      return write({ type: type === 5 ? 'pubrel' : 'pubcomp', packetId, reasonCode: 0 }, version)
    }),
  )
}

/** Before 5.0 there are no aliases that an empty topic name could stand for. */
function spokenIn(packet: Plain, version: Version): Plain {
  return version < 5 && packet.type === 'publish' && packet.topic === '' ? { ...packet, topic: 'a' } : packet
}

// ── what clients do ───────────────────────────────────────────────────────────────────────────────────────

const CONNECT: PlainConnect = {
  type: 'connect',
  version: 5,
  bridge: false,
  clientId: '',
  clean: true,
  keepAlive: 0,
  userName: undefined,
  password: undefined,
  will: null,
  expiry: 0,
  receiveMaximum: 65_535,
  packetMaximum: null,
  aliasMaximum: 0,
  responseInformation: false,
  problemInformation: true,
  pairs: [],
  method: undefined,
  data: undefined,
}

const PUBLISH = {
  type: 'publish',
  topic: 'a',
  alias: 0,
  qos: 0,
  retain: false,
  dup: false,
  packetId: 0,
  payload: '',
  properties: '',
  expiry: undefined,
} as const

const BRIDGE_STATE = '$SYS/broker/connection/c1/state'
const TOPICS = ['a', 'b', 'a/b', 'a/b/c', '$x', 'w', '/']
const FILTERS = [
  'a',
  'b',
  'a/b',
  '+',
  'a/+',
  '#',
  'a/#',
  '$x',
  'w',
  '+/b',
  '/+',
  '$share/g/a',
  '$share/g/#',
  '$share/h/a',
  '$share/h/+',
]
const BAD_FILTERS = ['', 'a#', '#/a', 'a+', '$share/g', '$share//a', '$share/+/a', '$share/g/']

function step(random: Random): Step {
  const who = random.below(CLIENTS)
  return random.weighted<() => Step>([
    [8, () => ({ do: 'connect', who, packet: connect(random, who) })],
    [1, () => ({ do: 'open', who, bytes: connectBytesOf(random).toString('hex') })],
    [20, () => ({ do: 'send', who, packets: packets(random) })],
    [2, () => ({ do: 'bytes', who, bytes: badBytes(random).toString('hex') })],
    [
      10,
      () => ({
        do: 'answer',
        who,
        count: random.of([1, 1, 2, 10]),
        reasonCode: random.chance(0.1) ? 0x80 : 0,
      }),
    ],
    [2, () => ({ do: 'vanish', who })],
    [3, () => ({ do: 'pass', seconds: random.of([0, 1, 2, 5, 20, 31, 100, 1001]) })],
    [5, () => ({ do: 'commit', ago: random.of([0, 0, 1, 2, 5]) })],
    [1, () => ({ do: 'crash' })],
  ])()
}

function connectBytesOf(random: Random): Buffer {
  const version = random.of([3, 4, 5] as const)
  const bytes = connectBytes(random, version)
  return random.chance(0.5) ? mutated(random, bytes, SEEDS) : bytes
}

function badBytes(random: Random): Buffer {
  if (random.chance(0.3)) return random.of(SEEDS)
  const version = random.of([3, 4, 5] as const)
  return random.chance(0.5)
    ? packetBytes(random, version)
    : mutated(random, packetBytes(random, version), SEEDS)
}

function connect(random: Random, who: number): Plain {
  const version = random.weighted([
    [1, 3],
    [2, 4],
    [4, 5],
  ] as const)
  const v5 = version === 5
  const clean = random.chance(0.4)
  const packet: PlainConnect = {
    ...CONNECT,
    version,
    bridge: !v5 && random.chance(0.2),
    clientId: random.chance(0.04) ? '' : `c${random.chance(0.1) ? random.below(CLIENTS) : who}`,
    clean,
    keepAlive: random.of([0, 0, 1, 4, 30, 65_535]),
    will: random.chance(0.3) ? will(random) : null,
    expiry: random.of([0, 0, 5, 100, 100, 1000, 0xffff_ffff]),
  }
  if (!v5) return packet
  return {
    ...packet,
    receiveMaximum: random.of([1, 2, 3, 65_535, 65_535]),
    packetMaximum: random.of([null, null, null, null, 3, 12, 20, 24, 30, 60]),
    aliasMaximum: random.of([0, 0, 1, 2, 10]),
    method: random.chance(0.02) ? 'm' : undefined,
  }
}

function will(random: Random): PlainWill {
  return {
    topic: random.chance(0.05) ? random.of(['$SYS/x', BRIDGE_STATE]) : random.of(['w', 'a', 'a/b']),
    payload: payload(random),
    qos: random.below(3),
    retain: random.chance(0.3),
    properties: forwarded(random),
    expiry: random.of([undefined, undefined, 0, 3, 50]),
    delay: random.of([0, 0, 1, 5, 50, 5000]),
  }
}

function payload(random: Random): string {
  return random.chance(0.1) ? '' : random.bytes(random.of([2, 2, 2, 3, 12])).toString('hex')
}

function forwarded(random: Random): string {
  if (random.chance(0.8)) return ''
  const list = [
    [1, 1],
    [3, 't'],
    [38, ['b', '1']],
    [38, ['a', '2']],
    [38, ['b', '']],
    [9, '00ff'],
    [8, 'r'],
  ] as const
  const some = list.filter(() => random.chance(0.4))
  return Buffer.concat(some.map((each) => writeProperty(each))).toString('hex')
}

function packets(random: Random): Plain[] {
  return Array.from({ length: random.of([1, 1, 1, 2, 3, 5]) }, () => packet(random))
}

function packet(random: Random): Plain {
  const packetId = random.between(1, 5)
  return random.weighted<() => Plain>([
    [10, () => publish(random, packetId)],
    [
      4,
      () => ({
        type: 'subscribe',
        packetId,
        requests: requests(random),
        identifier: random.of([0, 0, 1, 200]),
        pairs: [],
      }),
    ],
    [
      1,
      () => ({
        type: 'unsubscribe',
        packetId,
        filters: random.chance(0.5) ? [random.of(FILTERS)] : [random.of(FILTERS), 'a'],
        pairs: [],
      }),
    ],
    [2, () => ({ type: 'pubrel', packetId, reasonCode: 0 })],
    [1, () => ({ type: random.of(['puback', 'pubrec', 'pubcomp'] as const), packetId, reasonCode: 0 })],
    [1, () => ({ type: 'pingreq' })],
    [1, () => disconnect(random)],
  ])()
}

function publish(random: Random, packetId: number): Plain {
  const qos = random.below(3)
  const alias = random.chance(0.15) ? random.between(1, 3) : 0
  return {
    ...PUBLISH,
    topic: random.chance(0.02)
      ? random.of(['$SYS', '$SYS/x', BRIDGE_STATE])
      : alias > 0 && random.chance(0.5)
        ? ''
        : random.of(TOPICS),
    alias,
    qos,
    retain: random.chance(0.2),
    dup: qos > 0 && random.chance(0.2),
    packetId: qos > 0 ? packetId : 0,
    payload: payload(random),
    properties: forwarded(random),
    expiry: random.of([undefined, undefined, undefined, 0, 1, 4, 60]),
  }
}

function requests(
  random: Random,
): { filter: string; qos: number; noLocal: boolean; retainAsPublished: boolean; retainHandling: number }[] {
  return Array.from({ length: random.of([1, 1, 1, 2, 4]) }, () => {
    const filter = random.chance(0.015) ? random.of(BAD_FILTERS) : random.of(FILTERS)
    const shared = filter.startsWith('$share')
    return {
      filter,
      qos: random.below(3),
      noLocal: random.chance(shared ? 0.02 : 0.15),
      retainAsPublished: random.chance(0.3),
      retainHandling: random.below(3),
    }
  })
}

function disconnect(random: Random): Plain {
  return {
    type: 'disconnect',
    reasonCode: random.of([0, 0, 4, 0x80]),
    expiry: random.of([undefined, undefined, 0, 7, 5000]),
    reason: undefined,
    pairs: [],
  }
}
