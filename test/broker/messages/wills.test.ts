import { describe, expect, it } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import type { Recovered } from '../../../src/store/store.ts'
import { connectPacket, type Given, lasting, type TestClient, World, type WorldOptions } from '../harness.ts'

const will = (more: object = {}): Given => ({
  will: { topic: 'will', payload: Buffer.from('lost'), qos: 1, retain: false, ...more },
})
const delayed = (willDelayInterval: number) => will({ properties: { willDelayInterval } })

async function watched(options: WorldOptions = {}): Promise<{ world: World; watcher: TestClient }> {
  const world = await World.make(options)
  const watcher = await world.connect('watcher')
  await watcher.subscribe('will/#', 2, { rap: true })
  return { world, watcher }
}

describe('when a Will is published', () => {
  it('[MQTT-3.1.2-8] when the network fails, once, and then it is forgotten [MQTT-3.1.2-10]', async () => {
    for (const version of [3, 4, 5] as const) {
      const { world, watcher } = await watched()
      const client = await world.connect('a', will(), version)
      expect(world.ledger.lines).toContain('putWill a 0')
      await client.vanish()
      expect(watcher.got()).toMatchObject([{ topic: 'will', payload: Buffer.from('lost'), qos: 1 }])
      expect(world.ledger.lines).toContain('deleteWill a')
      await world.connect('a', {}, version)
      await world.pass(10)
      expect(watcher.texts()).toEqual([])
      expect(world.census()).toMatchObject({ wills: 0 })
    }
  })

  it('[MQTT-3.14.4-3] not after a normal DISCONNECT; but after one with 0x04 or an error', async () => {
    const { world, watcher } = await watched()
    for (const reasonCode of [0, 0x04, 0x80]) {
      const client = await world.connect('a', will())
      await client.send({ cmd: 'disconnect', reasonCode })
      expect(watcher.texts()).toEqual(reasonCode === 0 ? [] : ['lost'])
      expect(world.census()).toMatchObject({ wills: 0 })
    }
    const old = await world.connect('b', will(), 4)
    await old.send({ cmd: 'disconnect' })
    expect(watcher.texts()).toEqual([])
  })

  it('on a protocol error, a Keep Alive that ran out, and an end by the Server', async () => {
    const { world, watcher } = await watched()
    const wrong = await world.connect('a', will())
    await wrong.bytes(Buffer.from('f0', 'hex'))
    await wrong.bytes(Buffer.from('ffffffffff', 'hex'))
    const slow = await world.connect('b', { ...will(), keepalive: 10 })
    await world.pass(16)
    await world.connect('c', will())
    world.server.disconnect('c', 0x98, '')
    await world.settle()
    expect(watcher.texts()).toEqual(['lost', 'lost', 'lost'])
    expect(slow.closed).toBe(true)
  })

  it('[MQTT-3.1.2-14] [MQTT-3.1.2-15] retained only if asked, with its properties in order', async () => {
    const { world, watcher } = await watched()
    const properties = {
      payloadFormatIndicator: true,
      messageExpiryInterval: 100,
      contentType: 'text/plain',
      responseTopic: 'answer',
      correlationData: Buffer.from([1, 2]),
      userProperties: { b: ['1', '2'], a: '3' }, // [MQTT-3.1.3-10]
    }
    await (await world.connect('a', will({ retain: true, properties }))).vanish()
    expect(watcher.got()).toMatchObject([{ retain: true, properties }])
    expect(world.server.state.retained.count).toBe(1)
    await world.pass(50)
    const later = await world.connect('later')
    await later.subscribe('will')
    expect(later.got()).toMatchObject([{ retain: true, properties: { messageExpiryInterval: 50 } }])
    await (await world.connect('b', will({ topic: 'will/b' }))).vanish()
    expect(world.server.state.retained.count).toBe(1)
  })

  it('a new CONNECT replaces the Will, or removes it', async () => {
    const { world, watcher } = await watched()
    await (await world.connect('a', lasting(100, delayed(50)))).vanish()
    const second = await world.connect('a', lasting(100, will({ payload: Buffer.from('second') })))
    await second.vanish()
    expect(watcher.texts()).toEqual(['second'])
    await (await world.connect('a', lasting(100))).vanish()
    await world.pass(101)
    expect(watcher.texts()).toEqual([])
  })
})

