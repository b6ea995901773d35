import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, renameSync, rmSync, statSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener, ListenerOptions } from '../../../src/transport/listener/listener.ts'
import { closing, Recorder } from '../recorder.ts'

const LIMITS = { connectTimeoutSeconds: 10 }
const TCP: ListenerOptions = { name: 'plain', type: 'tcp', port: 0, allowAnonymous: true }

let recorder: Recorder
let directory: string
let open: Listener[]
let sockets: Socket[]

beforeEach(() => {
  recorder = new Recorder()
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  open = []
  sockets = []
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  for (const { link } of recorder.links) link.destroy()
  await Promise.all(open.map((listener) => listener.close()))
  rmSync(directory, { recursive: true, force: true })
})

async function listening(options: ListenerOptions): Promise<Listener> {
  const listener = await listen(options, recorder, LIMITS)
  open.push(listener)
  return listener
}

function client(listener: Listener, host = '127.0.0.1'): Socket {
  const socket =
    listener.type === 'unix' ? connect(listener.address.slice(5)) : connect({ host, port: listener.port })
  socket.on('error', () => {})
  sockets.push(socket)
  return socket
}

describe.each(['127.0.0.1', '::1', 'unix'] as const)('a stream on %s', (where) => {
  const options = (): ListenerOptions =>
    where === 'unix'
      ? { name: 'file', type: 'unix', path: join(directory, 'mqtt.sock'), allowAnonymous: true }
      : { ...TCP, host: where }

  test('[MQTT-4.2-1] [MQTT-7.1.1-1, 3.1.1] carries bytes both ways and names the peer', async () => {
    const listener = await listening(options())
    const socket = client(listener, where)
    const recorded = await recorder.at(0)
    expect(recorded.link.info).toMatchObject(
      where === 'unix'
        ? { transport: 'unix', listener: 'file', remoteAddress: '', remotePort: 0 }
        : { transport: 'tcp', listener: 'plain', remoteAddress: where, remotePort: socket.localPort },
    )
    socket.write('ping')
    await recorded.until((link) => link.text === 'ping')
    recorded.link.write([Buffer.from('po'), Buffer.from('ng')], 4)
    expect(String((await once(socket, 'data'))[0])).toBe('pong')
    expect(recorded.link.bufferedBytes).toBe(0)
    expect(recorded.link.flushedBytes).toBe(4)
  })

  test('[MQTT-4.2-1] [MQTT-7.1.1-1, 3.1.1] a slow reader gets exactly the written bytes', async () => {
    const listener = await listening(options())
    const slow = client(listener, where).pause()
    const recorded = await recorder.at(0)
    const quick = client(listener, where)
    const other = await recorder.at(1)
    const quickHash = createHash('sha256')
    quick.on('data', (chunk) => quickHash.update(chunk))

    const totalBytes = 100_000_000
    const sent = createHash('sha256')
    const sentToOther = createHash('sha256')
    const got = createHash('sha256')
    let gotBytes = 0
    let writtenBytes = 0
    let buffered = 0
    let counter = 0
    const writeUntilBehind = () => {
      while (writtenBytes < totalBytes && recorded.link.bufferedBytes < 1_000_000) {
        // Usually a few small chunks, at times more than one piece.
        const chunks = Array.from({ length: counter % 97 === 0 ? 300 : 20 }, () =>
          Buffer.alloc(500, `${counter++}-`),
        )
        for (const chunk of chunks) sent.update(chunk)
        recorded.link.write(chunks, chunks.length * 500)
        writtenBytes += chunks.length * 500
        if (recorded.link.bufferedBytes > 0) buffered++
        const noise = [Buffer.alloc(700, `x${counter}`), Buffer.alloc(9, 'y')]
        for (const chunk of noise) sentToOther.update(chunk)
        other.link.write(noise, 709)
      }
    }
    slow.on('data', (chunk) => {
      got.update(chunk)
      gotBytes += chunk.length
      // Stops again and again, so that the kernel's buffers are full most of the time.
      slow.pause()
      setImmediate(() => slow.resume())
    })
    writeUntilBehind()
    expect(buffered).toBeGreaterThan(0)
    slow.resume()
    while (writtenBytes < totalBytes) {
      const drains = recorded.drains
      await recorded.until((link) => link.drains > drains || link.link.bufferedBytes === 0)
      writeUntilBehind()
    }
    recorded.link.end()
    other.link.end()
    await Promise.all([recorded.until((link) => link.closes.length > 0), closing(slow)])
    await other.until((link) => link.closes.length > 0)
    expect(gotBytes).toBe(writtenBytes)
    expect(got.digest('hex')).toBe(sent.digest('hex'))
    expect(quickHash.digest('hex')).toBe(sentToOther.digest('hex'))
  })
})

