/** Worlds with queues: in memory, or on disk, where the broker can be killed. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Packet } from 'mqtt-packet'
import { onTestFinished } from 'vitest'
import type { GivenProperties } from '../../../src/queue/properties.ts'
import type { QueueOptions } from '../../../src/queue/queue-options.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { MemoryStore } from '../../../src/store/memory/memory-store.ts'
import { killedCopy } from '../../store/killed-copy.ts'
import {
  connectPacket,
  type Given,
  type TestClient,
  type Version,
  World,
  type WorldOptions,
} from '../harness.ts'

/** A queue that takes `jobs/#`, as in most examples. */
export function jobs(properties: GivenProperties = {}): NonNullable<WorldOptions['queues']> {
  return { declared: [{ name: 'jobs', properties: { filters: ['jobs/#'], ...properties } }] }
}

/** Makes a world whose store is in memory. */
export function inMemory(queues: WorldOptions['queues'] = {}, options: WorldOptions = {}): Promise<World> {
  return World.make({ store: new MemoryStore(), queues, ...options })
}

/** Sends one packet and returns the first answer of a kind. Other packets stay for `got`. */
export async function answer<Command extends Packet['cmd']>(
  client: TestClient,
  command: Command,
  packet: Given,
): Promise<Extract<Packet, { cmd: Command }>> {
  const packets = await client.send(packet)
  const at = packets.findIndex(({ cmd }) => cmd === command)
  if (at === -1) throw new Error(`no ${command} came, but ${packets.map(({ cmd }) => cmd).join(', ')}`)
  const [found] = packets.splice(at, 1)
  client.link.packets.unshift(...packets)
  return found as Extract<Packet, { cmd: Command }>
}

/** A PUBLISH that a client got, in one line: topic, payload, QoS and DUP; and its User Properties. */
export interface Got {
  readonly id: number
  readonly line: string
  readonly user: Readonly<Record<string, string | string[]>>
}

/** Takes the PUBLISH packets that a client got since the last call. */
export function publishes(client: TestClient): Got[] {
  return client.got().flatMap((packet) => {
    if (packet.cmd !== 'publish') return []
    const { topic, payload, qos, dup, messageId = 0, properties } = packet
    const line = `${topic} ${payload.toString()} ${qos}${dup ? ' dup' : ''}`
    return [{ id: messageId, line, user: { ...properties?.userProperties } }]
  })
}

export function lines(client: TestClient): string[] {
  return publishes(client).map(({ line }) => line)
}

/** Acknowledges one PUBLISH of QoS 1. */
export async function puback(client: TestClient, messageId: number, more: Given = {}): Promise<void> {
  const packets = await client.send({ cmd: 'puback', messageId, ...more })
  client.link.packets.unshift(...packets)
}

/** A world on disk. */
export class DiskWorld {
  world!: World
  store!: LevelStore
  readonly #root = mkdtempSync(join(tmpdir(), 'godwit-queues-'))
  #options: WorldOptions
  #starts = 0

  private constructor(options: WorldOptions) {
    this.#options = options
  }

  static async make(queues: WorldOptions['queues'] = {}, options: WorldOptions = {}): Promise<DiskWorld> {
    const disk = new DiskWorld({ ...options, queues })
    onTestFinished(() => disk.#end())
    await disk.#start()
    return disk
  }

  get #directory(): string {
    return join(this.#root, `${this.#starts}`)
  }

  async #start(before?: World): Promise<void> {
    const fields = { sync: false, residentBytesMax: 64_000_000, reserveBytes: 0 }
    this.store = new LevelStore({ directory: this.#directory, ...fields })
    this.world = await World.make({ ...this.#options, store: this.store }, (world) => {
      if (before === undefined) return
      world.monotonic = before.monotonic
      world.wall = before.wall
    })
    await this.settle()
  }

  async #end(): Promise<void> {
    await this.store.close().catch(() => {})
    rmSync(this.#root, { recursive: true, force: true })
  }

  /** Lets everything happen, commits and reads included. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 4; ) {
      await this.world.settle()
      const isDurable = this.store.committedSequence >= this.store.recordedSequence
      quiet = isDurable ? quiet + 1 : 0
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /** Ends the broker with nothing but what is durable, and starts it again, perhaps with other queues. */
  async kill(queues: Partial<QueueOptions> = this.#options.queues ?? {}): Promise<void> {
    await this.settle()
    await this.killNow(queues)
  }

  /** The same, whatever is under way. */
  async killNow(queues: Partial<QueueOptions> = this.#options.queues ?? {}): Promise<void> {
    this.#options = { ...this.#options, queues }
    const before = this.world
    const from = this.#directory
    this.#starts++
    killedCopy(from, this.#directory)
    await this.store.close()
    await this.#start(before)
  }

  async connect(clientId: string, connect: Given = {}, version: Version = 5): Promise<TestClient> {
    const client = this.world.open(version)
    const properties = version === 5 ? { properties: {} } : {}
    const packets = await client.send({ ...connectPacket(clientId, version), ...properties, ...connect })
    await this.settle()
    const [connack, ...rest] = [...packets, ...client.got()]
    if (connack?.cmd !== 'connack') throw new Error(`no CONNACK for ${clientId}`)
    client.connack = connack
    client.link.packets.unshift(...rest)
    return client
  }
}
