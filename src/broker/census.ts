/** Counts the objects that a Server holds at the moment. */
import type { Server } from './server.ts'

export interface Census {
  readonly connections: number
  readonly sessions: number
  readonly subscriptions: number
  readonly sharedSubscriptions: number
  readonly retainedMessages: number
  readonly retainedBytes: number
  readonly queuedMessages: number
  readonly inFlightMessages: number
  readonly wills: number
  /** Message queues, their messages, the bytes of these, and their consumers. */
  readonly queues: number
  readonly queuesMessages: number
  readonly queuesBytes: number
  readonly consumers: number
  readonly deadlines: number
  readonly waiting: number
  readonly paused: number
  readonly retainedDeliveries: number
  /** The memory that is kept for all clients, including the topic names that are remembered. */
  readonly memoryBytes: number
  /** The part of it for topic names, which outlive their clients and make room for others. */
  readonly topicBytes: number
}

/** Counts everything once. The cost grows with the number of Sessions. */
export function takeCensus(server: Server): Census {
  const { state } = server
  let queuedMessages = 0
  let inFlightMessages = 0
  for (const session of state.sessions.values()) {
    queuedMessages += session.queueLength
    inFlightMessages += session.inFlightCount
  }
  return {
    connections: server.connectionCount,
    sessions: state.sessions.size,
    subscriptions: state.router.subscriptionCount,
    sharedSubscriptions: state.router.sharedCount,
    retainedMessages: state.retained.count,
    retainedBytes: state.retained.bytes,
    queuedMessages,
    inFlightMessages,
    wills: state.wills.size,
    ...queueCensus(server),
    deadlines: state.deadlines.size,
    waiting: state.waiting.size,
    paused: state.paused.size,
    retainedDeliveries: server.retainedDeliveries,
    memoryBytes: server.memoryBytes(),
    topicBytes: state.usage.topicBytes,
  }
}

function queueCensus({
  queues,
}: Server): Pick<Census, 'queues' | 'queuesMessages' | 'queuesBytes' | 'consumers'> {
  if (queues === null) return { queues: 0, queuesMessages: 0, queuesBytes: 0, consumers: 0 }
  let queuesMessages = 0
  let queuesBytes = 0
  const { byName } = queues.definitions
  const consumers = queues.consuming.count + queues.consuming.programs.size
  for (const { group } of byName.values()) {
    const { messages, bytes } = group.states
    queuesMessages += messages
    queuesBytes += bytes
  }
  return { queues: byName.size, queuesMessages, queuesBytes, consumers }
}
