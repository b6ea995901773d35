import { describe, expect, it } from 'vitest'
import type { BrokerEvents } from '../../../src/broker/boundary/events.ts'
import { LENIENCE_NAMES, type Lenience } from '../../../src/mqtt/lenience.ts'
import { packet, properties, uint16 } from '../../mqtt/packets.ts'
import { type TestClient, textsOf, type Version, World } from '../harness.ts'

const DUP_QOS_0 = packet(0x38, 't', Buffer.from('x'))
const SUBSCRIBE_80 = packet(0x80, uint16(1), 't', 1)

/** A CONNECT that mqtt-packet would not write. */
function connectBytes(clientId: string, version: Version, flags: number): Buffer {
  const name = version === 3 ? 'MQIsdp' : 'MQTT'
  return packet(0x10, name, version, flags, uint16(0), version === 5 ? properties() : [], clientId)
}

async function connected(
  world: World,
  clientId: string,
  lenient: readonly Lenience[] | undefined,
  version: Version = 4,
  flags = 2,
): Promise<TestClient> {
  const client = world.open(version, lenient === undefined ? {} : { lenient })
  const [connack] = await client.bytes(connectBytes(clientId, version, flags))
  client.connack = connack ?? null
  return client
}

const told = (events: readonly BrokerEvents['forgiven'][]): string[] =>
  events.map(({ client, rule }) => `${client.clientId} ${rule}`)

describe('a lenient listener', () => {
  it('forgives the rules it names, counts each use, and reports each rule once per connection', async () => {
    const world = await World.make()
    const events = world.record('forgiven')
    const client = await connected(world, 'old', ['dup-on-qos-0', 'header-flags'])
    const other = await connected(world, 'new', ['dup-on-qos-0'])
    expect((await client.bytes(SUBSCRIBE_80)).map(({ cmd }) => cmd)).toEqual(['suback'])
    for (let times = 0; times < 3; times++) expect(textsOf(await client.bytes(DUP_QOS_0))).toEqual(['x'])
    await other.bytes(DUP_QOS_0)
    expect(client.texts()).toEqual(['x'])
    expect(told(events)).toEqual(['old header-flags', 'old dup-on-qos-0', 'new dup-on-qos-0'])
    expect(world.server.state.counters.forgiven).toMatchObject({ 'header-flags': 1, 'dup-on-qos-0': 4 })
    expect(client.closed || other.closed).toBe(false)
    await other.bytes(SUBSCRIBE_80)
    expect(other.closed).toBe(true)
  })

  it('forgives nothing to clients of 5.0', async () => {
    const world = await World.make()
    for (const bytes of [DUP_QOS_0, SUBSCRIBE_80]) {
      const client = await connected(world, 'c5', LENIENCE_NAMES, 5)
      const [disconnect] = await client.bytes(bytes)
      expect(disconnect).toMatchObject({ cmd: 'disconnect', reasonCode: 0x81 })
    }
    expect(Object.values(world.server.state.counters.forgiven).every((count) => count === 0)).toBe(true)
  })

  it('reports rules that CONNECT breaks with the Client Identifier', async () => {
    const world = await World.make()
    const events = world.record('forgiven')
    const rules: Lenience[] = ['client-identifier-over-23', 'will-flags-without-will']
    const long = 'x'.repeat(24)
    expect((await connected(world, long, rules, 3)).connack).toMatchObject({ returnCode: 0 })
    expect((await connected(world, 'old', rules, 4, 0x32)).connack).toMatchObject({ returnCode: 0 })
    expect(told(events)).toEqual([`${long} client-identifier-over-23`, 'old will-flags-without-will'])
  })

  it.each([
    [3, true],
    [3, false],
    [4, false],
  ] as const)(
    'gives a Session to an empty Client Identifier, level %i, clean %s, and it is clean',
    async (version, clean) => {
      const world = await World.make()
      const flags = clean ? 2 : 0
      const refused = await connected(world, '', undefined, version, flags)
      expect(refused.connack).toMatchObject({ returnCode: 2 })
      const client = await connected(world, '', ['empty-client-identifier'], version, flags)
      expect(client.connack).toMatchObject({ returnCode: 0, sessionPresent: false })
      expect(await client.subscribe('t', 1)).toBe(1)
      expect(world.server.state.sessionsById.size).toBe(0)
      await client.vanish()
      expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0 })
    },
  )

  it('does not allow what the configuration forbids', async () => {
    const world = await World.make({ limits: { emptyClientIdentifierAllowed: false } })
    const client = await connected(world, '', ['empty-client-identifier'], 3)
    expect(client.connack).toMatchObject({ returnCode: 2 })
    expect(world.server.state.counters.forgiven['empty-client-identifier']).toBe(0)
  })

  it('answers packet identifier 0 with 0', async () => {
    const world = await World.make()
    const client = await connected(world, 'zero', ['packet-identifier-zero'])
    expect(await client.bytes(packet(0x82, uint16(0), 't', 0))).toMatchObject([
      { cmd: 'suback', messageId: 0, granted: [0] },
    ])
    const answers = await client.bytes(packet(0x32, 't', uint16(0), Buffer.from('x')))
    expect(answers.map(({ cmd, messageId }) => [cmd, messageId])).toContainEqual(['puback', 0])
    expect(await client.bytes(packet(0xa2, uint16(0), 't'))).toMatchObject([
      { cmd: 'unsuback', messageId: 0 },
    ])
  })

  it('keeps a stored Session like any other', async () => {
    const world = await World.make()
    const long = 'y'.repeat(30)
    const first = await connected(world, long, ['client-identifier-over-23'], 3, 0)
    await first.vanish()
    await world.commit()
    const again = await connected(world, long, ['client-identifier-over-23'], 3, 0)
    expect(again.connack).toMatchObject({ returnCode: 0 })
    expect(world.server.state.sessions.size).toBe(1)
  })
})
