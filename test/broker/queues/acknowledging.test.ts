/** Examples 11 to 24 of queues: acknowledgements, refusals, time-outs, lost consumers. */
import { describe, expect, it } from 'vitest'
import { lasting, type TestClient, type World } from '../harness.ts'
import { DiskWorld, type Got, inMemory, jobs, lines, puback, publishes } from './queue-world.ts'

/** Puts messages into `jobs`. */
async function put(world: World, ...payloads: string[]): Promise<void> {
  const publisher = await world.connect('publisher')
  for (const payload of payloads) await publisher.publish('jobs/a', payload, 1)
}

async function consumer(world: World, clientId: string, filter = '$queue/jobs/#'): Promise<TestClient> {
  const client = await world.connect(clientId)
  expect(await client.subscribe(filter, 1)).toBe(1)
  return client
}

function payloadOf({ line }: Got): string {
  return line.split(' ')[1]!
}

function group(world: World, name = 'jobs') {
  return world.server.queues!.definitions.byName.get(name)!.group
}

/** A refusal as an answer to a PUBLISH. */
function refusal(reasonCode: number, reasonString?: string, userProperties?: Record<string, string>) {
  const properties = { ...(reasonString && { reasonString }), ...(userProperties && { userProperties }) }
  return { reasonCode, properties }
}

