/**
 * Counts, and does not time, what a message costs the core of the build: a Server without sockets, links that
 * count writes and answer as clients do, and as little else on the heap as possible.
 *
 *   node --expose-gc --single-threaded --min-semi-space-size=256 --max-semi-space-size=256 \
 *     cost-child.mjs DIST
 *
 * The young generation is so large that nothing is collected while bytes are counted. Prints one line of
 * JSON: by scenario `writesPerMessage`, `writesPerTurn` (the most that one link got in one turn),
 * `bytesPerMessage` (allocated, buffers included), `collections` (if not 0, the bytes are wrong); and
 * `idleConnectionBytes`.
 */
import { createHmac } from 'node:crypto'
import { join } from 'node:path'
import { PerformanceObserver } from 'node:perf_hooks'
import { setTimeout } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

const [dist] = process.argv.slice(2)
const load = (path) => import(pathToFileURL(join(dist, path)).href)
const { Server } = await load('broker/server.js')
const { DEFAULT_LIMITS } = await load('broker/boundary/limits.js')
const { DEFAULT_QUEUE_OPTIONS } = await load('queue/queue-options.js')
const { MemoryStore } = await load('store/memory/memory-store.js')
const { inlineMore } = await load('runtime/inlining.js')

// As the program does.
inlineMore()

/** Turns until everything is compiled. */
const WARM_TURNS = 3000
/** In one go: few enough that neither the young generation nor V8's allowance for buffers is used up. */
const COUNTED_DELIVERIES = 10_000
const COUNTED_TURNS_MIN = 25
const TRIES = 5
/** Packets in one chunk, as a client that is not waited for sends them. */
const BURST = 20
const PAYLOAD = Buffer.alloc(64, 'x')
const IDLE_CONNECTIONS = 2000
/** For connections: code that is compiled meanwhile is on the heap, too, so the least of these counts. */
const ROUNDS = 3
const CLEAN_SESSION = 2
const KEPT_SESSION = 0
const RETAINED = 500
const OFFLINE = 500
/** None of which takes a message that is published. */
const QUEUES = 10_000
const RETAIN = 1
const DISCONNECT_BYTES = Buffer.from([0xe0, 0])

let collections = 0
const observer = new PerformanceObserver((list) => {
  collections += list.getEntries().length
})
observer.observe({ entryTypes: ['gc'] })

const deferred = []
const host = {
  now: () => 1_000_000,
  wallNow: () => 1_700_000_000_000,
  bootTime: () => null,
  defer: (callback) => deferred.push(callback),
  randomId: () => 'id',
  keyedHash: (key, text) => createHmac('sha256', key).update(text).digest(),
}

/** A client at the other end: counts writes, and answers QoS 1 and 2 in one chunk at the end of the turn. */
class Client {
  info = { transport: 'memory', listener: 'test', remoteAddress: '', remotePort: 1, allowAnonymous: true }
  leavesWritten = true
  bufferedBytes = 0
  flushedBytes = 0
  writes = 0
  writesInTurn = 0
  publishes = 0
  answers = Buffer.alloc(4 * Math.max(BURST * 40, OFFLINE))
  answered = 0

  constructor(server) {
    this.handler = server.accept(this)
  }

  write(chunks, bytes) {
    this.writes++
    this.writesInTurn++
    this.flushedBytes += bytes
    for (let i = 0; i < chunks.length; i++) this.read(chunks[i])
  }

  /** Packets are written whole here; lengths are below 128 but for none. */
  read(chunk) {
    for (let at = 0; at < chunk.length; ) {
      const first = chunk[at]
      const length = chunk[at + 1]
      const id = at + 2
      if (first >> 4 === 3) this.publish(chunk, first, id)
      else if (first >> 4 === 5) this.answer(0x62, chunk[id], chunk[id + 1])
      else if (first >> 4 === 6) this.answer(0x70, chunk[id], chunk[id + 1])
      at += 2 + length
    }
  }

  publish(chunk, first, at) {
    this.publishes++
    const id = at + 2 + chunk[at] * 256 + chunk[at + 1]
    const qos = (first >> 1) & 3
    if (qos > 0) this.answer(qos === 1 ? 0x40 : 0x50, chunk[id], chunk[id + 1])
  }

  answer(first, high, low) {
    const at = this.answered
    this.answers[at] = first
    this.answers[at + 1] = 2
    this.answers[at + 2] = high
    this.answers[at + 3] = low
    this.answered += 4
  }

