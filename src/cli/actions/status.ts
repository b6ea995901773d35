/** Runs `godwit status`: shows the state of the running broker. */
import type { BrokerStatus, StatusGauges } from '../../admin/commands.ts'
import { ask } from '../../admin/control-client.ts'
import { printable } from '../../observe/printable.ts'
import { duration, lines, size } from './table.ts'

/** Clients that use less memory are not shown. */
const TOLD_BYTES_MIN = 1024 * 1024

/** Longer names are shortened, so that a line has at most 80 columns. */
const NAME_CHARACTERS_MAX = 24

/** Asks the broker of this data directory and returns the output. Throws ControlError if none answers. */
export async function status(directory: string, asJson: boolean): Promise<string> {
  const answer = (await ask(directory, 'status')) as BrokerStatus
  return asJson ? JSON.stringify(answer) : statusText(answer)
}

/** Formats the answer for people. */
export function statusText(answer: BrokerStatus): string {
  const { health, held, store, counted, commitMs } = answer
  return lines([
    ['godwit', `${answer.version}, process ${answer.processId}, up ${duration(answer.uptimeSeconds)}`],
    ['health', health.detail === '' ? health.state : `${health.state}: ${health.detail}`],
    ['listening on', answer.listeners.join(', ')],
    // Absent from brokers of 0.1.0.
    ...(answer.certificates ?? []).map(({ listener, detail, renewed }): [string, string] => [
      'certificate',
      `${listener} ${detail}${renewed ? '; renewed automatically' : ''}`,
    ]),
    ['data', `${answer.dataDirectory}, durability ${durability(answer)}, ${free(answer.freeBytes)}`],
    ['clients', `${answer.clientsConnected} connected, ${held.sessions} Sessions, ${held.wills} Wills`],
    ['connections', connections(answer.openFiles)],
    ['Subscriptions', subscriptions(held.subscriptions, answer.subscriptionsSuspended)],
    [
      'messages',
      `${held.queuedMessages} queued, ${held.inFlightMessages} in flight, ${retained(held.retainedMessages)}`,
    ],
    ['message queues', messageQueues(held)],
    ['received', `${counted.messagesReceived} messages, ${size(counted.bytesReceived)} in all`],
    ['sent', `${counted.messagesSent} messages, ${size(counted.bytesSent)} in all`],
    ['store', `${size(store.storedBytes ?? 0)} of messages; ${commits(store.commits ?? 0, commitMs)}`],
    ['memory', memory(answer)],
    ...largest(answer),
    ['refused', counted.connectionsRefused === 0 ? null : `${counted.connectionsRefused} connections`],
    ['profile', profile(answer.limits)],
    ['limits', counts(counted.limited)],
    // The next three are absent from brokers of 0.2.0.
    [
      'log-ins',
      (answer.loginsWaiting ?? 0) === 0 ? null : `${answer.loginsWaiting} wait for a password check`,
    ],
    ['banned', (answer.bans ?? 0) === 0 ? null : `${answer.bans}; see: godwit ban list`],
    ['relief', counts(counted.relief ?? {})],
    ['lost', counts(counted.dropped)],
    ['ownerless', ownerless(counted.ownerlessSessionsEnded)],
    [
      'behind',
      answer.publishersPaused === 0 ? null : `${answer.publishersPaused} publishers wait for the disk`,
    ],
  ])
}

/** Describes the memory; brokers of 0.2.0 do not send the maximum. */
function memory({ residentBytes, held, memoryBytesMax }: BrokerStatus): string {
  const most =
    memoryBytesMax === undefined || memoryBytesMax === null ? '' : ` (at most ${size(memoryBytesMax)})`
  return `${size(residentBytes)} in all, ${size(held.memoryBytes)} for clients${most}`
}

/** Describes the retained messages; `godwit retained list` does not show those below `$SYS`. */
function retained(count: number): string {
  return `${count} retained with $SYS`
}

/** Lists the clients and users that use the most memory, a line each; absent from brokers of 0.2.0. */
function largest({ largest: all = [] }: BrokerStatus): [string, string][] {
  return all
    .filter(({ bytes }) => bytes >= TOLD_BYTES_MIN)
    .map(({ kind, name, bytes, parts }, index) => {
      const [[most] = ['']] = Object.entries(parts).sort(([, one], [, other]) => other - one)
      return [index === 0 ? 'largest' : '', `${kind} ${cut(printable(name))}: ${size(bytes)}, mostly ${most}`]
    })
}

function cut(name: string): string {
  return name.length > NAME_CHARACTERS_MAX ? `${name.slice(0, NAME_CHARACTERS_MAX - 3)}...` : name
}

/** Describes the Subscriptions; brokers of 0.1.0 do not send the number of suspended ones. */
/** Brokers of 0.3.0 and before do not say; without a queue there is nothing to say. */
function messageQueues({
  queues = 0,
  queuesMessages,
  queuesBytes,
  consumers,
}: Partial<StatusGauges>): string | null {
  if (queues === 0) return null
  return `${queues} with ${queuesMessages} messages (${size(queuesBytes ?? 0)}), ${consumers} consumers`
}

function subscriptions(count: number, suspended = 0): string {
  return suspended === 0 ? `${count}` : `${count}, and ${suspended} not allowed at present`
}

/** Describes the profile of limits; null for brokers of 0.2.0, which have none. */
function profile(limits: BrokerStatus['limits'] | undefined): string | null {
  if (limits === undefined) return null
  const { profile: name, others } = limits
  return others.length === 0 ? name : `${name}; with other values: ${others.join(', ')}`
}

function ownerless(count = 0): string | null {
  if (count === 0) return null
  const noun = count === 1 ? 'Session' : 'Sessions'
  return `${count} ${noun} without an owner ended when users took their Client Identifiers`
}

/** Lists counters as in `queue-full 3, offline 1`, the highest first. */
function counts(counted: Readonly<Record<string, number>>): string {
  return Object.entries(counted)
    .sort(([, one], [, other]) => other - one)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ')
}

function commits(count: number, { p50, p99, maximum }: BrokerStatus['commitMs']): string {
  if (count === 0) return 'no commits yet'
  return `${count} commits, half within ${ms(p50)}, 99 % within ${ms(p99)}, all within ${ms(maximum)}`
}

/** Describes the connections; null if the broker does not know the limit of open files. */
function connections(files: BrokerStatus['openFiles'] | undefined): string | null {
  if (files === undefined || files.openFilesMax === null) return null
  const { openFilesMax, connectionsMax, sockets } = files
  return `${sockets} open, at most ${connectionsMax} (limit of open files: ${openFilesMax})`
}

function ms(duration: number): string {
  return `${duration.toFixed(duration < 10 ? 1 : 0)} ms`
}

function free(bytes: number | null): string {
  return bytes === null ? 'free space unknown' : `${size(bytes)} free`
}

/** Describes the durability. Brokers of 0.1.0 have no `interval` and so send no seconds. */
function durability({ durability: kind, durabilityIntervalSeconds: seconds }: BrokerStatus): string {
  return kind === 'interval' ? `${kind} (synced every ${seconds} s)` : kind
}
