/** Fuzzing of `src/mqtt/codec`: one packet against the plain reader, and there and back again. */
import { decodeConnect } from '../../src/mqtt/codec/connect.ts'
import { decode } from '../../src/mqtt/codec/decode.ts'
import { Framer } from '../../src/mqtt/codec/framer.ts'
import { decodePublish } from '../../src/mqtt/codec/publish.ts'
import { Message } from '../../src/mqtt/message.ts'
import type { ClientPacket, PublishPacket } from '../../src/mqtt/packet.ts'
import { decodeForwardedProperties, encodeForwardedProperties } from '../../src/mqtt/properties/forwarded.ts'
import { ProtocolError, Reason } from '../../src/mqtt/reason.ts'
import { TopicInterner } from '../../src/mqtt/topic-interner.ts'
import { encodeAcknowledge, encodePublish } from '../mqtt/encoded.ts'
import { framerAfterConnect } from '../mqtt/packets.ts'
import { SEEDS } from './framing.ts'
import { connectBytes, mutated, packetBytes } from './grammar.ts'
import { frame, type Plain, Refusal, read, readConnect, type Version, write } from './plain.ts'
import type { Random } from './random.ts'
import { same, shorterBytes, type Target } from './target.ts'

export interface Packet {
  readonly version: Version
  readonly bytes: Buffer
}

const MAX = 268_435_460

export const codec: Target<Packet> = {
  name: 'codec',
  unit: 'packets',

  make(random, corpus) {
    const version = random.weighted([
      [1, 3],
      [2, 4],
      [5, 5],
    ] as const)
    if (corpus.length > 0 && random.chance(0.4)) {
      const { bytes, version: before } = random.of(corpus)
      return { version: random.chance(0.9) ? before : version, bytes: mutated(random, bytes, SEEDS) }
    }
    return { version, bytes: fresh(random, version) }
  },

  run({ version, bytes }) {
    const plain = plainly(version, bytes)
    const ours = strictly(version, bytes)
    if (typeof plain === 'string' || typeof ours === 'string') {
      same(ours, plain, `a packet of version ${version}`)
      return `${bytes[0]! >> 4} ${plain}`
    }
    same(described(ours), plain, `a packet of version ${version}`)
    const again = strictly(version, write(plain, version))
    same(typeof again === 'string' ? again : described(again), plain, 'written and read again')
    if (ours.type === 'publish') publishAgain(ours, version)
    if (
      ours.type === 'puback' ||
      ours.type === 'pubrec' ||
      ours.type === 'pubrel' ||
      ours.type === 'pubcomp'
    ) {
      const written = encodeAcknowledge(ours.type, version, ours.packetId, ours.reasonCode)
      same(described(strictly(version, written) as ClientPacket), plain, 'encoded and read again')
    }
    return trait(plain)
  },

  *smaller(input) {
    for (const bytes of shorterBytes(input.bytes)) yield { ...input, bytes }
  },

  write: ({ version, bytes }) => ({ version, bytes: bytes.toString('hex') }),
  read: (json: { version: Version; bytes: string }) => ({ ...json, bytes: Buffer.from(json.bytes, 'hex') }),
}

function fresh(random: Random, version: Version): Buffer {
  const choice = random.below(10)
  if (choice === 0) return mutated(random, random.of(SEEDS), SEEDS)
  const bytes = choice < 4 ? connectBytes(random, version) : packetBytes(random, version)
  return random.chance(0.3) ? mutated(random, bytes, SEEDS) : bytes
}

/** Names the fields that a packet has: packets with another set of fields are worth keeping. */
function trait(plain: Plain): string {
  const given = Object.entries(plain).filter(
    ([, value]) => value !== undefined && value !== '' && value !== 0,
  )
  const names = given.map(([name, value]) => (Array.isArray(value) ? `${name}${value.length}` : name))
  return `${plain.type} ${names.join(' ')}`
}

function isConnect(bytes: Buffer): boolean {
  return bytes.length > 0 && bytes[0]! >> 4 === 1
}

/** What the first packet says, a refusal as `refused 0x…`, or 'unfinished'. */
function plainly(version: Version, bytes: Buffer): Plain | string {
  try {
    const found = frame(bytes, isConnect(bytes) ? 0 : version, MAX, 1_048_576)
    if (found === null) return 'unfinished'
    return isConnect(bytes) ? readConnect(found.body) : read(found.first, found.body, version)
  } catch (error) {
    if (error instanceof Refusal) return `refused 0x${error.code.toString(16)}`
    throw error
  }
}

