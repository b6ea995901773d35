/** What the Server tells of connections and packets. */
import { expect, it } from 'vitest'
import { World } from './harness.ts'

it('a takeover tells where the newcomer is, and tells the old client nothing of that [field-D24]', async () => {
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

it('each packet is told by its type, identifier and size, and nothing of what is in it [field-D25]', async () => {
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

it('a malformed packet is told, too, before it is refused [field-D25]', async () => {
  const world = await World.make()
  const packets = world.record('packet')
  const client = await world.connect('c', {}, 4)
  await client.bytes(Buffer.from([0x32, 0x01, 0x00]))
  await client.bytes(Buffer.from([0x82, 0x00]))
  expect(client.closed).toBe(true)
  expect(packets.at(-1)).toMatchObject({ packet: 'PUBLISH', qos: 1, bytes: 3 })
})
