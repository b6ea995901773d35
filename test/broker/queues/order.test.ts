/** Examples 25 and 26 of queues: order by key, and one consumer after the other. */
import { expect, it } from 'vitest'
import { lasting, type TestClient } from '../harness.ts'
import { DiskWorld, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

/** Numbers from a seed, below `limit`. */
function numbersFrom(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

it('25: by key, over refusals, lost consumers and kills', async () => {
  const seed = 25
  const below = numbersFrom(seed)
  const [topics, count] = [10, 12]
  const disk = await DiskWorld.make(jobs({ dispatch: 'key', retryDelaySeconds: 0.1, prefetch: 4 }))
  const producer = await disk.connect('p')
  for (let number = 1; number <= count; number++) {
    for (let topic = 0; topic < topics; topic++) await producer.publish(`jobs/${topic}`, `${number}`, 1)
  }
  await disk.settle()
  const accepted = Array.from({ length: topics }, (): number[] => [])
  /** The client that has a message of this topic. */
  const underWay = new Map<string, TestClient>()
  let clients: TestClient[] = []
  const join = async (at: number): Promise<void> => {
    clients[at] = await disk.connect(`c${at}`, lasting())
    await clients[at]!.subscribe('$queue/jobs/#', 1)
    await disk.settle()
  }
  for (const at of [0, 1, 2, 3]) await join(at)
  for (let step = 0; accepted.some((one) => one.length < count); step++) {
    if (step > 4000) throw new Error(`seed ${seed}: ${JSON.stringify(accepted)}`)
    if (step === 20 || step === 60) {
      await disk.kill()
      clients = []
      underWay.clear()
      for (const at of [0, 1, 2, 3]) await join(at)
    }
    const at = below(4)
    const client = clients[at]!
    for (const { id, line } of publishes(client)) {
      const [topic = '', payload] = line.split(' ')
      const other = underWay.get(topic)
      expect(other === undefined || other === client, `seed ${seed}, step ${step}: ${line}`).toBe(true)
      underWay.set(topic, client)
      if (below(20) === 0) {
        await client.vanish()
        for (const [key, holder] of underWay) if (holder === client) underWay.delete(key)
        await join(at)
        break
      }
      const isRefused = below(20) === 0
      if (!isRefused) accepted[Number(topic.split('/').at(-1))]!.push(Number(payload))
      underWay.delete(topic)
      await puback(client, id, isRefused ? { reasonCode: 0x80 } : {})
    }
    await disk.world.pass(0.2)
    await disk.settle()
  }
  const inOrder = Array.from({ length: count }, (_, at) => at + 1)
  expect(accepted).toEqual(accepted.map(() => inOrder))
})

it('26: exclusive: the next one takes over what the first held, which then stands by', async () => {
  const world = await inMemory(jobs({ dispatch: 'exclusive', prefetch: 1 }))
  const a = await world.connect('a')
  const b = await world.connect('b')
  for (const client of [a, b]) await client.subscribe('$queue/jobs/#', 1)
  const producer = await world.connect('p')
  for (const payload of ['1', '2', '3', '4', '5']) await producer.publish('jobs/x', payload, 1)
  const [one] = publishes(a)
  await puback(a, one!.id)
  expect(lines(a)).toEqual(['$queue/jobs/jobs/x 2 1'])
  await a.vanish()
  const again = await world.connect('a')
  await again.subscribe('$queue/jobs/#', 1)
  const got: string[] = []
  for (let found = publishes(b); found.length > 0; found = publishes(b)) {
    for (const { id, line, user } of found) {
      got.push(`${line} ${String(user['x-delivery-count'] ?? '')}`.trim())
      await puback(b, id)
    }
  }
  expect(got).toEqual(['2 1 2', '3 1', '4 1', '5 1'].map((rest) => `$queue/jobs/jobs/x ${rest}`))
  expect(lines(again)).toEqual([])
  const states = [...world.server.queueOperator!.consumers('jobs')].map((row) => row?.state)
  expect(states).toEqual(['open', 'standby'])
})
