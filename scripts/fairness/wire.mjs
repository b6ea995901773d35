/**
 * Makes Control Packets that only a hostile or careless client sends, and has a client that is only a socket.
 */
import { connect as connectSocket } from 'node:net'

const NEVER = 0xffffffff

/** @param {number} value */
export function u16(value) {
  return Buffer.from([value >>> 8, value & 0xff])
}

/** @param {number} value */
export function u32(value) {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** @param {string | Buffer} value */
export function text(value) {
  const bytes = Buffer.isBuffer(value) ? value : Buffer.from(value)
  return Buffer.concat([u16(bytes.length), bytes])
}

/**
 * Encodes a Variable Byte Integer.
 *
 * @param {number} value
 */
export function varint(value) {
  const bytes = []
  let rest = value
  do {
    bytes.push(rest > 127 ? (rest & 127) | 128 : rest)
    rest >>>= 7
  } while (rest > 0)
  return Buffer.from(bytes)
}

/**
 * @param {number} first
 * @param {...Uint8Array} parts
 */
export function packet(first, ...parts) {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([first]), varint(body.length), body])
}

/**
 * Returns only the beginning of a packet that announces so many `bytes`.
 *
 * @param {number} first
 * @param {number} bytes
 * @param {...Uint8Array} parts
 */
export function begunPacket(first, bytes, ...parts) {
  return Buffer.concat([Buffer.from([first]), varint(bytes), ...parts])
}

/**
 * CONNECT of 5.0, unless `version` is 4. A Session that is `kept` never expires by default.
 *
 * @param {{
 *   clientId?: string,
 *   user?: string,
 *   password?: string,
 *   kept?: boolean,
 *   expirySeconds?: number,
 *   will?: { topic: string, payload: string | Buffer, delaySeconds?: number },
 *   userProperties?: number,
 *   version?: number,
 *   keepAliveSeconds?: number,
 *   cleanStart?: boolean,
 * }} fields
 */
export function connect({
  clientId = '',
  user,
  password,
  kept = false,
  expirySeconds = kept ? NEVER : 0,
  will,
  userProperties = 0,
  version = 5,
  keepAliveSeconds = 0,
  cleanStart = !kept,
}) {
  const flags =
    (cleanStart ? 2 : 0) |
    (will === undefined ? 0 : 4) |
    (user === undefined ? 0 : 128) |
    (password === undefined ? 0 : 64)
  const parts = [text('MQTT'), Buffer.from([version, flags]), u16(keepAliveSeconds)]
  if (version === 5) {
    const expiry = expirySeconds === 0 ? [] : [Buffer.from([0x11]), u32(expirySeconds)]
    const properties = Buffer.concat([...expiry, Buffer.alloc(5 * userProperties, emptyUserProperty)])
    parts.push(varint(properties.length), properties)
  }
  parts.push(text(clientId))
  if (will !== undefined) {
    const delay = will.delaySeconds === undefined ? [] : [Buffer.from([0x18]), u32(will.delaySeconds)]
    const properties = Buffer.concat(delay)
    if (version === 5) parts.push(varint(properties.length), properties)
    parts.push(text(will.topic), text(will.payload))
  }
  if (user !== undefined) parts.push(text(user))
  if (password !== undefined) parts.push(text(password))
  return packet(0x10, ...parts)
}

/** A User Property with an empty name and an empty value, five bytes on the wire. */
const emptyUserProperty = Buffer.from([0x26, 0, 0, 0, 0])

/**
 * PUBLISH of 5.0.
 *
 * @param {{
 *   topic: string,
 *   payload?: string | Uint8Array,
 *   qos?: number,
 *   packetId?: number,
 *   retain?: boolean,
 *   properties?: Uint8Array,
 * }} fields
 */
export function publish({
  topic,
  payload = Buffer.alloc(0),
  qos = 0,
  packetId = 1,
  retain = false,
  properties,
}) {
  const first = 0x30 | (qos << 1) | (retain ? 1 : 0)
  const id = qos > 0 ? [u16(packetId)] : []
  const encoded = properties ?? Buffer.alloc(0)
  const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload
  return packet(first, text(topic), ...id, varint(encoded.length), encoded, bytes)
}

export function messageExpiry(seconds) {
  return Buffer.concat([Buffer.from([0x02]), u32(seconds)])
}

export function emptyUserProperties(count) {
  return Buffer.alloc(5 * count, emptyUserProperty)
}

