/**
 * Every limit of the Server: one table with a row for each, its unit in its name. `Infinity` is written `unlimited` in the
 * configuration. A row is all that a limit needs to have a key, a check, a place in the profiles and a counter; the example
 * configuration and `docs/limits.md` are held to it by tests.
 */
import type { Reason } from '../../mqtt/reason.ts'
import type { FullQueuePolicy } from '../../session/limits.ts'
import {
  bytes,
  type Kind,
  type LimitRow,
  oneOf,
  orAutomatic,
  orUnlimited,
  PROFILE_NAMES,
  type Profile,
  row,
  seconds,
  truth,
  UNLIMITED,
  type ValueOf,
  whole,
} from './limit-row.ts'

/** A topic filter, compared character by character, and the Reason Code for SUBACK. */
export interface RefusedSubscription {
  readonly filter: string
  readonly reasonCode: Reason
}

const KIB = 1024
const MIB = 1024 * KIB
const GIB = 1024 * MIB

/** Largest control packet that the standard can express, in bytes. */
export const STANDARD_PACKET_BYTES_MAX = 268_435_460

/** Of a UTF-8 Encoded String (section 1.5.4). */
const TEXT_BYTES_MAX = 65_535

const REFUSED_FILTERS: Kind<readonly RefusedSubscription[]> = {
  type: 'refused filters',
  unit: '',
  min: 0,
  max: 0,
  unlimited: false,
  choices: [],
}

/**
 * What a publisher meets while the disk or the memory is short. `disconnect`: a message above QoS 0 is not acknowledged and its
 * publisher disconnected with 0x97, so that it keeps the message and tries again. `refuse`: it is told 0x97 in the
 * acknowledgement (3.1.1 has no such word and is disconnected all the same).
 */
const EXHAUSTED = oneOf(['disconnect', 'refuse'])

/** As many of something as there are, 1 or more, or `unlimited`. */
const count = (unit: string, max?: number): Kind<number> =>
  orUnlimited(whole(unit, max === undefined ? {} : { max }))

