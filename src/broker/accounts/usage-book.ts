/**
 * Keeps a Usage for each client, user and address, and one for all together.
 *
 * Counts that change rarely (Sessions, connections, Subscriptions, retained messages, Wills) are updated at
 * once. Counts that change with each message are updated by `look`, for the Sessions that were marked since.
 */
import type { Message } from '../../mqtt/message.ts'
import type { TopicInterner } from '../../mqtt/topic-interner.ts'
import { SHARE_PREFIX } from '../../mqtt/topics.ts'
import type { Session } from '../../session/session.ts'
import type { DefinitionOwner } from '../../store/log-store.ts'
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
import type { MemoryWatch, Watched } from './memory-watch.ts'
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
  readonly connected: { get(session: Session): CountedConnection | undefined }
  readonly memoryWatch: Pick<MemoryWatch<CountedConnection>, 'untrack'> & {
    readonly tracked: readonly CountedConnection[]
  }
  readonly topics: TopicInterner
  readonly store: {
    readonly figures: { readonly residentBytes: number }
    readonly held: { readonly bytes: number }
  }
}

/** A Network Connection with the memory that it takes. */
export interface CountedConnection extends Watched {
  readonly view: ClientView
  /** The Usage of its remote address. */
  readonly address: Usage
  /** Bytes of unread output, and of packets that are incomplete or not yet handled. */
  readonly waitingBytes: number
  /** Bytes counted for it by the latest look. */
  countedBytes: number
}

/** Names of users without a name. The parentheses tell them from a user called anonymous. */
const ANONYMOUS = '(anonymous)'
const ANONYMOUS_AT = '(anonymous at '
/** The address of clients over sockets without addresses. */
const LOCAL = 'local'

/** Counts what is kept for whom. */
export class UsageBook {
  /** The Usage of all clients together. */
  readonly total = new Usage('total', '')
  readonly #kept: Kept
  readonly #users = new Map<string, Usage>()
  /** Users without a name, by address; by the empty string if the address is unknown. */
  readonly #anonymous = new Map<string, Usage>()
  readonly #addresses = new Map<string, Usage>()
  /**
   * Users and addresses for which nothing was left. They stay until `forgetUnused`, since most come back at
   * once.
   */
  #unused: Usage[] = []
  /** Sessions that have changed since the latest look. */
  #marked: Session[] = []

  constructor(kept: Kept) {
    this.#kept = kept
  }

  // ── look-ups ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Returns the Usage of a client; null if it has neither a Session nor a Will. */
  client(clientId: string): Usage | null {
    const session = this.#kept.sessions.get(clientId)
    return session === undefined ? (this.#kept.wills.get(clientId)?.usage ?? null) : usageOf(session)
  }

  /**
   * Returns the Usage of a user, or of anonymous clients at this address if the name is null. Returns null if
   * nothing is kept for it.
   */
  user(userName: string | null, remoteAddress = ''): Usage | null {
    if (userName !== null) return this.#users.get(userName) ?? null
    return this.#anonymous.get(networkOf(remoteAddress)) ?? null
  }

  /** Returns the Usage of an address, or of its IPv6 network; null if nothing is kept for it. */
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

  /** Counts a new Network Connection with its `connectionBytes`. Returns the Usage of its address. */
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

  /** Removes a Network Connection whose transport is closed. */
  closed(connection: CountedConnection): void {
    const { address } = connection
    this.#buffers(connection, null, 0)
    address.connections--
    address.references--
    this.total.connections--
    this.#letGo(address)
  }

  /** Counts a Network Connection for its client, after CONNECT was accepted. */
  attached(session: Session, connection: CountedConnection): void {
    const client = usageOf(session)
    if (client === null) return
    client.connections++
    if (client.user !== null) client.user.connections++
    this.#settle(client, session.owner, connection.address)
    client.bufferBytes += connection.countedBytes
    client.user!.bufferBytes += connection.countedBytes
  }

  /** Moves the client to its owner's Usage, and to that of its address unless it is null (unknown). */
  #settle(client: Usage, owner: string | null, address: Usage | null): void {
    if (address !== null && client.address !== address) {
      if (client.address !== null) this.#leave(client, client.address)
      client.address = address
      address.join(client)
    }
    // For users without a name, the address tells which user it is.
    if (client.user === null || owner !== null || address !== null)
      this.#moveTo(client, this.#userAt(owner, address))
  }

  /** Removes a Network Connection from its client, after the Session lost it. */
  detached(session: Session, connection: CountedConnection): void {
    const client = usageOf(session)
    if (client === null) return
    client.connections--
    client.bufferBytes -= connection.countedBytes
    if (client.user === null) return
    client.user.connections--
    client.user.bufferBytes -= connection.countedBytes
  }

  // ── the look at memory ───────────────────────────────────────────────────────────────────────────────────

