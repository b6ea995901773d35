/** Sockets that `acceptFast` makes behave as those of Node's own servers. */
import { channel } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { acceptFast } from '../../../src/transport/listener/accepting.ts'
import { SOCKET_OPTIONS } from '../../../src/transport/listener/bind.ts'

/** State of a timer in /proc/net/tcp: that of keep-alive, since nothing is under way. */
const KEEP_ALIVE_RUNS = '02'

let server: Server
let accepted: Socket[]
let clients: Socket[]

beforeEach(async () => {
  accepted = []
  clients = []
  server = createServer(SOCKET_OPTIONS, (socket) => accepted.push(socket.on('error', () => {})))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})

afterEach(() => {
  vi.restoreAllMocks()
  for (const socket of [...clients, ...accepted]) socket.destroy()
  server.close()
})

async function client(): Promise<Socket> {
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {})
  clients.push(socket)
  await once(socket, 'connect')
  return socket
}

const connections = (): Promise<number> =>
  new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)))
  })

/** The prototype of all TCP handles, whose functions are calls of the kernel. */
function tcpPrototype(): { setNoDelay(on: boolean): number; setKeepAlive(on: boolean, s: number): number } {
  return Object.getPrototypeOf(Reflect.get(server, '_handle'))
}

const inHex = (port: number): string => port.toString(16).toUpperCase().padStart(4, '0')

/** The timer of an accepted socket, from its line in /proc/net/tcp: addresses, state, queues, timer. */
function timerOf(port: number, { localPort = 0 }: Socket): string | undefined {
  const ends = `0100007F:${inHex(port)} 0100007F:${inHex(localPort)} `
  const line = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .find((one) => one.includes(ends))
  return /[0-9A-F]{8}:[0-9A-F]{8} (\d\d):/.exec(line ?? '')?.[1]
}

test('carries bytes both ways, and ends as a socket does that cannot be half open', async () => {
  expect(acceptFast(server, 0)).toBe(true)
  const socket = await client()
  await expect.poll(() => accepted.length).toBe(1)
  const [peer] = accepted
  peer!.on('data', (chunk) => peer!.write(chunk))
  socket.write('round trip')
  expect(String((await once(socket, 'data'))[0])).toBe('round trip')
  expect(peer!.allowHalfOpen).toBe(false)
  socket.end()
  const [hadError] = await once(peer!, 'close')
  expect(hadError).toBe(false)
})

test('the server counts open sockets, and closes once the last one has', async () => {
  acceptFast(server, 0)
  const sockets = [await client(), await client()]
  await expect.poll(connections).toBe(2)
  for (const peer of accepted) peer.resume()
  sockets[0]!.end()
  await expect.poll(connections).toBe(1)
  const closed = once(server, 'close')
  server.close()
  sockets[1]!.end()
  await closed
})

test('closes sockets beyond the maximum, and tells of them', async () => {
  acceptFast(server, 0)
  server.maxConnections = 1
  await client()
  const dropped = once(server, 'drop')
  const second = await client()
  expect((await dropped)[0]).toMatchObject({ remoteAddress: '127.0.0.1', remotePort: second.localPort })
  await expect.poll(() => second.destroyed).toBe(true)
  expect(accepted).toHaveLength(1)
})

test('tells who watches sockets by a channel of diagnostics', async () => {
  acceptFast(server, 0)
  const watched: unknown[] = []
  const watch = (message: unknown): void => void watched.push(message)
  channel('net.server.socket').subscribe(watch)
  try {
    await client()
    await expect.poll(() => watched).toEqual([{ socket: accepted[0] }])
  } finally {
    channel('net.server.socket').unsubscribe(watch)
  }
})

describe.runIf(process.platform === 'linux')('on Linux', () => {
  test('sockets have the options of the listening socket without a call for each', async () => {
    const noDelay = vi.spyOn(tcpPrototype(), 'setNoDelay')
    const keepAlive = vi.spyOn(tcpPrototype(), 'setKeepAlive')
    acceptFast(server, 0)
    expect(noDelay.mock.calls).toEqual([[true]])
    expect(keepAlive.mock.calls).toEqual([[true, 60]])
    const socket = await client()
    const { port } = server.address() as AddressInfo
    await expect.poll(() => timerOf(port, socket)).toBe(KEEP_ALIVE_RUNS)
    expect(noDelay).toHaveBeenCalledOnce()
    expect(keepAlive).toHaveBeenCalledOnce()
  })

  test('the first ones, which may have come before, get their own', async () => {
    acceptFast(server, 1)
    const noDelay = vi.spyOn(tcpPrototype(), 'setNoDelay')
    const keepAlive = vi.spyOn(tcpPrototype(), 'setKeepAlive')
    await client()
    await client()
    await expect.poll(() => accepted.length).toBe(2)
    expect(noDelay.mock.calls).toEqual([[true]])
    expect(keepAlive.mock.calls).toEqual([[true, 60]])
  })
})

test('changes nothing where a part is missing', () => {
  expect(acceptFast(createServer(), 0)).toBe(false)
  const handle: object = Reflect.get(server, '_handle')
  const before: unknown = Reflect.get(handle, 'onconnection')
  Reflect.set(server, '_connections', undefined)
  expect(acceptFast(server, 0)).toBe(false)
  expect(Reflect.get(handle, 'onconnection')).toBe(before)
  Reflect.set(server, '_connections', 0)
})
