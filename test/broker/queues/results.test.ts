/** Results of queues: where they go, who may publish them; and messages that are held meanwhile. */
import { describe, expect, it } from 'vitest'
import { CROWD_MIN } from '../../../src/broker/messages/fan-out.ts'
import { lasting } from '../harness.ts'
import { acknowledge, put, queue, RESULTS, states, working } from './explicit-world.ts'
import { DiskWorld, inMemory, jobs, lines, publishes } from './queue-world.ts'

describe('rights', () => {
  it('who may not consume may not acknowledge', async () => {
    const world = await inMemory(jobs(), {
      policy: {
        authorizeSubscribe: ({ clientId }, topic) => clientId !== 'other' || topic !== '$queue/jobs',
      },
    })
    await put(world, 'x')
    const { worker, tag } = await working(world)
    const other = await world.connect('other')
    expect(await acknowledge(world, other, tag)).toBe(0x87)
    expect(states(world).held).toBe(1)
    // On any connection, if it may.
    const third = await world.connect('third')
    expect(await acknowledge(world, third, tag)).toBe(0)
    expect(worker.closed).toBe(false)
  })

  it('a denied result is dropped and counted; the message is settled', async () => {
    const answers: ((may: boolean) => void)[] = []
    const world = await inMemory(jobs(RESULTS), {
      policy: {
        authorizePublish: ({ clientId }, topic) =>
          clientId !== 'w' ||
          !topic.startsWith('results/') ||
          new Promise<boolean>((resolve) => answers.push(resolve)),
      },
    })
    const reader = await world.connect('reader')
    await reader.subscribe('results/#', 1)
    await put(world, 'x')
    await put(world, 'y')
    const { worker, tag } = await working(world)
    const packet = { cmd: 'publish', payload: '5', qos: 1, messageId: 9 }
    expect(await worker.send({ ...packet, topic: `$ack/jobs/${tag}` }, { cmd: 'pingreq' })).toEqual([])
    expect(states(world).held).toBe(1)
    answers.shift()!(false)
    await world.settle()
    const got = worker.got()
    expect(got.map(({ cmd }) => cmd)).toEqual(expect.arrayContaining(['puback', 'pingresp', 'publish']))
    expect(got[0]).toMatchObject({ cmd: 'puback', messageId: 9 })
    expect(lines(reader)).toEqual([])
    expect(world.server.state.counters.drops['not-authorized']).toBe(1)
    expect(queue(world).group.counts.results).toMatchObject({ published: 0, 'not-authorized': 1 })
    expect(states(world).messages).toBe(1)
  })

  it('a message that is settled while the policy thinks has no second result', async () => {
    const answers: ((may: boolean) => void)[] = []
    const world = await inMemory(jobs(RESULTS), {
      policy: {
        authorizePublish: ({ clientId }) =>
          clientId !== 'w' || new Promise<boolean>((resolve) => answers.push(resolve)),
      },
    })
    const reader = await world.connect('reader')
    await reader.subscribe('results/#', 1)
    await put(world, 'x')
    const { worker, tag } = await working(world)
    await worker.send({ cmd: 'publish', topic: `$ack/jobs/${tag}`, payload: '1', qos: 1, messageId: 9 })
    const other = await world.connect('other')
    expect(await acknowledge(world, other, tag, '2')).toBe(0)
    answers.shift()!(true)
    await world.settle()
    expect(worker.got()).toMatchObject([{ cmd: 'puback', messageId: 9, reasonCode: 0x10 }])
    expect(lines(reader)).toEqual(['results/jobs/a 2 1'])
  })
})

