/** Examples 1 to 10 of queues: declared by use and by configuration, the forms, rights. */
import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import type { TestClient, Version } from '../harness.ts'
import { answer, DiskWorld, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

/** SUBSCRIBE to several filters; resolves to the SUBACK. */
function subscribeAll(client: TestClient, filters: readonly string[], nl = false) {
  const subscriptions = filters.map((topic) => ({ topic, qos: 1, nl, rap: false, rh: 0 }))
  return answer(client, 'suback', { cmd: 'subscribe', messageId: 900, subscriptions })
}

describe('first steps', () => {
  it('1: a message to an addressed queue waits for the first consumer', async () => {
    const world = await inMemory()
    const publisher = await world.connect('p', {}, 4)
    expect(await publisher.publish('$queue/hello', 'Hello', 1)).toMatchObject([{ cmd: 'puback' }])
    const consumer = await world.connect('c', {}, 4)
    expect(await consumer.subscribe('$queue/hello', 1)).toBe(1)
    const [got] = publishes(consumer)
    expect(got).toMatchObject({ id: 1, line: '$queue/hello Hello 1' })
    await puback(consumer, 1)
    expect(publishes(consumer)).toEqual([])
    const queue = world.server.queues!.definitions.byName.get('hello')!
    expect(queue).toMatchObject({ origin: 'use', properties: { filters: [] } })
    expect(queue.group.states.messages).toBe(0)
  })

  it('2: … and so it does over a crash', async () => {
    const disk = await DiskWorld.make()
    const publisher = await disk.connect('p')
    expect(await publisher.publish('$queue/hello', 'Hello', 1)).toEqual([])
    await disk.settle()
    expect(publisher.got()).toMatchObject([{ cmd: 'puback', reasonCode: 0 }])
    await disk.kill()
    const consumer = await disk.connect('c')
    expect(await consumer.subscribe('$queue/hello', 1)).toBe(1)
    await disk.settle()
    expect(lines(consumer)).toEqual(['$queue/hello Hello 1'])
    await puback(consumer, 1)
    await disk.kill()
    const next = await disk.connect('d')
    await next.subscribe('$queue/hello', 1)
    await disk.settle()
    expect(lines(next)).toEqual([])
  })

  it('3: a queue takes what matches its filter before any consumer exists, at QoS 0 too', async () => {
    const disk = await DiskWorld.make(jobs())
    const publisher = await disk.connect('p', {}, 4)
    await publisher.publish('jobs/resize/17', 'A', 1)
    await disk.kill()
    const later = await disk.connect('p', {}, 4)
    await later.publish('jobs/mail/3', 'B', 0)
    await later.publish('other', 'C', 1)
    const consumer = await disk.connect('c', {}, 4)
    await consumer.subscribe('$queue/jobs/#', 1)
    await disk.settle()
    expect(lines(consumer)).toEqual(['$queue/jobs/jobs/resize/17 A 1'])
    await puback(consumer, 1)
    await disk.settle()
    expect(lines(consumer)).toEqual(['$queue/jobs/jobs/mail/3 B 1'])
  })

  it('4: without a filter, the topic arrives as a property', async () => {
    const world = await inMemory(jobs())
    await (await world.connect('p')).publish('jobs/resize/17', 'A', 1)
    const consumer = await world.connect('c')
    await consumer.subscribe('$queue/jobs', 1)
    expect(consumer.got()).toMatchObject([
      {
        cmd: 'publish',
        topic: '$queue/jobs',
        qos: 1,
        dup: false,
        retain: false,
        properties: { userProperties: { 'x-topic': 'jobs/resize/17' } },
      },
    ])
  })

  it('5: a Shared Subscription of its name and filter gets the messages as they are', async () => {
    const world = await inMemory(jobs())
    const publisher = await world.connect('p')
    await publisher.publish('jobs/a', '1', 1)
    await publisher.publish('jobs/b', '2', 0)
    const members = [await world.connect('m1', {}, 4), await world.connect('m2', {}, 4)]
    for (const member of members) await member.subscribe('$share/jobs/jobs/#', 1)
    const got: string[] = []
    for (let round = 0; round < 3; round++) {
      for (const member of members) {
        for (const { id, line } of publishes(member)) {
          got.push(line)
          if (id > 0) await puback(member, id)
        }
      }
    }
    expect(got.sort()).toEqual(['jobs/a 1 1', 'jobs/b 2 0'])
  })

  it('5: members of before the declaration become consumers, and members again after the queue', async () => {
    const world = await inMemory()
    const member = await world.connect('m')
    await member.subscribe('$share/jobs/jobs/#', 1)
    world.server.queues!.configure({ ...world.server.queues!.definitions.options, ...jobs() })
    const queue = world.server.queues!.definitions.byName.get('jobs')!
    expect(queue.consumers.size).toBe(1)
    const publisher = await world.connect('p')
    await publisher.publish('jobs/a', 'kept', 1)
    expect(lines(member)).toEqual(['jobs/a kept 1'])
    world.server.queues!.definitions.delete(queue, 'operator')
    await publisher.publish('jobs/a', 'shared', 1)
    expect(lines(member)).toEqual(['jobs/a shared 1'])
    expect(member.closed).toBe(false)
  })

  it('6: SUBSCRIBE with a filter declares a queue, which goes on over a crash', async () => {
    const disk = await DiskWorld.make()
    const first = await disk.connect('c')
    // The declaration and SUBACK are one commit.
    expect(await first.subscribe('$queue/w/in/#', 1)).toBe(undefined)
    await disk.settle()
    expect(first.got()).toMatchObject([{ cmd: 'suback', granted: [1] }])
    await first.vanish()
    await (await disk.connect('p')).publish('in/1', 'x', 1)
    await disk.kill()
    const consumer = await disk.connect('c')
    await consumer.subscribe('$queue/w/#', 1)
    await disk.settle()
    expect(lines(consumer)).toEqual(['$queue/w/in/1 x 1'])
  })

  it.each([
    [5, 0x8f],
    [4, 0x80],
  ] as const)('7: in version %i, a filter that is no address is refused with 0x%x', async (version, code) => {
    const world = await inMemory(jobs())
    const client = await world.connect('c', {}, version as Version)
    const filters = [
      '$queue/+',
      '$queue/jobs/orders/#',
      '$queue/jobs;prefetch=0',
      '$delayed/#',
      '$share/x/$queue/jobs',
    ]
    const suback = await subscribeAll(client, filters)
    expect(suback.granted).toEqual(filters.map(() => code))
    if (version === 5) expect(suback.properties?.reasonString).toMatch(/wildcard/)
    const second = await subscribeAll(client, ['$queue/jobs/orders/#'])
    if (version === 5) {
      expect(second.properties?.reasonString).toBe('queue jobs takes jobs/#, not orders/#')
    }
    expect(client.closed).toBe(false)
  })

  it('7: no Reason String for a client that does not want problem information', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c', { properties: { requestProblemInformation: false } })
    const suback = await subscribeAll(client, ['$queue/+'])
    expect(suback).toMatchObject({ granted: [0x8f] })
    expect(suback.properties?.reasonString).toBe(undefined)
  })

  it('8: No Local and RETAIN are refused, and nothing is kept', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c')
    expect(await subscribeAll(client, ['$queue/jobs'], true)).toMatchObject({ granted: [0x83] })
    const packet = { cmd: 'publish', topic: '$queue/hello', payload: 'x', qos: 1, messageId: 5, retain: true }
    expect(await answer(client, 'puback', packet)).toMatchObject({ reasonCode: 0x83 })
    await client.subscribe('$queue/hello', 1)
    expect(lines(client)).toEqual([])
    expect(world.server.state.retained.count).toBe(0)
  })

  it('9: rights are asked about the name of the queue, and taken away at once', async () => {
    const allowed = new Set(['subscribe $queue/jobs', 'publish jobs/1'])
    const policy: Policy = {
      authenticate: ({ clientId }) => ({ allow: true, userName: clientId }),
      authorizeSubscribe: ({ userName }, filter) => userName === 'w' && allowed.has(`subscribe ${filter}`),
      authorizePublish: ({ userName }, topic) => userName === 'd' && allowed.has(`publish ${topic}`),
      authorizeDeclare: () => false,
      authorizeReceive: () => false,
    }
    const world = await inMemory(jobs(), { policy })
    const w = await world.connect('w')
    expect(await w.subscribe('$queue/jobs/#', 1)).toBe(1)
    expect(await w.subscribe('$queue/other', 1)).toBe(0x87)
    const d = await world.connect('d')
    expect(await d.publish('$queue/jobs', 'x', 1)).toMatchObject([{ reasonCode: 0x87 }])
    expect(await d.publish('jobs/1', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(lines(w)).toEqual(['$queue/jobs/jobs/1 x 1'])
    allowed.delete('subscribe $queue/jobs')
    world.server.usePolicy(policy)
    await world.settle()
    expect(w.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x87 }])
    const { group } = world.server.queues!.definitions.byName.get('jobs')!
    expect(group.states).toMatchObject({ ready: 1, inFlight: 0, messages: 1 })
    expect(group.look(0, 1)).toMatchObject({ state: 'ready', failures: 0 })
  })

  it('10: two filters that differ in a character are two consumers', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c')
    expect(await client.subscribe('$queue/jobs', 1)).toBe(1)
    expect(await client.subscribe('$queue/jobs;prefetch=1', 1)).toBe(1)
    const { consumers, group } = world.server.queues!.definitions.byName.get('jobs')!
    expect([...consumers].map(({ filter }) => filter)).toEqual(['$queue/jobs', '$queue/jobs;prefetch=1'])
    expect(group.memberCount).toBe(2)
    expect(await client.unsubscribe('$queue/jobs')).toBe(0)
    expect(await client.unsubscribe('$queue/jobs')).toBe(0x11)
    expect(group.memberCount).toBe(1)
  })
})
