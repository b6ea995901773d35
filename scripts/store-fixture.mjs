/**
 * Writes test/fixtures/store-v<format>: a store as this version of Godwit leaves it when it is killed, as a
 * backup file and as export lines. It is run once for a new format, after `npm run build`. A released fixture
 * is never written again, since it stands for the stores that users have.
 *
 *     node scripts/store-fixture.mjs [DIRECTORY]
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const BUILD = process.env.TEST_GODWIT_BUILD ?? join(ROOT, 'dist')
const load = (file) => import(pathToFileURL(join(BUILD, file)).href)

const { Message, Topic } = await load('mqtt/message.js')
const { encodeForwardedProperties } = await load('mqtt/properties/forwarded.js')
const { LevelStore } = await load('store/level/level-store.js')
const { writeBackup } = await load('store/level/backup.js')
const { containerChunks } = await load('store/format/container.js')
const { FORMAT_VERSION } = await load('store/format/format.js')
const { exportLines } = await load('cli/actions/store-commands.js')

/** 2026-01-31T12:00:00.000Z, and broker time at that instant. */
const WALL = 1_769_860_800_000
const BROKER = 86_400_000
const NEVER = 0xffffffff

/** The outbound state of a Session, as the Server keeps it. */
class Outbound {
  queue = []
  queueHead = 0
  packets = new Map()
  digests = new Map()
  lastPacketId = 0

  get queueTail() {
    return this.queueHead + this.queue.length
  }

  readQueue(from, to, reader) {
    for (let position = from; position < to; position++)
      reader.delivery(this.queue[position - this.queueHead])
  }

  inFlight() {
    return [...this.packets].map(([packetId, delivery]) => ({ packetId, delivery }))
  }

  inbound() {
    return this.digests
  }

  take() {
    this.queueHead++
    return this.queue.shift()
  }
}

const target = process.argv[2] ?? join(ROOT, 'test', 'fixtures', `store-v${FORMAT_VERSION}`)
const directory = mkdtempSync(join(tmpdir(), 'godwit-fixture-'))
/** The outbound state that the Server would have, by the number of the Session. */
const sessions = new Map()
let store

try {
  await open()
  await before()
  await after()
  await doubt()
  await commit()
  rmSync(target, { recursive: true, force: true })
  mkdirSync(target, { recursive: true })
  const file = join(target, 'store.godwit-backup')
  await writeBackup(containerChunks(store.snapshot(), WALL), file)
  console.log(await exportLines(file, join(target, 'export.jsonl'), process.stdout))
  await store.close()
} finally {
  rmSync(directory, { recursive: true, force: true })
}

/**
 * Opens the store with small bounds, so that there are checkpoints, segments, moved bodies and deleted pages.
 */
async function open() {
  store = new LevelStore({
    directory,
    sync: false,
    residentBytesMax: 4_000_000,
    reserveBytes: 0,
    checkpointJournalBytes: 20_000,
    writeBufferBytes: 65_536,
  })
  await store.open({
    now: () => BROKER,
    wallNow: () => WALL,
    bootTime: () => ({ bootId: '0123456789abcdef0123456789abcdef', sinceBoot: 3_600_000 }),
    outbound: (id) => sessions.get(id),
    committed: () => {},
    failed: (error) => {
      throw error
    },
  })
}

/** Writes records most of which are in checkpoints in the end. */
async function before() {
  session(1, 'offline', { expirySeconds: NEVER, owner: 'alice', ownerId: 'id of alice' })
  session(2, 'under way', { expirySeconds: 3600 })
  session(3, 'connected/ü', { expirySeconds: 3600, disconnectedAt: 0 })
  session(4, 'long queue', { expirySeconds: NEVER })
  session(5, 'kept bodies', { expirySeconds: NEVER })
  session(6, 'gone', { expirySeconds: 60 })
  store.putSubscription(1, 'sensors/+/temperature', options({ qos: 1, identifier: 7 }))
  store.putSubscription(1, '$share/group/jobs/#', options({ qos: 2, retainHandling: 2 }))
  store.putSubscription(
    3,
    '#',
    options({ noLocal: true, retainAsPublished: true, retainedPending: true, retainedSince: BROKER - 500 }),
  )

  // A body that two Sessions share, every property, an expiry, identifiers.
  const properties = encodeForwardedProperties({
    payloadFormatIndicator: 1,
    contentType: 'text/plain',
    responseTopic: 'answers/1',
    correlationData: Buffer.from([0, 1, 255]),
    userProperties: [
      ['unit', '°C'],
      ['unit', 'again'],
    ],
  })
  const shared = message('sensors/1/temperature', '21.5', {
    qos: 1,
    properties,
    expiresAt: BROKER + 3_600_000,
  })
  enqueue(1, delivery(shared, { qos: 1, subscriptionIdentifiers: [7, 9] }))
  enqueue(2, delivery(shared, { qos: 1 }))
  send(2, 10)
  enqueue(2, delivery(message('two/sent', 'sent at QoS 2', { qos: 2 }), { qos: 2 }))
  send(2, 11)
  enqueue(2, delivery(message('two/received', 'received at QoS 2', { qos: 2 }), { qos: 2 }))
  send(2, 12)
  receive(2, 12)
  for (const packetId of [1, 500, 65_535]) inbound(3, packetId, 2 ** 48 - packetId)

  // Several segments, some messages of which are gone.
  for (let number = 0; number < 1300; number++) {
    enqueue(4, delivery(message(`long/${number % 3}`, `number ${number}`, { qos: 1 }), { qos: 1 }))
    if (number % 250 === 249) await commit()
  }
  for (let count = 0; count < 100; count++) drop(4)

  // Pages that are nearly empty, so that their bodies move.
  for (let number = 0; number < 2000; number++) {
    const kept = number % 40 === 0 ? 5 : 6
    enqueue(kept, delivery(message('sediment', `${number} `.repeat(40), { qos: 1 }), { qos: 1 }))
    if (kept === 6) drop(6)
    if (number % 100 === 99) await commit()
  }
  for (let round = 0; round < 40; round++) {
    enqueue(6, delivery(message('stir', 'x'.repeat(2000), { qos: 1 }), { qos: 1 }))
    drop(6)
    await commit()
  }
  const held = [...sessions.get(6).queue]
  store.deleteSession(
    6,
    held.map(({ message }) => message),
  )
  sessions.delete(6)

  store.putRetained(message('retained/plain', 'kept', { retain: true }), 0)
  store.putRetained(
    message('retained/all', 'kept, too', { qos: 2, retain: true, properties, expiresAt: BROKER + 7_200_000 }),
    BROKER - 250,
  )
  store.putWill('connected/ü', {
    will: {
      topic: 'wills/1',
      payload: Buffer.from('gone'),
      qos: 1,
      retain: true,
      properties,
      expirySeconds: 60,
      delaySeconds: 30,
    },
    owner: 'alice',
    ownerId: 'id of alice',
    dueAt: 0,
    assigned: true,
  })
  store.putWill('under way', {
    will: {
      topic: 'wills/2',
      payload: Buffer.alloc(0),
      qos: 0,
      retain: false,
      properties: Buffer.alloc(0),
      expirySeconds: undefined,
      delaySeconds: 0,
    },
    owner: null,
    ownerId: null,
    dueAt: BROKER + 5000,
    assigned: false,
  })
  await commit()
}

