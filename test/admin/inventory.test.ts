import { describe, expect, test } from 'vitest'
import type { ControlCommand } from '../../src/admin/control.ts'
import {
  type ChangeResult,
  inventoryCommands,
  type RetainedDetails,
  type SessionDetails,
} from '../../src/admin/inventory.ts'
import type { Page } from '../../src/admin/pages.ts'
import type { SecurityEvent } from '../../src/broker/boundary/security.ts'
import type {
  ClientEntry,
  MessageEntry,
  SessionEntry,
  SubscriptionEntry,
} from '../../src/broker/inventory.ts'
import { StoreError } from '../../src/store/store.ts'
import { lasting, World, type WorldOptions } from '../broker/harness.ts'

const NO_REPLY: Parameters<ControlCommand>[1] = {
  data: () => Promise.reject(new Error('no data is expected')),
}

interface Operator {
  readonly world: World
  readonly told: SecurityEvent[]
  ask<T>(command: string, parameters?: Record<string, unknown>): Promise<T>
}

async function operator(options?: WorldOptions): Promise<Operator> {
  const world = await World.make(options)
  const told: SecurityEvent[] = []
  const commands = inventoryCommands(world.server.inventory, (event) => told.push(event))
  return {
    world,
    told,
    ask: async <T>(command: string, parameters: Record<string, unknown> = {}) => {
      const answer = Promise.resolve().then(() =>
        commands[command]!({ by: 'ada', words: [], ...parameters }, NO_REPLY),
      )
      answer.catch(() => {})
      await world.settle()
      return (await answer) as T
    },
  }
}

const names = (page: Page<{ clientId: string }>): string[] => page.rows.map(({ clientId }) => clientId)
const topics = (page: Page<MessageEntry>): string[] => page.rows.map(({ topicName }) => topicName).sort()

/** Users are what the user name says. */
const TRUSTING = {
  authenticate: ({ userName = null }: { userName?: string | null | undefined }) => ({
    allow: true as const,
    userName,
  }),
}

