/** PURE. Limits of connections: how many, log-ins, bans, and rates. */
import {
  bytes,
  count,
  KIB,
  MIB,
  oneOf,
  orUnlimited,
  PROFILE_NAMES,
  row,
  seconds,
  UNLIMITED,
} from './limit-row.ts'

/** A part of the table. Values are those of `open`, `fleet` and `internet`, or one for all three. */
export const CONNECTION_LIMITS = {
  profile: row(
    oneOf(PROFILE_NAMES),
    ['open', 'fleet', 'internet'],
    'now',
    null,
    'set of values for all limits without a key of their own',
    'A key that is set wins over the profile. Keys that are commented out here differ between the ' +
      'profiles, and have their value of fleet; docs/limits.md lists all values.\n' +
      '- open: hardly any limit, for a broker among friends\n' +
      '- fleet: an ordinary fleet of devices never meets these limits\n' +
      '- internet: strangers may connect\n' +
      'Refusals are counted ($SYS/broker/limits/refused/..., godwit status) and logged with the key. ' +
      'When a limit is lowered, what exceeds it stays and may be replaced; the broker reports it.',
  ),
  connectionsMax: row(
    count('clients'),
    [UNLIMITED],
    'now',
    'own',
    'connected clients of all listeners together',
    'A client that takes over its own connection needs no further place. Up to 64 more connections ' +
      'may be about to log in. There are never more than the limit of open files (ulimit -n) less ' +
      '128.',
  ),
  connectionsPerUserMax: row(
    count('clients'),
    [UNLIMITED, UNLIMITED, 1000],
    'now',
    'own',
    'connected clients of one user',
    'Anonymous clients of one address count as one user.',
  ),
  /**
   * Open connections of one IPv4 address or IPv6 network (/64). Thousands may share one: a carrier's NAT, a
   * proxy.
   */
  connectionsPerAddressMax: row(
    count('connections'),
    [UNLIMITED, UNLIMITED, 2000],
    'now',
    'own',
    'connections of one address (IPv6: of a /64 network), except those of this machine',
    'A proxy on this machine, for example, does not count.',
  ),
  connectTimeoutSeconds: row(
    seconds({ min: 0.1, max: 3600 }, 'fractional'),
    [10],
    'restart',
    'own',
    'time from the connection to a complete CONNECT, handshakes included',
  ),
  loginQueueMax: row(
    count('log-ins'),
    [65_536, 16_384, 4096],
    'now',
    'own',
    'log-ins that wait for a password check',
    'Passwords that need a slow hash wait, in turn by address and by user name. Beyond these ' +
      'limits, the newest log-in of the address or user name with most of them is refused (0x89, or ' +
      '0x97 for its own limit). The connect time-out stands still while a client waits.',
  ),
  loginQueueBytesMax: row(
    orUnlimited(bytes({ min: 64 * KIB })),
    [256 * MIB, 64 * MIB, 16 * MIB],
    'now',
    'own',
    'bytes of log-ins that wait for a password check',
  ),
  /** By address, or IPv6 network of 64 bits: a whole fleet may stand behind one. */
  loginQueuePerAddressMax: row(
    count('log-ins'),
    [65_536, 8192, 1024],
    'now',
    'own',
    'log-ins from one address (IPv6: a /64 network) that wait for a password check',
  ),
  /** By user name: a whole fleet may use one. */
  loginQueuePerUserMax: row(
    count('log-ins'),
    [65_536, 8192, 1024],
    'now',
    'own',
    'log-ins with one user name that wait for a password check',
  ),
  /** Seconds that a client may be in that queue. `connectTimeoutSeconds` stands still meanwhile. */
  loginWaitSecondsMax: row(
    seconds({ min: 1, max: 86_400 }, 'fractional'),
    [3600, 600, 300],
    'now',
    'own',
    'longest time that a log-in waits for a password check',
  ),
  failedLoginsMax: row(
    count('log-ins'),
    [UNLIMITED, 5, 3],
    'now',
    'own',
    'wrong passwords of one user from one address before the next log-in has to wait a second',
    'The delay doubles with each further wrong password. Log-ins in between are refused with 0x89 ' +
      'and not hashed. A password that was right before is never delayed.',
  ),
  failedLoginDelaySecondsMax: row(
    seconds({ min: 1, max: 86_400 }),
    [60],
    'now',
    null,
    'longest delay after wrong passwords; the delay doubles with each',
  ),
  failedLoginsBanned: row(
    count('log-ins'),
    [UNLIMITED, UNLIMITED, 100],
    'now',
    'own',
    'wrong passwords from one address in ten minutes that lead to a ban',
    'Ten times as many if one user of the address has the right password; never if three have, and ' +
      'never an address of this machine. See also: godwit ban list.',
  ),
  flappingConnectsMax: row(
    count('connects'),
    [UNLIMITED, UNLIMITED, 120],
    'now',
    'own',
    'connects of one Client Identifier in a minute that lead to a ban',
  ),
  banSeconds: row(seconds({ min: 1, max: 31_536_000 }), [600], 'now', null, 'length of an automatic ban'),
  /**
   * Rates, for which five seconds may be used at once. Whoever is ahead of one is not read from until it is
   * not; who would have to wait for more than five seconds is refused. By address they are for all clients
   * behind it.
   */
  publishRatePerClientMax: row(
    count('messages a second'),
    [UNLIMITED, UNLIMITED, 100],
    'connections',
    'own',
    'PUBLISH packets per second from one client',
    'For all rates: five seconds of each may be used at once. A client that is ahead waits, and its ' +
      'socket is not read. If it would have to wait for more than five seconds, it is refused: a ' +
      'message or Subscription with 0x97, a connection with 0x9F. 100 refusals in a row, or bytes for ' +
      'more than a minute, end the connection with 0x96. Messages to be sent wait in the Session; QoS ' +
      '0 is dropped, as for a slow reader.',
  ),
  publishRatePerUserMax: row(
    count('messages a second'),
    [UNLIMITED, UNLIMITED, 5000],
    'connections',
    'own',
    'PUBLISH packets per second from all clients of one user',
  ),
  publishRatePerAddressMax: row(
    count('messages a second'),
    [UNLIMITED, UNLIMITED, 5000],
    'connections',
    'own',
    'PUBLISH packets per second from one address (IPv6: a /64 network)',
  ),
  receiveRatePerClientMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 256 * KIB],
    'connections',
    'own',
    'bytes per second from one client',
  ),
  receiveRatePerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 16 * MIB],
    'connections',
    'own',
    'bytes per second from all clients of one user',
  ),
  receiveRatePerAddressMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 16 * MIB],
    'connections',
    'own',
    'bytes per second from one address (IPv6: a /64 network)',
  ),
  sendRatePerClientMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, MIB],
    'connections',
    'own',
    'bytes per second to one client',
  ),
  sendRatePerUserMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 64 * MIB],
    'connections',
    'own',
    'bytes per second to all clients of one user',
  ),
  sendRatePerAddressMax: row(
    orUnlimited(bytes({ min: KIB })),
    [UNLIMITED, UNLIMITED, 64 * MIB],
    'connections',
    'own',
    'bytes per second to one address (IPv6: a /64 network)',
  ),
  subscribeRatePerClientMax: row(
    count('topic filters a second'),
    [UNLIMITED, UNLIMITED, 50],
    'connections',
    'own',
    'topic filters in SUBSCRIBE per second from one client',
  ),
  subscribeRatePerUserMax: row(
    count('topic filters a second'),
    [UNLIMITED, UNLIMITED, 2000],
    'connections',
    'own',
    'topic filters in SUBSCRIBE per second from all clients of one user',
  ),
  subscribeRatePerAddressMax: row(
    count('topic filters a second'),
    [UNLIMITED, UNLIMITED, 2000],
    'connections',
    'own',
    'topic filters in SUBSCRIBE per second from one address (IPv6: a /64 network)',
  ),
  connectRatePerClientMax: row(
    count('connections a second'),
    [UNLIMITED, UNLIMITED, 1],
    'connections',
    'own',
    'log-ins per second of one client',
  ),
  connectRatePerUserMax: row(
    count('connections a second'),
    [UNLIMITED, UNLIMITED, 100],
    'connections',
    'own',
    'log-ins per second of one user',
  ),
  connectRatePerAddressMax: row(
    count('connections a second'),
    [UNLIMITED, UNLIMITED, 100],
    'connections',
    'own',
    'connections per second from one address (IPv6: a /64 network)',
  ),
} as const
