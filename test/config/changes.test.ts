import { describe, expect, test } from 'vitest'
import type { LinkInfo } from '../../src/broker/boundary/link.ts'
import { changeLine, configChanges, cutOffReason, reloadableConfig } from '../../src/config/changes.ts'
import { type Config, loadConfig } from '../../src/config/config.ts'

/** The configuration that a file with this text makes. */
function config(text = ''): Config {
  return loadConfig({ file: '/etc/godwit.yaml', text })
}

function lines(before: string, after: string): string[] {
  return configChanges(config(before), config(after)).map(changeLine)
}

describe('the differences between two configurations', () => {
  test('are empty for equal configurations', () => {
    expect(lines('', '')).toEqual([])
    expect(lines('', 'limits: {in_flight_max: 1000}')).toEqual([])
  })

  test('have the key, both values, and when they take effect', () => {
    expect(
      lines(
        'limits: {queue_bytes_max: unlimited, in_flight_max: 10}',
        'data: {durability: os}\nlimits: {queue_bytes_max: 1KiB, in_flight_max: 20, ' +
          'receive_maximum: 5}\nlog: {level: debug}\nsys: {interval_seconds: 5}',
      ).sort(),
    ).toEqual([
      'data.durability: fsync -> os, only after a restart',
      'limits.in_flight_max: 10 -> 20, for new connections',
      'limits.queue_bytes_max: unlimited -> 1024, at once',
      'limits.receive_maximum: 65535 -> 5, only after a restart',
      'log.level: info -> debug, at once',
      'sys.interval_seconds: 10 -> 5, at once',
    ])
  })

  test('name keys as the configuration does', () => {
    const text = 'access: {denied_before_5: disconnect, denied_subscription_code: 0x80}'
    expect(lines('', text)).toEqual([
      'access.denied_before_5: ignore -> disconnect, only after a restart',
      'access.denied_subscription_code: 135 -> 128, only after a restart',
    ])
  })

  test('name the profile that sets a limit', () => {
    const told = configChanges(
      config('limits: {profile: open}'),
      config('limits: {profile: internet, queue_full: refuse}'),
    )
    expect(told.find(({ key }) => key === 'limits.profile')).toMatchObject({
      from: 'open',
      to: 'internet',
      effect: 'now',
    })
    expect(told.find(({ key }) => key === 'limits.queue_full')).not.toHaveProperty('profile')
    const followed = told.filter(({ key }) => key !== 'limits.profile' && key !== 'limits.queue_full')
    for (const { profile } of followed) expect(profile).toBe('internet')
    const line = {
      key: 'limits.topic_levels_max',
      from: 'unlimited',
      to: '200',
      effect: 'now',
      profile: 'fleet',
    } as const
    expect(changeLine(line)).toBe(
      'limits.topic_levels_max: unlimited -> 200 (of limits.profile fleet), at once',
    )
  })

  test('name listeners and whether they are reopened', () => {
    expect(
      lines(
        'listeners: [{name: a, type: tcp, port: 1}, {name: b, type: tcp, port: 2}, {name: c, ' +
          'type: tcp, port: 3}]',
        'listeners: [{name: b, type: tcp, port: 22}, {name: c, type: tcp, port: 3, ' +
          'allow_anonymous: false}, {name: d, type: ws, port: 4}]',
      ),
    ).toEqual([
      'listeners.a: tcp 127.0.0.1 port 1 -> none, at once',
      'listeners.b.port: 2 -> 22, at once',
      'listeners.c.allow_anonymous: loopback -> false, for new connections',
      'listeners.d: none -> ws 127.0.0.1 port 4, at once',
    ])
  })

  test('never show a passphrase', () => {
    const listener = (phrase: string): string =>
      `listeners: [{name: a, type: tls, tls: {cert: c, key: k, passphrase: ${phrase}}}]`
    const told = lines(listener('hush-one'), listener('hush-two'))
    expect(told).toEqual(['listeners.a.tls.passphrase: (secret) -> (another one), for new connections'])
  })

  test('a running broker applies what needs no restart and keeps the rest', () => {
    const before = config()
    const after = config(
      'data: {durability: os}\nlimits: {queue_bytes_max: 1KiB, receive_maximum: 5}\n' +
        'log: {level: debug, format: json}\nlisteners: [{type: tcp, port: 5}]\nshutdown_seconds: 1',
    )
    const taken = reloadableConfig(before, after)
    expect(taken.data).toEqual(before.data)
    expect(taken.limits).toEqual({ ...before.limits, queueBytesMax: 1024 })
    expect(taken.log).toEqual({ ...before.log, level: 'debug' })
    expect(taken.listeners).toEqual(after.listeners)
    expect(taken.shutdownSeconds).toBe(1)
    // The next reload reports again the changes that wait for a restart.
    expect(configChanges(taken, after).map(({ effect }) => effect)).toEqual(['restart', 'restart', 'restart'])
  })
})

