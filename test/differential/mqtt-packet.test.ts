/** mqtt-packet as the oracle, and arbitrary bytes. fast-check prints the seed of a run that fails. */
import fc from 'fast-check'
import { generate, type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import type { ClientPacket, ProtocolVersion, UserProperties } from '../../src/mqtt/packet.ts'
import { decodeForwardedProperties } from '../../src/mqtt/properties/forwarded.ts'
import { ProtocolError, Reason } from '../../src/mqtt/reason.ts'
import { decodeAll, MALFORMED_PACKETS, packet, VALID_PACKETS } from '../mqtt/packets.ts'

const text = fc.string({ unit: 'grapheme' }).map((s) => s.replaceAll('\u0000', ''))
const topicName = text.map((s) => `t${s.replaceAll(/[#+]/g, '')}`)
const binary = fc.uint8Array().map((bytes) => Buffer.from(bytes))
const packetId = fc.integer({ min: 1, max: 65_535 })
const uint32 = fc.integer({ min: 0, max: 0xffffffff })
const qos = fc.constantFrom<0 | 1 | 2>(0, 1, 2)
const version = fc.constantFrom<ProtocolVersion>(3, 4, 5)
const pairs = fc.array(fc.tuple(text, text), { maxLength: 4 })

function optional<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined })
}

function written(userProperties: UserProperties): object {
  if (userProperties.length === 0) return {}
  return { userProperties: userProperties.map(([name, value]) => ({ [name]: value })) }
}

function given(properties: object): object {
  return Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined))
}

function throughWire(fields: object, speaks: ProtocolVersion): ClientPacket {
  const bytes = generate(fields as Packet, { protocolVersion: speaks })
  const packets = decodeAll([bytes], speaks)
  expect(packets).toHaveLength(1)
  return packets[0]!
}

test('CONNECT: we read what mqtt-packet writes', () => {
  const will = fc.record({
    topic: topicName,
    payload: binary,
    qos,
    retain: fc.boolean(),
    delay: optional(uint32),
    expiry: optional(uint32),
    format: optional(fc.boolean()),
    contentType: optional(text),
    correlationData: optional(binary),
    pairs,
  })
  const connect = fc.record({
    version,
    clientId: text.map((s) => `c${s}`),
    clean: fc.boolean(),
    keepalive: fc.integer({ min: 0, max: 65_535 }),
    username: optional(text.map((s) => `u${s}`)),
    password: optional(binary.filter((bytes) => bytes.length > 0)),
    will: optional(will),
    sessionExpiryInterval: optional(uint32),
    receiveMaximum: optional(fc.integer({ min: 1, max: 65_535 })),
    maximumPacketSize: optional(fc.integer({ min: 1, max: 0xffffffff })),
    topicAliasMaximum: optional(fc.integer({ min: 0, max: 65_535 })),
    requestResponseInformation: optional(fc.boolean()),
    requestProblemInformation: optional(fc.boolean()),
    authenticationMethod: optional(text),
    pairs,
  })
  fc.assert(
    fc.property(connect, (c) => {
      const v5 = c.version === 5
      // mqtt-packet does not write a Password alone, which 5.0 allows: the table of packets has one.
      const password = c.username === undefined ? undefined : c.password
      const fields = {
        cmd: 'connect',
        protocolId: c.version === 3 ? 'MQIsdp' : 'MQTT',
        protocolVersion: c.version,
        clientId: c.clientId,
        clean: c.clean,
        keepalive: c.keepalive,
        ...given({ username: c.username, password }),
        ...(c.will && {
          will: {
            topic: c.will.topic,
            payload: c.will.payload,
            qos: c.will.qos,
            retain: c.will.retain,
            properties: {
              ...given({
                willDelayInterval: c.will.delay,
                messageExpiryInterval: c.will.expiry,
                payloadFormatIndicator: c.will.format,
                contentType: c.will.contentType,
                correlationData: c.will.correlationData,
              }),
              ...written(c.will.pairs),
            },
          },
        }),
        properties: {
          ...given({
            sessionExpiryInterval: c.sessionExpiryInterval,
            receiveMaximum: c.receiveMaximum,
            maximumPacketSize: c.maximumPacketSize,
            topicAliasMaximum: c.topicAliasMaximum,
            requestResponseInformation: c.requestResponseInformation,
            requestProblemInformation: c.requestProblemInformation,
            authenticationMethod: c.authenticationMethod,
          }),
          ...written(c.pairs),
        },
      }
      const ours = throughWire(fields, c.version)
      expect(ours).toMatchObject({
        type: 'connect',
        protocolVersion: c.version,
        clientId: c.clientId,
        cleanStart: c.clean,
        keepAliveSeconds: c.keepalive,
        userName: c.username,
        password,
        receiveMaximum: (v5 ? c.receiveMaximum : undefined) ?? 65_535,
        maximumPacketSize: (v5 ? c.maximumPacketSize : undefined) ?? Number.POSITIVE_INFINITY,
        topicAliasMaximum: (v5 ? c.topicAliasMaximum : undefined) ?? 0,
        requestResponseInformation: (v5 ? c.requestResponseInformation : undefined) ?? false,
        requestProblemInformation: (v5 ? c.requestProblemInformation : undefined) ?? true,
        authenticationMethod: v5 ? c.authenticationMethod : undefined,
        userProperties: v5 ? c.pairs : [],
      })
      if (c.will === undefined || ours.type !== 'connect') return
      expect(ours.will).toMatchObject({
        topic: c.will.topic,
        payload: c.will.payload,
        qos: c.will.qos,
        retain: c.will.retain,
        delaySeconds: (v5 ? c.will.delay : undefined) ?? 0,
        expirySeconds: v5 ? c.will.expiry : undefined,
      })
      expect(decodeForwardedProperties(ours.will!.properties)).toEqual(
        v5
          ? given({
              payloadFormatIndicator: c.will.format === undefined ? undefined : Number(c.will.format),
              contentType: c.will.contentType,
              correlationData: c.will.correlationData,
              userProperties: c.will.pairs.length > 0 ? c.will.pairs : undefined,
            })
          : {},
      )
    }),
    { numRuns: 300 },
  )
})

