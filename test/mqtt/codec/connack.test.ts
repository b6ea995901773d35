import fc from 'fast-check'
import { expect, test } from 'vitest'
import { acceptedBefore5, encodeConnack, setSessionPresent } from '../../../src/mqtt/codec/connack.ts'
import type { UserProperties } from '../../../src/mqtt/packet.ts'
import { readUserProperties } from '../../../src/mqtt/properties/reader.ts'
import { PropertyPlace } from '../../../src/mqtt/properties/table.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { parsed } from './reading.ts'

const everything = {
  sessionExpirySeconds: 1,
  receiveMaximum: 2,
  maximumQoS: 1,
  retainAvailable: false,
  maximumPacketSize: 3,
  assignedClientIdentifier: 'id',
  topicAliasMaximum: 4,
  reasonString: 'because',
  userProperties: [
    ['b', '1'],
    ['__proto__', '2'],
    ['b', ''],
    ['7', 'x'],
  ] satisfies UserProperties,
  serverKeepAliveSeconds: 5,
  responseInformation: 'answers/',
  authenticationMethod: 'SCRAM',
  authenticationData: Buffer.from('data'),
} as const

test('every property, User Properties in order', () => {
  const bytes = encodeConnack(
    { sessionPresent: true, reasonCode: 0, properties: everything },
    5,
    Number.POSITIVE_INFINITY,
  )!
  const { sessionPresent, reasonCode, properties } = parsed('connack', bytes, 5)
  expect([sessionPresent, reasonCode]).toEqual([true, 0])
  expect(properties).toMatchObject({
    sessionExpiryInterval: 1,
    receiveMaximum: 2,
    maximumQoS: 1,
    retainAvailable: false,
    maximumPacketSize: 3,
    assignedClientIdentifier: 'id',
    topicAliasMaximum: 4,
    reasonString: 'because',
    serverKeepAlive: 5,
    responseInformation: 'answers/',
    authenticationMethod: 'SCRAM',
    authenticationData: Buffer.from('data'),
  })
  // Fixed header, flags and code take four bytes, the Property Length one.
  expect(readUserProperties(bytes, 5, bytes.length, PropertyPlace.Connack)).toEqual(everything.userProperties)
})

test.each([3, 4] as const)('version %d has the same CONNACK with Success for all clients', (version) => {
  for (const sessionPresent of [false, true]) {
    const encoded = encodeConnack({ sessionPresent, reasonCode: 0, properties: {} }, version, 1e6)!
    expect(acceptedBefore5(version, sessionPresent)).toEqual(encoded)
    expect(acceptedBefore5(version, sessionPresent)).toBe(acceptedBefore5(version, sessionPresent))
  }
})

test.each([4, 5] as const)('Session Present can be set afterwards, version %d', (version) => {
  for (const value of ['', 'x'.repeat(200), 'x'.repeat(20_000)]) {
    const userProperties: UserProperties = [['name', value]]
    const connack = (sessionPresent: boolean) =>
      encodeConnack({ sessionPresent, reasonCode: 0, properties: { userProperties } }, version, 1e9)!
    const bytes = connack(false)
    setSessionPresent(bytes)
    expect(bytes.equals(connack(true))).toBe(true)
    expect(bytes.equals(connack(false))).toBe(false)
  }
})

test('[MQTT-3.2.2-19] [MQTT-3.2.2-20] Maximum Packet Size drops Reason String, then User Properties', () => {
  const refusal = {
    sessionPresent: true,
    reasonCode: 0x97,
    properties: { reasonString: 'r'.repeat(50), userProperties: [['n', 'v']] satisfies UserProperties },
  }
  const full = encodeConnack(refusal, 5, Number.POSITIVE_INFINITY)!
  expect(encodeConnack(refusal, 5, full.length)).toEqual(full)
  const less = encodeConnack(refusal, 5, full.length - 1)!
  expect(less.length).toBe(full.length - 53)
  expect(encodeConnack(refusal, 5, less.length - 1)).toEqual(Buffer.from([0x20, 3, 0, 0x97, 0]))
  expect(encodeConnack(refusal, 5, 1)).toHaveLength(5)
})

