/**
 * Control packets of MQTT 3.1.1 (`version` 4) and 5.0 (`version` 5) as a client writes and reads them.
 * Written for this harness alone: it shares no code with any broker that it judges.
 */

const TYPES = [
  'reserved',
  'connect',
  'connack',
  'publish',
  'puback',
  'pubrec',
  'pubrel',
  'pubcomp',
  'subscribe',
  'suback',
  'unsubscribe',
  'unsuback',
  'pingreq',
  'pingresp',
  'disconnect',
  'auth',
]

const MESSAGE_EXPIRY_INTERVAL = 0x02
const USER_PROPERTY = 0x26
const RESPONSE_TOPIC = 0x08
const SESSION_EXPIRY_INTERVAL = 0x11
const WILL_DELAY_INTERVAL = 0x18
const RECEIVE_MAXIMUM = 0x21
/**
 * Bytes of the values of the properties that a Server may send. The ones that are not listed are strings or
 * binary data with a length in front; 'pair' is two of those.
 *
 * @type {[identifier: number, bytes: number | 'varint' | 'pair'][]}
 */
const PROPERTIES = [
  [0x01, 1],
  [0x02, 4],
  [0x0b, 'varint'],
  [0x11, 4],
  [0x13, 2],
  [0x21, 2],
  [0x22, 2],
  [0x23, 2],
  [0x24, 1],
  [0x25, 1],
  [0x27, 4],
  [0x28, 1],
  [0x29, 1],
  [0x2a, 1],
  [0x26, 'pair'],
]
const PROPERTY_BYTES = new Map(PROPERTIES)
/** "Never" as a Session Expiry Interval. */
const NEVER = 0xffffffff

/** @typedef {{ topic: string, payload: string, qos: number, delaySeconds?: number }} Will */

/**
 * CONNECT. The Session outlives its connection unless `cleanStart`. In 5.0 it may be `kept` even so, and last
 * for `expirySeconds` only.
 *
 * @param {{
 *   version: number,
 *   clientId: string,
 *   cleanStart: boolean,
 *   kept?: boolean,
 *   expirySeconds?: number,
 *   receiveMaximum?: number,
 *   will?: Will,
 * }} options
 */
export function connect({
  version,
  clientId,
  cleanStart,
  kept = !cleanStart,
  expirySeconds = NEVER,
  receiveMaximum = 65_535,
  will,
}) {
  const flags = (cleanStart ? 2 : 0) | (will === undefined ? 0 : 4 | (will.qos << 3))
  const parts = [text('MQTT'), Buffer.from([version, flags, 0, 0])]
  if (version === 5) parts.push(properties(kept ? expirySeconds : null, receiveMaximum))
  parts.push(text(clientId))
  if (will !== undefined) {
    if (version === 5) parts.push(interval(WILL_DELAY_INTERVAL, will.delaySeconds))
    parts.push(text(will.topic), text(will.payload))
  }
  return packet(0x10, parts)
}

/**
 * @param {{
 *   version: number,
 *   topic: string,
 *   payload: string,
 *   qos: number,
 *   packetId: number,
 *   dup?: boolean,
 *   retain?: boolean,
 *   expirySeconds?: number,
 *   messageId?: string,
 *   responseTopic?: string,
 * }} options one of the last three at most. `messageId` goes into a User Property; this and `responseTopic`
 * are for 5.0
 */
export function publish({
  version,
  topic,
  payload,
  qos,
  packetId,
  dup = false,
  retain = false,
  expirySeconds,
  messageId,
  responseTopic,
}) {
  const parts = [text(topic)]
  if (qos > 0) parts.push(u16(packetId))
  if (version === 5 && responseTopic !== undefined) {
    const value = text(responseTopic)
    parts.push(Buffer.from([1 + value.length, RESPONSE_TOPIC]), value)
  } else if (version === 5 && messageId === undefined)
    parts.push(interval(MESSAGE_EXPIRY_INTERVAL, expirySeconds))
  else if (version === 5) parts.push(userProperty('message-id', messageId))
  parts.push(Buffer.from(payload))
  return packet(0x30 | (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0), parts)
}

/** PUBACK, PUBREC, PUBREL or PUBCOMP. Only 5.0 has a Reason Code other than success. */
export function acknowledge(type, packetId, reasonCode = 0) {
  const code = reasonCode === 0 ? [] : [Buffer.from([reasonCode])]
  return packet((TYPES.indexOf(type) << 4) | (type === 'pubrel' ? 2 : 0), [u16(packetId), ...code])
}

export function subscribe({ version, packetId, filter, qos }) {
  const parts = [u16(packetId)]
  if (version === 5) parts.push(Buffer.from([0]))
  return packet(0x82, [...parts, text(filter), Buffer.from([qos])])
}

export function unsubscribe({ version, packetId, filter }) {
  const parts = [u16(packetId)]
  if (version === 5) parts.push(Buffer.from([0]))
  return packet(0xa2, [...parts, text(filter)])
}

