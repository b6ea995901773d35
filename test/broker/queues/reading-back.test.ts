/** Messages in flight that are read back from their logs, and what may happen meanwhile. */
import { describe, expect, it, vi } from 'vitest'
import { connectPacket, lasting } from '../harness.ts'
import { DiskWorld, jobs, publishes } from './queue-world.ts'

const COUNT = 20

/** Kills a broker while a client has large messages, each in a segment of its own. Returns their numbers. */
async function killedWithConsumer(): Promise<{ disk: DiskWorld; ids: number[] }> {
  const disk = await DiskWorld.make(jobs())
  const consumer = await disk.connect('c', lasting())
  await consumer.subscribe(`$queue/jobs;prefetch=${COUNT}/#`, 1)
  const producer = await disk.connect('p')
  for (let each = 0; each < COUNT; each++) await producer.publish('jobs/a', `${each}`.padEnd(70_000), 1)
  await disk.settle()
  const ids = publishes(consumer).map(({ id }) => id)
  expect(ids.length).toBe(COUNT)
  await disk.kill()
  return { disk, ids }
}

describe('while messages in flight are read back', () => {
  it('the client may acknowledge them', async () => {
    const { disk, ids } = await killedWithConsumer()
    const again = disk.world.open(5)
    await again.send({ ...connectPacket('c', 5), ...lasting() })
    for (const messageId of ids) void again.send({ cmd: 'puback', messageId })
    await disk.settle()
    expect(disk.world.fatal).toBe(null)
    expect(disk.world.server.queues!.definitions.byName.get('jobs')!.group.states.messages).toBe(0)
    await again.publish('jobs/a', 'next', 1)
    await disk.settle()
    expect(publishes(again).at(-1)!.line).toBe(`$queue/jobs;prefetch=${COUNT}/jobs/a next 1`)
  })

  it('the operator may delete their queue', async () => {
    const { disk } = await killedWithConsumer()
    const again = disk.world.open(5)
    await again.send({ ...connectPacket('c', 5), ...lasting() })
    const { definitions } = disk.world.server.queues!
    definitions.delete(definitions.byName.get('jobs')!, 'operator')
    await disk.settle()
    expect(disk.world.fatal).toBe(null)
  })
})

it('dead letters of other queues go on when a queue is deleted while its message is read', async () => {
  const declared = ['one', 'two'].map((name) => ({ name, properties: {} }))
  const disk = await DiskWorld.make({ declared })
  const consumer = await disk.connect('c')
  for (const { name } of declared) {
    await consumer.subscribe(`$queue/${name}`, 1)
    await consumer.publish(`$queue/${name}`, 'x', 1)
  }
  await disk.settle()
  const { definitions } = disk.world.server.queues!
  const [one, two] = declared.map(({ name }) => definitions.byName.get(name)!)
  const { logs } = disk.store
  vi.spyOn(logs, 'segment').mockReturnValueOnce(null)
  vi.spyOn(logs, 'load').mockImplementationOnce(async () => {
    definitions.delete(one!, 'operator')
    throw new Error('no definition has the log')
  })
  for (const { id } of publishes(consumer)) {
    void consumer.send({ cmd: 'puback', messageId: id, reasonCode: 0x99 })
  }
  await disk.settle()
  expect(two!.group.states.messages).toBe(0)
  expect(definitions.byName.get('two.dead')!.group.states.messages).toBe(1)
})