describe('Will Delay Interval', () => {
  it('is waited for, and [MQTT-3.1.3-9] a client that comes back in time takes the Will away', async () => {
    const { world, watcher } = await watched()
    const client = await world.connect('a', lasting(100, delayed(10)))
    await client.vanish()
    await world.pass(9.9)
    expect(watcher.texts()).toEqual([])
    await world.pass(0.2)
    expect(watcher.texts()).toEqual(['lost'])
    const again = await world.connect('a', lasting(100, delayed(10)))
    await again.vanish()
    await world.pass(9)
    await world.connect('a', lasting(100))
    await world.pass(100)
    expect(watcher.texts()).toEqual([])
    expect(world.census()).toMatchObject({ wills: 0, deadlines: 0 })
  })

  it('ends with the Session, if that is earlier', async () => {
    const { world, watcher } = await watched()
    const short = await world.connect('a', lasting(5, delayed(1000)))
    await short.vanish()
    await world.pass(5.1)
    expect(watcher.texts()).toEqual(['lost'])
    const none = await world.connect('b', delayed(1000))
    await none.vanish()
    expect(watcher.texts()).toEqual(['lost'])
    const ended = await world.connect('c', lasting(100, delayed(1000)))
    const properties = { sessionExpiryInterval: 0 }
    await ended.send({ cmd: 'disconnect', reasonCode: 0x04, properties })
    expect(watcher.texts()).toEqual(['lost'])
    const forever = await world.connect('d', lasting(0xffffffff, delayed(1000)))
    await forever.vanish()
    await world.pass(1001)
    expect(watcher.texts()).toEqual(['lost'])
  })

  it('a Will that waits is stored with its time', async () => {
    const { world } = await watched()
    const client = await world.connect('a', lasting(100, delayed(10)))
    await client.vanish()
    const { now } = world.server.state.turn
    expect(world.ledger.lines.filter((line) => line.startsWith('putWill'))).toEqual([
      'putWill a 0',
      `putWill a ${now + 10_000}`,
    ])
  })
})

describe('takeover', () => {
  it.each([
    ['Clean Start 1 ends the Session: sent at once', 10, true, ['lost']],
    ['Clean Start 0, a delay: not sent [MQTT-3.1.3-9]', 10, false, []],
    ['Clean Start 0, no delay: sent', 0, false, ['lost']],
    ['Clean Start 1, no delay: sent once', 0, true, ['lost']],
  ])('%s', async (_, delay, clean, expected) => {
    const { world, watcher } = await watched()
    await world.connect('a', lasting(100, delayed(delay)))
    await world.connect('a', lasting(100, { clean }))
    expect(watcher.texts()).toEqual(expected)
    await world.pass(101)
    expect(watcher.texts()).toEqual([])
    expect(world.census()).toMatchObject({ wills: 0 })
  })

  it('a Session that ends with its connection ends: its Will is sent whatever the delay', async () => {
    const { world, watcher } = await watched()
    await world.connect('a', delayed(10))
    await world.connect('a', { clean: false })
    expect(watcher.texts()).toEqual(['lost'])
  })

  it('the Will of the new connection is not that of the old one', async () => {
    const { world, watcher } = await watched()
    await world.connect('a', will({ payload: Buffer.from('old') }))
    const next = await world.connect('a', will({ payload: Buffer.from('new') }))
    expect(watcher.texts()).toEqual(['old'])
    await next.vanish()
    expect(watcher.texts()).toEqual(['new'])
  })

  it('a Will that is due is not taken back while a policy decides about it', async () => {
    const decide: ((allow: boolean) => void)[] = []
    let asked = 0
    const { world, watcher } = await watched({
      policy: {
        authorizePublish: (_, __, qos) =>
          asked++ % 2 === 0 ? true : qos === 2 ? false : new Promise((resolve) => decide.push(resolve)),
      },
    })
    await world.connect('a', lasting(100, will()))
    await world.connect('a', lasting(100))
    expect(watcher.texts()).toEqual([])
    decide[0]!(true)
    await world.settle()
    expect(watcher.texts()).toEqual(['lost'])
    expect(world.ledger.lines.at(-1)).not.toBe('putWill a 0')
    expect(world.ledger.lines).toContain('deleteWill a')
  })
})

