/**
 * Shows that `durability: interval` keeps its promise. After SIGKILL everything is there that was
 * acknowledged; after a power cut everything that was acknowledged an interval before. In either case the
 * messages that are there are the first ones that were published, without a gap.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { BrokerProcess, freePort } from './broker.mjs'
import { Client } from './client.mjs'
import { FaultyDisk } from './disk.mjs'
import { acknowledge, publish, subscribe } from './packets.mjs'
import { Random } from './random.mjs'

/** A sync itself may take so long on a busy machine. */
const SYNC_MS = 1000
/** Half of a queue's default limit: on a fast disk, too, the queue must not drop its oldest messages. */
const QUEUED_BYTES_MAX = 128 * 1024 * 1024
const TICK_MS = 5
const NO_MATCHING_SUBSCRIBERS = 0x10

/**
 * Runs once on a new directory, and ends with a power cut or SIGKILL. Resolves with `{acknowledged, lost,
 * lostMs, complaints}`; `lostMs` is the age of the oldest acknowledged message that was lost.
 */
export async function checkInterval({ kind, library, seed, intervalSeconds, powerCut, nameRules }) {
  const random = new Random(seed)
  const directory = mkdtempSync(join(tmpdir(), 'godwit-crash-'))
  const disk = new FaultyDisk({ library, directory, random, powerCuts: true, rules: nameRules })
  const complaints = []
  const broker = new BrokerProcess({
    kind,
    port: await freePort(random),
    data: disk.data,
    environment: () => disk.environment(),
    died: (text) => complaints.push(`the broker ended by itself: ${text}`),
  })
  try {
    broker.start()
    const sleeper = new Sleeper(broker.port)
    await sleeper.asleep()
    // Large messages fill a log of LevelDB between two syncs.
    const bytes = random.pick([300, 3000, 30_000])
    const publisher = new EagerPublisher(broker.port, bytes)
    const until = performance.now() + random.between(300, 4000)
    while (performance.now() < until && publisher.acknowledged * bytes < QUEUED_BYTES_MAX)
      await pause(TICK_MS)
    publisher.stop()
    await broker.kill()
    const cutAt = performance.now()
    if (powerCut) disk.cutPower()
    broker.start()
    const received = await sleeper.everything(() => broker.running)
    await broker.kill()
    for (const [index, number] of received.entries()) {
      if (number !== index) {
        complaints.push(`after ${received[index - 1] ?? 'nothing'} comes ${number}`)
        break
      }
    }
    const lost = publisher.acknowledgedMs.slice(received.length).filter((ms) => ms !== undefined)
    const lostMs = lost.length === 0 ? 0 : cutAt - Math.min(...lost)
    const allowedMs = powerCut ? intervalSeconds * 1000 + SYNC_MS : 0
    if (lostMs > allowedMs) complaints.push(`what was acknowledged ${lostMs.toFixed(0)} ms before is gone`)
    return { acknowledged: publisher.acknowledged, lost: lost.length, lostMs, complaints }
  } finally {
    await broker.kill()
    rmSync(directory, { recursive: true, force: true })
  }
}

/** These clients keep no ledger: the order of the numbers is all that is checked. */
const NO_LEDGER = { problem: () => {}, sessionLost: () => {} }

/** The sleeper's own message, which is queued behind all others. */
const LAST = 'last'

/** A client with a Session and a Subscription. It is away until the end and takes everything then. */
class Sleeper {
  #client
  #numbers = []
  /** @type {((value?: unknown) => void) | null} */
  #subscribed = null
  #hasEverything = false

  constructor(port) {
    this.#client = new Client(
      { port, ledger: NO_LEDGER, clientId: 'sleeper', version: 5 },
      {
        online: (isPresent) => {
          if (this.#subscribed !== null)
            this.#client.send(subscribe({ version: 5, packetId: 1, filter: 't', qos: 1 }))
          else if (isPresent)
            this.#client.send(publish({ version: 5, topic: 't', payload: LAST, qos: 1, packetId: 1 }))
          else this.#hasEverything = true
        },
        packet: (packet) => this.#packet(packet),
        offline: () => {},
      },
    )
  }

  /** Resolves when it has subscribed and left. */
  async asleep() {
    await new Promise((resolve) => {
      this.#subscribed = resolve
      this.#client.start()
    })
    this.#subscribed = null
    this.#client.leave()
  }

  /** Resolves with what was in its queue: the numbers of the messages, in order. */
  async everything(isRunning) {
    this.#client.start()
    while (isRunning() && !this.#hasEverything) await pause(50)
    this.#client.vanish()
    return this.#numbers
  }

  #packet({ type, qos, packetId, payload, dup, reasonCode }) {
    if (type === 'suback') this.#subscribed?.()
    // Without its Subscription, nothing comes.
    if (type === 'puback' && reasonCode === NO_MATCHING_SUBSCRIBERS) this.#hasEverything = true
    if (type !== 'publish') return
    if (payload === LAST) this.#hasEverything = true
    else if (!dup) this.#numbers.push(Number(payload.split(' ', 1)[0]))
    if (qos === 1) this.#client.send(acknowledge('puback', packetId))
  }
}

/** A client that publishes numbers from 0 on, as fast as they are acknowledged. */
class EagerPublisher {
  acknowledged = 0
  /** When each number was acknowledged. */
  acknowledgedMs = []
  #client
  #bytes
  #timer
  #next = 0

  constructor(port, bytes) {
    this.#bytes = bytes
    this.#client = new Client(
      { port, ledger: NO_LEDGER, clientId: 'publisher', version: 5, cleanStart: true },
      {
        online: () => {},
        packet: ({ type, packetId }) => {
          if (type !== 'puback') return
          this.acknowledgedMs[this.#numberOf(packetId)] = performance.now()
          this.acknowledged++
        },
        offline: () => this.stop(),
      },
    )
    this.#client.start()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  stop() {
    clearInterval(this.#timer)
    this.#client.vanish()
  }

  #tick() {
    for (let count = 0; count < 20 && this.#client.online && this.#next - this.acknowledged < 100; count++) {
      const number = this.#next++
      const payload = `${number} ${'.'.repeat(this.#bytes)}`
      this.#client.send(publish({ version: 5, topic: 't', payload, qos: 1, packetId: (number % 65_535) + 1 }))
    }
  }

  /** Acknowledgements arrive in order, and at most a hundred messages are in flight. */
  #numberOf(packetId) {
    const round = Math.floor(this.acknowledged / 65_535)
    return round * 65_535 + packetId - 1
  }
}
