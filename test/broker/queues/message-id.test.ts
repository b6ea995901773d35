/** Example 33 of queues: a message that is published again with its `message-id` is taken once. */
import { generate, type Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import type { GivenProperties } from '../../../src/queue/properties.ts'
import { connectPacket, type Given, lasting, type TestClient, type World } from '../harness.ts'
import { answer, DiskWorld, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

interface Put {
  readonly topic?: string
  readonly payload?: string
  readonly qos?: 0 | 1 | 2
  readonly messageId?: number
  readonly more?: Given
}

/** A PUBLISH with this `message-id`. */
function withId(id: string | string[], put: Put = {}): Given {
  const { topic = '$queue/pay', payload = 'x', qos = 1, messageId = 1, more = {} } = put
  const properties = { userProperties: { 'message-id': id } }
  return { cmd: 'publish', topic, payload, qos, messageId, properties, ...more }
}

async function code(client: TestClient, packet: Given): Promise<number> {
  const { reasonCode } = await answer(client, 'puback', packet)
  return Number(reasonCode)
}

function queue(world: World, name: string) {
  return world.server.queues!.definitions.byName.get(name)!
}

function messages(world: World, name: string): number {
  return queue(world, name).group.states.messages
}

function declared(properties: Readonly<Record<string, GivenProperties>>) {
  return { declared: Object.entries(properties).map(([name, given]) => ({ name, properties: given })) }
}

describe('33: once, please', () => {
  it('whoever repeats it, over kills, also after it was consumed', async () => {
    const disk = await DiskWorld.make()
    const first = await disk.connect('a')
    // PUBACK is not read before the broker is killed.
    await first.send(withId('u1'))
    await disk.kill()
    const second = await disk.connect('b')
    expect(await code(second, withId('u1', { messageId: 9 }))).toBe(0)
    await disk.kill()
    const consumer = await disk.connect('c', lasting())
    await consumer.subscribe('$queue/pay', 1)
    await disk.settle()
    const got = publishes(consumer)
    expect(got.map(({ line }) => line)).toEqual(['$queue/pay x 1'])
    // The properties of the publisher stay as they are [MQTT-3.3.2-17].
    expect(got[0]!.user).toEqual({ 'message-id': 'u1' })
    await puback(consumer, got[0]!.id)
    await disk.kill()
    const third = await disk.connect('a')
    await disk.world.pass(250)
    expect(await code(third, withId('u1'))).toBe(0)
    await disk.settle()
    const again = await disk.connect('c', lasting())
    await disk.settle()
    expect(lines(again)).toEqual([])
    expect(queue(disk.world, 'pay').group.counts.duplicates).toBe(1)
    expect(messages(disk.world, 'pay')).toBe(0)
  })

  it('for its time, and not longer, also without a message that comes', async () => {
    const world = await inMemory(declared({ pay: { deduplicateSeconds: 20 } }))
    const client = await world.connect('a')
    await code(client, withId('u1'))
    expect(queue(world, 'pay').group.knownIds).toBe(1)
    await world.pass(19)
    await code(client, withId('u1'))
    expect(messages(world, 'pay')).toBe(1)
    await world.pass(1)
    await code(client, withId('u1'))
    expect(messages(world, 'pay')).toBe(2)
    const { memoryBytes } = queue(world, 'pay')
    await world.pass(40)
    expect(queue(world, 'pay').memoryBytes).toBeLessThan(memoryBytes)
    await world.pass(20)
  })

  it('PUBACK of the repetition waits for the commit with the message', async () => {
    const disk = await DiskWorld.make()
    const clients = [await disk.connect('a'), await disk.connect('b')]
    const before = disk.store.committedSequence
    for (const client of clients) client.link.handler!.received(generate(withId('u1') as Packet, FIVE))
    while (clients.some(({ link }) => link.packets.length === 0)) {
      await disk.world.turn()
      await new Promise((resolve) => setImmediate(resolve))
      const isAnswered = clients.some(({ link }) => link.packets.length > 0)
      if (isAnswered) expect(disk.store.committedSequence).toBeGreaterThan(before)
    }
    await disk.kill()
    expect(messages(disk.world, 'pay')).toBe(1)
  })

  it('at QoS 2 PUBREC says Success, and at QoS 0 nobody is told', async () => {
    const world = await inMemory()
    const client = await world.connect('a')
    await code(client, withId('u1'))
    expect(await answer(client, 'pubrec', withId('u1', { qos: 2, messageId: 2 }))).toMatchObject({
      reasonCode: 0,
    })
    await client.send({ cmd: 'pubrel', messageId: 2 })
    await client.send(withId('u1', { qos: 0 }))
    expect(messages(world, 'pay')).toBe(1)
    expect(queue(world, 'pay').group.counts.duplicates).toBe(2)
  })
})

describe('a message-id', () => {
  it('counts for each queue by itself, and other receivers get the message as usual', async () => {
    const world = await inMemory(
      declared({
        one: { filters: ['t/#'] },
        two: { filters: ['t/+'] },
        never: { filters: ['#'], deduplicateSeconds: 0 },
      }),
    )
    const live = await world.connect('live')
    await live.subscribe('t/#', 1)
    const client = await world.connect('a')
    await code(client, withId('u1', { topic: '$queue/one/t/a' }))
    await code(client, withId('u1', { topic: 't/a', payload: 'retained', more: { retain: true } }))
    expect(['one', 'two', 'never'].map((name) => messages(world, name))).toEqual([1, 1, 1])
    await code(client, withId('u1', { topic: 't/a', payload: 'again', more: { retain: true } }))
    expect(['one', 'two', 'never'].map((name) => messages(world, name))).toEqual([1, 1, 2])
    expect(lines(live)).toEqual(['t/a retained 1', 't/a again 1'])
    const retained = [...world.server.state.retained.match('t/a')]
    expect(retained.map((message) => message?.payload.toString())).toEqual(['again'])
  })

  it('of no or too many bytes is refused where a queue is addressed, and not heard elsewhere', async () => {
    const world = await inMemory(jobs())
    const client = await world.connect('a')
    for (const id of ['', 'x'.repeat(129), 'ü'.repeat(65)]) {
      const refused = await answer(client, 'puback', withId(id))
      expect(refused).toMatchObject({
        reasonCode: 0x83,
        properties: { reasonString: 'a message-id has 1 to 128 bytes' },
      })
      expect(await code(client, withId(id, { topic: 'jobs/a' }))).toBe(0)
      expect(await code(client, withId(id, { topic: 'jobs/a' }))).toBe(0)
    }
    expect(messages(world, 'jobs')).toBe(6)
    expect(queue(world, 'jobs').ignoredIds).toBe(6)
    // Nothing was declared by a message that was refused.
    expect(queue(world, 'pay')).toBe(undefined)
    expect(await code(client, withId('ü'.repeat(64)))).toBe(0)
    const will = { topic: '$queue/pay', payload: Buffer.from('w'), qos: 1, retain: false }
    const properties = { userProperties: { 'message-id': '' } }
    const packets = await world.open().send({ ...connectPacket('w'), will: { ...will, properties } })
    expect(packets).toMatchObject([{ cmd: 'connack', reasonCode: 0x83 }])
  })

  it('that is there twice counts as its last value', async () => {
    const world = await inMemory()
    const client = await world.connect('a')
    await code(client, withId(['u1', 'u2']))
    await code(client, withId('u1'))
    await code(client, withId('u2'))
    expect(messages(world, 'pay')).toBe(2)
  })

  it('of a Will counts as well', async () => {
    const world = await inMemory()
    const client = await world.connect('a')
    await code(client, withId('u1'))
    const properties = { userProperties: { 'message-id': 'u1' } }
    const will = { topic: '$queue/pay', payload: Buffer.from('w'), qos: 1, retain: false, properties }
    const dying = await world.connect('w', { will })
    await dying.vanish()
    expect(world.server.state.counters.willsPublished).toBe(1)
    expect(messages(world, 'pay')).toBe(1)
  })

  it('is taken by a full queue that has the message, and not remembered for what was refused', async () => {
    const world = await inMemory(
      declared({ pay: { messagesMax: 1 }, newest: { messagesMax: 1, overflow: 'drop-newest' } }),
    )
    const client = await world.connect('a')
    expect(await code(client, withId('u1'))).toBe(0)
    expect(await code(client, withId('u2'))).toBe(0x97)
    expect(await code(client, withId('u1'))).toBe(0)
    for (const id of ['u1', 'u2']) await code(client, withId(id, { topic: '$queue/newest' }))
    const consumer = await world.connect('c')
    for (const name of ['pay', 'newest']) await consumer.subscribe(`$queue/${name}`, 0)
    expect(lines(consumer)).toHaveLength(2)
    expect(await code(client, withId('u2'))).toBe(0)
    expect(await code(client, withId('u2', { topic: '$queue/newest' }))).toBe(0)
    expect(lines(consumer)).toEqual(['$queue/pay x 0', '$queue/newest x 0'])
  })

  it('outlives expiry and purging, but not the queue', async () => {
    const world = await inMemory()
    const client = await world.connect('a')
    const userProperties = { 'message-id': 'u1' }
    const expiring = { properties: { userProperties, messageExpiryInterval: 1 } }
    await code(client, withId('u1', { more: expiring }))
    await world.pass(30)
    expect(messages(world, 'pay')).toBe(0)
    await code(client, withId('u1'))
    await code(client, withId('u2'))
    const purging = world.server.queueOperator!.purge('pay', 'test')
    await world.settle()
    expect(await purging).toBe(1)
    await code(client, withId('u2'))
    expect(messages(world, 'pay')).toBe(0)
    await world.server.queueOperator!.delete('pay', true, 'test')
    await code(client, withId('u2'))
    expect(messages(world, 'pay')).toBe(1)
  })

  it('is not looked at when a message dies, is replayed or moved', async () => {
    const world = await inMemory(declared({ pay: { deliveryLimit: 1 }, later: {} }))
    const client = await world.connect('a')
    const consumer = await world.connect('c')
    await consumer.subscribe('$queue/pay', 1)
    await code(client, withId('u1'))
    for (let cycle = 0; cycle < 2; cycle++) {
      await puback(consumer, publishes(consumer)[0]!.id, { reasonCode: 0x80 })
      await world.settle()
      expect(messages(world, 'pay.dead')).toBe(1)
      if (cycle === 0) await world.server.queueOperator!.replay('pay.dead', null, ALL)
      await world.settle()
    }
    await code(client, withId('u1', { topic: '$queue/later' }))
    expect(await world.server.queueOperator!.move('pay.dead', 'later', ALL)).toBe(1)
    expect(messages(world, 'later')).toBe(2)
    await code(client, withId('u1'))
    expect(messages(world, 'pay')).toBe(0)
  })

  it('is forgotten early where there are too many, which is counted', async () => {
    const world = await inMemory(declared({ pay: { deduplicateIdsMax: 2 } }))
    const limited = world.record('limited')
    const client = await world.connect('a')
    for (const id of ['u1', 'u2', 'u3', 'u2', 'u1']) await code(client, withId(id))
    expect(messages(world, 'pay')).toBe(4)
    expect(limited.map(({ limit }) => limit)).toEqual(['queueIdsMax', 'queueIdsMax'])
    await world.server.queueOperator!.declare('own', { deduplicateIdsMax: 3 }, 'test')
    for (const id of ['u1', 'u2', 'u3']) await code(client, withId(id, { topic: '$queue/own' }))
    await world.server.queueOperator!.change('own', { deduplicateIdsMax: 1 }, false, 'test')
    expect(queue(world, 'own').group.knownIds).toBe(1)
    expect(world.server.queueOperator!.show('own').counters.ids).toEqual({ forgotten: 2 })
  })

  it('keeps a queue that was declared by use as long as it is remembered', async () => {
    const world = await inMemory({ idleExpirySeconds: 60, defaults: { deduplicateSeconds: 300 } })
    const client = await world.connect('a')
    const consumer = await world.connect('c')
    await consumer.subscribe('$queue/pay', 0)
    await code(client, withId('u1'))
    await consumer.send({ cmd: 'unsubscribe', messageId: 5, unsubscriptions: ['$queue/pay'] })
    await world.pass(280)
    await code(client, withId('u1'))
    expect(queue(world, 'pay').group.counts.duplicates).toBe(1)
    for (let times = 0; times < 20; times++) await world.pass(10)
    expect(queue(world, 'pay')).toBe(undefined)
  })
})

const FIVE = { protocolVersion: 5 }

const ALL = { topicFilter: null, limit: Number.POSITIVE_INFINITY }