/** The table. Values are those of `open`, `fleet` and `internet`, or one for all three. */
export const LIMIT_TABLE = {
  /** The set of values that holds for every limit which is not set by its own key. */
  profile: row(
    oneOf(PROFILE_NAMES),
    ['open', 'fleet', 'internet'],
    'now',
    null,
    'the set of values for all limits that have no key of their own',
  ),
  /** Clients that are connected, all listeners together. Up to 64 more connections may be about to say who they are. */
  connectionsMax: row(count('clients'), [UNLIMITED], 'now', 'own', 'connected clients, of all listeners'),
  connectionsPerUserMax: row(
    count('clients'),
    [UNLIMITED, UNLIMITED, 1000],
    'now',
    'own',
    'connected clients of one user',
  ),
  /** Open connections of one IPv4 address or IPv6 network (/64). Thousands may share one: a carrier's NAT, a proxy. */
  connectionsPerAddressMax: row(
    count('connections'),
    [UNLIMITED, UNLIMITED, 2000],
    'now',
    'own',
    'connections of one address (IPv6: of a /64 network), but for those of this machine',
  ),
  /** Seconds from accept to a complete CONNECT. */
  connectTimeoutSeconds: row(
    seconds({ min: 0.1, max: 3600 }, 'fractional'),
    [10],
    'restart',
    'own',
    'from the first byte to a complete CONNECT, handshakes included',
  ),
  /** Log-ins that wait until a slow hash of their password can be made. One more, and the newest of whoever has most is refused. */
  loginQueueMax: row(
    count('log-ins'),
    [65_536, 16_384, 4096],
    'now',
    'own',
    'log-ins that wait for their passwords to be checked',
  ),
  loginQueueBytesMax: row(
    orUnlimited(bytes({ min: 64 * KIB })),
    [256 * MIB, 64 * MIB, 16 * MIB],
    'now',
    'own',
    'bytes of log-ins that wait',
  ),
  /** By address, or IPv6 network of 64 bits: a whole fleet may stand behind one. */
  loginQueuePerAddressMax: row(
    count('log-ins'),
    [65_536, 8192, 1024],
    'now',
    'own',
    'log-ins from one address, or IPv6 network of 64 bits, that wait',
  ),
  /** By user name: a whole fleet may use one. */
  loginQueuePerUserMax: row(
    count('log-ins'),
    [65_536, 8192, 1024],
    'now',
    'own',
    'log-ins of one user name that wait',
  ),
  /** Seconds that a client may be in that queue. `connectTimeoutSeconds` stands still meanwhile. */
  loginWaitSecondsMax: row(
    seconds({ min: 1, max: 86_400 }, 'fractional'),
    [3600, 600, 300],
    'now',
    'own',
    'for which a log-in may wait for others',
  ),
  /** Wrong passwords of one user name from one address, IPv6 by network of 64 bits, before the next ones are not looked at for a while. */
  failedLoginsMax: row(
    count('log-ins'),
    [UNLIMITED, 5, 3],
    'now',
    'own',
    'wrong passwords of one user from one address, after which the next one is looked at a second later',
  ),
  /** That delay begins with a second and doubles with each wrong password up to this. */
  failedLoginDelaySecondsMax: row(
    seconds({ min: 1, max: 86_400 }),
    [60],
    'now',
    null,
    'longest delay after wrong passwords, which doubles with each',
  ),
  /** Wrong passwords from one address in ten minutes. Ten times as many where a user of it has the right one; none where three have. */
  failedLoginsBanned: row(
    count('log-ins'),
    [UNLIMITED, UNLIMITED, 100],
    'now',
    'own',
    'wrong passwords from one address in ten minutes, after which it is banned',
  ),
  /** Connects of one Client Identifier within a minute. */
  flappingConnectsMax: row(
    count('connects'),
    [UNLIMITED, UNLIMITED, 120],
    'now',
    'own',
    'connects of one Client Identifier in a minute, after which it is banned',
  ),
  banSeconds: row(
    seconds({ min: 1, max: 31_536_000 }),
    [600],
    'now',
    null,
    'for which a ban holds that the broker imposes by itself',
  ),
  /**
   * Rates, for which five seconds may be used at once. Whoever is ahead of one is not read from until it is not; who would have to
   * wait for more than five seconds is refused. By address they are for all clients behind it.
   */
  publishRatePerClientMax: row(
    count('messages a second'),
    [UNLIMITED, UNLIMITED, 100],
    'connections',
    'own',
    'PUBLISH packets from one client a second',
  ),
  publishRatePerUserMax: row(
    count('messages a second'),
    [UNLIMITED, UNLIMITED, 5000],
    'connections',
    'own',
    'PUBLISH packets from all clients of one user a second',
  ),
  publishRatePerAddressMax: row(
    count('messages a second'),
    [UNLIMITED, UNLIMITED, 5000],
    'connections',
    'own',
    'PUBLISH packets from one address, or IPv6 network of 64 bits, a second',
  ),
  receiveRatePerClientMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 256 * KIB],
    'connections',
    'own',
    'bytes from one client a second',
  ),
  receiveRatePerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 16 * MIB],
    'connections',
    'own',
    'bytes from all clients of one user a second',
  ),
  receiveRatePerAddressMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 16 * MIB],
    'connections',
    'own',
    'bytes from one address, or IPv6 network of 64 bits, a second',
  ),
  sendRatePerClientMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, MIB],
    'connections',
    'own',
    'bytes to one client a second',
  ),
  sendRatePerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 64 * MIB],
    'connections',
    'own',
    'bytes to all clients of one user a second',
  ),
  sendRatePerAddressMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 64 * MIB],
    'connections',
    'own',
    'bytes to one address, or IPv6 network of 64 bits, a second',
  ),
  subscribeRatePerClientMax: row(
    count('topic filters a second'),
    [UNLIMITED, UNLIMITED, 50],
    'connections',
    'own',
    'topic filters in SUBSCRIBE from one client a second',
  ),
  subscribeRatePerUserMax: row(
    count('topic filters a second'),
    [UNLIMITED, UNLIMITED, 2000],
    'connections',
    'own',
    'topic filters in SUBSCRIBE from all clients of one user a second',
  ),
  subscribeRatePerAddressMax: row(
    count('topic filters a second'),
    [UNLIMITED, UNLIMITED, 2000],
    'connections',
    'own',
    'topic filters in SUBSCRIBE from one address, or IPv6 network of 64 bits, a second',
  ),
  connectRatePerClientMax: row(
    count('connections a second'),
    [UNLIMITED, UNLIMITED, 1],
    'connections',
    'own',
    'log-ins of one client a second',
  ),
  connectRatePerUserMax: row(
    count('connections a second'),
    [UNLIMITED, UNLIMITED, 100],
    'connections',
    'own',
    'log-ins of one user a second',
  ),
  connectRatePerAddressMax: row(
    count('connections a second'),
    [UNLIMITED, UNLIMITED, 100],
    'connections',
    'own',
    'connections from one address, or IPv6 network of 64 bits, a second',
  ),
  /** Largest control packet in bytes, fixed header included; announced as Maximum Packet Size. */
  packetBytesMax: row(
    bytes({ min: 128, max: STANDARD_PACKET_BYTES_MAX }),
    // A firmware or a picture fits; a client before 5.0 that sends more is cut off, so that is decided with open eyes.
    [STANDARD_PACKET_BYTES_MAX, 16 * MIB, MIB],
    'connections',
    'own',
    'largest control packet, announced as Maximum Packet Size',
  ),
  /** Largest packet in bytes of any type but PUBLISH: decoding thousands of filters must not hold up everybody. */
  controlPacketBytesMax: row(
    bytes({ min: 128, max: STANDARD_PACKET_BYTES_MAX }),
    [MIB, MIB, 64 * KIB], // some 100,000 topic filters in one SUBSCRIBE
    'connections',
    'own',
    'largest packet of any type but PUBLISH',
  ),
  /** Of one packet, or of a Will. Each property is checked, and 64 KiB may hold 13,000 of them. */
  propertyBytesMax: row(
    bytes({ min: 128, max: STANDARD_PACKET_BYTES_MAX }),
    [256 * KIB, 64 * KIB, 16 * KIB],
    'connections',
    'own',
    'properties of a packet, or of a Will',
  ),
  clientIdBytesMax: row(
    bytes({ min: 23, max: TEXT_BYTES_MAX }), // [MQTT-3.1.3-5]
    [TEXT_BYTES_MAX, KIB, 256],
    'now',
    'own',
    'longest Client Identifier',
  ),
  /** Longest topic name, and longest topic filter without its `$share/name/`. */
  topicBytesMax: row(
    bytes({ min: 1, max: TEXT_BYTES_MAX }),
    [TEXT_BYTES_MAX, 4 * KIB, KIB],
    'now',
    'own',
    'longest topic name or topic filter',
  ),
  topicLevelsMax: row(
    count('levels', 65_536),
    [UNLIMITED, 200, 128],
    'now',
    'own',
    'levels of a topic name or topic filter',
  ),
  shareNameBytesMax: row(
    bytes({ min: 1, max: TEXT_BYTES_MAX }),
    [TEXT_BYTES_MAX, 256, 128],
    'now',
    'own',
    'longest ShareName of a Shared Subscription',
  ),
  /** Sessions, those of connected clients without a kept Session included. */
  sessionsMax: row(count('Sessions'), [UNLIMITED, 500_000, 100_000], 'now', 'own', 'Sessions in all'),
  /** A fleet of 100,000 devices may share one user. */
  sessionsPerUserMax: row(
    count('Sessions'),
    [UNLIMITED, 250_000, 1000],
    'now',
    'own',
    'Sessions of one user',
  ),
  /** A dashboard may have 100,000. Shared Subscriptions included. */
  subscriptionsPerClientMax: row(
    count('Subscriptions'),
    [UNLIMITED, 200_000, 1000],
    'now',
    'own',
    'Subscriptions of one Session',
  ),
  subscriptionsPerUserMax: row(
    count('Subscriptions'),
    [UNLIMITED, 2_000_000, 20_000],
    'now',
    'own',
    'Subscriptions of all Sessions of one user',
  ),
  sharedSubscriptionsPerClientMax: row(
    count('Shared Subscriptions'),
    [UNLIMITED, 10_000, 100],
    'now',
    'own',
    'Shared Subscriptions of one Session',
  ),
  /** Groups, `$share/name/filter`, whose first member was of this user. Members of a group are Subscriptions like others. */
  shareGroupsPerUserMax: row(
    count('groups'),
    [UNLIMITED, 10_000, 1000],
    'now',
    'own',
    'groups of Shared Subscriptions that one user has opened',
  ),
  /** Each group gets each message: without a limit one user makes a hundred thousand out of each message of others. */
  shareGroupsPerMessageMax: row(
    count('groups'),
    [UNLIMITED, 1000, 100],
    'now',
    'own',
    'groups that one user has opened and that get the same message, on one topic filter or on several',
  ),
  /** Messages that may wait in one Session's queue. */
  queueMessagesMax: row(
    count('messages'),
    [UNLIMITED, 1_000_000, 10_000],
    'now',
    'own',
    'messages that wait for one Session',
  ),
  /** Bytes of messages that may wait in one Session's queue: by default over a million of 200 bytes. */
  queueBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [256 * MIB, 256 * MIB, 16 * MIB],
    'now',
    'queueMessagesMax',
    'bytes of messages that wait for one Session',
  ),
  queueFull: row(
    oneOf<FullQueuePolicy>(['drop-oldest', 'drop-newest', 'refuse']),
    ['drop-oldest'],
    'now',
    null,
    'what a full queue does',
  ),
  /** Whether QoS 0 messages are queued for an offline Session. */
  queueQos0: row(truth(), [false], 'now', null, 'whether QoS 0 waits for a Session whose client is away'),
  /**
   * QoS 1 and 2 messages sent to one client and not yet acknowledged; the client's Receive Maximum may be lower. A client before
   * 5.0 starts with fewer.
   */
  inFlightMax: row(
    whole('messages', { max: 65_535 }),
    [1000, 1000, 200],
    'connections',
    null,
    'QoS 1 and 2 messages sent to one client and not yet acknowledged',
  ),
  /** Bytes of these messages: once there are as many, the next one waits in the queue. */
  inFlightBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [256 * MIB, 64 * MIB, 4 * MIB],
    'now',
    null,
    'bytes of messages sent to one client and not yet acknowledged, above which the next one waits',
  ),
  /** QoS 1 and 2 messages one client may have under way to us; announced as Receive Maximum. */
  receiveMaximum: row(
    whole('messages', { max: 65_535 }),
    [65_535], // clients miscount their window when it is lower; commits bound what is under way
    'restart',
    'own',
    'QoS 1 and 2 messages that one client may have under way, announced as Receive Maximum',
  ),
  /** Topic aliases a client may use towards us; announced as Topic Alias Maximum. */
  topicAliasMaximum: row(
    whole('aliases', { min: 0, max: 65_535 }),
    [64, 64, 16],
    'connections',
    'own',
    'topic aliases that a client may use, announced as Topic Alias Maximum',
  ),
  /** Topic aliases we use towards a client that allows them. */
  topicAliasOutMaximum: row(
    whole('aliases', { min: 0, max: 65_535 }),
    [16],
    'connections',
    null,
    'topic aliases that the broker uses towards a client',
  ),
  maximumQoS: row(oneOf([0, 1, 2]), [2], 'restart', 'own', 'highest QoS that clients may publish with'),
  retainAvailable: row(truth(), [true], 'restart', 'own', 'whether messages may be retained'),
  retainedMessagesMax: row(
    count('messages'),
    [UNLIMITED, 1_000_000, 500_000],
    'now',
    'own',
    'retained messages in all',
  ),
  retainedMessagesPerUserMax: row(
    count('messages'),
    [UNLIMITED, 500_000, 10_000],
    'now',
    'own',
    'retained messages of one user',
  ),
  retainedBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [GIB, GIB, 512 * MIB],
    'now',
    'own',
    'bytes of retained messages in all',
  ),
  /** With what the memory takes beside the message: about 500 bytes each. */
  retainedBytesPerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, 512 * MIB, 16 * MIB],
    'now',
    'own',
    'bytes of retained messages of one user, with what their place in memory takes',
  ),
  /** Topic, payload and properties. */
  willBytesMax: row(
    orUnlimited(bytes({ min: 128 })),
    [UNLIMITED, 64 * KIB, 4 * KIB],
    'now',
    'own',
    'largest Will: topic, payload and properties',
  ),
  willsMax: row(count('Wills'), [UNLIMITED, 500_000, 100_000], 'now', 'own', 'Wills in all'),
  willsPerUserMax: row(count('Wills'), [UNLIMITED, 250_000, 1000], 'now', 'own', 'Wills of one user'),
  willsBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, GIB, 256 * MIB],
    'now',
    'own',
    'bytes of all Wills, with what their place in memory takes',
  ),
  willsBytesPerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, 512 * MIB, 4 * MIB],
    'now',
    'own',
    'bytes of the Wills of one user, with what their place in memory takes',
  ),
  /** A Will with a longer Will Delay Interval is published after this time. */
  willDelaySecondsMax: row(
    orUnlimited(seconds({ min: 0, max: 0xffffffff })),
    [UNLIMITED, UNLIMITED, 86_400],
    'now',
    null,
    'longest Will Delay; a longer one is cut to it',
  ),
  /** Longest Keep Alive in seconds; a longer one (or 0) is answered with Server Keep Alive. Infinity allows 0. */
  keepAliveSecondsMax: row(
    orUnlimited(seconds({ min: 1, max: 65_535 })),
    [UNLIMITED, UNLIMITED, 3600],
    'connections',
    null,
    'longest Keep Alive; clients of 5.0 are told Server Keep Alive',
  ),
  /** Longest Session Expiry Interval in seconds; also what 3.1.1 Sessions without Clean Session get. */
  sessionExpirySecondsMax: row(
    orUnlimited(seconds({ min: 0, max: 0xfffffffe })),
    [UNLIMITED, UNLIMITED, 7 * 86_400],
    'now',
    null,
    'longest time that a Session outlives its connection',
  ),
  /** Bytes waiting for one slow reader, beyond which QoS 0 is dropped and QoS 1 and 2 stay in the Session. */
  outgoingBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [4 * MIB, 4 * MIB, MIB],
    'now',
    'slow-reader',
    'bytes that wait for one slow reader',
  ),
  /** Seconds without any byte taken by a reader that has bytes waiting, after which it is closed. */
  stalledReaderSeconds: row(
    orUnlimited(seconds({ min: 1, max: Number.MAX_SAFE_INTEGER }, 'fractional')),
    [60],
    'connections',
    null,
    'until a reader that takes nothing is closed',
  ),
  /** Bytes recorded and not yet committed, above which publishers are paused. */
  pendingCommitBytesMax: row(
    bytes({ min: KIB }),
    [16 * MIB],
    'now',
    null,
    'bytes on their way to the disk above which publishers are paused',
  ),
  /**
   * Bytes the Server may keep in memory for all clients together, above which those who hold most pay. A program gives the share of
   * what its process has that it can spare.
   */
  memoryBytesMax: row(
    orAutomatic(orUnlimited(bytes({ min: MIB }))),
    [GIB],
    'now',
    'own',
    'memory for all clients; above most of it, those who hold most of it pay',
  ),
  /** Percent of `memoryBytesMax` that those who hold most never get: they pay as soon as no more than this is left. */
  memoryReservedPercent: row(
    whole('percent', { min: 1, max: 90 }),
    [20],
    'now',
    null,
    'percent of memory_bytes_max that is kept for newcomers and small clients',
  ),
  /** Percent of `memoryBytesMax` that packets which are not whole, or not handled yet, may take of all clients together. */
  memoryIncompletePercent: row(
    whole('percent', { min: 1, max: 90 }),
    [50],
    'now',
    'own',
    'percent of memory_bytes_max for packets that have not arrived as a whole',
  ),
  /** Percent of `memoryBytesMax` that those may take together who have not been let in yet. */
  memoryStrangersPercent: row(
    whole('percent', { min: 1, max: 90 }),
    [5],
    'now',
    'own',
    'percent of memory_bytes_max for connections that have not logged in yet',
  ),
  whenExhausted: row(
    EXHAUSTED,
    ['disconnect'],
    'now',
    null,
    'what publishers meet while disk or memory is short',
  ),
  /** Seconds after a start before Wills that were pending or whose client was connected are published. */
  willGraceSeconds: row(
    seconds({ min: 0, max: 0xffffffff }, 'fractional'),
    [30],
    'restart',
    null,
    'after a start, before Wills from before the start are published',
  ),
  /**
   * Seconds after a start for which time that only the wall clock saw is in doubt: what would expire by it alone is neither
   * deleted nor sent. 0 trusts the wall clock.
   */
  clockGraceSeconds: row(
    seconds({ min: 0, max: 86_400 }, 'fractional'),
    [60],
    'restart',
    null,
    'after a start, for which the wall clock is in doubt',
  ),
  /** Whether an empty Client Identifier is given one by the Server. */
  emptyClientIdentifierAllowed: row(
    truth(),
    [true],
    'now',
    null,
    'whether a client without a Client Identifier is given one',
  ),
  /** Whether topic filters may have wildcards. */
  wildcardSubscriptionAvailable: row(
    truth(),
    [true],
    'restart',
    'own',
    'whether topic filters may have wildcards',
  ),
  sharedSubscriptionAvailable: row(truth(), [true], 'restart', 'own', 'whether Subscriptions may be shared'),
  subscriptionIdentifierAvailable: row(
    truth(),
    [true],
    'restart',
    'own',
    'whether Subscriptions may have identifiers',
  ),
  /** Topic filters that nobody gets a Subscription to, plain or shared. */
  refusedSubscriptions: row(
    REFUSED_FILTERS,
    [Object.freeze([])],
    'restart',
    'own',
    'topic filters that nobody gets a Subscription to',
  ),
} as const