describe('acknowledging', () => {
  it('11: two slow consumers share ten jobs; what a killed one held arrives at the other', async () => {
    const world = await inMemory(jobs())
    await put(world, ...Array.from({ length: 10 }, (_, index) => `${index + 1}`))
    const a = await consumer(world, 'a')
    await world.pass(0.1)
    const b = await consumer(world, 'b')
    const held = { a: publishes(a), b: publishes(b) }
    const done: string[] = []
    const work = async (client: TestClient, of: 'a' | 'b'): Promise<void> => {
      const [first] = held[of].splice(0, 1)
      if (first === undefined) return
      done.push(payloadOf(first))
      await puback(client, first.id)
      held[of].push(...publishes(client))
      expect(held[of].length).toBeLessThanOrEqual(2)
    }
    for (let second = 0; second < 2; second++) {
      await world.pass(1)
      await work(a, 'a')
      await work(b, 'b')
      held.a.push(...publishes(a))
      held.b.push(...publishes(b))
    }
    await world.pass(0.5)
    const lost = held.a.map(payloadOf)
    expect(lost.length).toBeGreaterThan(0)
    await a.vanish()
    await world.settle()
    const again: Got[] = []
    for (let left = 20; left > 0 && done.length < 10; left--) {
      await world.pass(1)
      held.b.push(...publishes(b))
      again.push(...held.b.filter(({ user }) => user['x-delivery-count'] === '2'))
      await work(b, 'b')
    }
    expect([...done].sort((x, y) => Number(x) - Number(y))).toEqual(
      Array.from({ length: 10 }, (_, index) => `${index + 1}`),
    )
    expect(new Set(again.map(payloadOf))).toEqual(new Set(lost))
    expect(group(world).states.messages).toBe(0)
  })

  it('12: a refused message comes again after the retry delay, or when the consumer says', async () => {
    const world = await inMemory(jobs())
    const a = await consumer(world, 'a')
    await put(world, 'x')
    expect(publishes(a)).toMatchObject([{ id: 1, user: {} }])
    await puback(a, 1, refusal(0x80, 'db down'))
    await world.pass(0.9)
    expect(publishes(a)).toEqual([])
    await world.pass(0.2)
    expect(publishes(a)).toMatchObject([
      { id: 2, line: '$queue/jobs/jobs/a x 1', user: { 'x-delivery-count': '2' } },
    ])
    await puback(a, 2, refusal(0x80))
    await world.pass(1.9)
    expect(publishes(a)).toEqual([])
    await world.pass(0.2)
    expect(publishes(a)).toMatchObject([{ id: 3, user: { 'x-delivery-count': '3' } }])
    await puback(a, 3, refusal(0x80, undefined, { 'retry-after': '7' }))
    await world.pass(6.9)
    expect(publishes(a)).toEqual([])
    await world.pass(0.2)
    expect(publishes(a)).toMatchObject([{ id: 4 }])
  })

  it('13: what a consumer can never do goes to the dead letters, with the reason', async () => {
    const world = await inMemory(jobs())
    const a = await consumer(world, 'a')
    await put(world, 'x')
    await puback(a, publishes(a)[0]!.id, refusal(0x99, 'not JSON'))
    const reader = await world.connect('reader')
    await reader.subscribe('$queue/jobs.dead/#', 1)
    const [dead] = publishes(reader)
    expect(dead).toMatchObject({
      line: '$queue/jobs.dead/jobs/a x 1',
      user: {
        'x-death-reason': 'refused',
        'x-death-queue': 'jobs',
        'x-death-count': '1',
        'x-death-code': '0x99',
        'x-death-detail': 'not JSON',
        'x-death-consumer': 'a',
      },
    })
    expect(dead!.user['x-death-cycles']).toBe(undefined)
    // A Reason String is cut at 256, and never within a character.
    const long = `${'x'.repeat(255)}\u{1F600}`
    await put(world, 'y')
    await puback(a, publishes(a)[0]!.id, refusal(0x99, long))
    expect(publishes(reader)).toEqual([])
    await puback(reader, dead!.id)
    expect(publishes(reader)[0]!.user['x-death-detail']).toBe('x'.repeat(255))
    expect(group(world).states.messages).toBe(0)
  })

  it('14: a consumer that has too much pauses, and another one goes on', async () => {
    const world = await inMemory(jobs())
    const [a, b] = [
      await consumer(world, 'a', '$queue/jobs;prefetch=1/#'),
      await consumer(world, 'b', '$queue/jobs;prefetch=1/#'),
    ]
    await put(world, '1', '2', '3', '4')
    const [first] = publishes(a)
    const [second] = publishes(b)
    await puback(a, first!.id, refusal(0x97))
    await puback(b, second!.id)
    const [again] = publishes(b)
    expect(payloadOf(again!)).toBe(payloadOf(first!))
    expect(group(world).look(0, Number(payloadOf(first!)))).toMatchObject({ failures: 0 })
    expect(publishes(a)).toEqual([])
    await world.pass(0.9)
    expect(publishes(a)).toEqual([])
    await world.pass(0.2)
    expect(publishes(a)).toHaveLength(1)
  })

  it('15: the delivery limit makes a dead letter', async () => {
    const world = await inMemory(jobs({ deliveryLimit: 3, retryDelaySeconds: 0.1 }))
    const a = await consumer(world, 'a')
    await put(world, 'x')
    let count = 0
    for (let round = 0; round < 6; round++) {
      for (const { id } of publishes(a)) {
        count++
        await puback(a, id, refusal(0x80))
      }
      await world.pass(1)
    }
    expect(count).toBe(3)
    const reader = await world.connect('reader')
    await reader.subscribe('$queue/jobs.dead', 1)
    expect(publishes(reader)).toMatchObject([
      { user: { 'x-topic': 'jobs/a', 'x-death-reason': 'delivery-limit', 'x-death-count': '3' } },
    ])
  })

  it('16: of what a killed consumer held, the oldest alone is charged', async () => {
    const world = await inMemory(jobs({ deliveryLimit: 3, prefetch: 5 }))
    await put(world, '1', '2', '3', '4', '5')
    for (let round = 0; round < 3; round++) {
      const a = await consumer(world, 'a')
      expect(publishes(a).map(payloadOf)).toEqual(['1', '2', '3', '4', '5'])
      await a.vanish()
      await world.settle()
    }
    expect(group(world).states).toMatchObject({ messages: 4, ready: 4 })
    for (const sequence of [2, 3, 4, 5]) {
      expect(group(world).look(0, sequence)).toMatchObject({ state: 'ready', failures: 0 })
    }
    const reader = await world.connect('reader')
    await reader.subscribe('$queue/jobs.dead/#', 1)
    expect(publishes(reader)).toMatchObject([
      { line: '$queue/jobs.dead/jobs/a 1 1', user: { 'x-death-reason': 'delivery-limit' } },
    ])
  })

  it('17: a message times out, and a late answer still counts', async () => {
    const world = await inMemory(jobs({ ackTimeoutSeconds: 2 }))
    const a = await consumer(world, 'a')
    await put(world, 'x')
    expect(publishes(a)).toMatchObject([{ id: 1 }])
    const b = await consumer(world, 'b')
    await world.pass(1.9)
    expect(publishes(b)).toEqual([])
    await world.pass(0.2)
    expect(publishes(b)).toMatchObject([{ id: 1, user: { 'x-delivery-count': '2' } }])
    await put(world, 'y')
    expect(publishes(a)).toEqual([])
    await puback(a, 1)
    // `y` went to one of them, in time.
    expect(group(world).states.messages).toBe(1)
    const rest = [...publishes(a), ...publishes(b)]
    expect(rest.map(payloadOf)).toEqual(['y'])
    await puback(b, 1)
    expect(b.closed).toBe(false)
    await world.pass(1)
    expect([...publishes(a), ...publishes(b)]).toEqual([])
  })

  it('18: a message that its consumer passed over comes again soon', async () => {
    const world = await inMemory(jobs({ passedOverSeconds: 1, prefetch: 10 }))
    const client = await world.connect('a', {}, 4)
    await client.subscribe('$queue/jobs/#', 1)
    await put(world, '1', '2', '3')
    const got = publishes(client)
    expect(got.map(payloadOf)).toEqual(['1', '2', '3'])
    await puback(client, got[0]!.id)
    await puback(client, got[2]!.id)
    await world.pass(0.9)
    expect(publishes(client)).toEqual([])
    await world.pass(0.3)
    const [again] = publishes(client)
    expect(again).toMatchObject({ line: '$queue/jobs/jobs/a 2 1' })
    expect(again!.id).not.toBe(got[1]!.id)
    expect(group(world).look(0, 2)).toMatchObject({ failures: 1 })
  })

  it('19: the same client comes back and gets its own again, over a kill, too', async () => {
    const disk = await DiskWorld.make(jobs())
    const first = await disk.connect('a', lasting())
    await first.subscribe('$queue/jobs/#', 1)
    await disk.settle()
    await put(disk.world, 'x')
    await disk.settle()
    const [sent] = publishes(first)
    expect(sent).toMatchObject({ id: 1, line: '$queue/jobs/jobs/a x 1' })
    await first.vanish()
    await disk.kill()
    const again = await disk.connect('a', lasting())
    await disk.settle()
    expect(again.connack).toMatchObject({ sessionPresent: true })
    const [dup] = publishes(again)
    expect(dup).toMatchObject({ id: 1, line: '$queue/jobs/jobs/a x 1 dup' })
    expect(dup!.user['x-delivery-count']).toBe(undefined)
    await puback(again, 1)
    expect(group(disk.world).states.messages).toBe(0)
    await disk.kill()
    expect(group(disk.world).states.messages).toBe(0)
    const third = await disk.connect('a', lasting())
    await disk.settle()
    expect(publishes(third)).toEqual([])
  })

  it('19: a takeover by the same client leaves it its own', async () => {
    const world = await inMemory(jobs())
    const a = await world.connect('a', lasting())
    await a.subscribe('$queue/jobs/#', 1)
    const b = await consumer(world, 'b')
    await put(world, 'x', 'y')
    const own = lines(a)
    expect(own).toHaveLength(1)
    const again = await world.connect('a', lasting())
    expect(lines(again)).toEqual([`${own[0]} dup`])
    expect(lines(b)).toHaveLength(1)
  })

  it('20: another one was quicker', async () => {
    const world = await inMemory(jobs())
    const a = await world.connect('a', lasting())
    await a.subscribe('$queue/jobs/#', 1)
    await put(world, 'x')
    const [sent] = publishes(a)
    const b = await consumer(world, 'b')
    await a.vanish()
    await world.settle()
    expect(publishes(b)).toMatchObject([{ line: '$queue/jobs/jobs/a x 1' }])
    const again = await world.connect('a', lasting())
    expect(publishes(again)).toEqual([])
    await puback(again, sent!.id)
    expect(again.closed).toBe(false)
    expect(group(world).states).toMatchObject({ messages: 1, inFlight: 1 })
    await puback(b, 1)
    expect(group(world).states.messages).toBe(0)
  })

  it('21: at QoS 2 a message stays its Session’s, over a kill, too', async () => {
    const disk = await DiskWorld.make(jobs())
    const a = await disk.connect('a', lasting())
    await a.subscribe('$queue/jobs/#', 2)
    await disk.settle()
    await put(disk.world, 'x')
    await disk.settle()
    expect(lines(a)).toEqual(['$queue/jobs/jobs/a x 2'])
    const b = await disk.connect('b')
    await b.subscribe('$queue/jobs/#', 2)
    await a.vanish()
    await disk.world.pass(10)
    expect(lines(b)).toEqual([])
    await disk.kill()
    const c = await disk.connect('c')
    await c.subscribe('$queue/jobs/#', 2)
    await disk.settle()
    expect(lines(c)).toEqual([])
    const again = await disk.connect('a', lasting())
    await disk.settle()
    expect(lines(again)).toEqual(['$queue/jobs/jobs/a x 2 dup'])
    await again.send({ cmd: 'pubrec', messageId: 1 })
    await disk.settle()
    expect(again.got()).toMatchObject([{ cmd: 'pubrel', messageId: 1 }])
    await disk.kill()
    expect(group(disk.world).states.messages).toBe(0)
    const third = await disk.connect('a', lasting())
    await disk.settle()
    expect(third.got()).toMatchObject([{ cmd: 'pubrel', messageId: 1 }])
    await third.send({ cmd: 'pubcomp', messageId: 1 })
    await disk.kill()
    const fourth = await disk.connect('a', lasting())
    await disk.settle()
    expect(fourth.got()).toEqual([])
  })

  it('22: a Session that ends in between leaves a dead letter, and nobody else gets it', async () => {
    const world = await inMemory(jobs())
    const a = await world.connect('a', lasting(2))
    await a.subscribe('$queue/jobs/#', 2)
    await put(world, 'x')
    expect(lines(a)).toEqual(['$queue/jobs/jobs/a x 2'])
    const b = await consumer(world, 'b')
    await a.vanish()
    await world.pass(3)
    expect(lines(b)).toEqual([])
    const reader = await world.connect('reader')
    await reader.subscribe('$queue/jobs.dead/#', 1)
    expect(publishes(reader)).toMatchObject([
      { line: '$queue/jobs.dead/jobs/a x 1', user: { 'x-death-reason': 'in-doubt' } },
    ])
  })

  it('22: … and PUBREL waits for the commit of that, whether the Session is stored or not', async () => {
    const disk = await DiskWorld.make(jobs())
    const a = await disk.connect('a')
    await a.subscribe('$queue/jobs/#', 2)
    const publisher = await disk.connect('p')
    await publisher.send({ cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 2, messageId: 1 })
    await disk.settle()
    const [message] = publishes(a)
    const settlement = disk.store.openSequence
    const { link } = a
    const write = link.write.bind(link)
    const committed: number[] = []
    link.write = (chunks, bytes) => {
      committed.push(disk.store.committedSequence)
      write(chunks, bytes)
    }
    await a.send({ cmd: 'pubrec', messageId: message!.id })
    await disk.settle()
    expect(committed).toHaveLength(1)
    expect(committed[0]).toBeGreaterThanOrEqual(settlement)
  })

  it('22: … nor after a kill before the dead letter is there', async () => {
    const disk = await DiskWorld.make(jobs())
    const a = await disk.connect('a', lasting(2))
    await a.subscribe('$queue/jobs/#', 2)
    await disk.settle()
    const publisher = await disk.connect('p')
    await publisher.send({ cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 2, messageId: 1 })
    await disk.settle()
    expect(lines(a)).toEqual(['$queue/jobs/jobs/a x 2'])
    await a.vanish()
    const { queues } = disk.world.server
    // The end of the Session is durable, its dead letter is not made.
    queues!.definitions.moveToDeadLetters = () => {}
    await disk.world.pass(3)
    await disk.kill()
    const b = await disk.connect('b')
    await b.subscribe('$queue/jobs/#', 1)
    await disk.settle()
    expect(lines(b)).toEqual([])
    const reader = await disk.connect('reader')
    await reader.subscribe('$queue/jobs.dead/#', 1)
    await disk.settle()
    expect(publishes(reader)).toMatchObject([
      { line: '$queue/jobs.dead/jobs/a x 1', user: { 'x-death-reason': 'in-doubt' } },
    ])
    await disk.kill()
    expect(disk.world.server.state.sessionsById.size).toBe(0)
  })

  it.each(['$queue/jobs/#', '$share/jobs/jobs/#'])(
    '22: … nor after a kill, without a stored Session: %s',
    async (filter) => {
      const disk = await DiskWorld.make(jobs())
      const a = await disk.connect('a')
      await a.subscribe(filter, 2)
      const publisher = await disk.connect('p')
      for (const payload of ['x', 'y']) {
        await publisher.send({ cmd: 'publish', topic: 'jobs/a', payload, qos: 2, messageId: 1 })
        await publisher.send({ cmd: 'pubrel', messageId: 1 })
        await disk.settle()
        // The first is acknowledged, so the window is 2, and 'y' is in flight alone.
        const [message] = publishes(a)
        expect(message!.line).toMatch(payload)
        if (payload === 'x') await a.send({ cmd: 'pubrec', messageId: message!.id })
      }
      await disk.kill()
      const b = await disk.connect('b')
      await b.subscribe(filter, 2)
      await disk.settle()
      expect(lines(b)).toEqual([])
      const reader = await disk.connect('reader')
      await reader.subscribe('$queue/jobs.dead/#', 1)
      await disk.settle()
      const death = { 'x-death-reason': 'in-doubt', 'x-death-consumer': 'a', 'x-death-count': '1' }
      const dead = [{ line: '$queue/jobs.dead/jobs/a y 1', user: death }]
      expect(publishes(reader)).toMatchObject(filter.startsWith('$share') ? [] : dead)
      // Once: another kill brings nothing back.
      await disk.kill()
      const again = await disk.connect('again')
      await again.subscribe(filter, 2)
      await disk.settle()
      expect(lines(again)).toEqual([])
    },
  )

  it('22: … nor is it seen before the note of that is durable', async () => {
    const disk = await DiskWorld.make(jobs())
    const a = await disk.connect('a')
    await a.subscribe('$queue/jobs/#', 2)
    const publisher = await disk.connect('p')
    await publisher.send({ cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 1, messageId: 1 })
    await disk.settle()
    // It waits in the queue: what is durable would be sent at once.
    const { link } = a
    const write = link.write.bind(link)
    const committed: number[] = []
    link.write = (chunks, bytes) => {
      committed.push(disk.store.committedSequence)
      write(chunks, bytes)
    }
    const [message] = publishes(a)
    const before = disk.store.openSequence
    await a.send({ cmd: 'pubrec', messageId: message!.id, reasonCode: 0x97 })
    await disk.world.pass(1)
    await disk.settle()
    expect(lines(a)).toEqual(['$queue/jobs/jobs/a x 2'])
    expect(committed.at(-1)).toBeGreaterThan(before)
  })

  it('22: … and by a Shared Subscription it is discarded [MQTT-4.8.2-5]', async () => {
    const world = await inMemory(jobs())
    const a = await world.connect('a', lasting(2))
    await a.subscribe('$share/jobs/jobs/#', 2)
    const publisher = await world.connect('p')
    await publisher.send({ cmd: 'publish', topic: 'jobs/a', payload: 'x', qos: 2, messageId: 1 })
    expect(lines(a)).toEqual(['jobs/a x 2'])
    const b = await consumer(world, 'b')
    await a.vanish()
    await world.pass(3)
    expect(lines(b)).toEqual([])
    expect(world.server.state.counters.drops).toMatchObject({ 'refused-by-client': 0, 'session-ended': 1 })
    expect(world.server.queues!.definitions.byName.has('jobs.dead')).toBe(false)
    expect(group(world).states.messages).toBe(0)
  })

  it('23: at QoS 0 nothing arrives twice, whenever the broker is killed', async () => {
    const disk = await DiskWorld.make(jobs())
    const publisher = await disk.connect('p')
    const count = 1000
    for (let index = 0; index < count; index++) await publisher.publish('jobs/a', `${index}`, 0)
    await disk.settle()
    const consumer = await disk.connect('a')
    const seen: string[] = []
    await consumer.subscribe('$queue/jobs/#', 0)
    for (let turn = 0; turn < 3; turn++) await disk.world.turn()
    // Whatever leaves after this moment left after the kill.
    seen.push(...lines(consumer))
    await disk.killNow()
    const again = await disk.connect('a')
    await again.subscribe('$queue/jobs/#', 0)
    await disk.settle()
    seen.push(...lines(again))
    expect(new Set(seen).size).toBe(seen.length)
    expect(group(disk.world).states.messages).toBe(0)
  })

  it('24: a refusal by a member of the Shared Subscription discards the message [MQTT-4.8.2-6]', async () => {
    const world = await inMemory(jobs())
    const members = [await world.connect('a'), await world.connect('b')]
    for (const member of members) await member.subscribe('$share/jobs/jobs/#', 1)
    await put(world, 'x')
    const got = members.map(publishes)
    const index = got.findIndex(({ length }) => length > 0)
    await puback(members[index]!, got[index]![0]!.id, refusal(0x80))
    await world.pass(120)
    expect(members.flatMap(lines)).toEqual([])
    expect(world.server.state.counters.drops['refused-by-client']).toBe(1)
    expect(world.server.queues!.definitions.byName.has('jobs.dead')).toBe(false)
    expect(group(world).states.messages).toBe(0)
  })
})
