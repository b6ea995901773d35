/** The operator's commands about queues. */
import type { SecurityEvent } from '../broker/boundary/security.ts'
import {
  type ConsumerEntry,
  counted,
  type MoveSelection,
  type QueuedMessage,
  type QueuedState,
  type QueueEntry,
  type QueueOperator,
  QueueRefusal,
  type QueueSteps,
  type QueueTimes,
} from '../broker/queues/queue-view.ts'
import type { ErrorCode } from '../errors.ts'
import type { ForwardedProperties } from '../mqtt/properties/forwarded.ts'
import { topicFilterError } from '../mqtt/topics.ts'
import {
  checkedProperties,
  type GivenProperties,
  PropertyError,
  writtenProperties,
} from '../queue/properties.ts'
import { type ControlCommand, requestedBy } from './control.ts'
import { PAGE_ROWS_MAX, Pages } from './pages.ts'

/** `queue peek` sends at most so many bytes of each payload, and of all together. */
const PAYLOAD_BYTES_MAX = 4096
const PEEK_BYTES_MAX = 1024 * 1024

const STATES: readonly QueuedState[] = ['ready', 'waiting', 'in-flight', 'held', 'deferred', 'moving']

/** A queue as JSON has it: properties under the names of the configuration, `unlimited` for Infinity. */
export interface QueueRow extends Omit<QueueEntry, 'properties'> {
  readonly filters: readonly string[]
  readonly properties: Readonly<Record<string, unknown>>
}

/** The answer to `queue show`. */
export interface QueueDetails extends QueueRow, QueueTimes {
  /** Sentences that say why nothing moves. */
  readonly why: readonly string[]
}

/** A message of `queue peek`. */
export interface PeekedMessage extends Omit<QueuedMessage, 'payload' | 'properties'> {
  readonly payloadBytes: number
  /** Base64 of the payload, or of its first bytes. */
  readonly payload: string
  readonly isPayloadWhole: boolean
  readonly properties: Omit<ForwardedProperties, 'correlationData'> & { readonly correlationData?: string }
}

/** The answer to a change: the number of messages that it deleted or moved. */
export interface QueueChange {
  readonly count: number
  /** `queue declare`: whether the queue is new. */
  readonly isNew?: boolean
}

/** A request about queues that cannot be carried out. */
export class QueueError extends Error {
  override readonly name = 'QueueError'
  readonly code: ErrorCode = 'GODWIT_QUEUE_REFUSED'
  readonly advice: string

  constructor(message: string, advice: string) {
    super(message)
    this.advice = advice
  }
}

type Parameters = Readonly<Record<string, unknown>>

type Commands = Readonly<Record<string, ControlCommand>>

type Tell = (event: SecurityEvent) => void

/** Returns the commands. They report their changes to `tell`. */
export function queueCommands(given: QueueOperator | null, tell: Tell): Commands {
  const queues = (): QueueOperator => {
    if (given !== null) return given
    throw new QueueError('queues are switched off', 'Set queues.enabled to true, and start the broker again.')
  }
  const commands = { ...lookingCommands(queues), ...changingCommands(queues, tell) }
  return Object.fromEntries(
    Object.entries(commands).map(([name, run]) => [
      name,
      (parameters, reply) => refusing(() => run(parameters, reply)),
    ]),
  ) satisfies Commands
}

/** Gives refusals of the Server the code by which users find them. */
async function refusing(run: () => unknown): Promise<unknown> {
  try {
    return await run()
  } catch (error) {
    if (error instanceof QueueRefusal) throw new QueueError(error.message, error.advice)
    throw error
  }
}

function lookingCommands(queues: () => QueueOperator): Commands {
  const pages = new Pages()
  const page = <T>(which: string, rows: () => QueueSteps<T>, { after, limit = 100 }: Parameters) => {
    const count = wholeNumber(limit, 'limit', PAGE_ROWS_MAX)
    if (after === undefined) return pages.begin(which, rows(), count)
    if (typeof after !== 'string') throw new QueueError('after is not text', 'Send a JSON string.')
    return pages.resume<T>(which, after, count)
  }
  return {
    'queue list': (parameters) => page('queue', () => rowsOf(queues().list()), parameters),
    'queue show': async (parameters): Promise<QueueDetails> => {
      const name = nameOf(parameters)
      const times = await queues().times(name)
      return { ...rowOf(queues().show(name)), ...times, why: queues().explain(name) }
    },
    'queue consumers': (parameters) => {
      const name = nameOf(parameters)
      return page<ConsumerEntry>(`consumers ${name}`, () => queues().consumers(name), parameters)
    },
    'queue peek': async (parameters): Promise<readonly PeekedMessage[]> => {
      const { limit = 10, state } = parameters
      const isState = (found: unknown): found is QueuedState => STATES.some((known) => known === found)
      if (state !== undefined && !isState(state)) {
        throw new QueueError(
          `'${String(state)}' is no state of a message`,
          `The states are ${STATES.join(', ')}.`,
        )
      }
      const count = wholeNumber(limit, 'limit', PAGE_ROWS_MAX)
      return peeked(await queues().peek(nameOf(parameters), count, state ?? null))
    },
  }
}

/** Reports a change and who asked for it. */
type Report = (kind: SecurityEvent['kind'], subject: string, parameters: Parameters, detail: string) => void

function changingCommands(queues: () => QueueOperator, tell: Tell): Commands {
  const told: Report = (kind, subject, parameters, detail) =>
    tell({ kind, subject, by: requestedBy(parameters), detail })
  return {
    ...definingCommands(queues, told),
    ...pausingCommands(queues, told),
    ...messageCommands(queues, told),
  }
}