test('an empty list of User Properties is left out', () => {
  const properties = { userProperties: [] }
  expect(encodeConnack({ sessionPresent: false, reasonCode: 0, properties }, 5, 1e6)).toHaveLength(5)
})

test('a Reason String that is no UTF-8 Encoded String is left out', () => {
  for (const reasonString of ['a\u0000', '\ud800', 'x'.repeat(65_536)]) {
    const properties = { reasonString }
    expect(encodeConnack({ sessionPresent: false, reasonCode: 0x80, properties }, 5, 1e6)).toHaveLength(5)
  }
})

test('[MQTT-3.2.2-6] a refusal never says that a Session is present', () => {
  for (const version of [3, 4, 5] as const) {
    const bytes = encodeConnack({ sessionPresent: true, reasonCode: 0x87, properties: {} }, version, 1e6)!
    expect(bytes[2]).toBe(0)
  }
})

test('3.1 and 3.1.1: a return code, or null when none fits', () => {
  const codes: (readonly [number, number | null])[] = [
    [Reason.Success, 0],
    [Reason.UnsupportedProtocolVersion, 1],
    [Reason.ClientIdentifierNotValid, 2],
    [Reason.ServerUnavailable, 3],
    [Reason.ServerBusy, 3],
    [Reason.BadUserNameOrPassword, 4],
    [Reason.NotAuthorized, 5],
    [Reason.Banned, 5],
    [Reason.MalformedPacket, null],
    [Reason.ProtocolError, null],
  ]
  for (const [reasonCode, returnCode] of codes) {
    const bytes = encodeConnack({ sessionPresent: false, reasonCode, properties: everything }, 4, 1e6)
    expect(bytes).toEqual(returnCode === null ? null : Buffer.from([0x20, 2, 0, returnCode]))
  }
  const resumed = { sessionPresent: true, reasonCode: 0, properties: {} }
  expect(encodeConnack(resumed, 4, 1e6)).toEqual(Buffer.from([0x20, 2, 1, 0]))
  expect(encodeConnack(resumed, 3, 1e6)).toEqual(Buffer.from([0x20, 2, 0, 0]))
})

test('mqtt-packet reads every successful CONNACK with any properties', () => {
  const optional = <T>(of: fc.Arbitrary<T>) => fc.option(of, { nil: undefined })
  const uint16 = fc.integer({ min: 1, max: 65_535 })
  const uint32 = fc.integer({ min: 1, max: 0xffff_ffff })
  const bit = fc.constantFrom<0 | 1>(0, 1)
  const said = fc.record({
    sessionExpirySeconds: optional(uint32),
    receiveMaximum: optional(uint16),
    maximumQoS: optional(bit),
    retainAvailable: optional(fc.boolean()),
    maximumPacketSize: optional(uint32),
    // Beyond 127 bytes the lengths in the packet have two.
    assignedClientIdentifier: optional(fc.string({ minLength: 1, maxLength: 150, unit: 'grapheme-ascii' })),
    topicAliasMaximum: optional(uint16),
    wildcardSubscriptionAvailable: optional(fc.boolean()),
    subscriptionIdentifiersAvailable: optional(fc.boolean()),
    sharedSubscriptionAvailable: optional(fc.boolean()),
    serverKeepAliveSeconds: optional(uint16),
    responseInformation: optional(fc.constant('information')),
    userProperties: optional(fc.constant([['a', 'b']] as const)),
  })
  fc.assert(
    fc.property(said, fc.boolean(), (given, sessionPresent) => {
      const properties = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
      const bytes = encodeConnack({ sessionPresent, reasonCode: 0, properties }, 5, 1e6)!
      const read = parsed('connack', bytes, 5)
      expect([read.sessionPresent, read.reasonCode]).toEqual([sessionPresent, 0])
      const { sessionExpirySeconds, serverKeepAliveSeconds, userProperties, ...same } = properties
      expect(read.properties ?? {}).toEqual({
        ...same,
        ...(sessionExpirySeconds !== undefined && { sessionExpiryInterval: sessionExpirySeconds }),
        ...(serverKeepAliveSeconds !== undefined && { serverKeepAlive: serverKeepAliveSeconds }),
        ...(userProperties !== undefined && { userProperties: { a: 'b' } }),
      })
    }),
    { numRuns: 2000 },
  )
})
