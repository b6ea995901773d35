/** The memory that a WebSocket client can take in a whole broker: frames allow no more than packets do. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { generate, type IConnackPacket, type IPublishPacket, type Packet, parser } from 'mqtt-packet'
import { afterEach, beforeEach, expect, test } from 'vitest'
import WebSocket from 'ws'
import { type Broker, createBroker } from '../../../src/godwit.ts'
import { FIN, Opcode } from '../../../src/transport/websocket/websocket-frames.ts'
import { closing } from '../recorder.ts'

const MIB = 1024 * 1024

let broker: Broker
let sockets: Socket[]

beforeEach(async () => {
  sockets = []
  const limits = { packetBytesMax: 32 * MIB }
  broker = await createBroker({ listeners: [{ type: 'ws', port: 0 }], limits })
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  await broker.close()
})

/** A socket whose WebSocket is open; what it reads is dropped. */
async function opened(): Promise<Socket> {
  const socket = connect(broker.listeners[0]!.port, '127.0.0.1')
  sockets.push(socket)
  socket.write(
    'GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\n' +
      'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n',
  )
  await once(socket, 'data')
  return socket
}

/** The beginning of a frame of 250 MB, masked with zeros. */
const FRAME = Buffer.from('82ff000000000ee6b28000000000', 'hex')

test.each([
  ['no CONNECT', Buffer.from([0x30, 0xff, 0xff, 0xff, 0x77])],
  ['a CONNECT of 250 MB', Buffer.from([0x10, 0xf0, 0xe4, 0x9a, 0x77])],
])(
  'an unauthenticated frame of 250 MB that begins with %s is refused by its header',
  async (_name, header) => {
    for (let i = 0; i < 4; i++) {
      const socket = await opened()
      socket.write(Buffer.concat([FRAME, header]))
      const [answer] = (await once(socket, 'data')) as [Buffer]
      expect(answer[0]).toBe(FIN | Opcode.Close)
    }
  },
)

test('an authenticated client publishes 20 MB in one frame', async () => {
  const received = new Promise<Buffer>((resolve) =>
    broker.subscribe('large', ({ payload }) => resolve(payload)),
  )
  const webSocket = new WebSocket(broker.listeners[0]!.address, ['mqtt'])
  const packets = parser({ protocolVersion: 4 })
  const answers: Packet[] = []
  packets.on('packet', (packet: Packet) => answers.push(packet))
  webSocket.on('message', (data: Buffer) => packets.parse(data))
  await once(webSocket, 'open')
  const payload = Buffer.alloc(20 * MIB, '0123456789')
  const publish: IPublishPacket = {
    cmd: 'publish',
    topic: 'large',
    payload,
    qos: 1,
    messageId: 1,
    dup: false,
    retain: false,
  }
  const connectPacket = generate({ cmd: 'connect', clientId: 'large', clean: true, keepalive: 60 })
  webSocket.send(Buffer.concat([connectPacket, generate(publish)]))
  expect((await received).equals(payload)).toBe(true)
  while (answers.length < 2) await once(webSocket, 'message')
  expect((answers[0] as IConnackPacket).returnCode).toBe(0)
  expect(answers[1]).toMatchObject({ cmd: 'puback', messageId: 1 })
  const gone = closing(webSocket)
  webSocket.close()
  await gone
})
