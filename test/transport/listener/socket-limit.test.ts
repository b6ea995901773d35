/** The limit of open sockets over all kinds of listeners, in a real broker that may open few files. */
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Broker, type BrokerEvents, createBroker } from '../../../src/godwit.ts'
import { RESERVED_FILES } from '../../../src/transport/open-files.ts'

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../../fixtures/tls/${name}.pem`, import.meta.url))
const tls = { cert: fixture('server'), key: fixture('server-key') }
const CA = readFileSync(fixture('ca'))

const SOCKETS_MAX = 4

let broker: Broker
let limited: BrokerEvents['limited'][]
let strangers: Socket[]

beforeEach(async () => {
  broker = await createBroker({
    listeners: [
      { type: 'tcp', port: 0 },
      { type: 'tls', port: 0, tls },
      { type: 'ws', port: 0 },
      { type: 'wss', port: 0, tls },
    ],
    openFilesMax: RESERVED_FILES + SOCKETS_MAX,
    limits: { connectTimeoutSeconds: 3600 },
  })
  limited = []
  broker.events.on('limited', (event) => limited.push(event))
  strangers = []
})

afterEach(async () => {
  for (const socket of strangers) socket.destroy()
  await broker.close({ seconds: 1 })
})

/** Says nothing: in the middle of a handshake wherever there is one. */
async function stranger(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  strangers.push(socket)
  socket.on('error', () => {})
  await new Promise((resolve) => socket.once('connect', resolve).once('close', resolve))
  return socket
}

const waiting = (): Socket[] => strangers.filter(({ destroyed }) => !destroyed)

/** A round of strangers to each listener; resolves when all have gone that do not find room. */
async function crowd(left: number): Promise<void> {
  for (const { port } of broker.listeners) await stranger(port)
  await expect.poll(() => waiting().length).toBe(left)
}

async function client(address: string) {
  return connectAsync(address, { reconnectPeriod: 0, protocolVersion: 5, ca: CA }, false)
}

test('handshakes count for all listeners; further sockets are closed, counted and explained', async () => {
  const served = await client(broker.listeners[0]!.address)
  await crowd(SOCKETS_MAX - 1)
  await crowd(SOCKETS_MAX - 1)
  expect(broker.figures.limits.connectionsMax).toBe(5)
  expect(broker.figures.connectionsRefused).toBe(5)
  expect(limited[0]).toEqual({
    limit: 'connectionsMax',
    clientId: '',
    detail: expect.stringMatching(
      /limit of open files, 132, allows 4 .*LimitNOFILE.*; refused 127\.0\.0\.1$/,
    ),
  })
  await served.publishAsync('still', 'here', { qos: 1 })
  await served.endAsync()
})

/** How many clients are in at the same time when each listener gets one. */
async function inAtOnce(): Promise<number> {
  const tried = await Promise.allSettled(broker.listeners.map(({ address }) => client(address)))
  const served = tried.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  await Promise.all(served.map((one) => one.endAsync()))
  return served.length
}

const WAYS: readonly (readonly [string, string | null])[] = [
  ['by saying nothing', ''],
  ['by another protocol', 'EHLO scanner\r\n\r\n'],
  ['by leaving at once', null],
]

test.each(WAYS)(
  'a socket that was taken %s is free again afterwards, on every listener',
  async (_way, said) => {
    for (let round = 0; round < 3; round++) {
      for (const { port } of broker.listeners) {
        const socket = await stranger(port)
        if (said === null) socket.destroy()
        else socket.write(said)
      }
      for (const socket of strangers.splice(0)) socket.destroy()
      await expect.poll(inAtOnce).toBe(SOCKETS_MAX)
    }
  },
)

test('without a limit all sockets are accepted', async () => {
  await broker.close()
  broker = await createBroker({
    listeners: [{ type: 'tcp', port: 0 }],
    openFilesMax: Number.POSITIVE_INFINITY,
  })
  for (let count = 0; count < 50; count++) await stranger(broker.listeners[0]!.port)
  const served = await client(broker.listeners[0]!.address)
  expect(waiting()).toHaveLength(50)
  await served.endAsync()
})