  pause() {}
  resume() {}
  end() {}
  destroy() {}
}

function text(word) {
  const bytes = Buffer.from(word)
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

function packet(first, ...parts) {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([first, body.length]), body])
}

function connectPacket(clientId, flags = CLEAN_SESSION) {
  return packet(0x10, text('MQTT'), Buffer.from([4, flags, 0, 0]), text(clientId))
}

function subscribePacket(filter, qos) {
  return packet(0x82, Buffer.from([0, 1]), text(filter), Buffer.from([qos]))
}

/**
 * Makes a chunk of `count` messages with packet identifiers from 1. `topic` may be a function of the number.
 */
function burstOf(topic, qos, count, flags = 0) {
  const topicOf = typeof topic === 'function' ? topic : () => topic
  const one = (i) => {
    const id = qos === 0 ? Buffer.alloc(0) : Buffer.from([(i + 1) >> 8, (i + 1) & 255])
    return packet(0x30 | (qos << 1) | flags, text(topicOf(i)), id, PAYLOAD)
  }
  return Buffer.concat(Array.from({ length: count }, (_, i) => one(i)))
}

/** `queues` take topics of their own. */
async function newServer(policy = {}, queues = 0) {
  const one = (i) => ({ name: `q${i}`, properties: { filters: [`queued/${i}/+/#`] } })
  const declared = Array.from({ length: queues }, (_, i) => one(i))
  const options = { host, store: new MemoryStore(), limits: { ...DEFAULT_LIMITS }, policy }
  const server = new Server({ ...options, queues: { ...DEFAULT_QUEUE_OPTIONS, declared } }, fail)
  await server.start()
  await settle()
  return server
}

function fail(error) {
  console.error(error)
  process.exit(1)
}

async function settle() {
  for (let quiet = 0; quiet < 2; ) {
    for (let step = 0; step < 5; step++) await Promise.resolve()
    quiet = deferred.length === 0 ? quiet + 1 : 0
    runDeferred()
  }
}

function runDeferred() {
  const count = deferred.length
  for (let i = 0; i < count; i++) deferred[i]()
  deferred.splice(0, count)
}

async function connected(server, clientId, filter, qos) {
  const client = new Client(server)
  client.handler.received(connectPacket(clientId))
  await settle()
  if (filter !== undefined) client.handler.received(subscribePacket(filter, qos))
  await settle()
  return client
}

/**
 * Completes the exchanges between the Server and these clients: PUBACK, or PUBREC, PUBREL and PUBCOMP, of
 * both sides. Returns the most writes that one link got in one turn.
 */
function exchange(clients) {
  let writesPerTurn = 0
  for (let more = true; more; ) {
    if (deferred.length > 0) runDeferred()
    more = false
    for (let i = 0; i < clients.length; i++) {
      const client = clients[i]
      if (client.writesInTurn > writesPerTurn) writesPerTurn = client.writesInTurn
      client.writesInTurn = 0
      if (client.answered === 0) continue
      const chunk = client.answers.subarray(0, client.answered)
      client.answered = 0
      client.handler.received(chunk)
      more = true
    }
    if (deferred.length > 0) more = true
  }
  return writesPerTurn
}

/**
 * Runs a scenario with so many publishers and subscribers. Publisher i sends `burst` messages a turn to the
 * topic `topicOf(i)`, and subscriber i has the filter `filterOf(i)`. Without a policy, everything is allowed.
 */
async function scenario({ qos, publishers, subscribers, burst, topicOf, filterOf, policy, queues }) {
  const server = await newServer(policy, queues)
  const senders = []
  const readers = []
  const bursts = []
  for (let i = 0; i < subscribers; i++) readers.push(await connected(server, `s${i}`, filterOf(i), qos))
  for (let i = 0; i < publishers; i++) senders.push(await connected(server, `p${i}`))
  for (let i = 0; i < publishers; i++) bursts.push(burstOf(topicOf(i), qos, burst))
  const clients = [...senders, ...readers]
  let writesPerTurn = 0

  function turn() {
    for (let i = 0; i < senders.length; i++) senders[i].handler.received(bursts[i])
    writesPerTurn = Math.max(writesPerTurn, exchange(clients))
  }

  for (const client of clients) client.writesInTurn = 0
  for (let i = 0; i < WARM_TURNS; i++) turn()
  const perTurn = publishers * burst
  const fan = topicOf(0) === topicOf(1) ? subscribers : 1
  const turns = Math.max(COUNTED_TURNS_MIN, COUNTED_DELIVERIES / (perTurn * fan))
  const cost = await counted(perTurn * turns, clients, () => {
    for (let i = 0; i < turns; i++) turn()
  })
  const published = (WARM_TURNS + cost.runs * turns) * perTurn
  const got = sum(readers, 'publishes')
  if (got !== published * fan) fail(new Error(`${got} delivered of ${published * fan}`))
  return { ...cost, writesPerTurn }
}

