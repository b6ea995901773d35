import { expect, test } from 'vitest'
import { readMessageProperties } from '../../../src/mqtt/properties/message-properties.ts'
import { PropertyPlace } from '../../../src/mqtt/properties/table.ts'
import { ALIAS, CONTENT, EXPIRY, FORMAT, USER } from './bytes.ts'

function walk(...parts: Buffer[]) {
  const buffer = Buffer.concat([Buffer.from([0xee]), ...parts, Buffer.from([0xee])])
  return { buffer, ...readMessageProperties(buffer, 1, buffer.length - 1, PropertyPlace.Publish) }
}

test.each([
  ['nothing to take out', [FORMAT, USER, CONTENT, USER], true],
  ['at the front', [ALIAS, EXPIRY, FORMAT, USER], true],
  ['at the end', [FORMAT, USER, ALIAS, EXPIRY], true],
  ['at both ends', [ALIAS, FORMAT, USER, EXPIRY], true],
  ['in the middle', [FORMAT, ALIAS, USER], false],
  ['in two places', [FORMAT, ALIAS, USER, EXPIRY, USER, CONTENT], false],
  ['nothing else', [ALIAS, EXPIRY], true],
  ['nothing at all', [], true],
])('properties for the Server are removed: %s', (_, parts, isView) => {
  const { buffer, forwarded, topicAlias, expirySeconds } = walk(...parts)
  expect(forwarded).toEqual(Buffer.concat(parts.filter((part) => part !== ALIAS && part !== EXPIRY)))
  expect(topicAlias).toBe(parts.includes(ALIAS) ? 3 : 0)
  expect(expirySeconds).toBe(parts.includes(EXPIRY) ? 60 : undefined)
  if (forwarded.length > 0) {
    const before = Buffer.from(forwarded)
    buffer.fill(0)
    expect(forwarded.equals(before)).toBe(!isView)
  }
})
