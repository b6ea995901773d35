/**
 * Every configuration key except those of listeners (`listener-keys.ts`) and limits (`LIMIT_TABLE`). Schema,
 * default, environment variable, reload, example file and reference all come from these rows.
 */
import { DEFAULT_ACCESS } from '../access/access-options.ts'
import type { Reason } from '../mqtt/reason.ts'
import { DEFAULT_LOG_BOUNDS, WAITING_BYTES_MAX } from '../observe/log-bounds.ts'
import { COMMIT_PACE_MS } from '../store/commit/commit-pace.ts'
import { HTTP } from './http-keys.ts'
import { row } from './key-row.ts'
import { certificateList, originList, SUBACK_REFUSALS_TEXT, subackRefusal, textList } from './lists.ts'
import { QUEUES } from './queue-keys.ts'
import { bytes, flag, integer, oneOf, seconds, text, value } from './value.ts'

const MIB = 1024 ** 2

/** The allowed values of `allowed_origins`, in words. */
export const ORIGINS = 'a list of origins such as https://example.org, or ["*"] for every page'

/** The rules for Client Identifiers. */
export const CLIENT_ID_RULES = ['free', 'user', 'certificate'] as const

/** The keys that begin the file. They hold for listeners without keys of their own. */
const LISTENER_DEFAULTS = {
  allow_anonymous: row({
    schema: oneOf(['loopback', true, false]),
    default: 'loopback',
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'whether clients without credentials are accepted: true, false or loopback',
    note:
      'It holds for listeners without a key of their own. loopback accepts them on listeners that ' +
      'only this machine can reach, as long as there are neither users nor roles nor password ' +
      'files.',
  }),
  client_id: row({
    schema: oneOf(CLIENT_ID_RULES),
    default: 'free',
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'the Client Identifiers that a client may use: free, user or certificate',
    note:
      'It holds for listeners without a key of their own.\n' +
      '- free: any; the first client that uses one keeps it until the Session ends\n' +
      "- user: the user's name, or the name, a slash and more, such as anna and anna/phone; an " +
      'empty one is replaced by such a name\n' +
      '- certificate: the Common Name of the client certificate\n' +
      'Any other is refused with 0x85 (before 5.0: 2).',
  }),
  allowed_origins: row<string[] | undefined>({
    schema: value(ORIGINS, originList),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: 'limits/refused/allowed_origins',
    says: 'the web pages that may connect to WebSocket listeners, by origin; ["*"] is every page',
    note:
      'It holds for listeners without a key of their own. By default every page may connect where a ' +
      'password is needed. Where clients are accepted without one, anonymously or by a certificate, ' +
      "only pages of the broker's own origin may connect, and a loopback listener answers only to " +
      'names of this machine. Programs other than browsers send no Origin and may always connect.',
    written: '[https://example.org]',
  }),
}

