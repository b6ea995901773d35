/** Work that one client can cause is counted, and does not grow with what it has. */
import { expect, it } from 'vitest'
import { inMemory, lines, puback, publishes } from './queue-world.ts'

it('an acknowledgement does not cost more for a client that is many consumers', async () => {
  const count = 1000
  const world = await inMemory({ declared: [{ name: 'box', properties: { prefetch: 2 } }] })
  const client = await world.connect('c')
  for (let one = 1; one <= count; one++) await client.subscribe(`$queue/box;prefetch=${one}`, 1)
  const publisher = await world.connect('p')
  await publisher.publish('$queue/box', 'x', 1)
  const [got] = publishes(client)
  const { work } = world.server.state
  const before = work.units
  await puback(client, got!.id)
  expect(work.units - before).toBeLessThan(count)
})

it('consumers that find no room in their Session are served in turn, as it has room again', async () => {
  const names = ['a', 'b', 'c']
  const world = await inMemory({ declared: names.map((name) => ({ name, properties: {} })) })
  const client = await world.connect('c', { properties: { receiveMaximum: 1 } })
  for (const name of names) await client.subscribe(`$queue/${name}`, 1)
  const publisher = await world.connect('p')
  for (const name of names)
    for (const payload of ['1', '2']) await publisher.publish(`$queue/${name}`, payload, 1)
  const seen: string[] = []
  for (let one = 0; one < 6; one++) {
    await world.settle()
    const [got] = publishes(client)
    seen.push(got!.line)
    await puback(client, got!.id)
  }
  expect([...seen].sort()).toEqual(names.flatMap((name) => [`$queue/${name} 1 1`, `$queue/${name} 2 1`]))
  // Each has its turn before one of them has a second one.
  expect(new Set(seen.slice(0, 3)).size).toBe(3)
  expect(new Set(seen.slice(0, 3).map((line) => line[7])).size).toBe(3)
  await world.settle()
  expect(lines(client)).toEqual([])
})
