/**
 * Reads and writes the control packets of clients as plainly as the standards describe them: a second opinion
 * for `src/mqtt`, with which it shares nothing. Slow and short on purpose.
 */

export type Version = 3 | 4 | 5

type Pairs = readonly (readonly [string, string])[]

export interface PlainWill {
  readonly topic: string
  readonly payload: string
  readonly qos: number
  readonly retain: boolean
  readonly properties: string
  readonly expiry: number | undefined
  readonly delay: number
}

export interface PlainConnect {
  readonly type: 'connect'
  readonly version: Version
  readonly bridge: boolean
  readonly clientId: string
  readonly clean: boolean
  readonly keepAlive: number
  readonly userName: string | undefined
  readonly password: string | undefined
  readonly will: PlainWill | null
  readonly expiry: number
  readonly receiveMaximum: number
  readonly packetMaximum: number | null
  readonly aliasMaximum: number
  readonly responseInformation: boolean
  readonly problemInformation: boolean
  readonly pairs: Pairs
  readonly method: string | undefined
  readonly data: string | undefined
}

export interface PlainPublish {
  readonly type: 'publish'
  readonly topic: string
  readonly alias: number
  readonly qos: number
  readonly retain: boolean
  readonly dup: boolean
  readonly packetId: number
  readonly payload: string
  readonly properties: string
  readonly expiry: number | undefined
}

export interface PlainAcknowledge {
  readonly type: 'puback' | 'pubrec' | 'pubrel' | 'pubcomp'
  readonly packetId: number
  readonly reasonCode: number
}

export interface PlainRequest {
  readonly filter: string
  readonly qos: number
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly retainHandling: number
}

export interface PlainSubscribe {
  readonly type: 'subscribe'
  readonly packetId: number
  readonly requests: readonly PlainRequest[]
  readonly identifier: number
  readonly pairs: Pairs
}

export interface PlainUnsubscribe {
  readonly type: 'unsubscribe'
  readonly packetId: number
  readonly filters: readonly string[]
  readonly pairs: Pairs
}

export interface PlainDisconnect {
  readonly type: 'disconnect'
  readonly reasonCode: number
  readonly expiry: number | undefined
  readonly reason: string | undefined
  readonly pairs: Pairs
}

export interface PlainAuth {
  readonly type: 'auth'
  readonly reasonCode: number
  readonly method: string | undefined
  readonly data: string | undefined
  readonly reason: string | undefined
  readonly pairs: Pairs
}

/** What a packet says, in values that can be compared and written down. Bytes are hexadecimal. */
export type Plain =
  | PlainConnect
  | PlainPublish
  | PlainAcknowledge
  | PlainSubscribe
  | PlainUnsubscribe
  | PlainDisconnect
  | PlainAuth
  | { readonly type: 'pingreq' }

/** The bytes break the standard. */
export class Refusal extends Error {
  readonly code: number

  constructor(code: number, message: string) {
    super(message)
    this.code = code
  }
}

const MALFORMED = 0x81
const PROTOCOL_ERROR = 0x82
const UNSUPPORTED_VERSION = 0x84
const TOPIC_NAME_INVALID = 0x90
const TOPIC_ALIAS_INVALID = 0x94

/** A packet's body, read field by field (section 1.5). */
class Body {
  at = 0
  readonly bytes: Buffer

  constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  get over(): boolean {
    return this.at === this.bytes.length
  }

  take(count: number): Buffer {
    if (this.at + count > this.bytes.length) throw new Refusal(MALFORMED, 'cut off')
    this.at += count
    return this.bytes.subarray(this.at - count, this.at)
  }

  byte(): number {
    return this.take(1)[0]!
  }

  uint16(): number {
    return this.take(2).readUInt16BE()
  }

  uint32(): number {
    return this.take(4).readUInt32BE()
  }