describe('the clients that are cut off', () => {
  const link: LinkInfo = {
    transport: 'tcp',
    listener: 'a',
    remoteAddress: '127.0.0.1',
    remotePort: 1,
    allowAnonymous: true,
  }
  const listeners = (text: string): Config['listeners'] => config(`listeners: [${text}]`).listeners

  test('no client that the new listeners accept', () => {
    expect(cutOffReason(link, null, listeners('{name: a, type: tcp, port: 9}'))).toBeNull()
    expect(cutOffReason(link, 'ada', listeners('{name: a, type: tcp, allow_anonymous: false}'))).toBeNull()
    expect(cutOffReason({ ...link, transport: 'memory' }, null, listeners('{name: b, type: tcp}'))).toBeNull()
  })

  test('clients without credentials that only the old allow_anonymous accepted [field-C15]', () => {
    const hasUsers = ({ allowAnonymous, anonymousUnlessUsers }: LinkInfo): boolean =>
      allowAnonymous && anonymousUnlessUsers !== true
    expect(cutOffReason(link, null, listeners('{name: a, type: tcp}'), hasUsers)).toMatch(
      /without credentials/,
    )
    const byDefault = { ...link, anonymousUnlessUsers: true }
    const asked = listeners('{name: a, type: tcp, allow_anonymous: true}')
    expect(cutOffReason(byDefault, null, asked, hasUsers)).toBeNull()
  })

  test('no client with a sufficient certificate, even if it names no user', () => {
    const certificate = { subjectCommonName: 'x', subjectAltNames: [], fingerprint256: 'AA' }
    const isCertified = (one: LinkInfo): boolean => one.certificate !== undefined || one.allowAnonymous
    const none = listeners('{name: a, type: tcp, allow_anonymous: false}')
    expect(cutOffReason({ ...link, certificate }, null, none, isCertified)).toBeNull()
    expect(cutOffReason(link, null, none, isCertified)).toMatch(/without credentials/)
  })

  test('clients whose listener is gone, has another type or demands more', () => {
    expect(cutOffReason(link, 'ada', listeners('{name: b, type: tcp}'))).toMatch(
      /listener 'a' no longer exists/,
    )
    const tls = 'type: tls, tls: {cert: c, key: k, ca: d, client_certificate: require}'
    expect(cutOffReason(link, 'ada', listeners(`{name: a, ${tls}}`))).toMatch(/another type/)
    expect(cutOffReason(link, null, listeners('{name: a, type: tcp, allow_anonymous: false}'))).toMatch(
      /without credentials/,
    )
    const secure: LinkInfo = { ...link, transport: 'tls' }
    expect(cutOffReason(secure, 'ada', listeners(`{name: a, ${tls}}`))).toMatch(
      /requires a client certificate/,
    )
    const certificate = { subjectCommonName: 'x', subjectAltNames: [], fingerprint256: 'AA' }
    expect(cutOffReason({ ...secure, certificate }, 'ada', listeners(`{name: a, ${tls}}`))).toBeNull()
  })
})
