/** One Network Connection of a client: a raw socket that can go deaf, or vanish. */
import { connect } from 'node:net'
import { PacketReader } from './packets.mjs'

export class Connection {
  #socket
  #over = false
  #deaf = false

  /** Connects to a port of 127.0.0.1. The handlers are not called any more after `vanish` or `leave`. */
  constructor(port, version, handlers) {
    const reader = new PacketReader(version)
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.on('error', () => {}) // A killed broker resets its connections; `close` follows.
    this.#socket.on('connect', () => {
      if (!this.#over) handlers.opened()
    })
    this.#socket.on('data', (chunk) => {
      if (this.#over || this.#deaf) return
      for (const packet of reader.read(chunk)) {
        if (this.#over || this.#deaf) return
        handlers.packet(packet)
      }
    })
    this.#socket.on('close', () => {
      if (this.#over) return
      this.#over = true
      handlers.closed()
    })
  }

  send(bytes) {
    if (!this.#over) this.#socket.write(bytes)
  }

  /** Stops reading: acknowledgements are lost from here on, and the broker's writes stall. */
  goDeaf() {
    this.#deaf = true
    this.#socket.pause()
  }

  /** Closes the socket without DISCONNECT; what was not yet read is lost. */
  vanish() {
    this.#over = true
    this.#socket.destroy()
  }

  /** Sends DISCONNECT and closes; what arrives after it is not read. */
  leave(bytes) {
    if (this.#over) return
    this.#over = true
    this.#socket.resume()
    this.#socket.end(bytes)
  }
}
