/**
 * Makes a Server without sockets keep many things of one kind at a time, and measures the growth of the heap
 * and of the counts of `UsageBook`. Prints a line of JSON: by kind, `heapBytes` and `countedBytes` per thing.
 *
 *   node --expose-gc costs-child.mjs DIST
 */
import { createHmac } from 'node:crypto'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [dist] = process.argv.slice(2)
const load = (path) => import(pathToFileURL(join(dist, path)).href)
const { Server } = await load('broker/server.js')
const { DEFAULT_LIMITS } = await load('broker/boundary/limits.js')
const { MemoryStore } = await load('store/memory/memory-store.js')

let deferred = []
const now = 1_000_000
const host = {
  now: () => now,
  wallNow: () => 1_700_000_000_000,
  bootTime: () => null,
  defer: (callback) => deferred.push(callback),
  randomId: () => 'id',
  keyedHash: (key, text) => createHmac('sha256', key).update(text).digest(),
}

class Client {
  info = { transport: 'unix', listener: '', remoteAddress: '', remotePort: 0, allowAnonymous: true }
  leavesWritten = true
  bufferedBytes = 0
  flushedBytes = 0

  constructor(server) {
    this.handler = server.accept(this)
    if (this.handler === null) throw new Error('not accepted')
  }

  write() {}
  pause() {}
  resume() {}
  end() {}
  destroy() {}

  send(...packets) {
    this.handler.received(Buffer.concat(packets))
  }

  gone() {
    this.handler.closed(undefined)
  }
}

