/** Example 30 of queues, and all else about reply queues: who has them, who fills them, when they go. */
import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import type { Given, TestClient, World } from '../harness.ts'
import { DiskWorld, inMemory, lines, puback, publishes } from './queue-world.ts'

const ASKING = { requestResponseInformation: true }

/** CONNECT that asks for Response Information; of a user, if one is named. */
function asking(userName: string | null = null, more: Given = {}): Given {
  return {
    ...userOf(userName),
    ...more,
    properties: { ...ASKING, ...(more as { properties?: Given }).properties },
  }
}

function userOf(userName: string | null): Given {
  return userName === null ? {} : { username: userName }
}

/** Everybody is who they say. */
const NAMES: Policy = { authenticate: ({ userName = null }) => ({ allow: true, userName }) }

function queue(world: World, clientId: string) {
  return world.server.queues!.definitions.byName.get(`reply.${clientId}`)
}

function infoOf(client: TestClient): string | undefined {
  const { connack } = client
  return connack?.cmd === 'connack' ? connack.properties?.responseInformation : undefined
}

/** The bytes of the CONNACK for a client that asks, with a Maximum Packet Size if one is given. */
async function connackBytes(world: World, clientId: string, maximumPacketSize?: number): Promise<number> {
  const properties = maximumPacketSize === undefined ? {} : { maximumPacketSize }
  const { link } = await world.connect(clientId, asking(null, { properties }))
  expect(link.destroyed || link.ended).toBe(false)
  return Buffer.concat(link.raw).length
}

async function put(client: TestClient, clientId: string, payload: string): Promise<number> {
  const [puback] = await client.publish(`$queue/reply.${clientId}`, payload, 1)
  return puback?.cmd === 'puback' ? Number(puback.reasonCode) : -1
}

describe('30: ask, go, come back', () => {
  it('over a kill', async () => {
    const disk = await DiskWorld.make()
    const kept = { clean: false, properties: { ...ASKING, sessionExpiryInterval: 1000 } }
    const requester = await disk.connect('r1', kept)
    expect(infoOf(requester)).toBe('$queue/reply.r1')
    const properties = { responseTopic: '$queue/reply.r1', correlationData: Buffer.from('17') }
    await requester.send({
      cmd: 'publish',
      topic: '$queue/jobs',
      payload: 'ping',
      qos: 1,
      messageId: 1,
      properties,
    })
    await disk.settle()
    await requester.send({ cmd: 'disconnect' })
    await disk.kill()
    const responder = await disk.connect('w')
    await responder.subscribe('$queue/jobs', 1)
    await disk.settle()
    const request = responder.got().find(({ cmd }) => cmd === 'publish')
    if (request?.cmd !== 'publish') throw new Error('no request')
    const { responseTopic, correlationData } = request.properties!
    const reply = { topic: responseTopic, payload: 'pong', qos: 1, messageId: 1 }
    await responder.send({ cmd: 'publish', ...reply, properties: { correlationData } })
    await disk.settle()
    expect(responder.got()).toMatchObject([{ cmd: 'puback' }])
    await puback(responder, request.messageId!)
    await disk.kill()
    const back = await disk.connect('r1', kept)
    expect(infoOf(back)).toBe('$queue/reply.r1')
    await back.subscribe('$queue/reply.r1', 1)
    await disk.settle()
    const got = back.got().filter(({ cmd }) => cmd === 'publish')
    expect(got).toMatchObject([{ topic: '$queue/reply.r1', properties: { correlationData } }])
    expect(correlationData?.toString()).toBe('17')
  })
})

it('30: an explicit acknowledgement brings the reply, with the Correlation Data, in one commit', async () => {
  const disk = await DiskWorld.make()
  const kept = { clean: false, properties: { ...ASKING, sessionExpiryInterval: 1000 } }
  const requester = await disk.connect('r1', kept)
  const properties = { responseTopic: '$queue/reply.r1', correlationData: Buffer.from('17') }
  const request = { topic: '$queue/jobs', payload: 'ping', qos: 1, messageId: 1, properties }
  await requester.send({ cmd: 'publish', ...request })
  await disk.settle()
  await requester.send({ cmd: 'disconnect' })
  await disk.kill()
  const responder = await disk.connect('w')
  await responder.subscribe('$queue/jobs;ack=explicit', 1)
  await disk.settle()
  const [job] = publishes(responder)
  await puback(responder, job!.id)
  const done = { topic: job!.user['x-ack'], payload: 'pong', qos: 1, messageId: 7 }
  await responder.send({ cmd: 'publish', ...done })
  await disk.kill()
  const jobs = disk.world.server.queues!.definitions.byName.get('jobs')!
  expect(jobs.group.states.messages).toBe(0)
  const back = await disk.connect('r1', kept)
  await back.subscribe('$queue/reply.r1', 1)
  await disk.settle()
  const got = back.got().filter(({ cmd }) => cmd === 'publish')
  expect(got).toMatchObject([
    { payload: Buffer.from('pong'), properties: { correlationData: Buffer.from('17') } },
  ])
})

