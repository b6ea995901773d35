import { once } from 'node:events'
import { connect } from 'node:net'
import { generate } from 'mqtt-packet'
import { afterEach, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { type Broker, createBroker } from '../../src/godwit.ts'

let broker: Broker | undefined

afterEach(() => broker?.close())

const CONNECT = generate({
  cmd: 'connect',
  clientId: 'impatient',
  protocolVersion: 4,
  clean: false,
  keepalive: 0,
  username: 'user',
  password: Buffer.from('slow'),
  will: { topic: 'wills', payload: Buffer.from('gone'), qos: 0, retain: false },
})

/** Sends CONNECT; resolves with a function that ends the connection. */
async function viaTcp({ port }: { port: number }): Promise<() => void> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write(CONNECT)
  return () => socket.destroy()
}

async function viaWebSocket({ address }: { address: string }): Promise<() => void> {
  const webSocket = new WebSocket(address, ['mqtt'])
  await once(webSocket, 'open')
  webSocket.send(CONNECT)
  return () => webSocket.terminate()
}

test.each([
  ['tcp', viaTcp],
  ['ws', viaWebSocket],
] as const)('over %s, a client that gives up while its password waits is not let in', async (type, via) => {
  let gaveUp: () => void
  const hasGivenUp = new Promise<void>((resolve) => {
    gaveUp = resolve
  })
  let asked: () => void
  const isAsked = new Promise<void>((resolve) => {
    asked = resolve
  })
  broker = await createBroker({
    listeners: [{ type, port: 0 }],
    policy: {
      authenticate: ({ waiting }) => {
        waiting?.queued(3600, gaveUp)
        asked()
        return hasGivenUp.then(() => ({ allow: true, userName: 'user' }))
      },
    },
  })
  const first = new Promise<string>((resolve) => {
    broker?.subscribe('wills', ({ payload }) => resolve(payload.toString()))
  })
  const leave = await via(broker.listeners[0]!)
  await isAsked
  leave()
  await hasGivenUp
  await broker.publish({ topic: 'wills', payload: 'last', qos: 0 })
  expect(await first).toBe('last')
})
