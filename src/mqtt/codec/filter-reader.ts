/**
 * Reads the Topic Filters of a SUBSCRIBE or UNSUBSCRIBE (sections 3.8.3 and 3.10.3) one by one: a packet of
 * a MiB may have 260,000 of them, and takes one string at a time.
 */
import { illegal, malformed, readUint16, stringEnd, truncated } from '../field.ts'
import type { ProtocolVersion, QoS, SubscribeRequest, UserProperties } from '../packet.ts'
import { PacketType } from '../packet-type.ts'
import { NO_USER_PROPERTIES, PropertyReader, readUserProperties } from '../properties/reader.ts'
import { PropertyId, PropertyPlace } from '../properties/table.ts'
import type { ProtocolError } from '../reason.ts'
import type { Framer } from './framer.ts'
import { propertyRange, zeroPacketId } from './packet-body.ts'

/** Reads the Topic Filters of one packet. */
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

  /**
   * Reads the beginning of the framer's current packet. Throws ProtocolError for that, or when it has no
   * Topic Filter.
   */
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
        const read = readSubscribeProperties(buffer, properties.start, properties.end)
        subscriptionIdentifier = read.subscriptionIdentifier
        userProperties = read.userProperties
      } else {
        const place = PropertyPlace.Unsubscribe
        userProperties = readUserProperties(buffer, properties.start, properties.end, place)
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

  /** Bytes of the copy that `own` made; 0 without one. */
  get ownBytes(): number {
    return this.#isOwn ? this.#buffer.length : 0
  }

  /** The Topic Filter of a SUBSCRIBE with its options. */
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

  /** Goes back to before the first Topic Filter. */
  rewind(): void {
    this.#at = this.#start
  }

  /** Copies the packet, once: the memory is read into again while a packet is handled in slices. */
  own(): void {
    if (this.#isOwn) return
    this.#isOwn = true
    this.#buffer = Buffer.from(this.#buffer.subarray(this.#start, this.#end))
    this.#end -= this.#start
    this.#at -= this.#start
    this.#start = 0
  }
}

/**
 * Checks the Packet Identifier at the beginning of the body; returns the position after it. Throws
 * ProtocolError.
 */
function packetIdEnd(framer: Framer): number {
  const packetId = readUint16(framer.buffer, framer.start, framer.end)
  if (packetId === 0 && framer.leniences?.use('packet-identifier-zero') !== true) throw zeroPacketId()
  return framer.start + 2
}

/**
 * Reads the Subscription Identifier, 0 when absent, and User Properties of a SUBSCRIBE. Throws
 * ProtocolError.
 */
function readSubscribeProperties(
  buffer: Buffer,
  start: number,
  end: number,
): { readonly subscriptionIdentifier: number; readonly userProperties: UserProperties } {
  let subscriptionIdentifier = 0
  const userProperties: (readonly [string, string])[] = []
  const reader = new PropertyReader(buffer, start, end, PropertyPlace.Subscribe)
  while (reader.next()) {
    if (reader.id === PropertyId.SubscriptionIdentifier) subscriptionIdentifier = reader.number
    else userProperties.push(reader.pair)
  }
  return { subscriptionIdentifier, userProperties }
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