describe('a reply queue', () => {
  it('is made by CONNACK only where its client asks, and can be a name', async () => {
    const world = await inMemory()
    expect(infoOf(await world.connect('plain'))).toBe(undefined)
    expect(queue(world, 'plain')).toBe(undefined)
    const longest = 'x'.repeat(58)
    for (const clientId of ['r1', longest]) {
      expect(infoOf(await world.connect(clientId, asking()))).toBe(`$queue/reply.${clientId}`)
    }
    for (const clientId of [`${longest}x`, 'a/b', 'ü', 'x.dead']) {
      expect(infoOf(await world.connect(clientId, asking()))).toBe(undefined)
    }
    const assigned = await world.connect('', asking(null, { clean: true }))
    expect(infoOf(assigned)).toMatch(/^\$queue\/reply\.auto-id\d+$/)
    const found = queue(world, 'r1')!
    expect(found.properties).toMatchObject({
      bytesMax: 16 * 1024 ** 2,
      overflow: 'reject',
      deadLetters: 'none',
    })
    expect(found.origin).toBe('use')
    expect(world.server.queues!.definitions.byUse).toBe(3)
  })

  it('is left out of a CONNACK that would exceed Maximum Packet Size, and is not made', async () => {
    const world = await inMemory()
    const bytes = await connackBytes(world, 'r2')
    expect(await connackBytes(world, 'r3', bytes)).toBe(bytes)
    // The property's identifier, its length, and `$queue/reply.r4`.
    expect(await connackBytes(world, 'r4', bytes - 1)).toBe(bytes - 18)
    expect(queue(world, 'r3')).toBeDefined()
    expect(queue(world, 'r4')).toBe(undefined)
    // It is open, and may make its queue by name.
    const small = await world.connect('r5', asking(null, { properties: { maximumPacketSize: bytes - 1 } }))
    expect(infoOf(small)).toBe(undefined)
    expect(await small.subscribe('$queue/reply.r5', 1)).toBe(1)
  })

  it('is made by its client’s SUBSCRIBE, before 5.0 too, without any right', async () => {
    const nobody: Policy = {
      authorizeSubscribe: () => false,
      authorizePublish: () => false,
      authorizeDeclare: () => false,
    }
    const world = await inMemory({}, { policy: nobody })
    const client = await world.connect('r1', {}, 4)
    expect(await client.subscribe('$queue/reply.r1;prefetch=5/#', 1)).toBe(1)
    expect(await client.subscribe('$queue/other', 1)).toBeGreaterThanOrEqual(0x80)
    const other = await world.connect('p')
    expect(await put(other, 'r1', 'x')).toBe(0)
    expect(lines(client)).toEqual(['$queue/reply.r1;prefetch=5 x 1'])
    // A change of rights takes nothing from its client.
    world.server.usePolicy(nobody)
    await world.settle()
    expect(client.closed).toBe(false)
    expect(await put(other, 'r1', 'y')).toBe(0)
    expect(lines(client)).toEqual(['$queue/reply.r1;prefetch=5 y 1'])
  })

  it('is consumed by nobody else, whatever rights they have', async () => {
    const world = await inMemory({}, { policy: { authorizeSubscribe: () => true } })
    await world.connect('r1', asking())
    const other = await world.connect('r2')
    for (const filter of [
      '$queue/reply.r1',
      '$q/reply.r1/#',
      '$queue/reply.r3',
      '$queue/reply.r1;prefetch=1',
    ]) {
      expect(await other.subscribe(filter, 1)).toBe(0x87)
    }
    expect(queue(world, 'r3')).toBe(undefined)
    // It has no filters, so this is a Shared Subscription as any other.
    expect(await other.subscribe('$share/reply.r1/#', 1)).toBe(1)
    await put(other, 'r1', 'x')
    expect(lines(other)).toEqual([])
  })

  it('is filled by everybody, or with reply_open: false by those who may publish to it', async () => {
    const asked: string[] = []
    const policy: Policy = {
      authorizePublish: ({ clientId }, topic) => {
        asked.push(`${clientId} ${topic}`)
        return clientId === 'friend'
      },
      authorizeDeclare: () => true,
    }
    const open = await inMemory({}, { policy })
    await open.connect('r1', asking())
    expect(await put(await open.connect('p'), 'r1', 'x')).toBe(0)
    expect(await put(await open.connect('p'), 'none', 'x')).toBe(0x90)
    expect(asked).toEqual([])
    const closed = await inMemory({ replyOpen: false }, { policy })
    await closed.connect('r1', asking())
    expect(await put(await closed.connect('p'), 'r1', 'x')).toBe(0x87)
    expect(await put(await closed.connect('friend'), 'r1', 'x')).toBe(0)
    expect(await put(await closed.connect('friend'), 'none', 'x')).toBe(0x90)
    expect(asked).toEqual(['p $queue/reply.r1', 'friend $queue/reply.r1', 'friend $queue/reply.none'])
  })

  it('takes a Will, and refuses what is too much', async () => {
    const world = await inMemory(
      { patterns: [{ name: 'reply.*', properties: { messagesMax: 2 } }] },
      { policy: { authorizePublish: () => false } },
    )
    await world.connect('r1', asking())
    const will = {
      topic: '$queue/reply.r1',
      payload: Buffer.from('gone'),
      qos: 1,
      retain: false,
      properties: {},
    }
    const worker = await world.connect('w', { will })
    await worker.vanish()
    const other = await world.connect('p')
    expect([await put(other, 'r1', '1'), await put(other, 'r1', '2')]).toEqual([0, 0x97])
    expect(queue(world, 'r1')!.group.states.messages).toBe(2)
  })

  it('is not declared, but can be changed', async () => {
    const world = await inMemory()
    await world.connect('r1', asking())
    const operator = world.server.queueOperator!
    await expect(operator.declare('reply.r2', {}, 'test')).rejects.toThrow(/belong to reply queues/)
    await operator.change('reply.r1', { messagesMax: 5 }, false, 'test')
    await expect(operator.change('reply.r1', { filters: ['a'] }, false, 'test')).rejects.toThrow(/no filters/)
    expect(queue(world, 'r1')).toMatchObject({ origin: 'use', properties: { messagesMax: 5 } })
    const forbidding = await inMemory({ declare: 'operator' })
    const client = await forbidding.connect('r1', asking())
    expect(infoOf(client)).toBe(undefined)
    expect(await client.subscribe('$queue/reply.r1', 1)).toBe(0x87)
    expect(infoOf(await (await inMemory({ enabled: false })).connect('r1', asking()))).toBe(undefined)
  })

  it('leaves Response Information to a policy that gives its own', async () => {
    const policy: Policy = {
      authenticate: () => ({ allow: true, userName: null, responseInformation: 'mine' }),
    }
    const world = await inMemory({}, { policy })
    const client = await world.connect('r1', asking())
    expect(infoOf(client)).toBe('mine')
    expect(queue(world, 'r1')).toBe(undefined)
  })
})

