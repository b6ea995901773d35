/** Message queues for the program that embeds the broker. */
import { secondsLeft } from '../broker/boundary/expiry.ts'
import type { ConsumerEnd, Handed, ProgramConsumer } from '../broker/queues/program-consumer.ts'
import {
  type ConsumerEntry,
  type MoveSelection,
  type QueuedMessage,
  type QueuedState,
  type QueueEntry,
  type QueueOperator,
  QueueRefusal,
  type QueueTimes,
} from '../broker/queues/queue-view.ts'
import type { Server } from '../broker/server.ts'
import type { QoS } from '../mqtt/packet.ts'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
  type ForwardedProperties,
} from '../mqtt/properties/forwarded.ts'
import { Reason } from '../mqtt/reason.ts'
import { isServerTopic, PREFETCH_MAX, parseAddress } from '../mqtt/server-topics.ts'
import { topicNameError } from '../mqtt/topics.ts'
import { resultTopic } from '../queue/explicit/results.ts'
import {
  checkedProperties,
  type GivenProperties,
  PROPERTY_NAMES,
  PropertyError,
  writtenProperties,
} from '../queue/properties.ts'

/** Handlers at work at once. */
const CONCURRENCY_MAX = PREFETCH_MAX

/** The name in security and queue events. */
const PROGRAM = 'program'

/** A message as a consumer in this process gets it. */
export interface QueueMessage {
  readonly queue: string
  /** The topic name to which it was published; null for the queue itself. */
  readonly topic: string | null
  /** Shared with others: copy it before you change it. */
  readonly payload: Buffer
  /** The QoS with which it was published. */
  readonly qos: QoS
  /** The Client Identifier of the publisher; empty for the broker itself. */
  readonly publisher: string
  readonly properties: ForwardedProperties
  readonly expiresInSeconds: number | null
  /** Number of the message in its queue. */
  readonly sequence: number
  /** Number of this hand-out of the message: 1 the first time. */
  readonly attempt: number
  readonly enqueuedAt: Date
}

/**
 * Works on a message. A promise that resolves, or a return, acknowledges it. Text or bytes are its result:
 * they go to the Response Topic of the message, or to the queue's `results`, in the same commit as the
 * acknowledgement. A promise that rejects, or a throw, refuses it: it comes again after the queue's delay, or
 * after `retryAfter` seconds if the error has such a property. With `DeadLetter` it never comes again. The
 * error's message is kept with the dead letter.
 */
export type QueueHandler = (message: QueueMessage) => unknown

/** The options of a consumer. */
export interface ConsumeOptions {
  /**
   * Messages that it may hold. `auto`, the default with a `concurrency` of 1, is about 0.3 s of work;
   * otherwise the default is twice the `concurrency`.
   */
  readonly prefetch?: 'auto' | number
  /** Messages that the handler works on at once: 1 by default, so that they are handled in order. */
  readonly concurrency?: number
  /** For lists, events and dead letters. `program` by default. */
  readonly name?: string
  /** Stops it when aborted. */
  readonly signal?: AbortSignal
}

/** A consumer in this process. */
export interface QueueConsumption {
  /**
   * Takes nothing more, and returns to the queue what the handler has not begun. Resolves once the handler is
   * done with the rest.
   */
  stop(): Promise<void>
  /** Resolves with the reason when it has ended. Never rejects. */
  readonly ended: Promise<ConsumerEnd>
}

/** Refuses a message for good, when a handler throws it: the message goes to the dead letters at once. */
export class DeadLetter extends Error {
  override readonly name = 'DeadLetter'
}

/** The figures of a queue. */
export interface QueueStats extends QueueEntry {
  /** Sentences that say why nothing moves; none if nothing waits. */
  readonly why: readonly string[]
}

/** The messages that `move` and `replay` take: all by default, the oldest first. */
export type MoveOptions = Partial<MoveSelection>

/**
 * Message queues. Promises resolve once a change is durable, and reject with QueueRefusal if there is no such
 * queue, or the change cannot be made.
 */
