/**
 * Parses and generates rare packets with the package `mqtt-packet`: AUTH, DISCONNECT with more than a
 * Reason Code, and unusual CONNACKs. It is loaded while a broker starts, or with the first packet that
 * needs it. With its dependencies (`bl`, `readable-stream`, `debug`) it takes 26 ms of processor time and 2
 * MB, a tenth of a start.
 */
import { createRequire } from 'node:module'
import type { Packet } from 'mqtt-packet'
import { ProtocolError, Reason } from '../reason.ts'
import { stringError } from '../utf8.ts'
import type { Framer } from './framer.ts'

const load = createRequire(import.meta.url)

let loaded: typeof import('mqtt-packet') | undefined

/** Loads the package at the first call; returns the same for every call. */
export function mqttPacket(): typeof import('mqtt-packet') {
  if (loaded === undefined) {
    const found = load('mqtt-packet') as typeof import('mqtt-packet')
    // Without this it keeps a buffer for each of 65,536 numbers, several megabytes, which our packets
    // hardly use.
    found.writeToStream.cacheNumbers = false
    loaded = found
  }
  return loaded
}

/** A parser of mqtt-packet for 5.0, and the latest packet that it made. */
class Parser {
  readonly #parser = mqttPacket().parser({ protocolVersion: 5 })
  #packet: Packet | undefined
  #failed = false

  constructor() {
    this.#parser.on('packet', (packet) => {
      this.#packet = packet
    })
    this.#parser.on('error', () => {
      this.#failed = true
    })
  }

  /**
   * Parses the one packet in `whole`; undefined when there is none, and then the parser is of no further
   * use.
   */
  parse(whole: Buffer): Packet | undefined {
    this.#packet = undefined
    const left = this.#parser.parse(whole)
    return this.#failed || left > 0 ? undefined : this.#packet
  }
}

/** Kept from packet to packet: making a parser costs more than parsing a packet. */
let kept: Parser | undefined

/** Parses the framer's current packet, which was checked, as one of 5.0. */
export function parse<Command extends Packet['cmd']>(
  framer: Framer,
  command: Command,
): Extract<Packet, { cmd: Command }> {
  const parser = kept ?? new Parser()
  kept = undefined
  const packet = parser.parse(framer.buffer.subarray(framer.end - framer.packetBytes, framer.end))
  if (packet === undefined || packet.cmd !== command) {
    // Never expected, as our checks are the stricter ones; yet no bytes of a client may stop the Server.
    throw new ProtocolError(Reason.ImplementationSpecificError, '4.13', `a ${command} could not be parsed`)
  }
  kept = parser
  return packet as Extract<Packet, { cmd: Command }>
}

/** Generates a packet of 5.0. */
export function generate(packet: object): Buffer {
  return mqttPacket().generate(packet as Packet, { protocolVersion: 5 })
}

/** Leaves out a Reason String that cannot be a UTF-8 Encoded String: it only explains. */
export function encodableReason(reasonString: string | undefined): string | undefined {
  return reasonString === undefined || stringError(reasonString) !== null ? undefined : reasonString
}