describe('whose a reply queue is', () => {
  it('the same user’s after takeover, Clean Start and a kill', async () => {
    const disk = await DiskWorld.make({}, { policy: NAMES })
    const first = await disk.connect('r1', asking('ada'))
    await put(first, 'r1', 'x')
    await disk.connect('r1', asking('ada', { clean: true }))
    await disk.kill()
    const third = await disk.connect('r1', asking('ada'))
    expect(infoOf(third)).toBe('$queue/reply.r1')
    expect(await third.subscribe('$queue/reply.r1', 1)).toBe(1)
    await disk.settle()
    expect(lines(third)).toEqual(['$queue/reply.r1 x 1'])
  })

  it('not another user’s who comes with the Client Identifier, while there are messages', async () => {
    const world = await inMemory({}, { policy: NAMES })
    const ada = await world.connect('r1', asking('ada'))
    await put(ada, 'r1', 'secret')
    await ada.send({ cmd: 'disconnect' })
    for (const userName of ['bob', null]) {
      const other = await world.connect('r1', asking(userName))
      expect(infoOf(other)).toBe(undefined)
      expect(await other.subscribe('$queue/reply.r1', 1)).toBe(0x87)
      await other.send({ cmd: 'disconnect' })
    }
    const again = await world.connect('r1', userOf('ada'))
    expect(await again.subscribe('$queue/reply.r1', 0)).toBe(0)
    expect(lines(again)).toEqual(['$queue/reply.r1 secret 0'])
    await again.send({ cmd: 'disconnect' })
    // Now it is empty, so it is in nobody's way.
    const bob = await world.connect('r1', asking('bob'))
    expect(infoOf(bob)).toBe('$queue/reply.r1')
    expect(queue(world, 'r1')!.replyTo).toEqual({ userName: 'bob', userId: null })
  })

  it('a user’s who takes the Client Identifier from a client without credentials', async () => {
    const world = await inMemory({}, { policy: NAMES })
    const anonymous = await world.connect('r1', asking())
    await put(anonymous, 'r1', 'x')
    await anonymous.send({ cmd: 'disconnect' })
    const ada = await world.connect('r1', asking('ada'))
    expect(infoOf(ada)).toBe('$queue/reply.r1')
    expect(queue(world, 'r1')!.group.states.messages).toBe(0)
    expect(world.server.state.counters.drops['session-ended']).toBe(1)
  })
})