export interface BrokerQueues {
  /** Resolves with false if the queue is there already, with these properties. */
  declare(name: string, properties?: GivenProperties): Promise<boolean>
  /** Changes these properties only. `force` disconnects consumers whose filters no longer fit. */
  change(name: string, properties: GivenProperties, options?: { readonly force?: boolean }): Promise<void>
  /** Without `force` it must be empty and unused. Resolves with the number of messages deleted with it. */
  delete(name: string, options?: { readonly force?: boolean }): Promise<number>
  /** Lists all queues. Throws QueueRefusal if queues are switched off. */
  list(): QueueEntry[]
  /** Throws QueueRefusal if there is no such queue. */
  stats(name: string): QueueStats
  /** Tells how long messages wait. Rejects with QueueRefusal if there is no such queue. */
  times(name: string): Promise<QueueTimes>
  /** Lists the consumers of a queue. Throws QueueRefusal if there is no such queue. */
  consumers(name: string): ConsumerEntry[]
  /** Reads messages, the oldest first (10 by default), without changing anything. */
  peek(
    name: string,
    options?: { readonly limit?: number; readonly state?: QueuedState },
  ): Promise<readonly QueuedMessage[]>
  /** Deletes what no consumer holds. Resolves with the number of messages. */
  purge(name: string): Promise<number>
  /** Nothing is handed out until `resume`. */
  pause(name: string): Promise<void>
  resume(name: string): Promise<void>
  /** Moves messages that no consumer holds to another queue. Resolves with their number. */
  move(from: string, to: string, options?: MoveOptions): Promise<number>
  /** Moves dead letters back to the queues that they came from, or to `to`. */
  replay(from: string, options?: MoveOptions & { readonly to?: string }): Promise<number>
  /**
   * Consumes a queue, which has to be there. Throws QueueRefusal if it is not, RangeError for options that
   * are out of range.
   */
  consume(name: string, handler: QueueHandler, options?: ConsumeOptions): QueueConsumption
}

/** The queues of a broker, and the end of its consumers. */
export interface ProgramQueues {
  readonly queues: BrokerQueues
  /** Stops all consumers. Resolves when their handlers are done. */
  stop(): Promise<void>
}

/** Returns the queues for the program. */
export function programQueues(server: Server): ProgramQueues {
  const running = new Set<Promise<ConsumerEnd>>()
  const operator = (): QueueOperator => {
    if (server.queueOperator !== null) return server.queueOperator
    throw new QueueRefusal('queues are switched off', 'Set queues.enabled to true.')
  }
  const queues: BrokerQueues = {
    declare: async (name, given = {}) => operator().declare(name, checkedGiven(given), PROGRAM),
    change: async (name, given, { force = false } = {}) =>
      operator().change(name, checkedGiven(given), force, PROGRAM),
    delete: async (name, { force = false } = {}) => operator().delete(name, force, PROGRAM),
    list: () => entriesOf(operator().list()),
    stats: (name) => ({ ...operator().show(name), why: operator().explain(name) }),
    times: async (name) => operator().times(name),
    consumers: (name) => entriesOf(operator().consumers(name)),
    peek: async (name, { limit = 10, state } = {}) => operator().peek(name, limit, state ?? null),
    purge: async (name) => operator().purge(name, PROGRAM),
    pause: async (name) => operator().pause(name),
    resume: async (name) => operator().resume(name),
    move: async (from, to, options = {}) => operator().move(from, to, selectionOf(options)),
    replay: async (from, { to, ...options } = {}) =>
      operator().replay(from, to ?? null, selectionOf(options)),
    consume: (name, handler, options = {}) => {
      operator().show(name)
      const consumption = consume(server, name, handler, options)
      running.add(consumption.ended)
      void consumption.ended.then(() => running.delete(consumption.ended)) // it never rejects
      return consumption
    },
  }
  const stop = async (): Promise<void> => {
    server.queues?.consuming.programs.endAll()
    await Promise.all(running)
  }
  return { queues, stop }
}

/** Checks what a program may have written without types. Throws QueueRefusal. */
function checkedGiven(given: GivenProperties): GivenProperties {
  try {
    const unknown = Object.keys(given).find((key) => !PROPERTY_NAMES.some((name) => name === key))
    if (unknown !== undefined) throw new PropertyError(`${unknown} is no property of a queue`)
    return checkedProperties(writtenProperties(given))
  } catch (error) {
    if (!(error instanceof PropertyError)) throw error
    throw new QueueRefusal(error.message, 'See QueueProperties, or queues.defaults in docs/configuration.md.')
  }
}

function entriesOf<T>(steps: Iterable<T | null>): T[] {
  return [...steps].filter((entry) => entry !== null)
}

function selectionOf({ topicFilter = null, limit = Number.POSITIVE_INFINITY }: MoveOptions): MoveSelection {
  return { topicFilter, limit }
}

