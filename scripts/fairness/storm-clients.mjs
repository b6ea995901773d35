/**
 * A process of clients for `storm.mjs`, each a bare socket: a fleet with persistent Sessions and Wills that
 * comes back all at once, or quiet pairs that measure how long their messages take. Its parent sends it tasks
 * as messages.
 */
import { openSync, readSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { connect as connectTls } from 'node:tls'
import mqttPacket from 'mqtt-packet'

const { generate, parser } = mqttPacket

/**
 * MQTT.js tries again a second after a connection was lost, waits 30 s for CONNACK, and gives up after a
 * refusal.
 */
const RECONNECT_MS = 1000
const CONNACK_MS = 30_000
/** Paho tries again after a refusal, too, and waits twice as long each time. */
const PAHO_MS = { first: 1000, most: 120_000 }

const SECONDS_OF_SESSION = 3600

class Client {
  state = 'new'
  sessionPresent = false
  refusals = 0
  /** When it was last let in. */
  since = 0
  #fleet
  #fields
  /** @type {import('node:net').Socket | null} */
  #socket = null
  /** @type {NodeJS.Timeout | undefined} */
  #timer
  #delay = PAHO_MS.first

  constructor(fleet, fields) {
    this.#fleet = fleet
    this.#fields = fields
  }

  open() {
    const { port, host, tls } = this.#fleet.options
    this.state = 'waiting'
    this.#fleet.attempts++
    const socket = tls
      ? connectTls({ port, host, rejectUnauthorized: false })
      : connectTcp({ port, host, noDelay: true })
    this.#socket = socket
    const opened = () => socket.write(this.#fields.bytes)
    socket.once(tls ? 'secureConnect' : 'connect', opened)
    socket.on('error', () => {})
    socket.on('data', (chunk) => this.#read(chunk))
    socket.on('close', () => this.#closed(socket))
    this.#timer = setTimeout(() => socket.destroy(), CONNACK_MS)
  }

  end() {
    clearTimeout(this.#timer)
    this.state = 'ended'
    this.#socket?.destroy()
  }

  write(bytes) {
    this.#socket?.write(bytes)
  }

  #read(chunk) {
    if (this.state === 'in') {
      this.#fields.received?.(chunk)
      return
    }
    // CONNACK arrives in one piece, as it is far smaller than a segment.
    clearTimeout(this.#timer)
    const isVersion5 = this.#fleet.options.version === 5
    const code = chunk[3]
    if (chunk[0] !== 0x20 || code !== 0) {
      this.refusals++
      this.#fleet.refused(code)
      this.state = 'refused'
      this.#socket?.destroy()
      if (!this.#fleet.options.retries) return
      this.#timer = setTimeout(() => this.open(), this.#delay)
      this.#delay = Math.min(this.#delay * 2, PAHO_MS.most)
      return
    }
    this.state = 'in'
    this.sessionPresent = (chunk[2] & 1) === 1
    this.since = performance.now()
    this.#fleet.letIn(this)
    // A broker that keeps no Sessions has to be told again.
    if (!this.sessionPresent && this.#fields.subscribe !== undefined) this.write(this.#fields.subscribe)
    const length = 2 + chunk[1]
    if (isVersion5 && chunk.length > length) this.#fields.received?.(chunk.subarray(length))
  }

  #closed(socket) {
    if (socket !== this.#socket || this.state === 'ended' || this.state === 'refused') return
    clearTimeout(this.#timer)
    const was = this.state
    this.state = 'lost'
    if (was === 'in') this.#fleet.lost()
    if (this.#fleet.holdsBack) return
    this.#timer = setTimeout(() => this.open(), RECONNECT_MS)
  }
}

/** All clients of this process. */
class Fleet {
  options
  /** @type {Client[]} */
  clients = []
  isIn = 0
  refusals = {}
  /** While true, clients that lost their connections do not come back. */
  holdsBack = false
  /** The number of connections that were begun. */
  attempts = 0
  /** @type {((value?: unknown) => void) | null} */
  #whenAll = null

  constructor(options) {
    this.options = options
  }

  letIn() {
    this.isIn++
    this.#look()
  }

  refused(code) {
    this.refusals[code] = (this.refusals[code] ?? 0) + 1
    this.#look()
  }

  lost() {
    this.isIn--
  }

  /** Resolves when each client is in, or has given up. */
  settled() {
    return new Promise((resolve) => {
      this.#whenAll = resolve
      this.#look()
    })
  }

  #look() {
    if (this.#whenAll === null) return
    const { retries } = this.options
    const out = retries ? 0 : this.clients.filter(({ state }) => state === 'refused').length
    if (this.isIn + out < this.clients.length) return
    const resolve = this.#whenAll
    this.#whenAll = null
    resolve()
  }
}

function connectBytes(clientId, version, user, will) {
  return generate({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: version,
    clientId,
    clean: false,
    keepalive: 0,
    ...(user !== undefined && { username: user.name, password: Buffer.from(user.password) }),
    ...(will !== undefined && { will }),
    ...(version === 5 && { properties: { sessionExpiryInterval: SECONDS_OF_SESSION } }),
  })
}

/** @type {Fleet} */
let fleet
/**
 * Latencies of the pairs' messages since the last task `measured`, in ms, and those without the waits for a
 * CPU.
 */
let latencies = []
let ownLatencies = []
/** Descriptors of `schedstat` of the main threads of this process and of the broker. */
let schedules = []
/** How long these had waited for a CPU when a message was sent, in ms, by the number of the message. */
const waitedBefore = new Map()
let sent = 0
let willsSeen = 0
/** @type {NodeJS.Timeout | undefined} */
let pulse

const tasks = {
  /** Makes the clients of the fleet, each with a Session, a Will and a user of its own. */
  async fleet({ users, ...options }) {
    fleet = new Fleet(options)
    for (const [index, user] of users.entries()) {
      const topic = `storm/will/${index}`
      const will = { topic, payload: Buffer.from('gone'), qos: 0, retain: false }
      const bytes = connectBytes(`storm-${index}`, options.version, user, will)
      fleet.clients.push(new Client(fleet, { bytes }))
    }
    return {}
  },

  /** Connects all clients at once. Resolves when each is in, or refused for good. */
  async connect({ retries }) {
    fleet.options = { ...fleet.options, retries }
    fleet.refusals = {}
    fleet.attempts = 0
    fleet.holdsBack = false
    const begin = performance.now()
    for (const client of fleet.clients) {
      client.refusals = 0
      client.open()
    }
    await fleet.settled()
    const inAfter = fleet.clients
      .filter(({ state }) => state === 'in')
      .map(({ since }) => since - begin)
      .sort((one, other) => one - other)
    return {
      isIn: fleet.isIn,
      attempts: fleet.attempts,
      sessionsPresent: fleet.clients.filter(({ state, sessionPresent }) => state === 'in' && sessionPresent)
        .length,
      refusals: fleet.refusals,
      neverIn: fleet.clients.filter(({ state }) => state === 'refused').length,
      halfMs: inAfter[inAfter.length >> 1] ?? 0,
      lastMs: inAfter.at(-1) ?? 0,
    }
  },

  async holdBack() {
    fleet.holdsBack = true
    return {}
  },

  /** Makes quiet pairs, and one client that listens for Wills. */
  async pairs({ count, perSecond, users, ...options }) {
    fleet = new Fleet({ ...options, retries: true })
    const watcher = {
      bytes: connectBytes('storm-watcher', 4, users[0]),
      subscribe: subscribe('storm/will/+'),
    }
    watcher.received = packetsOf(({ cmd, topic }) => {
      if (cmd === 'publish' && topic.startsWith('storm/will/')) willsSeen++
    })
    fleet.clients.push(new Client(fleet, watcher))
    const publishers = []
    for (let index = 0; index < count; index++) {
      const filter = subscribe(`storm/pair/${index}`)
      const fields = { bytes: connectBytes(`storm-reader-${index}`, 4, users[0]), subscribe: filter }
      fields.received = packetsOf(({ cmd, payload }) => {
        if (cmd === 'publish') received(payload)
      })
      fleet.clients.push(new Client(fleet, fields))
      const publisher = new Client(fleet, { bytes: connectBytes(`storm-sender-${index}`, 4, users[0]) })
      publishers.push(publisher)
      fleet.clients.push(publisher)
    }
    for (const client of fleet.clients) client.open()
    await fleet.settled()
    let next = 0
    // Messages are spread evenly: bursts would delay each other.
    pulse = setInterval(
      () => {
        const index = next++ % count
        const publisher = publishers[index]
        if (publisher.state !== 'in') return
        const payload = Buffer.allocUnsafe(16)
        payload.writeUInt32BE(++sent, 8)
        waitedBefore.set(sent, waitedMs())
        payload.writeDoubleBE(performance.now(), 0)
        publisher.write(
          generate({
            cmd: 'publish',
            topic: `storm/pair/${index}`,
            payload,
            qos: 0,
            dup: false,
            retain: false,
          }),
        )
      },
      1000 / (count * perSecond),
    )
    return {}
  },

  /** Sets the process of the broker, and counts Wills anew. */
  async watch({ pid }) {
    schedules = [process.pid, pid].map((id) => openSync(`/proc/${id}/task/${id}/schedstat`, 'r'))
    waitedBefore.clear()
    willsSeen = 0
    return {}
  },

  async allIn() {
    await fleet.settled()
    return {}
  },

  /** Resolves with what was measured since the last time. */
  async measured() {
    const own = quantiles(ownLatencies)
    const seen = { ...quantiles(latencies), own, willsSeen }
    latencies = []
    ownLatencies = []
    return seen
  },

  async end() {
    clearInterval(pulse)
    for (const client of fleet?.clients ?? []) client.end()
    setImmediate(() => process.disconnect())
    return {}
  },
}

function received(payload) {
  const ms = performance.now() - payload.readDoubleBE(0)
  latencies.push(ms)
  const number = payload.readUInt32BE(8)
  const before = waitedBefore.get(number)
  waitedBefore.delete(number)
  if (before !== undefined) ownLatencies.push(Math.max(0, ms - (waitedMs() - before)))
}

/** Returns how long this process and the broker together have waited for a CPU since their start, in ms. */
function waitedMs() {
  return schedules.reduce((sum, descriptor) => sum + waitedOf(descriptor), 0)
}

function waitedOf(descriptor) {
  const text = Buffer.alloc(100)
  try {
    const length = readSync(descriptor, text, 0, text.length, 0)
    return Number(text.toString('latin1', 0, length).split(' ')[1]) / 1e6
  } catch {
    // The broker was killed.
    return 0
  }
}

function quantiles(values) {
  const sorted = values.sort((one, other) => one - other)
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) }
}

function subscribe(topic) {
  return generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 0 }] })
}

function packetsOf(take) {
  const reader = parser({ protocolVersion: 4 })
  reader.on('packet', take)
  return (chunk) => reader.parse(chunk)
}

process.on('message', ({ id, task, options }) => {
  tasks[task](options ?? {}).then(
    (result) => process.send?.({ id, result }),
    (error) => process.send?.({ id, error: error.stack }),
  )
})
