/** Reads packets with our decoder, and with mqtt-packet to compare. */
import { type Packet, parser } from 'mqtt-packet'
import { expect } from 'vitest'
import type { ClientPacket, ProtocolVersion } from '../../../src/mqtt/packet.ts'
import { ProtocolError } from '../../../src/mqtt/reason.ts'
import { decodeAll, VALID_PACKETS } from '../packets.ts'

/** Parses one packet with mqtt-packet, which must find exactly that one. */
export function parsed<Command extends Packet['cmd']>(
  command: Command,
  bytes: Buffer,
  version: ProtocolVersion,
): Extract<Packet, { cmd: Command }> {
  const packets: Packet[] = []
  const oracle = parser({ protocolVersion: version })
  oracle.on('packet', (packet) => packets.push(packet))
  expect(oracle.parse(bytes)).toBe(0)
  expect(packets).toHaveLength(1)
  expect(packets[0]!.cmd).toBe(command)
  return packets[0] as Extract<Packet, { cmd: Command }>
}

/** Decodes a packet of the table of valid packets. */
export function decodeNamed(name: string): ClientPacket {
  const found = VALID_PACKETS.find((valid) => valid.name === name)
  if (found === undefined) throw new Error(`no packet named ${name}`)
  return decodeAll([found.bytes], found.version)[0]!
}

/** Returns the error with which these bytes are refused. */
export function refusalOf(bytes: Buffer, version: ProtocolVersion): ProtocolError {
  try {
    decodeAll([bytes], version)
  } catch (error) {
    if (error instanceof ProtocolError) return error
    throw error
  }
  throw new Error('nothing was refused')
}
