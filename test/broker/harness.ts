/**
 * A Server without sockets and without a clock: tests push bytes in, read packets out, and move time by hand.
 */
import { createHmac } from 'node:crypto'
import mqttPacket, { type Packet } from 'mqtt-packet'
import type { BrokerEvents, EventName } from '../../src/broker/boundary/events.ts'
import { type Limits, limitsWith } from '../../src/broker/boundary/limits.ts'
import type { Link, LinkHandler, LinkInfo } from '../../src/broker/boundary/link.ts'
import type { Policy } from '../../src/broker/boundary/policy.ts'
import { Server } from '../../src/broker/server.ts'
import { DEFAULT_QUEUE_OPTIONS, type QueueOptions } from '../../src/queue/queue-options.ts'
import type { BootTime, Store } from '../../src/store/store.ts'
import { LedgerStore } from './ledger.ts'

const { generate, parser } = mqttPacket

export type Version = 3 | 4 | 5
type QoS = 0 | 1 | 2
/** A packet as a test writes it: what mqtt-packet generates. */
export type Given = Packet | Record<string, unknown>

/** A transport that the test reads. mqtt-packet parses its output, not our own codec. */
export class TestLink implements Link {
  readonly info: LinkInfo
  /** Copies written bytes, since their memory is used again, as over TCP. */
  readonly leavesWritten = true
  /** As over TLS, once it is set. */
  hidesRecords = false
  bufferedBytes = 0
  flushedBytes = 0
  /** As over TLS, once it is set. */
  arrivedBytes: number | undefined = undefined
  paused = false
  ended = false
  destroyed = false
  /** When true, the peer does not close its side: the transport stays open until `gone()`. */
  lingers = false
  /** How many times `write` was called. */
  writes = 0
  /** When true, written bytes stay buffered until `take()`. */
  stuck = false
  readonly packets: Packet[] = []
  readonly raw: Buffer[] = []
  /** The lengths of all chunks written. */
  readonly chunkBytes: number[] = []
  handler: LinkHandler | null = null
  readonly #parser
  /** Buffered bytes: the memory that is read when the reader takes them, and a copy of the content. */
  readonly #waiting: { readonly chunk: Buffer; readonly written: Buffer }[] = []

  constructor(info: Partial<LinkInfo>, version: Version) {
    this.info = {
      transport: 'memory',
      listener: 'test',
      remoteAddress: '127.0.0.1',
      remotePort: 1,
      allowAnonymous: true,
      ...info,
    }
    this.#parser = parser({ protocolVersion: version })
    this.#parser.on('packet', (packet) => this.packets.push(packet))
    this.#parser.on('error', (error) => {
      throw error
    })
  }

  write(chunks: readonly Buffer[], bytes: number): void {
    this.writes++
    const joined = Buffer.concat(chunks)
    if (joined.length !== bytes) throw new Error(`write of ${joined.length} bytes announced as ${bytes}`)
    if (this.ended || this.destroyed) return
    this.raw.push(Buffer.from(joined))
    for (const chunk of chunks) {
      this.chunkBytes.push(chunk.length)
      if (this.stuck) this.#waiting.push({ chunk, written: Buffer.from(chunk) })
    }
    if (this.stuck) this.bufferedBytes += bytes
    else this.flushedBytes += bytes
    this.#parser.parse(joined)
  }

  /** The reader takes everything that is buffered. */
  take(): void {
    for (const { chunk, written } of this.#waiting.splice(0)) {
      if (!chunk.equals(written)) throw new Error('what waited for the reader was changed')
    }
    this.flushedBytes += this.bufferedBytes
    this.bufferedBytes = 0
    this.handler?.drained()
  }

  pause(): void {
    this.paused = true
  }
  resume(): void {
    this.paused = false
  }
  end(): void {
    this.#gone('ended')
  }
  destroy(): void {
    this.#gone('destroyed')
  }

  #gone(how: 'ended' | 'destroyed'): void {
    const first = !this.ended && !this.destroyed
    this[how] = true
    if (first && !this.lingers) this.gone()
  }

  /** Reports that the transport is closed. */
  gone(): void {
    queueMicrotask(() => this.handler?.closed(undefined))
  }
}

/** A client of the Server under test. */
export class TestClient {
  readonly link: TestLink
  readonly version: Version
  /** The CONNACK, if the client was made by `connect`. */
  connack: Packet | null = null
  readonly #world: World
  #lastId = 0

