import { expect, test } from 'vitest'
import { PINGRESP } from '../../../src/mqtt/codec/ping.ts'
import { decodeAll, packet } from '../packets.ts'
import { parsed } from './reading.ts'

test('mqtt-packet reads our PINGRESP', () => {
  expect(parsed('pingresp', PINGRESP, 4)).toBeDefined()
})

test('a PINGREQ is two bytes', () => {
  expect(decodeAll([packet(0xc0)], 5)).toEqual([{ type: 'pingreq' }])
})
