/**
 * Whether a unit of work costs about the same wherever it is spent. CPU times of this process are compared with each other, the
 * best of several, and may differ by a factor of twenty: what is wrong by that would make a slice of 1 ms one of 20.
 */
import mqttPacket from 'mqtt-packet'
import { expect, it } from 'vitest'
import { lasting, type TestClient, World } from './harness.ts'

const ROUNDS = 5
const FACTOR = 20

function bytesOf(packet: Record<string, unknown>, count: number): Buffer {
  const one = mqttPacket.generate(packet as never, { protocolVersion: 5 })
  return Buffer.concat(Array.from({ length: count }, () => one))
}

const message = (topic: string, qos: 0 | 1 = 0): Record<string, unknown> => ({
  cmd: 'publish',
  topic,
  payload: 'x'.repeat(50),
  qos,
  messageId: 1,
})

/** Clients that have subscribed, and whose output nobody looks at. */
async function readers(
  world: World,
  count: number,
  topic: string,
  qos: 0 | 1,
  isAway: boolean,
): Promise<void> {
  for (let at = 0; at < count; at++) {
    const client = await world.connect(`${topic}${at}`, isAway ? lasting() : {})
    await client.subscribe(topic, qos)
    client.link.write = () => {}
    if (isAway) await client.send({ cmd: 'disconnect' })
  }
}

/** CPU time of a unit in us, the best of several rounds. */
async function unitCost(world: World, client: TestClient, bytes: Buffer): Promise<number> {
  const { work } = world.server.state
  let best = Number.POSITIVE_INFINITY
  for (let round = 0; round < ROUNDS; round++) {
    const units = work.units
    const before = process.cpuUsage()
    client.link.handler!.received(bytes)
    await world.settle()
    const { user, system } = process.cpuUsage(before)
    best = Math.min(best, (user + system) / (work.units - units))
  }
  return best
}

it('a unit of work costs about the same, whatever is done', async () => {
  const world = await World.make()
  await readers(world, 100, 'hundred', 0, false)
  await readers(world, 100, 'kept', 1, true)
  const client = await world.connect('client')
  client.link.write = () => {}
  const costs = {
    'a message for nobody': await unitCost(world, client, bytesOf(message('nobody'), 20_000)),
    'a message for a hundred': await unitCost(world, client, bytesOf(message('hundred'), 500)),
    'a message that is kept for a hundred': await unitCost(world, client, bytesOf(message('kept', 1), 50)),
    'a large message': await unitCost(
      world,
      client,
      bytesOf({ ...message('nobody'), payload: 'x'.repeat(50_000) }, 200),
    ),
    'a request': await unitCost(world, client, bytesOf({ cmd: 'pingreq' }, 5000)),
  }
  const all = Object.values(costs)
  expect(Math.max(...all) / Math.min(...all), JSON.stringify(costs)).toBeLessThan(FACTOR)
})
