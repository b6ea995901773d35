import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { configKey } from '../../src/broker/boundary/limit-row.ts'
import { DEFAULT_LIMITS, type LIMIT_NAMES, LIMIT_TABLE, PROFILES } from '../../src/broker/boundary/limits.ts'
import { type Config, type ConfigSources, configFile, loadConfig } from '../../src/config/config.ts'
import { ConfigError } from '../../src/config/config-error.ts'
import { isSecret, SECRET } from '../../src/config/display.ts'
import { automaticMemoryBytes } from '../../src/config/memory.ts'
import { KEYS, LIMIT_KEYS, LISTENER_KEYS } from '../../src/config/schema.ts'
import { environmentVariable } from '../../src/config/sources.ts'
import { LENIENCE_NAMES } from '../../src/mqtt/lenience.ts'

/** The default memory for clients in this process. */
const AUTOMATIC = { memoryBytesMax: automaticMemoryBytes() }

const EXAMPLE = new URL('../../config/godwit.example.yaml', import.meta.url).pathname

let directory: string
let file: string

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  file = join(directory, 'godwit.yaml')
})

afterEach(() => rmSync(directory, { recursive: true, force: true }))

function fromFile(text: string, more: ConfigSources = {}): Config {
  writeFileSync(file, text)
  return loadConfig({ file, ...more })
}

/** The problems, one a line, with the file's directory left out. */
function problems(load: () => unknown): string[] {
  try {
    load()
  } catch (error) {
    if (error instanceof ConfigError) return error.message.replaceAll(`${directory}/`, '').split('\n')
    throw error
  }
  return []
}

const set = (...assignments: string[]): ConfigSources => ({ flags: { set: assignments } })

describe('the defaults', () => {
  test('are loopback listeners, fsync, and the limits of the profile fleet', () => {
    const config = loadConfig()
    expect(config.limits).toEqual({ ...DEFAULT_LIMITS, ...AUTOMATIC })
    expect(config.data).toEqual({
      directory: './godwit-data',
      durability: 'fsync',
      durabilityIntervalSeconds: 1,
      commitPaceMs: 4,
      reserveBytes: 64 * 1024 ** 2,
      residentBytesMax: 128 * 1024 ** 2,
    })
    expect(config.loopbackOnly).toBe(true)
    const open = { allowAnonymous: true, anonymousUnlessUsers: true }
    expect(config.listeners).toEqual([
      { name: 'mqtt', type: 'tcp', host: '127.0.0.1', port: 1883, optional: false, ...open },
      { name: 'mqtt-ipv6', type: 'tcp', host: '::1', port: 1883, optional: true, ...open },
      {
        name: 'ws',
        type: 'ws',
        host: '127.0.0.1',
        port: 8083,
        webSocketPath: '/mqtt',
        optional: false,
        ...open,
      },
      {
        name: 'ws-ipv6',
        type: 'ws',
        host: '::1',
        port: 8083,
        webSocketPath: '/mqtt',
        optional: true,
        ...open,
      },
    ])
  })

  test('are frozen throughout', () => {
    const config = loadConfig()
    for (const part of [
      config,
      config.data,
      config.limits,
      config.listeners,
      config.listeners[0]!,
      config.log,
    ]) {
      expect(Object.isFrozen(part)).toBe(true)
    }
  })

  test('apply to an empty file and to empty sections', () => {
    expect(fromFile('')).toEqual(loadConfig())
    expect(fromFile('data:\nlisteners:\nlimits:\n  # nothing\nlog:\nsys:\n')).toEqual(loadConfig())
  })
})