export function disconnect() {
  return packet(0xe0, [])
}

/** Splits a stream of bytes into packets. */
export class PacketReader {
  #version
  #rest = Buffer.alloc(0)

  constructor(version) {
    this.#version = version
  }

  /** Returns the packets that these bytes complete. Throws when they are not MQTT. */
  read(chunk) {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    const packets = []
    for (;;) {
      const header = fixedHeader(bytes)
      if (header === null || bytes.length < header.end) break
      packets.push(decode(this.#version, bytes[0], bytes.subarray(header.start, header.end)))
      bytes = bytes.subarray(header.end)
    }
    this.#rest = bytes
    return packets
  }
}

function fixedHeader(bytes) {
  let length = 0
  for (let index = 1; index <= 4; index++) {
    if (index >= bytes.length) return null
    length += (bytes[index] & 0x7f) * 128 ** (index - 1)
    if (bytes[index] < 0x80) return { start: index + 1, end: index + 1 + length }
  }
  throw new Error('the broker sent a packet with a malformed length')
}

function decode(version, first, body) {
  const type = TYPES[first >> 4]
  switch (type) {
    case 'connack':
      return {
        type,
        sessionPresent: (body[0] & 1) === 1,
        reasonCode: body[1],
        ...connackLimits(version, body),
      }
    case 'publish':
      return decodePublish(version, first, body)
    case 'suback':
      return { type, packetId: body.readUInt16BE(0), reasonCode: body[body.length - 1] }
    case 'disconnect':
      return { type, reasonCode: body.length > 0 ? body[0] : 0 }
    case 'pingresp':
      return { type }
    default:
      return { type, packetId: body.readUInt16BE(0), reasonCode: body.length > 2 ? body[2] : 0 }
  }
}

function decodePublish(version, first, body) {
  const qos = (first >> 1) & 3
  let offset = 2 + body.readUInt16BE(0)
  const topic = body.toString('utf8', 2, offset)
  const packetId = qos > 0 ? body.readUInt16BE(offset) : 0
  if (qos > 0) offset += 2
  if (version === 5) {
    const { value, next } = varint(body, offset)
    offset = next + value
  }
  const payload = body.toString('utf8', offset)
  return { type: 'publish', topic, payload, qos, packetId, dup: (first & 8) !== 0, retain: (first & 1) === 1 }
}

function connackLimits(version, body) {
  let receiveMaximum = 65_535
  if (version < 5 || body.length < 3) return { receiveMaximum }
  let { value, next: offset } = varint(body, 2)
  const end = offset + value
  while (offset < end) {
    const identifier = body[offset++]
    if (identifier === RECEIVE_MAXIMUM) receiveMaximum = body.readUInt16BE(offset)
    const bytes = PROPERTY_BYTES.get(identifier)
    if (bytes === 'varint') offset = varint(body, offset).next
    else if (bytes === 'pair') offset = skipText(body, skipText(body, offset))
    else offset = bytes === undefined ? skipText(body, offset) : offset + bytes
  }
  return { receiveMaximum }
}

function skipText(body, offset) {
  return offset + 2 + body.readUInt16BE(offset)
}

function varint(bytes, offset) {
  let value = 0
  for (let shift = 0; ; shift++) {
    const byte = bytes[offset + shift]
    value += (byte & 0x7f) * 128 ** shift
    if (byte < 0x80) return { value, next: offset + shift + 1 }
  }
}

function properties(sessionExpirySeconds, receiveMaximum) {
  const parts = []
  if (sessionExpirySeconds !== null) {
    parts.push(
      Buffer.from([SESSION_EXPIRY_INTERVAL]),
      u16(sessionExpirySeconds >>> 16),
      u16(sessionExpirySeconds & 0xffff),
    )
  }
  if (receiveMaximum < 65_535) parts.push(Buffer.from([RECEIVE_MAXIMUM]), u16(receiveMaximum))
  const bytes = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([bytes.length]), bytes])
}

/** The properties of a packet that has at most this one. */
function interval(property, seconds) {
  if (seconds === undefined) return Buffer.from([0])
  return Buffer.concat([Buffer.from([5, property]), u16(seconds >>> 16), u16(seconds & 0xffff)])
}

/** Properties with one User Property; together they are shorter than 128 bytes. */
function userProperty(name, value) {
  const property = Buffer.concat([Buffer.from([USER_PROPERTY]), text(name), text(value)])
  return Buffer.concat([Buffer.from([property.length]), property])
}

function packet(first, parts) {
  const body = Buffer.concat(parts)
  const header = [first]
  let length = body.length
  do {
    header.push(length > 127 ? (length & 127) | 128 : length)
    length >>>= 7
  } while (length > 0)
  return Buffer.concat([Buffer.from(header), body])
}

function text(value) {
  const bytes = Buffer.from(value)
  return Buffer.concat([u16(bytes.length), bytes])
}

function u16(value) {
  return Buffer.from([value >>> 8, value & 0xff])
}
