/**
 * One run: a broker on a new directory, a crowd of clients, some kills at random instants, and the audit. What the
 * crowd does and when the broker is killed follows from the seed; how far both get meanwhile does not.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { Backups } from './backups.mjs'
import { BriefSessions } from './brief.mjs'
import { BrokerProcess, freePort } from './broker.mjs'
import { Client } from './client.mjs'
import { FaultyDisk } from './disk.mjs'
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
/** Of messages that expire, soon and not so soon. */
const EXPIRING_TOPICS = [
  { topic: 'x/0', retain: false, expirySeconds: 1 },
  { topic: 'x/1', retain: false, expirySeconds: 3600 },
]
const PUBLISHERS_PER_QOS = 4

/** A broker that says nothing for so long, while something is due, will not say it any more. */
const IDLE_MS = 10_000
/** What comes too often comes at once; no verdict of "lost" hangs on this. */
const AFTERMATH_MS = 400
const START_MS_AT_FIRST = 400
/** Between two kills with long queues, at the most. */
const LONG_MS = 4000
/** What a run without kills lasts, its end aside: it shows what a broker does wrong in peace. */
const CALM_MS = 4000

export class Run {
  kills = 0
  ledger = new Ledger()
  #options
  #random
  #broker
  #publishers = []
  #subscribers = []
  #wills = null
  #brief = null
  #canary
  #up = null
  #startMs = START_MS_AT_FIRST
  #inspections = 0
  #died = []
  #disk = null
  #backups = null
  /**
   * The disk fails at a start, or with an I/O error: a broker may end rather than lie. When the disk is full, one that
   * is up must come back by itself.
   */
  #mayDie = false

  /**
   * `kind` is of `brokerKind`; `kills` how many; `load` of `LOADS`; `idleMs` may be shorter for a broker that is expected
   * to lose.
   * With `library` of `buildFaults`: `powerCuts` makes every kill a power cut, `diskErrors` lets the disk fail between
   * the kills. With `backups`, backups are made while the broker runs and is killed.
   */
  constructor(options) {
    this.#options = { idleMs: IDLE_MS, keep: false, load: 'usual', ...options }
    this.#random = new Random(options.seed)
  }

  /** Runs to its end; the ledger has the outcome. */
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

  // ── the crowd ─────────────────────────────────────────────────────────────────────────────────────────────

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

  /** Figures of the backups: `completed`, `restored` and `owed`; null when none were made. */
  get backups() {
    return this.#backups
  }

  #disperse() {
    this.#canary?.vanish()
    this.#wills?.stop()
    this.#brief?.stop()
    for (const client of [...this.#publishers, ...this.#subscribers]) client.stop()
  }

  // ── the kills ─────────────────────────────────────────────────────────────────────────────────────────────

  async #chaos() {
    const plan = this.#plan()
    if (plan.length === 0) {
      await this.#start()
      this.#open()
      await pause(CALM_MS)
    }
    for (const [index, { early, afterMs, deafMs, fault, backupMs }] of plan.entries()) {
      // It will not be well again.
      if (this.#died.length > 0) return
      const up = this.#start()
      if (index === 0) this.#open()
      if (early === null) {
        await up
        // It goes on while the clients work, and ends with the broker.
        void this.#inspect()
        if (backupMs === null) await pause(afterMs)
        else await this.#backUp(Math.min(backupMs, afterMs), afterMs)
      } else {
        await pause(early * this.#startMs)
      }
      if (fault !== null) await this.#failDisk(fault, early !== null)
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

  /** When each kill is due: during the start, or so many ms after it, with clients that went deaf before. */
  #plan() {
    const random = this.#random
    const isLong = this.#options.load !== 'usual'
    return Array.from({ length: this.#options.kills }, (_, index) => ({
      early: index > 0 && random.chance(isLong ? 0.15 : 0.3) ? random.next() * 1.3 : null,
      // Long queues: long enough for the journal to be checkpointed again and again.
      afterMs: isLong ? random.between(500, LONG_MS) : random.between(20, random.chance(0.3) ? 2000 : 600),
      deafMs: random.chance(0.5) ? random.between(1, 60) : 0,
      fault: this.#options.diskErrors === true && random.chance(0.7) ? faultOf(random) : null,
      backupMs: this.#options.backups === true && random.chance(0.8) ? random.between(0, 500) : null,
    }))
  }

  /** Resolves when it answers. */
  #start() {
    const judge = this.#brief?.judge
    judge?.brokerStarts()
    this.#broker.start()
    void this.#broker.exited.then(() => judge?.brokerEnded())
    const startedAt = performance.now()
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
    // One that finds no broker reads the directory itself, and keeps others from opening it.
    await this.#backups?.ended()
    this.#mayDie = false
    this.#disk?.cutPower()
  }

  /** Begins a backup after `backupMs` of `afterMs`. */
  async #backUp(backupMs, afterMs) {
    await pause(backupMs)
    const { kills } = this
    if (this.#broker.running) this.#backups.begin(() => this.kills > kills)
    await pause(afterMs - backupMs)
  }

  /** All calls fail for a while, from one of the next ones on; then the broker has some time to be well again. */
  async #failDisk(fault, starting) {
    this.#mayDie = starting || fault.error === 'EIO'
    this.#brief?.judge.diskFails()
    this.#disk.fail(fault)
    await pause(fault.forMs)
    this.#disk.mend()
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

  // ── the end ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Everybody stays; resolves when all that is due has come, or when nothing comes any more. */
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

  /** Once more: what was delivered and acknowledged does not come back. */
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

function faultOf(random) {
  return {
    error: random.pick(['ENOSPC', 'ENOSPC', 'EIO']),
    countdown: random.between(0, 20),
    torn: random.chance(0.5),
    forMs: random.between(1, 300),
    wellMs: random.pick([0, 50, 2500]),
  }
}
