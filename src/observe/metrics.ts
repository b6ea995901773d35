/**
 * PURE. Every counter, gauge and histogram of the broker, a row each. `$SYS`, `status` and other readers go
 * by this table: a new metric is one row, and one more field of `Counters` if the Server has to count it.
 */
import { configKey } from '../broker/boundary/limit-row.ts'
import type { Counters } from '../broker/state/counters.ts'
import type { LabelledMetric, Metric, NumberMetric } from './metric.ts'

type FieldsOf<V> = { [N in keyof Counters]: Counters[N] extends V ? N : never }[keyof Counters]

/** A field of `Counters` without a row does not compile. */
type CounterRows = Readonly<Record<FieldsOf<number>, NumberMetric>> &
  Readonly<Record<FieldsOf<Readonly<Record<string, number>>>, LabelledMetric>>

/** The table of metrics. */
export const METRICS = {
  // ── the process ──────────────────────────────────────────────────────────────────────────────────────────
  uptimeSeconds: {
    kind: 'gauge',
    unit: 'seconds',
    help: 'Time since the start',
    read: ({ process }) => process.uptimeSeconds,
    status: ['uptimeSeconds'],
  },
  residentBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Resident memory of the process',
    read: ({ process }) => process.residentBytes,
    // Unlike here, Mosquitto counts its own allocations only.
    sys: ['heap/current'],
    status: ['residentBytes'],
  },
  residentBytesPeak: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Largest resident memory of the process so far',
    read: ({ process }) => process.residentBytesPeak,
    sys: ['heap/maximum'],
  },

  // ── connections and clients ──────────────────────────────────────────────────────────────────────────────
  connectionsAccepted: {
    kind: 'counter',
    unit: 'connections',
    help: 'Accepted Network Connections',
    load: 'sockets',
    status: ['counted.connectionsAccepted'],
  },
  connectionsRefused: {
    kind: 'counter',
    unit: 'connections',
    help: 'Refused Network Connections, with or without a CONNACK',
    status: ['counted.connectionsRefused'],
  },
  connections: {
    kind: 'gauge',
    unit: 'connections',
    help: 'Open Network Connections, including those before CONNECT',
    read: ({ census }) => census.connections,
    status: ['held.connections'],
  },
  socketsOpen: {
    kind: 'gauge',
    unit: 'sockets',
    help: 'Open sockets of all listeners, including those in a handshake',
    read: ({ sockets }) => sockets.open,
    status: ['openFiles.sockets'],
  },
  connectionsAllowed: {
    kind: 'gauge',
    unit: 'connections',
    help: 'Network Connections that the limit of open files allows',
    read: ({ sockets }) => finite(sockets.connectionsMax),
    status: ['openFiles.connectionsMax'],
  },
  openFilesMax: {
    kind: 'gauge',
    unit: 'files',
    help: 'Limit of open files',
    read: ({ sockets }) => finite(sockets.openFilesMax),
    status: ['openFiles.openFilesMax'],
  },
  clientsConnected: {
    kind: 'gauge',
    unit: 'clients',
    help: 'Connected clients',
    sys: ['clients/connected', 'clients/active'],
    status: ['clientsConnected'],
  },
  clientsMaximum: {
    kind: 'gauge',
    unit: 'clients',
    help: 'Most clients that were connected at a time',
    sys: ['clients/maximum'],
  },
  clientsDisconnected: {
    kind: 'gauge',
    unit: 'Sessions',
    help: 'Sessions whose clients are not connected',
    read: ({ census, server }) => Math.max(0, census.sessions - server.state.counters.clientsConnected),
    sys: ['clients/disconnected', 'clients/inactive'],
  },
  loginsWaiting: {
    kind: 'gauge',
    unit: 'clients',
    help: 'Clients that wait for their passwords to be checked',
    read: ({ server }) => server.state.loginQueue.length,
    status: ['loginsWaiting'],
  },
  bans: {
    kind: 'gauge',
    unit: 'bans',
    help: 'Bans in force',
    read: ({ server }) => server.state.bans.list().length,
    status: ['bans'],
  },
  certificateDays: {
    kind: 'gauge',
    unit: 'days',
    help: 'Time until the certificate of a listener expires',
    label: 'listener',
    read: ({ certificateDays }) => certificateDays,
    sys: (listener) => `certificates/${listener}/days_to_expiry`,
  },

  // ── Sessions and Subscriptions ───────────────────────────────────────────────────────────────────────────
  sessions: {
    kind: 'gauge',
    unit: 'Sessions',
    help: 'Sessions, with and without a connected client',
    read: ({ census }) => census.sessions,
    sys: ['clients/total'],
    status: ['held.sessions'],
  },
  clientsExpired: {
    kind: 'counter',
    unit: 'Sessions',
    help: 'Sessions that ended because their Session Expiry Interval was over',
    sys: ['clients/expired'],
  },
  ownerlessSessionsEnded: {
    kind: 'counter',
    unit: 'Sessions',
    help: 'Sessions without an owner that ended when users took their Client Identifiers',
    status: ['counted.ownerlessSessionsEnded'],
  },
  subscriptions: {
    kind: 'gauge',
    unit: 'Subscriptions',
    help: 'Subscriptions, including Shared Subscriptions',
    read: ({ census }) => census.subscriptions,
    sys: ['subscriptions/count'],
    status: ['held.subscriptions'],
  },
  sharedSubscriptions: {
    kind: 'gauge',
    unit: 'Subscriptions',
    help: 'Shared Subscriptions',
    read: ({ census }) => census.sharedSubscriptions,
    sys: ['shared_subscriptions/count'],
    status: ['held.sharedSubscriptions'],
  },
  subscriptionsSuspended: {
    kind: 'gauge',
    unit: 'Subscriptions',
    help: 'Subscriptions that the policy denies at the moment',
    read: ({ server }) => server.suspendedCount,
    status: ['subscriptionsSuspended'],
  },
  wills: {
    kind: 'gauge',
    unit: 'Wills',
    help: 'Wills that may still be published',
    read: ({ census }) => census.wills,
    status: ['held.wills'],
  },
  queues: {
    kind: 'gauge',
    unit: 'queues',
    help: 'Message queues',
    read: ({ census }) => census.queues,
    sys: ['queues/count'],
    status: ['held.queues'],
  },
  queuesMessages: {
    kind: 'gauge',
    unit: 'messages',
    help: 'Messages in all message queues',
    read: ({ census }) => census.queuesMessages,
    sys: ['queues/messages'],
    status: ['held.queuesMessages'],
  },
  queuesBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Bytes of the messages in all message queues',
    read: ({ census }) => census.queuesBytes,
    sys: ['queues/bytes'],
    status: ['held.queuesBytes'],
  },
  queuesConsumers: {
    kind: 'gauge',
    unit: 'consumers',
    help: 'Subscriptions to message queues',
    read: ({ census }) => census.consumers,
    sys: ['queues/consumers'],
    status: ['held.consumers'],
  },
  willsPublished: { kind: 'counter', unit: 'Wills', help: 'Published Wills' },
  willsDenied: {
    kind: 'counter',
    unit: 'Wills',
    help: 'Wills that their clients are no longer allowed to publish',
  },

  // ── packets and messages ─────────────────────────────────────────────────────────────────────────────────
  packetsReceived: {
    kind: 'counter',
    unit: 'packets',
    help: 'Control packets received',
    sys: ['messages/received'],
    load: 'messages/received',
  },
  packetsSent: {
    kind: 'counter',
    unit: 'packets',
    help: 'Control packets sent',
    sys: ['messages/sent'],
    load: 'messages/sent',
  },
  bytesReceived: {
    kind: 'counter',
    unit: 'bytes',
    help: 'Bytes received, inside of TLS and WebSocket',
    sys: ['bytes/received'],
    load: 'bytes/received',
    status: ['counted.bytesReceived'],
  },
  bytesSent: {
    kind: 'counter',
    unit: 'bytes',
    help: 'Bytes sent, inside of TLS and WebSocket',
    sys: ['bytes/sent'],
    load: 'bytes/sent',
    status: ['counted.bytesSent'],
  },
  publishReceived: {
    kind: 'counter',
    unit: 'messages',
    help: 'PUBLISH packets received',
    sys: ['publish/messages/received'],
    load: 'publish/received',
    status: ['counted.messagesReceived'],
  },
  publishSent: {
    kind: 'counter',
    unit: 'messages',
    help: 'PUBLISH packets sent',
    sys: ['publish/messages/sent'],
    load: 'publish/sent',
    status: ['counted.messagesSent'],
  },
  publishBytesReceived: {
    kind: 'counter',
    unit: 'bytes',
    help: 'Payload bytes of received PUBLISH packets',
    sys: ['publish/bytes/received'],
  },
  publishBytesSent: {
    kind: 'counter',
    unit: 'bytes',
    help: 'Payload bytes of sent PUBLISH packets',
    sys: ['publish/bytes/sent'],
  },
  publishRefused: {
    kind: 'counter',
    unit: 'messages',
    help: 'Messages that were refused as a whole: by a limit, the disk or a full queue',
  },
  publishDropped: {
    kind: 'counter',
    unit: 'deliveries',
    help: 'Lost deliveries, for any reason',
    sys: ['publish/messages/dropped'],
    load: 'publish/dropped',
  },
  drops: {
    kind: 'counter',
    unit: 'deliveries',
    help: 'Lost deliveries by reason',
    label: 'reason',
    status: ['counted.dropped'],
  },
  forgiven: {
    kind: 'counter',
    unit: 'packets',
    help: 'Packets that broke a rule which their listener forgives',
    label: 'rule',
    sys: (rule) => `forgiven/${rule}`,
  },
  limits: {
    kind: 'counter',
    unit: 'refusals',
    help: 'Refusals by limit',
    label: 'limit',
    sys: (limit) => `limits/refused/${configKey(limit)}`,
    status: ['counted.limited'],
  },
  slicesEnded: {
    kind: 'counter',
    unit: 'times',
    help: 'Times that a connection had used up its share of a turn, so that its packets had to wait',
  },

  // ── messages that are kept ───────────────────────────────────────────────────────────────────────────────
  retainedMessages: {
    kind: 'gauge',
    unit: 'messages',
    help: 'Retained messages, including those below $SYS',
    read: ({ census }) => census.retainedMessages,
    sys: ['retained messages/count'],
    status: ['held.retainedMessages'],
  },
  retainedBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Bytes of retained messages',
    read: ({ census }) => census.retainedBytes,
    status: ['held.retainedBytes'],
  },
  queuedMessages: {
    kind: 'gauge',
    unit: 'messages',
    help: 'Messages in the queues of Sessions; one for several Sessions counts for each',
    read: ({ census }) => census.queuedMessages,
    status: ['held.queuedMessages'],
  },
  inFlightMessages: {
    kind: 'gauge',
    unit: 'messages',
    help: 'Messages sent to clients and not yet acknowledged',
    read: ({ census }) => census.inFlightMessages,
    status: ['held.inFlightMessages'],
  },
  messagesStored: {
    kind: 'gauge',
    unit: 'messages',
    help: 'Messages that are retained, queued or in flight',
    read: ({ census }) => census.retainedMessages + census.queuedMessages + census.inFlightMessages,
    sys: ['store/messages/count', 'messages/stored'],
  },

  // ── work under way ───────────────────────────────────────────────────────────────────────────────────────
  deadlines: {
    kind: 'gauge',
    unit: 'deadlines',
    help: 'Deadlines that are still to run',
    read: ({ census }) => census.deadlines,
    status: ['held.deadlines'],
  },
  waiting: {
    kind: 'gauge',
    unit: 'connections',
    help: 'Network Connections whose output waits for a commit',
    read: ({ census }) => census.waiting,
    status: ['held.waiting'],
  },
  publishersPaused: {
    kind: 'gauge',
    unit: 'connections',
    help: 'Publishers that are paused because commits are behind',
    read: ({ census }) => census.paused,
    status: ['held.paused', 'publishersPaused'],
  },
  retainedDeliveries: {
    kind: 'gauge',
    unit: 'deliveries',
    help: 'Deliveries of retained messages that are under way',
    read: ({ census }) => census.retainedDeliveries,
    status: ['held.retainedDeliveries'],
  },

  // ── memory ───────────────────────────────────────────────────────────────────────────────────────────────
  memoryBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Memory that is kept for all clients, including remembered topic names',
    read: ({ census }) => census.memoryBytes,
    sys: ['memory/bytes'],
    status: ['held.memoryBytes'],
  },
  topicBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Memory for remembered topic names',
    read: ({ census }) => census.topicBytes,
    status: ['held.topicBytes'],
  },
  memoryBytesMax: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Memory that may be kept for all clients',
    read: ({ server }) => finite(server.state.limits.memoryBytesMax),
    sys: ['memory/maximum'],
    status: ['memoryBytesMax'],
  },
  relief: {
    kind: 'counter',
    unit: 'times',
    help: 'Steps against the largest users of memory or disk while it is short',
    label: 'step',
    sys: (step) => `relief/${step}`,
    status: ['counted.relief'],
  },

  // ── the store ────────────────────────────────────────────────────────────────────────────────────────────
  commits: {
    kind: 'counter',
    unit: 'commits',
    help: 'Commits since the store was opened',
    read: ({ server }) => server.state.store.figures.commits,
    sys: ['store/commits'],
    status: ['store.commits'],
  },
  commitLatency: {
    kind: 'histogram',
    unit: 'ms',
    help: 'Duration of commits, since the store was opened',
    read: ({ server }) => server.state.store.commitLatency,
    status: ['commitMs'],
  },
  storedBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Bytes of stored message bodies that are still needed',
    read: ({ server }) => server.state.store.figures.storedBytes,
    sys: ['store/messages/bytes'],
    status: ['store.storedBytes'],
  },
  storeResidentBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Memory for stored messages whose bodies are in memory',
    read: ({ server }) => server.state.store.figures.residentBytes,
    status: ['store.residentBytes'],
  },
  storeEntryBytes: {
    kind: 'gauge',
    unit: 'bytes',
    help: 'Memory for entries of queues and in flight, without the bodies',
    read: ({ server }) => server.state.store.figures.entryBytes,
    status: ['store.entryBytes'],
  },
} as const satisfies Readonly<Record<string, Metric>> & CounterRows

/** The name of a metric in the table. */
export type MetricName = keyof typeof METRICS

/** The rows of the table. */
export const METRIC_ROWS = Object.entries(METRICS) as readonly [name: MetricName, metric: Metric][]

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null
}
