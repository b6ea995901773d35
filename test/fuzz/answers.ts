/** Turns a Server's bytes into text that can be compared. Throws Error for bytes that no Server may send. */
import type { Version } from './plain.ts'

const TYPES: Readonly<Record<number, string>> = {
  1: 'byte',
  2: 'uint32',
  3: 'string',
  8: 'string',
  9: 'string',
  11: 'variable',
  17: 'uint32',
  18: 'string',
  19: 'uint16',
  21: 'string',
  22: 'string',
  26: 'string',
  28: 'string',
  31: 'string',
  33: 'uint16',
  34: 'uint16',
  35: 'uint16',
  36: 'byte',
  37: 'byte',
  38: 'pair',
  39: 'uint32',
  40: 'byte',
  41: 'byte',
  42: 'byte',
}

/** Where they may stand in what a Server sends (table 2-4); 3 is PUBLISH, 2 CONNACK. */
const PLACES: Readonly<Record<number, readonly number[]>> = {
  1: [3],
  2: [3],
  3: [3],
  8: [3],
  9: [3],
  11: [3],
  17: [2],
  18: [2],
  19: [2],
  21: [2, 15],
  22: [2, 15],
  26: [2],
  28: [2, 14],
  31: [2, 4, 5, 6, 7, 9, 11, 14, 15],
  33: [2],
  34: [2],
  35: [3],
  36: [2],
  37: [2],
  38: [2, 3, 4, 5, 6, 7, 9, 11, 14, 15],
  39: [2],
  40: [2],
  41: [2],
  42: [2],
}

export interface Answer {
  readonly type: number
  /** The packet in words; without Reason Strings, which only explain. */
  readonly text: string
  readonly bytes: number
  readonly packetId: number
  readonly qos: number
  readonly reasonCode: number
  /** CONNACK: whether a Session is present. */
  readonly present: boolean
  /** What a PUBLISH says; null in other packets. */
  readonly publish: PublishFields | null
}

export interface PublishFields {
  readonly topic: string
  readonly qos: number
  readonly retain: boolean
  readonly dup: boolean
  readonly packetId: number
  /** Hexadecimal, as the properties that are forwarded. */
  readonly payload: string
  /** 0 for none. */
  readonly alias: number
  /** Message Expiry Interval; -1 for none. */
  readonly expiry: number
  readonly identifiers: readonly number[]
  readonly properties: string
}

/** Words for a PUBLISH; the model uses them, too. */
export function publishText(fields: PublishFields): string {
  const { topic, qos, retain, dup, packetId, payload, alias, expiry, identifiers, properties } = fields
  const flags = `${dup ? ' dup' : ''}${retain ? ' retain' : ''}`
  const sorted = [...identifiers].sort().join(',')
  const more = `alias ${alias} expiry ${expiry} identifiers ${sorted} properties ${properties}`
  return `PUBLISH ${packetId} QoS ${qos}${flags} ${JSON.stringify(topic)} ${payload} ${more}`
}

class Reader {
  at = 0
  readonly bytes: Buffer

  constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  take(count: number): Buffer {
    if (this.at + count > this.bytes.length)
      throw new Error(`the Server sent a packet that is cut off: ${this.bytes.toString('hex')}`)
    this.at += count
    return this.bytes.subarray(this.at - count, this.at)
  }

  number(bytes: number): number {
    return this.take(bytes).readUIntBE(0, bytes)
  }

  variable(): number {
    let value = 0
    for (let count = 0; ; count++) {
      const byte = this.number(1)
      value += (byte & 127) * 128 ** count
      if (byte < 128) return value
    }
  }

  string(): string {
    return this.take(this.number(2)).toString('hex')
  }
}

interface Properties {
  readonly known: Map<number, number | string>
  readonly identifiers: number[]
  /** Raw, without those that are for the receiver. */
  forwarded: string
}

function properties(reader: Reader, type: number): Properties {
  const within = new Reader(reader.take(reader.variable()))
  const found: Properties = { known: new Map(), identifiers: [], forwarded: '' }
  while (within.at < within.bytes.length) {
    const from = within.at
    const id = within.number(1)
    if (PLACES[id]?.includes(type) !== true)
      throw new Error(`the Server sent property ${id} in packet type ${type}`)
    const value = propertyValue(within, TYPES[id]!)
    if (id === 11) found.identifiers.push(value as number)
    else if (type === 3 && id !== 2 && id !== 35)
      found.forwarded += within.bytes.toString('hex', from, within.at)
    else if (id !== 38 && found.known.has(id)) throw new Error(`the Server sent property ${id} twice`)
    if (id !== 11) found.known.set(id, value)
  }
  return found
}