describe('policies', () => {
  it('asked at CONNECT and again when it is published: refused at either', async () => {
    let allow = false
    const { world, watcher } = await watched({ policy: { authorizePublish: () => allow } })
    expect((await world.connect('a', will())).connack).toMatchObject({ reasonCode: 0x87 })
    allow = true
    const client = await world.connect('a', will())
    expect(client.connack).toMatchObject({ reasonCode: 0 })
    allow = false
    await client.vanish()
    expect(watcher.texts()).toEqual([])
    expect(world.server.state.counters.drops['not-authorized']).toBe(1)
    expect(world.census()).toMatchObject({ wills: 0 })
  })

  it('an answer that comes late, at CONNECT and at publication', async () => {
    let answer: (allow: boolean) => void = () => {}
    const { world, watcher } = await watched({
      policy: { authorizePublish: () => new Promise((resolve) => (answer = resolve)) },
    })
    const client = world.open(5)
    const packet = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId: 'a', clean: true }
    expect(await client.send({ ...packet, ...will() }, { cmd: 'pingreq' })).toEqual([])
    answer(true)
    await world.settle()
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['connack', 'pingresp'])
    await client.vanish()
    expect(watcher.texts()).toEqual([])
    answer(true)
    await world.settle()
    expect(watcher.texts()).toEqual(['lost'])
  })
})

