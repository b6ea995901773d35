/**
 * What the built broker's core takes for a message, counted and not timed: a Server without sockets, links that count what
 * is written and answer as clients do, and as little of our own on the heap as can be.
 *
 *   node --expose-gc --single-threaded --min-semi-space-size=256 --max-semi-space-size=256 cost-child.mjs DIST
 *
 * The young generation is so large that nothing is collected while bytes are counted. Prints one line of JSON: by scenario
 * `writesPerMessage`, `writesPerTurn` (the most that one link got in one turn), `bytesPerMessage` (allocated, buffers
 * included), `collections` (0, or the bytes are not right); and `idleConnectionBytes`.
 */
import { join } from 'node:path'
import { PerformanceObserver } from 'node:perf_hooks'
import { setTimeout } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

const [dist] = process.argv.slice(2)
const load = (path) => import(pathToFileURL(join(dist, path)).href)
const { Server } = await load('broker/server.js')
const { DEFAULT_LIMITS } = await load('broker/limits.js')
const { MemoryStore } = await load('store/memory.js')

/** Turns until the compiler has done what it does. */
const WARM_TURNS = 3000
/** In one go: few enough that neither the young generation nor V8's allowance for buffers is used up. */
const COUNTED_DELIVERIES = 10_000
const TRIES = 5
/** Packets in one chunk, as a client that is not waited for sends them. */
const BURST = 20
const PAYLOAD = Buffer.alloc(64, 'x')
const IDLE_CONNECTIONS = 2000

let collections = 0
const observer = new PerformanceObserver((list) => {
  collections += list.getEntries().length
})
observer.observe({ entryTypes: ['gc'] })

const deferred = []
const host = {
  now: () => 1_000_000,
  wallNow: () => 1_700_000_000_000,
  defer: (callback) => deferred.push(callback),
  randomId: () => 'id',
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
  answers = Buffer.alloc(4 * BURST * 40)
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

function connectPacket(clientId) {
  return packet(0x10, text('MQTT'), Buffer.from([4, 2, 0, 0]), text(clientId))
}

function subscribePacket(filter, qos) {
  return packet(0x82, Buffer.from([0, 1]), text(filter), Buffer.from([qos]))
}

/** So many messages in one chunk, with packet identifiers from 1. */
function burstOf(topic, qos, count) {
  const one = (i) => {
    const id = qos === 0 ? Buffer.alloc(0) : Buffer.from([0, i + 1])
    return packet(0x30 | (qos << 1), text(topic), id, PAYLOAD)
  }
  return Buffer.concat(Array.from({ length: count }, (_, i) => one(i)))
}

async function newServer() {
  const server = new Server(
    { host, store: new MemoryStore(), limits: { ...DEFAULT_LIMITS }, policy: {} },
    fail,
  )
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
 * `publishers` and `subscribers` in number; each publisher sends `burst` messages a turn to the topic that `topicOf` names,
 * subscriber i has the filter that `filterOf` names.
 */
async function scenario({ qos, publishers, subscribers, burst, topicOf, filterOf }) {
  const server = await newServer()
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
    // Everything that is under way, to its end: PUBACK, or PUBREC, PUBREL and PUBCOMP, of both sides.
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
  }

  for (const client of clients) client.writesInTurn = 0
  for (let i = 0; i < WARM_TURNS; i++) turn()
  const perTurn = publishers * burst
  const fan = topicOf(0) === topicOf(1) ? subscribers : 1
  const turns = COUNTED_DELIVERIES / (perTurn * fan)
  const cost = await counted(perTurn * turns, clients, () => {
    for (let i = 0; i < turns; i++) turn()
  })
  const published = (WARM_TURNS + cost.tries * 2 * turns) * perTurn
  const got = sum(readers, 'publishes')
  if (got !== published * fan) fail(new Error(`${got} delivered of ${published * fan}`))
  return { ...cost, writesPerTurn }
}

/** What `work`, that handles so many messages, costs; once more when something was collected meanwhile. */
async function counted(messages, clients, work) {
  for (let tries = 1; ; tries++) {
    globalThis.gc()
    await told()
    // A collection throws away compiled code whose objects it collected: it is made again before bytes are counted.
    await work()
    collections = 0
    const writes = sum(clients, 'writes')
    const before = allocated()
    await work()
    const bytes = allocated() - before
    await told()
    if (collections > 0 && tries < TRIES) continue
    const writesPerMessage = (sum(clients, 'writes') - writes) / messages
    return { writesPerMessage, bytesPerMessage: bytes / messages, collections, tries }
  }
}

/** Connects, and leaves with DISCONNECT, again and again. */
async function connecting() {
  const server = await newServer()
  const packets = Array.from({ length: 100 }, (_, i) => connectPacket(`client${i}`))
  const bye = Buffer.from([0xe0, 0])
  const total = { writes: 0 }
  async function turn() {
    for (const connect of packets) {
      const client = new Client(server)
      client.handler.received(connect)
      if (deferred.length > 0) runDeferred()
      client.handler.received(bye)
      client.handler.closed(undefined)
      if (deferred.length > 0) runDeferred()
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
}

const costs = {}
for (const [name, what] of Object.entries(scenarios)) costs[name] = await scenario(what)
costs.CONNECT = await connecting()
console.log(JSON.stringify({ costs, idleConnectionBytes: await idleConnectionBytes() }))
process.exit(0)
