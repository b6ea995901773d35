import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { Bucket, Rates } from '../../../src/broker/accounts/rates.ts'
import type { Limits } from '../../../src/broker/boundary/limits.ts'
import { connectPacket, type Given, type TestClient, World } from '../harness.ts'

function messages(count: number, qos: 0 | 1 | 2 = 1, from = 1): Given[] {
  return Array.from({ length: count }, (_, at) => ({
    cmd: 'publish',
    topic: 'a',
    payload: `m${from + at}`,
    qos,
    messageId: from + at,
  }))
}

function made(limits: Partial<Limits>): Promise<World> {
  return World.make({ limits: { connectTimeoutSeconds: 1000, ...limits } })
}

const acknowledged = (
  packets: readonly { cmd?: string | undefined; reasonCode?: number | undefined }[],
): number[] => packets.filter(({ cmd }) => cmd === 'puback').map(({ reasonCode }) => reasonCode ?? 0)

function codesOf(packets: readonly Packet[]): unknown[] {
  return packets.map((packet) => [packet.cmd, 'reasonCode' in packet ? packet.reasonCode : undefined])
}

describe('a bucket', () => {
  it('allows five seconds at once, then the rate, and tells how long to wait', () => {
    const bucket = new Bucket()
    const waits = Array.from({ length: 8 }, () => {
      const wait = bucket.wait(1, 2, 1000)
      bucket.take(1, 2, 1000)
      return wait
    })
    expect(waits).toEqual([0, 0, 0, 0, 0, 0, 0, 0])
    bucket.take(2, 2, 1000)
    expect([bucket.wait(1, 2, 1000), bucket.wait(1, 2, 1500), bucket.isFull(1500)]).toEqual([500, 0, false])
    expect([bucket.isFull(6000), bucket.wait(1, 2, 60_000)]).toEqual([true, 0])
  })
})

describe('the rate of publishing', () => {
  it('stops reading from a client that is ahead of it, and refuses nothing', async () => {
    const world = await made({ publishRatePerClientMax: 10 })
    const client = await world.connect('fast', { keepalive: 1 })
    const at = world.server.state.now()
    expect(await client.send(...messages(100))).toHaveLength(51)
    expect(client.link.paused).toBe(true)
    await world.pass(1)
    expect(client.got()).toHaveLength(10)
    await world.pass(5)
    expect([client.got().length, client.link.paused, client.closed]).toEqual([39, false, false])
    expect(world.server.state.now() - at).toBe(6000)
    expect(world.server.state.counters.limits.publishRatePerClientMax).toBe(1)
  })

  it('is reported now and then, with its effect', async () => {
    const world = await made({ publishRatePerClientMax: 10 })
    const limited = world.record('limited')
    const client = await world.connect('fast')
    await client.send(...messages(51))
    expect(limited).toEqual([
      {
        limit: 'publishRatePerClientMax',
        clientId: 'fast',
        detail: 'more messages in a second than is allowed: waits for 100 ms',
      },
    ])
  })

  it('of a user is for all its clients: beyond a wait of five seconds they get 0x97, then 0x96', async () => {
    const world = await made({ publishRatePerUserMax: 1 })
    const clients: TestClient[] = []
    for (let at = 0; at < 11; at++) clients.push(await world.connect(`c${at}`))
    const codes: (number | undefined)[] = []
    for (const client of clients) codes.push(acknowledged(await client.send(...messages(1)))[0])
    // Without subscribers: 0x10.
    expect(codes).toEqual([...Array.from({ length: 10 }, () => 0x10), 0x97])
    const last = clients.at(-1)!
    const answers = await last.send(...messages(100, 1, 2))
    expect(codesOf(answers).slice(-2)).toEqual([
      ['puback', 0x97],
      ['disconnect', 0x96],
    ])
    expect([acknowledged(answers).length, last.closed]).toEqual([99, true])
    expect(world.server.state.counters.limits.publishRatePerUserMax).toBeGreaterThan(101)
    await world.pass(10)
    expect(acknowledged(await clients[0]!.send(...messages(1, 1, 2)))).toEqual([0x10])
  })

  it('costs nothing if it is not set', async () => {
    const world = await World.make()
    await (await world.connect('plain')).send(...messages(100))
    expect(world.server.state.rates.size).toBe(0)
    expect(world.server.state.rates.of('plain', null, '127.0.0.1')).toBeNull()
  })
})

describe('the rate of bytes', () => {
  it('that arrive stops reading from a client; one a minute ahead is disconnected with 0x96', async () => {
    const world = await made({ receiveRatePerClientMax: 1024 })
    const client = await world.connect('large')
    const payload = 'x'.repeat(6 * 1024)
    await client.publish('a', payload)
    expect(client.link.paused).toBe(true)
    expect(await client.send({ cmd: 'pingreq' })).toEqual([])
    await world.pass(2)
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['pingresp'])
    expect(client.link.paused).toBe(false)
    expect(codesOf(await client.publish('a', 'x'.repeat(66 * 1024)))).toEqual([['disconnect', 0x96]])
  })

  it('that are sent lets QoS 1 wait in the Session, and drops QoS 0', async () => {
    const world = await made({ sendRatePerClientMax: 1024 })
    const reader = await world.connect('reader')
    await reader.subscribe('a', 1)
    const publisher = await world.connect('publisher')
    const payload = 'x'.repeat(1000)
    for (let at = 1; at <= 10; at++) await publisher.publish('a', payload, 1)
    expect(reader.texts()).toHaveLength(6)
    await publisher.publish('a', 'lost', 0)
    expect(world.server.state.counters.drops['slow-reader']).toBe(1)
    await world.pass(10)
    expect(reader.texts()).toEqual(Array.from({ length: 4 }, () => payload))
    await publisher.publish('a', 'there', 0)
    expect(reader.texts()).toEqual(['there'])
  })
})