const ACCESS = {
  accounts: row({
    schema: flag(),
    default: true,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'whether the broker has users and roles of its own: `godwit user` and `godwit role`',
    note:
      'They are in accounts.json of the data directory. Passwords are hashed by argon2id (19 MiB, 2 ' +
      'passes), except those that Godwit generated. Two at a time are checked; others wait.',
  }),
  password_files: row({
    schema: value('a list of paths', textList),
    default: [],
    unit: '',
    effect: 'restart',
    counter: null,
    says: "Mosquitto's password files ($6$, $7$ and argon2id), for users without an account",
    note: 'The first file that knows a user decides.',
    isPath: true,
  }),
  acl_files: row({
    schema: value('a list of paths', textList),
    default: [],
    unit: '',
    effect: 'restart',
    counter: null,
    says: "Mosquitto's ACL files, in this order, for questions that the roles of a user leave open",
    isPath: true,
  }),
  default: row({
    schema: oneOf(['auto', 'allow', 'deny']),
    default: DEFAULT_ACCESS.default,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the decision if no rule decides: deny, allow or auto',
    note:
      'auto allows everything to everybody while there are neither accounts nor acl_files. Once ' +
      'there are accounts, clients without credentials have the rights of the role `client` if they ' +
      'are accepted and there is no role `anonymous`: nobody has more rights without a password ' +
      'than with one. Everything else is denied.',
  }),
  certificate_user: row({
    schema: oneOf(['common_name', 'alternative_name', 'fingerprint', 'none']),
    default: DEFAULT_ACCESS.certificateUser,
    unit: '',
    effect: 'restart',
    counter: null,
    says: "the part of a verified client certificate that is the user's name",
    note:
      'common_name, alternative_name (its only one), fingerprint (SHA-256, lower case, no colons), ' +
      'or none. Such a user needs no password.',
  }),
  certificates: row({
    schema: value(
      'a list of { fingerprint, user }, where fingerprint is SHA-256 in hexadecimal digits',
      certificateList,
    ),
    default: [],
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the users of single client certificates: { fingerprint: "AB:CD:…", user: device-7 }',
  }),
  denied_before_5: row({
    schema: oneOf(['ignore', 'disconnect']),
    default: DEFAULT_ACCESS.deniedBefore5,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the answer to a denied PUBLISH of a client before MQTT 5.0: ignore or disconnect',
    note:
      'MQTT 5.0 has 0x87 for it. Earlier clients cannot be told: their message is acknowledged and ' +
      'dropped (ignore), or they are disconnected.',
  }),
  check_retained_author: row({
    schema: flag(),
    default: DEFAULT_ACCESS.checkRetainedAuthor,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'whether a retained message is withheld while its author may not publish it',
    note:
      'New Subscriptions do not get it after its author was removed or disabled, or lost the role. ' +
      'It stays retained, and is sent again once the right is back.',
  }),
  denied_subscription_code: row({
    schema: value(`one of ${SUBACK_REFUSALS_TEXT}`, subackRefusal),
    default: DEFAULT_ACCESS.deniedSubscription as Reason,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the Reason Code of a denied Subscription in SUBACK, for clients of MQTT 5.0',
    note: `It is ${SUBACK_REFUSALS_TEXT.replace(/, ([^,]*)$/, ' or $1')}.`,
    written: '0x87',
  }),
}

const DATA = {
  directory: row({
    schema: text("a directory's path"),
    default: './godwit-data',
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the directory of Sessions, queues, retained messages and Wills; one broker per directory',
    isPath: true,
  }),
  durability: row({
    schema: oneOf(['fsync', 'interval', 'os', 'memory']),
    default: 'fsync',
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'what an acknowledged message survives: fsync, interval, os or memory',
    note:
      '- fsync: it is on disk, and survives a power cut\n' +
      '- interval: it survives a crash of the broker, and is on disk within ' +
      'durability_interval_seconds: a crash of the machine loses only what is newer. It wears flash ' +
      'much less than fsync: see OPERATING.md.\n' +
      '- os: the operating system has it, so it survives a crash of the broker; after a crash of the ' +
      'machine, messages may be lost and the store may need a repair\n' +
      '- memory: nothing is stored',
  }),
  durability_interval_seconds: row({
    schema: seconds({ min: 0.1, max: 3600 }),
    // About as much as a crash of the machine loses of what is still on the network.
    default: 1,
    unit: 'seconds',
    effect: 'restart',
    counter: null,
    says: 'with durability interval: the longest time until an acknowledged message is on disk',
  }),
  commit_pace_ms: row({
    schema: integer({ min: 0, max: 1000 }),
    default: COMMIT_PACE_MS,
    unit: 'milliseconds',
    effect: 'restart',
    counter: null,
    says: 'the least time between two commits while many clients publish; 0 to let no commit wait',
    note:
      'A commit costs as much as ten messages, however few it carries. While messages of many clients ' +
      'come, a commit waits for more of them. A client that is alone never waits, nor do clients ' +
      'that send the next message only after the answer to the last one.',
  }),
  reserve_bytes: row({
    schema: bytes({ min: 0 }),
    default: 64 * MIB,
    unit: 'bytes',
    effect: 'restart',
    counter: null,
    says: 'disk space that new messages never use',
    note: 'Acknowledging and deleting need it to go on when the disk is full.',
  }),
  resident_bytes_max: row({
    schema: bytes({ min: MIB }),
    default: 128 * MIB,
    unit: 'bytes',
    effect: 'restart',
    counter: null,
    says: 'stored messages and queue entries that are also kept in memory',
    note:
      'Others are read from disk when it is their turn. It is at most a quarter of the heap ' +
      '(--max-old-space-size).',
  }),
} as const