function text(word) {
  const bytes = Buffer.from(word)
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

function packet(first, ...parts) {
  const body = Buffer.concat(parts)
  const length = []
  for (let left = body.length; ; left >>>= 7) {
    length.push((left & 127) | (left > 127 ? 128 : 0))
    if (left <= 127) break
  }
  return Buffer.concat([Buffer.from([first, ...length]), body])
}

const NEVER = Buffer.from([5, 0x11, 0xff, 0xff, 0xff, 0xff])
const END = Buffer.from([0])

function connect(clientId, { will = null, lasting = true } = {}) {
  const flags = (will === null ? 0 : 4) | (lasting ? 0 : 2)
  const delay = Buffer.from([5, 0x18, 0x7f, 0xff, 0xff, 0xff])
  const willParts = will === null ? [] : [delay, text('will/topic'), text(will)]
  const properties = lasting ? NEVER : END
  return packet(0x10, text('MQTT'), Buffer.from([5, flags, 0, 0]), properties, text(clientId), ...willParts)
}

function subscribe(filter, qos) {
  return packet(0x82, Buffer.from([0, 1, 0]), text(filter), Buffer.from([qos]))
}

function publish(topic, payload, qos, { retain = false, id = 1 } = {}) {
  const idBytes = qos === 0 ? [] : [Buffer.from([id >> 8, id & 255])]
  return packet(0x30 | (qos << 1) | (retain ? 1 : 0), text(topic), ...idBytes, END, Buffer.from(payload))
}

async function settle() {
  for (let quiet = 0; quiet < 3; ) {
    for (let step = 0; step < 5; step++) await Promise.resolve()
    const callbacks = deferred
    deferred = []
    quiet = callbacks.length === 0 ? quiet + 1 : 0
    for (const callback of callbacks) callback()
  }
}

async function grown() {
  for (let step = 0; step < 3; step++) {
    await new Promise((resolve) => setImmediate(resolve))
    globalThis.gc()
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

async function made() {
  const limits = { ...DEFAULT_LIMITS, memoryBytesMax: Number.POSITIVE_INFINITY }
  for (const [name, value] of Object.entries(limits)) {
    if (typeof value === 'number' && name.endsWith('Max')) limits[name] = Math.max(value, 1e9)
  }
  limits.inFlightMax = 1000
  limits.receiveMaximum = 65_535
  const store = new MemoryStore()
  const server = new Server({ host, store, limits, policy: {} }, (error) => {
    throw error
  })
  await server.start()
  return server
}

/** Code that is compiled meanwhile makes the heap grow, and garbage of before makes it shrink. */
const ROUNDS = 3

/**
 * Measures a kind: `prepare` makes things that do not count, `keep` those that do. It returns their number.
 * Resolves with the round in which the heap grew by the median.
 */
async function measure(prepare, keep) {
  const rounds = []
  for (let round = 0; round < ROUNDS; round++) rounds.push(await measureOnce(prepare, keep))
  rounds.sort((one, other) => one.heapBytes - other.heapBytes)
  return rounds[ROUNDS >> 1]
}

async function measureOnce(prepare, keep) {
  const server = await made()
  const context = { server, ...(await prepare?.(server)) }
  await settle()
  const counted = server.memoryBytes()
  const before = await grown()
  const count = await keep(context)
  await settle()
  const countedBytes = (server.memoryBytes() - counted) / count
  const heapBytes = ((await grown()) - before) / count
  if (server.state.sessions.size < 0 || context.server !== server) throw new Error('gone')
  return { heapBytes, countedBytes }
}

async function away(server, clientId, options, ...packets) {
  const client = new Client(server)
  client.send(connect(clientId, options), ...packets)
  await settle()
  client.gone()
  await settle()
}

const one =
  (clientId, options, ...packets) =>
  async (server) => {
    const client = new Client(server)
    client.send(connect(clientId, options), ...packets)
    await settle()
    return { client }
  }

const results = {}

results.Sessions = await measure(null, async ({ server }) => {
  for (let i = 0; i < 5000; i++) await away(server, `device-${i}`)
  return 5000
})
results['Sessions with Client Identifiers of 64 KB'] = await measure(null, async ({ server }) => {
  for (let i = 0; i < 200; i++) await away(server, `${i}`.padEnd(65_000, 'x'))
  return 200
})
results['Sessions with a Subscription each'] = await measure(null, async ({ server }) => {
  for (let i = 0; i < 5000; i++) await away(server, `device-${i}`, {}, subscribe(`device/${i}/command/#`, 1))
  return 5000
})
results.Subscriptions = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 20_000; i++) client.send(subscribe(`building/floor-${i}/+/temperature`, 1))
  return 20_000
})
results['Subscriptions of long filters'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 2000; i++) client.send(subscribe(`long/${'x'.repeat(2000)}/${i}`, 1))
  return 2000
})
results['Subscriptions with 180 levels, in pairs'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 2000; i++) client.send(subscribe(`${i >> 1}${'/a'.repeat(178)}/${i & 1}`, 1))
  return 2000
})
results['Shared Subscriptions, a group each'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 20_000; i++) client.send(subscribe(`$share/group-${i}/foo/#`, 1))
  return 20_000
})
results['Shared Subscriptions of one group'] = await measure(null, async ({ server }) => {
  for (let i = 0; i < 3000; i++) await away(server, `worker-${i}`, {}, subscribe('$share/group/foo/#', 1))
  return 3000
})
results['messages that wait for one Session'] = await measure(
  async (server) => {
    await away(server, 'sub', {}, subscribe('t', 1))
    return one('pub')(server)
  },
  async ({ client }) => {
    for (let i = 0; i < 20_000; i++) {
      client.send(publish('t', 'x'.repeat(15), 1))
      if (i % 100 === 0) await settle()
    }
    return 20_000
  },
)
results['messages of 10 KB that wait for one Session'] = await measure(
  async (server) => {
    await away(server, 'sub', {}, subscribe('t', 1))
    return one('pub')(server)
  },
  async ({ client }) => {
    for (let i = 0; i < 2000; i++) {
      client.send(publish('t', 'x'.repeat(10_000), 1))
      await settle()
    }
    return 2000
  },
)
results['messages that wait for 100 groups'] = await measure(
  async (server) => {
    const filters = Array.from({ length: 100 }, (_, i) => subscribe(`$share/g${i}/t`, 1))
    await away(server, 'sub', {}, ...filters)
    return one('pub')(server)
  },
  async ({ client }) => {
    for (let i = 0; i < 200; i++) {
      client.send(publish('t', 'x'.repeat(15), 1))
      await settle()
    }
    return 20_000
  },
)
results['messages that five clean Sessions do not acknowledge'] = await measure(
  async (server) => {
    const subs = []
    for (let i = 0; i < 5; i++) {
      const { client } = await one(`sub${i}`, { lasting: false }, subscribe('t', 1))(server)
      subs.push(client)
    }
    return { subs, ...(await one('pub')(server)) }
  },
  async ({ client }) => {
    for (let i = 0; i < 4000; i++) {
      client.send(publish('t', 'x'.repeat(1000), 1))
      if (i % 20 === 0) await settle()
    }
    return 4000
  },
)
results['inbound QoS 2 identifiers'] = await measure(one('c'), async ({ client }) => {
  for (let i = 1; i <= 20_000; i++) client.send(publish('t', 'x', 2, { id: i }))
  return 20_000
})
results['retained messages'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 20_000; i++) {
    client.send(publish(`sensor/${i}/state`, 'x', 0, { retain: true }))
    if (i % 100 === 0) await settle()
  }
  return 20_000
})
results['retained messages of 2 KB'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 5000; i++) {
    client.send(publish(`sensor/${i}/state`, 'x'.repeat(2000), 0, { retain: true }))
    await settle()
  }
  return 5000
})
results['retained messages with 180 levels, in pairs'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 2000; i++) {
    client.send(publish(`${i >> 1}${'/a'.repeat(178)}/${i & 1}`, 'x', 0, { retain: true }))
    if (i % 20 === 0) await settle()
  }
  return 2000
})
results['Sessions with Wills'] = await measure(null, async ({ server }) => {
  for (let i = 0; i < 3000; i++) await away(server, `device-${i}`, { will: 'gone' })
  return 3000
})
results['Sessions with Wills of 50 KB'] = await measure(null, async ({ server }) => {
  for (let i = 0; i < 300; i++) await away(server, `device-${i}`, { will: 'x'.repeat(50_000) })
  return 300
})
results['topic names that come once'] = await measure(one('c'), async ({ client }) => {
  for (let i = 0; i < 20_000; i++) {
    client.send(publish(`name/${i}`, 'x', 0))
    if (i % 100 === 0) await settle()
  }
  return 20_000
})
console.log(JSON.stringify(results))
