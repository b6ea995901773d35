/**
 * One run: a broker on a new directory, a crowd of clients, some kills at random instants, and the audit. The
 * seed decides what the clients do and when the broker is killed, but not how far they get meanwhile.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { Backups } from './backups.mjs'
import { BriefSessions } from './brief.mjs'
import { BrokerProcess, freePort } from './broker.mjs'
import { Client } from './client.mjs'
import { FaultyDisk, faultOf } from './disk.mjs'
import { Ledger } from './ledger.mjs'
import { audienceOf, publishersOf } from './loads.mjs'
import { Publisher } from './publisher.mjs'
import { Random } from './random.mjs'
import { inspectRetained } from './retained.mjs'
import { Subscriber } from './subscriber.mjs'
import { WillClients } from './wills.mjs'

const PLAIN_TOPICS = ['t/0', 't/1', 't/2']
const CHANGING_TOPICS = ['c/0', 'c/1']
const SHARED_TOPIC = 's/0'
/** Topics of messages that expire during a run, or long after it. */
const EXPIRING_TOPICS = [
  { topic: 'x/0', retain: false, expirySeconds: 1 },
  { topic: 'x/1', retain: false, expirySeconds: 3600 },
]
const PUBLISHERS_PER_QOS = 4

/** When a broker is silent for so long, messages that are due count as lost. */
const IDLE_MS = 10_000
/** Messages that are delivered twice arrive at once; no message counts as lost because this is short. */
const AFTERMATH_MS = 400
const START_MS_AT_FIRST = 400
/** Time between two kills with long queues, at most. */
const LONG_MS = 4000
/** Duration of a run without kills, before its end. It shows what a broker does wrong undisturbed. */
const CALM_MS = 4000

export class Run {
  kills = 0
  ledger = new Ledger()
  #options
  #random
  #broker
  /** @type {Publisher[]} */
  #publishers = []
  /** @type {Subscriber[]} */
  #subscribers = []
  /** @type {WillClients | null} */
  #wills = null
  /** @type {BriefSessions | null} */
  #brief = null
  #canary
  /** @type {(() => void) | null} */
  #up = null
  #startMs = START_MS_AT_FIRST
  #inspections = 0
  #died = []
  /** @type {FaultyDisk | null} */
  #disk = null
  /** @type {Backups | null} */
  #backups = null
  /**
   * True when the disk fails during a start, or with an I/O error: the broker may then end. When the disk is
   * full, a broker that is up must recover by itself.
   */
  #mayDie = false

  /**
   * @param {{
   *   kind: ReturnType<typeof import('./broker.mjs').brokerKind>,
   *   seed: number,
   *   kills: number,
   *   load?: string,
   *   idleMs?: number,
   *   keep?: boolean,
   *   library?: string,
   *   nameRules?: readonly import('./trace.mjs').NameRule[],
   *   powerCuts?: boolean,
   *   diskErrors?: boolean,
   *   backups?: boolean,
   * }} options `idleMs` may be shorter for a broker that is expected to lose messages; `powerCuts` makes
   * every kill a power cut, `diskErrors` lets the disk fail between the kills, and both need `library` of
   * `buildFaults`
   */
  constructor(options) {
    this.#options = { idleMs: IDLE_MS, keep: false, load: 'usual', ...options }
    this.#random = new Random(options.seed)
  }

