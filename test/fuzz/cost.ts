/**
 * Looks for sequences of packets, within the default limits, that keep the broker busy for long in one piece:
 * from a callback of the event loop to its end. Inputs that led to more work than others of their kind are
 * changed further, so the search climbs.
 */
import { createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'
import mqttPacket from 'mqtt-packet'
import { DEFAULT_LIMITS } from '../../src/broker/boundary/limits.ts'
import type { Link, LinkHandler } from '../../src/broker/boundary/link.ts'
import { Server } from '../../src/broker/server.ts'
import { SLICE_UNITS } from '../../src/broker/state/work.ts'
import { MemoryStore } from '../../src/store/memory/memory-store.ts'
import type { Random } from './random.ts'
import { shorter, type Target } from './target.ts'

/**
 * A unit of any work may take this many times as long as one of messages for nobody: a count that is wrong by
 * as much turns a slice of 1 ms into one of 5 ms. Work that takes less than it counts hurts nobody.
 */
const UNIT_FACTOR_MAX = 5
/** Each kind of work is measured this many times; the least counts. */
const UNIT_TRIES = 5

/** Units that one piece may do: a client that is alone has long turns. */
const UNITS_MAX = 45 * SLICE_UNITS

/** CPU time that one piece may take in its thread, in ms, on the machine that the goal was set for. */
const CPU_MS_MAX = 50
/**
 * A piece that took longer is tried this many times, and the least counts: other work and collections of
 * memory take time, too.
 */
const TRIES = 3

/** As much is read from a socket at once. */
const CHUNK_BYTES = 65_536

const CLIENTS = 4
const STEPS_MAX = 14

const KINDS = [
  'connect',
  'subscribe',
  'unsubscribe',
  'publish',
  'acknowledge',
  'ping',
  'disconnect',
  'vanish',
  'wait',
] as const

/** How topic names and filters are made; a number beside it tells which. */
const SHAPES = ['short', 'crossed', 'deep', 'long', 'shared', 'wide', 'same'] as const

interface Step {
  readonly kind: (typeof KINDS)[number]
  readonly client: number
  readonly shape: (typeof SHAPES)[number]
  /** How many filters, messages or packets. */
  readonly count: number
  /** Levels or characters of names, bytes of payloads. */
  readonly size: number
  /** QoS in the lowest two bits; then RETAIN, expiry, User Properties, a lasting Session, a Will. */
  readonly flags: number
}

type Input = readonly Step[]

/** What the worst pieces of an input were, by units and by CPU, and the steps that were under way. */
interface Worst {
  units: number
  unitsStep: number
  cpuMs: number
  cpuStep: number
}

function step(random: Random): Step {
  const kind = random.weighted([
    [2, 'connect'],
    [6, 'subscribe'],
    [2, 'unsubscribe'],
    [6, 'publish'],
    [2, 'acknowledge'],
    [1, 'ping'],
    [2, 'disconnect'],
    [1, 'vanish'],
    [2, 'wait'],
  ] as const)
  return {
    kind,
    client: random.below(CLIENTS),
    shape: random.of(SHAPES),
    count: magnitude(random, 8000),
    size: magnitude(random, 60_000),
    flags: random.below(128),
  }
}

/** Small numbers as often as large ones. */
function magnitude(random: Random, most: number): number {
  return Math.max(1, Math.floor(most ** (random.below(1000) / 1000)))
}

function changed(random: Random, input: Input): Step[] {
  const steps = [...input]
  for (let changes = random.between(1, 3); changes > 0; changes--) {
    const at = random.below(steps.length)
    const before = steps[at]!
    switch (random.below(6)) {
      case 0:
        steps.splice(at, 0, step(random))
        break
      case 1:
        if (steps.length > 1) steps.splice(at, 1)
        break
      case 2:
        steps[at] = { ...before, count: Math.min(8000, Math.ceil(before.count * (0.5 + random.below(4)))) }
        break
      case 3:
        steps[at] = { ...before, size: Math.min(60_000, Math.ceil(before.size * (0.5 + random.below(4)))) }
        break
      case 4:
        steps[at] = { ...before, flags: before.flags ^ (1 << random.below(7)) }
        break
      default:
        steps[at] = { ...step(random), client: before.client, shape: before.shape }
    }
  }
  return steps.slice(0, STEPS_MAX)
}

/** A name of this shape: a topic name, or a filter that may match it. */
function name({ shape, size }: Step, index: number, isFilter: boolean): string {
  const levels = Math.min(size, DEFAULT_LIMITS.topicLevelsMax, 200)
  switch (shape) {
    case 'short':
      return `s/${index}`
    case 'crossed': {
      const depth = Math.min(levels, 13)
      const parts = Array.from({ length: depth }, (_, level) =>
        isFilter && (index >> level) & 1 ? '+' : 'a',
      )
      return isFilter || index === 0 ? parts.join('/') : `${parts.join('/')}/${index}`
    }
    case 'deep':
      return isFilter
        ? `${'+/'.repeat(levels - 1)}${index % 2 === 0 ? '#' : index}`
        : `${'x/'.repeat(levels - 1)}${index}`
    case 'long':
      return `${longLevel(size)}/${isFilter && index % 3 === 0 ? '+' : index}`
    case 'shared':
      return isFilter ? `$share/g${index}/s/1` : 's/1'
    case 'wide':
      return isFilter ? (index % 2 === 0 ? '#' : `+/${index}`) : `${index}/${index % 100}`
    case 'same':
      return 's/1'
  }
}

/** A level of up to `size` characters that leaves room for another one. */
function longLevel(size: number): string {
  return 'y'.repeat(Math.min(size, DEFAULT_LIMITS.topicBytesMax - 12))
}

/** The packets of a step, of 2 MiB at most. */
function packetsOf(each: Step): Buffer {
  const bytesMax = 2 * 1024 * 1024
  const parts: Buffer[] = []
  let bytes = 0
  const add = (packet: Record<string, unknown>): boolean => {
    const part = mqttPacket.generate(packet as never, { protocolVersion: 5 })
    if (bytes + part.length > bytesMax) return false
    parts.push(part)
    bytes += part.length
    return true
  }
  const { flags, count, size } = each
  const qos = (flags & 3) % 3
  if (each.kind === 'subscribe' || each.kind === 'unsubscribe') {
    const filters: string[] = []
    let characters = 0
    for (let index = 0; index < count && characters < 900_000; index++) {
      const filter = name(each, index, true)
      characters += filter.length + 3
      filters.push(filter)
    }
    const options = { qos, nl: false, rap: (flags & 4) !== 0, rh: 0 }
    if (each.kind === 'unsubscribe') add({ cmd: 'unsubscribe', messageId: 1, unsubscriptions: filters })
    else {
      const subscriptions = filters.map((topic) => ({ topic, ...options }))
      const properties = (flags & 8) !== 0 ? { subscriptionIdentifier: 1 + (flags % 100) } : {}
      add({ cmd: 'subscribe', messageId: 1, subscriptions, properties })
    }
  }
  const payload = Buffer.alloc(Math.min(size, 20_000), 'p')
  const userProperties = (flags & 16) === 0 ? undefined : { p: Array(Math.min(size, 8000)).fill('') }
  for (let index = 0; index < count; index++) {
    if (each.kind === 'publish') {
      const properties = {
        ...((flags & 8) !== 0 && { messageExpiryInterval: 1 }),
        ...(userProperties !== undefined && { userProperties }),
      }
      const messageId = qos === 0 ? undefined : 1 + (index % 60_000)
      const retain = (flags & 4) !== 0
      if (
        !add({ cmd: 'publish', topic: name(each, index, false), payload, qos, retain, messageId, properties })
      )
        break
    } else if (each.kind === 'acknowledge') {
      const cmd = ['puback', 'pubrec', 'pubcomp', 'pubrel'][flags & 3]
      if (!add({ cmd, messageId: 1 + (index % 60_000) })) break
    } else if (each.kind === 'ping') {
      if (!add({ cmd: 'pingreq' })) break
    } else break
  }
  if (each.kind === 'disconnect') {
    const properties = (flags & 32) !== 0 ? {} : { sessionExpiryInterval: 0 }
    add({ cmd: 'disconnect', reasonCode: (flags & 64) !== 0 ? 4 : 0, properties })
  }
  return Buffer.concat(parts)
}

function connectOf(each: Step): Buffer {
  const { flags, client } = each
  const will = {
    topic: name(each, 0, false),
    payload: Buffer.from('w'),
    qos: (flags & 3) % 3,
    retain: (flags & 4) !== 0,
    properties: { willDelayInterval: flags & 1 },
  }
  const packet = {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clientId: `c${client}`,
    clean: (flags & 8) !== 0,
    keepalive: 0,
    properties: { sessionExpiryInterval: (flags & 32) !== 0 ? 2 : 0, topicAliasMaximum: 10 },
    ...((flags & 64) !== 0 && { will }),
  }
  return mqttPacket.generate(packet as never, { protocolVersion: 5 })
}

/** A connection whose reader takes everything at once. */
class Peer implements Link {
  readonly info = {
    transport: 'memory',
    listener: 'fuzz',
    remoteAddress: '127.0.0.1',
    remotePort: 1,
    allowAnonymous: true,
  } as const
  readonly leavesWritten = true
  readonly hidesRecords = false
  readonly arrivedBytes = undefined
  readonly bufferedBytes = 0
  flushedBytes = 0
  handler: LinkHandler | null = null
  isPaused = false
  isGone = false

  write(_chunks: readonly Buffer[], bytes: number): void {
    this.flushedBytes += bytes
  }

  pause(): void {
    this.isPaused = true
  }

  resume(): void {
    this.isPaused = false
  }

  end(): void {
    this.destroy()
  }

  destroy(): void {
    if (this.isGone) return
    this.isGone = true
    queueMicrotask(() => this.handler?.closed(undefined))
  }
}

/** A broker whose pieces of work are measured. */
class Measured {
  readonly worst: Worst = { units: 0, unitsStep: -1, cpuMs: 0, cpuStep: -1 }
  /** What was done for the latest step, and the CPU that it took, in us. */
  readonly latest = { units: 0, us: 0 }
  /** What a unit of the last step took, in us. */
  unitUs = 0
  readonly #server: Server
  readonly #peers: (Peer | null)[] = []
  #deferred: (() => void)[] = []
  #now = 1_000_000
  #ids = 0

  constructor() {
    const host = {
      now: () => this.#now,
      wallNow: () => 1_700_000_000_000 + this.#now,
      bootTime: () => null,
      defer: (callback: () => void) => {
        this.#deferred.push(callback)
      },
      randomId: () => `id${++this.#ids}`,
      keyedHash: (key: string, text: string) => createHmac('sha256', key).update(text).digest(),
    }
    this.#server = new Server(
      { host, store: new MemoryStore(), limits: DEFAULT_LIMITS, policy: {} },
      (error) => {
        throw error
      },
    )
  }

  async run(input: Input): Promise<void> {
    await this.#server.start()
    await this.#settle(-1)
    const { latest } = this
    for (const [at, each] of input.entries()) {
      latest.units = 0
      latest.us = 0
      await this.#do(at, each)
    }
    this.unitUs = latest.us / latest.units
    await this.#wait(input.length, 2500)
  }

  async #do(at: number, each: Step): Promise<void> {
    const peer = this.#peers[each.client] ?? null
    if (each.kind === 'wait') {
      await this.#wait(at, each.size % 4000)
      return
    }
    if (each.kind === 'vanish') {
      if (peer !== null) this.#piece(at, () => peer.destroy())
      this.#peers[each.client] = null
      await this.#settle(at)
      return
    }
    let bytes = packetsOf(each)
    let link = peer
    if (each.kind === 'connect' || link === null || link.isGone) {
      link = new Peer()
      this.#peers[each.client] = link
      link.handler = this.#server.accept(link)
      bytes = Buffer.concat([connectOf(each), bytes])
    }
    for (let from = 0; from < bytes.length && !link.isGone; from += CHUNK_BYTES) {
      const chunk = Buffer.from(bytes.subarray(from, from + CHUNK_BYTES))
      this.#piece(at, () => link.handler?.received(chunk))
      // A paused one is not read from.
      do await this.#turn(at)
      while (link.isPaused && !link.isGone && this.#deferred.length > 0)
    }
    await this.#settle(at)
  }

  async #wait(at: number, ms: number): Promise<void> {
    this.#now += ms
    this.#piece(at, () => this.#server.tick())
    await this.#settle(at)
  }

  async #turn(at: number): Promise<void> {
    for (let tick = 0; tick < 5; tick++) await Promise.resolve()
    for (const callback of this.#deferred.splice(0)) this.#piece(at, callback)
  }

  async #settle(at: number): Promise<void> {
    for (let turns = 0; turns < 200_000; turns++) {
      await this.#turn(at)
      if (this.#deferred.length === 0) {
        await this.#turn(at)
        if (this.#deferred.length === 0) return
      }
    }
    throw new Error('it never comes to rest')
  }

  #piece(at: number, action: () => void): void {
    const { work } = this.#server.state
    const units = work.units
    const cpu = threadMs()
    const before = process.cpuUsage()
    action()
    const { user, system } = process.cpuUsage(before)
    const cpuMs = threadMs() - cpu
    const done = work.units - units
    this.latest.units += done
    this.latest.us += user + system
    const { worst } = this
    if (done > worst.units) {
      worst.units = done
      worst.unitsStep = at
    }
    if (cpuMs <= worst.cpuMs) return
    worst.cpuMs = cpuMs
    worst.cpuStep = at
  }
}

