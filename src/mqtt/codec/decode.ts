/**
 * HOT. Decodes a framed packet of a client by its type. The file of each packet type reads and writes its
 * bytes.
 */
import { illegal } from '../field.ts'
import type { ClientPacket, ProtocolVersion } from '../packet.ts'
import { PacketType } from '../packet-type.ts'
import type { TopicInterner } from '../topic-interner.ts'
import { decodeAcknowledge } from './acknowledge.ts'
import { decodeAuth } from './auth.ts'
import { decodeDisconnect } from './disconnect.ts'
import type { Framer } from './framer.ts'
import { decodePingreq } from './ping.ts'
import { decodePublish } from './publish.ts'
import { decodeSubscribe } from './subscribe.ts'
import { decodeUnsubscribe } from './unsubscribe.ts'

/**
 * Decodes the framer's current packet, unless it is the first, which is for `decodeConnect`. Payload and
 * properties are views of the framer's buffer. Throws ProtocolError.
 */
export function decode(framer: Framer, version: ProtocolVersion, topics: TopicInterner): ClientPacket {
  switch (framer.type) {
    case PacketType.Publish:
      return decodePublish(framer, version, topics)
    case PacketType.Puback:
    case PacketType.Pubrec:
    case PacketType.Pubrel:
    case PacketType.Pubcomp:
      return decodeAcknowledge(framer, version)
    case PacketType.Pingreq:
      return decodePingreq(framer)
    case PacketType.Subscribe:
      return decodeSubscribe(framer, version)
    case PacketType.Unsubscribe:
      return decodeUnsubscribe(framer, version)
    case PacketType.Disconnect:
      return decodeDisconnect(framer, version)
    case PacketType.Auth:
      return decodeAuth(framer, version)
    case PacketType.Connect:
      throw illegal('MQTT-3.1.0-2', 'a second CONNECT')
    default:
      throw illegal('4.13', `packet type ${framer.type} is not for a Server`)
  }
}