  /** Runs to the end. The ledger has the outcome. */
  async execute() {
    const directory = mkdtempSync(join(tmpdir(), 'godwit-crash-'))
    const port = await freePort(new Random(Math.floor(Math.random() * 2 ** 32)))
    const { kind, library, powerCuts = false } = this.#options
    const died = (text) => {
      if (!this.#mayDie) this.#died.push(text)
    }
    if (library === undefined) {
      this.#broker = new BrokerProcess({ kind, port, data: join(directory, 'data'), died })
    } else {
      const disk = new FaultyDisk({
        library,
        directory,
        random: this.#random.fork(),
        powerCuts,
        rules: this.#options.nameRules,
      })
      const { data } = disk
      this.#disk = disk
      this.#broker = new BrokerProcess({ kind, port, data, died, environment: () => disk.environment() })
    }
    try {
      this.#gather(port)
      if (this.#options.backups === true) this.#backups = this.#newBackups(directory)
      await this.#chaos()
      await this.#settle()
      await this.#aftermath()
      this.ledger.audit()
      await this.#backups?.audit()
      for (const text of this.#died) this.ledger.problem('strays', `the broker ended by itself: ${text}`)
    } finally {
      this.#disperse()
      await this.#broker.kill()
      if (!this.#options.keep) rmSync(directory, { recursive: true, force: true })
    }
  }

  // ── the crowd ──────────────────────────────────────────────────────────────────────────────────

  #gather(port) {
    const { ledger } = this
    const place = { port, ledger }
    if (this.#options.load === 'usual') this.#gatherUsual(place)
    else this.#gatherFor(this.#options.load, place)
    this.#canary = new Client(
      { ...place, clientId: 'canary', version: 4, cleanStart: true },
      { online: () => this.#up?.(), packet: () => {}, offline: () => {} },
    )
  }

  #gatherFor(load, place) {
    const random = this.#random
    const { versions } = this.#options.kind
    for (const publisher of publishersOf(load, random)) {
      const own = { random: random.fork(), version: random.pick(versions) }
      this.#publishers.push(new Publisher({ ...place, ...own, ...publisher }))
    }
    for (const subscriber of audienceOf(load, random)) {
      const receiveMaximum = random.pick([10, 100, 65_535])
      const own = { random: random.fork(), version: random.pick(versions), receiveMaximum }
      this.#subscribers.push(new Subscriber({ ...place, ...own, ...subscriber }))
    }
  }

  #gatherUsual(place) {
    const { kind } = this.#options
    const random = this.#random
    for (let index = 0; index < PUBLISHERS_PER_QOS * 2; index++) {
      const qos = index < PUBLISHERS_PER_QOS ? 1 : 2
      const topics = this.#topicsOf(index, random)
      const version = random.pick(kind.versions)
      const window = random.pick([1, 5, 20, 100])
      const burstMax = random.pick([1, 4, 8])
      const publisher = {
        ...place,
        random: random.fork(),
        name: `p${index}`,
        version,
        qos,
        topics,
        window,
        burstMax,
      }
      this.#publishers.push(new Publisher(publisher))
    }
    if (kind.versions.includes(5)) {
      for (const qos of [1, 2]) {
        const name = `x${qos}`
        const own = { random: random.fork(), version: 5, window: 10, burstMax: 1, topics: EXPIRING_TOPICS }
        this.#publishers.push(new Publisher({ ...place, ...own, name, qos }))
      }
      this.#brief = new BriefSessions({ ...place, random: random.fork() })
    }
    for (const subscriber of this.#audience(random)) {
      const version = random.pick(kind.versions)
      const receiveMaximum = random.pick([1, 10, 100, 65_535])
      const own = { random: random.fork(), version, receiveMaximum }
      this.#subscribers.push(new Subscriber({ ...place, ...own, ...subscriber }))
    }
    this.#wills = new WillClients({ ...place, random: random.fork(), versions: kind.versions })
  }

  #topicsOf(index, random) {
    const topics = [{ topic: random.pick(PLAIN_TOPICS), retain: false }]
    topics.push({ topic: random.pick([...PLAIN_TOPICS, ...CHANGING_TOPICS]), retain: false })
    if (random.chance(0.6)) topics.push({ topic: `r/${index}`, retain: true })
    if (this.#options.kind.shared && random.chance(0.5)) topics.push({ topic: SHARED_TOPIC, retain: false })
    return topics.filter(({ topic }, at) => topics.findIndex((other) => other.topic === topic) === at)
  }

  #audience(random) {
    const changing = CHANGING_TOPICS.map((filter) => ({ filter, qos: random.pick([1, 2]), changing: true }))
    const wills = { filter: 'w/+', qos: 2, changing: false }
    const all = (qos) => ({ filter: 't/#', qos, changing: false })
    const retained = (qos) => ({ filter: 'r/+', qos, changing: false })
    /**
     * @type {(Pick<ConstructorParameters<typeof Subscriber>[0], 'name' | 'filters' | 'absence'> &
     *   Partial<ConstructorParameters<typeof Subscriber>[0]>)[]}
     */
    const audience = [
      { name: 'online2', filters: [all(2), wills, retained(2)], absence: 0.001 },
      { name: 'online1', filters: [all(1), ...changing], absence: 0.001 },
      { name: 'coming2', filters: [all(2), ...changing], absence: 0.02 },
      { name: 'coming1', filters: [{ filter: 't/+', qos: 1, changing: false }, retained(1)], absence: 0.02 },
      {
        name: 'away2',
        filters: [{ filter: random.pick(PLAIN_TOPICS), qos: 2, changing: false }, wills],
        absence: 0.2,
      },
      {
        name: 'away1',
        filters: [{ filter: random.pick(PLAIN_TOPICS), qos: 1, changing: false }],
        absence: 0.2,
      },
    ]
    if (this.#options.kind.versions.includes(5)) {
      const expiring = [{ filter: 'x/+', qos: 2, changing: false }]
      audience.push({ name: 'late2', filters: expiring, absence: 0, late: true })
      audience.push({ name: 'coming2x', filters: expiring, absence: 0.02 })
    }
    const fickle = [{ filter: 't/#', qos: 2, changing: false }, ...changing]
    audience.push({
      name: 'fickle2',
      filters: fickle,
      absence: 0.02,
      fickle: true,
      version: this.#options.kind.versions.at(-1),
    })
    if (!this.#options.kind.shared) return audience
    const share = `$share/group/${SHARED_TOPIC}`
    const filters = [{ filter: share, qos: 2, changing: false }]
    for (const name of ['shared0', 'shared1', 'shared2'])
      audience.push({ name, share, filters, absence: 0.01 })
    return audience
  }

  #newBackups(directory) {
    const { kind, idleMs } = this.#options
    const { data } = this.#broker
    const random = this.#random.fork()
    const { ledger } = this
    return new Backups({ kind, directory, data, ledger, random, subscribers: this.#subscribers, idleMs })
  }

  /** Has the figures `completed`, `restored` and `owed`; null when no backups were made. */
  get backups() {
    return this.#backups
  }

  #disperse() {
    this.#canary?.vanish()
    this.#wills?.stop()
    this.#brief?.stop()
    for (const client of [...this.#publishers, ...this.#subscribers]) client.stop()
  }

  // ── the kills ──────────────────────────────────────────────────────────────────────────────────

  async #chaos() {
    const plan = this.#plan()
    if (plan.length === 0) {
      await this.#start()
      this.#open()
      await pause(CALM_MS)
    }
    for (const [index, { early, afterMs, deafMs, fault, backupMs }] of plan.entries()) {
      // A broker that ended by itself is not started again.
      if (this.#died.length > 0) return
      const up = this.#start()
      if (index === 0) this.#open()
      if (early === null) {
        await up
        // The inspection goes on while the clients work, and ends with the broker.
        void this.#inspect()
        if (backupMs === null) await pause(afterMs)
        else await this.#backUp(Math.min(backupMs, afterMs), afterMs)
      } else {
        await pause(early * this.#startMs)
      }
      if (fault !== null && this.#disk !== null) await this.#failDisk(this.#disk, fault, early !== null)
      if (deafMs > 0) {
        for (const client of [...this.#publishers, ...this.#subscribers]) {
          if (this.#random.chance(0.5)) client.goDeaf(deafMs + 100)
        }
        await pause(deafMs)
      }
      await this.#kill()
    }
  }

  #open() {
    for (const client of [...this.#subscribers, ...this.#publishers]) client.start()
    this.#wills?.start()
    this.#brief?.start()
  }

  /** Plans when each kill is due, during a start or after it, and what happens before it. */
  #plan() {
    const random = this.#random
    const isLong = this.#options.load !== 'usual'
    return Array.from({ length: this.#options.kills }, (_, index) => ({
      early: index > 0 && random.chance(isLong ? 0.15 : 0.3) ? random.next() * 1.3 : null,
      // With long queues, long enough for many checkpoints.
      afterMs: isLong ? random.between(500, LONG_MS) : random.between(20, random.chance(0.3) ? 2000 : 600),
      deafMs: random.chance(0.5) ? random.between(1, 60) : 0,
      fault: this.#options.diskErrors === true && random.chance(0.7) ? faultOf(random) : null,
      backupMs: this.#options.backups === true && random.chance(0.8) ? random.between(0, 500) : null,
    }))
  }

  /** Starts the broker. Resolves when it answers, or ends. */
  #start() {
    const judge = this.#brief?.judge
    judge?.brokerStarts()
    this.#broker.start()
    void this.#broker.exited.then(() => judge?.brokerEnded())
    const startedAt = performance.now()
    /** @type {Promise<void>} */
    const up = new Promise((resolve) => {
      this.#up = () => {
        this.#startMs = performance.now() - startedAt
        judge?.brokerIsUp()
        this.#up = null
        this.#canary.leave()
        resolve()
      }
    })
    this.#canary.start()
    return Promise.race([up, this.#broker.exited])
  }

  async #kill() {
    this.#up = null
    this.#canary.vanish()
    if (this.#broker.running) this.kills++
    this.#brief?.judge.brokerEnded()
    await this.#broker.kill()
    // A backup that finds no broker reads the directory itself, and keeps the next broker from opening it.
    await this.#backups?.ended()
    this.#mayDie = false
    this.#disk?.cutPower()
  }

  /** Lets `afterMs` pass, and begins a backup after `backupMs` of them. */
  async #backUp(backupMs, afterMs) {
    await pause(backupMs)
    const { kills } = this
    if (this.#broker.running) this.#backups?.begin(() => this.kills > kills)
    await pause(afterMs - backupMs)
  }

  /**
   * Lets all calls fail for a while, from one of the next ones on. The broker then has some time to recover.
   */
  async #failDisk(disk, fault, starting) {
    this.#mayDie = starting || fault.error === 'EIO'
    this.#brief?.judge.diskFails()
    disk.fail(fault)
    await pause(fault.forMs)
    disk.mend()
    this.#brief?.judge.diskIsMended()
    await pause(fault.wellMs)
  }

  #inspect() {
    const { kind, idleMs } = this.#options
    const { port, exited } = this.#broker
    const number = this.#inspections++
    return inspectRetained({
      port,
      ledger: this.ledger,
      version: kind.versions[0],
      number,
      idleMs,
      ended: exited,
    })
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────

  /** Lets all clients stay connected. Resolves when all that is due has arrived, or the broker is silent. */
  async #settle() {
    if (this.#died.length > 0) return
    if (!this.#broker.running) await this.#start()
    this.#wills?.stop()
    this.#brief?.stop()
    for (const publisher of this.#publishers) publisher.finish()
    for (const subscriber of this.#subscribers) subscriber.settle()
    let time = this.ledger.time
    let since = performance.now()
    while (!this.#complete()) {
      await pause(50)
      if (!this.#broker.running) return
      if (this.ledger.time !== time) {
        time = this.ledger.time
        since = performance.now()
      }
      if (performance.now() - since > this.#options.idleMs) return
    }
    await this.#inspect()
  }

  #complete() {
    return (
      this.#publishers.every(({ finished }) => finished) &&
      this.#subscribers.every(({ online, ready }) => online && ready) &&
      this.ledger.missing() === 0
    )
  }

  /** Restarts the broker once more: messages that were delivered and acknowledged must not come back. */
  async #aftermath() {
    await pause(AFTERMATH_MS)
    if (this.#options.kills === 0 || this.#died.length > 0) return
    await this.#kill()
    await this.#start()
    const until = performance.now() + this.#options.idleMs
    while (!this.#subscribers.every(({ online }) => online) && performance.now() < until) await pause(20)
    await pause(AFTERMATH_MS)
    await this.#inspect()
  }
}
