/**
 * One run with queues: producers and consumers of both versions, kills at random instants, and the audit. The
 * seed decides what the clients do and when the broker is killed, but not how far they get meanwhile.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { BrokerProcess, freePort } from './broker.mjs'
import { Client } from './client.mjs'
import { FaultyDisk, faultOf } from './disk.mjs'
import { ExplicitWorker } from './explicit-worker.mjs'
import { QueueConsumer, QueueProducer } from './queue-clients.mjs'
import { QueueLedger } from './queue-ledger.mjs'
import { Random } from './random.mjs'

/** Messages that are handed out twice arrive at once; none counts as lost because this is short. */
const AFTERMATH_MS = 600
const START_MS_AT_FIRST = 400
/** The Response Topic of messages that have results. */
const RESULTS = '$queue/answers'

export class QueueRun {
  kills = 0
  ledger = new QueueLedger()
  #options
  #random
  #broker
  /** @type {QueueProducer[]} */
  #producers = []
  /** @type {(QueueConsumer | ExplicitWorker)[]} */
  #consumers = []
  #canary
  /** @type {(() => void) | null} */
  #up = null
  #startMs = START_MS_AT_FIRST
  #died = []
  /** @type {FaultyDisk | null} */
  #disk = null
  /** Whether the broker may end by itself, since its disk has errors. */
  #mayDie = false

  /**
   * @param {{
   *   kind: ReturnType<typeof import('./broker.mjs').brokerKind>,
   *   main: string,
   *   seed: number,
   *   kills: number,
   *   idleMs: number,
   *   keep?: boolean,
   *   library?: string,
   *   nameRules?: readonly import('./trace.mjs').NameRule[],
   *   powerCuts?: boolean,
   *   diskErrors?: boolean,
   * }} options `main` is Godwit's, for the last check of the store
   */
  constructor(options) {
    this.#options = { keep: false, ...options }
    this.#random = new Random(options.seed)
  }