export function subscribe(packetId, filters, options = 0) {
  const requests = filters.flatMap((filter) => [text(filter), Buffer.from([options])])
  return packet(0x82, u16(packetId), Buffer.from([0]), Buffer.concat(requests))
}

export const DISCONNECT = Buffer.from([0xe0, 0])
export const PINGREQ = Buffer.from([0xc0, 0])

/** A socket that counts the packets that it receives, and acknowledges nothing. */
export class Raw {
  /** The number of packets that arrived, by type. */
  counts = new Array(16).fill(0)
  /**
   * The Reason Code of CONNACK.
   *
   * @type {number | null}
   */
  connack = null
  /**
   * The Reason Code of DISCONNECT.
   *
   * @type {number | null}
   */
  disconnected = null
  closed = false
  #socket
  #rest = Buffer.alloc(0)
  /** @type {(() => boolean)[]} */
  #waiting = []
  #skip = 0

  /**
   * @param {number} port
   * @param {{ host?: string, from?: string }} [options] `from` is the address of the client
   */
  constructor(port, { host = '127.0.0.1', from } = {}) {
    this.#socket = connectSocket({ port, host, noDelay: true, ...(from && { localAddress: from }) })
    this.#socket.on('error', () => {})
    this.#socket.on('data', (chunk) => this.#read(chunk))
    this.#socket.on('close', () => {
      this.closed = true
      this.#wake()
    })
  }

  /**
   * Connects with `fields`. Resolves with the client once it was accepted or refused, or the connection
   * ended.
   *
   * @param {number} port
   * @param {Parameters<typeof connect>[0]} fields
   * @param {{ host?: string, from?: string }} [options]
   */
  static async open(port, fields, options) {
    const client = new Raw(port, options)
    client.send(connect(fields))
    await client.until(() => client.connack !== null)
    return client
  }

  get isOpen() {
    return this.connack === 0 && !this.closed
  }

  send(bytes) {
    if (!this.closed) this.#socket.write(bytes)
  }

  /** Resolves when all that was written has left or the connection is closed, at the latest after `ms`. */
  async drained(ms = 10_000) {
    const until = performance.now() + ms
    while (!this.closed && this.#socket.writableLength > 0 && performance.now() < until) await pause(5)
  }

  /**
   * Resolves when `condition` holds, the connection is closed, or `ms` have passed; with true if it holds.
   *
   * @param {() => boolean} condition
   * @returns {Promise<boolean>}
   */
  until(condition, ms = 30_000) {
    return new Promise((resolve) => {
      const look = () => {
        if (!(condition() || this.closed)) return false
        clearTimeout(timer)
        this.#waiting = this.#waiting.filter((other) => other !== look)
        resolve(condition())
        return true
      }
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((other) => other !== look)
        resolve(condition())
      }, ms)
      if (!look()) this.#waiting.push(look)
    })
  }

  goDeaf() {
    this.#socket.pause()
  }

  end(bytes) {
    this.#socket.resume()
    this.#socket.end(bytes)
  }

  destroy() {
    this.#socket.destroy()
  }

  #wake() {
    for (const look of [...this.#waiting]) look()
  }

  #read(chunk) {
    let bytes = chunk
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, bytes.length)
      this.#skip -= skipped
      bytes = bytes.subarray(skipped)
    }
    if (this.#rest.length > 0) bytes = Buffer.concat([this.#rest, bytes])
    while (bytes.length >= 2) {
      let length = 0
      let at = 1
      for (let shift = 0; ; shift += 7) {
        if (at >= bytes.length) break
        length |= (bytes[at] & 127) << shift
        if (bytes[at++] < 128) break
        if (at >= bytes.length) at = Number.POSITIVE_INFINITY
      }
      if (at > bytes.length) break
      const type = bytes[0] >> 4
      // Only the type and two bytes of a long packet are needed.
      if (type !== 3 && bytes.length < at + Math.min(length, 2)) break
      this.counts[type]++
      if (type === 2) this.connack = bytes[at + 1]
      if (type === 14) this.disconnected = length > 0 ? bytes[at] : 0
      const end = at + length
      this.#skip = Math.max(0, end - bytes.length)
      bytes = bytes.subarray(Math.min(end, bytes.length))
    }
    this.#rest = Buffer.from(bytes)
    this.#wake()
  }
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
