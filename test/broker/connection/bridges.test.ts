/** Bridges of other brokers: what they say in CONNECT, and where they tell their state below `$SYS`. */
import { describe, expect, it } from 'vitest'
import { packet, uint16 } from '../../mqtt/packets.ts'
import { type TestClient, type Version, World } from '../harness.ts'

const STATE = '$SYS/broker/connection/edge.b1/state'
const WILL = { topic: STATE, payload: Buffer.from('0'), qos: 1, retain: true } as const
const KEEP = { retain: true }

/** A bridge as Mosquitto's are before 5.0: the high bit of the protocol level is set. */
async function bridge(world: World, version: 3 | 4 = 4, clean: 0 | 2 = 2): Promise<TestClient> {
  const client = world.open(version)
  const name = version === 3 ? 'MQIsdp' : 'MQTT'
  const [connack] = await client.bytes(packet(0x10, name, 0x80 | version, clean, uint16(60), 'edge.b1'))
  expect(connack).toMatchObject({ cmd: 'connack', returnCode: 0 })
  return client
}

describe.each([4, 5] as const)('below $SYS, version %i', (version: Version) => {
  it('a bridge may publish its state, retained or not, and by its Will [field-C13]', async () => {
    const world = await World.make()
    const watcher = await world.connect('watcher')
    await watcher.subscribe('$SYS/broker/connection/#', 1, { rap: true })
    const client = await world.connect('edge.b1', { will: WILL }, version)
    expect(client.connack).toMatchObject(version === 5 ? { reasonCode: 0 } : { returnCode: 0 })
    for (const qos of [0, 1, 2] as const) await client.publish(STATE, `${qos}`, qos, KEEP)
    expect(client.closed).toBe(false)
    await client.vanish()
    expect(await watcher.drain()).toEqual(['0', '1', '2', '0'])
    const late = await world.connect('late')
    await late.subscribe('$SYS/broker/connection/+/state', 0)
    expect(late.texts()).toEqual(['0'])
    expect(world.server.state.counters.drops['not-authorized']).toBe(0)
  })

  it.each(['$SYS', '$SYS/broker/uptime', '$SYS/broker/connection//state', `${STATE}/x`, '$SYS/x'])(
    '%s is the Server’s own on every road [field-C13]',
    async (topic) => {
      const world = await World.make()
      const refused = version === 5 ? { reasonCode: 0x87 } : { returnCode: 5 }
      const asked = await world.connect('will', { will: { ...WILL, topic } }, version)
      expect([asked.connack, asked.closed]).toMatchObject([refused, true])
      const client = await world.connect('pub', {}, version)
      const answer = version === 5 ? { reasonCode: 0x87 } : {}
      expect(await client.publish(topic, 'x', 1)).toMatchObject([{ cmd: 'puback', ...answer }])
      expect(await client.publish(topic, 'x', 2, KEEP)).toMatchObject([{ cmd: 'pubrec', ...answer }])
      expect(await client.publish(topic, 'x', 0)).toEqual([])
      if (version === 5) {
        const aliased = { cmd: 'publish', topic, payload: 'x', qos: 1, messageId: 7 }
        const properties = { topicAlias: 1 }
        expect(await client.send({ ...aliased, properties })).toMatchObject([{ reasonCode: 0x87 }])
        expect(await client.send({ ...aliased, topic: '', properties })).toMatchObject([{ reasonCode: 0x87 }])
      }
      expect(client.closed).toBe(false)
      expect(world.server.state.retained.count).toBe(0)
    },
  )

  it('a bridge without the right is let in, but its Will is dropped [field-C13]', async () => {
    const policy = { authorizePublish: (_: unknown, topic: string) => !topic.startsWith('$SYS') }
    const world = await World.make({ policy })
    const dropped = world.record('dropped')
    const client = await world.connect('edge.b1', { will: WILL }, version)
    expect(client.closed).toBe(false)
    await client.publish(STATE, '1', 1, KEEP)
    expect(client.closed).toBe(false)
    expect(dropped.map(({ reason, clientId, message }) => [reason, clientId, message.topic?.name])).toEqual(
      Array(2).fill(['not-authorized', 'edge.b1', STATE]),
    )
    expect(world.census()).toMatchObject({ wills: 0 })
    await client.vanish()
    expect(dropped).toHaveLength(2)
    const other = await world.connect('x', { will: { ...WILL, topic: '$SYS/other' } }, version)
    expect(other.closed).toBe(true)
  })

  it('a policy that answers late also decides about the Will of a bridge [field-C13]', async () => {
    const policy = { authorizePublish: async () => false }
    const world = await World.make({ policy })
    const client = await world.connect('edge.b1', { will: WILL }, version)
    expect(client.closed).toBe(false)
    expect(world.census()).toMatchObject({ wills: 0, connected: 1 })
  })
})