function consume(
  server: Server,
  queue: string,
  handler: QueueHandler,
  options: ConsumeOptions,
): QueueConsumption {
  const { concurrency = 1, name = PROGRAM, signal } = options
  const { prefetch = concurrency === 1 ? 'auto' : Math.min(2 * concurrency, PREFETCH_MAX) } = options
  expectCount(concurrency, 'concurrency', CONCURRENCY_MAX)
  if (prefetch !== 'auto') expectCount(prefetch, 'prefetch', PREFETCH_MAX)
  const { definitions, consuming } = server.queues!
  let resolve: (end: ConsumerEnd) => void = () => {}
  const ended = new Promise<ConsumerEnd>((resolved) => {
    resolve = resolved
  })
  const run = (handed: Handed): void => {
    void settled(server, queue, consumer, handed, handler) // it never rejects
  }
  const found = definitions.byName.get(queue)!
  const wishes = { name, prefetch, concurrency, handler: run, ended: (end: ConsumerEnd) => resolve(end) }
  const consumer = consuming.programs.add(found, wishes)
  const stop = (): void => consuming.programs.end(consumer, 'stopped')
  if (signal?.aborted === true) stop()
  signal?.addEventListener('abort', stop, { once: true })
  void ended.then(() => signal?.removeEventListener('abort', stop)) // it never rejects
  return {
    ended,
    stop: async () => {
      stop()
      await ended
    },
  }
}

function expectCount(count: number, what: string, max: number): void {
  if (Number.isInteger(count) && count >= 1 && count <= max) return
  throw new RangeError(`${what} ${count}: it must be a whole number from 1 to ${max}`)
}

/** Gives a message to the handler, and acknowledges or refuses it. */
async function settled(
  server: Server,
  queue: string,
  consumer: ProgramConsumer,
  handed: Handed,
  handler: QueueHandler,
): Promise<void> {
  let result: unknown
  try {
    // Handlers call the broker again: the machine must have come to its end before.
    await Promise.resolve()
    result = await handler(received(server, queue, handed))
  } catch (error) {
    const code = error instanceof DeadLetter ? Reason.ImplementationSpecificError : Reason.UnspecifiedError
    consumer.settle(handed, code, retryAfterOf(error), error instanceof Error ? error.message : String(error))
    return
  }
  const payload = typeof result === 'string' || result instanceof Uint8Array ? Buffer.from(result) : null
  if (payload === null || !consumer.has(handed)) consumer.settle(handed, Reason.Success, null, '')
  else answer(server, queue, consumer, handed, payload)
}

/** Publishes the result of a message, and acknowledges it in the same commit. */
function answer(
  server: Server,
  name: string,
  consumer: ProgramConsumer,
  handed: Handed,
  payload: Buffer,
): void {
  const { properties: rules, group } = server.queues!.definitions.byName.get(name)!
  const { topic: asked, properties: encoded } = handed.message
  const { responseTopic, correlationData } = decodeForwardedProperties(encoded)
  const template = rules.results === 'none' ? null : rules.results
  const own = asked.byteLength === 0 ? null : asked.name
  const topic = responseTopic ?? (template === null ? null : resultTopic(template, name, own))
  const { results } = group.counts
  if (topic === null || !mayTakeResults(topic)) {
    if (topic !== null) results['invalid-topic']++
    else if (payload.length > 0) results['no-topic']++
    consumer.settle(handed, Reason.Success, null, '')
    return
  }
  const properties = encodeForwardedProperties(correlationData === undefined ? {} : { correlationData })
  const fields = { topic, payload, qos: 1, retain: false, publisher: '', properties } as const
  const isDue = (): boolean => consumer.has(handed)
  server.publishResult(fields, isDue, (outcome) => {
    if (outcome === 'unavailable') {
      consumer.settle(handed, Reason.UnspecifiedError, null, 'its result could not be stored')
      return
    }
    if (outcome !== 'gone') results[outcome]++
    consumer.settle(handed, Reason.Success, null, '')
  })
}

/** Whether a topic can have results: an ordinary one, or that of a queue. */
function mayTakeResults(topic: string): boolean {
  const address = parseAddress(topic)
  return (
    topicNameError(topic) === null && !isServerTopic(topic) && (address === null || address.kind === 'queue')
  )
}

function retryAfterOf(error: unknown): number | null {
  if (typeof error !== 'object' || error === null || !('retryAfter' in error)) return null
  const { retryAfter } = error
  return typeof retryAfter === 'number' && retryAfter >= 0 ? retryAfter : null
}

function received({ state }: Server, queue: string, { message, handle, enqueuedAt }: Handed): QueueMessage {
  const { topic, payload, qos, publisher, properties, expiresAt } = message
  return {
    queue,
    topic: topic.byteLength === 0 ? null : topic.name,
    payload,
    qos,
    publisher,
    properties: decodeForwardedProperties(properties),
    expiresInSeconds: expiresAt === Number.POSITIVE_INFINITY ? null : secondsLeft(expiresAt, state.now()),
    sequence: handle.sequence,
    attempt: handle.attempt,
    enqueuedAt: new Date(enqueuedAt),
  }
}
