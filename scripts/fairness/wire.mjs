/** Control packets as only somebody who means harm, or is careless, sends them; and a client that is nothing but a socket. */
import { connect as connectSocket } from 'node:net'

const NEVER = 0xffffffff

export function u16(value) {
  return Buffer.from([value >>> 8, value & 0xff])
}

export function u32(value) {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function text(value) {
  const bytes = Buffer.isBuffer(value) ? value : Buffer.from(value)
  return Buffer.concat([u16(bytes.length), bytes])
}

/** A Variable Byte Integer. */
export function varint(value) {
  const bytes = []
  let rest = value
  do {
    bytes.push(rest > 127 ? (rest & 127) | 128 : rest)
    rest >>>= 7
  } while (rest > 0)
  return Buffer.from(bytes)
}

export function packet(first, ...parts) {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([first]), varint(body.length), body])
}

/** Only the beginning of a packet of so many bytes: the rest is never sent. */
export function begunPacket(first, bytes, ...parts) {
  return Buffer.concat([Buffer.from([first]), varint(bytes), ...parts])
}

/** `will` is `{ topic, payload, delaySeconds }`. 5.0 unless `version` is 4; the Session never expires where it is `kept`. */
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

/** Name and value of no bytes: five on the wire. */
const emptyUserProperty = Buffer.from([0x26, 0, 0, 0, 0])

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
  const said = properties ?? Buffer.alloc(0)
  return packet(first, text(topic), ...id, varint(said.length), said, Buffer.from(payload))
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

/** A socket that counts what it is answered. Nothing is acknowledged; `deaf` reads nothing after CONNACK. */
export class Raw {
  /** Packets that arrived, by type; the Reason Code of CONNACK, and of a DISCONNECT. */
  counts = new Array(16).fill(0)
  connack = null
  disconnected = null
  closed = false
  #socket
  #rest = Buffer.alloc(0)
  #waiting = []
  #skip = 0

  constructor(port, { host = '127.0.0.1', from } = {}) {
    this.#socket = connectSocket({ port, host, noDelay: true, ...(from && { localAddress: from }) })
    this.#socket.on('error', () => {})
    this.#socket.on('data', (chunk) => this.#read(chunk))
    this.#socket.on('close', () => {
      this.closed = true
      this.#wake()
    })
  }

  /** Resolves with true once `fields` are accepted; with false when they are refused, or the connection ends. */
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

  /** Resolves when what was written has left, or the connection is over; at the latest after `ms`. */
  async drained(ms = 10_000) {
    const until = performance.now() + ms
    while (!this.closed && this.#socket.writableLength > 0 && performance.now() < until) await pause(5)
  }

  /** Resolves when `condition` holds, or the connection is over, or after `ms`; whether it held. */
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
      // Of what is long nothing is kept but its type.
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