type Table = typeof LIMIT_TABLE

/** The limits, by name. What the Server reads; the profile it came from included. */
export type Limits = { readonly [K in keyof Table]: ValueOf<Table[K]> }

export type LimitName = keyof Limits

/** Limits that are counted in `Figures.limits` when they refuse something. */
export type CountedLimit = { [K in LimitName]: Table[K]['counter'] extends 'own' ? K : never }[LimitName]

/** In the order of the table. */
export const LIMIT_NAMES = Object.freeze(Object.keys(LIMIT_TABLE) as LimitName[])

export const COUNTED_LIMITS: readonly CountedLimit[] = Object.freeze(
  LIMIT_NAMES.filter((name): name is CountedLimit => LIMIT_TABLE[name].counter === 'own'),
)

/** All limits of a profile. */
export const PROFILES: Readonly<Record<Profile, Limits>> = Object.freeze({
  open: limitsOf('open'),
  fleet: limitsOf('fleet'),
  internet: limitsOf('internet'),
})

/** Those of `fleet`, which an ordinary fleet of devices never meets. */
export const DEFAULT_LIMITS: Limits = PROFILES.fleet

/** Those that are given, and of all others the values of the profile that is given with them, `fleet` without one. */
export function limitsWith(given: Partial<Limits> = {}): Limits {
  return { ...PROFILES[given.profile ?? 'fleet'], ...given }
}

/**
 * What to set when `changes` come to a broker that was given `given` before: these, and with another profile all that neither
 * names and that needs no restart.
 */
export function limitChanges(given: Partial<Limits>, changes: Partial<Limits>): Partial<Limits> {
  if (changes.profile === undefined) return changes
  const values = Object.entries(limitsWith({ ...given, ...changes }))
  const isTaken = (name: string): boolean =>
    Object.hasOwn(changes, name) || LIMIT_TABLE[name as LimitName].effect !== 'restart'
  return Object.fromEntries(values.filter(([name]) => isTaken(name)))
}

/** Names of limits that have another value than their profile gives them. */
export function limitsBesideProfile(limits: Limits): LimitName[] {
  const profile = PROFILES[limits.profile]
  return LIMIT_NAMES.filter((name) => limits[name] !== profile[name])
}

function limitsOf(profile: Profile): Limits {
  const rows: readonly [string, LimitRow<unknown>][] = Object.entries(LIMIT_TABLE)
  return Object.freeze(Object.fromEntries(rows.map(([name, each]) => [name, each[profile]]))) as Limits
}