function propertyValue(reader: Reader, type: string): number | string {
  switch (type) {
    case 'byte':
      return reader.number(1)
    case 'uint16':
      return reader.number(2)
    case 'uint32':
      return reader.number(4)
    case 'variable':
      return reader.variable()
    case 'string':
      return reader.string()
    default:
      return `${reader.string()}=${reader.string()}`
  }
}

/** Takes whole packets off the front of what a Server sent. */
export function answers(bytes: Buffer, version: Version): Answer[] {
  const list: Answer[] = []
  const reader = new Reader(bytes)
  while (reader.at < bytes.length) {
    const from = reader.at
    const first = reader.number(1)
    const body = new Reader(reader.take(reader.variable()))
    const answer = read(first, body, version)
    if (body.at !== body.bytes.length) throw new Error('the Server sent bytes behind the end of a packet')
    list.push({
      packetId: 0,
      qos: 0,
      reasonCode: 0,
      present: false,
      publish: null,
      ...answer,
      type: first >> 4,
      bytes: reader.at - from,
    })
  }
  return list
}

const NAMES = [
  '',
  '',
  'CONNACK',
  'PUBLISH',
  'PUBACK',
  'PUBREC',
  'PUBREL',
  'PUBCOMP',
  '',
  'SUBACK',
  '',
  'UNSUBACK',
  '',
  'PINGRESP',
  'DISCONNECT',
  'AUTH',
]

function read(first: number, body: Reader, version: Version): Partial<Answer> & { text: string } {
  const type = first >> 4
  const name = NAMES[type]!
  const wanted = type === 6 ? 2 : 0
  if (type !== 3 && (first & 15) !== wanted) throw new Error(`the Server sent flags ${first & 15} in ${name}`)
  switch (type) {
    case 2: {
      const present = body.number(1)
      const reasonCode = body.number(1)
      const said = version === 5 ? [...properties(body, type).known].filter(([id]) => id !== 31) : []
      return { reasonCode, present: present === 1, text: connackText(present, reasonCode, said) }
    }
    case 3:
      return readPublish(first, body, version)
    case 4:
    case 5:
    case 6:
    case 7: {
      const packetId = body.number(2)
      const more = body.at < body.bytes.length
      if (more && version < 5) throw new Error(`the Server sent a Reason Code in ${name}`)
      const reasonCode = more ? body.number(1) : 0
      if (body.at < body.bytes.length) properties(body, type)
      return { packetId, reasonCode, text: `${name} ${packetId} ${reasonCode}` }
    }
    case 9:
    case 11: {
      const packetId = body.number(2)
      if (version === 5) properties(body, type)
      const codes = [...body.take(body.bytes.length - body.at)]
      return { packetId, text: `${name} ${packetId} ${codes.join(',')}` }
    }
    case 13:
      return { text: name }
    case 14: {
      if (version < 5) throw new Error('the Server sent DISCONNECT before 5.0')
      const reasonCode = body.bytes.length > 0 ? body.number(1) : 0
      if (body.at < body.bytes.length) properties(body, type)
      return { reasonCode, text: `${name} ${reasonCode}` }
    }
    default:
      throw new Error(`the Server sent packet type ${type}`)
  }
}

function readPublish(first: number, body: Reader, version: Version): Partial<Answer> & { text: string } {
  const qos = (first >> 1) & 3
  const topic = body.take(body.number(2)).toString()
  const packetId = qos > 0 ? body.number(2) : 0
  const said = version === 5 ? properties(body, 3) : null
  const publish: PublishFields = {
    topic,
    qos,
    retain: (first & 1) === 1,
    dup: (first & 8) !== 0,
    packetId,
    payload: body.take(body.bytes.length - body.at).toString('hex'),
    alias: Number(said?.known.get(35) ?? 0),
    expiry: Number(said?.known.get(2) ?? -1),
    identifiers: said?.identifiers ?? [],
    properties: said?.forwarded ?? '',
  }
  return { packetId, qos, publish, text: publishText(publish) }
}

/** Words for a CONNACK; the model uses them, too. */
export function connackText(
  present: number,
  reasonCode: number,
  said: readonly (readonly [number, number | string])[],
): string {
  const list = said.map(([id, value]) => `${id}=${value}`).sort()
  return `CONNACK ${present} ${reasonCode} ${list.join(' ')}`
}

/** Whether these properties, without their length, have a Payload Format Indicator of 1. */
export function saysText(raw: Buffer): boolean {
  const reader = new Reader(raw)
  while (reader.at < raw.length) {
    const id = reader.number(1)
    const value = propertyValue(reader, TYPES[id]!)
    if (id === 1) return value === 1
  }
  return false
}
