/** The life of queues: declared, changed, paused, deleted, idle, and not enabled. */
import { describe, expect, it } from 'vitest'
import { lasting, type World } from '../harness.ts'
import { answer, DiskWorld, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

function definitions(world: World) {
  return world.server.queues!.definitions
}

/** Publishes at QoS 1, by a client of its own. */
async function put(world: World, topic: string, payload: string): Promise<void> {
  await (await world.connect('publisher')).publish(topic, payload, 1)
}

function queue(world: World, name: string) {
  return definitions(world).byName.get(name)!
}

describe('queues that are not enabled', () => {
  it('are topics like any other', async () => {
    const world = await inMemory({ enabled: false })
    expect(world.server.queues).toBe(null)
    const client = await world.connect('a')
    expect(await client.subscribe('$queue/jobs', 1)).toBe(1)
    await put(world, '$queue/jobs', 'x')
    expect(lines(client)).toEqual(['$queue/jobs x 1'])
    expect(await client.subscribe('$share/x/$queue/jobs', 1)).toBe(1)
  })

  it('leave alone what they hold until they are enabled again', async () => {
    const disk = await DiskWorld.make(jobs())
    const a = await disk.connect('a', lasting())
    await a.subscribe('$queue/jobs/#', 1)
    await disk.settle()
    const p = await disk.connect('p')
    for (const payload of ['1', '2']) await p.publish('jobs/a', payload, 1)
    await disk.settle()
    expect(lines(a)).toEqual(['$queue/jobs/jobs/a 1 1'])
    await disk.kill({ enabled: false })
    const between = await disk.connect('a', lasting())
    await disk.settle()
    expect(lines(between)).toEqual([])
    await disk.kill(jobs())
    const again = await disk.connect('a', lasting())
    await disk.settle()
    expect(lines(again)).toEqual(['$queue/jobs/jobs/a 1 1'])
  })
})

it('groups of queues that are not enabled keep what a crash left of them', async () => {
  const disk = await DiskWorld.make(jobs())
  const a = await disk.connect('a', lasting())
  await a.subscribe('$queue/jobs;prefetch=2/#', 1)
  const p = await disk.connect('p')
  for (const payload of ['1', '2', '3']) await p.publish('jobs/a', payload, 1)
  await disk.settle()
  // The second one comes back with a failure, which its next hand-out tells.
  const [one, two] = publishes(a)
  await puback(a, one!.id)
  await puback(a, two!.id, { reasonCode: 0x80 })
  await disk.kill({ enabled: false })
  // Closing writes a checkpoint of all that was not in one.
  await disk.store.close()
  expect(disk.world.fatal).toBe(null)
  await disk.killNow(jobs())
  const again = await disk.connect('a', lasting())
  await disk.settle()
  const got = publishes(again)
  expect(got.map(({ line }) => line)).toEqual(['$queue/jobs;prefetch=2/jobs/a 3 1'])
  expect(queue(disk.world, 'jobs').group.look(0, 2)).toMatchObject({ state: 'deferred', failures: 1 })
})

describe('a declaration', () => {
  it('by use stops at its limit, and the operator goes on', async () => {
    const world = await inMemory({ declaredByUseMax: 1 })
    const client = await world.connect('a')
    expect(await client.publish('$queue/one', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(await client.publish('$queue/two', 'x', 1)).toMatchObject([
      { reasonCode: 0x97, properties: { reasonString: '1 queues were declared by use' } },
    ])
    expect(await client.subscribe('$queue/three', 1)).toBe(0x97)
    expect(world.server.state.counters.limits.queuesMax).toBe(2)
    definitions(world).configure({ ...definitions(world).options, ...jobs() })
    expect(queue(world, 'jobs').origin).toBe('file')
  })

  it('by use is the operator’s to forbid; dead letter and reply queues are never declared so', async () => {
    const world = await inMemory({ declare: 'operator' })
    const client = await world.connect('a')
    expect(await client.publish('$queue/one', 'x', 1)).toMatchObject([{ reasonCode: 0x90 }])
    expect(await client.subscribe('$queue/one', 1)).toBe(0x8f)
    const other = await inMemory()
    const b = await other.connect('b')
    for (const [name, code] of [
      ['jobs.dead', 0x8f],
      ['reply.a', 0x87],
    ] as const) {
      expect(await b.subscribe(`$queue/${name}`, 1)).toBe(code)
      expect(await b.publish(`$queue/${name}`, 'x', 1)).toMatchObject([{ reasonCode: 0x90 }])
    }
  })

  it('of the file that is taken out leaves the queue, with a notice', async () => {
    const world = await inMemory(jobs())
    const { options } = definitions(world)
    expect(world.server.queues!.configure({ ...options, declared: [] })).toEqual([
      'Queue jobs is not in the configuration any more, and stays until it is deleted.',
    ])
    expect(queue(world, 'jobs').isOrphaned).toBe(true)
    expect(world.server.queues!.configure({ ...options, ...jobs() })).toEqual([])
    expect(queue(world, 'jobs').isOrphaned).toBe(false)
  })

  it('with other filters waits until the queue is empty', async () => {
    const world = await inMemory(jobs())
    const { options } = definitions(world)
    const client = await world.connect('a')
    await client.publish('jobs/a', 'x', 1)
    const other = { ...options, ...jobs({ filters: ['work/#'] }) }
    expect(world.server.queues!.configure(other)).toEqual([
      'Queue jobs was not changed: queue jobs has messages, so its filters stay jobs/#.',
    ])
    await client.subscribe('$queue/jobs', 1)
    await puback(client, publishes(client)[0]!.id)
    expect(world.server.queues!.configure(other)).toEqual([])
    await put(world, 'jobs/a', 'y')
    await put(world, 'work/a', 'z')
    expect(lines(client)).toEqual(['$queue/jobs z 1'])
  })

  it('is known after a kill, with its properties and its pause', async () => {
    const disk = await DiskWorld.make({ ...jobs({ messagesMax: 7 }), declare: 'operator' })
    queue(disk.world, 'jobs').group.pause()
    disk.world.server.state.turn.begin()
    await disk.kill({})
    expect(queue(disk.world, 'jobs')).toMatchObject({
      isPaused: true,
      isOrphaned: true,
      properties: { messagesMax: 7, filters: ['jobs/#'] },
    })
    const client = await disk.connect('a')
    await client.publish('jobs/a', 'x', 1)
    await client.subscribe('$queue/jobs', 1)
    await disk.settle()
    expect(lines(client)).toEqual([])
    queue(disk.world, 'jobs').group.resume()
    await disk.settle()
    expect(lines(client)).toEqual(['$queue/jobs x 1'])
  })
})

describe('the end of a queue', () => {
  it('disconnects its consumers with 0x98 and ends their Subscriptions', async () => {
    const world = await inMemory(jobs())
    const a = await world.connect('a', lasting())
    await a.subscribe('$queue/jobs/#', 1)
    await put(world, 'jobs/a', 'x')
    expect(lines(a)).toEqual(['$queue/jobs/jobs/a x 1'])
    definitions(world).delete(queue(world, 'jobs'), 'operator')
    await world.settle()
    expect(a.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x98 }])
    const again = await world.connect('a', lasting())
    expect(again.connack).toMatchObject({ sessionPresent: true })
    expect(lines(again)).toEqual([])
    expect(world.server.state.sessions.get('a')!.subscriptions.size).toBe(0)
    await again.publish('jobs/a', 'y', 1)
    expect(world.server.state.store.logs.memoryBytes).toBe(0)
  })

  it('comes by itself for one that was declared by use, is empty and was not used for long', async () => {
    const world = await inMemory({ idleExpirySeconds: 60 })
    const client = await world.connect('a')
    await client.publish('$queue/kept', 'x', 1)
    await client.subscribe('$queue/typo', 1)
    await client.unsubscribe('$queue/typo')
    await world.pass(40)
    expect([...definitions(world).byName.keys()]).toEqual(['kept', 'typo'])
    await world.pass(40)
    expect([...definitions(world).byName.keys()]).toEqual(['kept'])
    expect(definitions(world).byUse).toBe(1)
  })

  it('leaves no consumer behind, whatever order Sessions and Subscriptions end in', async () => {
    const world = await inMemory(jobs())
    const a = await world.connect('a')
    await a.subscribe('$queue/jobs/#', 1)
    await put(world, 'jobs/a', 'x')
    await a.unsubscribe('$queue/jobs/#')
    const { id } = publishes(a)[0]!
    expect(queue(world, 'jobs').consumers.size).toBe(0)
    await puback(a, id)
    expect(queue(world, 'jobs').group).toMatchObject({ memberCount: 0, states: { messages: 0 } })
    await a.publish('jobs/a', 'y', 1)
    await a.subscribe('$queue/jobs/#', 1)
    await a.unsubscribe('$queue/jobs/#')
    await a.vanish()
    await world.settle()
    expect(queue(world, 'jobs').group).toMatchObject({ memberCount: 0, states: { messages: 1, ready: 1 } })
    expect(world.server.queues!.consuming.count).toBe(0)
  })
})

describe('a message', () => {
  it('of a Will goes into the queue that its topic names or that listens to it', async () => {
    const world = await inMemory({ declared: [{ name: 'gone', properties: { filters: ['will/#'] } }] })
    for (const topic of ['will/a', '$queue/gone/will/b', '$queue/free/x']) {
      const will = { topic, payload: Buffer.from('x'), qos: 1, retain: false, properties: {} }
      const client = await world.connect('a', { will })
      await client.vanish()
      await world.settle()
    }
    const reader = await world.connect('r')
    await reader.subscribe('$queue/gone;prefetch=5/#', 1)
    expect(lines(reader)).toEqual(['$queue/gone;prefetch=5/will/a x 1', '$queue/gone;prefetch=5/will/b x 1'])
    await reader.subscribe('$queue/free/#', 1)
    expect(lines(reader)).toEqual(['$queue/free/x x 1'])
  })

  it('of a Will to what nobody can publish to is refused at CONNECT', async () => {
    const world = await inMemory()
    for (const topic of ['$ack/jobs/0a.1.12345678', '$stream/x', '$queue', '$queue/a;b=c']) {
      const client = world.open()
      const will = { topic, payload: Buffer.from('x'), qos: 1, retain: false, properties: {} }
      const connect = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'a', clean: true }
      expect(await client.send({ ...connect, keepalive: 0, properties: {}, will })).toMatchObject([
        { cmd: 'connack', reasonCode: 0x90 },
      ])
    }
  })

  it('straight into a queue that listens must match its filters', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('a')
    await client.subscribe('jobs/#', 1)
    expect(await client.publish('$queue/jobs/jobs/a', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(await client.publish('$q/jobs/jobs/b', 'y', 1)).toMatchObject([{ reasonCode: 0 }])
    for (const topic of ['$queue/jobs', '$queue/jobs/other', '$queue', '$queue/a/$b', '$stream/x']) {
      expect(await client.publish(topic, 'x', 1)).toMatchObject([{ reasonCode: 0x90 }])
    }
    // No other Subscription sees it.
    expect(lines(client)).toEqual([])
    await client.subscribe('$q/jobs;prefetch=2/#', 1)
    expect(lines(client)).toEqual(['$q/jobs;prefetch=2/jobs/a x 1', '$q/jobs;prefetch=2/jobs/b y 1'])
  })

  it('at QoS 2 is put in once, and answered when that is durable', async () => {
    const disk = await DiskWorld.make(jobs())
    const p = await disk.connect('p')
    const packet = { cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 2, messageId: 1 }
    await p.send(packet)
    await disk.settle()
    expect(p.got()).toMatchObject([{ cmd: 'pubrec', reasonCode: 0 }])
    await p.send({ ...packet, dup: true })
    await disk.settle()
    expect(queue(disk.world, 'jobs').group.states.messages).toBe(1)
  })

  it('is retained and put in; the flag arrives where the consumer asked for it', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('a')
    const packet = { cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 1, messageId: 9, retain: true }
    await answer(client, 'puback', packet)
    expect(world.server.state.retained.count).toBe(1)
    await client.subscribe('$queue/jobs', 1, { rap: true })
    expect(client.got()).toMatchObject([{ topic: '$queue/jobs', retain: true }])
  })

  it('expires in the queue, and its expiry is counted down', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('a')
    for (const [payload, seconds] of [
      ['long', 10],
      ['short', 1],
    ] as const) {
      await client.publish('jobs/a', payload, 1, { properties: { messageExpiryInterval: seconds } })
    }
    await world.pass(3)
    await client.subscribe('$queue/jobs;prefetch=2', 1)
    expect(client.got()).toMatchObject([
      { payload: Buffer.from('long'), properties: { messageExpiryInterval: 7 } },
    ])
    expect(world.server.state.counters.drops.expired).toBe(1)
    expect(world.server.queues!.definitions.byName.has('jobs.dead')).toBe(false)
  })

  it('comes beside the Subscriptions that the same client has', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('a')
    await client.subscribe('jobs/#', 1)
    await client.subscribe('$queue/jobs/#', 1, {}, { subscriptionIdentifier: 7 })
    await put(world, 'jobs/a', 'x')
    expect(client.got()).toMatchObject([
      { topic: '$queue/jobs/jobs/a', properties: { subscriptionIdentifier: 7 } },
      { topic: 'jobs/a' },
    ])
  })

  it('that is too large for a consumer goes to another, or is dead', async () => {
    const world = await inMemory(jobs())
    const small = await world.connect('small', { properties: { maximumPacketSize: 100 } })
    await small.subscribe('$queue/jobs/#', 1)
    const p = await world.connect('p')
    await p.publish('jobs/a', 'x'.repeat(200), 1)
    expect(lines(small)).toEqual([])
    const reader = await world.connect('r')
    await reader.subscribe('$queue/jobs.dead', 1)
    expect(publishes(reader)).toMatchObject([{ user: { 'x-death-reason': 'too-large' } }])
    const large = await world.connect('large')
    await large.subscribe('$queue/jobs/#', 1)
    await p.publish('jobs/a', 'y'.repeat(200), 1)
    await p.publish('jobs/a', 'z', 1)
    expect(lines(large)).toEqual([`$queue/jobs/jobs/a ${'y'.repeat(200)} 1`])
  })
})
