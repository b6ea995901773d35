import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { generate, type Packet, parser } from 'mqtt-packet'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Broker, createBroker } from '../../src/godwit.ts'

let broker: Broker
let sockets: Socket[]

beforeEach(async () => {
  sockets = []
  broker = await createBroker({ listeners: [{ type: 'tcp', port: 0 }], limits: { connectionsMax: 1 } })
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  await broker.close()
})

/** Connects; resolves with the socket and the Reason Code of CONNACK. */
async function client(clientId: string): Promise<{ socket: Socket; reasonCode: number | undefined }> {
  const socket = connect(broker.listeners[0]!.port, '127.0.0.1')
  sockets.push(socket)
  socket.on('error', () => {})
  const packets = parser({ protocolVersion: 5 })
  const connack = new Promise<Packet>((resolve) => packets.once('packet', resolve))
  socket.on('data', (chunk) => packets.parse(chunk))
  socket.write(generate({ cmd: 'connect', clientId, protocolVersion: 5, clean: true, keepalive: 0 }))
  const packet = await connack
  return { socket, reasonCode: packet.cmd === 'connack' ? packet.reasonCode : undefined }
}

test.each([
  ['DISCONNECT, without closing its side', (socket: Socket) => void socket.write(Buffer.from('e000', 'hex'))],
  ['DISCONNECT and a close', (socket: Socket) => void socket.end(Buffer.from('e000', 'hex'))],
  ['a close', (socket: Socket) => void socket.destroy()],
  ['a reset', (socket: Socket) => void socket.resetAndDestroy()],
])(
  'the place of a client that leaves by %s is free for the next one at once [field-C16]',
  async (_, leave) => {
    for (let round = 0; round < 20; round++) {
      const { socket, reasonCode } = await client(`round ${round}`)
      expect(reasonCode).toBe(0)
      leave(socket)
    }
  },
)

test('a half-open connection does not lock out its client; others get a reason [field-C16]', async () => {
  await client('device')
  expect((await client('other')).reasonCode).toBe(0x97)
  const { socket, reasonCode } = await client('device')
  expect(reasonCode).toBe(0)
  expect((await client('other')).reasonCode).toBe(0x97)
  socket.end(Buffer.from('e000', 'hex'))
  await once(socket, 'close')
  expect((await client('other')).reasonCode).toBe(0)
})