test('PUBLISH: we read what mqtt-packet writes', () => {
  fc.assert(
    fc.property(
      version,
      topicName,
      binary,
      qos,
      fc.boolean(),
      packetId,
      optional(uint32),
      optional(fc.integer({ min: 1, max: 65_535 })),
      pairs,
      (speaks, topic, payload, level, flag, messageId, expiry, alias, userProperties) => {
        const ours = throughWire(
          {
            cmd: 'publish',
            topic,
            payload,
            qos: level,
            dup: level > 0 && flag,
            retain: flag,
            messageId,
            properties: {
              ...written(userProperties),
              ...given({ messageExpiryInterval: expiry, topicAlias: alias }),
            },
          },
          speaks,
        )
        const v5 = speaks === 5
        expect(ours).toMatchObject({
          type: 'publish',
          topic: { name: topic, bytes: Buffer.from(topic) },
          payload,
          qos: level,
          dup: level > 0 && flag,
          retain: flag,
          packetId: level > 0 ? messageId : 0,
          topicAlias: v5 ? (alias ?? 0) : 0,
          expirySeconds: v5 ? expiry : undefined,
        })
        if (ours.type !== 'publish') return
        expect(decodeForwardedProperties(ours.properties)).toEqual(
          v5 && userProperties.length > 0 ? { userProperties } : {},
        )
      },
    ),
    { numRuns: 500 },
  )
})

test('SUBSCRIBE and UNSUBSCRIBE: we read what mqtt-packet writes', () => {
  const subscription = fc.record({
    topic: text,
    qos,
    nl: fc.boolean(),
    rap: fc.boolean(),
    rh: fc.constantFrom(0, 1, 2),
  })
  fc.assert(
    fc.property(
      version,
      packetId,
      fc.array(subscription, { minLength: 1 }),
      optional(fc.integer({ min: 1, max: 268_435_455 })),
      pairs,
      (speaks, messageId, subscriptions, subscriptionIdentifier, userProperties) => {
        const v5 = speaks === 5
        const properties = { ...given({ subscriptionIdentifier }), ...written(userProperties) }
        expect(throughWire({ cmd: 'subscribe', messageId, subscriptions, properties }, speaks)).toEqual({
          type: 'subscribe',
          packetId: messageId,
          requests: subscriptions.map((one) => ({
            filter: one.topic,
            qos: one.qos,
            noLocal: v5 && one.nl,
            retainAsPublished: v5 && one.rap,
            retainHandling: v5 ? one.rh : 0,
          })),
          subscriptionIdentifier: (v5 ? subscriptionIdentifier : undefined) ?? 0,
          userProperties: v5 ? userProperties : [],
        })
        const unsubscriptions = subscriptions.map((one) => one.topic)
        const unsubscribe = {
          cmd: 'unsubscribe',
          messageId,
          unsubscriptions,
          properties: written(userProperties),
        }
        expect(throughWire(unsubscribe, speaks)).toEqual({
          type: 'unsubscribe',
          packetId: messageId,
          filters: unsubscriptions,
          userProperties: v5 ? userProperties : [],
        })
      },
    ),
    { numRuns: 300 },
  )
})