const LOG = {
  level: row({
    schema: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']),
    default: 'info',
    unit: '',
    effect: 'now',
    counter: null,
    says: 'the lowest level that is logged: trace, debug, info, warn, error, fatal or silent',
  }),
  format: row({
    schema: oneOf(['auto', 'json', 'pretty']),
    default: 'auto',
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the format: json, pretty, or auto, which is pretty on a terminal and json elsewhere',
  }),
  security_file: row<string | null>({
    schema: text("a file's path"),
    default: null,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'a separate file for log-ins, refusals and changes, which only its owner can read',
    note:
      'Without it these entries are in the log, each with its code (see OPERATING.md) as ' + '`security`.',
    written: './security.log',
    isPath: true,
  }),
  repeat_seconds: row({
    schema: seconds({ min: 1, max: 3600 }),
    default: DEFAULT_LOG_BOUNDS.repeatSeconds,
    unit: 'seconds',
    effect: 'restart',
    counter: null,
    says: 'the time in which a repeated event is logged only once',
    note:
      'The first of several events, such as refusals of one user from one address, is logged at ' +
      'once; then there is one line with their number in each such time.',
  }),
  lines_per_second_max: row({
    schema: integer({ min: 1, unlimited: true }),
    default: DEFAULT_LOG_BOUNDS.linesPerSecondMax,
    unit: 'lines a second',
    effect: 'restart',
    counter: null,
    says: 'lines of each kind, such as "client connected", on average; or unlimited',
    note: 'Bursts may have a hundred times as many. Lines beyond that are counted in one line.',
  }),
  waiting_bytes_max: row({
    schema: bytes({ min: 65_536 }),
    default: WAITING_BYTES_MAX,
    unit: 'bytes',
    effect: 'restart',
    counter: null,
    says: 'log lines that may wait for a stalled reader or disk',
    note: 'Further lines are lost, and one line says how many as soon as lines are taken again.',
  }),
} as const

const SYS = {
  interval_seconds: row({
    schema: value('seconds, as a number or like 30s, 5m, from 1 to 86400, or off', (found) => {
      if (found === 'off') return 0
      const read = seconds({ min: 1, max: 86_400 }).safeParse(found)
      return read.success ? read.data : undefined
    }),
    // As in Mosquitto.
    default: 10,
    unit: 'seconds',
    effect: 'now',
    counter: null,
    says: 'the time between two updates of the topics below $SYS; off publishes none',
  }),
} as const

/** The table, in the order of the example file. */
export const KEY_TABLE = {
  ...LISTENER_DEFAULTS,
  access: ACCESS,
  data: DATA,
  queues: QUEUES,
  log: LOG,
  sys: SYS,
  http: HTTP,
  user: row<string | null>({
    schema: text("a user's name"),
    default: null,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'the user that godwit runs as when root starts it, usually the owner of the data directory',
    note: 'Godwit can then read and write only the files of that user.',
    written: 'godwit',
  }),
  shutdown_seconds: row({
    schema: seconds({ min: 0, max: 3600 }),
    // Long enough to tell all clients and commit, and shorter than supervisors wait before they kill.
    default: 5,
    unit: 'seconds',
    effect: 'now',
    counter: null,
    says: 'the time that a stopping broker takes at most to tell its clients and commit',
  }),
} as const