  /** Remembers a Session whose queue, in-flight messages or inbound identifiers have changed. */
  mark(session: Session): void {
    this.#marked.push(session)
  }

  /** Updates the counts of everything that has changed since the latest look. */
  look(): void {
    const { tracked } = this.#kept.memoryWatch
    for (let at = tracked.length - 1; at >= 0; at--) this.#lookAt(tracked[at]!)
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
   * Counts a connection, and stops tracking it if it holds nothing: that cannot change before it is active.
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
    if (waitingBytes === 0) this.#kept.memoryWatch.untrack(connection)
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

  /** Bytes in memory for all clients at the latest look, including remembered topic names. */
  get bytes(): number {
    return this.total.bytes + this.topicBytes
  }

  /** Bytes of remembered topic names, which belong to no client. */
  get topicBytes(): number {
    return topicsBytes(this.#kept.topics)
  }

  /** Returns the clients, users or addresses with the most bytes, the largest first. */
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

  /** Counts a new Session of a client at this address; null for a Session that was read from the store. */
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

  /** Removes a Session that has ended, with its Subscriptions. */
  sessionRemoved(session: Session): void {
    const client = usageOf(session)
    if (client === null) return
    if (session.subscriptions.size > 0) {
      // All Subscriptions of a client are those of its Session. To remove a million one by one would take
      // long.
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

  /** Counts a new Subscription, but not one that replaces another. */
  subscriptionAdded(session: Session, filter: string): void {
    this.#subscription(session, filter, 1)
  }

  subscriptionRemoved(session: Session, filter: string): void {
    this.#subscription(session, filter, -1)
  }

  #subscription(session: Session, filter: string, count: 1 | -1): void {
    const client = usageOf(session)
    // Subscribers in this process are not clients.
    if (client === null) return
    const isShared = filter.startsWith(SHARE_PREFIX)
    const bytes = count * subscriptionBytes(filter, isShared)
    this.total.addSubscription(count, bytes, isShared)
    client.addSubscription(count, bytes, isShared)
    client.user?.addSubscription(count, bytes, isShared)
    client.address?.addSubscription(count, bytes, isShared)
  }

  // ── retained messages and Wills ──────────────────────────────────────────────────────────────────────────

  /**
   * Counts a retained message in place of `previous`: for its author, or else for the user whose client
   * published it, if known. Not for the Server's own messages.
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
    // An author without a name is known only by its client.
    if (user !== null && (author === null || !this.#isNamed(user))) return user
    return this.#userAt(null, null)
  }

  /** Counts a Will in place of the client's previous one. Returns it with the client's Usage. */
  willPut<W extends { readonly record: WillRecord }>(clientId: string, pending: W): W & KeptWill {
    const { record } = pending
    const client = this.client(clientId) ?? new Usage('client', clientId)
    if (client.user === null) this.#settle(client, record.owner, null)
    client.references++
    this.#will(client, 1, willBytes(record.will))
    this.willRemoved(this.#kept.wills.get(clientId))
    return { ...pending, usage: client }
  }

  /** Removes a Will that was published, discarded or replaced. */
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

  // ── users and addresses ──────────────────────────────────────────────────────────────────────────────────

  /** Returns the user with this name, or the anonymous user at an address if the name is null. */
  #userAt(userName: string | null, address: Usage | null): Usage {
    return this.ownerOf({ userName, address: address?.name ?? '' })
  }

  /** Returns a user as the store names it. `hold` it, or it may be forgotten. */
  ownerOf({ userName, address: at }: DefinitionOwner): Usage {
    if (userName !== null) return this.#entry(this.#users, userName, 'user', userName)
    // Builds the name once, not for each client that connects.
    const known = this.#anonymous.get(at)
    if (known !== undefined) return known
    return this.#entry(this.#anonymous, at, 'user', at === '' ? ANONYMOUS : `${ANONYMOUS_AT}${at})`)
  }

  /** Names a user for the store. */
  identityOf(user: Usage): DefinitionOwner {
    if (this.#isNamed(user)) return { userName: user.name, address: '' }
    return { userName: null, address: addressOf(user) }
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

  /** Removes a reference to a client; the last one takes the client from its user and address. */
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

  /** Keeps the Usage of a user whose Shared Subscription group may outlive all of its Sessions. */
  hold(user: Usage): void {
    user.references++
  }

  letGoOf(user: Usage): void {
    user.references--
    this.#letGo(user)
  }

  /** Forgets users and addresses for which nothing is kept. */
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
    else this.#anonymous.delete(addressOf(parent))
  }
}

/** Returns the address of an anonymous user; empty if it is unknown. */
function addressOf({ name }: Usage): string {
  return name === ANONYMOUS ? '' : name.slice(ANONYMOUS_AT.length, -1)
}
