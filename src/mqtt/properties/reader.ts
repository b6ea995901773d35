/** HOT, PURE. Reads properties (section 2.2.2) one by one and checks each. */
import {
  binaryEnd,
  illegal,
  malformed,
  readUint16,
  readUint32,
  readVariableByteInteger,
  stringEnd,
  truncated,
  variableByteIntegerBytes,
} from '../field.ts'
import type { UserProperties } from '../packet.ts'
import { ProtocolError, Reason } from '../reason.ts'
import { hasWildcard } from '../topics.ts'
import { PROPERTIES, type PropertyDefinition, PropertyId } from './table.ts'

/** No User Properties; shared, since most packets have none. */
export const NO_USER_PROPERTIES: UserProperties = Object.freeze([])

/**
 * Reads properties one by one and checks each: known and allowed here, once unless it may repeat, its value
 * whole, well-formed and in range. Throws ProtocolError.
 *
 * After `next` returned true: `id`; `start` and `end` of the whole property; `number` for integers;
 * `valueStart` and `valueEnd` for strings, binary data and the name of a pair; `secondStart` and
 * `secondEnd` for its value.
 */
export class PropertyReader {
  id = 0
  start: number
  end: number
  number = 0
  valueStart = 0
  valueEnd = 0
  secondStart = 0
  secondEnd = 0
  readonly #buffer: Buffer
  readonly #limit: number
  readonly #place: number
  /** Identifiers that were read, as bits: 0 to 31, and 32 to 63. */
  #seenLow = 0
  #seenHigh = 0

  /** Reads `buffer[start..end)`, which begins after the Property Length; `place` is one of PropertyPlace. */
  constructor(buffer: Buffer, start: number, end: number, place: number) {
    this.#buffer = buffer
    this.#limit = end
    this.#place = place
    this.start = start
    this.end = start
  }

  /** The value of a string, or the name of a pair. */
  get text(): string {
    return this.#buffer.toString('utf8', this.valueStart, this.valueEnd)
  }

  /** A copy of the value of binary data. */
  get bytes(): Buffer {
    return Buffer.from(this.#buffer.subarray(this.valueStart, this.valueEnd))
  }

  /** The name and value of a User Property. */
  get pair(): readonly [string, string] {
    return [this.text, this.#buffer.toString('utf8', this.secondStart, this.secondEnd)]
  }

  /** Goes to the next property; false after the last one. */
  next(): boolean {
    const start = this.end
    if (start >= this.#limit) {
      this.#checkComplete()
      return false
    }
    this.start = start
    const definition = PROPERTIES[this.#buffer[start]!]
    if (definition === undefined) throw malformed('2.2.2.2', 'unknown property identifier')
    if ((definition.places & this.#place) === 0) {
      throw malformed('2.2.2.2', `${definition.name} is not allowed in this packet`)
    }
    this.id = definition.id
    this.#mark(definition)
    this.#value(definition, start + 1)
    return true
  }

  #mark(definition: PropertyDefinition): void {
    const bit = 1 << (definition.id & 31)
    const seen = definition.id < 32 ? this.#seenLow : this.#seenHigh
    if ((seen & bit) !== 0 && (definition.repeatable & this.#place) === 0) {
      throw illegal('2.2.2.2', `${definition.name} is included more than once`)
    }
    if (definition.id < 32) this.#seenLow |= bit
    else this.#seenHigh |= bit
  }

  #value(definition: PropertyDefinition, at: number): void {
    const buffer = this.#buffer
    const limit = this.#limit
    switch (definition.type) {
      case 'byte':
        if (at >= limit) throw truncated()
        this.#integer(definition, buffer[at]!, at + 1)
        break
      case 'uint16':
        this.#integer(definition, readUint16(buffer, at, limit), at + 2)
        break
      case 'uint32':
        this.#integer(definition, readUint32(buffer, at, limit), at + 4)
        break
      case 'variable': {
        const value = readVariableByteInteger(buffer, at, limit)
        this.#integer(definition, value, at + variableByteIntegerBytes(value))
        break
      }
      case 'binary':
        this.valueStart = at + 2
        this.valueEnd = this.end = binaryEnd(buffer, at, limit)
        break
      case 'string':
        this.valueStart = at + 2
        this.valueEnd = this.end = stringEnd(buffer, at, limit, definition.name)
        if (definition.id === PropertyId.ResponseTopic) this.#checkResponseTopic()
        break
      case 'pair': // [MQTT-1.5.7-1]
        this.valueStart = at + 2
        this.valueEnd = stringEnd(buffer, at, limit, 'the name of a User Property')
        this.secondStart = this.valueEnd + 2
        this.secondEnd = this.end = stringEnd(buffer, this.valueEnd, limit, 'the value of a User Property')
        break
    }
  }

  #integer(definition: PropertyDefinition, value: number, end: number): void {
    if (value < definition.min || value > definition.max) {
      const alias = definition.id === PropertyId.TopicAlias // [MQTT-3.3.2-8]
      throw new ProtocolError(
        alias ? Reason.TopicAliasInvalid : Reason.ProtocolError,
        alias ? 'MQTT-3.3.2-8' : '2.2.2.2',
        `${definition.name} is ${value}`,
      )
    }
    this.number = value
    this.end = end
  }

  #checkResponseTopic(): void {
    if (this.valueStart === this.valueEnd) throw illegal('MQTT-4.7.3-1', 'the Response Topic is empty')
    if (hasWildcard(this.#buffer, this.valueStart, this.valueEnd)) {
      throw illegal('MQTT-3.3.2-14', 'the Response Topic contains a wildcard')
    }
  }

  #checkComplete(): void {
    const data = (this.#seenLow >>> PropertyId.AuthenticationData) & 1
    const method = (this.#seenLow >>> PropertyId.AuthenticationMethod) & 1
    if (data === 1 && method === 0) {
      throw illegal('3.1.2.11.10', 'Authentication Data without an Authentication Method')
    }
  }
}

/** Checks all properties and returns the User Properties among them, in order. Throws ProtocolError. */
export function readUserProperties(
  buffer: Buffer,
  start: number,
  end: number,
  place: number,
): UserProperties {
  if (start === end) return NO_USER_PROPERTIES
  const reader = new PropertyReader(buffer, start, end, place)
  let pairs: (readonly [string, string])[] | null = null
  while (reader.next()) {
    if (reader.id !== PropertyId.UserProperty) continue
    pairs ??= []
    pairs.push(reader.pair)
  }
  return pairs ?? NO_USER_PROPERTIES
}
