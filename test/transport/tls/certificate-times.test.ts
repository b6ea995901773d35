import { expect, test } from 'vitest'
import {
  revocationListProblem,
  validityProblems,
  validityText,
} from '../../../src/transport/tls/certificate-times.ts'

const DAY_MS = 86_400_000
const NOW_MS = Date.UTC(2026, 10, 29, 12)

const at = (from: number, to: number) => ({
  validFrom: NOW_MS + from * DAY_MS,
  validTo: NOW_MS + to * DAY_MS,
  listEnd: null,
})

test.each([
  [at(-300, 34.5), 'is valid until 2027-01-03, 34 days', true],
  [at(-300, 0.1), 'is valid until 2026-11-29, 0 days', true],
  [at(-300, -0.1), 'expired on 2026-11-29, less than a day ago: clients refuse it', false],
  [at(-300, -1.5), 'expired on 2026-11-28, 1 day ago: clients refuse it', false],
  [at(-300, -33), 'expired on 2026-10-27, 33 days ago: clients refuse it', false],
  [at(2.25, 300), 'is not valid before 2026-12-01 18:00 UTC: clients refuse it. Is the clock right?', false],
])('a certificate of %o is described as: %s [field-D25]', (times, state, isSound) => {
  expect(validityText(times, NOW_MS)).toBe(state)
  expect(validityProblems(times, NOW_MS)).toEqual(isSound ? [] : [`the certificate ${state}`])
})

test('a revocation list that is out of date is described as such [field-C18]', () => {
  const endMs = NOW_MS - 3 * DAY_MS
  const times = { ...at(-1, 300), listEnd: { authority: 'CN=Devices', endMs } }
  expect(revocationListProblem(times, endMs)).toBeNull()
  expect(validityProblems(times, NOW_MS)).toEqual([
    'the list of revoked certificates by CN=Devices expired on 2026-11-26 12:00 UTC, 3 days ago: ' +
      'every client certificate of this authority is refused',
  ])
})
