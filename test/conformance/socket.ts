/** A client of the real process that writes bytes. It reads the answers by mqtt-packet, not by our codec. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import mqttPacket, { type Packet } from 'mqtt-packet'

export class SocketClient {
  readonly #socket: Socket
  readonly #packets: Packet[] = []
  /** The bytes that arrived. */
  readonly #chunks: Buffer[] = []
  #closed = false
  #wake: (() => void) | null = null

  private constructor(socket: Socket, version: 3 | 4 | 5) {
    this.#socket = socket
    const parser = mqttPacket.parser({ protocolVersion: version })
    parser.on('packet', (packet) => {
      this.#packets.push(packet)
    })
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk)
      parser.parse(chunk)
      this.#wake?.()
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#closed = true
      this.#wake?.()
    })
  }

  static async open(port: number, version: 3 | 4 | 5 = 5): Promise<SocketClient> {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    return new SocketClient(socket, version)
  }

  /** Writes bytes; resolves to the next packet. Rejects when the Network Connection ends before. */
  async ask(bytes: Buffer): Promise<Packet> {
    this.write(bytes)
    return this.next()
  }

  write(bytes: Buffer): void {
    this.#socket.write(bytes)
  }

  /** The next packet that comes. */
  async next(): Promise<Packet> {
    for (;;) {
      const packet = this.#packets.shift()
      if (packet !== undefined) return packet
      if (this.#closed) throw new Error('the Network Connection was closed')
      await this.#change()
    }
  }

  /** Writes bytes; resolves, when the Server has closed, to all packets that came before. */
  async last(bytes: Buffer): Promise<Packet[]> {
    this.write(bytes)
    while (!this.#closed) await this.#change()
    return this.#packets.splice(0)
  }

  /** Everything that came since the last call, in hex. */
  hex(): string {
    return Buffer.concat(this.#chunks.splice(0)).toString('hex')
  }

  /** The network fails. */
  vanish(): void {
    this.#socket.destroy()
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }
}
