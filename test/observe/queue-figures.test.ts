import { describe, expect, test } from 'vitest'
import { OTHER_QUEUES, queueFigures } from '../../src/observe/queue-figures.ts'
import { answer, inMemory, publishes } from '../broker/queues/queue-world.ts'

async function filled() {
  const world = await inMemory()
  const publisher = await world.connect('p')
  for (const [queue, count] of [
    ['small', 1],
    ['large', 4],
    ['other-a', 0],
    ['medium', 2],
  ] as const) {
    await world.server.queueOperator!.declare(queue, {}, 'operator')
    for (let n = 0; n < count; n++) await publisher.publish(`$queue/${queue}`, 'x', 1)
  }
  return world
}

describe('the figures of queues', () => {
  test('name the largest, and join the others', async () => {
    const world = await filled()
    const figures = queueFigures(world.server.queueOperator, 2)
    expect(
      figures.map(({ name, messages, ready, counters }) => [name, messages, ready, counters.in]),
    ).toEqual([
      ['large', 4, 4, 4],
      ['medium', 2, 2, 2],
      [OTHER_QUEUES, 1, 1, 1],
    ])
    expect(queueFigures(world.server.queueOperator)).toHaveLength(4)
    expect(queueFigures(null)).toEqual([])
  })

  test('tell how long messages waited, and wait', async () => {
    const world = await filled()
    await world.pass(100)
    const consumer = await world.connect('c')
    await answer(consumer, 'suback', {
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: '$queue/large;prefetch=1', qos: 1 }],
    })
    expect(publishes(consumer)).toHaveLength(1)
    await world.pass(20)
    const [large] = queueFigures(world.server.queueOperator)
    expect(large).toMatchObject({
      name: 'large',
      inFlight: 1,
      oldestReadySeconds: 120,
      oldestUnacknowledgedSeconds: 20,
      consumerStates: { full: 1 },
    })
    expect(large!.waits!.buckets.filter(({ count }) => count > 0)).toEqual([{ seconds: 262.144, count: 1 }])
    expect(large!.waits!.sumSeconds).toBeCloseTo(100, 0)
    expect(await world.server.queueOperator!.times('small')).toEqual({
      oldestReadySeconds: 120,
      oldestUnacknowledgedSeconds: null,
      waits: null,
    })
  })
})