  variable(): number {
    let value = 0
    for (let count = 0; count < 4; count++) {
      const byte = this.byte()
      value += (byte & 127) * 128 ** count
      if (byte < 128) {
        if (byte === 0 && count > 0) throw new Refusal(MALFORMED, 'a length that is not minimal')
        return value
      }
    }
    throw new Refusal(MALFORMED, 'a length of five bytes')
  }

  binary(): Buffer {
    return this.take(this.uint16())
  }

  string(): string {
    return decoded(this.binary())
  }

  part(length: number): Body {
    return new Body(this.take(length))
  }
}

/** Section 1.5.4; U+FEFF stays what it is. */
function decoded(bytes: Buffer): string {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new Refusal(MALFORMED, 'not UTF-8')
  }
  if (text.includes('\0')) throw new Refusal(MALFORMED, 'U+0000')
  return text
}

/** Table 2-4, as far as clients may send it: identifier, type, smallest and largest value, where. */
const PROPERTIES: Readonly<Record<number, readonly [string, number, number, readonly string[]]>> = {
  1: ['byte', 0, 1, ['publish', 'will']],
  2: ['uint32', 0, 0xffff_ffff, ['publish', 'will']],
  3: ['string', 0, 0, ['publish', 'will']],
  8: ['string', 0, 0, ['publish', 'will']],
  9: ['binary', 0, 0, ['publish', 'will']],
  11: ['variable', 1, 268_435_455, ['publish', 'subscribe']],
  17: ['uint32', 0, 0xffff_ffff, ['connect', 'disconnect']],
  21: ['string', 0, 0, ['connect', 'auth']],
  22: ['binary', 0, 0, ['connect', 'auth']],
  23: ['byte', 0, 1, ['connect']],
  24: ['uint32', 0, 0xffff_ffff, ['will']],
  25: ['byte', 0, 1, ['connect']],
  28: ['string', 0, 0, ['disconnect']],
  31: ['string', 0, 0, ['puback', 'pubrec', 'pubrel', 'pubcomp', 'disconnect', 'auth']],
  33: ['uint16', 1, 65_535, ['connect']],
  34: ['uint16', 0, 65_535, ['connect']],
  35: ['uint16', 1, 65_535, ['publish']],
  38: ['pair', 0, 0, []],
  39: ['uint32', 1, 0xffff_ffff, ['connect']],
}

/** Identifiers and values in the order in which they stood. */
type Properties = readonly (readonly [number, unknown])[]

const FORWARDED = new Set([1, 3, 8, 9, 38])

/** Packets that end with their properties, so that what is wrong with the length is seen first. */
const LAST = ['puback', 'pubrec', 'pubrel', 'pubcomp', 'disconnect', 'auth']

