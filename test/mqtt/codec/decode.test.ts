import { generate, type Packet, parser } from 'mqtt-packet'
import { describe, expect, test } from 'vitest'
import { ConnectError, decodePublish } from '../../../src/mqtt/codec/decode.ts'
import { Framer } from '../../../src/mqtt/codec/framing.ts'
import { decodeForwardedProperties } from '../../../src/mqtt/codec/properties.ts'
import type { ClientPacket, ConnectPacket, ProtocolVersion, PublishPacket } from '../../../src/mqtt/packet.ts'
import { SESSION_NEVER_EXPIRES } from '../../../src/mqtt/packet.ts'
import { ProtocolError, Reason } from '../../../src/mqtt/reason.ts'
import { TopicTable } from '../../../src/mqtt/topics.ts'
import { wireBytes } from '../encoded.ts'
import { connect, decodeAll, MALFORMED_PACKETS, packet, truncatedPackets, VALID_PACKETS } from '../packets.ts'

function decodeOne(name: string): ClientPacket {
  const found = VALID_PACKETS.find((valid) => valid.name === name)
  if (found === undefined) throw new Error(`no packet named ${name}`)
  return decodeAll([found.bytes], found.version)[0]!
}

function errorOf(bytes: Buffer, version: ProtocolVersion): ProtocolError {
  try {
    decodeAll([bytes], version)
  } catch (error) {
    if (error instanceof ProtocolError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

/** What a packet says, wherever it lay. */
function said(decoded: ClientPacket): object {
  if (decoded.type !== 'publish') return decoded
  return { ...decoded, payload: decoded.payload, buffer: null, start: 0, payloadStart: 0, end: 0 }
}

describe('every valid packet', () => {
  test.each(VALID_PACKETS)('$name (version $version) decodes whole and byte by byte alike', (valid) => {
    const whole = decodeAll([valid.bytes], valid.version)
    expect(whole).toHaveLength(1)
    const single = Array.from(valid.bytes, (byte) => Buffer.from([byte]))
    expect(decodeAll(single, valid.version)).toEqual(whole)
  })

  test.each(VALID_PACKETS.filter(({ bytes }) => bytes.length < 2000 && bytes[0]! >> 4 !== 1))(
    '$name is found again behind others, wherever the chunks are cut',
    ({ bytes, version }) => {
      const stream = Buffer.concat([bytes, packet(0xc0), bytes])
      const [expected] = decodeAll([bytes], version).map(said)
      for (let cut = 1; cut < stream.length; cut++) {
        const packets = decodeAll([stream.subarray(0, cut), stream.subarray(cut)], version)
        expect(packets.map(said)).toEqual([expected, { type: 'pingreq' }, expected])
        for (const found of [packets[0]!, packets[2]!]) {
          if (found.type === 'publish') expect(wireBytes(found)).toEqual(bytes)
        }
      }
    },
  )
})

test('names that differ in one byte anywhere, or in length, are told apart on one connection', () => {
  const names = ['ab/cd', 'ab/cd', 'xb/cd', 'ab/cx', 'ab/xd', 'b/cd', 'ab/cd', 'ab/cd/e']
  const packets = names.map((name) => packet(0x30, name, [1, 2]))
  const found = decodeAll([Buffer.concat(packets)], 4)
  expect(found.map((one) => one.type === 'publish' && one.topic?.name)).toEqual(names)
})

test('a connection does not keep a long name', () => {
  const topics = new TopicTable(8)
  const framer = new Framer(100_000)
  framer.push(connect(4, 2, [0, 0], 'c'))
  framer.next()
  const kept = ['a', 'b'.repeat(256), 'c'.repeat(257), 'c'.repeat(257), 'd'].map((name) => {
    framer.push(packet(0x30, name))
    framer.next()
    decodePublish(framer, 4, topics)
    return framer.latestTopic?.name.length
  })
  expect(kept).toEqual([1, 256, undefined, undefined, 1])
})

describe('a PUBLISH that others may get as it is', () => {
  const topic = [0, 1, 0x61]
  test.each([
    ['3.1.1', 4, packet(0x30, topic, 'payload')],
    ['3.1.1 without a payload', 4, packet(0x30, topic)],
    ['5.0', 5, packet(0x30, topic, 0, 'payload')],
    ['5.0 with User Properties', 5, packet(0x30, topic, 7, 0x26, [0, 1, 0x6b, 0, 1, 0x76], 'payload')],
  ] as const)('%s: names its own bytes', (_, version, bytes) => {
    const [found] = decodeAll([Buffer.concat([packet(0xc0), bytes])], version).slice(1)
    expect(found).toMatchObject({ type: 'publish' })
    if (found?.type !== 'publish') return
    expect(found.isShared).toBe(true)
    expect(wireBytes(found)).toEqual(bytes)
  })

  test.each([
    ['RETAIN', 4, packet(0x31, topic, 'payload')],
    ['QoS 1', 4, packet(0x32, topic, [0, 1], 'payload')],
    ['a Topic Alias', 5, packet(0x30, topic, 3, 0x23, [0, 1], 'payload')],
    ['an expiry', 5, packet(0x30, topic, 5, 0x02, [0, 0, 0, 9], 'payload')],
  ] as const)('%s: none', (_, version, bytes) => {
    expect(decodeAll([bytes], version)[0]).toMatchObject({ isShared: false })
  })
})

describe('every malformed packet', () => {
  test.each(MALFORMED_PACKETS)('$name (version $version) is refused for $statement', (wrong) => {
    const error = errorOf(wrong.bytes, wrong.version)
    expect({ reasonCode: error.reasonCode, statement: error.statement }).toEqual({
      reasonCode: wrong.reasonCode,
      statement: wrong.statement,
    })
  })

  test('a packet cut short at any byte is malformed, or is valid and re-encodes to the same', () => {
    let refused = 0
    for (const cut of truncatedPackets()) {
      try {
        decodeAll([cut.bytes], cut.version)
      } catch (error) {
        expect(error, cut.name).toBeInstanceOf(ProtocolError)
        expect((error as ProtocolError).reasonCode, cut.name).not.toBe(Reason.ImplementationSpecificError)
        refused++
        continue
      }
      // What remains valid: payloads that end earlier, optional parts that are left out.
      expect(cut.name, cut.name).toMatch(/^(PUBLISH|PUB|SUBSCRIBE|UNSUBSCRIBE|DISCONNECT|CONNECT, 3.1, )/)
    }
    expect(refused).toBeGreaterThan(500)
  })

  test('no packet of a fixed structure takes a trailing byte', () => {
    for (const { name, version, bytes } of VALID_PACKETS) {
      const type = bytes[0]! >> 4
      // The payload of a PUBLISH takes any byte; acknowledgements and DISCONNECT of 5.0 have optional parts.
      if (type === 3 || bytes.length > 127) continue
      const optional = version === 5 && ((type >= 4 && type <= 7 && bytes.length < 6) || type === 14)
      if (optional) continue
      const longer = packet(bytes[0]!, bytes.subarray(2), 0)
      expect(() => decodeAll([longer], version), name).toThrow(ProtocolError)
    }
  })
})

describe('CONNECT', () => {
  test('everything of 5.0 arrives, User Properties in order', () => {
    const { will, ...rest } = decodeOne('CONNECT, 5.0, everything') as ConnectPacket
    expect(rest).toEqual({
      type: 'connect',
      protocolVersion: 5,
      isBridge: false,
      clientId: 'client',
      cleanStart: true,
      keepAliveSeconds: 60,
      userName: 'user',
      password: Buffer.from('pass'),
      sessionExpirySeconds: 3600,
      receiveMaximum: 10,
      maximumPacketSize: 100_000,
      topicAliasMaximum: 5,
      requestResponseInformation: true,
      requestProblemInformation: false,
      userProperties: [
        ['z', '1'],
        ['__proto__', '2'],
        ['z', ''],
      ],
      authenticationMethod: 'SCRAM',
      authenticationData: Buffer.from('data'),
    })
    const { properties, ...will5 } = will!
    expect(will5).toEqual({
      topic: 'will/topic',
      payload: Buffer.from('gone'),
      qos: 1,
      retain: true,
      expirySeconds: 60,
      delaySeconds: 30,
    })
    expect(decodeForwardedProperties(properties)).toEqual({
      payloadFormatIndicator: 1,
      contentType: 'text/plain',
      responseTopic: 'answers',
      correlationData: Buffer.from('id'),
      userProperties: [
        ['b', '1'],
        ['a', '2'],
        ['b', '3'],
      ],
    })
  })

  test('what is absent has its default', () => {
    expect(decodeOne('CONNECT, 3.1.1')).toMatchObject({
      protocolVersion: 4,
      userName: undefined,
      password: undefined,
      will: undefined,
      sessionExpirySeconds: 0,
      receiveMaximum: 65_535,
      maximumPacketSize: Number.POSITIVE_INFINITY,
      topicAliasMaximum: 0,
      requestResponseInformation: false,
      requestProblemInformation: true,
      userProperties: [],
    })
    expect(decodeOne('CONNECT, 3.1.1, everything')).toMatchObject({
      cleanStart: false,
      sessionExpirySeconds: SESSION_NEVER_EXPIRES,
      will: { topic: 'will', qos: 2, retain: true, delaySeconds: 0, expirySeconds: undefined },
    })
  })

  test('3.1: flags may announce a User Name and a Password that are not there', () => {
    expect(decodeOne('CONNECT, 3.1, User Name flag without User Name')).toMatchObject({
      userName: undefined,
      password: undefined,
    })
    expect(decodeOne('CONNECT, 3.1, Password flag without Password')).toMatchObject({
      userName: 'user',
      password: undefined,
    })
  })

  test('[MQTT-1.5.4-3] U+FEFF is kept', () => {
    expect(decodeOne('CONNECT, Client Identifier with U+FEFF')).toMatchObject({
      clientId: '\ufeffclient\ufeff',
    })
  })

  test.each([
    ['nothing', packet(0x10), null],
    ['a name that is cut', packet(0x10, [0, 4, 0x4d]), null],
    ['another name and no level', packet(0x10, 'HTTP'), null],
    ['another name with level 5', packet(0x10, 'MQTX', 5), null],
    ['3.1’s name', packet(0x10, 'MQIsdp', 9), 3],
    ['level 3', packet(0x10, 'MQTT', 3), 4],
    ['level 4, a wrong flag', connect(4, 1), 4],
    ['level 5, a wrong flag', connect(5, 1), 5],
    ['level 6', packet(0x10, 'MQTT', 6), 5],
    ['a bridge of 3.1.1, a wrong flag', packet(0x10, 'MQTT', 0x84, 1), 4],
    ['a bridge of 3.1, a wrong flag', packet(0x10, 'MQIsdp', 0x83, 0x1e), 3],
    ['a bridge of 5.0, which there is not', packet(0x10, 'MQTT', 0x85), 5],
  ] as const)('an error after %s says what the client speaks', (_, bytes, version) => {
    const error = errorOf(bytes, 4)
    expect(error).toBeInstanceOf(ConnectError)
    expect((error as ConnectError).version).toBe(version)
  })
})

describe('PUBLISH', () => {
  test('what is for the Server is taken out, the rest stays raw and in order', () => {
    const publish = decodeOne('PUBLISH QoS 1, every property') as PublishPacket
    expect(publish).toMatchObject({ topicAlias: 7, expirySeconds: 60, packetId: 9, qos: 1, dup: false })
    expect(publish.topic!.name).toBe('a/b')
    expect(publish.payload).toEqual(Buffer.from([1, 2, 3]))
    expect(decodeForwardedProperties(publish.properties)).toEqual({
      payloadFormatIndicator: 1,
      contentType: 'text/plain',
      responseTopic: 'answers',
      correlationData: Buffer.from('id'),
      userProperties: [
        ['__proto__', '1'],
        ['a', ''],
        ['__proto__', '3'],
      ],
    })
  })

  test('an alias stands for an empty topic name', () => {
    expect(decodeOne('PUBLISH, alias for the topic name')).toMatchObject({ topic: null, topicAlias: 1 })
  })

  test('flags', () => {
    expect(decodeOne('PUBLISH QoS 1, DUP')).toMatchObject({ qos: 1, dup: true, retain: false })
    expect(decodeOne('PUBLISH QoS 2, RETAIN')).toMatchObject({
      qos: 2,
      dup: false,
      retain: true,
      packetId: 65_535,
    })
  })
})

test('SUBSCRIBE: options of 5.0, identifier and User Properties', () => {
  expect(decodeOne('SUBSCRIBE, 5.0')).toEqual({
    type: 'subscribe',
    packetId: 1,
    requests: [
      { filter: 'a/+/b', qos: 2, noLocal: true, retainAsPublished: true, retainHandling: 2 },
      { filter: '#', qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 1 },
    ],
    subscriptionIdentifier: 0,
    userProperties: [],
  })
  expect(decodeOne('SUBSCRIBE, 5.0, properties')).toMatchObject({
    subscriptionIdentifier: 268_435_455,
    userProperties: [
      ['b', '1'],
      ['a', '2'],
    ],
  })
  expect(decodeOne('SUBSCRIBE')).toMatchObject({
    requests: [{ filter: 'a/+/b', qos: 0, noLocal: false, retainHandling: 0 }, { qos: 1 }, { qos: 2 }],
  })
})

test('UNSUBSCRIBE, DISCONNECT, AUTH: every field', () => {
  expect(decodeOne('UNSUBSCRIBE, 5.0')).toEqual({
    type: 'unsubscribe',
    packetId: 1,
    filters: ['a/+/b', '#'],
    userProperties: [['b', '1']],
  })
  expect(decodeOne('DISCONNECT, 5.0, properties')).toEqual({
    type: 'disconnect',
    reasonCode: 0x98,
    sessionExpirySeconds: 9,
    reasonString: 'why',
    userProperties: [['', '']],
  })
  expect(decodeOne('DISCONNECT, 5.0, Reason Code')).toMatchObject({ reasonCode: 4 })
  expect(decodeOne('DISCONNECT')).toMatchObject({ reasonCode: 0, sessionExpirySeconds: undefined })
  expect(decodeOne('AUTH')).toEqual({
    type: 'auth',
    reasonCode: 0x18,
    authenticationMethod: 'SCRAM',
    authenticationData: Buffer.from('data'),
    reasonString: 'on',
    userProperties: [['a', 'b']],
  })
})

test('mqtt-packet reads the same hot packets out of the same bytes', () => {
  for (const { name, version, bytes } of VALID_PACKETS) {
    const type = bytes[0]! >> 4
    if (type < 3 || type > 7 || version === 3) continue
    const packets: Packet[] = []
    const oracle = parser({ protocolVersion: version })
    oracle.on('packet', (one) => packets.push(one))
    oracle.parse(bytes)
    const [theirs] = packets
    const [ours] = decodeAll([bytes], version)
    if (ours!.type === 'publish' && theirs!.cmd === 'publish') {
      expect(Buffer.from(theirs!.payload), name).toEqual(ours!.payload)
      expect(theirs!.topic, name).toBe(ours!.topic?.name ?? '')
      expect(theirs!.messageId ?? 0, name).toBe(ours!.packetId)
      expect([theirs!.qos, theirs!.retain, theirs!.dup]).toEqual([ours!.qos, ours!.retain, ours!.dup])
    } else {
      expect(theirs!.cmd, name).toBe(ours!.type)
      expect(theirs, name).toMatchObject({ messageId: (ours as { packetId: number }).packetId })
    }
  }
})

test('what mqtt-packet generates decodes', () => {
  const bytes = generate(
    { cmd: 'publish', topic: 'a', payload: 'x', qos: 0, dup: false, retain: true },
    { protocolVersion: 4 },
  )
  expect(decodeAll([bytes], 4)[0]).toMatchObject({ type: 'publish', retain: true })
})