describe('lists', () => {
  test('clients are listed with their addresses and waiting messages', async () => {
    const { world, ask } = await operator({ policy: TRUSTING })
    await world.connect('here', lasting(60, { username: 'bo', keepalive: 30 }))
    const gone = await world.connect('gone', lasting())
    await gone.vanish()
    await world.pass(12)
    const { rows, after } = await ask<Page<ClientEntry>>('client list')
    expect(after).toBeNull()
    expect(rows).toEqual([
      expect.objectContaining({
        clientId: 'here',
        userName: 'bo',
        protocolVersion: 5,
        connectedSeconds: 12,
        keepAliveSeconds: 30,
        waitingBytes: 0,
      }),
    ])
    expect(rows[0]!.link).toMatchObject({ listener: 'test', remoteAddress: '127.0.0.1' })
  })

  test('Sessions are listed by pattern, name and user', async () => {
    const { world, ask } = await operator({ policy: TRUSTING })
    await world.connect('sensor-1', lasting(60, { username: 'bo' }))
    const gone = await world.connect('sensor-2', lasting())
    await gone.subscribe('a/+', 1)
    await gone.vanish()
    await world.connect('pump')
    await world.pass(3)
    const sender = await world.connect('sender')
    await sender.publish('a/b', 'x', 1)
    expect(names(await ask('session list', { client: 'sensor-*' }))).toEqual(['sensor-1', 'sensor-2'])
    expect(names(await ask('session list', { client: '*-?' }))).toEqual(['sensor-1', 'sensor-2'])
    expect(names(await ask('session list', { client: 'pump' }))).toEqual(['pump'])
    expect(names(await ask('session list', { client: 'pum' }))).toEqual([])
    expect(names(await ask('session list', { user: 'bo' }))).toEqual(['sensor-1'])
    expect(names(await ask('session list', { user: '' }))).toEqual(['sensor-2', 'pump', 'sender'])
    const { session, client } = await ask<SessionDetails>('session show', { words: ['sensor-2'] })
    expect(client).toBeNull()
    expect(session).toEqual({
      clientId: 'sensor-2',
      userName: null,
      isFormerUsers: false,
      isConnected: false,
      disconnectedSeconds: 3,
      expirySeconds: 1000,
      subscriptions: 1,
      queuedMessages: 1,
      queuedBytes: 4,
      inFlightMessages: 0,
      receivedPacketIds: 0,
      hasWill: false,
    } satisfies SessionEntry)
  })

  test('Subscriptions are those that could get a message that the filter matches', async () => {
    const { world, ask } = await operator()
    const one = await world.connect('one')
    const two = await world.connect('two')
    for (const filter of ['a/b', 'a/+', 'x/#', '$share/g/a/b']) await one.subscribe(filter, 1)
    await two.subscribe('#', 2, {}, { subscriptionIdentifier: 7 })
    const filters = async (parameters: Record<string, unknown>): Promise<string[]> => {
      const { rows } = await ask<Page<SubscriptionEntry>>('subscription list', parameters)
      return rows.map(({ clientId, topicFilter }) => `${clientId} ${topicFilter}`).sort()
    }
    const ofName = ['one $share/g/a/b', 'one a/+', 'one a/b', 'two #']
    expect(await filters({ topic: 'a/b' })).toEqual(ofName)
    expect(await filters({ topic: 'a/#' })).toEqual(ofName)
    expect(await filters({ topic: 'a/c' })).toEqual(['one a/+', 'two #'])
    expect(await filters({ topic: 'a/b', client: 'one' })).toEqual(ofName.slice(0, 3))
    expect(await filters({ topic: 'a/b', client: 't*' })).toEqual(['two #'])
    expect(await filters({ client: 'o*' })).toHaveLength(4)
    expect(await ask('subscription show', { words: ['two', '#'] })).toMatchObject({ qos: 2, identifier: 7 })
  })

  test('retained messages are listed by filter; those of the broker only on request', async () => {
    const { world, ask } = await operator()
    const client = await world.connect('c')
    for (const topic of ['a/b', 'a/c', 'd']) await client.publish(topic, 'x', 0, { retain: true })
    world.server.publishOwn('$SYS/broker/version', Buffer.from('1'))
    expect(topics(await ask('retained list'))).toEqual(['a/b', 'a/c', 'd'])
    expect(topics(await ask('retained list', { topic: 'a/+' }))).toEqual(['a/b', 'a/c'])
    expect(topics(await ask('retained list', { topic: '$SYS/#' }))).toEqual(['$SYS/broker/version'])
    expect(topics(await ask('retained list', { client: 'nobody' }))).toEqual([])
  })

  test('a page continues after the last one, even while Sessions come and go', async () => {
    const { world, ask } = await operator()
    for (let index = 0; index < 10; index++) await world.connect(`c${index}`, lasting())
    const first = await ask<Page<SessionEntry>>('session list', { limit: 4 })
    expect(names(first)).toEqual(['c0', 'c1', 'c2', 'c3'])
    await ask('session delete', { words: ['c1'] })
    await ask('session delete', { words: ['c6'] })
    const second = await ask<Page<SessionEntry>>('session list', { limit: 4, after: first.after })
    expect(names(second)).toEqual(['c4', 'c5', 'c7', 'c8'])
    const third = await ask<Page<SessionEntry>>('session list', { limit: 4, after: second.after })
    expect(names(third)).toEqual(['c9'])
    expect(third.after).toBeNull()
    await expect(ask('session list', { after: second.after })).rejects.toMatchObject({
      message: `the cursor '${second.after}' is unknown or no longer valid`,
      advice: 'Begin the list again, without --after.',
    })
  })

  test('a place belongs to its list', async () => {
    const { world, ask } = await operator()
    for (const name of ['a', 'b']) await world.connect(name)
    const { after } = await ask<Page<SessionEntry>>('session list', { limit: 1 })
    await expect(ask('client list', { after })).rejects.toThrow('belongs to another list')
    await expect(ask('session list', { after, client: 'a' })).rejects.toThrow('belongs to another list')
    expect(names(await ask('session list', { after }))).toEqual(['b'])
  })

  test('lists that nobody continues are dropped, the oldest first', async () => {
    const { world, ask } = await operator()
    for (const name of ['a', 'b']) await world.connect(name)
    const places: (string | null)[] = []
    for (let count = 0; count < 17; count++) {
      places.push((await ask<Page<SessionEntry>>('session list', { limit: 1 })).after)
    }
    await expect(ask('session list', { after: places[0] })).rejects.toThrow('is unknown or no longer valid')
    expect(names(await ask('session list', { after: places[1] }))).toEqual(['b'])
  })

  test('a page is bounded in bytes but has at least one row', async () => {
    const { world, ask } = await operator({ limits: { topicBytesMax: 65_535 } })
    const client = await world.connect('c')
    for (let index = 0; index < 40; index++) {
      await client.publish(`${index}/${'x'.repeat(60_000)}`, 'x', 0, { retain: true })
    }
    const { rows, after } = await ask<Page<MessageEntry>>('retained list', { limit: 1000 })
    expect(rows.length).toBeGreaterThan(10)
    expect(rows.length).toBeLessThan(20)
    expect(JSON.stringify(rows).length).toBeLessThan(1_100_000)
    expect((await ask<Page<MessageEntry>>('retained list', { after })).rows.length).toBeGreaterThan(10)
  })

  test.each([
    ['session list', { limit: 0 }, 'a page has 1 to 1000 rows'],
    ['session list', { limit: 1001 }, 'a page has 1 to 1000 rows'],
    ['session list', { client: 7 }, 'client is not text'],
    ['session list', { client: `${'x'.repeat(300)}*` }, 'a pattern has at most 256 characters'],
    ['retained list', { topic: 'a/#/b' }, 'a/#/b is not a topic filter'],
    ['subscription list', { topic: '$share/g/a' }, 'is the filter of a Shared Subscription'],
    ['session show', {}, 'a name is missing'],
  ])('%s with %j is refused', async (command, parameters, message) => {
    const { ask } = await operator()
    await expect(ask(command, parameters)).rejects.toMatchObject({
      message: expect.stringContaining(message),
      advice: expect.stringMatching(/\.$/),
    })
  })
})