describe('a TCP link', () => {
  test('counts bytes that wait for a reader that stops, and reports when they have left', async () => {
    const listener = await listening(TCP)
    const socket = client(listener).pause()
    const { link } = await recorder.at(0)
    const recorded = recorder.links[0]!
    const bytes = 32_000_000
    link.write([Buffer.alloc(bytes)], bytes)
    expect(link.bufferedBytes).toBeGreaterThan(0)
    expect(link.bufferedBytes + link.flushedBytes).toBe(bytes)
    expect(recorded.drains).toBe(0)
    socket.on('data', () => {})
    socket.resume()
    await recorded.until((it) => it.drains > 0)
    expect(link.bufferedBytes).toBe(0)
    expect(link.flushedBytes).toBe(bytes)
  })

  test('the progress of one large write is visible', async () => {
    const listener = await listening(TCP)
    const socket = client(listener).pause()
    const recorded = await recorder.at(0)
    const bytes = 64_000_000
    recorded.link.write([Buffer.alloc(bytes)], bytes)
    const figures = new Set([recorded.link.flushedBytes])
    socket.on('data', () => figures.add(recorded.link.flushedBytes))
    socket.resume()
    await recorded.until((link) => link.drains > 0)
    expect(figures.size).toBeGreaterThan(10)
  })

  test('pause stops the publisher in bounded memory until resume', async () => {
    const listener = await listening(TCP)
    const socket = client(listener)
    const recorded = await recorder.at(0)
    recorded.keep = false
    recorded.link.pause()
    const bytes = 64_000_000
    socket.write(Buffer.alloc(bytes))
    // The publisher's own side fills up; it cannot be drained before we resume.
    if (socket.connecting) await once(socket, 'connect')
    expect(recorded.receivedBytes).toBe(0)
    expect(socket.writableLength).toBeGreaterThan(0)
    recorded.link.resume()
    recorded.onReceived = () => {
      recorded.link.pause()
      setImmediate(() => recorded.link.resume())
    }
    await recorded.until((link) => link.receivedBytes === bytes)
  })

  test('end flushes everything first, and the peer sees a clean end', async () => {
    const listener = await listening(TCP)
    const socket = client(listener).pause()
    const recorded = await recorder.at(0)
    const bytes = 20_000_000
    recorded.link.write([Buffer.alloc(bytes)], bytes)
    recorded.link.end()
    recorded.link.end()
    let got = 0
    let failed: Error | undefined
    socket.on('error', (error) => {
      failed = error
    })
    socket.on('data', (chunk) => {
      got += chunk.length
    })
    socket.resume()
    await closing(socket)
    await recorded.until((link) => link.closes.length > 0)
    expect(got).toBe(bytes)
    expect(failed).toBeUndefined()
    expect(recorded.closes).toEqual([undefined])
  })

  test('unread input does not turn end into a reset', async () => {
    const listener = await listening(TCP)
    const socket = client(listener)
    const recorded = await recorder.at(0)
    recorded.link.pause()
    socket.write(Buffer.alloc(1_000_000))
    recorded.link.write([Buffer.from('bye')], 3)
    recorded.link.end()
    expect(String((await once(socket, 'data'))[0])).toBe('bye')
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes).toEqual([undefined])
    expect(recorded.receivedBytes).toBe(0)
  })

  test('end cuts off a peer that never reads', async () => {
    const listener = await listening(TCP)
    client(listener).pause()
    const recorded = await recorder.at(0)
    recorded.link.write([Buffer.alloc(64_000_000)], 64_000_000)
    recorded.link.end()
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes.length).toBe(1)
    expect(recorded.link.bufferedBytes).toBe(0)
  })

  test('a peer that closes and never reads is cut off, too', async () => {
    const listener = await listening(TCP)
    const socket = client(listener).pause()
    const recorded = await recorder.at(0)
    recorded.link.write([Buffer.alloc(64_000_000)], 64_000_000)
    socket.end()
    await recorded.until((link) => link.closes.length > 0)
  })

  test('a reset is reported once and nothing follows', async () => {
    const listener = await listening(TCP)
    const socket = client(listener)
    const recorded = await recorder.at(0)
    socket.resetAndDestroy()
    await recorded.until((link) => link.closes.length > 0)
    expect((recorded.closes[0] as NodeJS.ErrnoException).code).toBe('ECONNRESET')
    recorded.link.write([Buffer.from('late')], 4)
    recorded.link.pause()
    recorded.link.resume()
    recorded.link.end()
    recorded.link.destroy()
    await new Promise((resolve) => setImmediate(resolve))
    expect(recorded.closes.length).toBe(1)
    expect(recorded.callsAfterClose).toBe(0)
    expect(recorded.link.bufferedBytes).toBe(0)
  })

  test('destroy closes at once and is reported once', async () => {
    const listener = await listening(TCP)
    const socket = client(listener)
    const recorded = await recorder.at(0)
    recorded.link.write([Buffer.alloc(64_000_000)], 64_000_000)
    recorded.link.destroy()
    recorded.link.destroy()
    expect(recorded.link.bufferedBytes).toBe(0)
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes).toEqual([undefined])
    socket.resume()
    await closing(socket)
  })

  test('a connection that the Server refuses is closed', async () => {
    const listener = await listening(TCP)
    recorder.refusing = true
    const socket = client(listener)
    socket.resume()
    await closing(socket)
  })

  test('a TLS ClientHello arrives as bytes like any other', async () => {
    const listener = await listening(TCP)
    const socket = client(listener)
    socket.write(Buffer.from([0x16, 0x03, 0x01, 0x00, 0x05, 1, 0, 0, 1, 3]))
    const recorded = await recorder.at(0)
    await recorded.until((link) => link.receivedBytes === 10)
    recorded.link.destroy()
  })
})

