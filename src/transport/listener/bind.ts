/** Binds servers to their addresses and turns errors into advice for the operator. */
import { chmodSync, existsSync, lstatSync, unlinkSync } from 'node:fs'
import { type AddressInfo, connect, isIPv6, type Server } from 'node:net'
import { dirname } from 'node:path'
import { ListenError, toListenError } from '../tls/listen-error.ts'
import { acceptFast } from './accepting.ts'
import { DEFAULT_HOST, DEFAULT_PORTS, type ListenerOptions } from './listener.ts'

/** Kernels give a socket file's path 108 bytes, its final zero included. */
const UNIX_PATH_BYTES_MAX = 107

/** Options for every TCP server: small packets leave at once, and dead peers are detected. */
export const SOCKET_OPTIONS = Object.freeze({
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: 60_000,
  allowHalfOpen: false,
})

/** Connections that the kernel queues for us, since a fleet reconnects all at once. It may lower this. */
const BACKLOG = 4096

/** Listens on host and port; resolves with the port and the URL. Rejects with ListenError. */
export async function bindPort(
  server: Server,
  options: ListenerOptions,
  scheme: string,
  urlPath: string,
): Promise<{ port: number; address: string }> {
  const host = options.host ?? DEFAULT_HOST
  const port = options.port ?? DEFAULT_PORTS[options.type as keyof typeof DEFAULT_PORTS]
  const url = (actual: number) => `${scheme}://${isIPv6(host) ? `[${host}]` : host}:${actual}${urlPath}`
  await bindServer(server, options.name, url(port), { host, port, backlog: BACKLOG })
  const actual = (server.address() as AddressInfo).port
  return { port: actual, address: url(actual) }
}

/** Listens on a socket file, after removing one that a dead process left. Rejects with ListenError. */
export async function bindPath(
  server: Server,
  options: ListenerOptions,
): Promise<{ port: number; address: string }> {
  const path = options.path
  if (path === undefined) {
    throw new ListenError(options.name, 'a unix listener needs a path', 'Name the socket file in its path.')
  }
  if (Buffer.byteLength(path) > UNIX_PATH_BYTES_MAX) {
    throw new ListenError(
      options.name,
      `the path of the socket file is longer than ${UNIX_PATH_BYTES_MAX} bytes`,
      'Choose a shorter one, such as /run/godwit.sock.',
    )
  }
  // libuv reports a missing directory as EACCES, which would mislead the operator.
  if (!existsSync(dirname(path))) {
    throw new ListenError(options.name, `the directory of ${path} does not exist`, 'Create it first.')
  }
  await removeStale(options.name, path)
  const address = `unix:${path}`
  await bindServer(server, options.name, address, { path, backlog: BACKLOG })
  if (options.mode !== undefined) chmodSync(path, options.mode)
  return { port: 0, address }
}

function bindServer(
  server: Server,
  name: string,
  where: string,
  target: { host?: string; port?: number; path?: string; backlog: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error) => reject(toListenError(name, where, error))
    server.once('error', failed)
    server.listen(target, () => {
      server.off('error', failed)
      // Accepting one connection can fail, for want of file descriptors; the listener stays open.
      server.on('error', () => {})
      acceptFast(server, BACKLOG)
      resolve()
    })
  })
}

/** Removes a socket file that refuses connections, because nobody listens on it. */
async function removeStale(name: string, path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isSocket()) {
    throw new ListenError(
      name,
      `${path} exists and is not a socket`,
      'Choose another path, or remove the file if nobody needs it.',
    )
  }
  const answer = await new Promise<string>((resolve) => {
    const probe = connect({ path })
    probe.once('connect', () => {
      probe.destroy()
      resolve('connected')
    })
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  })
  if (answer === 'ENOENT') return
  if (answer !== 'ECONNREFUSED') {
    throw new ListenError(
      name,
      answer === 'connected' ? `${path} is in use by another program` : `${path} cannot be probed: ${answer}`,
      'Stop the program that listens there (perhaps another broker), or choose another path.',
    )
  }
  unlinkSync(path)
}
