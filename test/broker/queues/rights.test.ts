/** Rights to put messages into queues whose Shared Subscription gives them out under their own topics. */
import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import type { Given, TestClient, World } from '../harness.ts'
import { inMemory, jobs, lines } from './queue-world.ts'

/** Everybody may publish to these topics. With `isLate`, the answer comes later. */
function publishing(topics: readonly string[], isLate = false): Policy {
  return {
    authorizePublish: (_view, topic) => {
      const isAllowed = topics.includes(topic)
      return isLate ? Promise.resolve(isAllowed) : isAllowed
    },
  }
}

async function member(world: World): Promise<TestClient> {
  const client = await world.connect('m')
  expect(await client.subscribe('$share/jobs/jobs/#', 1)).toBe(1)
  return client
}

async function put(world: World, topic: string): Promise<unknown> {
  const client = await world.connect('p')
  const [packet] = await client.publish(topic, 'x', 1)
  return (packet as { reasonCode?: number } | undefined)?.reasonCode
}

describe.each([false, true])('a policy whose answer is late: %s', (isLate) => {
  it('is asked about the topic that members of the Shared Subscription see', async () => {
    const world = await inMemory(jobs(), { policy: publishing(['$queue/jobs/jobs/x'], isLate) })
    const m = await member(world)
    expect(await put(world, '$queue/jobs/jobs/x')).toBe(0x87)
    expect(lines(m)).toEqual([])
    world.server.usePolicy(publishing(['$queue/jobs/jobs/x', 'jobs/x'], isLate))
    expect(await put(world, '$queue/jobs/jobs/x')).toBe(0)
    await world.settle()
    expect(lines(m)).toEqual(['jobs/x x 1'])
  })

  it('is not asked about it where no Shared Subscription consumes the queue', async () => {
    const world = await inMemory(jobs({ share: false }), {
      policy: publishing(['$queue/jobs/jobs/x'], isLate),
    })
    expect(await put(world, '$queue/jobs/jobs/x')).toBe(0)
  })

  it('is asked about it for a Will as well', async () => {
    const world = await inMemory(jobs(), { policy: publishing(['$queue/jobs/jobs/x'], isLate) })
    const will: Given = { topic: '$queue/jobs/jobs/x', payload: 'x', qos: 1, retain: false, properties: {} }
    expect((await world.connect('w', { will })).connack).toMatchObject({ reasonCode: 0x87 })
    world.server.usePolicy(publishing(['$queue/jobs/jobs/x', 'jobs/x'], isLate))
    const m = await member(world)
    const w = await world.connect('w', { will })
    world.server.usePolicy(publishing(['$queue/jobs/jobs/x'], isLate))
    await w.send({ cmd: 'disconnect', reasonCode: 4, properties: {} })
    await world.settle()
    expect(lines(m)).toEqual([])
  })
})
