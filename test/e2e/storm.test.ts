/** A fleet with passwords comes back all at once after `kill -9`; no client tries again after a refusal. */
import { describe, expect, test } from 'vitest'
import { type StormOptions, storm } from '../../scripts/fairness/storm.mjs'
import { MAIN } from './process.ts'

const QUIET = { main: MAIN, pairs: 2, perSecond: 5, quietMs: 0 }

async function comesBack(options: StormOptions): Promise<void> {
  const { isIn, refused, neverIn, sessionsPresent, willsPublished } = await storm({ ...QUIET, ...options })
  expect({ isIn, refused, neverIn, sessionsPresent, willsPublished }).toEqual({
    isIn: options.clients,
    refused: 0,
    neverIn: 0,
    sessionsPresent: options.clients,
    willsPublished: 0,
  })
}

describe('after kill -9 a fleet is let in with its Sessions, nobody refused, no Will published', () => {
  test('with passwords that Godwit made, and with chosen ones that it remembers', async () => {
    await comesBack({ clients: 300, passwords: 'mixed', version: 5 })
  })

  test('with chosen passwords that are not remembered: clients wait and are let in one by one', async () => {
    await comesBack({ clients: 200, passwords: 'chosen', remembers: false })
  })

  test('over TLS', async () => {
    await comesBack({ clients: 100, passwords: 'generated', tls: true })
  })
})