describe('results', () => {
  it('go where the template says', async () => {
    const results = '$queue/out/{queue}/{2}/{1}{9}/{topic}'
    const world = await inMemory(jobs({ results }))
    await put(world, 'x')
    const { worker, tag } = await working(world)
    await acknowledge(world, worker, tag, '5')
    const reader = await world.connect('r')
    await reader.subscribe('$queue/out/#', 1)
    expect(lines(reader)).toEqual(['$queue/out/jobs/a/jobs/jobs/a 5 1'])
  })

  it('are dropped where no topic is named, and counted unless empty', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    await put(world, 'y')
    const { worker, tag } = await working(world)
    expect(await acknowledge(world, worker, tag)).toBe(0)
    const [next] = publishes(worker)
    expect(await acknowledge(world, worker, `${next!.user['x-ack']}`, '5')).toBe(0)
    expect(queue(world).group.counts.results).toMatchObject({ published: 0, 'no-topic': 1 })
    expect(states(world).messages).toBe(0)
  })

  it.each(['$SYS/x', '$share/a/b', '$ack/jobs/01.1.AAAAAAAA', '$stream/x', '$delayed/5/x'])(
    'to %s are dropped and counted',
    async (responseTopic) => {
      const world = await inMemory(jobs())
      await put(world, 'x', { properties: { responseTopic } })
      const { worker, tag } = await working(world)
      expect(await acknowledge(world, worker, tag, '5')).toBe(0)
      expect(queue(world).group.counts.results).toMatchObject({ 'invalid-topic': 1 })
      expect(states(world).messages).toBe(0)
    },
  )

  it('an empty one answers a request all the same', async () => {
    const world = await inMemory(jobs())
    const requester = await world.connect('r')
    await requester.subscribe('answers', 1)
    await put(world, 'x', { properties: { responseTopic: 'answers' } })
    const { worker, tag } = await working(world)
    await acknowledge(world, worker, tag)
    expect(lines(requester)).toEqual(['answers  1'])
  })

  it('a full queue of answers drops the result, and never the settlement', async () => {
    const declared = [
      { name: 'jobs', properties: { filters: ['jobs/#'] } },
      { name: 'answers', properties: { messagesMax: 1 } },
    ]
    const world = await inMemory({ declared })
    for (const payload of ['x', 'y']) {
      await put(world, payload, { properties: { responseTopic: '$queue/answers' } })
    }
    const { worker, tag } = await working(world)
    expect(await acknowledge(world, worker, tag, '1')).toBe(0)
    const [next] = publishes(worker)
    expect(await acknowledge(world, worker, `${next!.user['x-ack']}`, '2')).toBe(0)
    expect(queue(world).group.counts.results).toMatchObject({ published: 1, overflow: 1 })
    expect([states(world).messages, states(world, 'answers').messages]).toEqual([0, 1])
    expect(world.server.state.counters.drops.overflow).toBe(1)
  })

  it('are retained if the PUBLISH says so, but not in a queue', async () => {
    const world = await inMemory(jobs(RESULTS))
    await put(world, 'x')
    await put(world, 'y', { properties: { responseTopic: '$queue/answers' } })
    const { worker, tag } = await working(world)
    expect(await acknowledge(world, worker, tag, '5', { retain: true })).toBe(0)
    const [next] = publishes(worker)
    expect(await acknowledge(world, worker, `${next!.user['x-ack']}`, '6', { retain: true })).toBe(0)
    const late = await world.connect('late')
    await late.subscribe('results/#', 1)
    await late.subscribe('$queue/answers', 1)
    expect(lines(late)).toEqual(['results/jobs/a 5 1', '$queue/answers 6 1'])
  })

  it('wait for the message to be read, and nothing behind them on that connection goes before', async () => {
    const disk = await DiskWorld.make(jobs(RESULTS))
    await put(disk, 'x')
    const { worker, tag } = await working(disk.world)
    await worker.vanish()
    await disk.kill()
    const reader = await disk.connect('r')
    await reader.subscribe('#', 1)
    const other = await disk.connect('o')
    const publish = { cmd: 'publish', payload: '5', qos: 1 }
    await other.send(
      { ...publish, topic: `$ack/jobs/${tag}`, messageId: 1 },
      { ...publish, topic: 'behind', messageId: 2 },
    )
    await disk.settle()
    expect(other.got()).toMatchObject([
      { cmd: 'puback', messageId: 1 },
      { cmd: 'puback', messageId: 2 },
    ])
    expect(lines(reader)).toEqual(['results/jobs/a 5 1', 'behind 5 1'])
  })

  it('of a request that expired while it was held are published', async () => {
    const world = await inMemory(jobs(RESULTS))
    const reader = await world.connect('r')
    await reader.subscribe('results/#', 1)
    await put(world, 'x', { properties: { messageExpiryInterval: 5 } })
    const { worker, tag } = await working(world)
    await world.pass(30)
    expect(states(world).held).toBe(1)
    expect(await acknowledge(world, worker, tag, '5')).toBe(0)
    expect(lines(reader)).toEqual(['results/jobs/a 5 1'])
  })

  it('go to a crowd, with the settlement in the same commit', async () => {
    const disk = await DiskWorld.make(jobs(RESULTS))
    const crowd = await disk.connect('crowd', lasting())
    const options = { qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    let heard = 0
    for (let count = 0; count < CROWD_MIN; count++) {
      disk.world.server.subscribe('results/#', options, () => heard++)
    }
    await crowd.subscribe('results/#', 1)
    await put(disk, 'x')
    const { worker, tag } = await working(disk.world)
    await worker.send({ cmd: 'publish', topic: `$ack/jobs/${tag}`, payload: '5', qos: 1, messageId: 9 })
    await disk.settle()
    expect(worker.got()).toMatchObject([{ cmd: 'puback', messageId: 9 }])
    expect(lines(crowd)).toEqual(['results/jobs/a 5 1'])
    expect(heard).toBe(CROWD_MIN)
    expect(states(disk).messages).toBe(0)
  })
})

