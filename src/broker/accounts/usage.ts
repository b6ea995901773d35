/** Counts what the Server keeps for one client, user or address. */
import type { Session } from '../../session/session.ts'

export type UsageKind = 'client' | 'user' | 'address' | 'total'

/** Counts of one client, of one user, of the clients of one address, or of all. Bytes are of memory. */
export class Usage {
  readonly kind: UsageKind
  /**
   * Client Identifier, user name, or address. Users without a name are `(anonymous)`, with the address where
   * it is known.
   */
  readonly name: string
  /**
   * Parents of a client; null where it has none (any more). A client that is away stays with its latest
   * address.
   */
  user: Usage | null = null
  address: Usage | null = null
  /** Open Network Connections; of an address also those that have not said who they are. */
  connections = 0
  sessions = 0
  /** Bytes of its Sessions, without Subscriptions and messages. */
  sessionBytes = 0
  /** Shared ones included. */
  subscriptions = 0
  sharedSubscriptions = 0
  subscriptionBytes = 0
  /** Of users only: they outlive their clients. */
  retainedMessages = 0
  retainedBytes = 0
  wills = 0
  willBytes = 0
  /** Bytes of its Network Connections with their buffers, at the last look. */
  bufferBytes = 0
  /**
   * Bytes of its queues and of what is in flight, in memory, at the last look: of a client no more than this,
   * since messages that others have as well count in full. Of all together each message counts once.
   */
  queueBytes = 0
  /** Of these, entries without their messages, which nobody shares. */
  entryBytes = 0
  /**
   * The least that the queues of its stored Sessions take in memory, at the last look: their entries, all
   * parked.
   */
  parkedBytes = 0
  /** Bytes of messages that its Sessions have on the disk, queued or in flight, at the last look. */
  storedBytes = 0
  /**
   * Clients, connections, retained messages and groups that name it; of a client, its Session and its Will.
   */
  references = 0
  /** Whether it may have to be forgotten. */
  isUnused = false

  constructor(kind: UsageKind, name: string) {
    this.kind = kind
    this.name = name
  }

  /** Everything in memory, in bytes. */
  get bytes(): number {
    return (
      this.sessionBytes +
      this.subscriptionBytes +
      this.retainedBytes +
      this.willBytes +
      this.bufferBytes +
      this.queueBytes
    )
  }

  /** Bytes that it has on the disk. */
  get diskBytes(): number {
    return this.storedBytes + this.sessionBytes + this.subscriptionBytes + this.retainedBytes + this.willBytes
  }

  /** Adds changes of queues since the last look, in bytes. */
  addQueue(queueBytes: number, entryBytes: number, parkedBytes: number, storedBytes: number): void {
    this.queueBytes += queueBytes
    this.entryBytes += entryBytes
    this.parkedBytes += parkedBytes
    this.storedBytes += storedBytes
  }

  /** Counts a Session that came (1, and its bytes), or went (-1, and its bytes below zero). */
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

  // Without a factor of -1 in what follows: -0 is no small integer, and each count would be an object of its
  // own.

  /** Counts all that a client has, which comes to this parent. */
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

  /** The same for what leaves it. */
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
 * Returns the Usage of a Session's client; null for subscribers in this process, and once the Session is
 * over.
 */
export function usageOf(session: Session): Usage | null {
  return session.usage as Usage | null
}