/** Writes records that are in the journal in the end, as after a kill. */
async function after() {
  // References to bodies of the same block, of an earlier page, and of an older block.
  const near = message('journal/near', 'shared in one block', { qos: 2 })
  enqueue(1, delivery(near, { qos: 2, share: '$share/group/jobs/#' }))
  enqueue(1, delivery(message('journal/between', 'between', { qos: 1 }), { qos: 1 }))
  enqueue(3, delivery(near, { qos: 1, retain: true }))
  await commit()
  enqueue(5, delivery(near, { qos: 1 }))
  enqueue(2, delivery(message('journal/sent', 'sent since the checkpoint', { qos: 1 }), { qos: 1 }))
  send(2, 13)
  enqueue(2, delivery(message('journal/two', 'under way at QoS 2', { qos: 2 }), { qos: 2 }))
  send(2, 14)
  receive(2, 11)
  complete(2, 10)
  drop(4)
  inbound(3, 77, 0)
  inbound(3, 1, 12_345)
  store.inboundRemoved(3, 500)
  sessions.get(3).digests.delete(500)
  await commit()
}

/** Writes a doubt of two hours, one of which turned out not to have passed. */
async function doubt() {
  await commit()
  const since = BROKER - 7_200_000
  store.restoreDoubt({ ms: 3_600_000, since: since + 3_600_000, until: BROKER + 60_000 })
  const held = [...sessions.values()].flatMap(({ queue, packets }) => [...queue, ...packets.values()])
  store.postpone(
    3_600_000,
    since,
    held.filter((each) => each !== null).map(({ message }) => message),
  )
}

/**
 * @param {number} id
 * @param {string} clientId
 * @param {{ owner?: string | null, ownerId?: string | null, expirySeconds: number, disconnectedAt?: number }}
 * options
 */
function session(
  id,
  clientId,
  { owner = null, ownerId = null, expirySeconds, disconnectedAt = BROKER - 1000 },
) {
  sessions.set(id, new Outbound())
  store.putSession(id, { clientId, owner, ownerId, expirySeconds, disconnectedAt })
}

function options(given) {
  return { qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0, identifier: 0, ...given }
}

function message(topic, payload, given = {}) {
  return Message.of({
    topic: new Topic(topic),
    payload: Buffer.from(payload),
    qos: 0,
    retain: false,
    publisher: 'fixture',
    ...given,
  })
}

function delivery(of, given) {
  return { message: of, qos: 0, retain: false, subscriptionIdentifiers: [], share: null, ...given }
}

function enqueue(id, what) {
  store.enqueue(id, what)
  sessions.get(id).queue.push(what)
}

function send(id, packetId) {
  const to = sessions.get(id)
  store.sent(id, packetId)
  to.packets.set(packetId, to.take())
  to.lastPacketId = packetId
}

function receive(id, packetId) {
  const { packets } = sessions.get(id)
  store.received(id, packetId, packets.get(packetId).message)
  packets.delete(packetId)
  packets.set(packetId, null)
}

function complete(id, packetId) {
  const { packets } = sessions.get(id)
  store.completed(id, packetId, packets.get(packetId)?.message ?? null)
  packets.delete(packetId)
}

function drop(id) {
  store.dropped(id, sessions.get(id).take().message)
}

function inbound(id, packetId, digest) {
  store.inboundAdded(id, packetId, digest)
  sessions.get(id).digests.set(packetId, digest)
}

async function commit() {
  const wanted = store.recordedSequence
  store.commit()
  while (store.committedSequence < wanted) await new Promise((resolve) => setImmediate(resolve))
}
