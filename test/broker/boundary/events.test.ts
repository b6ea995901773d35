/** The Server's events about connections and packets. */

import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { packet as bytesOf, uint16 } from '../../mqtt/packets.ts'
import { World } from '../harness.ts'
import { LedgerStore } from '../ledger.ts'

it('a takeover reports the new connection’s address, but not to the old client [field-D24]', async () => {
  const world = await World.make()
  const ended = world.record('disconnected')
  const open = async (remoteAddress: string, clientId: string) => {
    const client = world.open(5, { remoteAddress, remotePort: 7 })
    const packet = {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clientId,
      clean: true,
      keepalive: 0,
    }
    await client.send(packet)
    return client
  }
  const old = await open('192.0.2.7', 'plant')
  await open('192.0.2.9', 'plant')
  expect(ended).toMatchObject([
    {
      clientId: 'plant',
      link: { remoteAddress: '192.0.2.7' },
      takenOverBy: { remoteAddress: '192.0.2.9', remotePort: 7 },
    },
  ])
  expect(Buffer.concat(old.link.raw).toString('latin1')).not.toContain('192.0.2')
  const other = await open('192.0.2.7', 'other')
  await other.vanish()
  expect(ended[1]).not.toHaveProperty('takenOverBy')
})

it('each packet is reported by its type, identifier and size, without its content [field-D25]', async () => {
  const world = await World.make()
  const packets = world.record('packet')
  const login = { username: 'user', password: Buffer.from('secret-password') }
  const client = await world.connect('c', login)
  await client.subscribe('secret/topic', 2)
  await client.publish('secret/topic', 'secret payload', 0, { retain: true })
  await client.publish('secret/topic', 'secret payload', 1)
  await client.publish('secret/topic', 'secret payload', 2)
  await client.send({ cmd: 'pubrel', messageId: 3 })
  await client.unsubscribe('secret/topic')
  await client.send({ cmd: 'pingreq' })
  await client.send({ cmd: 'disconnect' })
  const told = packets.map(({ direction, packet, packetId, qos, retain }) =>
    [direction, packet, packetId, qos === undefined ? '' : `QoS ${qos}`, retain ? 'RETAIN' : '']
      .join(' ')
      .trim(),
  )
  expect(told.filter((line) => line.startsWith('received'))).toEqual([
    'received CONNECT',
    'received SUBSCRIBE 1',
    'received PUBLISH  QoS 0 RETAIN',
    'received PUBLISH 2 QoS 1',
    'received PUBLISH 3 QoS 2',
    'received PUBREL 3',
    'received UNSUBSCRIBE 4',
    'received PINGREQ',
    'received DISCONNECT',
  ])
  expect(told.filter((line) => line.startsWith('sent')).toSorted()).toEqual([
    'sent CONNACK',
    'sent PINGRESP',
    'sent PUBACK 2',
    'sent PUBCOMP 3',
    'sent PUBLISH 0 QoS 0',
    'sent PUBLISH 1 QoS 1',
    'sent PUBLISH 2 QoS 2',
    'sent PUBREC 3',
    'sent SUBACK 1',
    'sent UNSUBACK 4',
  ])
  expect(JSON.stringify(packets)).not.toMatch(/secret|user/)
  const bytes = packets
    .filter(({ direction }) => direction === 'sent')
    .reduce((sum, each) => sum + each.bytes, 0)
  expect(bytes).toBe(Buffer.concat(client.link.raw).length)
})

it('a malformed packet is reported, too, before it is refused [field-D25]', async () => {
  const world = await World.make()
  const packets = world.record('packet')
  const client = await world.connect('c', {}, 4)
  await client.bytes(Buffer.from([0x32, 0x01, 0x00]))
  await client.bytes(Buffer.from([0x82, 0x00]))
  expect(client.closed).toBe(true)
  expect(packets.at(-1)).toMatchObject({ packet: 'PUBLISH', qos: 1, bytes: 3 })
})