/**
 * Resolves with the cost of `work`, which handles so many messages, and how often it ran. It is run again
 * when something was collected meanwhile.
 */
async function counted(messages, clients, work) {
  for (let tries = 1; ; tries++) {
    globalThis.gc()
    await told()
    // A collection discards compiled code with the objects that it refers to. It is compiled again before
    // bytes are counted.
    await work()
    collections = 0
    const writes = sum(clients, 'writes')
    const before = allocated()
    await work()
    const bytes = allocated() - before
    await told()
    if (collections > 0 && tries < TRIES) continue
    const writesPerMessage = (sum(clients, 'writes') - writes) / messages
    return { writesPerMessage, bytesPerMessage: bytes / messages, collections, runs: 2 * tries }
  }
}

/** Retained messages that replace those before them, of QoS 1. */
async function retainedStored() {
  const server = await newServer()
  const publisher = await connected(server, 'publisher')
  const chunk = burstOf((i) => `bench/${i}/kept`, 1, BURST, RETAIN)
  const clients = [publisher]
  publisher.writesInTurn = 0
  let writesPerTurn = 0
  function turn() {
    publisher.handler.received(chunk)
    writesPerTurn = Math.max(writesPerTurn, exchange(clients))
  }
  for (let i = 0; i < WARM_TURNS; i++) turn()
  const turns = COUNTED_DELIVERIES / BURST
  const cost = await counted(BURST * turns, clients, () => {
    for (let i = 0; i < turns; i++) turn()
  })
  return { ...cost, writesPerTurn }
}

/** Retained messages for a `+` that is subscribed to again and again. */
async function retainedSent() {
  const server = await newServer()
  const publisher = await connected(server, 'publisher')
  const reader = await connected(server, 'reader')
  publisher.handler.received(burstOf((i) => `bench/${i}/kept`, 1, RETAINED, RETAIN))
  const subscribe = subscribePacket('bench/+/kept', 0)
  const clients = [reader]
  reader.writesInTurn = 0
  let writesPerTurn = 0
  function turn() {
    reader.handler.received(subscribe)
    writesPerTurn = Math.max(writesPerTurn, exchange(clients))
  }
  for (let i = 0; i < 400; i++) turn()
  const before = reader.publishes
  const turns = COUNTED_DELIVERIES / RETAINED
  const cost = await counted(RETAINED * turns, clients, () => {
    for (let i = 0; i < turns; i++) turn()
  })
  const due = cost.runs * turns * RETAINED
  if (reader.publishes - before !== due) fail(new Error(`${reader.publishes - before} retained of ${due}`))
  return { ...cost, writesPerTurn }
}

/** QoS 1 for a Session without a connection; then its client comes, takes all of it, and goes again. */
async function offline() {
  const server = await newServer()
  const publisher = await connected(server, 'publisher')
  const chunk = burstOf('bench/away', 1, OFFLINE)
  const connect = connectPacket('away', KEPT_SESSION)
  const total = { writes: 0, publishes: 0 }
  const first = new Client(server)
  first.handler.received(connect)
  await settle()
  first.handler.received(subscribePacket('bench/away', 1))
  await settle()
  leave(first)
  publisher.writesInTurn = 0
  let writesPerTurn = 0
  function turn() {
    publisher.handler.received(chunk)
    const client = new Client(server)
    writesPerTurn = Math.max(writesPerTurn, exchange([publisher]))
    client.handler.received(connect)
    writesPerTurn = Math.max(writesPerTurn, exchange([client]))
    leave(client)
    total.publishes += client.publishes
    total.writes += client.writes
  }
  for (let i = 0; i < 200; i++) turn()
  const before = total.publishes
  const turns = 8
  const cost = await counted(OFFLINE * turns, [total, publisher], () => {
    for (let i = 0; i < turns; i++) turn()
  })
  const due = cost.runs * turns * OFFLINE
  if (total.publishes - before !== due) fail(new Error(`${total.publishes - before} queued ones of ${due}`))
  return { ...cost, writesPerTurn }
}

