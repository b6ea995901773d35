import { expect, test } from 'vitest'
import { processMatches } from '../../src/admin/matches.ts'
import type { Inventory } from '../../src/broker/inventory.ts'

test('clients that reconnect at once do not keep a command for all from ending [field-A4]', async () => {
  const connected = new Set(['a', 'b'])
  let kicks = 0
  const kick = (name: string): boolean => {
    if (++kicks > 10) throw new Error('it does not end')
    connected.delete(name)
    connected.add(name)
    return true
  }
  const inventory = { isBehind: false, settled: () => Promise.resolve() } as Inventory
  const steps = (function* () {
    yield* connected
  })()
  const found = (name: string) => ({ name, mayComeBack: true, isConnected: true })
  const done = await processMatches(inventory, steps, found, kick, () => {})
  expect(done).toEqual({ count: 2, names: ['a', 'b'], connected: 2, messages: 0 })
})