describe('paths', () => {
  test.each(['LOG', '000005.log', 'godwit.store', 'accounts.json'])(
    'a security log named like a store file, %s, is refused only in the data directory [field-A2]',
    (name) => {
      const set = (directory: string) => ({
        flags: { set: ['data.directory=/data', `log.security_file=${directory}/${name}`] },
      })
      expect(problems(() => loadConfig(set('/data')))).toEqual([
        `--set log.security_file: the store owns '${name}' in the data directory: ` +
          'choose another name, such as security.log',
      ])
      expect(loadConfig(set('/logs')).log.securityFile).toBe(`/logs/${name}`)
    },
  )

  test('in a file are relative to its directory, others to the working directory', () => {
    const config = fromFile(`
      data: {directory: .}
      listeners:
        - {type: tls, tls: {cert: server.crt, key: ./keys/server.key, ca: /etc/ca.crt, crl: ../crl.pem}}
        - {type: unix, path: mqtt.sock}
    `)
    expect(config.data.directory).toBe(directory)
    expect(config.listeners[0]!.tls).toMatchObject({
      cert: join(directory, 'server.crt'),
      key: join(directory, 'keys', 'server.key'),
      ca: '/etc/ca.crt',
      crl: join(dirname(directory), 'crl.pem'),
    })
    expect(config.listeners[1]!.path).toBe(join(directory, 'mqtt.sock'))
    expect(loadConfig({ flags: { data: 'elsewhere' } }).data.directory).toBe('elsewhere')
    expect(fromFile('data: {directory: .}', { flags: { data: 'elsewhere' } }).data.directory).toBe(
      'elsewhere',
    )
  })

  test('the configuration in a data directory is used unless another one is named', () => {
    expect(configFile({ flags: { data: directory } })).toBeUndefined()
    writeFileSync(file, '')
    expect(configFile({ flags: { data: directory } })).toBe(file)
    expect(configFile({ flags: { set: [`data.directory=${directory}`] } })).toBe(file)
    expect(configFile({ environment: { GODWIT_DATA_DIRECTORY: directory } })).toBe(file)
    expect(configFile({ file: 'other.yaml', flags: { data: directory } })).toBe('other.yaml')
    const environment = { GODWIT_CONFIG: 'other.yaml' }
    expect(configFile({ environment, flags: { data: directory } })).toBe('other.yaml')
    expect(resolve(configFile({ flags: { data: '.' } }) ?? 'none')).toBe(resolve('none'))
  })
})