function strictly(version: Version, bytes: Buffer): ClientPacket | string {
  try {
    const framer = isConnect(bytes) ? new Framer(MAX) : framerAfterConnect(version)
    framer.push(bytes)
    if (!framer.next()) return 'unfinished'
    return isConnect(bytes) ? decodeConnect(framer) : decode(framer, version, new TopicInterner(8))
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error
    if (error.reasonCode === Reason.ImplementationSpecificError) throw error
    return `refused 0x${error.reasonCode.toString(16)}`
  }
}

/** What we read, in the words of the plain reader. */
export function described(packet: ClientPacket): Plain {
  const hex = (bytes: Buffer | undefined): string | undefined => bytes?.toString('hex')
  switch (packet.type) {
    case 'connect': {
      const { will } = packet
      return {
        type: 'connect',
        version: packet.protocolVersion,
        bridge: packet.isBridge,
        clientId: packet.clientId,
        clean: packet.cleanStart,
        keepAlive: packet.keepAliveSeconds,
        userName: packet.userName,
        password: hex(packet.password),
        will:
          will === undefined
            ? null
            : {
                topic: will.topic,
                payload: will.payload.toString('hex'),
                qos: will.qos,
                retain: will.retain,
                properties: will.properties.toString('hex'),
                expiry: will.expirySeconds,
                delay: will.delaySeconds,
              },
        expiry: packet.sessionExpirySeconds,
        receiveMaximum: packet.receiveMaximum,
        packetMaximum:
          packet.maximumPacketSize === Number.POSITIVE_INFINITY ? null : packet.maximumPacketSize,
        aliasMaximum: packet.topicAliasMaximum,
        responseInformation: packet.requestResponseInformation,
        problemInformation: packet.requestProblemInformation,
        pairs: packet.userProperties,
        method: packet.authenticationMethod,
        data: hex(packet.authenticationData),
      }
    }
    case 'publish':
      return {
        type: 'publish',
        topic: packet.topic?.name ?? '',
        alias: packet.topicAlias,
        qos: packet.qos,
        retain: packet.retain,
        dup: packet.dup,
        packetId: packet.packetId,
        payload: packet.payload.toString('hex'),
        properties: packet.properties.toString('hex'),
        expiry: packet.expirySeconds,
      }
    case 'subscribe': {
      const { packetId, requests, subscriptionIdentifier: identifier, userProperties } = packet
      return { type: 'subscribe', packetId, requests, identifier, pairs: userProperties }
    }
    case 'unsubscribe':
      return {
        type: 'unsubscribe',
        packetId: packet.packetId,
        filters: packet.filters,
        pairs: packet.userProperties,
      }
    case 'pingreq':
      return { type: 'pingreq' }
    case 'disconnect': {
      const { reasonCode, sessionExpirySeconds: expiry, reasonString: reason, userProperties: pairs } = packet
      return { type: 'disconnect', reasonCode, expiry, reason, pairs }
    }
    case 'auth': {
      const { reasonCode, authenticationMethod: method, reasonString: reason, userProperties: pairs } = packet
      return { type: 'auth', reasonCode, method, data: hex(packet.authenticationData), reason, pairs }
    }
    default:
      return { type: packet.type, packetId: packet.packetId, reasonCode: packet.reasonCode }
  }
}

/** A PUBLISH goes out as it came in, with what we add for one receiver. */
function publishAgain(packet: PublishPacket, version: Version): void {
  const topic = packet.topic
  if (topic === null) return
  const message = Message.of({ ...packet, topic, part: packet, publisher: '' })
  const flags = (packet.dup ? 8 : 0) | (packet.qos << 1) | (packet.retain ? 1 : 0)
  const expiry = packet.expirySeconds ?? -1
  const bytes = encodePublish(message, version, flags, packet.packetId, [], expiry, packet.topicAlias, false)
  const framer = framerAfterConnect(version)
  framer.push(bytes)
  if (!framer.next()) throw new Error('an encoded PUBLISH is not whole')
  same(
    described(decodePublish(framer, version, new TopicInterner(8))),
    described(packet),
    'encoded and read again',
  )
  const values = decodeForwardedProperties(packet.properties)
  same(decodeForwardedProperties(encodeForwardedProperties(values)), values, 'forwarded properties')
}
