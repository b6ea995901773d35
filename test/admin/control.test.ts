import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type ControlCommand, type ControlSocket, openControlSocket } from '../../src/admin/control.ts'
import { ask, askForData, brokerAnswers } from '../../src/admin/control-client.ts'

let directory: string
let control: ControlSocket | undefined

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'godwit-control-'))
})

afterEach(async () => {
  await control?.close()
  control = undefined
  await rm(directory, { recursive: true, force: true })
})

async function opened(commands: Readonly<Record<string, ControlCommand>> = {}): Promise<ControlSocket> {
  control = await openControlSocket(directory, commands)
  return control
}

/** Lines that come for what is sent, until the connection ends or there are `count`. */
function exchange(text: string, count: number): Promise<string[]> {
  return new Promise((resolve) => {
    const socket = connect({ path: control!.path })
    let received = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      received += chunk
      if (received.split('\n').length > count) socket.destroy()
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(received.trimEnd().split('\n')))
    socket.write(text)
  })
}

test('a command is answered with its result, or with its error and advice', async () => {
  await opened({
    add: ({ a, b }) => Number(a) + Number(b),
    fail: () => {
      throw Object.assign(new Error('it failed'), { advice: 'Try harder.' })
    },
  })
  expect(await ask(directory, 'add', { a: 1, b: 2 })).toBe(3)
  await expect(ask(directory, 'fail')).rejects.toMatchObject({ message: 'it failed', advice: 'Try harder.' })
  await expect(ask(directory, 'constructor')).rejects.toThrow("does not know the command 'constructor'")
})

test('requests of one client are answered in order, whatever the lines are cut into', async () => {
  await opened({ echo: async ({ text }) => text })
  const lines = await exchange(
    '{"id":1,"command":"echo","text":"ü"}\nnot json\n{"id":3,"command":"echo","text":"c"}\n',
    3,
  )
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { id: 1, ok: true, result: 'ü' },
    { id: null, ok: false },
    { id: 3, ok: true, result: 'c' },
  ])
})

test('data arrives complete, and a slow reader delays it', async () => {
  const pieces = Array.from({ length: 50 }, (_, index) => Buffer.alloc(200_000, index))
  let sent = 0
  await opened({
    data: async (_, reply) => {
      for (const piece of pieces) {
        await reply.data(piece)
        sent++
      }
      return 'all'
    },
  })
  const request = askForData(directory, 'data')
  const first = await request.next()
  expect(pieces[0]!.equals(first.value as Buffer)).toBe(true)
  // Socket buffers and those of Node hold a few pieces, not all of them.
  await new Promise((resolve) => setImmediate(resolve))
  expect(sent).toBeLessThan(pieces.length)
  for (const piece of pieces.slice(1)) expect(piece.equals((await request.next()).value as Buffer)).toBe(true)
  expect(await request.next()).toEqual({ done: true, value: 'all' })
})

test('a client that disconnects ends its command', async () => {
  const ended = new Promise<unknown>((resolve) => {
    void opened({
      data: async (_, reply) => {
        try {
          for (;;) await reply.data(Buffer.alloc(100_000))
        } catch (error) {
          resolve(error)
          throw error
        }
      },
    }).then(async () => {
      const request = askForData(directory, 'data')
      await request.next()
      await request.return(undefined)
    })
  })
  expect(await ended).toMatchObject({ message: 'the client is gone' })
})

test('a broker that ends in the middle of its answer is an error', async () => {
  await opened({
    data: async (_, reply) => {
      await reply.data(Buffer.from('half'))
      await control!.close()
    },
  })
  const request = askForData(directory, 'data')
  await request.next()
  await expect(request.next()).rejects.toThrow('ended before its answer was complete')
})

test('only the owner can open the socket; it replaces a stale one and is removed on close', async () => {
  await writeFile(join(directory, 'control.sock'), '')
  const { path } = await opened()
  expect((await stat(path)).mode & 0o777).toBe(0o600)
  expect(await brokerAnswers(directory)).toBe(true)
  await control!.close()
  control = undefined
  expect(await brokerAnswers(directory)).toBe(false)
  await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' })
})

test('a request that is too long ends the connection, and too many clients are refused', async () => {
  await opened({ echo: () => 'here' })
  expect(await exchange('x'.repeat(200_000), 1)).toEqual([''])
  const held = Array.from({ length: 8 }, () => connect({ path: control!.path }))
  await Promise.all(held.map((socket) => new Promise((resolve) => socket.once('connect', resolve))))
  await expect(ask(directory, 'echo')).rejects.toThrow('ended before its answer')
  for (const socket of held) socket.destroy()
})

test('a path that is too long for a socket is an error', async () => {
  const long = join(directory, 'x'.repeat(120))
  await expect(openControlSocket(long, {})).rejects.toThrow(
    /has \d+ bytes, but the path of a socket may have at most 107/,
  )
  expect(await brokerAnswers(long)).toBe(false)
})
