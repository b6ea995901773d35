/** A Server without sockets and without a clock: tests push bytes in, read packets out, and move time by hand. */
import mqttPacket, { type Packet } from 'mqtt-packet'
import { DEFAULT_LIMITS, type Limits } from '../../src/broker/limits.ts'
import type { Link, LinkHandler, LinkInfo } from '../../src/broker/link.ts'
import type { Policy } from '../../src/broker/policy.ts'
import { Server } from '../../src/broker/server.ts'
import type { Store } from '../../src/store/store.ts'
import { LedgerStore } from './ledger.ts'

const { generate, parser } = mqttPacket

type Version = 3 | 4 | 5
/** A packet as a test writes it: what mqtt-packet generates. */
export type Given = Packet | Record<string, unknown>

/** A transport that the test reads: bytes out are parsed by mqtt-packet, not by our own codec. */
export class TestLink implements Link {
  readonly info: LinkInfo
  bufferedBytes = 0
  flushedBytes = 0
  paused = false
  ended = false
  destroyed = false
  /** How many times `write` was called. */
  writes = 0
  /** When true, what is written stays buffered until `take()`. */
  stuck = false
  readonly packets: Packet[] = []
  readonly raw: Buffer[] = []
  handler: LinkHandler | null = null
  readonly #parser

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
    if (this.stuck) this.bufferedBytes += bytes
    else this.flushedBytes += bytes
    this.#parser.parse(joined)
  }

  /** The reader takes everything that is buffered. */
  take(): void {
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
    if (this.ended || this.destroyed) return
    this[how] = true
    queueMicrotask(() => this.handler?.closed(undefined))
  }
}

/** A client of the Server under test. */
export class TestClient {
  readonly link: TestLink
  readonly version: Version
  /** The CONNACK, when the client was made by `connect`. */
  connack: Packet | null = null
  readonly #world: World

  constructor(world: World, link: TestLink, version: Version) {
    this.#world = world
    this.link = link
    this.version = version
  }

  /** Sends packets in one chunk and lets the Server work until nothing is left to do. Returns what came back. */
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

  /** What came since the last call. */
  got(): Packet[] {
    return this.link.packets.splice(0)
  }

  /** The network fails: no DISCONNECT. */
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
}

export class World {
  readonly server: Server
  readonly ledger: LedgerStore
  /** The host's clocks in ms. */
  monotonic = 1_000_000
  wall = 1_700_000_000_000
  fatal: Error | null = null
  #deferred: (() => void)[] = []
  #ids = 0

  private constructor(options: WorldOptions) {
    this.ledger = new LedgerStore()
    const host = {
      now: () => this.monotonic,
      wallNow: () => this.wall,
      defer: (callback: () => void) => {
        this.#deferred.push(callback)
      },
      randomId: () => `id${++this.#ids}`,
    }
    const limits = { ...DEFAULT_LIMITS, ...options.limits }
    this.server = new Server(
      { host, store: options.store ?? this.ledger, limits, policy: options.policy ?? {} },
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

  /** Runs turns until nothing is deferred any more. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; ) {
      for (let step = 0; step < 5; step++) await Promise.resolve()
      const callbacks = this.#deferred.splice(0)
      if (callbacks.length === 0) quiet++
      else quiet = 0
      for (const callback of callbacks) callback()
    }
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

  /** A connection that has sent nothing yet. */
  open(version: Version = 5, info: Partial<LinkInfo> = {}): TestClient {
    const link = new TestLink(info, version)
    link.handler = this.server.accept(link)
    return new TestClient(this, link, version)
  }

  /** A connected client; CONNACK is taken off. */
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

/** A CONNECT with usual values. */
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
