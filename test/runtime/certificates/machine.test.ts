import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { expect, test } from 'vitest'
import { isDnsName, thisMachine } from '../../../src/runtime/certificates/machine.ts'

test('a machine has its own names and those of its hosts file', () => {
  const hosts = [
    '127.0.0.1 localhost',
    '127.0.1.1 Broker.example.org broker # as Debian writes it',
    '::1 localhost ip6-localhost ip6-loopback',
    '192.0.2.250 other.example.org',
    '',
  ].join('\n')
  const { names, addresses } = thisMachine(hosts)
  expect(names).toEqual(expect.arrayContaining(['broker.example.org', 'broker', 'localhost']))
  if (isDnsName(hostname())) expect(names[0]).toBe(hostname().toLowerCase())
  expect(names.at(-1)).toBe('localhost')
  expect(names).not.toContain('other.example.org')
  expect(names).not.toContain('ip6-localhost')
  expect(addresses.slice(-2)).toEqual(['127.0.0.1', '::1'])
  expect(addresses.every((address) => isIP(address) > 0)).toBe(true)
  expect(new Set(addresses).size).toBe(addresses.length)
})

test('a machine has a .local name for networks without a name server [field-E27]', () => {
  const [label] = hostname().toLowerCase().split('.', 1)
  const { names } = thisMachine('')
  if (label !== 'localhost' && isDnsName(label!)) expect(names).toContain(`${label}.local`)
  expect(names.filter((name) => name === 'localhost.local')).toEqual([])
  expect(new Set(names).size).toBe(names.length)
})

test.each([
  ['broker', true],
  ['broker.example.org', true],
  ['xn--brcke-jva.example', true],
  ['my_device', true],
  ['192.0.2.7', false],
  ['-broker', false],
  ['a..b', false],
  ['', false],
  ['a b', false],
  ['*.example.org', false],
])('%s: a name for a certificate? %s', (name, is) => {
  expect(isDnsName(name)).toBe(is)
})
