import { expect, test } from 'vitest'
import { YoungGeneration } from '../../src/runtime/young-generation.ts'

test('the young generation of V8 may grow only while many messages come', () => {
  const flags: string[] = []
  const counters = { publishReceived: 1_000_000, publishSent: 0 }
  const young = new YoungGeneration((flag) => flags.push(flag.replace('--semi-space-growth-factor=', '')))
  expect(flags).toEqual(['1'])
  young.watch(counters)
  young.look()
  counters.publishReceived += 2000
  counters.publishSent += 2999
  young.look()
  expect(flags).toEqual(['1'])
  counters.publishReceived += 2000
  counters.publishSent += 3000
  young.look()
  expect(flags).toEqual(['1', '2'])
  counters.publishSent += 6000
  young.look()
  expect(flags).toEqual(['1', '2'])
  young.look()
  expect(flags).toEqual(['1', '2', '1'])
  young.stop()
  expect(flags).toEqual(['1', '2', '1', '2'])
})
