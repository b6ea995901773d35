import mqttPacket, { type Packet } from 'mqtt-packet'
import { expect, it } from 'vitest'
import { UNITS } from '../../../src/broker/state/work.ts'
import { connectPacket, type TestClient, World } from '../harness.ts'

const bytesOf = (packet: object): Buffer => mqttPacket.generate(packet as Packet, { protocolVersion: 5 })

it('a fleet that comes back at once is let in turn by turn, and who is there already is served before it', async () => {
  const world = await World.make()
  const reader = await world.connect('reader')
  await reader.subscribe('a')
  const publisher = await world.connect('publisher')
  const { figures, turn, work } = world.server.state
  const fleet: TestClient[] = Array.from({ length: 500 }, () => world.open(5))
  turn.end()
  const [connected, number, units] = [figures.clientsConnected, turn.number, work.units]
  for (const [index, { link }] of fleet.entries()) {
    link.handler!.received(bytesOf({ ...connectPacket(`fleet ${index}`), properties: {} }))
  }
  expect(figures.clientsConnected - connected).toBe(32)
  // Behind all of them in the same pass of the event loop.
  publisher.link.handler!.received(bytesOf({ cmd: 'publish', topic: 'a', payload: 'quick', qos: 0 }))
  expect(turn.number).toBe(number + 1)
  turn.end()
  await world.settle()
  expect(reader.texts()).toEqual(['quick'])
  expect(figures.clientsConnected - connected).toBe(500)
  expect(turn.number - number).toBeGreaterThan(3)
  expect(work.units - units).toBeGreaterThan(500 * UNITS.connect)
  for (const client of fleet) expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
})

it('who leaves while it waits for that leaves nothing behind', async () => {
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