it('denied_before_5: disconnect applies to the Will of a bridge as to its PUBLISH [field-C13]', async () => {
  const policy = { authorizePublish: () => false, deniedBefore5: 'disconnect' as const }
  const world = await World.make({ policy })
  const old = await world.connect('old', { will: WILL }, 4)
  expect([old.connack, old.closed]).toMatchObject([{ returnCode: 5 }, true])
  const modern = await world.connect('modern', { will: WILL })
  expect(modern.closed).toBe(false)
})

describe('the bridge bit of the protocol level', () => {
  it.each([3, 4] as const)(
    'level 0x8%i: what it brought is not sent back, RETAIN is passed on [field-C13]',
    async (version) => {
      const world = await World.make()
      const client = await bridge(world, version)
      await client.subscribe('#', 1)
      const other = await world.connect('other')
      await other.subscribe('#', 1)
      const pub = await world.connect('pub')
      await client.publish('a', 'of the bridge', 1)
      await pub.publish('b', 'retained', 1, KEEP)
      await pub.publish('c', 'not retained', 1)
      const got = client.got().filter(({ cmd }) => cmd === 'publish')
      expect(got).toMatchObject([
        { topic: 'b', retain: true },
        { topic: 'c', retain: false },
      ])
      expect(await other.drain()).toEqual(['of the bridge', 'retained', 'not retained'])
    },
  )

  it('its own retained messages do not come back with its Subscription [field-C13]', async () => {
    const world = await World.make()
    const client = await bridge(world)
    await client.publish('a', 'its own', 1, KEEP)
    const other = await world.connect('other')
    await other.publish('b', 'of another', 1, KEEP)
    await client.subscribe('#', 1)
    expect(client.texts()).toEqual(['of another'])
    await other.subscribe('#', 1)
    expect((await other.drain()).toSorted()).toEqual(['its own', 'of another'])
  })

  it('a Shared Subscription of a bridge is like any other [field-C13]', async () => {
    const world = await World.make()
    const client = await bridge(world)
    expect(await client.subscribe('$share/g/#', 1)).toBe(1)
    const got = await client.publish('a', 'x', 1)
    expect(got.map(({ cmd }) => cmd)).toEqual(['publish', 'puback'])
  })

  it('the Session keeps it for the bridge, but not for a plain client [field-C13]', async () => {
    const world = await World.make()
    const client = await bridge(world, 4, 0)
    await client.subscribe('#', 1)
    await world.commit()
    await client.vanish()
    const again = await bridge(world, 4, 0)
    await again.publish('a', 'of the bridge', 0)
    while (await world.commit());
    expect(again.texts()).toEqual([])
    await again.vanish()
    const plain = await world.connect('edge.b1', { clean: false }, 4)
    await plain.subscribe('#', 1)
    while (await world.commit());
    plain.got()
    const got = await plain.publish('a', 'of the client', 0)
    expect(got.map(({ cmd }) => cmd)).toEqual(['publish'])
  })
})
