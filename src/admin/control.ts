/**
 * The control socket takes the operator's commands to a running broker. It is a unix socket in the data
 * directory that only the broker's user can open. Each line, in both directions, is a JSON object:
 *
 * ```
 * → {"id":1,"command":"status","by":"root"}
 * ← {"id":1,"ok":true,"result":{…}}
 * → {"id":2,"command":"backup"}
 * ← {"id":2,"data":"…base64…"}            as often as needed
 * ← {"id":2,"ok":true,"result":{}}        or {"id":2,"ok":false,"error":"…","advice":"…","code":"GODWIT_…"}
 * ```
 *
 * Requests of one client are answered one after the other.
 */

import { unlinkSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { errorCode } from '../errors.ts'

/** The name of the socket in the data directory. */
export const CONTROL_SOCKET = 'control.sock'

/** Kernels give a socket file's path 108 bytes, its final zero included. */
const PATH_BYTES_MAX = 107
const CLIENTS_MAX = 8
/** The longest request: two of the standard's longest strings, and room. */
const LINE_BYTES_MAX = 192 * 1024
/** Longer names are cut off in the security log. */
const BY_CHARACTERS_MAX = 64
/** A client that is idle for so long is disconnected, because it may hold a snapshot of the store. */
const SILENCE_MS = 60_000

/** Sends data before the result of a command. */
export interface Reply {
  /** Sends bytes and resolves once the client has read most of them. Rejects if it is gone. */
  data(bytes: Buffer): Promise<void>
}

/** Carries out a request and resolves with the result. An error is sent to the client with its advice. */
export type ControlCommand = (
  parameters: Readonly<Record<string, unknown>>,
  reply: Reply,
) => unknown | Promise<unknown>

/**
 * Returns the sender that a request names, for the security log. The name is not checked: whoever can open
 * the socket is the broker's user or root, and could change the stored data anyway.
 */
export function requestedBy({ by }: Readonly<Record<string, unknown>>): string {
  return typeof by === 'string' && by !== '' ? by.slice(0, BY_CHARACTERS_MAX) : 'control socket'
}

/** An open control socket. */
export interface ControlSocket {
  readonly path: string
  close(): Promise<void>
}

/** Returns the path of the control socket of this data directory. */
export function controlPath(directory: string): string {
  return join(directory, CONTROL_SOCKET)
}

/** Returns the reason why no control socket can be at this path; null if one can. */
export function controlPathError(path: string): string | null {
  const bytes = Buffer.byteLength(path)
  return bytes > PATH_BYTES_MAX
    ? `the path ${path} has ${bytes} bytes, but the path of a socket may have at most ${PATH_BYTES_MAX}`
    : null
}

/**
 * Listens on the control socket. The caller holds the lock of the data directory, so an existing socket
 * belongs to a dead process and is replaced. Rejects if the file system has no sockets or the path is too
 * long.
 */
export async function openControlSocket(
  directory: string,
  commands: Readonly<Record<string, ControlCommand>>,
): Promise<ControlSocket> {
  const path = controlPath(directory)
  const problem = controlPathError(path)
  if (problem !== null) throw new Error(problem)
  removeStale(path)
  const clients = new Set<Socket>()
  const server = createServer((socket) => {
    clients.add(socket)
    socket.once('close', () => clients.delete(socket))
    serve(socket, commands)
  })
  server.maxConnections = CLIENTS_MAX
  await listenOn(server, path)
  return {
    path,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of clients) socket.destroy()
      }),
  }
}

function removeStale(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

/** Listens with a mask in force from the start, so that other users can never open the socket. */
function listenOn(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    const mask = process.umask(0o177)
    try {
      server.listen(path, () => {
        server.off('error', reject)
        // Accepting one connection can fail without free file descriptors; the socket stays open.
        server.on('error', () => {})
        resolve()
      })
    } finally {
      process.umask(mask)
    }
  })
}

function serve(socket: Socket, commands: Readonly<Record<string, ControlCommand>>): void {
  let text = ''
  let isBusy = false
  socket.setEncoding('utf8')
  socket.setTimeout(SILENCE_MS, () => socket.destroy())
  // `close` follows, so an error of the client needs no handling.
  socket.on('error', () => {})
  const next = (): void => {
    const end = text.indexOf('\n')
    if (isBusy || end < 0) {
      if (text.length > LINE_BYTES_MAX) socket.destroy()
      return
    }
    const line = text.slice(0, end)
    text = text.slice(end + 1)
    isBusy = true
    socket.pause()
    void answer(socket, line, commands).then(() => {
      isBusy = false
      socket.resume()
      next()
    })
  }
  socket.on('data', (chunk: string) => {
    text += chunk
    next()
  })
}

/** Carries out a request and sends its answer. Never rejects. */
async function answer(
  socket: Socket,
  line: string,
  commands: Readonly<Record<string, ControlCommand>>,
): Promise<void> {
  const request = parseRequest(line)
  if (request === null) {
    write(socket, { id: null, ok: false, error: 'the request is not a JSON object with id and command' })
    return
  }
  const { id, command, ...parameters } = request
  try {
    const run = Object.hasOwn(commands, command) ? commands[command] : undefined
    if (run === undefined) throw new Error(`this broker does not know the command '${command}'`)
    const reply: Reply = { data: (bytes) => send(socket, { id, data: bytes.toString('base64') }) }
    write(socket, { id, ok: true, result: await run(parameters, reply) })
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    const advice = error instanceof Error && 'advice' in error ? error.advice : undefined
    write(socket, { id, ok: false, error: message, advice, code: errorCode(error) ?? undefined })
  }
}

type Request = { readonly id: unknown; readonly command: string } & Readonly<Record<string, unknown>>

function parseRequest(line: string): Request | null {
  try {
    const value: unknown = JSON.parse(line)
    if (typeof value !== 'object' || value === null || !('id' in value) || !('command' in value)) return null
    const { id, command } = value
    return typeof command === 'string' ? { ...value, id, command } : null
  } catch {
    return null
  }
}

function write(socket: Socket, answer: object): boolean {
  return socket.destroyed || socket.write(`${JSON.stringify(answer)}\n`)
}

function send(socket: Socket, answer: object): Promise<void> {
  return new Promise((resolve, reject) => {
    if (socket.destroyed) {
      reject(new Error('the client is gone'))
      return
    }
    if (write(socket, answer)) {
      resolve()
      return
    }
    const settle = (): void => {
      socket.off('drain', settle)
      socket.off('close', settle)
      if (socket.destroyed) reject(new Error('the client is gone'))
      else resolve()
    }
    socket.on('drain', settle)
    socket.on('close', settle)
  })
}
