import { isIP } from 'node:net'
import { describe, expect, test } from 'vitest'
import {
  AddressRanges,
  isThisMachine,
  parseAddressRange,
} from '../../../src/broker/boundary/address-range.ts'
import { Random } from '../../fuzz/random.ts'

describe('an address or network', () => {
  test.each([
    ['203.0.113.7', '203.0.113.7'],
    ['203.0.113.7/32', '203.0.113.7'],
    ['203.0.113.7/24', '203.0.113.0/24'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8::1', '2001:db8::1'],
    ['2001:db8:1:2:3:4:5:6/64', '2001:db8:1:2::/64'],
    ['2001:db8:0:0::/64', '2001:db8::/64'],
    ['fe80::1%eth0', 'fe80::1'],
    ['::', '::'],
    ['::/0', '::/0'],
  ])('%s is %s', (given, text) => {
    expect(parseAddressRange(given)?.text).toBe(text)
  })

  test.each([
    '',
    'host',
    '203.0.113',
    '203.0.113.256',
    '203.0.113.07',
    '203.0.113.7/33',
    '203.0.113.7/',
    '1.2.3.4/8/8',
  ])('%s is none', (given) => {
    expect(parseAddressRange(given)).toBeNull()
  })

  test.each([
    '1::2::3',
    '2001:db8',
    '2001:db8::/129',
    ':1',
    '1:2:3:4:5:6:7:8:9',
    'g::',
    '1:2:3:4:5:6:7::8:9',
  ])('%s is none either', (given) => {
    expect(parseAddressRange(given)).toBeNull()
  })

  test('is read as Node reads it', () => {
    const random = new Random(2)
    const characters = '0123456789abcdef:::.../%'
    for (let i = 0; i < 50_000; i++) {
      const text = Array.from({ length: random.between(1, 20) }, () => characters[random.below(22)]).join('')
      if (text.includes('.') && text.includes(':')) continue
      expect([text, parseAddressRange(text) !== null]).toEqual([text, isIP(text) !== 0])
    }
  })

  test('of this machine is recognized', () => {
    for (const own of ['', '127.0.0.1', '127.9.9.9', '::1', '0:0:0:0::/64'])
      expect(isThisMachine(own)).toBe(true)
    for (const other of ['203.0.113.7', '2001:db8:0:0::/64']) expect(isThisMachine(other)).toBe(false)
  })
})

test('the narrowest of several networks with an address is found', () => {
  const ranges = new AddressRanges<string>()
  expect(ranges.isEmpty).toBe(true)
  const all = ['0.0.0.0/0', '10.0.0.0/8', '10.1.0.0/16', '10.1.2.3', '2001:db8::/32', '2001:db8:1:2::/64']
  for (const text of all) ranges.set(parseAddressRange(text)!, text)
  expect(ranges.of('10.1.2.3')).toBe('10.1.2.3')
  expect(ranges.of('10.1.2.4')).toBe('10.1.0.0/16')
  expect(ranges.of('10.2.0.1')).toBe('10.0.0.0/8')
  expect(ranges.of('192.0.2.1')).toBe('0.0.0.0/0')
  expect(ranges.of('2001:db8:1:2::9')).toBe('2001:db8:1:2::/64')
  expect(ranges.of('2001:db8:9::9')).toBe('2001:db8::/32')
  expect(ranges.of('2001:db9::9')).toBeUndefined()
  expect(ranges.of('no address')).toBeUndefined()
  for (const text of all) ranges.delete(parseAddressRange(text)!)
  expect([ranges.isEmpty, ranges.of('10.1.2.3')]).toEqual([true, undefined])
})