describe('after a restart', () => {
  const record = (delaySeconds: number, dueAt: number) => ({
    will: {
      topic: 'will',
      payload: Buffer.from('lost'),
      qos: 1 as const,
      retain: false,
      properties: Buffer.alloc(0),
      expirySeconds: undefined,
      delaySeconds,
    },
    owner: null,
    dueAt,
  })
  const session = (clientId: string, id: number, expirySeconds: number) => ({
    id,
    record: { clientId, owner: null, ownerId: null, expirySeconds, disconnectedAt: 0 },
    subscriptions: [],
    inFlight: [],
    queue: [],
    queueHead: 0,
    lastPacketId: 0,
    inbound: [],
  })
  const restarted = async (recovered: Partial<Recovered>, policy: Policy = {}) => {
    const world = await World.make({ limits: { willGraceSeconds: 30 }, policy }, (made) => {
      made.ledger.recovered = {
        brokerTime: 50_000,
        wallTime: made.wall - 1000,
        bootTime: null,
        doubt: null,
        sessions: [],
        retained: [],
        wills: [],
        ...recovered,
      }
    })
    const watcher = await world.connect('watcher')
    await watcher.subscribe('will', 1)
    return { world, watcher }
  }

  it('Wills of connected or overdue clients wait for the grace; a longer delay is kept', async () => {
    const { world, watcher } = await restarted({
      sessions: [session('kept', 1, 1000), session('long', 2, 1000)],
      wills: [
        ['gone', record(0, 0)],
        ['kept', record(0, 0)],
        ['long', record(100, 0)],
        ['overdue', record(10, 40_000)],
      ],
    })
    await world.pass(29)
    expect(watcher.texts()).toEqual([])
    await world.pass(1.1)
    expect(watcher.texts()).toEqual(['lost', 'lost', 'lost'])
    await world.pass(68)
    expect(watcher.texts()).toEqual([])
    await world.pass(2)
    expect(watcher.texts()).toEqual(['lost'])
    expect(world.census()).toMatchObject({ wills: 0 })
  })

  it('one that is due later anyway is not written again; it is due as before, with a grace', async () => {
    const { world, watcher } = await restarted({
      sessions: [session('late', 1, 1000), session('soon', 2, 1000)],
      wills: [
        ['late', record(100, 150_000)],
        ['soon', record(10, 60_000)],
      ],
    })
    expect(world.ledger.lines.filter((line) => line.startsWith('putWill'))).toEqual([
      `putWill soon ${world.server.state.now() + 30_000}`,
    ])
    expect(world.census()).toMatchObject({ wills: 2 })
    await world.pass(31)
    expect(watcher.texts()).toEqual(['lost'])
    await world.pass(70)
    expect(watcher.texts()).toEqual(['lost'])
    expect(world.census()).toMatchObject({ wills: 0 })
  })

  it('a client that is back within the grace is not declared dead', async () => {
    const { world, watcher } = await restarted({
      sessions: [session('kept', 1, 1000)],
      wills: [
        ['passing', record(0, 0)],
        ['kept', record(0, 0)],
      ],
    })
    await world.connect('passing')
    await world.connect('kept', lasting(1000))
    await world.pass(100)
    expect(watcher.texts()).toEqual([])
    expect(world.ledger.lines).toContain('deleteWill passing')
  })

  it('the grace holds for Sessions that expired while the broker was down', async () => {
    const { world, watcher } = await restarted({
      wallTime: 1,
      sessions: [session('expired', 1, 5)],
      wills: [['expired', record(1000, 0)]],
    })
    expect(watcher.texts()).toEqual([])
    await world.pass(31)
    expect(watcher.texts()).toEqual(['lost'])
  })

  it('one for an assigned identifier without a Session comes before newer messages [field-C17]', async () => {
    const retained = { ...record(0, 0).will, topic: 'state', retain: true }
    const { world, watcher } = await restarted({
      sessions: [session('auto-kept', 1, 1000)],
      wills: [
        ['auto-1', { ...record(0, 0), will: retained, assigned: true }],
        ['auto-kept', { ...record(0, 0), assigned: true }],
        ['named', record(0, 0)],
      ],
    })
    expect(world.server.state.retained.get('state')?.payload.toString()).toBe('lost')
    const again = await world.connect('', {}, 4)
    await again.publish('state', 'online', 0, { retain: true })
    await world.pass(20)
    expect(watcher.texts()).toEqual([]) // its client knows the name of its Session
    await world.pass(100)
    expect(world.server.state.retained.get('state')?.payload.toString()).toBe('online')
    expect(watcher.texts()).toEqual(['lost', 'lost'])
  })

  it('which clients those are is kept with the Will', async () => {
    const world = await World.make()
    await world.connect('', will(), 4)
    await world.connect('', will(), 5)
    await world.connect('', { ...will(), properties: { sessionExpiryInterval: 1000 } }, 5)
    await world.connect('auto-named', will(), 5)
    const assigned = [...world.server.state.wills.values()].map(({ record: stored }) => stored.assigned)
    expect(assigned).toEqual([true, true, false, false])
  })

  it('the grace does not run out while clients wait or are refused at log-in [field-C17]', async () => {
    for (const how of ['busy', 'slow'] as const) {
      let late: (() => void)[] = []
      const { world, watcher } = await restarted(
        { wills: [['fleet', record(0, 0)]] },
        {
          authenticate: ({ clientId }) => {
            if (clientId === 'watcher' || clientId === 'fleet') return { allow: true, userName: null }
            if (how === 'busy') return { allow: false, reasonCode: 0x89, reason: 'busy' }
            return new Promise((resolve) => late.push(() => resolve({ allow: true, userName: null })))
          },
        },
      )
      for (let round = 0; round < 5; round++) {
        const waiting = world.open()
        await waiting.send(connectPacket(`other ${round}`))
        await world.pass(9)
        for (const settle of late) settle()
        late = []
        await world.settle()
      }
      await world.pass(15)
      expect(watcher.texts()).toEqual([]) // 60 seconds have passed
      await world.connect('fleet')
      await world.pass(100)
      expect(watcher.texts()).toEqual([])
    }
  })

  it('nor while a crowd is in TLS handshakes, or has sent no CONNECT yet; and not for ever', async () => {
    for (const [newcomers, published] of [
      [16, true],
      [17, false],
    ] as const) {
      const { world, watcher } = await restarted({ wills: [['fleet', record(0, 0)]] })
      world.server.state.newcomerCount = () => newcomers
      await world.pass(31)
      expect(watcher.texts()).toEqual(published ? ['lost'] : [])
      if (published) continue
      await world.pass(260)
      expect(watcher.texts()).toEqual([])
      await world.pass(10)
      expect(watcher.texts()).toEqual(['lost'])
    }
  })

  it('but not for ever: whoever keeps the log-in busy does not keep Wills back', async () => {
    const { world, watcher } = await restarted(
      { wills: [['gone', record(0, 0)]] },
      {
        authenticate: ({ clientId }) =>
          clientId === 'watcher'
            ? { allow: true, userName: null }
            : { allow: false, reasonCode: 0x89, reason: 'busy' },
      },
    )
    for (let round = 0; round < 29; round++) {
      await world.open().send(connectPacket('other'))
      await world.pass(10)
    }
    expect(watcher.texts()).toEqual([])
    await world.open().send(connectPacket('other'))
    await world.pass(11)
    expect(watcher.texts()).toEqual(['lost'])
    expect(world.census()).toMatchObject({ wills: 0 })
  })

  it('Wills are kept back while clients wait in the queue of a policy', async () => {
    let serve = (): void => {}
    const { world, watcher } = await restarted(
      { wills: [['fleet', record(0, 0)]] },
      {
        authenticate: ({ clientId, waiting }) => {
          if (clientId === 'watcher') return { allow: true, userName: null }
          return new Promise((resolve) => {
            waiting!.queued(600, () => {})
            serve = () => {
              waiting!.served()
              resolve({ allow: true, userName: null })
            }
          })
        },
      },
    )
    await world.open().send(connectPacket('other'))
    for (let round = 0; round < 50; round++) await world.pass(10)
    expect(watcher.texts()).toEqual([])
    serve()
    await world.settle()
    await world.pass(29)
    expect(watcher.texts()).toEqual([])
    await world.pass(2)
    expect(watcher.texts()).toEqual(['lost'])
  })

  it('neither an expired Session nor Clean Start cuts the grace short [field-C17]', async () => {
    const { world, watcher } = await restarted({
      sessions: [session('short', 1, 5), session('clean', 2, 1000), session('late', 3, 5)],
      wills: [
        ['short', record(1000, 0)],
        ['clean', record(0, 0)],
        ['late', record(1000, 0)],
      ],
    })
    await world.pass(10)
    expect(watcher.texts()).toEqual([])
    await world.connect('clean')
    await world.connect('late')
    await world.pass(21)
    expect(watcher.texts()).toEqual(['lost'])
    expect(world.census()).toMatchObject({ wills: 0 })
  })

  it('the Will of another user keeps its Client Identifier until it is published', async () => {
    const { world, watcher } = await restarted({ wills: [['a', { ...record(0, 0), owner: 'anna' }]] })
    expect((await world.connect('a')).connack).toMatchObject({ reasonCode: 0x87 })
    await world.pass(31)
    expect(watcher.texts()).toEqual(['lost'])
    expect((await world.connect('a')).connack).toMatchObject({ reasonCode: 0 })
  })
})
