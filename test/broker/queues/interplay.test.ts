/** What queues make of options and properties of SUBSCRIBE, and of other parts of the Server. */
import { describe, expect, it } from 'vitest'
import type { Given } from '../harness.ts'
import { answer, DiskWorld, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

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

describe('a Subscription to a queue', () => {
  it('gets no retained message, whatever Retain Handling says, nor does a member of $share', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c')
    await client.publish('jobs/a', 'kept', 1, { retain: true })
    await client.subscribe('$queue/jobs/#', 1)
    expect(lines(client)).toEqual(['$queue/jobs/jobs/a kept 1'])
    await puback(client, 1)
    for (const filter of ['$queue/jobs/#', '$queue/jobs', '$share/jobs/jobs/#']) {
      expect(await client.subscribe(filter, 1, { rh: 0 })).toBe(1)
      expect(lines(client)).toEqual([])
    }
  })

  it('with No Local is a Protocol Error where it is a Shared Subscription [MQTT-3.8.3-4]', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c')
    const subscriptions = [{ topic: '$share/jobs/jobs/#', qos: 1, nl: true, rap: false, rh: 0 }]
    const packets = await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    expect(packets).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x82 }])
  })

  it('is granted the maximum QoS of the Server, and messages come at it [MQTT-3.2.2-10]', async () => {
    const world = await inMemory(jobs(), { limits: { maximumQoS: 1 } })
    const client = await world.connect('c')
    expect(await client.subscribe('$queue/jobs', 2)).toBe(1)
    const publisher = await world.connect('p')
    await publisher.publish('jobs/a', 'x', 0)
    expect(lines(client)).toEqual(['$queue/jobs x 1'])
  })

  it('at QoS 0 gets a message of QoS 2 at QoS 0, and is done with it', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c')
    await client.subscribe('$queue/jobs', 0)
    const publisher = await world.connect('p')
    await answer(publisher, 'pubrec', { cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 2, messageId: 1 })
    expect(lines(client)).toEqual(['$queue/jobs x 0'])
    expect(world.server.queues!.definitions.byName.get('jobs')!.group.states.messages).toBe(0)
  })

  it('needs no wildcard where these are not available', async () => {
    const world = await inMemory(jobs(), { limits: { wildcardSubscriptionAvailable: false } })
    const client = await world.connect('c')
    expect(await client.subscribe('$queue/jobs', 1)).toBe(1)
    const packet = {
      cmd: 'subscribe',
      messageId: 9,
      subscriptions: [{ topic: '$queue/jobs/#', qos: 1, nl: false, rap: false, rh: 0 }],
    }
    expect(await answer(client, 'disconnect', packet)).toMatchObject({ reasonCode: 0xa2 })
  })

  it('is refused by the name of the queue, in any spelling', async () => {
    const refusedSubscriptions = [{ filter: '$queue/jobs', reasonCode: 0x87 }] as const
    const world = await inMemory(jobs(), { limits: { refusedSubscriptions } })
    const client = await world.connect('c')
    for (const filter of ['$queue/jobs', '$q/jobs/#', '$queue/jobs;prefetch=3/jobs/#']) {
      expect(await client.subscribe(filter, 1)).toBe(0x87)
    }
    expect(await client.subscribe('$queue/other', 1)).toBe(1)
  })

  it('ends with Clean Start, and what it held is ready again', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c', LASTING)
    await client.subscribe('$queue/jobs', 1)
    const publisher = await world.connect('p')
    await publisher.publish('jobs/a', 'x', 1)
    expect(lines(client)).toEqual(['$queue/jobs x 1'])
    await client.vanish()
    const again = await world.connect('c', { clean: true })
    await world.settle()
    expect(lines(again)).toEqual([])
    const { consumers, group } = world.server.queues!.definitions.byName.get('jobs')!
    expect(consumers.size).toBe(0)
    expect(group.states).toMatchObject({ ready: 1, messages: 1 })
  })
})

describe('a refused Subscription to a queue', () => {
  it('is reported with the reason of its own, for clients that are told none', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c', {}, 4)
    const subscribed = world.record('subscribed')
    const subscriptions = ['$queue/+', '$queue/jobs', '$queue/jobs/other/#'].map((topic) => ({
      topic,
      qos: 1,
    }))
    await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    expect(subscribed.map(({ reasonCode, reason }) => [reasonCode, reason])).toEqual([
      [0x8f, 'a wildcard cannot stand for the name of a queue'],
      [1, undefined],
      [0x8f, 'queue jobs takes jobs/#, not other/#'],
    ])
  })
})

