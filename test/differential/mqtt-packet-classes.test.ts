/** Classes of packets that we and `mqtt-packet` judge differently, each with the section that tells why. */
import { type Packet, parser } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { ProtocolError } from '../../src/mqtt/reason.ts'
import { SEEDS } from '../fuzz/framing.ts'
import { connectBytes, mutated, packetBytes } from '../fuzz/grammar.ts'
import type { Version } from '../fuzz/plain.ts'
import { Random } from '../fuzz/random.ts'
import { decodeAll } from '../mqtt/packets.ts'

/** Packets that mqtt-packet accepts and we refuse, by the statement or section that our refusal names. */
const REFUSED_BY_US: Readonly<Record<string, string>> = {
  '1.2': 'a field must end within its packet; mqtt-packet reads behind it or takes nothing for it',
  '1.5.5': 'a Variable Byte Integer has four bytes at most',
  '2.1.2': 'packet type 0 is forbidden; mqtt-packet skips it',
  '2.1.4': 'the Remaining Length counts what the packet has: nothing stands behind it',
  '2.2.1': 'packet type 15 is reserved before 5.0',
  '2.2.2.2': 'properties stand only where table 2-4 has them, once, and within their range',
  '2.4': 'a Reason Code must be one that table 2-6 has for the packet and for clients',
  '3.1.2.11.10': 'Authentication Data without an Authentication Method is a Protocol Error',
  '3.15.2.2.2': 'an AUTH has an Authentication Method',
  '3.3.2.1': 'an empty topic name needs a Topic Alias',
  '3.8.3.1': 'Maximum QoS 3 and Retain Handling 3 are Protocol Errors',
  '4.13': 'what only Servers send is a Protocol Error from a client; and what is very large is refused',
  'MQTT-1.5.4-1': 'strings are well-formed UTF-8 without U+0000; mqtt-packet replaces what is not',
  'MQTT-1.5.5-1': 'a Variable Byte Integer has the shortest form',
  'MQTT-2.1.3-1': 'reserved flags have their values',
  'MQTT-2.2.1-3': 'a packet identifier is not 0',
  'MQTT-3-8.3-4': '3.1.1: reserved bits of the requested QoS are 0, and QoS 3 is malformed',
  'MQTT-3.1.0-1': 'the first packet is CONNECT; a bare parser has no first packet',
  'MQTT-3.1.0-2': 'CONNECT comes once',
  'MQTT-3.1.2-1': 'the protocol name is exactly as it is written',
  'MQTT-3.1.2-11': 'without a Will, Will QoS is 0',
  'MQTT-3.1.2-12': 'Will QoS 3 is malformed',
  'MQTT-3.1.2-13': 'without a Will, Will Retain is 0',
  'MQTT-3.1.2-2': 'the protocol level is one that the Server supports',
  'MQTT-3.1.2-22': '3.1.1: no Password without a User Name',
  'MQTT-3.10.3-2': 'UNSUBSCRIBE has a topic filter',
  'MQTT-3.3.1-2': 'DUP is 0 at QoS 0',
  'MQTT-3.3.2-14': 'a Response Topic has no wildcard',
  'MQTT-3.3.2-2': 'a topic name has no wildcard',
  'MQTT-3.3.2-8': 'a Topic Alias is not 0',
  'MQTT-3.3.4-6': 'a client sends no Subscription Identifier with a PUBLISH',
  'MQTT-4.7.3-1': 'topic names have one character at least',
  'MQTT-3.8.3-2': 'SUBSCRIBE has a topic filter',
}

/** Packets that mqtt-packet refuses and we accept, by its message, with the section that allows them. */
const REFUSED_BY_MQTT_PACKET: readonly (readonly [RegExp, string])[] = [
  [
    /^Cannot parse (username|password)/,
    '3.1 of 3.1: the flags may announce a User Name or Password that is not there',
  ],
  [/^Will (QoS|Retain Flag) must be set to zero/, '3.1 of 3.1: without a Will its flags are disregarded'],
  [
    /^Invalid header flag bits, must be 0x2 for (pubrel|subscribe|unsubscribe)/,
    '2.1 of 3.1: these may have DUP, and do not use RETAIN',
  ],
  [
    /^Invalid header flag bits, must be 0x0 for (puback|pubrec|pubcomp|pingreq|disconnect)/,
    '3.4, 3.5, 3.7, 3.12, 3.14 of 3.1: these use no flags',
  ],
  [/^Connect flag bit 0 must be 0/, '3.1 of 3.1: bit 0 is not used'],
  [/^Invalid subscribe topic flag bits, bits 7-2 must be 0/, '3.8 of 3.1: the upper six bits are not used'],
  // For a DISCONNECT without Reason Code and properties, it reads them from the packet after it.
  [
    /^(Invalid disconnect reason code|Unknown property|Cannot parse property)/,
    '3.14.2.1, 3.14.2.2.1: DISCONNECT may end before them',
  ],
]

const SEED = Number(process.env.DIFFERENTIAL_SEED ?? Math.floor(Math.random() * 0x7fffffff))
const PACKETS = 40_000

/** Packets as mqtt-packet takes them; what it says when it does not. */
function parsed(bytes: Buffer, version: Version): Packet[] | string {
  const packets: Packet[] = []
  let failure: string | null = null
  const machine = parser({ protocolVersion: version })
  machine.on('packet', (packet) => packets.push(packet))
  machine.on('error', (error: Error) => {
    failure ??= error.message
  })
  try {
    machine.parse(bytes)
  } catch (error) {
    failure ??= `it throws: ${(error as Error).message}`
  }
  return failure ?? packets
}

function ours(bytes: Buffer, version: Version): number | ProtocolError {
  try {
    return decodeAll([bytes], version).length
  } catch (error) {
    if (error instanceof ProtocolError) return error
    throw error
  }
}

const CLASSES = 'packets, right and wrong: each difference is of a class that has a section'

test(`${PACKETS} ${CLASSES}, DIFFERENTIAL_SEED=${SEED}`, () => {
  const random = new Random(SEED)
  const unknown = new Map<string, string>()
  const counts = new Map<string, number>()
  for (let n = 0; n < PACKETS; n++) {
    const version = random.of([3, 4, 5] as const)
    const fresh = random.chance(0.3) ? connectBytes(random, version) : packetBytes(random, version)
    const bytes = random.chance(0.4) ? mutated(random, fresh, SEEDS) : fresh
    const theirs = parsed(bytes, version)
    const mine = ours(bytes, version)
    const line = `${version} ${bytes.toString('hex')}`
    if (mine instanceof ProtocolError) {
      if (typeof theirs === 'string') continue
      counts.set(mine.statement, (counts.get(mine.statement) ?? 0) + 1)
      if (REFUSED_BY_US[mine.statement] === undefined) unknown.set(mine.statement, `${line} ${mine.message}`)
    } else if (typeof theirs === 'string') {
      const known = REFUSED_BY_MQTT_PACKET.find(([pattern]) => pattern.test(theirs))
      counts.set(theirs, (counts.get(theirs) ?? 0) + 1)
      if (known === undefined) unknown.set(theirs, line)
    } else if (theirs.length !== mine) unknown.set('another number of packets', line)
  }
  expect(Object.fromEntries(unknown)).toEqual({})
  // The run has met many classes of differences.
  expect(counts.size).toBeGreaterThan(15)
})