describe('the number of reply queues', () => {
  it('stays within its limit: those that nobody waits for make room, and others keep theirs', async () => {
    const world = await inMemory({ declaredByUseMax: 3 })
    const waiting = await world.connect(
      'waiting',
      asking(null, { clean: false, properties: { sessionExpiryInterval: 1000 } }),
    )
    const full = await world.connect('full', asking())
    await put(full, 'full', 'x')
    await full.send({ cmd: 'disconnect' })
    for (let number = 0; number < 200; number++) {
      const client = await world.connect(`c${number}`, asking())
      expect(infoOf(client)).toBe(`$queue/reply.c${number}`)
      await client.send({ cmd: 'disconnect' })
    }
    await waiting.send({ cmd: 'disconnect' })
    expect([...world.server.queues!.definitions.byName.keys()]).toEqual([
      'reply.waiting',
      'reply.full',
      'reply.c199',
    ])
    const last = await world.connect('last', asking())
    expect(infoOf(last)).toBe('$queue/reply.last')
    // The Sessions of all that are left are there, or something is in them.
    const none = await world.connect('none', asking())
    expect(infoOf(none)).toBe(undefined)
    expect(none.closed).toBe(false)
    expect(await none.subscribe('$queue/reply.none', 1)).toBe(0x97)
    expect(world.server.state.counters.limits.queuesMax).toBeGreaterThan(0)
  })

  it('falls a day after the Session of its client has ended, with what is in it', async () => {
    const world = await inMemory({ idleExpirySeconds: 100 })
    const client = await world.connect(
      'r1',
      asking(null, { clean: false, properties: { sessionExpiryInterval: 1000 } }),
    )
    await client.send({ cmd: 'disconnect' })
    const short = await world.connect('r2', asking())
    await put(short, 'r2', 'x')
    await short.send({ cmd: 'disconnect' })
    for (let times = 0; times < 6; times++) await world.pass(10)
    // To put something in does not keep it.
    await put(await world.connect('p'), 'r2', 'y')
    for (let times = 0; times < 6; times++) await world.pass(10)
    expect(queue(world, 'r2')).toBe(undefined)
    expect(world.server.state.counters.drops['session-ended']).toBe(2)
    for (let times = 0; times < 85; times++) await world.pass(10)
    expect(queue(world, 'r1')?.name).toBe('reply.r1')
    for (let times = 0; times < 25; times++) await world.pass(10)
    expect(queue(world, 'r1')).toBe(undefined)
    expect(world.server.queues!.definitions.byUse).toBe(0)
  })

  it('of one user has a limit as well, within which that user’s own make room', async () => {
    const world = await inMemory({ declaredPerUserMax: 2 }, { policy: NAMES })
    const bob = await world.connect('bob1', asking('bob'))
    await bob.send({ cmd: 'disconnect' })
    for (let number = 0; number < 5; number++) {
      const client = await world.connect(`a${number}`, asking('ada'))
      expect(infoOf(client)).toBe(`$queue/reply.a${number}`)
      if (number > 0) await client.send({ cmd: 'disconnect' })
    }
    const names = [...world.server.queues!.definitions.byName.keys()]
    expect(names).toEqual(['reply.bob1', 'reply.a0', 'reply.a4'])
  })

  it('never makes room at the cost of messages', async () => {
    const world = await inMemory({ declaredByUseMax: 1 }, { policy: NAMES })
    const a = await world.connect('a', asking('ada'))
    expect(await put(a, 'a', 'x')).toBe(0)
    await a.send({ cmd: 'disconnect' })
    expect(infoOf(await world.connect('b', asking('bob')))).toBe(undefined)
    expect(queue(world, 'a')!.group.states.messages).toBe(1)
  })
})