function properties(body: Body, place: string): Properties {
  const within = body.part(body.variable())
  if (!body.over && LAST.includes(place)) throw new Refusal(MALFORMED, 'bytes behind the end')
  const found: [number, unknown][] = []
  while (!within.over) {
    const id = within.byte()
    const definition = PROPERTIES[id]
    if (definition === undefined) throw new Refusal(MALFORMED, `property ${id}`)
    const [type, min, max, places] = definition
    if (id !== 38 && !places.includes(place)) throw new Refusal(MALFORMED, `property ${id} in ${place}`)
    // A Subscription Identifier may repeat in the PUBLISH of a Server only; from a client one is too many.
    if (id !== 38 && found.some(([other]) => other === id)) throw new Refusal(PROTOCOL_ERROR, `${id} twice`)
    const value = propertyValue(within, type)
    if (typeof value === 'number' && (value < min || value > max)) {
      throw new Refusal(id === 35 ? TOPIC_ALIAS_INVALID : PROTOCOL_ERROR, `property ${id} is ${value}`)
    }
    if (id === 11 && place === 'publish') throw new Refusal(PROTOCOL_ERROR, 'a Subscription Identifier')
    if (id === 8 && (value === '' || /[+#]/.test(value as string))) {
      throw new Refusal(PROTOCOL_ERROR, 'a Response Topic that is no Topic Name')
    }
    found.push([id, value])
  }
  const has = (id: number): boolean => found.some(([other]) => other === id)
  if (has(22) && !has(21)) throw new Refusal(PROTOCOL_ERROR, 'data without a method')
  return found
}

function propertyValue(body: Body, type: string): unknown {
  switch (type) {
    case 'byte':
      return body.byte()
    case 'uint16':
      return body.uint16()
    case 'uint32':
      return body.uint32()
    case 'variable':
      return body.variable()
    case 'binary':
      return body.binary().toString('hex')
    case 'string':
      return body.string()
    default: {
      const name = body.string()
      return [name, body.string()]
    }
  }
}

function one(found: Properties, id: number): unknown {
  return found.find(([other]) => other === id)?.[1]
}

function number(found: Properties, id: number): number | undefined {
  return one(found, id) as number | undefined
}

function text(found: Properties, id: number): string | undefined {
  return one(found, id) as string | undefined
}

function pairs(found: Properties): Pairs {
  return found.filter(([id]) => id === 38).map(([, value]) => value as readonly [string, string])
}

/** What is forwarded with the message, as bytes in the order in which it stood. */
function forwarded(found: Properties): string {
  return Buffer.concat(found.filter(([id]) => FORWARDED.has(id)).map((each) => writeProperty(each))).toString(
    'hex',
  )
}

function topicName(bytes: Buffer): string {
  const name = decoded(bytes)
  if (/[+#]/.test(name)) throw new Refusal(TOPIC_NAME_INVALID, 'a wildcard in a topic name')
  return name
}

/** Reads the body of a packet whose fixed header is right. `first` is its first byte. Throws Refusal. */
export function read(first: number, bytes: Buffer, version: Version): Plain {
  const body = new Body(bytes)
  const packet = readType(first, body, version)
  if (!body.over) throw new Refusal(MALFORMED, 'bytes behind the end')
  return packet
}

/** Reason Codes of PUBACK and PUBREC besides 0. A bridge, a Server at its other end, sends 0x10, too. */
const RECEIVED = [0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]

function readType(first: number, body: Body, version: Version): Plain {
  switch (first >> 4) {
    case 3:
      return publish(first, body, version)
    case 4:
      return acknowledge('puback', body, version, RECEIVED)
    case 5:
      return acknowledge('pubrec', body, version, RECEIVED)
    case 6:
      return acknowledge('pubrel', body, version, [0x92])
    case 7:
      return acknowledge('pubcomp', body, version, [0x92])
    case 8:
      return subscribe(body, version)
    case 10:
      return unsubscribe(body, version)
    case 12:
      return { type: 'pingreq' }
    case 14:
      return disconnect(body, version)
    case 15:
      return auth(body)
    default:
      throw new Refusal(PROTOCOL_ERROR, `packet type ${first >> 4}`)
  }
}

function publish(first: number, body: Body, version: Version): Plain {
  const qos = (first >> 1) & 3
  const dup = (first & 8) !== 0
  if (dup && qos === 0 && version !== 3) throw new Refusal(MALFORMED, 'DUP at QoS 0')
  const topic = topicName(body.binary())
  const packetId = qos > 0 ? body.uint16() : 0
  if (qos > 0 && packetId === 0) throw new Refusal(MALFORMED, 'packet identifier 0')
  const found = version === 5 ? properties(body, 'publish') : []
  const alias = number(found, 35) ?? 0
  if (topic === '' && alias === 0) {
    throw new Refusal(version === 5 ? PROTOCOL_ERROR : TOPIC_NAME_INVALID, 'no topic')
  }
  return {
    type: 'publish',
    topic,
    alias,
    qos,
    retain: (first & 1) !== 0,
    dup,
    packetId,
    payload: body.take(body.bytes.length - body.at).toString('hex'),
    properties: forwarded(found),
    expiry: number(found, 2),
  }
}

function acknowledge(
  type: PlainAcknowledge['type'],
  body: Body,
  version: Version,
  codes: readonly number[],
): Plain {
  const packetId = body.uint16()
  if (packetId === 0) throw new Refusal(MALFORMED, 'packet identifier 0')
  if (body.over || version < 5) return { type, packetId, reasonCode: 0 }
  const reasonCode = body.byte()
  if (reasonCode !== 0 && !codes.includes(reasonCode)) throw new Refusal(PROTOCOL_ERROR, 'Reason Code')
  if (!body.over) properties(body, type)
  return { type, packetId, reasonCode }
}

function subscribe(body: Body, version: Version): Plain {
  const packetId = body.uint16()
  if (packetId === 0) throw new Refusal(MALFORMED, 'packet identifier 0')
  const found = version === 5 ? properties(body, 'subscribe') : []
  const requests: PlainRequest[] = []
  if (body.over) throw new Refusal(PROTOCOL_ERROR, 'no filter')
  while (!body.over) {
    const filter = body.string()
    const options = version === 3 ? body.byte() & 3 : body.byte()
    if (version < 5 && options > 2) throw new Refusal(MALFORMED, 'options')
    if (options > 63) throw new Refusal(MALFORMED, 'options')
    if ((options & 3) === 3 || options >> 4 === 3) throw new Refusal(PROTOCOL_ERROR, 'options')
    requests.push({
      filter,
      qos: options & 3,
      noLocal: (options & 4) !== 0,
      retainAsPublished: (options & 8) !== 0,
      retainHandling: options >> 4,
    })
  }
  return { type: 'subscribe', packetId, requests, identifier: number(found, 11) ?? 0, pairs: pairs(found) }
}

function unsubscribe(body: Body, version: Version): Plain {
  const packetId = body.uint16()
  if (packetId === 0) throw new Refusal(MALFORMED, 'packet identifier 0')
  const found = version === 5 ? properties(body, 'unsubscribe') : []
  const filters: string[] = []
  if (body.over) throw new Refusal(PROTOCOL_ERROR, 'no filter')
  while (!body.over) filters.push(body.string())
  return { type: 'unsubscribe', packetId, filters, pairs: pairs(found) }
}

const DISCONNECT_CODES = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99]

function disconnect(body: Body, version: Version): Plain {
  if (version < 5 || body.over)
    return { type: 'disconnect', reasonCode: 0, expiry: undefined, reason: undefined, pairs: [] }
  const reasonCode = body.byte()
  if (!DISCONNECT_CODES.includes(reasonCode)) throw new Refusal(PROTOCOL_ERROR, 'Reason Code')
  const found = body.over ? [] : properties(body, 'disconnect')
  return {
    type: 'disconnect',
    reasonCode,
    expiry: number(found, 17),
    reason: text(found, 31),
    pairs: pairs(found),
  }
}

function auth(body: Body): Plain {
  const reasonCode = body.over ? 0 : body.byte()
  if (reasonCode !== 0x18 && reasonCode !== 0x19) throw new Refusal(PROTOCOL_ERROR, 'Reason Code')
  const found = properties(body, 'auth')
  if (text(found, 21) === undefined) throw new Refusal(PROTOCOL_ERROR, 'no Authentication Method')
  const said = {
    method: text(found, 21),
    data: text(found, 22),
    reason: text(found, 31),
    pairs: pairs(found),
  }
  return { type: 'auth', reasonCode, ...said }
}

/** Reads the body of a CONNECT of any version. Throws Refusal. */
export function readConnect(bytes: Buffer): Plain {
  const body = new Body(bytes)
  const name = body.string()
  const level = body.byte()
  const bridge = (name === 'MQTT' && level === 0x84) || (name === 'MQIsdp' && level === 0x83)
  const known =
    bridge || (name === 'MQTT' && (level === 4 || level === 5)) || (name === 'MQIsdp' && level === 3)
  if (!known) throw new Refusal(UNSUPPORTED_VERSION, `${name} ${level}`)
  const version = (level & 127) as Version
  let flags = body.byte()
  // 3.1 disregards what it says of a Will that is not there.
  if (version === 3 && (flags & 4) === 0) flags &= 0xc7
  checkConnectFlags(flags, version)
  const keepAlive = body.uint16()
  const found = version === 5 ? properties(body, 'connect') : []
  const clientId = body.string()
  const will = (flags & 4) === 0 ? null : readWill(body, flags, version)
  // 3.1 lets flags announce what is not there.
  if (version === 3 && body.over) flags &= 0x3f
  const userName = (flags & 0x80) === 0 ? undefined : body.string()
  if (version === 3 && body.over) flags &= 0xbf
  const password = (flags & 0x40) === 0 ? undefined : body.binary().toString('hex')
  if (!body.over) throw new Refusal(MALFORMED, 'bytes behind the end')
  const clean = (flags & 2) !== 0
  const never = clean ? 0 : 0xffff_ffff
  return {
    type: 'connect',
    version,
    bridge,
    clientId,
    clean,
    keepAlive,
    userName,
    password,
    will,
    expiry: version === 5 ? (number(found, 17) ?? 0) : never,
    receiveMaximum: number(found, 33) ?? 65_535,
    packetMaximum: number(found, 39) ?? null,
    aliasMaximum: number(found, 34) ?? 0,
    responseInformation: (number(found, 25) ?? 0) === 1,
    problemInformation: (number(found, 23) ?? 1) === 1,
    pairs: pairs(found),
    method: text(found, 21),
    data: text(found, 22),
  }
}

function checkConnectFlags(flags: number, version: Version): void {
  const will = (flags & 4) !== 0
  const willQoS = (flags >> 3) & 3
  if ((flags & 1) !== 0 && version !== 3) throw new Refusal(MALFORMED, 'the reserved flag')
  if (!will && (flags & 0x38) !== 0) throw new Refusal(MALFORMED, 'flags of a Will that is not there')
  if (willQoS === 3) throw new Refusal(MALFORMED, 'Will QoS 3')
  if (version < 5 && (flags & 0xc0) === 0x40) throw new Refusal(MALFORMED, 'a Password without a User Name')
}

function readWill(body: Body, flags: number, version: Version): PlainWill {
  const found = version === 5 ? properties(body, 'will') : []
  const topic = topicName(body.binary())
  if (topic === '') throw new Refusal(TOPIC_NAME_INVALID, 'an empty Will Topic')
  return {
    topic,
    payload: body.binary().toString('hex'),
    qos: (flags >> 3) & 3,
    retain: (flags & 0x20) !== 0,
    properties: forwarded(found),
    expiry: number(found, 2),
    delay: number(found, 24) ?? 0,
  }
}

// ── framing ───────────────────────────────────────────────────────────────────────────────────────────────

export interface PlainFrame {
  readonly first: number
  readonly body: Buffer
}

/**
 * Returns the first packet in these bytes (section 2.1); null if it is not whole. Throws Refusal, also for
 * one that is not whole but already wrong. `version` 0: not known yet.
 */
export function frame(
  bytes: Buffer,
  version: Version | 0,
  packetBytesMax: number,
  controlBytesMax: number,
): PlainFrame | null {
  if (bytes.length === 0) return null
  const first = bytes[0]!
  checkFirst(first, version)
  let length = 0
  for (let count = 0; count < 4; count++) {
    if (count + 1 >= bytes.length) return null
    const byte = bytes[count + 1]!
    length += (byte & 127) * 128 ** count
    if (byte >= 128) continue
    if (byte === 0 && count > 0) throw new Refusal(MALFORMED, 'a length that is not minimal')
    const whole = count + 2 + length
    if (whole > packetBytesMax) throw new Refusal(0x95, 'too large')
    if (whole > controlBytesMax && first >> 4 !== 3) throw new Refusal(0x97, 'too large')
    if (whole > bytes.length) return null
    return { first, body: bytes.subarray(count + 2, whole) }
  }
  throw new Refusal(MALFORMED, 'a length of five bytes')
}

/** Table 2-2. */
function checkFirst(first: number, version: Version | 0): void {
  const type = first >> 4
  const flags = first & 15
  if (type === 0) throw new Refusal(MALFORMED, 'packet type 0')
  if ([2, 9, 11, 13].includes(type)) throw new Refusal(PROTOCOL_ERROR, 'a packet of Servers')
  const wanted = [6, 8, 10].includes(type) ? 2 : 0
  // 3.1 uses QoS in these three, and DUP; in all others nothing. CONNECT comes before the version is known.
  const used = version !== 3 || type === 1 ? 15 : wanted === 2 ? 6 : 0
  if (type === 3 ? (flags & 6) === 6 : (flags & used) !== wanted) throw new Refusal(MALFORMED, 'flags')
  if (type === 15 && (version === 3 || version === 4)) throw new Refusal(MALFORMED, 'packet type 15')
}

// ── writing ───────────────────────────────────────────────────────────────────────────────────────────────

export function writeUint16(value: number): Buffer {
  return Buffer.from([value >> 8, value & 255])
}

export function writeUint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function writeVariable(value: number): Buffer {
  const bytes: number[] = []
  let rest = value
  do {
    bytes.push((rest % 128) + (rest >= 128 ? 128 : 0))
    rest = Math.floor(rest / 128)
  } while (rest > 0)
  return Buffer.from(bytes)
}

export function writeBinary(bytes: Buffer): Buffer {
  return Buffer.concat([writeUint16(bytes.length), bytes])
}

export function writeString(text: string): Buffer {
  return writeBinary(Buffer.from(text))
}

export function writeProperty([id, value]: readonly [number, unknown]): Buffer {
  return Buffer.concat([Buffer.from([id]), writePropertyValue(PROPERTIES[id]![0], value)])
}

function writePropertyValue(type: string, value: unknown): Buffer {
  switch (type) {
    case 'byte':
      return Buffer.from([value as number])
    case 'uint16':
      return writeUint16(value as number)
    case 'uint32':
      return writeUint32(value as number)
    case 'variable':
      return writeVariable(value as number)
    case 'binary':
      return writeBinary(Buffer.from(value as string, 'hex'))
    case 'string':
      return writeString(value as string)
    default: {
      const [name, text] = value as [string, string]
      return Buffer.concat([writeString(name), writeString(text)])
    }
  }
}

/** Properties with their length; those that are undefined are left out. */
export function writeProperties(list: readonly (readonly [number, unknown])[], raw = ''): Buffer {
  const given = list.filter(([, value]) => value !== undefined).map((each) => writeProperty(each))
  const bytes = Buffer.concat([...given, Buffer.from(raw, 'hex')])
  return Buffer.concat([writeVariable(bytes.length), bytes])
}

/** A packet with a right Remaining Length. */
export function writePacket(first: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([first]), writeVariable(body.length), body])
}

const HEADS = { puback: 0x40, pubrec: 0x50, pubrel: 0x62, pubcomp: 0x70 } as const

const NOTHING = Buffer.alloc(0)

function userPairs(list: Pairs): (readonly [number, unknown])[] {
  return list.map((pair) => [38, pair] as const)
}

/** A packet as `read` and `readConnect` give it, as bytes again. */
export function write(packet: Plain, version: Version): Buffer {
  const v5 = version === 5
  const some = (list: readonly (readonly [number, unknown])[], raw = ''): Buffer =>
    v5 ? writeProperties(list, raw) : NOTHING
  switch (packet.type) {
    case 'connect':
      return writeConnect(packet)
    case 'publish': {
      const { qos, alias } = packet
      const first = 0x30 | (packet.dup ? 8 : 0) | (qos << 1) | (packet.retain ? 1 : 0)
      return writePacket(
        first,
        writeString(packet.topic),
        qos > 0 ? writeUint16(packet.packetId) : NOTHING,
        some(
          [
            [2, packet.expiry],
            [35, alias === 0 ? undefined : alias],
          ],
          packet.properties,
        ),
        Buffer.from(packet.payload, 'hex'),
      )
    }
    case 'subscribe': {
      const identifier = packet.identifier === 0 ? undefined : packet.identifier
      const requests = packet.requests.map((each) =>
        Buffer.concat([writeString(each.filter), Buffer.from([v5 ? options(each) : each.qos])]),
      )
      return writePacket(
        0x82,
        writeUint16(packet.packetId),
        some([[11, identifier], ...userPairs(packet.pairs)]),
        ...requests,
      )
    }
    case 'unsubscribe': {
      const filters = packet.filters.map((filter) => writeString(filter))
      return writePacket(0xa2, writeUint16(packet.packetId), some(userPairs(packet.pairs)), ...filters)
    }
    case 'pingreq':
      return writePacket(0xc0)
    case 'disconnect': {
      if (!v5) return writePacket(0xe0)
      const list = [[17, packet.expiry], [31, packet.reason], ...userPairs(packet.pairs)] as const
      return writePacket(0xe0, Buffer.from([packet.reasonCode]), some(list))
    }
    case 'auth': {
      const list = [
        [21, packet.method],
        [22, packet.data],
        [31, packet.reason],
        ...userPairs(packet.pairs),
      ] as const
      return writePacket(0xf0, Buffer.from([packet.reasonCode]), some(list))
    }
    default: {
      const code = v5 && packet.reasonCode !== 0 ? Buffer.from([packet.reasonCode]) : NOTHING
      return writePacket(HEADS[packet.type], writeUint16(packet.packetId), code)
    }
  }
}

function options(request: PlainRequest): number {
  const flags = (request.noLocal ? 4 : 0) | (request.retainAsPublished ? 8 : 0)
  return request.qos | flags | (request.retainHandling << 4)
}

function writeConnect(packet: PlainConnect): Buffer {
  const { version, will, userName, password } = packet
  const v5 = version === 5
  const willFlags = will === null ? 0 : 4 | (will.qos << 3) | (will.retain ? 0x20 : 0)
  const userFlags = (userName === undefined ? 0 : 0x80) | (password === undefined ? 0 : 0x40)
  const list: readonly (readonly [number, unknown])[] = [
    [17, packet.expiry],
    [33, packet.receiveMaximum],
    [39, packet.packetMaximum ?? undefined],
    [34, packet.aliasMaximum],
    [25, packet.responseInformation ? 1 : 0],
    [23, packet.problemInformation ? 1 : 0],
    [21, packet.method],
    [22, packet.data],
    ...userPairs(packet.pairs),
  ]
  return writePacket(
    0x10,
    writeString(version === 3 ? 'MQIsdp' : 'MQTT'),
    Buffer.from([version | (packet.bridge ? 0x80 : 0), (packet.clean ? 2 : 0) | willFlags | userFlags]),
    writeUint16(packet.keepAlive),
    v5 ? writeProperties(list) : NOTHING,
    writeString(packet.clientId),
    will === null ? NOTHING : writeWill(will, v5),
    userName === undefined ? NOTHING : writeString(userName),
    password === undefined ? NOTHING : writeBinary(Buffer.from(password, 'hex')),
  )
}

function writeWill(will: PlainWill, v5: boolean): Buffer {
  const list = [
    [2, will.expiry],
    [24, will.delay],
  ] as const
  const said = v5 ? writeProperties(list, will.properties) : NOTHING
  return Buffer.concat([said, writeString(will.topic), writeBinary(Buffer.from(will.payload, 'hex'))])
}
