import { expect, it } from 'vitest'
import { lasting, World } from './harness.ts'

/** Records how much company each commit was told of. */
function countCompany(world: World): () => number {
  let company = 0
  const commit = world.ledger.commit.bind(world.ledger)
  world.ledger.commit = (count = 0) => {
    company += count
    commit()
  }
  return () => {
    const counted = company
    company = 0
    return counted
  }
}

it('a publisher is alone even if each of its subscribers acknowledges in a commit of its own', async () => {
  const world = await World.make()
  const readers = await Promise.all(['r1', 'r2', 'r3', 'r4'].map((id) => world.connect(id, lasting())))
  for (const reader of readers) await reader.subscribe('a', 1)
  const publisher = await world.connect('pub', {}, 4)
  await world.pass(1)
  world.ledger.automatic = false
  const companyNow = countCompany(world)
  for (let count = 0; count < 20; count++) {
    await publisher.publish('a', `${count}`, 1)
    await world.commit()
    expect(publisher.got()).toMatchObject([{ cmd: 'puback' }])
    for (const reader of readers) {
      const [packet] = reader.got()
      await reader.send({ cmd: 'puback', messageId: (packet as { messageId: number }).messageId })
      await world.commit()
    }
    world.monotonic += 1
  }
  // In 20 ms, with a pace of 4 ms: no more than one client in each pace.
  expect(companyNow()).toBeLessThanOrEqual(5)
})

it('a client that connects anew for each message is alone', async () => {
  const world = await World.make()
  const companyNow = countCompany(world)
  for (let count = 0; count < 20; count++) {
    const client = await world.connect('pub', lasting())
    await client.publish('a', `${count}`, 1, { retain: true })
    await client.vanish()
    world.monotonic += 1
  }
  expect(companyNow()).toBeLessThanOrEqual(5)
})

it('clients that publish now and then are company', async () => {
  const world = await World.make()
  const clients = await Promise.all(['c1', 'c2', 'c3', 'c4'].map((id) => world.connect(id)))
  await world.pass(1)
  world.ledger.automatic = false
  const companyNow = countCompany(world)
  for (let count = 0; count < 20; count++) {
    await clients[count % 4]!.publish('a', `${count}`, 1, { retain: true })
    await world.commit()
    world.monotonic += 2
  }
  expect(companyNow()).toBeGreaterThan(15)
})
