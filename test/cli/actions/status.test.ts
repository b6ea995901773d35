import { expect, test } from 'vitest'
import type { BrokerStatus } from '../../../src/admin/commands.ts'
import { statusText } from '../../../src/cli/actions/status.ts'

const MIB = 1024 ** 2

const ANSWER: BrokerStatus = {
  version: '0.3.0',
  processId: 7,
  uptimeSeconds: 100,
  listeners: ['mqtt://127.0.0.1:1883'],
  certificates: [],
  dataDirectory: '/data',
  durability: 'fsync',
  durabilityIntervalSeconds: null,
  health: { state: 'ok', detail: '' },
  freeBytes: null,
  openFiles: { openFilesMax: null, connectionsMax: null, sockets: 3 },
  loginsWaiting: 0,
  bans: 0,
  clientsConnected: 3,
  publishersPaused: 0,
  subscriptionsSuspended: 0,
  limits: { profile: 'fleet', others: [] },
  counted: {
    connectionsAccepted: 0,
    connectionsRefused: 0,
    messagesReceived: 0,
    messagesSent: 0,
    bytesReceived: 0,
    bytesSent: 0,
    dropped: {},
    limited: {},
    relief: {},
    ownerlessSessionsEnded: 0,
  },
  commitMs: { p50: 0, p99: 0, maximum: 0 },
  residentBytes: 412 * MIB,
  store: {},
  held: {
    connections: 3,
    sessions: 3,
    subscriptions: 3,
    retainedMessages: 0,
    queuedMessages: 0,
    inFlightMessages: 0,
    wills: 0,
    queues: 0,
    queuesMessages: 0,
    queuesBytes: 0,
    consumers: 0,
    memoryBytes: 210 * MIB,
  },
  memoryBytesMax: 2048 * MIB,
  largest: [
    { kind: 'client', name: 'x'.repeat(60_000), bytes: 150 * MIB, parts: { queue: 149 * MIB, buffers: MIB } },
    { kind: 'client', name: 'small', bytes: 1000, parts: { queue: 1000 } },
    { kind: 'user', name: 'anna\nadmin', bytes: 160 * MIB, parts: { queue: MIB, subscriptions: 159 * MIB } },
  ],
}

test('shows the memory for clients, its maximum and the largest users within 80 columns', () => {
  const lines = statusText(ANSWER).split('\n')
  expect(lines).toContain('memory         412.0 MiB in all, 210.0 MiB for clients (at most 2.0 GiB)')
  const at = lines.findIndex((line) => line.startsWith('largest'))
  expect(lines[at]).toBe('largest        client xxxxxxxxxxxxxxxxxxxxx...: 150.0 MiB, mostly queue')
  expect(lines[at + 1]).toMatch(/^ {15}user anna.{1,6}admin: 160\.0 MiB, mostly subscriptions$/)
  expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80)
  expect(statusText(ANSWER)).not.toContain('small')
})

test('works with an older broker that does not name the largest users', () => {
  const { memoryBytesMax: _, largest: __, ...older } = ANSWER
  expect(statusText(older as BrokerStatus)).toContain('in all, 210.0 MiB for clients\n')
})