/** CPU that this thread has had, in ms; wall time where the system does not tell. */
function threadMs(): number {
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ', 1)[0]) / 1e6
  } catch {
    return performance.now()
  }
}

async function measured(input: Input): Promise<Worst> {
  const broker = new Measured()
  await broker.run(input)
  return broker.worst
}

/** Fails where a unit of some kind of work takes too long; tells what they take. */
async function compareUnits(): Promise<string> {
  const blank = { kind: 'publish', client: 0, shape: 'same', count: 1, size: 50, flags: 0 } as const
  const crowd = (flags: number): Step[] =>
    Array.from({ length: 100 }, (_, at) => ({ ...blank, kind: 'subscribe', client: at + 1, flags }))
  const connect: Step = { ...blank, kind: 'connect' }
  const inputs: Record<string, Input> = {
    'a message for nobody': [connect, { ...blank, count: 8000 }],
    'a large message': [connect, { ...blank, count: 100, size: 60_000 }],
    'a request': [connect, { ...blank, kind: 'ping', count: 5000 }],
    'a message for a hundred': [...crowd(0), connect, { ...blank, count: 500 }],
    filters: [connect, { ...blank, kind: 'subscribe', shape: 'short', count: 8000 }],
  }
  const took: [string, number][] = []
  for (const [kind, input] of Object.entries(inputs)) {
    let least = Number.POSITIVE_INFINITY
    for (let tries = 0; tries < UNIT_TRIES; tries++) {
      const broker = new Measured()
      await broker.run(input)
      least = Math.min(least, broker.unitUs)
    }
    took.push([kind, least])
  }
  const [[, usual]] = took as [[string, number]]
  const told = took.map(([kind, us]) => `${kind} ${us.toFixed(3)} us`).join(', ')
  if (took.some(([, us]) => us > UNIT_FACTOR_MAX * usual)) throw new Error(`a unit takes too long: ${told}`)
  return `a unit of ${told}`
}

