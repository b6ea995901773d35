/** Every configuration key of a listener. */
import { LENIENCE_NAMES } from '../mqtt/lenience.ts'
import { REQUIRED, row } from './key-row.ts'
import { CLIENT_ID_RULES, ORIGINS } from './keys.ts'
import { lenienceList, originList, pemFiles } from './lists.ts'
import { flag, integer, oneOf, seconds, text, value } from './value.ts'

const PEM_FILES = 'the path of a PEM file, or a list of paths'

/** The keys of `tls`, which only listeners of the types tls and wss have. */
export const TLS_TABLE = {
  cert: row({
    schema: value(PEM_FILES, pemFiles),
    default: REQUIRED,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'PEM file of the certificate and its chain, or a list of such files',
    note: 'A list serves clients that know only RSA or ECDSA: [ecdsa.pem, rsa.pem].',
    written: '/etc/godwit/server.pem',
    isPath: true,
  }),
  key: row({
    schema: value(PEM_FILES, pemFiles),
    default: REQUIRED,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'PEM file of the private key, or a list; only its owner and group may read it',
    written: '/etc/godwit/server-key.pem',
    isPath: true,
  }),
  passphrase: row<string | undefined>({
    schema: text('text that is not empty, in quotes where it is a number'),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'the passphrase of an encrypted key',
    written: 'only for an encrypted key',
  }),
  ca: row<string | undefined>({
    schema: text('the path of a PEM file'),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'PEM file of the authorities that sign client certificates',
    written: '/etc/godwit/clients-ca.pem',
    isPath: true,
  }),
  crl: row<string | undefined>({
    schema: text('the path of a PEM file'),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'PEM file of revoked client certificates, with a list by each authority of ca',
    written: '/etc/godwit/clients-crl.pem',
    isPath: true,
  }),
  client_certificate: row({
    schema: oneOf(['none', 'request', 'require']),
    default: 'none',
    unit: '',
    effect: 'now',
    counter: null,
    says: 'whether clients show a certificate by one of ca: none, request or require',
  }),
  minimum_version: row({
    schema: oneOf(['TLSv1.2', 'TLSv1.3']),
    default: 'TLSv1.2',
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'the lowest version of TLS: TLSv1.2 or TLSv1.3',
  }),
} as const

/** The table without `tls`. */
export const LISTENER_TABLE = {
  name: row<string | undefined>({
    schema: text('text that is not empty'),
    default: undefined,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'its name in logs and in $SYS; type and port by default',
  }),
  type: row({
    schema: oneOf(['tcp', 'tls', 'ws', 'wss', 'unix']),
    default: REQUIRED,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'tcp, tls, ws (WebSocket), wss (secure WebSocket) or unix',
  }),
  host: row<string | undefined>({
    schema: text('an IP address or host name of this machine'),
    default: undefined,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'an address of this machine, 127.0.0.1 by default; 0.0.0.0 is all of IPv4, "::" is all',
  }),
  port: row<number | undefined>({
    schema: integer({ min: 0, max: 65_535 }),
    default: undefined,
    unit: '',
    effect: 'now',
    counter: null,
    says: '1883 (tcp), 8883 (tls), 8083 (ws) or 8084 (wss) by default; 0 takes a free one',
  }),
  path: row<string | undefined>({
    schema: text("a socket file's path"),
    default: undefined,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'the socket file of a listener of the type unix',
    isPath: true,
  }),
  mode: row<string | undefined>({
    schema: text('permission bits in quotes, such as "0660"', /^0?[0-7]{3}$/),
    default: undefined,
    unit: '',
    effect: 'now',
    counter: null,
    says: "the permission bits of the socket file; without it, only the broker's user can connect",
  }),
  websocket_path: row<string | undefined>({
    schema: text('a path that begins with /', /^\/[^\s?#]*$/),
    default: undefined,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'the path of the URL, /mqtt by default',
  }),
  allowed_origins: row<string[] | undefined>({
    schema: value(ORIGINS, originList),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: 'limits/refused/allowed_origins',
    says: 'as above, for this listener',
  }),
  server_keep_alive_seconds: row<number | undefined>({
    schema: seconds({ min: 0, max: 65_535 }, 'whole'),
    default: undefined,
    unit: 'seconds',
    effect: 'connections',
    counter: null,
    says: 'the Keep Alive that clients of MQTT 5.0 must use, whatever they ask for; 0 is none',
    note: 'Browsers slow the timers of pages in the background down to one a minute.',
  }),
  in_flight_max: row<number | undefined>({
    schema: integer({ min: 1, max: 65_535 }),
    default: undefined,
    unit: 'messages',
    effect: 'connections',
    counter: null,
    says: "limits.in_flight_max for this listener's clients",
  }),
  allow_anonymous: row<boolean | undefined>({
    schema: flag(),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'as above, for this listener: true or false',
  }),
  client_id: row<(typeof CLIENT_ID_RULES)[number] | undefined>({
    schema: oneOf(CLIENT_ID_RULES),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'as above, for this listener',
  }),
  lenient: row({
    schema: value(`a list of ${LENIENCE_NAMES.join(', ')}`, lenienceList),
    default: [],
    unit: '',
    effect: 'connections',
    counter: 'forgiven',
    says: 'rules of MQTT 3.1 and 3.1.1 that old devices break and this listener forgives',
    note:
      'Each use is counted, and each client logged. MQTT 5.0 stays strict. From this list:\n' +
      '- dup-on-qos-0: DUP may be set on a PUBLISH with QoS 0\n' +
      '- header-flags: the reserved flags of PUBREL, SUBSCRIBE and UNSUBSCRIBE may be anything\n' +
      '- packet-identifier-zero: SUBSCRIBE, UNSUBSCRIBE and PUBLISH with QoS 1 may have packet ' +
      'identifier 0\n' +
      '- will-flags-without-will: Will QoS and Will Retain may be set without a Will\n' +
      '- password-without-user-name: a password may come without a user name\n' +
      '- protocol-name: MQIsdp may stand for level 4 (3.1.1), MQTT for level 3 (3.1)\n' +
      '- client-identifier-over-23: a Client Identifier of MQTT 3.1 may have more than 23 characters\n' +
      '- empty-client-identifier: it may be empty in 3.1, and in 3.1.1 without Clean Session, which ' +
      'is then assumed',
  }),
  optional: row({
    schema: flag(),
    default: false,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'whether it is left out without an error if this machine does not have the address',
  }),
} as const
