/** A client over a real socket, which records the packets that it receives and answers only when told. */
import { connect, type Socket } from 'node:net'
import { type Answer, answers } from '../fuzz/answers.ts'
import { type Plain, type Version, write } from '../fuzz/plain.ts'

const PINGREQ = Buffer.from('c000', 'hex')
const PINGRESP = 13

export class WireClient {
  readonly version: Version
  readonly #socket: Socket
  /** Packets that arrived and were not yet taken. */
  #answers: Answer[] = []
  #bytes: Buffer = Buffer.alloc(0)
  #pings = 0
  #closed = false
  #watchers: (() => void)[] = []

  private constructor(socket: Socket, version: Version) {
    this.#socket = socket
    this.version = version
    socket.setNoDelay(true)
    socket.on('data', (chunk) => this.#received(chunk))
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#closed = true
      this.#tell()
    })
  }

  /** Resolves when the socket is connected; nothing is sent yet. */
  static open(port: number, version: Version): Promise<WireClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => resolve(new WireClient(socket, version)))
      socket.once('error', reject)
    })
  }

  get closed(): boolean {
    return this.#closed
  }

  send(...packets: readonly Plain[]): void {
    if (this.#closed) return
    this.#socket.write(Buffer.concat(packets.map((packet) => write(packet, this.version))))
  }

  /** Resolves when something came that fits, or the Network Connection is closed. */
  async until(fits: (answers: readonly Answer[]) => boolean): Promise<void> {
    while (!this.#closed && !fits(this.#answers)) await this.#change()
  }

  /** Resolves when the broker has handled all earlier packets and sent what follows from them. */
  async barrier(): Promise<void> {
    if (this.#closed) return
    const wanted = this.#pings + 1
    this.#socket.write(PINGREQ)
    while (!this.#closed && this.#pings < wanted) await this.#change()
  }

  /** Takes the packets that arrived since the last call. */
  take(): Answer[] {
    return this.#answers.splice(0)
  }

  /** The network fails; resolves when the socket is closed. */
  async vanish(): Promise<void> {
    this.#socket.destroy()
    while (!this.#closed) await this.#change()
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#watchers.push(resolve))
  }

  #tell(): void {
    for (const watcher of this.#watchers.splice(0)) watcher()
  }

  #received(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk])
    for (let bytes = wholePacket(this.#bytes); bytes > 0; bytes = wholePacket(this.#bytes)) {
      for (const answer of answers(this.#bytes.subarray(0, bytes), this.version)) {
        if (answer.type === PINGRESP) this.#pings++
        else this.#answers.push(answer)
      }
      this.#bytes = this.#bytes.subarray(bytes)
    }
    this.#tell()
  }
}

/** Bytes of the first packet; 0 when it is not whole. */
function wholePacket(bytes: Buffer): number {
  let length = 0
  for (let at = 1; at < Math.min(5, bytes.length); at++) {
    length += (bytes[at]! & 127) * 128 ** (at - 1)
    if (bytes[at]! < 128) return at + 1 + length <= bytes.length ? at + 1 + length : 0
  }
  return 0
}