/** The commands that make, change and delete queues. */
function definingCommands(queues: () => QueueOperator, told: Report): Commands {
  return {
    'queue declare': async (parameters): Promise<QueueChange> => {
      const name = nameOf(parameters)
      const given = propertiesGiven(parameters)
      const isNew = await queues().declare(name, given, requestedBy(parameters))
      if (isNew) told('queue-declared', name, parameters, inWords(given))
      return { count: 0, isNew }
    },
    'queue change': async (parameters): Promise<QueueChange> => {
      const name = nameOf(parameters)
      const given = propertiesGiven(parameters)
      await queues().change(name, given, parameters.force === true, requestedBy(parameters))
      told('queue-changed', name, parameters, inWords(given))
      return { count: 0 }
    },
    'queue delete': async (parameters): Promise<QueueChange> => {
      const name = nameOf(parameters)
      const count = await queues().delete(name, parameters.force === true, requestedBy(parameters))
      told('queue-deleted', name, parameters, counted(count, 'message'))
      return { count }
    },
  }
}

function pausingCommands(queues: () => QueueOperator, told: Report): Commands {
  return {
    'queue pause': async (parameters): Promise<QueueChange> => {
      await queues().pause(nameOf(parameters))
      told('queue-paused', nameOf(parameters), parameters, '')
      return { count: 0 }
    },
    'queue resume': async (parameters): Promise<QueueChange> => {
      await queues().resume(nameOf(parameters))
      told('queue-resumed', nameOf(parameters), parameters, '')
      return { count: 0 }
    },
  }
}

/** The commands that delete and move messages. */
function messageCommands(queues: () => QueueOperator, told: Report): Commands {
  return {
    'queue purge': async (parameters): Promise<QueueChange> => {
      const name = nameOf(parameters)
      const { messages } = queues().show(name)
      if (messages > 0 && parameters.force !== true) {
        throw new QueueError(
          `queue ${name} has ${counted(messages, 'message')}`,
          'The same command with --force deletes those that no consumer holds.',
        )
      }
      const count = await queues().purge(name, requestedBy(parameters))
      told('queue-purged', name, parameters, counted(count, 'message'))
      return { count }
    },
    'queue move': async (parameters): Promise<QueueChange> => {
      const { to } = parameters
      if (typeof to !== 'string') throw new QueueError('the target is missing', 'Name it with --to QUEUE.')
      const count = await queues().move(nameOf(parameters), to, selectionOf(parameters))
      told('queue-moved', nameOf(parameters), parameters, `${counted(count, 'message')} to ${to}`)
      return { count }
    },
    'queue replay': async (parameters): Promise<QueueChange> => {
      const { to } = parameters
      const target = typeof to === 'string' ? to : null
      const count = await queues().replay(nameOf(parameters), target, selectionOf(parameters))
      const where = target === null ? 'the queues that they came from' : target
      told('queue-replayed', nameOf(parameters), parameters, `${counted(count, 'message')} to ${where}`)
      return { count }
    },
  }
}

function* rowsOf(entries: QueueSteps<QueueEntry>): QueueSteps<QueueRow> {
  for (const entry of entries) yield entry === null ? null : rowOf(entry)
}

function rowOf({ properties, ...entry }: QueueEntry): QueueRow {
  const { filters, ...written } = writtenProperties(properties)
  return { ...entry, filters: filters as readonly string[], properties: written }
}

function peeked(messages: readonly QueuedMessage[]): readonly PeekedMessage[] {
  let room = PEEK_BYTES_MAX
  return messages.map(({ payload, properties, ...message }) => {
    const { correlationData, ...plain } = properties
    const shown = Math.min(payload.length, PAYLOAD_BYTES_MAX, room)
    room -= shown
    return {
      ...message,
      payloadBytes: payload.length,
      payload: payload.toString('base64', 0, shown),
      isPayloadWhole: shown === payload.length,
      properties: {
        ...plain,
        ...(correlationData !== undefined && { correlationData: correlationData.toString('base64') }),
      },
    }
  })
}

function nameOf({ words }: Parameters): string {
  const name: unknown = Array.isArray(words) ? words[0] : undefined
  if (typeof name === 'string') return name
  throw new QueueError('the name of the queue is missing', 'Send it in the list words.')
}

function wholeNumber(found: unknown, what: string, max: number): number {
  if (Number.isInteger(found) && (found as number) >= 1 && (found as number) <= max) return found as number
  throw new QueueError(`${what} is not a whole number from 1 to ${max}`, 'Ask for less at once.')
}

function selectionOf({ topic, limit }: Parameters): MoveSelection {
  const count =
    limit === undefined ? Number.POSITIVE_INFINITY : wholeNumber(limit, 'limit', Number.MAX_SAFE_INTEGER)
  if (topic === undefined) return { topicFilter: null, limit: count }
  const error = typeof topic === 'string' ? topicFilterError(topic) : 'is not text'
  if (error !== null) throw new QueueError(`the topic filter ${error}`, 'Give one such as jobs/#.')
  return { topicFilter: topic as string, limit: count }
}

function propertiesGiven({ properties = {} }: Parameters): GivenProperties {
  if (typeof properties !== 'object' || properties === null) {
    throw new QueueError('properties is not an object', 'Send a JSON object.')
  }
  try {
    return checkedProperties(properties as Record<string, unknown>)
  } catch (error) {
    if (!(error instanceof PropertyError)) throw error
    throw new QueueError(error.message, 'docs/configuration.md lists the properties: queues.defaults.')
  }
}

function inWords(given: GivenProperties): string {
  return Object.entries(writtenProperties(given))
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`)
    .join(', ')
}
