import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setImmediate as nextPass } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener } from '../../../src/transport/listener/listener.ts'
import { Discards } from '../../../src/transport/sockets/discards.ts'
import { ReadBuffer } from '../../../src/transport/sockets/read-buffer.ts'
import { StreamLink } from '../../../src/transport/sockets/stream-link.ts'
import { Recorder } from '../recorder.ts'

const MIB = 1024 * 1024

/** Stands for a socket: says whether it is read from. */
class FakeSocket {
  reading = false
  destroyed = false
  readableEnded = false

  pause(): void {
    this.reading = false
  }

  resume(): void {
    this.reading = true
  }
}

describe('input that nobody wants', () => {
  let deferred: (() => void)[]
  let discards: Discards

  beforeEach(() => {
    deferred = []
    discards = new Discards((callback) => deferred.push(callback))
  })

  function pass(): void {
    for (const callback of deferred.splice(0)) callback()
  }

  function sockets(count: number): FakeSocket[] {
    return Array.from({ length: count }, () => new FakeSocket())
  }

  /** Each socket that is read from brings so many bytes, in reads of 64 KiB; how many bytes were read. */
  function read(all: readonly FakeSocket[], bytes: number): number {
    let sum = 0
    for (const socket of all) {
      for (let left = bytes; left > 0 && socket.reading; left -= 64 * 1024) {
        discards.discarded(socket as unknown as Socket, 64 * 1024)
        sum += 64 * 1024
      }
    }
    return sum
  }

  test('is read from 16 sockets in each pass, the oldest first', () => {
    const all = sockets(40)
    for (const socket of all) discards.start(socket as unknown as Socket)
    const readNow = () => all.map(({ reading }) => reading).lastIndexOf(true) + 1
    expect(readNow()).toBe(16)
    pass()
    expect(readNow()).toBe(32)
    pass()
    expect(readNow()).toBe(40)
    expect(discards.waitingCount).toBe(0)
    pass()
    expect(deferred).toEqual([])
  })

  test('of 200 peers that send without end takes at most two MiB of one pass', () => {
    const all = sockets(200)
    for (const socket of all) discards.start(socket as unknown as Socket)
    const passes = Array.from({ length: 50 }, () => {
      const bytes = read(all, 2 * MIB)
      pass()
      return bytes
    })
    expect(Math.max(...passes)).toBeLessThanOrEqual(2 * MIB)
    expect(Math.min(...passes)).toBeGreaterThanOrEqual(MIB)
  })

  test('is not waited for once its socket is closed, or all of it was read', () => {
    const all = sockets(40)
    for (const socket of all) discards.start(socket as unknown as Socket)
    for (const socket of all.slice(16, 39)) socket.destroyed = true
    pass()
    expect(all[39]!.reading).toBe(true)
    const ended = new FakeSocket()
    ended.readableEnded = true
    discards.start(ended as unknown as Socket)
    expect(ended.reading).toBe(false)
    expect(discards.waitingCount).toBe(0)
  })
})

describe('a listener', () => {
  let recorder: Recorder
  let listener: Listener
  let clients: Socket[]

  beforeEach(async () => {
    recorder = new Recorder()
    clients = []
    const options = { name: 'plain', type: 'tcp', port: 0, allowAnonymous: true } as const
    listener = await listen(options, recorder, { connectTimeoutSeconds: 10 })
  })

  afterEach(async () => {
    for (const client of clients) client.destroy()
    for (const { link } of recorder.links) link.destroy()
    await listener.close()
  })

  test('closes many peers that sent much after their last packet, and resets none', async () => {
    const closed = Array.from({ length: 60 }, async () => {
      const client = connect(listener.port, '127.0.0.1')
      clients.push(client)
      const errors: Error[] = []
      client.on('error', (error) => errors.push(error))
      client.write(Buffer.alloc(2 * MIB))
      client.resume()
      await once(client, 'end')
      client.end()
      await once(client, 'close')
      return errors
    })
    recorder.onLink = (recorded) => {
      recorded.keep = false
      recorded.onReceived = () => recorded.link.end()
    }
    expect((await Promise.all(closed)).flat()).toEqual([])
    for (const recorded of recorder.links) {
      await recorded.until((link) => link.closes.length > 0)
      expect(recorded.receivedBytes).toBeLessThanOrEqual(64 * 1024)
    }
  })
})

test('links that ended read little of what their peers sent in one pass of the event loop', async () => {
  const count = 30
  const accepted: Socket[] = []
  const server = createServer({ pauseOnConnect: true }, (socket) => accepted.push(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const clients = Array.from({ length: count }, () => {
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    client.on('error', () => {})
    client.write(Buffer.alloc(4 * MIB))
    return client
  })
  while (accepted.length < count || clients.some(({ connecting }) => connecting)) await nextPass()
  const readBuffer = new ReadBuffer()
  const handler = { received() {}, drained() {}, ended() {}, closed() {} }
  for (const socket of accepted) {
    const info = { transport: 'tcp', listener: '', remoteAddress: '', remotePort: 0 } as const
    const link = new StreamLink(socket, { ...info, allowAnonymous: true }, null)
    link.start(handler, readBuffer)
    link.end()
  }
  const bytesRead = () => accepted.reduce((sum, socket) => sum + socket.bytesRead, 0)
  let most = 0
  for (let before = 0; before < count * 4 * MIB; ) {
    await nextPass()
    most = Math.max(most, bytesRead() - before)
    before = bytesRead()
  }
  expect(most).toBeLessThanOrEqual(4 * MIB)
  for (const socket of [...clients, ...accepted]) socket.destroy()
  server.close()
})