describe('the exceeded limit is named where a packet is refused', () => {
  const limitsOf = (world: World) =>
    Object.entries(world.server.state.counters.limits).filter(([, count]) => count > 0)

  it('an answer that the client would not accept does not count for packetBytesMax [field-D25]', async () => {
    const world = await World.make()
    const client = await world.connect('c', { properties: { maximumPacketSize: 20 } })
    const subscriptions = Array.from({ length: 30 }, (_, index) => ({ topic: `${index}`, qos: 0 as const }))
    await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    expect(client.closed).toBe(true)
    expect(limitsOf(world)).toEqual([['clientMaximumPacketSize', 1]])
    const tiny = world.open(5)
    await tiny.send({ ...connect('assigned'), clientId: '', properties: { maximumPacketSize: 5 } })
    expect(tiny.closed).toBe(true)
    expect(limitsOf(world)).toEqual([['clientMaximumPacketSize', 2]])
  })

  it('a Topic Alias of 0 exceeds nothing, one above the maximum does [field-D25]', async () => {
    const world = await World.make()
    const zero = await world.connect('zero')
    await zero.bytes(bytesOf(0x30, 't', [3, 0x23, 0, 0]))
    expect(zero.closed).toBe(true)
    expect(limitsOf(world)).toEqual([])
    const unknown = await world.connect('unknown')
    await unknown.bytes(bytesOf(0x30, '', [3, 0x23, 0, 9]))
    expect([unknown.closed, limitsOf(world)]).toEqual([true, []])
    const above = await world.connect('above')
    await above.bytes(bytesOf(0x30, 't', [3, 0x23, 0xff, 0]))
    expect(limitsOf(world)).toEqual([['topicAliasMaximum', 1]])
  })

  it('a packet that is too large is counted for its limit [field-D25]', async () => {
    const world = await World.make({ limits: { packetBytesMax: 300, controlPacketBytesMax: 200 } })
    const large = await world.connect('large')
    await large.bytes(bytesOf(0x30, 't', [0], Buffer.alloc(400)))
    const control = await world.connect('control')
    await control.bytes(bytesOf(0x82, uint16(1), [0], 'f'.repeat(220), 0))
    expect([large.closed, control.closed]).toEqual([true, true])
    expect(limitsOf(world)).toEqual([
      ['packetBytesMax', 1],
      ['controlPacketBytesMax', 1],
    ])
  })
})

describe('clients are told what they can do, without internals of the Server', () => {
  const said = (packets: readonly Packet[]): string => JSON.stringify(packets)

  it('CONNACK names no directory when the disk is nearly full; the log does [field-D25]', async () => {
    const store = new LedgerStore()
    const full = 'disk nearly full: 12 MiB free on /srv/godwit-data, reserve is 64 MiB'
    const world = await World.make({ store })
    const refused = world.record('refused')
    Object.defineProperty(store, 'refusal', { get: () => full })
    const client = world.open(5)
    const answers = await client.send({ ...connect('c'), properties: { sessionExpiryInterval: 100 } })
    expect(answers).toMatchObject([{ cmd: 'connack', reasonCode: 0x97 }])
    expect(said(answers)).toContain('try again later')
    expect(said(answers)).not.toMatch(/srv|MiB|disk/)
    expect(refused).toMatchObject([{ reason: full }])
  })

  it('CONNACK names no sizes when memory is short, or the store is read again [field-D25]', async () => {
    const world = await World.make()
    const { state } = world.server
    state.memoryRefusal = '123456 bytes of messages are in memory, memory_bytes_max is 1000'
    const first = await world.open(5).send(connect('a'))
    state.memoryRefusal = null
    state.unavailable = 'the store is being read again after the disk was full'
    const second = await world.open(5).send(connect('b'))
    expect([first, second]).toMatchObject([[{ reasonCode: 0x89 }], [{ reasonCode: 0x88 }]])
    expect(said([...first, ...second])).not.toMatch(/123456|1000|disk|memory_bytes/)
  })

  it('an error of a policy goes to the log only [field-D25]', async () => {
    const failure = () => Promise.reject(new Error('connect ECONNREFUSED db.internal:5432 password=hush'))
    const world = await World.make({ policy: { authenticate: failure } })
    const refused = world.record('refused')
    const answers = await world.open(5).send(connect('c'))
    expect(answers).toMatchObject([{ cmd: 'connack', reasonCode: 0x83 }])
    expect(said(answers)).not.toMatch(/hush|internal/)
    expect(refused).toMatchObject([{ reason: expect.stringContaining('db.internal') }])
    const late = await World.make({ policy: { authorizePublish: failure } })
    const ended = late.record('disconnected')
    const client = await late.connect('c')
    const got = await client.publish('t', 'x', 1)
    expect(got).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x83 }])
    expect(said(got)).not.toMatch(/hush|internal/)
    expect(ended).toMatchObject([{ reason: expect.stringContaining('db.internal') }])
  })
})

function connect(clientId: string) {
  return {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clientId,
    clean: true,
    keepalive: 0,
  } as const
}
