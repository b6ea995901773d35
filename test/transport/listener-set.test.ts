import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import type { ListenerOptions } from '../../src/transport/listener/listener.ts'
import { ListenerSet } from '../../src/transport/listener-set.ts'
import { ListenError } from '../../src/transport/tls/listen-error.ts'
import { Recorder } from './recorder.ts'

let recorder: Recorder
let set: ListenerSet
let sockets: { destroy(): void }[]

beforeEach(() => {
  recorder = new Recorder()
  set = new ListenerSet(recorder, { connectTimeoutSeconds: 10 }, () => {})
  sockets = []
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  for (const { link } of recorder.links) link.destroy()
  await set.close()
})

function tcp(name: string, port = 0, more: Partial<ListenerOptions> = {}): ListenerOptions {
  return { name, type: 'tcp', host: '127.0.0.1', port, allowAnonymous: true, ...more }
}

const ports = (): Record<string, number> => Object.fromEntries(set.open.map(({ name, port }) => [name, port]))

async function client(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  sockets.push(socket)
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

async function isRefused(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  sockets.push(socket)
  return new Promise((answer) => {
    socket.once('connect', () => answer(false))
    socket.once('error', () => answer(true))
  })
}

/** A port that is free at the moment. */
async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as { port: number }
  probe.close()
  await once(probe, 'close')
  return port
}

describe('changed listeners', () => {
  test('new ones open and removed ones close, while all connections stay', async () => {
    await set.openAll([tcp('one'), tcp('two')])
    const { one, two } = ports()
    const [first, second] = [await client(one!), await client(two!)]
    await recorder.at(1)
    await set.change([tcp('two'), tcp('three')], Date.now())
    expect(ports()).toEqual({ two, three: expect.any(Number) })
    expect(await isRefused(one!)).toBe(true)
    await client(ports().three!)
    expect((await recorder.at(2)).link.info.listener).toBe('three')
    for (const [i, socket] of [first, second].entries()) {
      socket.write('alive')
      await recorder.links[i]!.until((link) => link.text === 'alive')
    }
  })

  test('a change that only affects new connections keeps the listener open', async () => {
    await set.openAll([tcp('one')])
    const { one } = ports()
    await set.change([tcp('one', 0, { allowAnonymous: false, lenient: ['protocol-name'] })], Date.now())
    expect(ports()).toEqual({ one })
    await client(one!)
    expect((await recorder.at(0)).link.info).toMatchObject({
      allowAnonymous: false,
      lenient: ['protocol-name'],
    })
  })

  test('an address can move from one listener to another', async () => {
    const port = await freePort()
    await set.openAll([tcp('one', port)])
    const socket = await client(port)
    await recorder.at(0)
    await set.change([tcp('other', port)], Date.now())
    await client(port)
    expect((await recorder.at(1)).link.info.listener).toBe('other')
    socket.write('alive')
    await recorder.links[0]!.until((link) => link.text === 'alive')
  })

  test('a WebSocket outlives its listener', async () => {
    await set.openAll([{ name: 'ws', type: 'ws', host: '127.0.0.1', port: 0, allowAnonymous: true }])
    const socket = new WebSocket(`ws://127.0.0.1:${ports().ws}/mqtt`, 'mqtt')
    sockets.push({ destroy: () => socket.terminate() })
    await once(socket, 'open')
    await set.change([tcp('one')], Date.now())
    socket.send(Buffer.from('alive'))
    await (await recorder.at(0)).until((link) => link.text === 'alive')
  })

  test('if one cannot be opened, all stay as before', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { port } = taken.address() as { port: number }
    const own = await freePort()
    await set.openAll([tcp('one', own), tcp('two')])
    const { two } = ports()
    // The address of `one` has to be given up before it is known that `bad` cannot open.
    const wanted = [tcp('other', own), tcp('two', 0, { allowAnonymous: false }), tcp('bad', port)]
    await expect(set.change(wanted, Date.now())).rejects.toBeInstanceOf(ListenError)
    expect(ports()).toEqual({ one: own, two })
    await client(own)
    expect((await recorder.at(0)).link.info.listener).toBe('one')
    await client(two!)
    expect((await recorder.at(1)).link.info.allowAnonymous).toBe(true)
    taken.close()
  })

  test('a bad certificate is found before anything is changed', async () => {
    await set.openAll([tcp('one')])
    const before = ports()
    const tls: ListenerOptions = {
      ...tcp('secure'),
      type: 'tls',
      tls: { cert: '/nowhere/cert.pem', key: '/nowhere/key.pem' },
    }
    await expect(set.change([tls], Date.now())).rejects.toThrow(/cannot read/)
    expect(ports()).toEqual(before)
    await client(before.one!)
  })

  test('a socket file can move to another listener', async () => {
    const path = join(tmpdir(), `godwit-${process.pid}.sock`)
    const unix = (name: string): ListenerOptions => ({ name, type: 'unix', path, allowAnonymous: true })
    await set.openAll([unix('one')])
    await set.change([unix('other')], Date.now())
    const socket = connect(path)
    sockets.push(socket)
    expect((await recorder.at(0)).link.info.listener).toBe('other')
    rmSync(path, { force: true })
  })
})