describe('the example', () => {
  test('parses to exactly the defaults', () => {
    const { data, ownLimits: _, ...others } = loadConfig()
    const directory = join(dirname(EXAMPLE), 'godwit-data')
    const { ownLimits, ...example } = loadConfig({ file: EXAMPLE })
    expect(example).toEqual({ ...others, data: { ...data, directory } })
    // A key that is set there would win over a profile that is chosen there.
    const isSame = (name: (typeof LIMIT_NAMES)[number]): boolean => {
      const { open, fleet, internet } = LIMIT_TABLE[name]
      return (open === fleet && fleet === internet) || name === 'profile'
    }
    expect(ownLimits.filter((name) => !isSame(name))).toEqual([])
  })

  test('has every key, and its commented-out listeners are valid', () => {
    // A comment's text follows "# "; a key that is commented out follows "#" as it would stand there.
    const text = readFileSync(EXAMPLE, 'utf8').replaceAll(/^( +)#(- | {2,})|^( *)#(?=(?:\w+): )/gm, '$1$2$3')
    const config = fromFile(text)
    // A limit that is commented out stands there with its default.
    expect(config.limits).toEqual({ ...DEFAULT_LIMITS, ...AUTOMATIC })
    expect(config.listeners.map((listener) => listener.name)).toEqual([
      'mqtt',
      'mqtt-ipv6',
      'ws',
      'ws-ipv6',
      'mqtts',
      'wss',
      'local',
    ])
    expect(config.listeners[4]!.allowAnonymous).toBe(false)
    expect(config.listeners[6]).toMatchObject({ mode: 0o660, allowAnonymous: true })
    for (const key of [...KEYS, ...LISTENER_KEYS]) {
      expect(text).toMatch(new RegExp(`^[ -]*${key.split('.').at(-1)}:`, 'm'))
    }
  })

  test('names every limit of the Server', () => {
    expect([...LIMIT_KEYS.keys()]).toEqual(Object.keys(DEFAULT_LIMITS).map(configKey))
  })
})

describe('the profile of limits', () => {
  test.each(['open', 'fleet', 'internet'] as const)(
    '%s sets all limits that are not set by themselves',
    (profile) => {
      const { limits, ownLimits } = loadConfig(
        set(`limits.profile=${profile}`, 'limits.queue_messages_max=7'),
      )
      expect(limits).toEqual({ ...PROFILES[profile], ...AUTOMATIC, queueMessagesMax: 7 })
      expect(ownLimits).toEqual(['profile', 'queueMessagesMax'])
      expect(loadConfig({ environment: { GODWIT_LIMITS_PROFILE: profile } }).limits).toEqual({
        ...PROFILES[profile],
        ...AUTOMATIC,
      })
    },
  )

  test('is one of three words', () => {
    expect(problems(() => loadConfig(set('limits.profile=friends')))).toEqual([
      '--set limits.profile: found "friends", allowed: open, fleet or internet',
    ])
  })

  test('of the file is overridden by keys of the environment and the command line', () => {
    const config = fromFile('limits: {profile: internet, topic_alias_maximum: 1}\n', {
      ...set('limits.profile=open'),
      environment: { GODWIT_LIMITS_QUEUE_FULL: 'refuse' },
    })
    expect(config.limits).toEqual({
      ...PROFILES.open,
      ...AUTOMATIC,
      topicAliasMaximum: 1,
      queueFull: 'refuse',
    })
  })
})

describe('listeners', () => {
  test('can have their own in-flight maximum [field-E28]', () => {
    const { listeners, limits } = fromFile(`
limits: {in_flight_max: 500}
listeners:
  - {type: tcp, port: 1883, in_flight_max: 7}
  - {type: ws, port: 8083}
`)
    expect([...listeners.map(({ inFlightMax }) => inFlightMax), limits.inFlightMax]).toEqual([
      7,
      undefined,
      500,
    ])
  })
})

describe('values', () => {
  test('bytes, seconds and unlimited', () => {
    const { limits, shutdownSeconds, sysIntervalSeconds } = fromFile(`
limits:
  packet_bytes_max: 64KiB
  queue_bytes_max: 1.5MiB
  retained_bytes_max: unlimited
  memory_bytes_max: 2 GiB
  outgoing_bytes_max: 4096
  session_expiry_seconds_max: 1d
  keep_alive_seconds_max: 2h
  stalled_reader_seconds: 5m
  connect_timeout_seconds: 0.5
  queue_messages_max: 1000
  maximum_qos: 1
  queue_full: refuse
sys: { interval_seconds: off }
shutdown_seconds: 30s
`)
    expect(limits).toMatchObject({
      packetBytesMax: 65_536,
      queueBytesMax: 1_572_864,
      retainedBytesMax: Number.POSITIVE_INFINITY,
      memoryBytesMax: 2_147_483_648,
      outgoingBytesMax: 4096,
      sessionExpirySecondsMax: 86_400,
      keepAliveSecondsMax: 7200,
      stalledReaderSeconds: 300,
      connectTimeoutSeconds: 0.5,
      queueMessagesMax: 1000,
      maximumQoS: 1,
      queueFull: 'refuse',
    })
    expect(shutdownSeconds).toBe(30)
    expect(sysIntervalSeconds).toBe(0)
  })

  test.each([
    ['limits.queue_messages_max=0', 'found 0, allowed: a whole number from 1, or unlimited'],
    [
      'limits.queue_bytes_max=12 parsecs',
      'found "12 parsecs", allowed: bytes, as a number or like 64KiB, 1MiB, 1GiB, from 1024, or unlimited',
    ],
    [
      'limits.packet_bytes_max=unlimited',
      'found "unlimited", allowed: bytes, as a number or like 64KiB, 1MiB, 1GiB, from 128 to 268435460',
    ],
    [
      'limits.packet_bytes_max=128.5',
      'found 128.5, allowed: bytes, as a number or like 64KiB, 1MiB, 1GiB, from 128 to 268435460',
    ],
    [
      'limits.keep_alive_seconds_max=0',
      'found 0, allowed: whole seconds, as a number or like 30s, 5m, 2h, 1d, from 1 to 65535, or unlimited',
    ],
    ['limits.queue_qos0=yes', 'found "yes", allowed: true or false'],
    ['limits.maximum_qos=3', 'found 3, allowed: 0, 1 or 2'],
    ['limits.queue_full=drop', 'found "drop", allowed: drop-oldest, drop-newest or refuse'],
    ['data.durability=fast', 'found "fast", allowed: fsync, interval, os or memory'],
    ['data.directory=', "found nothing, allowed: a directory's path"],
    ['allow_anonymous=maybe', 'found "maybe", allowed: loopback, true or false'],
    [
      'sys.interval_seconds=0',
      'found 0, allowed: seconds, as a number or like 30s, 5m, from 1 to 86400, or off',
    ],
    ['limits=12', 'found 12, allowed: a group of keys: profile, connections_max, connections_per_user_max'],
    ['listeners=[]', 'found [], allowed: a list with at least one listener'],
    ['listeners=tcp', 'found "tcp", allowed: a list with at least one listener'],
  ])('%s is refused with what was found and what is allowed', (assignment, message) => {
    const key = assignment.split('=')[0]!
    const [line, ...others] = problems(() => loadConfig(set(assignment)))
    expect(line).toContain(`--set ${key}: ${message}`)
    expect(others).toEqual([])
  })
})

describe('refused subscriptions', () => {
  const refused = (yaml: string) =>
    fromFile(`limits: { refused_subscriptions: ${yaml} }`).limits.refusedSubscriptions

  test('are topic filters with a Reason Code of SUBACK, 0x87 when there is none', () => {
    expect(refused('[{ filter: a/#, reason_code: 0x80 }, { filter: b }]')).toEqual([
      { filter: 'a/#', reasonCode: 0x80 },
      { filter: 'b', reasonCode: 0x87 },
    ])
    const set = ['limits.refused_subscriptions=[{ filter: a, reason_code: 0x97 }]']
    expect(loadConfig({ flags: { set } }).limits.refusedSubscriptions).toEqual([
      { filter: 'a', reasonCode: 0x97 },
    ])
  })

  test.each([
    'a/#',
    '[a]',
    '[{ reason_code: 0x80 }]',
    '[{ filter: a# }]',
    '[{ filter: $share/g/a }]',
    '[{ filter: a, reason_code: 1 }]',
    '[{ filter: a, reason_code: 0x86 }]',
    '[{ filter: a, reason: 0x80 }]',
  ])('are not %s', (yaml) => {
    expect(problems(() => refused(yaml))[0]).toMatch(
      /refused_subscriptions: found .*, allowed: a list of \{ filter, reason_code \}/,
    )
  })
})

describe('client_id', () => {
  test('applies to listeners without their own, and is free by default [field-C12]', () => {
    const of = (yaml: string) => fromFile(yaml).listeners.map(({ clientIdRule }) => clientIdRule)
    expect(of('log: { level: info }')).toEqual([undefined, undefined, undefined, undefined])
    expect(of('client_id: user\nlisteners: [{ type: tcp }, { type: ws, client_id: free }]')).toEqual([
      'user',
      undefined,
    ])
    expect(of('listeners: [{ type: tcp, client_id: user }]')).toEqual(['user'])
    const tls = 'type: tls, tls: { cert: a, key: b, ca: c, client_certificate: require }'
    expect(of(`client_id: certificate\nlisteners: [{ ${tls} }]`)).toEqual(['certificate'])
  })

  test('client_id: certificate is refused if a listener does not ask for certificates', () => {
    expect(problems(() => fromFile('client_id: certificate'))[0]).toContain(
      'the listener does not ask for one',
    )
    const yaml = 'client_id: certificate\nlisteners: [{ type: tcp }]'
    expect(problems(() => fromFile(yaml))[0]).toContain('listeners.0.client_id: client_id is certificate')
  })
})

describe('lenient', () => {
  const lenient = (yaml: string) =>
    fromFile(`listeners: [{ type: tcp, lenient: ${yaml} }]`).listeners[0]!.lenient

  test('is a list of rules, none by default', () => {
    expect(lenient('[dup-on-qos-0, header-flags]')).toEqual(['dup-on-qos-0', 'header-flags'])
    expect(lenient('[]')).toBe(undefined)
    expect(loadConfig().listeners.every((listener) => listener.lenient === undefined)).toBe(true)
    expect(lenient(`[${LENIENCE_NAMES.join(', ')}]`)).toEqual(LENIENCE_NAMES)
  })

  test.each(['true', 'all', '[everything]', '{}'])('is not %s', (yaml) => {
    expect(problems(() => lenient(yaml))[0]).toMatch(
      /listeners.0.lenient: found .*, allowed: a list of dup-on-qos-0, /,
    )
  })

  test('has every rule in the example', () => {
    const text = readFileSync(EXAMPLE, 'utf8')
    for (const rule of LENIENCE_NAMES) expect(text).toMatch(new RegExp(`^# +- ${rule}: \\w`, 'm'))
  })
})

describe('errors', () => {
  test('are reported all at once, each with file, line and key', () => {
    const found = problems(() =>
      fromFile(`data:
  directory: ./x
  durabilty: os
limits:
  queue_bytes_max: lots
  topic_levels_max: 0
queue_messages_max: 5
listeners:
  - type: tcp
    port: 70000
  - type: udp
  - port: 1884
`),
    )
    expect(found).toEqual([
      'godwit.yaml:3: data.durabilty: unknown key; did you mean data.durability?',
      expect.stringMatching(/^godwit.yaml:5: limits.queue_bytes_max: found "lots", allowed: bytes/),
      'godwit.yaml:6: limits.topic_levels_max: found 0, allowed: a whole number from 1 to 65536, ' +
        'or unlimited',
      'godwit.yaml:7: queue_messages_max: unknown key here; did you mean limits.queue_messages_max?',
      'godwit.yaml:10: listeners.0.port: found 70000, allowed: a whole number from 0 to 65535',
      'godwit.yaml:11: listeners.1.type: found "udp", allowed: tcp, tls, ws, wss or unix',
      'godwit.yaml:12: listeners.2.type: found nothing, allowed: tcp, tls, ws, wss or unix',
    ])
  })

  test('an unknown key that resembles nothing lists the allowed keys, or some of many', () => {
    expect(problems(() => fromFile('log: {colour: blue}'))).toEqual([
      'godwit.yaml:1: log.colour: unknown key; allowed here: level, format, security_file, ' +
        'repeat_seconds, lines_per_second_max, waiting_bytes_max',
    ])
    expect(problems(() => fromFile('limits: {queue: 3}'))).toEqual([
      expect.stringMatching(
        /^godwit.yaml:1: limits.queue: unknown key; did you mean one of login_queue_max, .*, queue_qos0\?$/,
      ),
    ])
    expect(problems(() => fromFile('limits: {colour: blue}'))).toEqual([
      expect.stringMatching(
        /limits.colour: unknown key; config\/godwit.example.yaml lists all \d+ keys of limits$/,
      ),
    ])
    expect(problems(() => fromFile('listeners: [{type: tcp, addr: x}]'))[0]).toMatch(
      /^godwit.yaml:1: listeners.0.addr: unknown key; allowed here: name, type, host, port/,
    )
  })

  test('a secret is never shown, whatever is wrong with it [field-D25]', () => {
    const tls = (rest: string) => `listeners: [{type: tls, port: 1, tls: {cert: c, key: k, ${rest}}}]`
    const secret = '8642097531'
    const files = [
      tls(`passphrase: ${secret}`),
      tls(`passphrase: [${secret}]`),
      tls(`passphrase: {a: ${secret}}`),
      tls(`passphrase: *${secret}`),
      tls(`passphrase: "${secret}`),
      tls(`pasphrase: ${secret}`),
      tls(`key: {passphrase: ${secret}}`),
      `listeners: [{type: tls, port: 1, tls: [{passphrase: ${secret}}]}]`,
      `listeners: {tls: {passphrase: ${secret}}}`,
      `listeners: [[{passphrase: ${secret}}]]`,
      `- {passphrase: ${secret}}`,
      `passphrase: ${secret}`,
      `limits: {passphrase: {x: ${secret}}}`,
      tls(`cert: 5, key: ["-----BEGIN PRIVATE KEY-----\\n${secret}\\n-----END PRIVATE KEY-----"]`),
    ]
    for (const file of files) {
      const found = problems(() => fromFile(file))
      expect([file, found.length > 0]).toEqual([file, true])
      expect(found.join('\n')).not.toContain(secret)
    }
    for (const value of [secret, `[${secret}`, `*${secret}`, `"${secret}`]) {
      const key = 'listeners.0.tls.passphrase'
      const sources = [
        { flags: { set: [`${key}=${value}`] } },
        { flags: { set: [`${key} ${value}`] } },
        { environment: { GODWIT_LISTENERS_0_TLS_PASSPHRASE: value } },
      ]
      for (const source of sources) {
        const found = problems(() => loadConfig(source))
        expect(found.length).toBeGreaterThan(0)
        expect(found.join('\n')).not.toContain(secret)
      }
    }
    expect(problems(() => fromFile(tls(`passphrase: ${secret}`)))).toEqual([
      'godwit.yaml:1: listeners.0.tls.passphrase: found (secret), allowed: text that is not ' +
        'empty, in quotes where it is a number',
    ])
  })

  test('many unknown keys take linear time and are reported in a few lines [field-D25]', () => {
    const many = (indent: string, length = 1000) =>
      Array.from({ length }, (_, index) => `${indent}unknown_key_${index}: ${index}`).join('\n')
    for (const file of [many(''), `x:\n${many(' ')}`, `listeners:\n  - name: a\n${many('    ')}`]) {
      expect(problems(() => fromFile(file)).length).toBeLessThan(30)
    }
    const found = problems(() => fromFile(`limits:\n${many('  ', 200_000)}`))
    expect(found.at(-1)).toMatch(/^godwit.yaml:22: limits: 199980 more unknown keys follow$/)
    const lists = Array.from({ length: 5000 }, (_, index) => ` - {type: tcp, port: 1${index}, naem: x}`)
    const ofLists = problems(() => fromFile(`listeners:\n${lists.join('\n')}`))
    expect(ofLists.at(-1)).toMatch(/^and \d+ more problems$/)
    expect(ofLists.length).toBe(201)
    // A key so long that comparing it letter by letter would take for ever.
    expect(problems(() => fromFile(`${'a'.repeat(1_000_000)}: 1`)).join('').length).toBeLessThan(2000)
  })

  test('invalid YAML is reported with its line', () => {
    expect(problems(() => fromFile('data:\n  directory: [1, 2\nlog: {}\n'))[0]).toMatch(
      /^godwit.yaml:[234]: Flow sequence/,
    )
    expect(problems(() => fromFile('log: {level: info}\nlog: {level: warn}\n'))[0]).toMatch(
      /^godwit.yaml:2: Map keys must be unique/,
    )
    expect(problems(() => fromFile('- a\n'))).toEqual([
      'godwit.yaml:1: found ["a"], allowed: keys such as "data:", "listeners:", "limits:"',
    ])
    expect(problems(() => fromFile('data: *nothing\n'))[0]).toMatch(/^godwit.yaml/)
  })

  test('a missing file is named', () => {
    expect(problems(() => loadConfig({ file: join(directory, 'none.yaml') }))).toEqual([
      'none.yaml: there is no such file',
    ])
    expect(problems(() => loadConfig({ file: directory }))[0]).toMatch(/cannot be read: EISDIR/)
  })

  test('report keys of another listener type, and names or addresses used twice', () => {
    expect(
      problems(() =>
        fromFile(`listeners:
  - {type: tcp, path: /x}
  - {type: tcp, host: 127.0.0.1}
  - {type: tls}
  - {type: unix, port: 1}
  - {name: a, type: ws}
  - {name: a, type: wss, tls: {cert: c, key: k}}
`),
      ),
    ).toEqual([
      'godwit.yaml:2: listeners.0.path: a "tcp" listener has no such key; it belongs to unix',
      "godwit.yaml:3: listeners.1: listeners.0 is also named 'tcp-1883'",
      'godwit.yaml:3: listeners.1: listeners.0 has the same address',
      'godwit.yaml:4: listeners.2: a tls listener needs tls with cert and key',
      'godwit.yaml:5: listeners.3.port: a "unix" listener has no such key; it belongs to tcp, tls, ws, wss',
      'godwit.yaml:5: listeners.3: a unix listener needs path, the socket file',
      "godwit.yaml:7: listeners.5: listeners.4 is also named 'a'",
    ])
  })
})

describe('the order of sources', () => {
  test('defaults < file < environment < --set < flags', () => {
    const text =
      'data: {directory: /file}\nlog: {level: warn}\nlimits: {in_flight_max: 5, receive_maximum: 5}\n'
    const environment = {
      GODWIT_DATA_DIRECTORY: '/environment',
      GODWIT_LIMITS_IN_FLIGHT_MAX: '6',
      GODWIT_LOG_LEVEL: 'error',
      HOME: '/elsewhere',
    }
    const config = fromFile(text, {
      environment,
      flags: { set: ['data.directory=/set', 'log.level=debug'], data: '/flag', logLevel: 'trace' },
    })
    expect(config.data.directory).toBe('/flag')
    expect(config.log.level).toBe('trace')
    expect(config.limits).toMatchObject({ inFlightMax: 6, receiveMaximum: 5, topicAliasMaximum: 64 })
    expect(fromFile(text, { environment, ...set('data.directory=/set') }).data.directory).toBe('/set')
    expect(fromFile(text, { environment }).data.directory).toBe('/environment')
    expect(fromFile(text).data.directory).toBe('/file')
  })

  test('every key is an environment variable', () => {
    const environment = Object.fromEntries(KEYS.map((key) => [environmentVariable(key), 'wrong: value']))
    const found = problems(() => loadConfig({ environment }))
    const shown = (key: string): string => (isSecret(key.split('.')) ? SECRET : '{"wrong"')
    for (const key of KEYS) {
      expect(
        found.some((line) =>
          line.startsWith(`environment ${environmentVariable(key)}: ${key}: found ${shown(key)}`),
        ),
      ).toBe(true)
    }
  })

  test('an unknown variable is an error with a suggestion', () => {
    expect(problems(() => loadConfig({ environment: { GODWIT_LIMITS_QUEUE_BYTE_MAX: '1MiB' } }))).toEqual([
      'environment GODWIT_LIMITS_QUEUE_BYTE_MAX: unknown variable; did you mean ' +
        'GODWIT_LIMITS_QUEUE_BYTES_MAX?',
    ])
    expect(problems(() => loadConfig({ environment: { GODWIT_NONSENSE_ENTIRELY_ELSE: '1' } }))).toEqual([
      'environment GODWIT_NONSENSE_ENTIRELY_ELSE: unknown variable',
    ])
  })

  test('GODWIT_CONFIG names the file, --config wins over it', () => {
    writeFileSync(file, 'log: {level: warn}')
    expect(loadConfig({ environment: { GODWIT_CONFIG: file } }).log.level).toBe('warn')
    expect(loadConfig({ file: EXAMPLE, environment: { GODWIT_CONFIG: file } }).log.level).toBe('info')
  })

  test('listeners can be set as a whole and in part', () => {
    const text = 'listeners: [{type: tcp, port: 1}, {type: ws, port: 2}]'
    expect(fromFile(text, set('listeners.1.port=3', 'listeners.0.host=0.0.0.0')).listeners).toMatchObject([
      { port: 1, host: '0.0.0.0' },
      { port: 3 },
    ])
    expect(
      fromFile(text, { environment: { GODWIT_LISTENERS_0_ALLOW_ANONYMOUS: 'false' } }).listeners,
    ).toMatchObject([{ allowAnonymous: false }, { allowAnonymous: true }])
    expect(fromFile(text, set('listeners=[{type: tcp, port: 9}]')).listeners).toMatchObject([{ port: 9 }])
    expect(problems(() => fromFile(text, set('listeners.2.port=3')))).toEqual([
      '--set listeners.2.port: listeners.2.type: found nothing, allowed: tcp, tls, ws, wss or unix',
    ])
    expect(fromFile(text, set('listeners.2.type=ws', 'listeners.2.port=3')).listeners).toHaveLength(3)
    expect(problems(() => fromFile(text, set('listeners.3.type=ws')))).toEqual([
      '--set listeners.3.type: there is no listeners.3 to set',
    ])
    expect(problems(() => fromFile(text, set('listeners.0.port=x')))).toEqual([
      '--set listeners.0.port: found "x", allowed: a whole number from 0 to 65535',
    ])
  })

  test('--set without a key, with an unknown key, with broken YAML', () => {
    expect(problems(() => loadConfig(set('info')))).toEqual(['--set: found "info", allowed: key.path=value'])
    expect(problems(() => loadConfig(set('limits.in_fligt_max=1')))).toEqual([
      '--set limits.in_fligt_max: unknown key; did you mean limits.in_flight_max?',
    ])
    expect(problems(() => loadConfig(set('listeners=[{')))[0]).toMatch(/^--set listeners: "\[\{" is not YAML/)
    expect(problems(() => loadConfig(set('log.level.x=1')))).toEqual([
      expect.stringMatching(/^--set log.level.x: log.level: found \{"x":1\}, allowed: trace/),
    ])
    expect(problems(() => loadConfig(set('__proto__.x=1'))).length).toBe(1)
    expect(({} as { x?: unknown }).x).toBeUndefined()
  })
})

describe('listener flags', () => {
  const listeners = (flags: ConfigSources['flags']) => loadConfig({ flags: flags! }).listeners

  test('--port alone starts that TCP listener only', () => {
    expect(listeners({ port: '2883' })).toMatchObject([
      { name: 'mqtt', type: 'tcp', host: '127.0.0.1', port: 2883 },
    ])
    expect(listeners({ port: '0' })).toMatchObject([{ port: 0 }])
  })

  test('--ws-port alone starts that WebSocket listener only', () => {
    expect(listeners({ wsPort: '9001' })).toMatchObject([
      { name: 'ws', type: 'ws', host: '127.0.0.1', port: 9001 },
    ])
  })

  test('both, on the host that is named', () => {
    expect(listeners({ port: '1', wsPort: '2', host: '::1' })).toMatchObject([
      { type: 'tcp', host: '::1', port: 1 },
      { type: 'ws', host: '::1', port: 2 },
    ])
    expect(listeners({ port: '0', wsPort: '0' })).toHaveLength(2)
  })

  test('--host alone moves the default listeners', () => {
    expect(listeners({ host: '0.0.0.0' })).toMatchObject([
      { type: 'tcp', host: '0.0.0.0', port: 1883 },
      { type: 'ws', host: '0.0.0.0', port: 8083 },
    ])
  })

  test('by default only loopback listeners accept anonymous clients', () => {
    for (const host of ['127.0.0.1', '127.5.5.5', '::1', 'localhost']) {
      expect(listeners({ host, port: '0' })[0]!.allowAnonymous).toBe(true)
    }
    for (const host of ['0.0.0.0', '::', '192.168.1.7', '127.0.0.1.example.org']) {
      expect(listeners({ host, port: '0' })[0]!.allowAnonymous).toBe(false)
      expect(loadConfig({ flags: { host, port: '0' } }).loopbackOnly).toBe(false)
    }
    expect(listeners({ host: '0.0.0.0', set: ['allow_anonymous=true'] })[0]!.allowAnonymous).toBe(true)
    expect(listeners({ port: '0', set: ['allow_anonymous=false'] })[0]!.allowAnonymous).toBe(false)
  })

  test('they replace configured listeners; --host alone cannot', () => {
    const text = 'listeners: [{type: tcp, port: 5}]'
    expect(fromFile(text, { flags: { port: '6' } }).listeners).toMatchObject([{ port: 6 }])
    expect(problems(() => fromFile(text, { flags: { host: '::1' } }))[0]).toContain(
      'add --port or --ws-port to replace these listeners',
    )
  })

  test('errors name the flag', () => {
    expect(
      problems(() => loadConfig({ flags: { port: 'http', wsPort: '70000', durability: 'none' } })),
    ).toEqual([
      '--durability: data.durability: found "none", allowed: fsync, interval, os or memory',
      '--port: listeners.0.port: found "http", allowed: a whole number from 0 to 65535',
      '--ws-port: listeners.1.port: found 70000, allowed: a whole number from 0 to 65535',
    ])
  })
})

describe('certificates and keys', () => {
  const listener = (tls: string): string => `listeners: [{type: tls, port: 1, tls: ${tls}}]`

  test('may be lists, whose relative paths start at the file [field-E27]', () => {
    const { listeners } = fromFile(listener('{cert: [a.crt, /b.crt], key: [a.key, b.key]}'))
    expect(listeners[0]!.tls).toMatchObject({
      cert: [join(directory, 'a.crt'), '/b.crt'],
      key: [join(directory, 'a.key'), join(directory, 'b.key')],
    })
  })

  test.each(['{cert: [], key: a.key}', '{cert: [a.crt, 7], key: a.key}', "{cert: a.crt, key: ''}"])(
    'that are %s are refused [field-E27]',
    (tls) => {
      expect(problems(() => fromFile(listener(tls)))).toEqual([
        expect.stringMatching(/allowed: the path of a PEM file, or a list of paths$/),
      ])
    },
  )
})

describe('origins of pages', () => {
  test('apply to every WebSocket listener without its own [field-D22]', () => {
    const text = "allowed_origins: ['https://a.example']\n"
    const own =
      "listeners: [{type: ws, port: 1}, {type: ws, port: 2, allowed_origins: ['*']}, {type: tcp, port: 3}]"
    const origins = (config: Config) => config.listeners.map(({ allowedOrigins }) => allowedOrigins)
    expect(origins(fromFile(text + own))).toEqual([['https://a.example'], ['*'], undefined])
    expect(origins(loadConfig(set('allowed_origins=["file://"]'))).filter(Boolean)).toEqual([
      ['file://'],
      ['file://'],
    ])
    expect(problems(() => loadConfig(set('allowed_origins=["null"]')))).toEqual([
      expect.stringContaining(
        'allowed: a list of origins such as https://example.org, or ["*"] for every page',
      ),
    ])
  })
})
