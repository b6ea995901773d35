import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Packet } from 'mqtt-packet'
import { expect, it } from 'vitest'
import { Random } from '../../../scripts/crash/random.mjs'
import type { Session } from '../../../src/session/session.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { killedCopy } from '../../store/killed-copy.ts'
import { connectPacket, lasting, type TestClient, textsOf, World } from '../harness.ts'

const STEPS = 50

/** A broker on a directory that is killed now and then, and a subscriber that comes and goes. */
class Trial {
  readonly #random: Random
  readonly #root = mkdtempSync(join(tmpdir(), 'godwit-order-'))
  #starts = 0
  #store!: LevelStore
  #world!: World
  #client: TestClient | null = null
  #unanswered: Packet[] = []
  /** When the messages expire, in broker time, in the order in which they were published. */
  readonly #expiries: number[] = []
  /** The latest message that arrived. */
  #latest = -1
  kills = 0

  constructor(seed: number) {
    this.#random = new Random(seed)
  }

  async run(): Promise<void> {
    try {
      await this.#start()
      const first = await this.#connected()
      void first.subscribe('#', 1)
      await this.#until(() => first.link.packets.some(({ cmd }) => cmd === 'suback'))
      this.#client = first
      for (let step = 0; step < STEPS; step++) await this.#step()
      await this.#drain()
    } finally {
      await this.#vanish()
      await this.#until(() => this.#isDurable)
      await this.#store.close()
      rmSync(this.#root, { recursive: true, force: true })
    }
  }

  get arrived(): number {
    return this.#latest
  }

  async #step(): Promise<void> {
    const random = this.#random
    const what = random.next()
    if (what < 0.3) this.#publish(random.between(1, random.chance(0.15) ? 400 : 40))
    else if (what < 0.5) await this.#world.pass(random.between(1, 20) / 10)
    else if (what < 0.75) this.#answer(random.between(1, 30))
    else if (what < 0.9) {
      if (this.#client === null) this.#client = await this.#connected()
      else await this.#vanish()
    } else await this.#kill()
    // Now and then there is more to come before all that is recorded is durable.
    if (random.chance(0.7)) await this.#until(() => this.#isDurable)
    this.#look()
  }

  #publish(count: number): void {
    const { server } = this.#world
    for (; count > 0; count--) {
      const n = this.#expiries.length
      const afterMs = this.#random.pick([500, 1000, 3000, 10_000, Number.POSITIVE_INFINITY])
      const expiresAt = server.state.clock + afterMs
      this.#expiries.push(expiresAt)
      void server.publish({
        topic: 't',
        payload: Buffer.from(`${n}`.padEnd(200, ' ')),
        qos: 1,
        retain: false,
        publisher: '',
        ...(afterMs < Number.POSITIVE_INFINITY && { expiresAt }),
      })
    }
  }

  get #isDurable(): boolean {
    return this.#store.committedSequence >= this.#store.recordedSequence
  }

  get #session(): Session {
    return this.#world.server.state.sessions.get('sub')!
  }

  async #start(): Promise<void> {
    const before = this.#starts === 0 ? null : this.#world
    const directory = join(this.#root, `${this.#starts++}`)
    this.#store = new LevelStore({ directory, sync: false, residentBytesMax: 20_000, reserveBytes: 0 })
    // No queue waits because the time of a restart is in doubt.
    const limits = { clockGraceSeconds: 0 }
    this.#world = await World.make({ store: this.#store, limits }, (world) => {
      world.monotonic = before?.monotonic ?? world.monotonic
      world.wall = before?.wall ?? world.wall
    })
  }

  /** Starts again on a copy of the files as they are: all that is durable is in it. */
  async #kill(): Promise<void> {
    await this.#until(() => this.#isDurable)
    this.#look()
    this.kills++
    killedCopy(join(this.#root, `${this.#starts - 1}`), join(this.#root, `${this.#starts}`))
    await this.#vanish()
    await this.#until(() => this.#isDurable)
    await this.#store.close()
    await this.#start()
  }

  async #connected(): Promise<TestClient> {
    const client = this.#world.open()
    const { properties } = lasting(100_000) as { properties: Record<string, unknown> }
    const receiveMaximum = this.#random.pick([1, 5, 100])
    const came = await client.send({
      ...connectPacket('sub'),
      ...lasting(100_000),
      properties: { ...properties, receiveMaximum },
    })
    client.link.packets.unshift(...came)
    await this.#until(() => client.link.packets.length > 0)
    expect(client.link.packets.shift()).toMatchObject({ cmd: 'connack' })
    return client
  }

  async #vanish(): Promise<void> {
    this.#look()
    await this.#client?.vanish()
    this.#client = null
    this.#unanswered = []
  }

  #answer(count: number): void {
    for (const { messageId } of this.#unanswered.splice(0, count) as { messageId: number }[]) {
      this.#client!.link.handler?.received(Buffer.from([0x40, 2, messageId >>> 8, messageId & 0xff]))
    }
  }

  /** Everything that came is newer than what came before, and what it passed has expired. */
  #look(): void {
    const packets = (this.#client?.link.packets.splice(0) ?? []).filter(({ cmd }) => cmd === 'publish')
    this.#unanswered.push(...packets)
    const { clock } = this.#world.server.state
    const numbers = textsOf(packets).map(Number)
    for (const [index, n] of numbers.entries()) {
      if ((packets[index] as { dup: boolean }).dup && n <= this.#latest) continue
      expect(n).toBeGreaterThan(this.#latest)
      this.#passed(n, clock)
      this.#latest = n
    }
  }

  #passed(to: number, clock: number): void {
    for (let n = this.#latest + 1; n < to; n++)
      expect(this.#expiries[n], `of ${n}`).toBeLessThanOrEqual(clock)
  }

  async #drain(): Promise<void> {
    this.#client ??= await this.#connected()
    // Bodies that are read back come later than the turn that asked for them.
    let [rounds, latest] = [0, this.#latest]
    while (this.#session.hasMore || this.#session.inFlightCount > 0) {
      rounds = this.#latest === latest ? rounds + 1 : 0
      latest = this.#latest
      expect(rounds, 'rounds without an arrival').toBeLessThan(3000)
      await this.#until(() => this.#isDurable)
      this.#look()
      this.#answer(100)
      await this.#world.pass(0.01)
      await new Promise((resolve) => setImmediate(resolve))
    }
    this.#look()
    this.#passed(this.#expiries.length, this.#world.server.state.clock)
  }

  async #until(condition: () => boolean): Promise<void> {
    for (;;) {
      await this.#world.settle()
      if (condition()) return
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
}

const seed = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

it(`[MQTT-4.6.0-6] the order of a topic is kept where messages expire, over kills, too (seed ${seed})`, {
  timeout: 120_000,
}, async () => {
  const runs = Number(process.env.GODWIT_TEST_RUNS ?? 2)
  let kills = 0
  let arrived = 0
  for (let run = 0; run < runs; run++) {
    const trial = new Trial(seed + run)
    await trial.run()
    kills += trial.kills
    arrived += trial.arrived
  }
  expect(kills).toBeGreaterThan(0)
  expect(arrived).toBeGreaterThan(100)
})