describe('expiry', () => {
  it('is the earlier of the message’s own and the queue’s [MQTT-3.3.2-6]', async () => {
    const world = await inMemory(jobs({ ttlSeconds: 60 }))
    const client = await world.connect('c')
    await client.publish('jobs/a', 'soon', 1, { properties: { messageExpiryInterval: 10 } })
    await client.publish('jobs/a', 'late', 1, { properties: { messageExpiryInterval: 1000 } })
    await client.publish('jobs/a', 'never', 1)
    await world.pass(5)
    await client.subscribe('$queue/jobs;prefetch=9', 1)
    const expiries = client.got().map((packet) => (packet as { properties?: object }).properties)
    expect(expiries).toMatchObject([
      { messageExpiryInterval: 5 },
      { messageExpiryInterval: 55 },
      { messageExpiryInterval: 55 },
    ])
  })

  it('does not reach a message that was sent at QoS 2 [MQTT-4.3.3-7]', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('c', LASTING)
    await client.subscribe('$queue/jobs', 2)
    const publisher = await world.connect('p')
    await publisher.publish('jobs/a', 'x', 1, { properties: { messageExpiryInterval: 10 } })
    expect(lines(client)).toEqual(['$queue/jobs x 2'])
    await client.vanish()
    await world.pass(20)
    const again = await world.connect('c', LASTING)
    await world.settle()
    expect(lines(again)).toEqual(['$queue/jobs x 2 dup'])
  })
})

describe('what goes into a queue', () => {
  it('is never a value of $SYS', async () => {
    const world = await inMemory({ declared: [{ name: 'all', properties: { filters: ['#'] } }] })
    world.server.state.turn.begin()
    await world.server.publish({
      topic: '$SYS/broker/uptime',
      payload: Buffer.from('1'),
      qos: 0,
      retain: false,
      publisher: '',
    })
    await world.settle()
    expect(world.server.queues!.definitions.byName.get('all')!.group.states.messages).toBe(0)
  })

  it('is put in once, however many of its filters match', async () => {
    const world = await inMemory({
      declared: [{ name: 'q', properties: { filters: ['a/#', '+/b', 'a/b'] } }],
    })
    const client = await world.connect('c')
    await client.publish('a/b', 'x', 1)
    expect(world.server.queues!.definitions.byName.get('q')!.group.states.messages).toBe(1)
  })

  it('is no retained Will: its CONNECT is refused', async () => {
    const world = await inMemory(jobs())
    const client = world.open()
    const will = { topic: '$queue/jobs', payload: Buffer.from('x'), qos: 1, retain: true, properties: {} }
    const connect = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'a', clean: true }
    expect(await client.send({ ...connect, keepalive: 0, properties: {}, will })).toMatchObject([
      { cmd: 'connack', reasonCode: 0x83 },
    ])
  })

  it('is refused as a whole where the queue of a Session is full and queue_full is refuse', async () => {
    const limits = { queueFull: 'refuse', queueMessagesMax: 1 } as const
    const world = await inMemory(jobs(), { limits })
    const away = await world.connect('away', LASTING)
    await away.subscribe('jobs/#', 1)
    await away.vanish()
    const client = await world.connect('c')
    expect(await client.publish('jobs/a', '1', 1)).toMatchObject([{ reasonCode: 0 }])
    expect(await client.publish('jobs/a', '2', 1)).toMatchObject([{ reasonCode: 0x97 }])
    expect(world.server.queues!.definitions.byName.get('jobs')!.group.states.messages).toBe(1)
  })
})

describe('matching Subscriptions [MQTT-4.5.0-1] [MQTT-4.5.0-1, 3.1.1]', () => {
  it('get each message beside a queue, whose consumers share it: a reading for $queue', async () => {
    const world = await inMemory(jobs())
    const [a, b] = [await world.connect('a'), await world.connect('b')]
    for (const client of [a, b]) {
      await client.subscribe('$queue/jobs;prefetch=9/#', 1)
      await client.subscribe('jobs/#', 1)
    }
    const publisher = await world.connect('p')
    for (const payload of ['1', '2', '3', '4']) await publisher.publish('jobs/x', payload, 1)
    const got = [lines(a), lines(b)]
    const ordinary = ['jobs/x 1 1', 'jobs/x 2 1', 'jobs/x 3 1', 'jobs/x 4 1']
    for (const each of got) expect(each.filter((line) => line.startsWith('jobs/'))).toEqual(ordinary)
    const shared = got.flat().filter((line) => line.startsWith('$queue/'))
    expect(shared.sort()).toEqual(ordinary.map((line) => `$queue/jobs;prefetch=9/${line}`))
    for (const each of got) expect(each.length).toBeGreaterThan(ordinary.length)
  })
})
