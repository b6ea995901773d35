/**
 * What the Server adds to the count of its work: the same for the same packets, whoever runs it. How long a
 * unit takes is compared by `npm run fuzz -- --only cost`.
 */
import mqttPacket from 'mqtt-packet'
import { expect, it } from 'vitest'
import { UNITS } from '../../../src/broker/state/work.ts'
import { lasting, type TestClient, World } from '../harness.ts'

const COUNT = 500

function bytesOf(packet: Record<string, unknown>): Buffer {
  const one = mqttPacket.generate(packet as never, { protocolVersion: 5 })
  return Buffer.concat(Array.from({ length: COUNT }, () => one))
}

const message = (topic: string, qos: 0 | 1 = 0, bytes = 50): Record<string, unknown> => ({
  cmd: 'publish',
  topic,
  payload: 'x'.repeat(bytes),
  qos,
  messageId: 1,
})

/** Connects clients and subscribes them. */
async function readers(world: World, count: number, topic: string, isAway: boolean): Promise<void> {
  for (let at = 0; at < count; at++) {
    const client = await world.connect(`${topic}${at}`, isAway ? lasting() : {})
    await client.subscribe(topic, isAway ? 1 : 0)
    client.link.write = () => {}
    if (isAway) await client.send({ cmd: 'disconnect' })
  }
}

/** Returns the units per packet. */
async function unitsEach(world: World, client: TestClient, packet: Record<string, unknown>): Promise<number> {
  const { work } = world.server.state
  const before = work.units
  client.link.handler!.received(bytesOf(packet))
  await world.settle()
  return (work.units - before) / COUNT
}

it('every kind of packet counts the work that it causes', async () => {
  const world = await World.make()
  await readers(world, 100, 'hundred', false)
  await readers(world, 100, 'kept', true)
  const client = await world.connect('client')
  client.link.write = () => {}
  const nobody = await unitsEach(world, client, message('nobody'))
  expect(nobody).toBeGreaterThanOrEqual(UNITS.packet)
  expect(nobody).toBeLessThan(2 * UNITS.packet)
  const hundred = await unitsEach(world, client, message('hundred'))
  expect(hundred - nobody).toBeGreaterThanOrEqual(100 * UNITS.delivery)
  expect(hundred - nobody).toBeLessThan(2 * 100 * UNITS.delivery)
  const kept = await unitsEach(world, client, message('kept', 1))
  expect(kept - nobody).toBeGreaterThanOrEqual(100 * UNITS.storedDelivery)
  const retained = await unitsEach(world, client, { ...message('retained'), retain: true })
  expect(retained - nobody).toBeGreaterThanOrEqual(UNITS.retained)
  const large = await unitsEach(world, client, message('nobody', 0, 50_000))
  expect(large - nobody).toBeGreaterThanOrEqual(49_000 / UNITS.bytesEach)
  expect(await unitsEach(world, client, { cmd: 'pingreq' })).toBeGreaterThanOrEqual(UNITS.request)
})

it('a refusal by a limit counts more than a message: it is looked up, answered and logged', async () => {
  const world = await World.make({ limits: { retainedMessagesMax: 1 } })
  const client = await world.connect('client')
  client.link.write = () => {}
  await client.send({ ...message('kept'), retain: true })
  const refused = await unitsEach(world, client, { ...message('refused'), retain: true })
  expect(world.server.state.counters.limits.retainedMessagesMax).toBe(COUNT)
  expect(refused).toBeGreaterThanOrEqual(UNITS.packet + UNITS.refused)
})
