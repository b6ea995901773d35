/**
 * Keeps one Usage per client, and above it one per user and one per address.
 *
 * Counts that change rarely are kept where they change (Sessions, connections, Subscriptions, retained
 * messages, Wills). Those that change with each message are marked there, and looked at now and then.
 */
import type { Message } from '../../mqtt/message.ts'
import type { TopicInterner } from '../../mqtt/topic-interner.ts'
import type { Session } from '../../session/session.ts'
import type { WillRecord } from '../../store/store.ts'
import type { LinkInfo } from '../boundary/link.ts'
import { networkOf } from '../boundary/network.ts'
import type { ClientView } from '../boundary/policy.ts'
import {
  bodiesBytes,
  connectionBytes,
  entriesBytes,
  parkedBytes,
  retainedBytes,
  sessionBytes,
  storedBytes,
  subscriptionBytes,
  topicsBytes,
  willBytes,
} from './costs.ts'
import { Usage, type UsageKind, usageOf } from './usage.ts'

/** A Will, and its client's Usage. */
interface KeptWill {
  readonly record: WillRecord
  readonly usage: Usage
}

/** The parts of the Server that the book reads. */
export interface Kept {
  readonly sessions: { get(clientId: string): Session | undefined; values(): Iterable<Session> }
  readonly wills: ReadonlyMap<string, KeptWill>
  readonly connected: ReadonlyMap<Session, CountedConnection>
  /**
   * Connections that something was read from or written to since the last look, and those that hold
   * something.
   */
  readonly memoryTracked: readonly CountedConnection[]
  untrackMemory(connection: CountedConnection): void
  readonly topics: TopicInterner
  readonly store: {
    readonly figures: { readonly residentBytes: number }
    readonly held: { readonly bytes: number }
  }
}

/** A Network Connection, as far as it is counted. */
export interface CountedConnection {
  readonly view: ClientView
  /** Of the address that it came from. */
  readonly address: Usage
  /** Bytes that wait for its reader, and those of packets that are not whole or not looked at yet. */
  readonly waitingBytes: number
  /** Bytes counted for it at the last look. */
  countedBytes: number
  memoryTrackedIndex: number
}

/** Users without a name: in parentheses, since a user may be called anonymous. */
const ANONYMOUS = '(anonymous)'
const ANONYMOUS_AT = '(anonymous at '
/** Clients over sockets without addresses. */
const LOCAL = 'local'

export class UsageBook {
  /** Of all clients, users and addresses together. */
  readonly total = new Usage('total', '')
  readonly #kept: Kept
  readonly #users = new Map<string, Usage>()
  /** Users without a name, by address; empty where that is not known. */
  readonly #anonymous = new Map<string, Usage>()
  readonly #addresses = new Map<string, Usage>()
  /** Users and addresses that had nothing left. They stay until `forgetUnused`: most come again at once. */
  #unused: Usage[] = []
  /** Sessions that have changed since the last look. */
  #marked: Session[] = []

  constructor(kept: Kept) {
    this.#kept = kept
  }