  constructor(world: World, link: TestLink, version: Version) {
    this.#world = world
    this.link = link
    this.version = version
  }

  /**
   * Sends packets in one chunk and lets the Server work until nothing is left to do. Returns what came back.
   */
  async send(...packets: Given[]): Promise<Packet[]> {
    return this.bytes(
      Buffer.concat(packets.map((packet) => generate(packet as Packet, { protocolVersion: this.version }))),
    )
  }

  async bytes(bytes: Buffer): Promise<Packet[]> {
    this.link.handler?.received(bytes)
    await this.#world.settle()
    return this.got()
  }

  /** Returns the packets since the last call. */
  got(): Packet[] {
    return this.link.packets.splice(0)
  }

  /** Subscribes to one filter; resolves to the SUBACK's code. Other packets stay for `got`. */
  async subscribe(
    topic: string,
    qos: QoS = 0,
    options: { nl?: boolean; rap?: boolean; rh?: number } = {},
    properties?: Record<string, unknown>,
  ): Promise<number | undefined> {
    const subscriptions = [{ topic, qos, nl: false, rap: false, rh: 0, ...options }]
    return this.#asked('suback', { cmd: 'subscribe', messageId: this.#nextId(), subscriptions, properties })
  }

  /** Unsubscribes from one filter; resolves to the UNSUBACK's code. */
  async unsubscribe(topic: string): Promise<number | undefined> {
    return this.#asked('unsuback', {
      cmd: 'unsubscribe',
      messageId: this.#nextId(),
      unsubscriptions: [topic],
    })
  }

  async #asked(answer: 'suback' | 'unsuback', packet: Given): Promise<number | undefined> {
    const packets = await this.send(packet)
    const at = packets.findIndex(({ cmd }) => cmd === answer)
    const [found] = at === -1 ? [] : packets.splice(at, 1)
    this.link.packets.unshift(...packets)
    if (found?.cmd !== 'suback' && found?.cmd !== 'unsuback') return undefined
    const { granted } = found as { granted?: (number | { qos: number })[] }
    return granted?.[0] as number | undefined
  }

  /** Publishes one message; resolves to the answers. */
  async publish(topic: string, payload: string, qos: QoS = 0, more: Given = {}): Promise<Packet[]> {
    const messageId = qos === 0 ? undefined : this.#nextId()
    return this.send({ cmd: 'publish', topic, payload, qos, messageId, ...more })
  }

  #nextId(): number {
    this.#lastId++
    return this.#lastId
  }

  /** Returns the payloads of PUBLISH packets since the last call. */
  texts(): string[] {
    return textsOf(this.got())
  }

  /** Acknowledges all packets until no more come. Returns the payloads in order. */
  async drain(): Promise<string[]> {
    const texts: string[] = []
    for (;;) {
      const packets = this.got()
      if (packets.length === 0) return texts
      texts.push(...textsOf(packets))
      const answers = packets.flatMap((packet) => answersTo(packet))
      if (answers.length > 0) this.link.packets.unshift(...(await this.send(...answers)))
    }
  }

  /** Lets the network fail, without a DISCONNECT. */
  async vanish(): Promise<void> {
    this.link.destroy()
    await this.#world.settle()
  }

  get closed(): boolean {
    return this.link.ended || this.link.destroyed
  }
}

export interface WorldOptions {
  readonly limits?: Partial<Limits>
  readonly policy?: Policy
  readonly store?: Store
  readonly queues?: Partial<QueueOptions>
}

export class World {
  readonly server: Server
  readonly ledger: LedgerStore
  /** The host's clocks in ms. */
  monotonic = 1_000_000
  wall = 1_700_000_000_000
  boot: BootTime | null = null
  fatal: Error | null = null
  #deferred: (() => void)[] = []
  #ids = 0

  private constructor(options: WorldOptions) {
    this.ledger = new LedgerStore()
    const host = {
      now: () => this.monotonic,
      wallNow: () => this.wall,
      bootTime: () => this.boot,
      defer: (callback: () => void) => {
        this.#deferred.push(callback)
      },
      randomId: () => `id${++this.#ids}`,
      keyedHash: (key: string, text: string) => createHmac('sha256', key).update(text).digest(),
    }
    const limits = limitsWith(options.limits)
    const queues = { ...DEFAULT_QUEUE_OPTIONS, ...options.queues }
    this.server = new Server(
      { host, store: options.store ?? this.ledger, limits, policy: options.policy ?? {}, queues },
      (error) => {
        this.fatal = error
      },
    )
  }

