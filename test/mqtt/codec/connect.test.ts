import { expect, test } from 'vitest'
import { ConnectError } from '../../../src/mqtt/codec/connect.ts'
import type { ConnectPacket } from '../../../src/mqtt/packet.ts'
import { SESSION_NEVER_EXPIRES } from '../../../src/mqtt/packet.ts'
import { decodeForwardedProperties } from '../../../src/mqtt/properties/forwarded.ts'
import { connect, packet } from '../packets.ts'
import { decodeNamed, refusalOf } from './reading.ts'

test('every field of 5.0 is read, User Properties in order', () => {
  const { will, ...rest } = decodeNamed('CONNECT, 5.0, everything') as ConnectPacket
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

test('absent fields have their defaults', () => {
  expect(decodeNamed('CONNECT, 3.1.1')).toMatchObject({
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
  expect(decodeNamed('CONNECT, 3.1.1, everything')).toMatchObject({
    cleanStart: false,
    sessionExpirySeconds: SESSION_NEVER_EXPIRES,
    will: { topic: 'will', qos: 2, retain: true, delaySeconds: 0, expirySeconds: undefined },
  })
})

test('3.1: flags may announce a User Name and a Password that are not there', () => {
  expect(decodeNamed('CONNECT, 3.1, User Name flag without User Name')).toMatchObject({
    userName: undefined,
    password: undefined,
  })
  expect(decodeNamed('CONNECT, 3.1, Password flag without Password')).toMatchObject({
    userName: 'user',
    password: undefined,
  })
})

test('[MQTT-1.5.4-3] U+FEFF is kept', () => {
  expect(decodeNamed('CONNECT, Client Identifier with U+FEFF')).toMatchObject({
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
] as const)('an error after %s has the version that the client speaks', (_, bytes, version) => {
  const error = refusalOf(bytes, 4)
  expect(error).toBeInstanceOf(ConnectError)
  expect((error as ConnectError).version).toBe(version)
})
