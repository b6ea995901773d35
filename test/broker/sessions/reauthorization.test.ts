import { describe, expect, test } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { lasting, textsOf, World } from '../harness.ts'

/** Lets everybody in, and denies the entries of `denied`: `publish a/b`, `subscribe a/#`, `receive a/b`. */
function listed(denied: ReadonlySet<string>, more: Policy = {}): Policy {
  return {
    authenticate: ({ userName }) => ({ allow: true, userName: userName ?? null }),
    authorizePublish: (_, topic) => !denied.has(`publish ${topic}`),
    authorizeSubscribe: (_, filter) => !denied.has(`subscribe ${filter}`),
    authorizeReceive: (_, topic) => !denied.has(`receive ${topic}`),
    ...more,
  }
}

async function world(): Promise<{ world: World; denied: Set<string> }> {
  const denied = new Set<string>()
  return { world: await World.make({ policy: listed(denied) }), denied }
}

describe('a Subscription that is not allowed any more', () => {
  test('is suspended: 5.0 is told 0x87 and which, no message finds it, and SUBACK refuses it', async () => {
    const { world: w, denied } = await world()
    const told = w.record('security')
    const client = await w.connect('c', lasting())
    await client.subscribe('a/#', 1)
    await client.subscribe('b', 1)
    await w.commit()
    client.got()
    denied.add('subscribe a/#')
    w.server.usePolicy(listed(denied))
    await w.settle()
    while (await w.commit());
    expect(client.got()).toMatchObject([
      {
        cmd: 'disconnect',
        reasonCode: Reason.NotAuthorized,
        properties: { reasonString: expect.stringContaining('a/#') },
      },
    ])
    expect(client.closed).toBe(true)
    expect(told).toMatchObject([{ kind: 'subscription-stopped', subject: 'c' }])
    const again = await w.connect('c', lasting())
    expect(again.connack).toMatchObject({ sessionPresent: true })
    const publisher = await w.connect('p')
    await publisher.publish('a/x', 'no')
    await publisher.publish('b', 'yes')
    expect(again.texts()).toEqual(['yes'])
    expect(await again.subscribe('a/#')).toBe(Reason.NotAuthorized)
    // Other changes do not cut off a client that was told once.
    w.server.usePolicy(listed(denied))
    await w.settle()
    expect(again.closed).toBe(false)
  })

  test('is suspended for 3.1.1 by closing the connection', async () => {
    const { world: w, denied } = await world()
    const client = await w.connect('c', {}, 4)
    await client.subscribe('a')
    client.got()
    denied.add('subscribe a')
    w.server.usePolicy(listed(denied))
    await w.settle()
    expect(client.got()).toEqual([])
    expect(client.closed).toBe(true)
  })

  test('is kept for an absent device, which hears again once it is allowed again [field-C14]', async () => {
    const { world: w, denied } = await world()
    const client = await w.connect('c', lasting())
    await client.subscribe('a/#', 1)
    await client.subscribe('b', 1)
    await client.vanish()
    const publisher = await w.connect('p')
    await publisher.publish('a/x', 'before', 1)
    denied.add('subscribe a/#')
    w.server.usePolicy(listed(denied))
    await w.settle()
    while (await w.commit());
    expect(w.ledger.lines.some((line) => /delete.*subscription/i.test(line))).toBe(false)
    await publisher.publish('a/x', 'meanwhile', 1)
    await publisher.publish('b', 'of another Subscription', 1)
    denied.clear()
    w.server.usePolicy(listed(denied))
    expect(await w.server.reauthorized()).toMatchObject({ subscriptionsResumed: 1 })
    await publisher.publish('a/x', 'after', 1)
    const again = await w.connect('c', lasting())
    while (await w.commit());
    expect(again.connack).toMatchObject({ sessionPresent: true })
    expect(await again.drain()).toEqual(['before', 'of another Subscription', 'after'])
    await publisher.publish('a/x', 'online', 1)
    while (await w.commit());
    expect(await again.drain()).toEqual(['online'])
  })

  test.each([
    ['with a policy that restricts nobody', {}],
    ['with one that allows it', { authorizeSubscribe: () => true }],
  ])(
    'goes on %s, and the retained messages that were under way begin again [field-C14]',
    async (_, policy) => {
      const { world: w, denied } = await world()
      const publisher = await w.connect('p')
      for (const topic of ['a/1', 'a/2', 'a/3']) await publisher.publish(topic, topic, 1, { retain: true })
      const client = await w.connect(
        'c',
        lasting(1000, { properties: { sessionExpiryInterval: 1000, receiveMaximum: 1 } }),
      )
      await client.subscribe('a/#', 1)
      await client.vanish()
      denied.add('subscribe a/#')
      w.server.usePolicy(listed(denied))
      await w.settle()
      expect(w.server.retainedDeliveries).toBe(0)
      w.server.usePolicy(policy)
      await w.settle()
      const again = await w.connect('c', lasting())
      while (await w.commit());
      expect(new Set(await again.drain())).toEqual(new Set(['a/1', 'a/2', 'a/3']))
    },
  )

  test('of a share takes no message from the members that may have it [field-C14]', async () => {
    const { world: w, denied } = await world()
    const absent = await w.connect('absent', lasting(1000, { username: 'anna' }))
    await absent.subscribe('$share/g/work', 1)
    await absent.vanish()
    const may: Policy = {
      ...listed(denied),
      authorizeSubscribe: ({ userName }) => userName !== 'anna',
    }
    w.server.usePolicy(may)
    await w.settle()
    const member = await w.connect('member', lasting())
    await member.subscribe('$share/g/work', 1)
    await member.vanish()
    const publisher = await w.connect('p')
    for (const payload of ['1', '2']) await publisher.publish('work', payload, 1)
    const back = await w.connect('member', lasting())
    while (await w.commit());
    expect(await back.drain()).toEqual(['1', '2'])
  })

  test('can be ended by its client, and ends with its Session', async () => {
    const { world: w, denied } = await world()
    const client = await w.connect('c', lasting())
    await client.subscribe('a', 1)
    await client.subscribe('b', 1)
    await client.vanish()
    for (const filter of ['a', 'b']) denied.add(`subscribe ${filter}`)
    w.server.usePolicy(listed(denied))
    await w.settle()
    expect(w.server.state.router.subscriptionCount).toBe(0)
    const again = await w.connect('c', lasting())
    while (await w.commit());
    expect(await again.unsubscribe('a')).toBe(0)
    expect([...w.server.state.sessions.get('c')!.subscriptions.keys()]).toEqual(['b'])
    await again.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
    expect(w.server.state.suspended.size).toBe(0)
  })

  test('is asked about again when its client is back, whom the policy sees better then', async () => {
    const { world: w } = await world()
    const client = await w.connect('c', lasting())
    await client.subscribe('a', 1)
    await client.vanish()
    const policy: Policy = { authorizeSubscribe: async ({ link }) => link.listener === 'test' }
    w.server.usePolicy(policy)
    await w.settle()
    expect(w.server.state.router.subscriptionCount).toBe(0)
    const again = await w.connect('c', lasting())
    while (await w.commit());
    await w.server.publish({ topic: 'a', payload: Buffer.from('x'), qos: 0, retain: false, publisher: '' })
    await w.settle()
    expect(again.texts()).toEqual(['x'])
  })

  test('of very many Subscriptions are checked in slices; their messages are held back', async () => {
    const { world: w, denied } = await world()
    const client = await w.connect('c')
    const filters = Array.from({ length: 1500 }, (_, i) => `a/${i}`)
    for (const filter of filters) await client.subscribe(filter)
    client.got()
    for (const filter of filters) denied.add(`receive ${filter}`)
    denied.add('subscribe a/1499')
    w.server.usePolicy(listed(denied))
    expect(w.server.reauthorizing).toBe(true)
    void w.server.publish({
      topic: 'a/1499',
      payload: Buffer.from('x'),
      qos: 0,
      retain: false,
      publisher: '',
    })
    await w.settle()
    expect(w.server.reauthorizing).toBe(false)
    expect(textsOf(client.link.packets)).toEqual([])
    expect(client.closed).toBe(true)
  })

  test.each([
    ['again', ['subscribe']],
    ['anew', ['unsubscribe', 'subscribe']],
  ] as const)('but not one that was subscribed to %s while the policy took its time', async (_, steps) => {
    const { world: w } = await world()
    const client = await w.connect('c')
    await client.subscribe('a', 1)
    await client.subscribe('b', 1)
    const answers: ((allowed: boolean) => void)[] = []
    let asked = (): boolean | Promise<boolean> => new Promise((resolve) => answers.push(resolve))
    w.server.usePolicy({ authorizeSubscribe: () => asked() })
    await w.settle()
    expect(answers.length).toBe(2)
    asked = () => true
    for (const step of steps)
      await (step === 'subscribe' ? client.subscribe('a', 1) : client.unsubscribe('a'))
    answers[0]!(false)
    await w.settle()
    expect(client.closed).toBe(false)
    answers[1]!(false)
    await w.settle()
    expect(client.closed).toBe(true)
  })

  test('but not by the late answer of an earlier policy', async () => {
    const { world: w } = await world()
    const client = await w.connect('c')
    await client.subscribe('a', 1)
    const answers: ((allowed: boolean) => void)[] = []
    w.server.usePolicy({ authorizeSubscribe: () => new Promise((resolve) => answers.push(resolve)) })
    await w.settle()
    for (const policy of [{}, { authorizeSubscribe: () => true }]) {
      w.server.usePolicy(policy)
      await w.settle()
    }
    for (const answer of answers) answer(false)
    await w.settle()
    expect(client.closed).toBe(false)
  })

  test('also where the policy takes its time', async () => {
    const { world: w } = await world()
    const client = await w.connect('c')
    await client.subscribe('a')
    w.server.usePolicy({ authorizeSubscribe: async () => false })
    await w.settle()
    expect(client.closed).toBe(true)
  })
})

