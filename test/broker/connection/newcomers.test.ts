import mqttPacket, { type Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { UNITS } from '../../../src/broker/state/work.ts'
import { connectPacket, type TestClient, World } from '../harness.ts'

const bytesOf = (packet: object): Buffer => mqttPacket.generate(packet as Packet, { protocolVersion: 5 })

it('a fleet that comes back at once is let in turn by turn, after connected clients', async () => {
  const world = await World.make()
  const reader = await world.connect('reader')
  await reader.subscribe('a')
  const publisher = await world.connect('publisher')
  const { counters, turn, work } = world.server.state
  const fleet: TestClient[] = Array.from({ length: 500 }, () => world.open(5))
  turn.end()
  const [connected, number, units] = [counters.clientsConnected, turn.number, work.units]
  for (const [index, { link }] of fleet.entries()) {
    link.handler!.received(bytesOf({ ...connectPacket(`fleet ${index}`), properties: {} }))
  }
  expect(counters.clientsConnected - connected).toBe(32)
  // Behind all of them in the same pass of the event loop.
  publisher.link.handler!.received(bytesOf({ cmd: 'publish', topic: 'a', payload: 'quick', qos: 0 }))
  expect(turn.number).toBe(number + 1)
  turn.end()
  await world.settle()
  expect(reader.texts()).toEqual(['quick'])
  await world.pass(2)
  expect(counters.clientsConnected - connected).toBe(500)
  expect(turn.number - number).toBeGreaterThan(3)
  expect(work.units - units).toBeGreaterThan(500 * UNITS.connect)
  for (const client of fleet) expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
})

it('a newcomer that leaves while it waits leaves nothing behind', async () => {
  const world = await World.make()
  const { turn } = world.server.state
  const before = world.census()
  const connect = (index: number): Buffer => bytesOf({ ...connectPacket(`c${index}`), properties: {} })
  for (const how of ['part', 'all', 'more'] as const) {
    turn.end()
    const clients = Array.from({ length: 40 }, () => world.open(5))
    for (const [index, { link }] of clients.entries()) {
      const all = connect(index)
      const given =
        index < 32 || how === 'all' ? all : how === 'part' ? all.subarray(0, 12) : Buffer.concat([all, all])
      link.handler!.received(given)
    }
    for (const { link } of clients) link.destroy()
    await world.settle()
    expect(world.census(), how).toEqual(before)
  }
})

describe('while a client is active, a crowd', () => {
  const connect = (name: string): Buffer => bytesOf({ ...connectPacket(name), properties: {} })
  const hello = bytesOf({ cmd: 'publish', topic: 'a', payload: 'quick', qos: 0 })

  async function made(): Promise<{ world: World; reader: TestClient; publisher: TestClient }> {
    const world = await World.make({ limits: { connectTimeoutSeconds: 10 } })
    const reader = await world.connect('reader')
    await reader.subscribe('a')
    const publisher = await world.connect('publisher')
    publisher.link.handler!.received(hello)
    await world.settle()
    expect(reader.texts()).toEqual(['quick'])
    return { world, reader, publisher }
  }

  /** One pass of the event loop: what has arrived at those that are read from. */
  function pass(waiting: Map<TestClient, Buffer>): void {
    for (const [client, bytes] of [...waiting]) {
      if (client.link.paused) continue
      waiting.delete(client)
      client.link.handler!.received(bytes)
    }
  }

  it('has 8 of 100 CONNECTs handled before the packets of that client, and one more read', async () => {
    const { world, reader, publisher } = await made()
    const { counters } = world.server.state
    const fleet = new Map(Array.from({ length: 100 }, (_, index) => [world.open(5), connect(`c${index}`)]))
    await world.turn()
    const connected = counters.clientsConnected
    pass(fleet)
    expect(counters.clientsConnected - connected).toBe(8)
    publisher.link.handler!.received(hello)
    await world.turn()
    expect(reader.texts()).toEqual(['quick'])
    expect(fleet.size).toBe(91)
    // The one that was read, at the end of the turn; the next ones are read from.
    expect(counters.clientsConnected - connected).toBe(9)
    expect([...fleet.keys()].filter(({ link }) => !link.paused)).toHaveLength(7)
  })

  it('is let in at 8 per turn, even if more come meanwhile', async () => {
    const { world, publisher } = await made()
    const { connectQueue, counters } = world.server.state
    const clients = Array.from({ length: 300 }, () => world.open(5))
    const waiting = new Map(clients.map((client, index) => [client, connect(`c${index}`)]))
    await world.turn()
    const before = counters.clientsConnected
    pass(waiting)
    for (let step = 0; waiting.size > 0; step++) {
      if (step > 100) throw new Error('they wait for ever')
      if (step % 10 === 0) {
        publisher.link.handler!.received(hello)
        const late = world.open(5)
        clients.push(late)
        waiting.set(late, connect(`late${step}`))
        // It is not read from before the others were.
        expect(late.link.paused).toBe(true)
      }
      const connected = counters.clientsConnected
      // Time enough for eight.
      world.monotonic += 16
      await world.turn()
      pass(waiting)
      expect(counters.clientsConnected - connected).toBeLessThanOrEqual(8)
    }
    await world.settle()
    expect(counters.clientsConnected - before).toBe(clients.length)
    expect(connectQueue.readingCount).toBe(0)
    for (const client of clients) expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
  })

  it('of 1,000 comes in over two seconds, and all at once when nobody is active any more', async () => {
    const { world, publisher } = await made()
    const { counters } = world.server.state
    const fleet = new Map(Array.from({ length: 1000 }, (_, index) => [world.open(5), connect(`c${index}`)]))
    await world.turn()
    const before = counters.clientsConnected
    const count = (): number => counters.clientsConnected - before
    /** Passes of the event loop at this moment, until nothing more happens. */
    const now = async (): Promise<void> => {
      for (let quiet = 0, before = count(); quiet < 5; before = count()) {
        pass(fleet)
        await world.turn()
        quiet = count() === before ? quiet + 1 : 0
      }
    }
    await now()
    // Eight in the first turn, one whose CONNECT was read, and a hundred of those that wait.
    expect(count()).toBeLessThanOrEqual(110)
    for (let ms = 100; ms <= 1000; ms += 100) {
      publisher.link.handler!.received(hello)
      world.monotonic += 100
      world.server.tick()
      await now()
      expect(Math.abs(count() - 100 - ms / 2)).toBeLessThanOrEqual(20)
    }
    world.monotonic += 1000
    world.server.tick()
    await now()
    expect(count()).toBe(1000)
  })

  it('has the full connect time-out once it is read from', async () => {
    const { world, publisher } = await made()
    const fleet = new Map(Array.from({ length: 9 }, (_, index) => [world.open(5), connect(`c${index}`)]))
    const silent = Array.from({ length: 120 }, () => world.open(5))
    await world.turn()
    pass(fleet)
    const late = world.open(5)
    expect([...silent, late].every(({ link }) => link.paused)).toBe(true)
    // In each turn eight of them are read from.
    for (let turns = 0; turns < 14; turns++) {
      world.monotonic += 900
      world.server.tick()
      publisher.link.handler!.received(hello)
      await world.turn()
    }
    const last = [...silent.slice(-8), late]
    expect(last.every(({ link }) => link.paused)).toBe(true)
    expect(last.some(({ closed }) => closed)).toBe(false)
    await world.settle()
    expect(last.some(({ link }) => link.paused)).toBe(false)
    await world.pass(9)
    expect(last.some(({ closed }) => closed)).toBe(false)
    late.link.handler!.received(connect('late'))
    await world.pass(2)
    expect(silent.every(({ closed }) => closed)).toBe(true)
    expect(late.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
    expect(world.server.state.connectQueue.readingCount).toBe(0)
  })
})
