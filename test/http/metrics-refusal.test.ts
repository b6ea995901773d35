import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { type MetricsRequest, metricsRefusal } from '../../src/http/metrics-refusal.ts'

const TOKEN = 'one-of-the-tokens'
const HASH = createHash('sha256').update(TOKEN).digest('hex')

function status(given: Partial<MetricsRequest>, metricsTokenHashes: string[] = []): number {
  const request = {
    remoteAddress: '127.0.0.1',
    authorization: undefined,
    accept: undefined,
    isForwarded: false,
    ...given,
  }
  return metricsRefusal(request, { metricsTokenHashes })?.status ?? 200
}

test('without tokens, only this machine gets metrics', () => {
  expect(status({})).toBe(200)
  expect(status({ remoteAddress: '::1' })).toBe(200)
  expect(status({ remoteAddress: '::ffff:127.0.0.1' })).toBe(200)
  expect(status({ remoteAddress: '192.0.2.1' })).toBe(403)
  expect(status({ remoteAddress: '' })).toBe(403)
  expect(status({ isForwarded: true })).toBe(403)
  expect(status({ remoteAddress: '192.0.2.1', authorization: `Bearer ${TOKEN}` })).toBe(403)
})

test('with tokens, everybody needs one of them, this machine too', () => {
  const hashes = ['0'.repeat(64), HASH.toUpperCase()]
  expect(status({}, hashes)).toBe(401)
  expect(status({ authorization: `Basic ${TOKEN}` }, hashes)).toBe(401)
  expect(status({ authorization: `Bearer ${TOKEN}x` }, hashes)).toBe(401)
  expect(status({ authorization: `Bearer ${HASH}` }, hashes)).toBe(401)
  expect(status({ authorization: `Bearer ${TOKEN} ${TOKEN}` }, hashes)).toBe(401)
  expect(status({ authorization: `bearer ${TOKEN}`, remoteAddress: '192.0.2.1' }, hashes)).toBe(200)
  expect(status({ authorization: `Bearer ${TOKEN}`, isForwarded: true }, hashes)).toBe(200)
})

test.each([
  ['application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1', 200],
  ['*/*', 200],
  ['Text/*', 200],
  ['application/json', 406],
  ['application/json, */*;q=0', 406],
  ['text/plain;q=0, */*', 406],
  ['', 406],
])('a scraper that accepts %j gets %i', (accept, expected) => {
  expect(status({ accept })).toBe(expected)
})