  // ── who ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** The Usage of a client that has a Session or a Will; null for others. */
  client(clientId: string): Usage | null {
    const session = this.#kept.sessions.get(clientId)
    return session === undefined ? (this.#kept.wills.get(clientId)?.usage ?? null) : usageOf(session)
  }

  /**
   * The Usage of a user; `null` as a name is an anonymous client at this address. Null where nothing is kept
   * for it.
   */
  user(userName: string | null, remoteAddress = ''): Usage | null {
    if (userName !== null) return this.#users.get(userName) ?? null
    return this.#anonymous.get(networkOf(remoteAddress)) ?? null
  }

  /** The Usage of the address, or of the IPv6 network that it is in; null where nothing is kept for it. */
  address(remoteAddress: string): Usage | null {
    return this.#addresses.get(networkOf(remoteAddress) || LOCAL) ?? null
  }

  *clients(): Generator<Usage, void, undefined> {
    for (const session of this.#kept.sessions.values()) {
      const usage = usageOf(session)
      if (usage !== null) yield usage
    }
    for (const [clientId, { usage }] of this.#kept.wills) {
      if (this.#kept.sessions.get(clientId) === undefined) yield usage
    }
  }

  *users(): Generator<Usage, void, undefined> {
    yield* this.#users.values()
    yield* this.#anonymous.values()
  }

  addresses(): Iterable<Usage> {
    return this.#addresses.values()
  }

  // ── connections ──────────────────────────────────────────────────────────────────────────────────────────

  /**
   * A Network Connection is being made, of which `connectionBytes` are counted; returns the Usage of its
   * address.
   */
  opened(link: LinkInfo): Usage {
    const name = networkOf(link.remoteAddress) || LOCAL
    const address = this.#entry(this.#addresses, name, 'address', name)
    const bytes = connectionBytes(link.transport)
    address.bufferBytes += bytes
    this.total.bufferBytes += bytes
    address.connections++
    address.references++
    this.total.connections++
    return address
  }

  /** The transport of a Network Connection is gone. */
  closed(connection: CountedConnection): void {
    const { address } = connection
    this.#buffers(connection, null, 0)
    address.connections--
    address.references--
    this.total.connections--
    this.#letGo(address)
  }

  /** A CONNECT was accepted: the client is at this address now. */
  attached(session: Session, connection: CountedConnection): void {
    const client = usageOf(session)
    if (client === null) return
    client.connections++
    if (client.user !== null) client.user.connections++
    this.#settle(client, session.owner, connection.address)
    client.bufferBytes += connection.countedBytes
    client.user!.bufferBytes += connection.countedBytes
  }

  /** The client is at this address now; null for one that is not known. */
  #settle(client: Usage, owner: string | null, address: Usage | null): void {
    if (address !== null && client.address !== address) {
      if (client.address !== null) this.#leave(client, client.address)
      client.address = address
      address.join(client)
    }
    // Where it is, says which of the users without a name it is.
    if (client.user === null || owner !== null || address !== null)
      this.#moveTo(client, this.#userAt(owner, address))
  }

  /** The Network Connection of a Session ended. */
  detached(session: Session, connection: CountedConnection): void {
    const client = usageOf(session)
    if (client === null) return
    client.connections--
    client.bufferBytes -= connection.countedBytes
    if (client.user === null) return
    client.user.connections--
    client.user.bufferBytes -= connection.countedBytes
  }

  // ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Something of the Session's queue, flight or inbound identifiers changed. */
  mark(session: Session): void {
    this.#marked.push(session)
  }

  /** Takes stock of what changed since the last look. */
  look(): void {
    const { memoryTracked } = this.#kept
    for (let at = memoryTracked.length - 1; at >= 0; at--) this.#lookAt(memoryTracked[at]!)
    const marked = this.#marked
    this.#marked = []
    for (const session of marked) {
      session.isMarked = false
      const client = usageOf(session)
      if (client !== null) this.#queue(client, session)
    }
    const { figures, held } = this.#kept.store
    this.total.queueBytes = this.total.entryBytes + figures.residentBytes + held.bytes
    this.forgetUnused()
  }

  /**
   * Those where nothing waits are not looked at again before something has happened: nothing can wait there.
   */
  #lookAt(connection: CountedConnection): void {
    const { waitingBytes } = connection
    const session = this.#kept.sessions.get(connection.view.clientId)
    const isOpen = session !== undefined && this.#kept.connected.get(session) === connection
    this.#buffers(
      connection,
      isOpen ? usageOf(session) : null,
      connectionBytes(connection.view.link.transport) + waitingBytes,
    )
    if (waitingBytes === 0) this.#kept.untrackMemory(connection)
  }

  #buffers(connection: CountedConnection, client: Usage | null, bytes: number): void {
    const more = bytes - connection.countedBytes
    if (more === 0) return
    connection.countedBytes = bytes
    this.total.bufferBytes += more
    connection.address.bufferBytes += more
    if (client === null) return
    client.bufferBytes += more
    if (client.user !== null) client.user.bufferBytes += more
  }

  #queue(client: Usage, session: Session): void {
    const entryBytes = entriesBytes(session)
    this.#count(
      client,
      entryBytes + bodiesBytes(session),
      entryBytes,
      parkedBytes(session),
      storedBytes(session),
    )
  }

  #count(client: Usage, queueBytes: number, entryBytes: number, parked: number, onDisk: number): void {
    const moreQueue = queueBytes - client.queueBytes
    const moreEntries = entryBytes - client.entryBytes
    const moreStored = onDisk - client.storedBytes
    const moreParked = parked - client.parkedBytes
    this.total.addQueue(0, moreEntries, moreParked, moreStored)
    client.addQueue(moreQueue, moreEntries, moreParked, moreStored)
    client.user?.addQueue(moreQueue, moreEntries, moreParked, moreStored)
    client.address?.addQueue(moreQueue, moreEntries, moreParked, moreStored)
  }

  /**
   * Everything that is kept in memory for clients, in bytes, at the last look; topic names that are nobody's
   * included.
   */
  get bytes(): number {
    return this.total.bytes + this.topicBytes
  }

  /** Bytes of the topic names that are remembered, which are nobody's. */
  get topicBytes(): number {
    return topicsBytes(this.#kept.topics)
  }

  /** The clients, users or addresses with the most bytes, the largest first. */
  largest(kind: 'client' | 'user' | 'address', count: number): Usage[] {
    const all = kind === 'client' ? this.clients() : kind === 'user' ? this.users() : this.addresses()
    const found: Usage[] = []
    for (const usage of all) {
      if (found.length === count && usage.bytes <= found[count - 1]!.bytes) continue
      let at = found.length === count ? count - 1 : found.length
      for (; at > 0 && found[at - 1]!.bytes < usage.bytes; at--) found[at] = found[at - 1]!
      found[at] = usage
    }
    return found
  }

  // ── Sessions and Subscriptions ───────────────────────────────────────────────────────────────────────────

  /** A Session was made by a client at this address; null for one that was read from the store. */
  sessionAdded(session: Session, address: Usage | null): void {
    const { clientId, owner } = session
    const client = this.#kept.wills.get(clientId)?.usage ?? new Usage('client', clientId)
    this.#settle(client, owner, address)
    session.usage = client
    client.references++
    if (address === null && !session.isMarked) {
      session.isMarked = true
      this.#marked.push(session)
    }
    const bytes = sessionBytes(session.clientId)
    this.total.addSession(1, bytes)
    client.addSession(1, bytes)
    client.user?.addSession(1, bytes)
    client.address?.addSession(1, bytes)
  }

  /** A Session is over, and its Subscriptions with it. */
  sessionRemoved(session: Session): void {
    const client = usageOf(session)
    if (client === null) return
    if (session.subscriptions.size > 0) {
      // All that a client has are those of its Session. One by one a million of them would take long.
      const { subscriptions, sharedSubscriptions, subscriptionBytes: held } = client
      for (const usage of [this.total, client.user, client.address, client]) {
        usage?.removeSubscriptions(subscriptions, sharedSubscriptions, held)
      }
    }
    session.usage = null
    this.#count(client, 0, 0, 0, 0)
    const bytes = sessionBytes(session.clientId)
    this.total.addSession(-1, -bytes)
    client.addSession(-1, -bytes)
    client.user?.addSession(-1, -bytes)
    client.address?.addSession(-1, -bytes)
    this.#release(client)
  }

  /** A Subscription was added to a Session; not for one that replaces another. */
  subscriptionAdded(session: Session, filter: string): void {
    this.#subscription(session, filter, 1)
  }

  subscriptionRemoved(session: Session, filter: string): void {
    this.#subscription(session, filter, -1)
  }

  #subscription(session: Session, filter: string, count: 1 | -1): void {
    const client = usageOf(session)
    // Subscribers in this process are no clients.
    if (client === null) return
    const isShared = filter.startsWith('$share/')
    const bytes = count * subscriptionBytes(filter, isShared)
    this.total.addSubscription(count, bytes, isShared)
    client.addSubscription(count, bytes, isShared)
    client.user?.addSubscription(count, bytes, isShared)
    client.address?.addSubscription(count, bytes, isShared)
  }

  // ── retained messages and Wills ──────────────────────────────────────────────────────────────────────────

  /**
   * A message is retained, in place of `previous`. It is its author's, else the user's whose client published
   * it, as far as that is known; not for the Server's own.
   */
  retained(message: Message, previous: Message | null): void {
    if (previous !== null) this.retainedRemoved(previous)
    const user = this.#authorOf(message)
    message.charged = user
    user.references++
    const bytes = retainedBytes(message.size)
    user.addRetained(1, bytes)
    this.total.addRetained(1, bytes)
  }

  retainedRemoved(message: Message): void {
    const user = message.charged as Usage | null
    if (user === null) return
    message.charged = null
    user.references--
    const bytes = retainedBytes(message.size)
    user.addRetained(-1, -bytes)
    this.total.addRetained(-1, -bytes)
    this.#letGo(user)
  }

  #authorOf({ author, publisher }: Message): Usage {
    if (author !== null && author.userName !== null) return this.#userAt(author.userName, null)
    const user = this.client(publisher)?.user ?? null
    // One without a name is known by its client alone.
    if (user !== null && (author === null || !this.#isNamed(user))) return user
    return this.#userAt(null, null)
  }

  /** Puts a Will with its client's Usage, in place of the one that the client had. */
  willPut<W extends { readonly record: WillRecord }>(clientId: string, pending: W): W & KeptWill {
    const { record } = pending
    const client = this.client(clientId) ?? new Usage('client', clientId)
    if (client.user === null) this.#settle(client, record.owner, null)
    client.references++
    this.#will(client, 1, willBytes(record.will))
    this.willRemoved(this.#kept.wills.get(clientId))
    return { ...pending, usage: client }
  }

  /** A Will is published, discarded, or replaced. */
  willRemoved(pending: KeptWill | undefined): void {
    if (pending === undefined) return
    this.#will(pending.usage, -1, -willBytes(pending.record.will))
    this.#release(pending.usage)
  }

  #will(client: Usage, count: number, bytes: number): void {
    this.total.addWill(count, bytes)
    client.addWill(count, bytes)
    client.user?.addWill(count, bytes)
    client.address?.addWill(count, bytes)
  }

  // ── coming and going ─────────────────────────────────────────────────────────────────────────────────────

  /** The user of this name; without one the anonymous user at an address. */
  #userAt(userName: string | null, address: Usage | null): Usage {
    if (userName !== null) return this.#entry(this.#users, userName, 'user', userName)
    const at = address === null ? '' : address.name
    // Its name is put together once, and not for each client that comes.
    const known = this.#anonymous.get(at)
    if (known !== undefined) return known
    return this.#entry(this.#anonymous, at, 'user', at === '' ? ANONYMOUS : `${ANONYMOUS_AT}${at})`)
  }

  #entry(entries: Map<string, Usage>, key: string, kind: UsageKind, name: string): Usage {
    let usage = entries.get(key)
    if (usage === undefined) {
      usage = new Usage(kind, name)
      entries.set(key, usage)
    }
    return usage
  }

  #moveTo(client: Usage, user: Usage): void {
    if (client.user === user) return
    if (client.user !== null) this.#leave(client, client.user)
    client.user = user
    user.join(client)
  }

  /** Neither a Session nor a Will is left of it. */
  #release(client: Usage): void {
    if (--client.references > 0) return
    if (client.user !== null) this.#leave(client, client.user)
    if (client.address !== null) this.#leave(client, client.address)
    client.user = null
    client.address = null
  }

  #leave(client: Usage, parent: Usage): void {
    parent.leave(client)
    this.#letGo(parent)
  }

  #isNamed(user: Usage): boolean {
    return this.#users.get(user.name) === user
  }

  #letGo(parent: Usage): void {
    if (parent.references > 0 || parent.isUnused) return
    parent.isUnused = true
    this.#unused.push(parent)
  }

  /**
   * Something is there that this user made, and that may outlive all of its Sessions: a group which others
   * have joined.
   */
  hold(user: Usage): void {
    user.references++
  }

  letGoOf(user: Usage): void {
    user.references--
    this.#letGo(user)
  }

  /** Forgets users and addresses for which nothing is kept. To be called now and then. */
  forgetUnused(): void {
    if (this.#unused.length === 0) return
    for (const usage of this.#unused) {
      usage.isUnused = false
      if (usage.references === 0) this.#forget(usage)
    }
    this.#unused = []
  }

  #forget(parent: Usage): void {
    const { kind, name } = parent
    if (kind === 'address') this.#addresses.delete(name)
    else if (this.#isNamed(parent)) this.#users.delete(name)
    else this.#anonymous.delete(name === ANONYMOUS ? '' : name.slice(ANONYMOUS_AT.length, -1))
  }
}
