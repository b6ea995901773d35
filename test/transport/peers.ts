/** Raw clients for tests: bytes over each transport, and each way to leave. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import type { Listener, ListenerOptions, ListenerType } from '../../src/transport/listener/listener.ts'
import { closeFrame, FIN, Opcode } from '../../src/transport/websocket/websocket-frames.ts'

const fixture = (name: string) => new URL(`../fixtures/tls/${name}`, import.meta.url).pathname

const TLS = { cert: fixture('server.pem'), key: fixture('server-key.pem') }

/** A listener of this type on a free port of 127.0.0.1, or with its socket file in `directory`. */
export function listenerOptions(type: ListenerType, directory: string): ListenerOptions {
  return {
    name: type,
    type,
    allowAnonymous: true,
    ...(type === 'unix' ? { path: join(directory, 'mqtt.sock') } : { port: 0 }),
    ...((type === 'tls' || type === 'wss') && { tls: TLS }),
  }
}

/** How a peer leaves: its side alone, both sides, by a reset, or with a Close frame. */
export type Leaving = 'half-closes' | 'closes' | 'resets' | 'sends a Close frame'

/** A client that sends bytes and does not care for the answers. */
export class Peer {
  readonly #socket: Socket
  readonly #below: Socket
  readonly #frames: boolean
  readonly #received: Buffer[] = []

  private constructor(socket: Socket, below: Socket, frames: boolean) {
    this.#socket = socket
    this.#below = below
    this.#frames = frames
    for (const one of [socket, below]) one.on('error', () => {})
  }

  /** Resolves when the transport, its handshakes included, is open. */
  static async open(listener: Listener): Promise<Peer> {
    const { type, port, address } = listener
    const below = type === 'unix' ? connect(address.slice(5)) : connect({ host: '127.0.0.1', port })
    await once(below, 'connect')
    return Peer.over(listener, below)
  }

  /** The same over a socket that is connected already. */
  static async over({ type }: Listener, below: Socket): Promise<Peer> {
    const secure = type === 'tls' || type === 'wss'
    const socket = secure
      ? connectTls({ socket: below, ca: readFileSync(fixture('ca.pem')), host: '127.0.0.1' })
      : below
    if (secure) await once(socket, 'secureConnect')
    const frames = type === 'ws' || type === 'wss'
    const peer = new Peer(socket, below, frames)
    if (!frames) {
      peer.#read()
      return peer
    }
    socket.write(
      'GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        'Sec-WebSocket-Version: 13\r\n' +
        'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n',
    )
    await once(socket, 'data')
    peer.#read()
    return peer
  }

  #read(): void {
    this.#socket.on('data', (chunk) => this.#received.push(chunk))
  }

  /** Resolves when the kernel has the bytes. */
  send(bytes: Buffer): Promise<void> {
    return this.#write(this.#frames ? masked(FIN | Opcode.Binary, bytes) : bytes)
  }

  /** All that has come since the transport was open: frames as they are. */
  get received(): Buffer {
    return Buffer.concat(this.#received)
  }

  /** The kernel has all that was sent when this is called. */
  async leave(how: Leaving): Promise<void> {
    if (how === 'sends a Close frame') {
      await this.#write(masked(FIN | Opcode.Close, closeFrame(1000).subarray(2)))
      this.#socket.end()
    } else if (how === 'half-closes') this.#socket.end()
    else if (how === 'resets') this.#below.resetAndDestroy()
    else this.#socket.destroy()
  }

  destroy(): void {
    this.#socket.destroy()
    this.#below.destroy()
  }

  #write(bytes: Buffer): Promise<void> {
    return new Promise((resolve) => this.#socket.write(bytes, () => resolve()))
  }
}

/** A client's frame, masked with zeros. */
function masked(first: number, payload: Buffer): Buffer {
  const header = payload.length < 126 ? Buffer.from([first, 0x80 | payload.length]) : Buffer.alloc(4)
  if (payload.length >= 126) {
    header[0] = first
    header[1] = 0x80 | 126
    header.writeUInt16BE(payload.length, 2)
  }
  return Buffer.concat([header, Buffer.alloc(4), payload])
}
