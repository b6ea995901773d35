/**
 * The Topic Filters of a SUBSCRIBE or UNSUBSCRIBE (sections 3.8.3 and 3.10.3), one by one: a packet of a MiB may have 260,000 of
 * them, and takes one string at a time.
 */
import {
  illegal,
  malformed,
  readUint16,
  readVariableByteInteger,
  stringEnd,
  truncated,
  variableByteIntegerBytes,
} from '../field.ts'
import type { ProtocolVersion, QoS, SubscribeRequest, UserProperties } from '../packet.ts'
import type { ProtocolError } from '../reason.ts'
import { type Framer, PacketType, propertiesTooLong } from './framing.ts'
import { PropertyPlace, walkSubscribeProperties, walkUserProperties } from './properties.ts'

const NO_USER_PROPERTIES: UserProperties = Object.freeze([])

export class FilterReader {
  readonly packetId: number
  /** 0 when absent. */
  readonly subscriptionIdentifier: number
  readonly userProperties: UserProperties
  /** The Topic Filter that `next` went to: valid UTF-8, its MQTT syntax is not checked. */
  filter = ''
  #options = 0
  #buffer: Buffer
  #start: number
  #end: number
  #at: number
  #isOwn = false
  readonly #version: ProtocolVersion
  readonly #isSubscribe: boolean

  /** Of the framer's current packet. Throws ProtocolError for what stands before its Topic Filters, or where there are none. */
  constructor(framer: Framer, version: ProtocolVersion) {
    const { buffer, start, end } = framer
    this.#buffer = buffer
    this.#end = end
    this.#version = version
    this.#isSubscribe = framer.type === PacketType.Subscribe
    let at = packetIdEnd(framer)
    let subscriptionIdentifier = 0
    let userProperties = NO_USER_PROPERTIES
    if (version === 5) {
      const properties = propertyRange(framer, at)
      if (this.#isSubscribe) {
        const said = walkSubscribeProperties(buffer, properties.start, properties.end)
        subscriptionIdentifier = said.subscriptionIdentifier
        userProperties = said.userProperties
      } else {
        const place = PropertyPlace.Unsubscribe
        userProperties = walkUserProperties(buffer, properties.start, properties.end, place)
      }
      at = properties.end
    }
    if (at === end) throw noFilter(this.#isSubscribe)
    this.packetId = readUint16(buffer, start, end)
    this.subscriptionIdentifier = subscriptionIdentifier
    this.userProperties = userProperties
    this.#start = at
    this.#at = at
  }

  /** Bytes that are kept for it alone. */
  get ownBytes(): number {
    return this.#isOwn ? this.#buffer.length : 0
  }

  /** What a SUBSCRIBE asks for with the Topic Filter. */
  get request(): SubscribeRequest {
    const options = this.#options
    return {
      filter: this.filter,
      qos: (options & 3) as QoS,
      noLocal: this.noLocal,
      retainAsPublished: (options & 8) !== 0,
      retainHandling: ((options >> 4) & 3) as 0 | 1 | 2,
    }
  }

  get noLocal(): boolean {
    return (this.#options & 4) !== 0
  }

  /** Goes to the next Topic Filter; false when there is none. Throws ProtocolError. */
  next(): boolean {
    const buffer = this.#buffer
    const end = this.#end
    const at = this.#at
    if (at >= end) return false
    const filterEnd = stringEnd(buffer, at, end, 'a Topic Filter') // [MQTT-3.8.3-1] [MQTT-3.10.3-1]
    this.filter = buffer.toString('utf8', at + 2, filterEnd)
    if (!this.#isSubscribe) {
      this.#at = filterEnd
      return true
    }
    if (filterEnd >= end) throw truncated()
    // 3.1 does not use the upper six bits (its section 3.8): they may be anything, and mean nothing.
    this.#options = this.#version === 3 ? buffer[filterEnd]! & 3 : buffer[filterEnd]!
    checkSubscriptionOptions(this.#options, this.#version)
    this.#at = filterEnd + 1
    return true
  }

  /** Begins with the first Topic Filter again. */
  rewind(): void {
    this.#at = this.#start
  }

  /** Copies what it reads, once: for a packet that is handled in slices, while others read into the same memory. */
  own(): void {
    if (this.#isOwn) return
    this.#isOwn = true
    this.#buffer = Buffer.from(this.#buffer.subarray(this.#start, this.#end))
    this.#end -= this.#start
    this.#at -= this.#start
    this.#start = 0
  }
}

/** Checks the Packet Identifier at the beginning of the body; returns the position after it. Throws ProtocolError. */
function packetIdEnd(framer: Framer): number {
  const packetId = readUint16(framer.buffer, framer.start, framer.end)
  if (packetId === 0 && framer.tolerance?.excuses('packet-identifier-zero') !== true) throw zeroPacketId()
  return framer.start + 2
}

/** Where the properties at `at` lie, without their length [MQTT-2.2.2-1]. Throws ProtocolError. */
export function propertyRange(framer: Framer, at: number): { start: number; end: number } {
  const { buffer, end, propertyBytesMax } = framer
  const bytes = readVariableByteInteger(buffer, at, end)
  const start = at + variableByteIntegerBytes(bytes)
  if (start + bytes > end) throw truncated()
  if (bytes > propertyBytesMax) throw propertiesTooLong(bytes, propertyBytesMax)
  return { start, end: start + bytes }
}

function checkSubscriptionOptions(options: number, version: ProtocolVersion): void {
  if (version !== 5) {
    if (options > 2) throw malformed('MQTT-3-8.3-4', 'reserved bits or QoS 3 in a subscription') // of 3.1.1
    return
  }
  if ((options & 0xc0) !== 0) throw malformed('MQTT-3.8.3-5', 'reserved bits in Subscription Options')
  if ((options & 3) === 3) throw illegal('3.8.3.1', 'the Maximum QoS of a subscription is 3')
  if ((options & 0x30) === 0x30) throw illegal('3.8.3.1', 'Retain Handling is 3')
}

function noFilter(isSubscribe: boolean): ProtocolError {
  return isSubscribe
    ? illegal('MQTT-3.8.3-2', 'a SUBSCRIBE without a Topic Filter')
    : illegal('MQTT-3.10.3-2', 'an UNSUBSCRIBE without a Topic Filter')
}

/** A Packet Identifier of 0 (0x81): a value to throw. */
export function zeroPacketId(): ProtocolError {
  return malformed('MQTT-2.2.1-3', 'the Packet Identifier is 0')
}
