import { expect, test } from 'vitest'
import { encodeAuth } from '../../../src/mqtt/codec/auth.ts'
import { decodeNamed, parsed } from './reading.ts'

test('AUTH: every field is read', () => {
  expect(decodeNamed('AUTH')).toEqual({
    type: 'auth',
    reasonCode: 0x18,
    authenticationMethod: 'SCRAM',
    authenticationData: Buffer.from('data'),
    reasonString: 'on',
    userProperties: [['a', 'b']],
  })
})

test('mqtt-packet reads our AUTH', () => {
  expect(parsed('auth', encodeAuth(0x18, 'SCRAM', Buffer.from('data')), 5)).toMatchObject({
    reasonCode: 0x18,
    properties: { authenticationMethod: 'SCRAM', authenticationData: Buffer.from('data') },
  })
  expect(parsed('auth', encodeAuth(0, 'SCRAM', undefined), 5).properties?.authenticationData).toBeUndefined()
})