  /** Runs to the end. The ledger has the outcome. */
  async execute() {
    const directory = mkdtempSync(join(tmpdir(), 'godwit-crash-'))
    const port = await freePort(new Random(Math.floor(Math.random() * 2 ** 32)))
    this.#broker = this.#newBroker(directory, port)
    try {
      this.#gather(port)
      await this.#chaos()
      await this.#settle()
      await this.#aftermath()
      for (const text of this.#died) this.ledger.problem('strays', `the broker ended by itself: ${text}`)
      // Then the clients could not finish: nothing is known to be lost.
      if (this.#died.length > 0) return
      this.ledger.audit()
      await this.#broker.kill()
      await this.#check()
    } finally {
      this.#canary?.vanish()
      for (const client of [...this.#producers, ...this.#consumers]) client.stop()
      await this.#broker.kill()
      if (!this.#options.keep) rmSync(directory, { recursive: true, force: true })
    }
  }

  #newBroker(directory, port) {
    const { kind, library, powerCuts = false, nameRules: rules } = this.#options
    const died = (text) => {
      if (!this.#mayDie) this.#died.push(text)
    }
    if (library === undefined) return new BrokerProcess({ kind, port, data: join(directory, 'data'), died })
    const disk = new FaultyDisk({ library, directory, random: this.#random.fork(), powerCuts, rules })
    this.#disk = disk
    return new BrokerProcess({ kind, port, data: disk.data, died, environment: () => disk.environment() })
  }

  #gather(port) {
    const { ledger } = this
    const random = this.#random
    const produce = (name, topic, qos, more = {}) => {
      const version = random.pick([4, 5])
      const own = { random: random.fork(), window: random.pick([1, 5, 20, 100]), poison: 0.03 }
      const mayBeRefused = this.#options.diskErrors === true
      this.#producers.push(
        new QueueProducer({ port, ledger, name, version, topic, qos, mayBeRefused, ...own, ...more }),
      )
    }
    const consume = (name, queue, filter, qos, more = {}) => {
      const own = { random: random.fork(), version: random.pick([4, 5]), workMs: random.pick([0, 2, 20]) }
      const absence = random.pick([0.001, 0.01, 0.03])
      this.#consumers.push(
        new QueueConsumer({ port, ledger, name, queue, filter, qos, ...own, absence, ...more }),
      )
    }
    // A queue that listens, with consumers of both faces.
    for (const qos of [1, 2]) produce(`feeder${qos}`, 'jobs/a/b', qos)
    produce('repeater1', 'jobs/a/c', 1, { hasIds: true, version: 5 })
    for (const index of [0, 1, 2])
      consume(`worker${index}`, 'jobs', '$queue/jobs/jobs/#', random.pick([1, 2]))
    consume('brief', 'jobs', '$queue/jobs/jobs/#', random.pick([1, 2]), { isBrief: true })
    consume('sharer', 'jobs', '$share/jobs/jobs/#', 1, { refuses: false })
    // One that is addressed, and slow, so that its messages are read back.
    for (const qos of [1, 2]) produce(`sender${qos}`, '$queue/box/x', qos)
    for (const qos of [1, 2]) produce(`payer${qos}`, '$queue/box/y', qos, { hasIds: true, version: 5 })
    for (const index of [0, 1]) consume(`taker${index}`, 'box', '$queue/box/#', index + 1, { workMs: 5 })
    // One in order, with one consumer.
    for (const qos of [1, 2]) produce(`liner${qos}`, '$queue/line/z', qos, { poison: 0 })
    consume('inline', 'line', '$queue/line/#', 1, { isAlone: true })
    // One with explicit acknowledgement, whose results go to another.
    const results = { version: 5, responseTopic: RESULTS }
    for (const qos of [1, 2]) produce(`asker${qos}`, '$queue/tasks/x', qos, results)
    const lend = (name, queue, qos) => {
      const own = { random: random.fork(), version: random.pick([4, 5]), workMs: random.pick([0, 2, 20]) }
      this.#consumers.push(new ExplicitWorker({ port, ledger, name, queue, qos, ...own }))
    }
    for (const index of [0, 1, 2]) lend(`lender${index}`, 'tasks', index)
    lend('reader', 'answers', 1)
    for (const queue of ['jobs.dead', 'box.dead', 'tasks.dead'])
      consume(`heir-${queue}`, queue, `$queue/${queue}/#`, 1, { refuses: false, absence: 0.005 })
    this.#canary = new Client(
      { port, ledger, clientId: 'canary', version: 4, cleanStart: true },
      { online: () => this.#up?.(), packet: () => {}, offline: () => {} },
    )
  }

  async #chaos() {
    const random = this.#random
    for (let index = 0; index < this.#options.kills; index++) {
      // A broker that ended by itself is not started again.
      if (this.#died.length > 0) return
      const up = this.#start()
      if (index === 0) await this.#open(up)
      if (index > 0 && random.chance(0.25)) await pause(random.next() * 1.3 * this.#startMs)
      else {
        await up
        await pause(random.between(20, random.chance(0.4) ? 2500 : 700))
      }
      if (this.#options.diskErrors === true && random.chance(0.7)) await this.#failDisk(faultOf(random))
      await this.#kill()
    }
  }

  /** Lets all calls fail for a while. The broker then has some time to recover. */
  async #failDisk(fault) {
    // During a start it may end, whatever the error.
    this.#mayDie = this.#up !== null || fault.error === 'EIO'
    this.#disk?.fail(fault)
    await pause(fault.forMs)
    this.#disk?.mend()
    await pause(fault.wellMs)
  }

  /** Lets the consumers declare their queues by using them, and then the producers begin. */
  async #open(up) {
    await up
    for (const consumer of this.#consumers) consumer.start()
    await this.#allReady()
    for (const producer of this.#producers) producer.start()
  }

  async #allReady() {
    const until = performance.now() + this.#options.idleMs
    while (!this.#consumers.every(({ isReady }) => isReady) && performance.now() < until) await pause(20)
  }

  /** Starts the broker. Resolves when it answers, or ends. */
  #start() {
    this.#broker.start()
    void this.#broker.exited.then(() => this.ledger.broker++)
    const startedAt = performance.now()
    /** @type {Promise<void>} */
    const up = new Promise((resolve) => {
      this.#up = () => {
        this.#startMs = performance.now() - startedAt
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
    const gone = this.#broker.kill()
    this.ledger.broker++
    await gone
    this.#mayDie = false
    this.#disk?.cutPower()
  }

  /** Lets all clients stay connected. Resolves when all that is due is finished, or the broker is silent. */
  async #settle() {
    if (this.#died.length > 0) return
    if (!this.#broker.running) await this.#start()
    for (const producer of this.#producers) producer.finish()
    for (const consumer of this.#consumers) consumer.settle()
    let { time } = this.ledger
    let since = performance.now()
    while (!this.#producers.every(({ finished }) => finished) || this.ledger.missing() > 0) {
      await pause(50)
      if (!this.#broker.running) return
      if (this.ledger.time !== time) {
        time = this.ledger.time
        since = performance.now()
      }
      if (performance.now() - since > this.#options.idleMs) return
    }
  }

  /** Restarts the broker once more: whatever is finished must not come back. Then lets it drain. */
  async #aftermath() {
    if (this.#died.length > 0) return
    await pause(AFTERMATH_MS)
    await this.#kill()
    await this.#start()
    await this.#allReady()
    // Copies of messages whose producers did not learn that they were taken are handed out as well, some of
    // them only once a lease ends.
    let { time } = this.ledger
    let since = performance.now()
    while (this.#broker.running && performance.now() - since < this.#options.idleMs) {
      if ((await this.#left()) === 0) break
      await pause(AFTERMATH_MS)
      if (this.ledger.time === time) continue
      time = this.ledger.time
      since = performance.now()
    }
    await pause(AFTERMATH_MS)
  }

  /** Resolves with the number of messages in all queues; with 1 if the broker does not say. */
  async #left() {
    const words = [this.#options.main, 'queue', 'list', '--json', '--data', this.#broker.data]
    /** @type {string} */
    const text = await new Promise((resolve) => {
      execFile(process.execPath, words, (_error, stdout) => resolve(stdout))
    })
    if (text === '') return 1
    /** @type {{ rows: { messages: number }[] }} */
    const { rows } = JSON.parse(text)
    return rows.reduce((sum, { messages }) => sum + messages, 0)
  }

  /** Nothing may be left in the queues, and the store must be sound. */
  async #check() {
    const { main } = this.#options
    /** @type {string} */
    const text = await new Promise((resolve) => {
      execFile(process.execPath, [main, 'check-store', this.#broker.data], (_error, stdout, stderr) =>
        resolve(`${stdout}${stderr}`),
      )
    })
    if (!text.includes('nothing is damaged')) this.ledger.problem('strays', `check-store says: ${text}`)
    else if (!/ queues with 0 messages/.test(text))
      this.ledger.problem('lost', `something is left in a queue: ${text}`)
  }
}