describe('a listener', () => {
  test('takes a free port and names it', async () => {
    const v4 = await listening({ ...TCP, host: '127.0.0.1' })
    const v6 = await listening({ ...TCP, host: '::1' })
    expect(v4.port).toBeGreaterThan(0)
    expect(v4.address).toBe(`mqtt://127.0.0.1:${v4.port}`)
    expect(v6.address).toBe(`mqtt://[::1]:${v6.port}`)
  })

  test('close frees the port at once and leaves open Links to the Server', async () => {
    const listener = await listening(TCP)
    const socket = client(listener)
    const recorded = await recorder.at(0)
    await listener.close()
    await listener.close()
    const again = await listening({ ...TCP, port: listener.port })
    expect(again.port).toBe(listener.port)
    socket.write('still here')
    await recorded.until((link) => link.text === 'still here')
  })

  test('a port in use is an error with its address and advice', async () => {
    const listener = await listening(TCP)
    await expect(
      listen({ ...TCP, name: 'second', port: listener.port }, recorder, LIMITS),
    ).rejects.toMatchObject({
      name: 'ListenError',
      message: `listener 'second': mqtt://127.0.0.1:${listener.port} is in use by another program`,
      advice: expect.stringContaining('another port'),
    })
  })

  test('an address of another machine is an error that says so', async () => {
    await expect(listen({ ...TCP, host: '192.0.2.1' }, recorder, LIMITS)).rejects.toMatchObject({
      message: expect.stringContaining('does not have the address of mqtt://192.0.2.1:0'),
      missingAddress: true,
    })
  })
})

describe('a unix socket', () => {
  const unix = (path: string): ListenerOptions => ({ name: 'file', type: 'unix', path, allowAnonymous: true })

  test('a file left by a dead process is replaced, and removed on close', async () => {
    const path = join(directory, 'stale.sock')
    // A server whose file is moved away and back leaves it behind when it closes.
    const dead = createServer().listen(path)
    await once(dead, 'listening')
    renameSync(path, `${path}.kept`)
    dead.close()
    await closing(dead)
    renameSync(`${path}.kept`, path)
    expect(statSync(path).isSocket()).toBe(true)
    const listener = await listening(unix(path))
    expect(listener.address).toBe(`unix:${path}`)
    client(listener)
    await recorder.at(0)
    await listener.close()
    expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined()
  })

  test('a file in use is an error and stays', async () => {
    const path = join(directory, 'live.sock')
    await listening(unix(path))
    await expect(listen(unix(path), recorder, LIMITS)).rejects.toThrow(/is in use by another program/)
    expect(statSync(path).isSocket()).toBe(true)
  })

  test('another kind of file, a missing directory, a long path are errors', async () => {
    await expect(listen(unix(directory), recorder, LIMITS)).rejects.toThrow(/is not a socket/)
    await expect(listen(unix(join(directory, 'no/x.sock')), recorder, LIMITS)).rejects.toThrow(/directory of/)
    await expect(listen(unix(`/tmp/${'x'.repeat(120)}`), recorder, LIMITS)).rejects.toThrow(/107 bytes/)
  })

  test('the mode is set', async () => {
    const path = join(directory, 'mode.sock')
    await listening({ ...unix(path), mode: 0o600 })
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })
})