describe('a credential that is withdrawn', () => {
  test('its connections end, those of others stay', async () => {
    const { world: w, denied } = await world()
    const alice = await w.connect('a', { username: 'alice' })
    const bob = await w.connect('b', { username: 'bob' })
    const nobody = await w.connect('n')
    w.server.usePolicy(listed(denied), new Set(['alice']))
    await w.settle()
    expect(alice.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: Reason.NotAuthorized }])
    expect([alice.closed, bob.closed, nobody.closed]).toEqual([true, false, false])
  })
})

describe('receiving', () => {
  test('a queued message is looked at again when it is its turn, and counted when it is denied', async () => {
    const { world: w, denied } = await world()
    const drops = w.record('dropped')
    const client = await w.connect('c', lasting())
    await client.subscribe('#', 1)
    await client.vanish()
    const publisher = await w.connect('p')
    for (const topic of ['a', 'b', 'c']) await publisher.publish(topic, topic, 1)
    denied.add('receive b')
    const again = await w.connect('c', lasting())
    while (await w.commit());
    expect(await again.drain()).toEqual(['a', 'c'])
    expect(drops).toMatchObject([{ clientId: 'c', reason: 'not-authorized' }])
  })

  test('a message that was in flight is not sent again', async () => {
    const { world: w, denied } = await world()
    const client = await w.connect('c', lasting())
    await client.subscribe('#', 1)
    while (await w.commit());
    const publisher = await w.connect('p')
    for (const topic of ['a', 'b']) await publisher.publish(topic, topic, 1)
    while (await w.commit());
    expect(client.texts()).toEqual(['a', 'b'])
    await client.vanish()
    denied.add('receive a')
    const again = await w.connect('c', lasting())
    while (await w.commit());
    expect(await again.drain()).toEqual(['b'])
    expect(w.server.state.sessions.get('c')!.inFlightCount).toBe(0)
  })

  test('retained messages are looked at one by one', async () => {
    const { world: w, denied } = await world()
    const publisher = await w.connect('p')
    for (const topic of ['a', 'b', 'c']) await publisher.publish(topic, topic, 0, { retain: true })
    denied.add('receive b')
    const client = await w.connect('c')
    await client.subscribe('#')
    expect(client.texts().sort()).toEqual(['a', 'c'])
  })

  test('a Shared Subscription gives the message to a member that may have it', async () => {
    const policy = listed(new Set(), { authorizeReceive: ({ clientId }) => clientId === 'second' })
    const w = await World.make({ policy })
    const [first, second] = [await w.connect('first'), await w.connect('second')]
    for (const client of [first, second]) await client.subscribe('$share/g/#')
    const publisher = await w.connect('p')
    for (const payload of ['1', '2', '3']) await publisher.publish('a', payload)
    expect(first.texts()).toEqual([])
    expect(second.texts()).toEqual(['1', '2', '3'])
  })

  test('subscribers in this process are not asked about', async () => {
    const w = await World.make({ policy: { authorizeReceive: () => false } })
    const texts: string[] = []
    const options = { qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    for (const filter of ['#', '$share/g/#']) {
      w.server.subscribe(filter, options, ({ message }) => texts.push(message.payload.toString()))
    }
    await w.server.publish({ topic: 'a', payload: Buffer.from('x'), qos: 0, retain: false, publisher: '' })
    await w.settle()
    expect(texts).toEqual(['x', 'x'])
  })
})

describe('a denied PUBLISH before 5.0', () => {
  test.each([
    ['ignore', false],
    ['disconnect', true],
  ] as const)('%s', async (deniedBefore5, closes) => {
    const w = await World.make({ policy: listed(new Set(['publish a']), { deniedBefore5 }) })
    const watcher = await w.connect('w')
    await watcher.subscribe('#')
    const client = await w.connect('c', {}, 4)
    const answers = await client.publish('a', 'x', 1)
    expect(client.closed).toBe(closes)
    expect(answers).toMatchObject(closes ? [] : [{ cmd: 'puback' }])
    expect(watcher.texts()).toEqual([])
  })
})

describe('a Session belongs to the user that made it', () => {
  test.each([4, 5] as const)('version %s: a stolen Client Identifier takes nothing', async (version) => {
    const { world: w } = await world()
    const stays = version === 5 ? lasting() : { clean: false }
    const owner = await w.connect('c', { ...stays, username: 'alice' }, version)
    await owner.subscribe('a', 1)
    for (const clean of [true, false]) {
      const thief = await w.connect('c', { ...stays, clean, username: 'mallory' }, version)
      expect(thief.connack).toMatchObject(version === 5 ? { reasonCode: 0x87 } : { returnCode: 5 })
      expect(thief.closed).toBe(true)
    }
    const anonymous = await w.connect('c', stays, version)
    expect(anonymous.closed).toBe(true)
    expect(owner.closed).toBe(false)
    const publisher = await w.connect('p', { username: 'mallory' })
    await publisher.publish('a', 'for alice', 0)
    expect(textsOf(owner.got())).toEqual(['for alice'])
  })
})
