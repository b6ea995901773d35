/** PURE. Limits of packets, Sessions, Subscriptions, queues, retained messages and Wills. */
import type { FullQueuePolicy } from '../../session/limits.ts'
import {
  bytes,
  count,
  GIB,
  KIB,
  MIB,
  oneOf,
  orUnlimited,
  row,
  seconds,
  truth,
  UNLIMITED,
  whole,
} from './limit-row.ts'

/** Largest control packet that the standard can express, in bytes. */
export const STANDARD_PACKET_BYTES_MAX = 268_435_460

/** Of a UTF-8 Encoded String (section 1.5.4). */
const TEXT_BYTES_MAX = 65_535

/** A part of the table. Values are those of `open`, `fleet` and `internet`, or one for all three. */
export const SESSION_LIMITS = {
  packetBytesMax: row(
    bytes({ min: 128, max: STANDARD_PACKET_BYTES_MAX }),
    // A firmware or a picture fits; a client before 5.0 that sends more is cut off, so that is decided with
    // open eyes.
    [STANDARD_PACKET_BYTES_MAX, 16 * MIB, MIB],
    'connections',
    'own',
    'largest control packet, announced as Maximum Packet Size',
    'The standard allows 268435460. Clients of MQTT 5.0 are told.',
  ),
  /**
   * Largest packet in bytes of any type but PUBLISH: decoding thousands of filters must not hold up
   * everybody.
   */
  controlPacketBytesMax: row(
    bytes({ min: 128, max: STANDARD_PACKET_BYTES_MAX }),
    [MIB, MIB, 64 * KIB], // some 100,000 topic filters in one SUBSCRIBE
    'connections',
    'own',
    'largest packet of any type but PUBLISH',
    'Such as a SUBSCRIBE with very many topic filters.',
  ),
  propertyBytesMax: row(
    bytes({ min: 128, max: STANDARD_PACKET_BYTES_MAX }),
    [256 * KIB, 64 * KIB, 16 * KIB],
    'connections',
    'own',
    'properties of a packet, or of a Will',
    '64 KiB may hold 13,000 User Properties. A larger packet is refused with 0x97 as soon as its ' +
      'length is known.',
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
    'It is the name in $share/name/filter.',
  ),
  sessionsMax: row(
    count('Sessions'),
    [UNLIMITED, 500_000, 100_000],
    'now',
    'own',
    'Sessions in all',
    'Sessions of connected clients count, too, even if they end with the connection.',
  ),
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
    'Shared ones count, too.',
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
  /**
   * Groups, `$share/name/filter`, whose first member was of this user. Members of a group are Subscriptions
   * like others.
   */
  shareGroupsPerUserMax: row(
    count('groups'),
    [UNLIMITED, 10_000, 1000],
    'now',
    'own',
    'groups of Shared Subscriptions that one user has opened',
    'The first member opens a group ($share/name/filter). Joining the group of somebody else is ' + 'free.',
  ),
  /**
   * Each group gets each message: without a limit one user makes a hundred thousand out of each message of
   * others.
   */
  shareGroupsPerMessageMax: row(
    count('groups'),
    [UNLIMITED, 1000, 100],
    'now',
    'own',
    'groups opened by one user that get the same message, by one topic filter or several',
    'Each group gets every message once.',
  ),
  queueMessagesMax: row(
    count('messages'),
    [UNLIMITED, 1_000_000, 10_000],
    'now',
    'own',
    'messages in the queue of one Session',
  ),
  /** Bytes of messages that may wait in one Session's queue: by default over a million of 200 bytes. */
  queueBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [256 * MIB, 256 * MIB, 16 * MIB],
    'now',
    'queueMessagesMax',
    'bytes of messages in the queue of one Session',
  ),
  queueFull: row(
    oneOf<FullQueuePolicy>(['drop-oldest', 'drop-newest', 'refuse']),
    ['drop-oldest'],
    'now',
    null,
    'what happens when a queue is full',
    'drop-oldest, drop-newest, or refuse (the publisher gets 0x97).',
  ),
  /** Whether QoS 0 messages are queued for an offline Session. */
  queueQos0: row(truth(), [false], 'now', null, 'whether QoS 0 waits for a Session whose client is away'),
  inFlightMax: row(
    whole('messages', { max: 65_535 }),
    [1000, 1000, 200],
    'connections',
    null,
    'QoS 1 and 2 messages sent to one client and not yet acknowledged',
    'Clients of MQTT 5.0 may ask for fewer (Receive Maximum). Earlier clients cannot: they start ' +
      'with 20, and each acknowledgement while all of them are under way allows one more.',
  ),
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
    'unacknowledged QoS 1 and 2 messages from one client, announced as Receive Maximum',
  ),
  topicAliasMaximum: row(
    whole('aliases', { min: 0, max: 65_535 }),
    [64, 64, 16],
    'connections',
    'own',
    'topic aliases that a client may use, announced as Topic Alias Maximum',
  ),
  topicAliasOutMaximum: row(
    whole('aliases', { min: 0, max: 65_535 }),
    [16],
    'connections',
    null,
    'topic aliases that the broker uses towards a client',
    'For topic names of 8 or more bytes that come a second time, if the client allows aliases. 0 is ' +
      'for clients that allow aliases but do not understand them.',
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
  retainedBytesPerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, 512 * MIB, 16 * MIB],
    'now',
    'own',
    'bytes of retained messages of one user, with their overhead in memory',
    'That is about 500 bytes for each.',
  ),
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
    'bytes of all Wills, with their overhead in memory',
  ),
  willsBytesPerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, 512 * MIB, 4 * MIB],
    'now',
    'own',
    'bytes of the Wills of one user, with their overhead in memory',
  ),
  willDelaySecondsMax: row(
    orUnlimited(seconds({ min: 0, max: 0xffffffff })),
    [UNLIMITED, UNLIMITED, 86_400],
    'now',
    null,
    'longest Will Delay; longer ones are cut',
  ),
  /**
   * Longest Keep Alive in seconds; a longer one (or 0) is answered with Server Keep Alive. Infinity allows 0.
   */
  keepAliveSecondsMax: row(
    orUnlimited(seconds({ min: 1, max: 65_535 })),
    [UNLIMITED, UNLIMITED, 3600],
    'connections',
    null,
    'longest Keep Alive, sent to clients of 5.0 as Server Keep Alive',
    'Clients of MQTT 5.0 that ask for more, or for none, must use this one. Earlier clients cannot ' +
      'be told and keep their own.',
  ),
  sessionExpirySecondsMax: row(
    orUnlimited(seconds({ min: 0, max: 0xfffffffe })),
    [UNLIMITED, UNLIMITED, 7 * 86_400],
    'now',
    null,
    'longest time that a Session outlives its connection',
    'Clients before MQTT 5.0 without Clean Session get this one. A change also applies to existing ' +
      'Sessions: `godwit check --against-running` tells how many would end.',
  ),
} as const