describe('what happens to a queue while a message is held', () => {
  it('purge and move leave it; delete takes it, and its tag is none any more', async () => {
    const world = await inMemory({
      declared: [
        { name: 'jobs', properties: { filters: ['jobs/#'] } },
        { name: 'other', properties: {} },
      ],
    })
    await put(world, 'x')
    await put(world, 'y')
    await put(world, 'z')
    const { worker, tag } = await working(world)
    const operator = world.server.queueOperator!
    const moved = operator.move('jobs', 'other', { topicFilter: null, limit: 1 })
    await world.settle()
    expect(await moved).toBe(1)
    const purged = operator.purge('jobs', 'test')
    await world.settle()
    expect(await purged).toBe(1)
    expect(states(world)).toMatchObject({ messages: 1, held: 1 })
    world.server.queues!.definitions.delete(queue(world), 'test')
    await world.settle()
    expect(worker.closed).toBe(true)
    const late = await world.connect('late')
    expect(await acknowledge(world, late, tag, '5')).toBe(0x90)
  })

  it('paused: leases and answers go on', async () => {
    const world = await inMemory(jobs({ retryDelaySeconds: 0 }))
    await put(world, 'x')
    await put(world, 'y')
    const { worker, tag } = await working(world)
    queue(world).group.pause()
    expect(await acknowledge(world, worker, tag)).toBe(0)
    await world.settle()
    expect(publishes(worker)).toEqual([])
    expect(states(world)).toMatchObject({ ready: 1, messages: 1 })
    queue(world).group.resume()
    await world.settle()
    expect(publishes(worker)).toHaveLength(1)
  })

  it('unsubscribed and subscribed again, taken over, a clean Session: held', async () => {
    const world = await inMemory(jobs())
    await put(world, 'x')
    const filter = '$queue/jobs;ack=explicit;prefetch=1/#'
    const { worker, tag } = await working(world, 'w', filter)
    await worker.unsubscribe(filter)
    expect(states(world).held).toBe(1)
    expect(queue(world).consumers.size).toBe(0)
    await worker.subscribe(filter, 1)
    expect(publishes(worker)).toEqual([])
    const taking = await world.connect('w', lasting())
    expect(worker.closed).toBe(true)
    expect(states(world).held).toBe(1)
    await taking.vanish()
    const clean = await world.connect('w')
    expect(await acknowledge(world, clean, tag)).toBe(0)
    expect(states(world).messages).toBe(0)
  })

  it('by key: a held message holds up those of its key; another dispatch does not', async () => {
    const world = await inMemory(jobs({ dispatch: 'key' }))
    await put(world, 'x')
    await put(world, 'y')
    const { worker, tag } = await working(world, 'w', '$queue/jobs;ack=explicit;prefetch=9/#')
    const other = await world.connect('o')
    await other.subscribe('$queue/jobs/#', 1)
    expect([publishes(worker), publishes(other)]).toEqual([[], []])
    await worker.vanish()
    expect(publishes(other)).toEqual([])
    expect(await acknowledge(world, other, tag)).toBe(0)
    expect(lines(other)).toEqual(['$queue/jobs/jobs/a y 1'])
  })

  it('exclusive: the next one gets what was held when the lease is over, and not before', async () => {
    const world = await inMemory(jobs({ dispatch: 'exclusive', retryDelaySeconds: 0 }))
    await put(world, 'x')
    const { worker } = await working(world, 'w', '$queue/jobs;ack=explicit;lease=5;prefetch=1/#')
    await worker.vanish()
    const other = await world.connect('o')
    await other.subscribe('$queue/jobs;prefetch=5/#', 1)
    await world.pass(4.9)
    expect(lines(other)).toEqual([])
    expect(states(world)).toMatchObject({ held: 1, ready: 0 })
    await world.pass(0.2)
    expect(lines(other)).toEqual(['$queue/jobs;prefetch=5/jobs/a x 1'])
  })

  it('is seen by the operator', async () => {
    const world = await inMemory(jobs(RESULTS))
    await put(world, 'x')
    const { worker, tag } = await working(world)
    const operator = world.server.queueOperator!
    expect(operator.show('jobs')).toMatchObject({ held: 1, messages: 1 })
    const [consumer] = [...operator.consumers('jobs')]
    expect(consumer).toMatchObject({ clientId: 'w', held: 1, ack: 'explicit', leaseSeconds: 60 })
    const [peeked] = await operator.peek('jobs', 10, 'held')
    expect(peeked).toMatchObject({ state: 'held', lease: { clientId: 'w', seconds: 60 } })
    await acknowledge(world, worker, tag, '5')
    expect(operator.show('jobs').counters).toMatchObject({ acknowledged: 1, results: { published: 1 } })
  })
})