describe('a connection that is closed', () => {
  it('leaves no deadline behind, even if its last bytes were beyond its rate', async () => {
    const world = await made({ sendRatePerClientMax: 1 })
    const client = await world.connect('c')
    const { deadlines } = world.server.state
    await client.send(
      { cmd: 'pingreq' },
      { cmd: 'pingreq' },
      { cmd: 'publish', topic: '+', payload: '', qos: 0 },
    )
    expect(client.closed).toBe(true)
    expect(deadlines.size).toBe(0)
  })
})

describe('the rate of Subscriptions', () => {
  it('counts topic filters: beyond the next five seconds they are refused with 0x97', async () => {
    const world = await made({ subscribeRatePerClientMax: 10 })
    const client = await world.connect('many')
    const filters = (count: number): Given => ({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: Array.from({ length: count }, (_, at) => ({ topic: `t${at}`, qos: 0 })),
    })
    const granted = async (count: number): Promise<unknown> =>
      ((await client.send(filters(count)))[0] as { granted?: number[] } | undefined)?.granted
    expect(await granted(101)).toEqual(Array.from({ length: 101 }, () => 0x97))
    expect(await granted(60)).toEqual(Array.from({ length: 60 }, () => 0))
    expect(await granted(1)).toBeUndefined()
    await world.pass(1)
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['suback'])
  })
})

describe('the rate of connections', () => {
  it('of a client delays CONNACK, then refuses with 0x9F; failed log-ins are not counted', async () => {
    const world = await made({ connectRatePerClientMax: 1 })
    const codes: (number | undefined)[] = []
    const waiting: TestClient[] = []
    for (let at = 0; at < 11; at++) {
      const client = world.open(5)
      const [connack] = await client.send({ ...connectPacket('flapping'), properties: {} })
      codes.push((connack as { reasonCode?: number } | undefined)?.reasonCode)
      if (connack === undefined) waiting.push(client)
    }
    expect(codes).toEqual([0, 0, 0, 0, 0, undefined, undefined, undefined, undefined, undefined, 0x9f])
    await world.pass(5)
    expect(waiting.at(-1)!.got()[0]).toMatchObject({ cmd: 'connack', reasonCode: 0 })
    expect(world.server.state.counters.limits.connectRatePerClientMax).toBeGreaterThan(0)
  })

  it('of an address delays reading from a connection, then refuses it', async () => {
    const world = await made({ connectRatePerAddressMax: 1 })
    const opened: TestClient[] = []
    for (let at = 0; at < 11; at++) opened.push(world.open(5))
    expect(opened.map(({ link }) => [link.handler !== null, link.paused])).toEqual([
      ...Array.from({ length: 5 }, () => [true, false]),
      ...Array.from({ length: 5 }, () => [true, true]),
      [false, false],
    ])
    expect(world.open(5, { remoteAddress: '127.0.0.2' }).link.handler).not.toBeNull()
    expect(await opened[5]!.send({ ...connectPacket('c'), properties: {} })).toEqual([])
    await world.pass(1)
    expect(opened[5]!.got()).toMatchObject([{ cmd: 'connack' }])
    expect(world.server.state.counters.limits.connectRatePerAddressMax).toBe(1)
  })

  it('of a client stops the connect time-out while CONNACK waits', async () => {
    const world = await made({ connectRatePerClientMax: 1, connectTimeoutSeconds: 3 })
    const clients: TestClient[] = []
    for (let at = 0; at < 10; at++) {
      const client = world.open(5)
      await client.send({ ...connectPacket('flapping'), properties: {} })
      clients.push(client)
    }
    const last = clients.at(-1)!
    await world.pass(4.9)
    expect([last.got(), last.closed]).toEqual([[], false])
    await world.pass(0.2)
    expect(last.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
    expect(world.server.state.counters.limits.connectTimeoutSeconds).toBe(0)
  })

  it('of an address stops the connect time-out until the connection is read from', async () => {
    const world = await made({ connectRatePerAddressMax: 1, connectTimeoutSeconds: 3 })
    const opened: TestClient[] = []
    for (let at = 0; at < 11; at++) opened.push(world.open(5))
    const [speaks, silent] = opened.slice(8, 10) as [TestClient, TestClient]
    expect(await speaks.send({ ...connectPacket('c'), properties: {} })).toEqual([])
    await world.pass(5.1)
    expect(speaks.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
    await world.pass(2.8)
    expect(silent.closed).toBe(false)
    await world.pass(0.3)
    expect(silent.closed).toBe(true)
    expect(speaks.closed).toBe(false)
  })
})

describe('Rates', () => {
  it('keep a bucket only while it is used or not full', async () => {
    const world = await made({ publishRatePerClientMax: 1, publishRatePerUserMax: 1 })
    const { rates } = world.server.state
    const client = await world.connect('a')
    await client.send(...messages(3))
    expect(rates.size).toBe(2)
    client.link.destroy()
    await world.settle()
    await world.pass(2)
    expect(rates.size).toBe(2)
    await world.pass(4)
    expect(rates.size).toBe(0)
  })

  it('are bounded in number', () => {
    const limits = { connectRatePerAddressMax: 1 } as unknown as Limits
    const rates = new Rates({ limits, now: () => 0 })
    for (let at = 0; at < 70_000; at++) rates.accepted(`10.0.${at >> 8}.${at & 255}`)
    expect(rates.size).toBe(65_536)
  })
})
