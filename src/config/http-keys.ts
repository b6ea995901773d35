/** The configuration keys of the HTTP listener. */
import { HTTP_CONNECTIONS_MAX, HTTP_HOSTS, HTTP_PORT } from '../http/http-options.ts'
import { row } from './key-row.ts'
import { hashList, pemFiles, textList } from './lists.ts'
import { integer, oneOf, text, value } from './value.ts'

const PEM_FILES = 'the path of a PEM file, or a list of paths'

const HTTP_TLS = {
  cert: row<string | string[] | undefined>({
    schema: value(PEM_FILES, pemFiles),
    default: undefined,
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'PEM file of the certificate and its chain, or a list of such files; makes the listener https',
    written: '/etc/godwit/server.pem',
    isPath: true,
  }),
  key: row<string | string[] | undefined>({
    schema: value(PEM_FILES, pemFiles),
    default: undefined,
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
  minimum_version: row({
    schema: oneOf(['TLSv1.2', 'TLSv1.3']),
    default: 'TLSv1.2',
    unit: '',
    effect: 'connections',
    counter: null,
    says: 'the lowest version of TLS: TLSv1.2 or TLSv1.3',
  }),
} as const

/** The keys below `http`. */
export const HTTP = {
  enabled: row({
    schema: oneOf(['auto', true, false]),
    default: 'auto',
    unit: '',
    effect: 'now',
    counter: null,
    says: 'whether there is an HTTP listener for health and metrics: true, false or auto',
    note:
      'It serves /livez and /readyz without a log-in, and /metrics; docs/metrics.md has more.\n' +
      '- auto: it is opened; an address that is taken or missing is a warning\n' +
      '- true: such an address is an error\n' +
      '- false: there is none\n' +
      'With --port or --ws-port on the command line there is none unless a key of http is set.',
  }),
  hosts: row({
    schema: value('a list of IP addresses or host names of this machine', (found) => {
      const hosts = textList(found)
      return hosts !== undefined && hosts.length > 0 && hosts.length <= 8 ? hosts : undefined
    }),
    default: [...HTTP_HOSTS],
    unit: '',
    effect: 'now',
    counter: null,
    says: 'the addresses that it listens on; only this machine reaches the default ones',
    note: 'An IPv6 address that this machine does not have is left out.',
    written: '[127.0.0.1, "::1"]',
  }),
  port: row({
    schema: integer({ min: 0, max: 65_535 }),
    default: HTTP_PORT,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'its TCP port, the same on all hosts; 0 takes a free one on each',
  }),
  connections_max: row({
    schema: integer({ min: 1, max: 48 }),
    default: HTTP_CONNECTIONS_MAX,
    unit: 'connections',
    effect: 'now',
    counter: null,
    says: 'its connections at a time; further ones are closed at once',
    note: 'They come out of the open files that are reserved beside MQTT connections.',
  }),
  metrics: row({
    schema: oneOf([true, false]),
    default: true,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'whether it serves /metrics for Prometheus: true or false',
  }),
  metrics_token_hashes: row({
    schema: value('a list of at most 16 SHA-256 hashes, 64 hexadecimal digits each', (found) => {
      const hashes = hashList(found)
      return hashes !== undefined && hashes.length <= 16 ? hashes : undefined
    }),
    default: [],
    unit: '',
    effect: 'now',
    counter: null,
    says: 'SHA-256 hashes of tokens: /metrics needs one of these; without any, only this machine gets it',
    note: 'Make a token with: openssl rand -hex 32. Its hash: printf %s TOKEN | sha256sum.',
    written: '[]',
  }),
  tls: HTTP_TLS,
} as const