  static async make(options: WorldOptions = {}, prepare?: (world: World) => void): Promise<World> {
    const world = new World(options)
    prepare?.(world)
    await world.server.start()
    await world.settle()
    return world
  }

  /** Runs turns until nothing is deferred. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; ) {
      for (let step = 0; step < 5; step++) await Promise.resolve()
      const callbacks = this.#deferred.splice(0)
      if (callbacks.length === 0) quiet++
      else quiet = 0
      for (const callback of callbacks) callback()
    }
  }

  /** Runs what is deferred at this moment. */
  async turn(): Promise<void> {
    for (let step = 0; step < 5; step++) await Promise.resolve()
    for (const callback of this.#deferred.splice(0)) callback()
  }

  /** Lets time pass, in small steps, as the host's ticker would. */
  async pass(seconds: number): Promise<void> {
    const steps = Math.min(50, Math.max(1, Math.ceil(seconds / 0.1)))
    for (let step = 0; step < steps; step++) {
      this.monotonic += (seconds * 1000) / steps
      this.wall += (seconds * 1000) / steps
      this.server.tick()
      await this.settle()
    }
  }

  /** Makes the oldest sealed block durable, which releases the output that waited for it. */
  async commit(): Promise<boolean> {
    const done = this.ledger.durable()
    await this.settle()
    return done
  }

  /** Keeps every event of a name, in order. */
  record<K extends EventName>(name: K): BrokerEvents[K][] {
    const kept: BrokerEvents[K][] = []
    this.server.state.events.on(name, (event) => kept.push(event))
    return kept
  }

  /** Counts everything that must be zero when no Session is left. */
  census(): Record<string, number> {
    const { state } = this.server
    return {
      sessions: state.sessions.size,
      sessionsById: state.sessionsById.size,
      sessionDeadlines: state.sessionDeadlines.size,
      connected: state.connected.size,
      connections: this.server.connectionCount,
      retainedDeliveries: this.server.retainedDeliveries,
      wills: state.wills.size,
      waiting: state.waiting.size,
      paused: state.paused.size,
      deadlines: state.deadlines.size,
      retainedDeadlines: state.retainedExpiry.size,
      subscriptions: state.router.subscriptionCount,
      nodes: state.router.nodeCount,
      clientsConnected: state.counters.clientsConnected,
    }
  }

  /** Opens a connection that has sent nothing yet. */
  open(version: Version = 5, info: Partial<LinkInfo> = {}): TestClient {
    const link = new TestLink(info, version)
    link.handler = this.server.accept(link)
    return new TestClient(this, link, version)
  }

  /** Connects a client and removes its CONNACK. */
  async connect(clientId: string, connect: Given = {}, version: Version = 5): Promise<TestClient> {
    const client = this.open(version)
    const properties = version === 5 ? { properties: {} } : {}
    const [connack, ...rest] = await client.send({
      ...connectPacket(clientId, version),
      ...properties,
      ...connect,
    })
    if (connack?.cmd !== 'connack') throw new Error(`no CONNACK for ${clientId}`)
    client.connack = connack
    client.link.packets.unshift(...rest)
    return client
  }
}

/** Returns the payloads of the PUBLISH packets among these as text. */
export function textsOf(packets: readonly Packet[]): string[] {
  return packets.flatMap((packet) => (packet.cmd === 'publish' ? [packet.payload.toString()] : []))
}

/** Returns the packet that acknowledges this one. */
export function answersTo(packet: Packet): Given[] {
  if (packet.cmd === 'publish' && packet.qos === 1) return [{ cmd: 'puback', messageId: packet.messageId }]
  if (packet.cmd === 'publish' && packet.qos === 2) return [{ cmd: 'pubrec', messageId: packet.messageId }]
  if (packet.cmd === 'pubrel') return [{ cmd: 'pubcomp', messageId: packet.messageId }]
  return []
}

/** Returns fields for `World.connect` of a Session that outlives the Network Connection. */
export function lasting(seconds = 1000, more: Given = {}): Given {
  return { clean: false, properties: { sessionExpiryInterval: seconds }, ...more }
}

/** Returns a CONNECT with usual values. */
export function connectPacket(clientId: string, version: Version = 5): Record<string, unknown> {
  return {
    cmd: 'connect',
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    protocolVersion: version,
    clientId,
    clean: true,
    keepalive: 0,
  }
}
