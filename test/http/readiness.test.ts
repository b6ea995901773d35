import { expect, test } from 'vitest'
import { type ReadinessFacts, readinessOf } from '../../src/http/readiness.ts'

const GOOD: ReadinessFacts = {
  phase: null,
  health: { state: 'ok', detail: '' },
  closedListeners: [],
  clients: 1,
  clientsMax: 2,
  sockets: 1,
  socketsMax: 2,
}

test.each<[string, Partial<ReadinessFacts>, RegExp]>([
  ['starts or stops', { phase: 'The broker is starting.' }, /^The broker is starting\.$/],
  ['recovers', { health: { state: 'recovering', detail: 'EIO' } }, /recovered: EIO\./],
  [
    'refuses',
    { health: { state: 'refusing', detail: 'the disk is full' } },
    /refuses new work: the disk is full/,
  ],
  ['misses a listener', { closedListeners: ['mqtts'] }, /'mqtts' is not open/],
  ['has all clients', { clients: 2 }, /All 2 clients of limits\.connections_max/],
  ['has all connections', { sockets: 2 }, /All 2 connections .* open files/],
])('a broker that %s is not ready, and says why', (_name, facts, reason) => {
  const { isReady, reasons } = readinessOf({ ...GOOD, ...facts })
  expect(isReady).toBe(false)
  expect(reasons.join(' ')).toMatch(reason)
})

test('a broker that makes room takes work, so it is ready, and says what it does', () => {
  expect(readinessOf(GOOD)).toEqual({ isReady: true, reasons: [] })
  const pressed = readinessOf({ ...GOOD, health: { state: 'pressed', detail: 'memory' } })
  expect(pressed).toEqual({ isReady: true, reasons: ['The broker makes room: memory.'] })
})
