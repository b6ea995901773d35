/**
 * Every limit of the Server: one table with a row for each, its unit in its name, put together from parts by
 * subject. `Infinity` is written `unlimited` in the configuration. A row is all that a limit needs to have a
 * key, a check, a place in the profiles and a counter; tests hold the example configuration and
 * `docs/limits.md` to it.
 */
import type { Reason } from '../../mqtt/reason.ts'
import { CONNECTION_LIMITS } from './connection-limits.ts'
import {
  bytes,
  GIB,
  KIB,
  type Kind,
  type LimitRow,
  MIB,
  oneOf,
  orAutomatic,
  orUnlimited,
  type Profile,
  row,
  seconds,
  truth,
  type ValueOf,
  whole,
} from './limit-row.ts'
import { SESSION_LIMITS } from './session-limits.ts'

/** A topic filter, compared character by character, and the Reason Code for SUBACK. */
export interface RefusedSubscription {
  readonly filter: string
  readonly reasonCode: Reason
}

const REFUSED_FILTERS: Kind<readonly RefusedSubscription[]> = {
  type: 'refused filters',
  unit: '',
  min: 0,
  max: 0,
  unlimited: false,
  choices: [],
}

/**
 * Answers to a publisher while the disk or the memory is short. `disconnect`: a message above QoS 0 is not
 * acknowledged and its publisher is disconnected with 0x97, so that it keeps the message and tries again.
 * `refuse`: the acknowledgement says 0x97 (3.1.1 has no such word; its publisher is disconnected all the
 * same).
 */
const EXHAUSTED = oneOf(['disconnect', 'refuse'])

/** The table. Values are those of `open`, `fleet` and `internet`, or one for all three. */
export const LIMIT_TABLE = {
  ...CONNECTION_LIMITS,
  ...SESSION_LIMITS,
  outgoingBytesMax: row(
    orUnlimited(bytes({ min: KIB })),
    [4 * MIB, 4 * MIB, MIB],
    'now',
    'slow-reader',
    'bytes that wait for one slow reader',
    'Beyond it QoS 0 is dropped, and QoS 1 and 2 stay in the Session.',
  ),
  stalledReaderSeconds: row(
    orUnlimited(seconds({ min: 1, max: Number.MAX_SAFE_INTEGER }, 'fractional')),
    [60],
    'connections',
    null,
    'time until a reader that takes nothing is closed',
    'Linux reports what was taken in steps of a third of its send buffer, up to 1.4 MB: leave the ' +
      'slowest reader the time for that (24 KB/s in 60 seconds).',
  ),
  pendingCommitBytesMax: row(
    bytes({ min: KIB }),
    [16 * MIB],
    'now',
    null,
    'bytes waiting for a commit above which publishers are paused',
  ),
  /**
   * Bytes the Server may keep in memory for all clients together, above which those who hold most pay. A
   * program gives the share of its process's memory that it can spare.
   */
  memoryBytesMax: row(
    orAutomatic(orUnlimited(bytes({ min: MIB }))),
    [GIB],
    'now',
    'own',
    'memory for all clients; when most of it is used, clients that hold most give way',
    'It covers connections, Sessions, Subscriptions, queues, retained messages and Wills. The steps ' +
      "against those who hold most are in OPERATING.md. auto is the least of half of V8's heap limit " +
      "(node --max-old-space-size), two fifths of the control group's memory (a container's, or " +
      "MemoryMax of a service) and a quarter of the machine's.",
  ),
  memoryReservedPercent: row(
    whole('percent', { min: 1, max: 90 }),
    [20],
    'now',
    null,
    'percent of memory_bytes_max reserved for new and small clients',
    'Those who hold most never get it.',
  ),
  memoryIncompletePercent: row(
    whole('percent', { min: 1, max: 90 }),
    [50],
    'now',
    'own',
    'percent of memory_bytes_max for incomplete packets',
    'Packets that are not handled yet count, too. Beyond it, those who have sent most of such ' +
      'packets are disconnected with 0x97.',
  ),
  memoryStrangersPercent: row(
    whole('percent', { min: 1, max: 90 }),
    [5],
    'now',
    'own',
    'percent of memory_bytes_max for connections before their log-in',
    'Beyond it, those at the address that sends most are disconnected first. A CONNECT of up to 1 ' +
      'KiB never is.',
  ),
  whenExhausted: row(
    EXHAUSTED,
    ['disconnect'],
    'now',
    null,
    'answer to publishers while disk or memory is short',
    'disconnect leaves a message above QoS 0 unacknowledged and disconnects its publisher with ' +
      '0x97, so that it keeps the message and tries again. refuse says 0x97 in the acknowledgement.',
  ),
  willGraceSeconds: row(
    seconds({ min: 0, max: 0xffffffff }, 'fractional'),
    [30],
    'restart',
    null,
    'time after a start before Wills from before the start are published',
    'Clients have this time to come back. It begins again, ten times at most, while the broker ' +
      'keeps clients waiting at log-in or refuses them as busy. Wills of clients that got their ' +
      'Client Identifier from the broker and keep no Session are published at the start: these ' +
      'clients come back under another one.',
  ),
  clockGraceSeconds: row(
    seconds({ min: 0, max: 86_400 }, 'fractional'),
    [60],
    'restart',
    null,
    'time after a start in which the wall clock is in doubt',
    'After the machine was off, only the wall clock tells for how long, and it may be wrong until ' +
      'the network sets it. Things that would expire by that time alone are neither deleted nor sent ' +
      'meanwhile; if the clock is set back, they live on. 0 trusts the wall clock at once.',
  ),
  emptyClientIdentifierAllowed: row(
    truth(),
    [true],
    'now',
    null,
    'whether clients without a Client Identifier get one',
  ),
  wildcardSubscriptionAvailable: row(
    truth(),
    [true],
    'restart',
    'own',
    'whether topic filters may have wildcards',
    'Clients of MQTT 5.0 are told this and the next two.',
  ),
  sharedSubscriptionAvailable: row(
    truth(),
    [true],
    'restart',
    'own',
    'whether Shared Subscriptions are allowed',
  ),
  subscriptionIdentifierAvailable: row(
    truth(),
    [true],
    'restart',
    'own',
    'whether Subscription Identifiers are allowed',
  ),
  /** Topic filters that nobody gets a Subscription to, plain or shared. */
  refusedSubscriptions: row(
    REFUSED_FILTERS,
    [Object.freeze([])],
    'restart',
    'own',
    'topic filters to which nobody can subscribe',
    'They are compared character by character, and may have a Reason Code (0x87 without one), such ' +
      'as [{ filter: private/all, reason_code: 0x80 }]. In MQTT 3.1.1 the code is always 0x80; 3.1 ' +
      'has no such code, and its clients are told QoS 0.',
  ),
} as const

type Table = typeof LIMIT_TABLE

/** The limits, by name. What the Server reads; the profile it came from included. */
export type Limits = { readonly [K in keyof Table]: ValueOf<Table[K]> }

export type LimitName = keyof Limits

/** Limits that are counted in `Counters.limits` when they refuse something. */
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

/**
 * Those that are given, and of all others the values of the profile that is given with them, `fleet` without
 * one.
 */
export function limitsWith(given: Partial<Limits> = {}): Limits {
  return { ...PROFILES[given.profile ?? 'fleet'], ...given }
}

/**
 * Returns the values to set when `changes` come to a broker that was given `given` before: these, and with
 * another profile all that neither names and that needs no restart.
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