test('acknowledgements, DISCONNECT and AUTH: we read what mqtt-packet writes', () => {
  fc.assert(
    fc.property(version, packetId, text, binary, pairs, (speaks, messageId, reasonString, data, user) => {
      const v5 = speaks === 5
      const properties = { reasonString, ...written(user) }
      for (const cmd of ['puback', 'pubrec', 'pubrel', 'pubcomp']) {
        const reasonCode = cmd === 'puback' || cmd === 'pubrec' ? 0x97 : 0x92
        expect(throughWire({ cmd, messageId, reasonCode, properties }, speaks)).toEqual({
          type: cmd,
          packetId: messageId,
          reasonCode: v5 ? reasonCode : 0,
          ...(v5 && { reasonString, retryAfter: user.findLast(([name]) => name === 'retry-after')?.[1] }),
        })
      }
      expect(throughWire({ cmd: 'disconnect', reasonCode: 4, properties }, speaks)).toEqual({
        type: 'disconnect',
        reasonCode: v5 ? 4 : 0,
        sessionExpirySeconds: undefined,
        reasonString: v5 ? reasonString : undefined,
        userProperties: v5 ? user : [],
      })
      if (!v5) return
      const auth = { ...properties, authenticationMethod: reasonString, authenticationData: data }
      expect(throughWire({ cmd: 'auth', reasonCode: 0x19, properties: auth }, speaks)).toEqual({
        type: 'auth',
        reasonCode: 0x19,
        authenticationMethod: reasonString,
        authenticationData: data,
        reasonString,
        userProperties: user,
      })
    }),
    { numRuns: 200 },
  )
})

/** Decodes; true when it was accepted. Whatever is thrown must be the client's fault. */
function survives(chunks: readonly Buffer[], speaks: ProtocolVersion): boolean {
  try {
    decodeAll(chunks, speaks)
    return true
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error
    expect(error.reasonCode).not.toBe(Reason.ImplementationSpecificError)
    return false
  }
}

test('arbitrary bytes throw nothing but ProtocolError', () => {
  const body = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes))
  const FIRST_BYTES = [0x10, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0xa2, 0xc0, 0xe0, 0xf0]
  fc.assert(
    fc.property(version, fc.constantFrom(...FIRST_BYTES), body, (speaks, first, bytes) => {
      survives([packet(first, bytes)], speaks)
      survives([bytes], speaks)
    }),
    { numRuns: 3000 },
  )
})

test('known packets with bytes changed, lost or added throw nothing but ProtocolError', () => {
  const known = [...VALID_PACKETS, ...MALFORMED_PACKETS].filter(({ bytes }) => bytes.length < 1000)
  let accepted = 0
  fc.assert(
    fc.property(
      fc.constantFrom(...known),
      version,
      fc.array(fc.tuple(fc.nat(), fc.constantFrom('set', 'drop', 'insert'), fc.nat(255)), { maxLength: 4 }),
      fc.boolean(),
      fc.nat(),
      ({ bytes }, speaks, changes, repairLength, cut) => {
        const changed = [...bytes]
        for (const [at, kind, value] of changes) {
          if (kind === 'set') changed[at % changed.length] = value
          else if (kind === 'drop' && changed.length > 3) changed.splice(at % changed.length, 1)
          else changed.splice(at % changed.length, 0, value)
        }
        const short = bytes.length < 130
        const result = repairLength && short ? packet(changed[0]!, changed.slice(2)) : Buffer.from(changed)
        const at = cut % (result.length + 1)
        const whole = survives([result], speaks)
        expect(survives([result.subarray(0, at), result.subarray(at)], speaks)).toBe(whole)
        if (whole) accepted++
      },
    ),
    { numRuns: 5000 },
  )
  expect(accepted).toBeGreaterThan(100)
})
