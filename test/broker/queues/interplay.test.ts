/** What queues make of options and properties of SUBSCRIBE, and of other parts of the Server. */
import { describe, expect, it } from 'vitest'
import type { Given } from '../harness.ts'
import { DiskWorld, inMemory, jobs, publishes } from './queue-world.ts'

const LASTING: Given = { clean: false, properties: { sessionExpiryInterval: 1000 } }

describe('User Properties of SUBSCRIBE', () => {
  it('hold after a restart, as far as the filter does not say otherwise', async () => {
    const disk = await DiskWorld.make(jobs())
    const asking = await disk.connect('asking', LASTING)
    const userProperties = { 'queue-prefetch': '3', 'queue-meta': 'yes' }
    await asking.subscribe('$queue/jobs', 1, {}, { userProperties })
    await asking.subscribe('$queue/jobs;prefetch=auto;meta=no', 1, {}, { userProperties })
    await asking.subscribe('$queue/jobs/#', 1)
    const said = (): unknown[] => {
      const { consumers } = disk.world.server.queues!.definitions.byName.get('jobs')!
      return [...consumers].map(({ filter, parameters: { prefetch, meta } }) => [
        filter,
        prefetch,
        meta === true,
      ])
    }
    const wished = [
      ['$queue/jobs', 3, true],
      ['$queue/jobs/#', null, false],
      ['$queue/jobs;prefetch=auto;meta=no', 'auto', false],
    ]
    expect(said().sort()).toEqual(wished)
    await disk.kill()
    expect(said().sort()).toEqual(wished)
    await disk.kill()
    expect(said().sort()).toEqual(wished)
  })

  it('are replaced by those of the next SUBSCRIBE with the same filter [MQTT-3.8.4-3]', async () => {
    const disk = await DiskWorld.make(jobs())
    const client = await disk.connect('c', LASTING)
    await client.subscribe('$queue/jobs', 1, {}, { userProperties: { 'queue-meta': 'yes' } })
    await client.subscribe('$queue/jobs', 1)
    await client.vanish()
    await disk.kill()
    const again = await disk.connect('c', LASTING)
    const publisher = await disk.connect('p')
    await publisher.publish('jobs/a', 'x', 1)
    await disk.settle()
    const [got] = publishes(again)
    expect(got).toMatchObject({ line: '$queue/jobs x 1', user: { 'x-topic': 'jobs/a' } })
    expect(got!.user).not.toHaveProperty('x-sequence')
  })

  it('add the number, time and key of each message', async () => {
    const world = await inMemory(jobs({ key: 'level:2' }))
    const client = await world.connect('c')
    await client.publish('jobs/mail/7', 'x', 1)
    await client.subscribe('$queue/jobs/#', 1, {}, { userProperties: { 'queue-meta': 'yes' } })
    const enqueued = `${world.wall}`
    expect(publishes(client)).toMatchObject([
      { user: { 'x-sequence': '1', 'x-enqueued': enqueued, 'x-key': 'mail' } },
    ])
  })
})
