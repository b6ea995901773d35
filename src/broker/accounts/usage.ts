/** Counts what the Server keeps for one client, user or address. */
import type { Session } from '../../session/session.ts'

export type UsageKind = 'client' | 'user' | 'address' | 'total'

/** Counts of a client, a user, the clients of an address, or all clients. Bytes are in memory unless said. */
export class Usage {
  readonly kind: UsageKind
  /**
   * Client Identifier, user name or address. Users without a name are `(anonymous)`, with the address if
   * known.
   */
  readonly name: string
  /** The user and the address of a client, or null. A client that is away stays with its latest address. */
  user: Usage | null = null
  address: Usage | null = null
  /** Open Network Connections; for an address, those before CONNECT as well. */
  connections = 0
  sessions = 0
  /** Bytes of its Sessions, without Subscriptions and messages. */
  sessionBytes = 0
  /** Subscriptions, including Shared Subscriptions. */
  subscriptions = 0
  sharedSubscriptions = 0
  subscriptionBytes = 0
  /** Counted for users only, since retained messages outlive their clients. */
  retainedMessages = 0
  retainedBytes = 0
  wills = 0
  willBytes = 0
  /** Bytes of its Network Connections with their buffers, at the latest look. */
  bufferBytes = 0
  /**
   * Bytes of queued and in-flight messages at the latest look. A message that several clients share counts in
   * full for each of them, but only once for all clients together.
   */
  queueBytes = 0
  /** The part of these bytes for entries alone, without their messages. */
  entryBytes = 0
  /** Bytes that the queues of its stored Sessions would take with all entries parked, at the latest look. */
  parkedBytes = 0
  /** Bytes on the disk of messages that its Sessions have queued or in flight, at the latest look. */
  storedBytes = 0
  /** Message queues that its clients made by using them; for users, as is what follows. */
  madeQueues = 0
  /** Bytes in memory, and on the disk, of these queues and their dead letter queues, at the latest look. */
  madeQueueBytes = 0
  madeStoredBytes = 0
  /**
   * Clients, connections, retained messages and groups that refer to it; for a client its Session and Will.
   */
  references = 0
  /** Whether it is listed to be forgotten. */
  isUnused = false

  constructor(kind: UsageKind, name: string) {
    this.kind = kind
    this.name = name
  }

  /** All its bytes in memory. */
  get bytes(): number {
    return (
      this.sessionBytes +
      this.subscriptionBytes +
      this.retainedBytes +
      this.willBytes +
      this.bufferBytes +
      this.queueBytes +
      this.madeQueueBytes
    )
  }

  /** Bytes, without queues, that stay until the client or operator ends them. They are on the disk, too. */
  get keptBytes(): number {
    return this.sessionBytes + this.subscriptionBytes + this.retainedBytes + this.willBytes
  }

  /** All its bytes on the disk. */
  get diskBytes(): number {
    return this.keptBytes + this.storedBytes + this.madeStoredBytes
  }

  /** Adds the changes of queues since the latest look. */
  addQueue(queueBytes: number, entryBytes: number, parkedBytes: number, storedBytes: number): void {
    this.queueBytes += queueBytes
    this.entryBytes += entryBytes
    this.parkedBytes += parkedBytes
    this.storedBytes += storedBytes
  }

  /** Adds the changes of message queues that its clients made. */
  addMade(count: number, bytes: number, storedBytes: number): void {
    this.madeQueues += count
    this.madeQueueBytes += bytes
    this.madeStoredBytes += storedBytes
  }

  /** Adds a Session (1 and its bytes), or removes one (-1 and its negated bytes). */
  addSession(count: number, bytes: number): void {
    this.sessions += count
    this.sessionBytes += bytes
  }

  addSubscription(count: number, bytes: number, isShared: boolean): void {
    this.subscriptions += count
    if (isShared) this.sharedSubscriptions += count
    this.subscriptionBytes += bytes
  }

  removeSubscriptions(count: number, shared: number, bytes: number): void {
    this.subscriptions -= count
    this.sharedSubscriptions -= shared
    this.subscriptionBytes -= bytes
  }

  addRetained(count: number, bytes: number): void {
    this.retainedMessages += count
    this.retainedBytes += bytes
  }

  addWill(count: number, bytes: number): void {
    this.wills += count
    this.willBytes += bytes
  }

  // The next two functions do not share a factor of 1 or -1: -0 is no small integer for V8, and each count
  // would become an object of its own.

  /** Adds all counts of a client that now belongs to this user or address. */
  join(client: Usage): void {
    this.references++
    // An address counts connections by their transports.
    if (this.kind === 'user') {
      this.connections += client.connections
      this.bufferBytes += client.bufferBytes
    }
    this.addQueue(client.queueBytes, client.entryBytes, client.parkedBytes, client.storedBytes)
    this.addSession(client.sessions, client.sessionBytes)
    this.subscriptions += client.subscriptions
    this.sharedSubscriptions += client.sharedSubscriptions
    this.subscriptionBytes += client.subscriptionBytes
    this.addWill(client.wills, client.willBytes)
  }

  /** Subtracts all counts of a client that no longer belongs to this user or address. */
  leave(client: Usage): void {
    this.references--
    if (this.kind === 'user') {
      this.connections -= client.connections
      this.bufferBytes -= client.bufferBytes
    }
    this.queueBytes -= client.queueBytes
    this.entryBytes -= client.entryBytes
    this.parkedBytes -= client.parkedBytes
    this.storedBytes -= client.storedBytes
    this.sessions -= client.sessions
    this.sessionBytes -= client.sessionBytes
    this.subscriptions -= client.subscriptions
    this.sharedSubscriptions -= client.sharedSubscriptions
    this.subscriptionBytes -= client.subscriptionBytes
    this.wills -= client.wills
    this.willBytes -= client.willBytes
  }
}

/**
 * Returns the Usage of a Session's client; null for subscribers in this process, and after the Session ended.
 */
export function usageOf(session: Session): Usage | null {
  return session.usage as Usage | null
}
