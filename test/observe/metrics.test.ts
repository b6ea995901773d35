import { expect, test } from 'vitest'
import { Counters } from '../../src/broker/state/counters.ts'
import { METRIC_ROWS } from '../../src/observe/metrics.ts'
import { type Snapshot, statusValues, takeSnapshot } from '../../src/observe/snapshot.ts'
import { World } from '../broker/harness.ts'

function snapshotOf(world: World): Snapshot {
  return takeSnapshot({
    server: world.server,
    startedAtMs: performance.now(),
    sockets: { open: 3, connectionsMax: Number.POSITIVE_INFINITY, openFilesMax: 1024 },
    certificateDays: { public: 30 },
  })
}

function duplicates(names: readonly string[]): string[] {
  return names.filter((name, at) => names.indexOf(name) !== at)
}

test('every field of Counters has a row that reads it, and no other row lacks a function to read it', () => {
  const counters = new Counters()
  const withoutRead = METRIC_ROWS.filter(([, { read }]) => read === undefined).map(([name]) => name)
  expect(withoutRead.sort()).toEqual(Object.keys(counters).sort())
})

test('each topic of $SYS and each key of status belongs to one metric', () => {
  const rows = METRIC_ROWS.map(([, metric]) => metric)
  const topics = rows.flatMap((row) => {
    if (row.kind === 'histogram' || row.sys === undefined) return []
    return 'label' in row ? [row.sys('x')] : [...row.sys]
  })
  expect(duplicates(topics)).toEqual([])
  expect(duplicates(rows.flatMap(({ status = [] }) => [...status]))).toEqual([])
  expect(duplicates(rows.map(({ help }) => help))).toEqual([])
})

test('help texts are phrases with a capital letter and no full stop', () => {
  expect(METRIC_ROWS.filter(([, { help }]) => !/^[A-Z].*[^.]$/.test(help))).toEqual([])
})

test('a snapshot has a value for each metric', async () => {
  const world = await World.make()
  const client = await world.connect('c')
  await client.subscribe('a', 1)
  await client.publish('a', 'x', 1)
  const snapshot = snapshotOf(world)
  expect(Object.keys(snapshot)).toEqual(METRIC_ROWS.map(([name]) => name))
  expect(Object.values(snapshot).filter((value) => value === undefined)).toEqual([])
  expect(snapshot).toMatchObject({
    clientsConnected: 1,
    subscriptions: 1,
    publishReceived: 1,
    inFlightMessages: 1,
    connectionsAllowed: null,
    openFilesMax: 1024,
    certificateDays: { public: 30 },
  })
})

test('status has the keys that programs know, with labelled counters above 0 only', async () => {
  const world = await World.make()
  world.server.state.counters.limits.bans = 2
  const status = statusValues(snapshotOf(world))
  expect(Object.keys(status).sort()).toEqual([
    'bans',
    'clientsConnected',
    'commitMs',
    'counted',
    'held',
    'loginsWaiting',
    'memoryBytesMax',
    'openFiles',
    'publishersPaused',
    'residentBytes',
    'store',
    'subscriptionsSuspended',
    'uptimeSeconds',
  ])
  expect(status.counted).toEqual({
    connectionsAccepted: 0,
    connectionsRefused: 0,
    messagesReceived: 0,
    messagesSent: 0,
    bytesReceived: 0,
    bytesSent: 0,
    dropped: {},
    limited: { bans: 2 },
    relief: {},
    ownerlessSessionsEnded: 0,
  })
  expect(Object.keys(status.held).sort()).toEqual([
    'connections',
    'consumers',
    'deadlines',
    'inFlightMessages',
    'memoryBytes',
    'paused',
    'queuedMessages',
    'queues',
    'queuesBytes',
    'queuesMessages',
    'retainedBytes',
    'retainedDeliveries',
    'retainedMessages',
    'sessions',
    'sharedSubscriptions',
    'subscriptions',
    'topicBytes',
    'waiting',
    'wills',
  ])
  expect(Object.keys(status.store).sort()).toEqual(['commits', 'entryBytes', 'residentBytes', 'storedBytes'])
  expect(status.openFiles).toEqual({ openFilesMax: 1024, connectionsMax: null, sockets: 3 })
  expect(status.commitMs).toEqual({ p50: 0, p99: 0, maximum: 0 })
})
