import fc from 'fast-check'
import { expect, test } from 'vitest'
import { PropertyReader } from '../../../src/mqtt/properties/reader.ts'
import { PropertyPlace } from '../../../src/mqtt/properties/table.ts'
import { ProtocolError } from '../../../src/mqtt/reason.ts'
import { ALIAS, CONTENT, EXPIRY, FORMAT, USER } from './bytes.ts'

test('arbitrary bytes throw only ProtocolError, and reading ends', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.values(PropertyPlace)),
      fc.array(
        fc.oneof(
          fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes)),
          fc.constantFrom(ALIAS, EXPIRY, FORMAT, CONTENT, USER),
        ),
      ),
      (place, parts) => {
        const bytes = Buffer.concat(parts)
        const walk = new PropertyReader(bytes, 0, bytes.length, place)
        let end = 0
        try {
          while (walk.next()) {
            expect(walk.start).toBe(end)
            expect(walk.end).toBeGreaterThan(walk.start)
            end = walk.end
          }
          expect(end).toBe(bytes.length)
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error
        }
      },
    ),
    { numRuns: 2000 },
  )
})