function leave(client) {
  client.handler.received(DISCONNECT_BYTES)
  client.handler.closed(undefined)
  if (deferred.length > 0) runDeferred()
}

/** Connects, and leaves with DISCONNECT, again and again. */
async function connecting() {
  const rounds = []
  for (let round = 0; round < ROUNDS; round++) rounds.push(await connectingOnce())
  return rounds.reduce((least, round) => (round.bytesPerMessage < least.bytesPerMessage ? round : least))
}

async function connectingOnce() {
  const server = await newServer()
  const packets = Array.from({ length: 100 }, (_, i) => connectPacket(`client${i}`))
  const total = { writes: 0 }
  async function turn() {
    for (const connect of packets) {
      const client = new Client(server)
      client.handler.received(connect)
      if (deferred.length > 0) runDeferred()
      leave(client)
      total.writes += client.writes
    }
    await Promise.resolve()
  }
  for (let i = 0; i < 100; i++) await turn()
  const cost = await counted(1000, [total], async () => {
    for (let i = 0; i < 10; i++) await turn()
  })
  return { ...cost, writesPerTurn: 1 }
}

/** Heap of the Server for a connection that has nothing to do. */
async function idleConnectionBytes() {
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < ROUNDS; round++) least = Math.min(least, await idleBytesOnce())
  return least
}

async function idleBytesOnce() {
  const server = await newServer()
  const clients = []
  for (let i = 0; i < 100; i++) clients.push(await connected(server, `warm${i}`))
  globalThis.gc()
  const before = process.memoryUsage().heapUsed
  for (let i = 0; i < IDLE_CONNECTIONS; i++) {
    const client = new Client(server)
    client.answers = null
    client.handler.received(connectPacket(`idle${i}`))
    clients.push(client)
    if (deferred.length > 0) runDeferred()
  }
  await settle()
  globalThis.gc()
  const bytes = process.memoryUsage().heapUsed - before
  if (clients.length !== IDLE_CONNECTIONS + 100) fail(new Error('clients are missing'))
  return bytes / IDLE_CONNECTIONS
}

/** Node tells of a collection some turns of the event loop later. */
async function told() {
  for (let i = 0; i < 5; i++) await setTimeout(2)
}

function sum(clients, field) {
  return clients.reduce((total, client) => total + client[field], 0)
}

function allocated() {
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

const own = (i) => `bench/${i}/data`
const same = () => 'bench/out/data'
const all = () => 'bench/+/data'
const fanIn = { publishers: 10, subscribers: 1, burst: BURST, topicOf: own, filterOf: all }
const pairs = { publishers: 50, subscribers: 50, burst: 1, topicOf: own, filterOf: own }
const scenarios = {
  'fan-in QoS 0': { ...fanIn, qos: 0 },
  'fan-in QoS 1': { ...fanIn, qos: 1 },
  'fan-in QoS 2': { ...fanIn, qos: 2 },
  'fan-out QoS 0': { publishers: 1, subscribers: 100, burst: BURST, topicOf: same, filterOf: same, qos: 0 },
  'fan-out QoS 1': { publishers: 1, subscribers: 100, burst: BURST, topicOf: same, filterOf: same, qos: 1 },
  'pairs QoS 0': { ...pairs, qos: 0 },
  'pairs QoS 1': { ...pairs, qos: 1 },
  'pairs QoS 2': { ...pairs, qos: 2 },
}

const costs = {}
for (const [name, what] of Object.entries(scenarios)) costs[name] = await scenario(what)
costs['fan-in QoS 1, beside queues'] = await scenario({ ...fanIn, qos: 1, queues: QUEUES })
costs['pairs QoS 0, beside queues'] = await scenario({ ...pairs, qos: 0, queues: QUEUES })
costs['retained, stored'] = await retainedStored()
costs['retained, sent'] = await retainedSent()
costs['queued and drained'] = await offline()
costs.CONNECT = await connecting()
const idleBytes = await idleConnectionBytes()
// Last, so that the others are compiled without it.
const policy = { authorizePublish: () => true, authorizeReceive: () => true }
costs['fan-in QoS 0, with a policy'] = await scenario({ ...fanIn, qos: 0, policy })
console.log(JSON.stringify({ costs, idleConnectionBytes: idleBytes }))
process.exit(0)