test('a list costs what it returns, and a long search lets others work', async () => {
  const { world, ask } = await operator()
  const { inventory } = world.server
  let looked = 0
  const real = world.server.state.sessions
  for (let index = 0; index < 2000; index++) await world.connect(`c${index}`)
  const values = real.values.bind(real)
  real.values = () => {
    const all = values()
    const next = all.next.bind(all)
    all.next = (...of: [] | [undefined]) => {
      looked++
      return next(...of)
    }
    return all
  }
  const first = await ask<Page<SessionEntry>>('session list', { limit: 50 })
  expect(first.rows).toHaveLength(50)
  expect(looked).toBe(51)
  await ask('session list', { limit: 50, after: first.after })
  expect(looked).toBe(101)
  await ask('session list', { client: 'c1999' })
  expect(looked).toBe(101)

  let turns = 0
  let isDone = false
  const count = (): void => {
    turns++
    if (!isDone) setImmediate(count)
  }
  setImmediate(count)
  expect(names(await ask('session list', { client: '*1999' }))).toEqual(['c1999'])
  isDone = true
  expect(looked).toBe(2102)
  expect(turns).toBeGreaterThanOrEqual(Math.floor(2000 / 256))
  expect([...inventory.sessions({})]).toHaveLength(2000)
})

describe('show, kick, delete', () => {
  test('kick ends the Network Connection with 0x98; the Session stays', async () => {
    const { world, ask, told } = await operator()
    const client = await world.connect('c', lasting())
    expect(await ask<ChangeResult>('client kick', { words: ['c'] })).toEqual({ count: 1 })
    expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x98 }])
    expect(client.closed).toBe(true)
    expect(world.census()).toMatchObject({ sessions: 1, connections: 0 })
    expect(told).toEqual([{ kind: 'client-kicked', subject: 'c', by: 'ada', detail: '' }])
    await expect(ask('client kick', { words: ['c'] })).rejects.toThrow("the client 'c' is not connected")
    await expect(ask('client kick', { words: ['x'] })).rejects.toThrow("no Session of the client 'x'")
  })

  test('deleting a Session ends its connection, publishes its Will, and waits for the disk', async () => {
    const { world, ask, told } = await operator()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('will')
    const will = { topic: 'will', payload: 'gone', qos: 0, retain: false }
    const client = await world.connect('c', { ...lasting(), will })
    await client.subscribe('a', 1)
    await world.commit()
    world.ledger.automatic = false
    let answered = false
    const answer = ask<ChangeResult>('session delete', { words: ['c'] }).then((done) => {
      answered = true
      return done
    })
    await world.settle()
    expect(answered).toBe(false)
    expect(told).toEqual([])
    expect(watcher.texts()).toEqual(['gone'])
    world.ledger.automatic = true
    await world.commit()
    expect(await answer).toEqual({ count: 1 })
    expect(told).toMatchObject([{ kind: 'session-deleted', detail: 'it was connected' }])
    expect(client.closed).toBe(true)
    expect(world.census()).toMatchObject({ sessions: 1, subscriptions: 1, wills: 0 })
    await expect(ask('session delete', { words: ['c'] })).rejects.toMatchObject({
      message: "there is no Session of the client 'c'",
      advice: 'Give its Client Identifier exactly, as in: godwit session list',
    })
  })

  test('a deletion that the disk refuses is not reported as done', async () => {
    const { world, ask, told } = await operator()
    await world.connect('c', lasting())
    world.ledger.automatic = false
    const answer = ask('session delete', { words: ['c'] })
    answer.catch(() => {})
    await world.settle()
    world.ledger.source!.failed(new StoreError('io', 'the disk failed', 'Look at it.'))
    await expect(answer).rejects.toThrow('the disk failed')
    expect(told).toEqual([])
  })

  test('a deleted Subscription gets nothing more and is removed from the store', async () => {
    const { world, ask, told } = await operator()
    const client = await world.connect('c', lasting())
    await client.subscribe('a', 1)
    expect(await ask('subscription delete', { words: ['c', 'a'] })).toEqual({ count: 1 })
    await (await world.connect('p')).publish('a', 'x', 1)
    expect(client.texts()).toEqual([])
    expect(world.ledger.lines.some((line) => /delete.*subscription/i.test(line))).toBe(true)
    expect(told).toMatchObject([{ kind: 'subscription-deleted', subject: 'c', detail: 'a' }])
    await expect(ask('subscription delete', { words: ['c', 'a'] })).rejects.toThrow(
      "the client 'c' has no Subscription to 'a'",
    )
    await expect(ask('subscription show', { words: ['d', 'a'] })).rejects.toThrow('no Session')
  })

  test('a retained message is shown with its properties, and deleted silently', async () => {
    const { world, ask, told } = await operator()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('a/#')
    const publisher = await world.connect('p')
    const properties = {
      contentType: 'text/plain',
      correlationData: Buffer.from([1, 2]),
      messageExpiryInterval: 90,
    }
    await publisher.publish('a/b', 'hello', 1, { retain: true, properties })
    const shown = await ask<RetainedDetails>('retained show', { words: ['a/b'] })
    expect(shown).toMatchObject({
      topicName: 'a/b',
      qos: 1,
      publisher: 'p',
      payloadBytes: 5,
      expiresInSeconds: 90,
      payload: Buffer.from('hello').toString('base64'),
      isPayloadWhole: true,
      properties: { contentType: 'text/plain', correlationData: 'AQI=' },
    })
    watcher.got()
    expect(await ask('retained delete', { words: ['a/b'] })).toEqual({ count: 1 })
    expect(watcher.got()).toEqual([])
    expect(told).toEqual([{ kind: 'retained-deleted', subject: 'a/b', by: 'ada', detail: '1 messages' }])
    await expect(ask('retained show', { words: ['a/b'] })).rejects.toThrow("no message is retained for 'a/b'")
    await expect(ask('retained delete', { words: ['$SYS/x'] })).rejects.toThrow(
      'belongs to the broker itself',
    )
  })

  test('only the first bytes of a large payload are shown', async () => {
    const { world, ask } = await operator()
    await (await world.connect('p')).publish('a', 'x'.repeat(100_000), 0, { retain: true })
    const { payload, payloadBytes, isPayloadWhole } = await ask<RetainedDetails>('retained show', {
      words: ['a'],
    })
    expect(Buffer.from(payload, 'base64')).toHaveLength(65_536)
    expect({ payloadBytes, isPayloadWhole }).toEqual({ payloadBytes: 100_000, isPayloadWhole: false })
  })

  test('retained messages are deleted by filter, durable before the answer', async () => {
    const { world, ask } = await operator()
    const publisher = await world.connect('p')
    for (let index = 0; index < 300; index++) await publisher.publish(`a/${index}`, 'x', 0, { retain: true })
    await publisher.publish('b', 'x', 0, { retain: true })
    world.ledger.automatic = false
    let answered = false
    const answer = ask<ChangeResult>('retained delete', { topic: 'a/#' }).then((done) => {
      answered = true
      return done
    })
    // A slice is 256 steps, after which the event loop goes round once.
    for (let step = 0; step < 20; step++) await Promise.resolve()
    expect(world.server.state.retained.count).toBe(301 - 256)
    for (let round = 0; round < 5; round++) {
      await new Promise((resolve) => setImmediate(resolve))
      await world.settle()
    }
    expect(world.server.state.retained.count).toBe(1)
    expect(answered).toBe(false)
    while (await world.commit());
    world.ledger.automatic = true
    await world.settle()
    expect(await answer).toEqual({
      count: 300,
      names: [0, 1, 2, 3, 4].map((index) => `a/${index}`),
      connected: 0,
      messages: 0,
    })
    expect(await ask('retained delete', { topic: 'a/#' })).toMatchObject({ count: 0 })
  })

  test('all matching Sessions are deleted in slices, durably before the answer [field-A4]', async () => {
    const { world, ask, told } = await operator()
    for (let index = 0; index < 600; index++) {
      await (await world.connect(`junk-${index}`, lasting())).vanish()
    }
    const kept = await world.connect('kept', lasting())
    const late = await world.connect('junk-late', lasting())
    await late.subscribe('a', 1)
    expect(await ask('session delete', { client: 'junk-*', awaySeconds: 0, dryRun: true })).toMatchObject({
      count: 600,
      connected: 0,
    })
    expect(world.server.state.sessions.size).toBe(602)
    world.ledger.automatic = false
    let answered = false
    const answer = ask<ChangeResult>('session delete', { client: 'junk-*' }).then((done) => {
      answered = true
      return done
    })
    for (let step = 0; step < 20; step++) await Promise.resolve()
    expect(world.server.state.sessions.size).toBe(602 - 256)
    for (let round = 0; round < 5; round++) {
      await new Promise((resolve) => setImmediate(resolve))
      await world.settle()
    }
    expect(world.server.state.sessions.size).toBe(1)
    expect(answered).toBe(false)
    while (await world.commit());
    world.ledger.automatic = true
    await world.settle()
    expect(await answer).toMatchObject({
      count: 601,
      connected: 1,
      names: ['junk-0', 'junk-1', 'junk-2', 'junk-3', 'junk-4'],
    })
    expect(told).toEqual([
      { kind: 'session-deleted', subject: '--client junk-*', by: 'ada', detail: '601 Sessions' },
    ])
    expect([kept.closed, late.closed]).toEqual([false, true])
    expect(world.server.state.router.subscriptionCount).toBe(0)
  })

  test('Sessions are selected by the time they have been away, or by user [field-A4]', async () => {
    const { world, ask } = await operator({ policy: TRUSTING })
    await (await world.connect('old', lasting(100_000))).vanish()
    await (await world.connect('old-of-ada', lasting(100_000, { username: 'ada' }))).vanish()
    await world.pass(3600)
    await (await world.connect('young', lasting(100_000))).vanish()
    await world.connect('there', lasting(100_000))
    const which = async (more: object): Promise<unknown> =>
      (await ask<ChangeResult>('session delete', { dryRun: true, ...more })).names
    expect(await which({ awaySeconds: 3600 })).toEqual(['old', 'old-of-ada'])
    expect(await which({ awaySeconds: 3600, user: '' })).toEqual(['old'])
    expect(names(await ask('session list', { awaySeconds: 3600 }))).toEqual(['old', 'old-of-ada'])
    expect(await which({ user: 'ada' })).toEqual(['old-of-ada'])
    expect(await which({ user: 'nobody' })).toEqual([])
    await expect(ask('session delete', { words: ['old'], user: 'ada' })).rejects.toThrow(
      'names one entry and also selects many',
    )
    await expect(ask('session delete', { awaySeconds: 'long' })).rejects.toThrow('not a number of seconds')
  })

  test('kick and the deletion of Subscriptions and retained messages take patterns [field-A4]', async () => {
    const { world, ask } = await operator()
    const [one, two, other] = [
      await world.connect('a-1', lasting()),
      await world.connect('a-2'),
      await world.connect('b'),
    ]
    for (const client of [one, two, other]) await client.subscribe('t/#', 1)
    for (const client of [one, other])
      await client.publish(`r/${client === one ? 1 : 2}`, 'x', 0, { retain: true })
    const subscriptions = await ask('subscription delete', { client: 'a-*', topic: 't/1' })
    expect(subscriptions).toMatchObject({ count: 2, names: ['a-1 t/#', 'a-2 t/#'] })
    expect(await ask('retained delete', { client: 'a-*' })).toMatchObject({ count: 1, names: ['r/1'] })
    expect(await ask('client kick', { client: 'a-*' })).toMatchObject({ count: 2, connected: 2 })
    await world.settle()
    expect([one.closed, two.closed, other.closed]).toEqual([true, true, false])
    expect([...world.server.state.sessions.values()].map(({ clientId }) => clientId)).toEqual(['a-1', 'b'])
  })

  test('nothing can be deleted while the store is being read again', async () => {
    const { world, ask } = await operator()
    await world.connect('c', lasting())
    world.server.state.unavailable = 'the store is being read again'
    for (const command of ['session delete', 'subscription delete', 'retained delete']) {
      await expect(ask(command, { words: ['c', 'a'] })).rejects.toMatchObject({
        message: 'nothing can be deleted: the store is being read again',
        advice: 'Try again later.',
      })
    }
    expect(names(await ask('session list'))).toEqual(['c'])
  })
})