/** Powers of the square root of two. */
function rough(value: number): number {
  return Math.floor(2 * Math.log2(Math.max(1, value)))
}

class Cost implements Target<Input> {
  readonly name = 'cost'
  readonly unit = 'sequences'
  readonly #isTimed: boolean
  /** Of all inputs that were run. */
  #longest: (Worst & { readonly input: Input }) | null = null
  #mostUnits = 0
  /** What a unit takes, once that was compared. */
  #units: string | null = null

  constructor(isTimed: boolean) {
    this.#isTimed = isTimed
  }

  make(random: Random, corpus: readonly Input[]): Input {
    if (corpus.length > 0 && random.chance(0.8)) return changed(random, random.of(corpus))
    return Array.from({ length: random.between(2, 8) }, () => step(random))
  }

  async run(input: Input): Promise<string> {
    if (this.#isTimed) this.#units ??= await compareUnits()
    let worst = await measured(input)
    if (worst.units > UNITS_MAX)
      throw new Error(`a piece of ${worst.units} units, at step ${worst.unitsStep}`)
    if (this.#isTimed) {
      const isWorst = worst.cpuMs > (this.#longest?.cpuMs ?? 0)
      const tries = worst.cpuMs > CPU_MS_MAX || isWorst ? TRIES - 1 : 0
      for (let left = tries; left > 0; left--) {
        const again = await measured(input)
        if (again.cpuMs < worst.cpuMs) worst = again
      }
      if (worst.cpuMs > CPU_MS_MAX) {
        throw new Error(
          `a piece of ${worst.cpuMs.toFixed(1)} ms of CPU, ${worst.units} units, at step ${worst.cpuStep}`,
        )
      }
      if (worst.cpuMs > (this.#longest?.cpuMs ?? 0)) this.#longest = { ...worst, input }
    }
    this.#mostUnits = Math.max(this.#mostUnits, worst.units)
    const at = this.#isTimed ? worst.cpuStep : worst.unitsStep
    const kind = input[at]?.kind ?? 'end'
    return `${kind} ${rough(worst.units)}${this.#isTimed ? ` ${rough(worst.cpuMs * 4)}` : ''}`
  }

  *smaller(input: Input): Generator<Input> {
    for (const each of shorter(input)) if (each.length > 0) yield each
    for (const [at, each] of input.entries()) {
      if (each.count > 1) yield input.with(at, { ...each, count: each.count >> 1 })
      if (each.size > 1) yield input.with(at, { ...each, size: each.size >> 1 })
    }
  }

  write(input: Input): unknown {
    return input
  }

  read(json: never): Input {
    return json
  }

  /** The worst so far. */
  get summary(): string {
    const units = `worst piece ${this.#mostUnits} units`
    if (this.#longest === null) return units
    const { cpuMs, cpuStep: at, input } = this.#longest
    const worst = `${cpuMs.toFixed(1)} ms of CPU at step ${at} of ${JSON.stringify(input)}`
    return `${this.#units}; ${units}; ${worst}`
  }
}

/** Judges by units alone, which are the same on every machine. */
export const costInUnits: Target<Input> = new Cost(false)

/** Judges by CPU time as well: for long runs. */
export const costInTime: Target<Input> = new Cost(true)
