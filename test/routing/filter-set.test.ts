import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FilterSet } from '../../src/routing/filter-set.ts'
import { naiveMatches } from './naive.ts'

interface Leaf {
  readonly filter: string
}

function matched(set: FilterSet<Leaf>, topic: string): string[] {
  const found: Leaf[] = []
  set.match(topic, found)
  return found.map(({ filter }) => filter).sort()
}

const level = fc.constantFrom('', 'a', 'b', '$x', 'ö')
const filter = fc
  .tuple(fc.array(fc.oneof(level, fc.constant('+')), { maxLength: 5 }), fc.boolean())
  .map(([levels, hash]) => (hash ? [...levels, '#'] : levels).join('/'))
  .filter((text) => text !== '')
/** Behind so many levels that they are more than the table takes. */
const deep = filter.map((text) => `${'d/'.repeat(30)}${text}`)
const name = fc.array(level, { minLength: 1, maxLength: 6 }).map((levels) => levels.join('/'))
const topic = fc.oneof(
  name,
  name.map((text) => `${'d/'.repeat(30)}${text}`),
)

describe.each([0, 2, 32])('with %i shapes in the table', (shapes) => {
  test('it holds and matches the same as a list', () => {
    const change = fc.record({ set: fc.boolean(), filter: fc.oneof({ weight: 5, arbitrary: filter }, deep) })
    const property = fc.property(
      fc.array(change, { maxLength: 80 }),
      fc.array(topic, { minLength: 1, maxLength: 20 }),
      (changes, topics) => {
        const set = new FilterSet<Leaf>(shapes)
        const model = new Map<string, Leaf>()
        for (const step of changes) {
          if (step.set) {
            const leaf = { filter: step.filter }
            set.set(leaf)
            model.set(step.filter, leaf)
          } else {
            set.delete(step.filter)
            model.delete(step.filter)
          }
          expect(set.get(step.filter)).toBe(model.get(step.filter))
        }
        for (const [text, leaf] of model) expect(set.get(text)).toBe(leaf)
        for (const text of topics) {
          const expected = [...model.keys()].filter((each) => naiveMatches(each, text)).sort()
          expect(matched(set, text)).toEqual(expected)
        }
        for (const text of model.keys()) set.delete(text)
        expect(set.nodeCount).toBe(0)
      },
    )
    fc.assert(property, { numRuns: 300 })
  })
})

test('an unused shape makes room for another', () => {
  const set = new FilterSet<Leaf>(1)
  for (let round = 0; round < 3; round++) {
    for (const text of ['a/+', '+/b', 'a/b']) set.set({ filter: text })
    expect(matched(set, 'a/b')).toEqual(['+/b', 'a/+', 'a/b'])
    for (const text of ['a/+', 'a/b', '+/b']) {
      set.delete(text)
      expect(set.get(text)).toBeUndefined()
    }
    expect(set.nodeCount).toBe(0)
  }
})

test('it grows and shrinks and loses nothing', () => {
  const set = new FilterSet<Leaf>()
  const text = (index: number): string => (index % 3 === 0 ? `s/${index}/+/x` : `s/${index}/y/x`)
  for (let index = 0; index < 50_000; index++) set.set({ filter: text(index) })
  expect(set.nodeCount).toBe(50_000)
  for (let index = 0; index < 50_000; index++) if (index % 100 !== 0) set.delete(text(index))
  for (let index = 0; index < 50_000; index++) {
    expect(matched(set, `s/${index}/y/x`)).toEqual(index % 100 === 0 ? [text(index)] : [])
  }
  for (let index = 0; index < 50_000; index += 100) set.delete(text(index))
  expect(set.nodeCount).toBe(0)
})

/** Any number of different levels with the same FNV-1a hash: each pair of blocks doubles them. */
function collidingLevels(pairs: number): string[] {
  let hash = 0x811c9dc5
  let levels = ['']
  const hashOf = (from: number, block: string): number => {
    let mixed = from
    for (let at = 0; at < block.length; at++) mixed = Math.imul(mixed ^ block.charCodeAt(at), 0x01000193)
    return mixed
  }
  for (let pair = 0; pair < pairs; pair++) {
    const seen = new Map<number, string>()
    for (let count = 0; ; count++) {
      const block = count.toString(36).padStart(5, '_')
      const next = hashOf(hash, block)
      const other = seen.get(next)
      seen.set(next, block)
      if (other === undefined) continue
      levels = levels.flatMap((before) => [before + other, before + block])
      hash = next
      break
    }
  }
  return levels
}

test('a look-up is bounded for filters whose hashes were made to collide', () => {
  let reads = 0
  const counted = (text: string): Leaf => ({
    get filter() {
      reads++
      return text
    },
  })
  const colliding = collidingLevels(8).map((each) => `x/${each}/y`)
  expect(new Set(colliding).size).toBe(256)
  const absent = colliding.pop()!
  const set = new FilterSet<Leaf>()
  for (const text of colliding) set.set(counted(text))
  expect(set.nodeCount).toBeGreaterThanOrEqual(colliding.length)
  for (const text of colliding) expect(matched(set, text)).toEqual([text])
  reads = 0
  expect(set.get(absent)).toBeUndefined()
  expect(matched(set, absent)).toEqual([])
  expect(reads).toBeGreaterThan(100)
  expect(reads).toBeLessThan(600)
  for (const text of colliding) set.delete(text)
  expect(set.nodeCount).toBe(0)
})

// Whoever may use all of Unicode makes a filter of three characters for any hash he likes.
const SEED = 0x811c9dc5
const PRIME = 0x01000193
const MIXER = 0x85ebca6b

/** The inverse of a multiplication by an odd number. */
function inverse(odd: number): number {
  let found = odd
  for (let round = 0; round < 5; round++) found = Math.imul(found, 2 - Math.imul(odd, found))
  return found
}

/** Undoes `mixed ^= mixed >>> bits`. */
function unshifted(mixed: number, bits: number): number {
  let found = mixed
  for (let round = 0; round < 3; round++) found = mixed ^ (found >>> bits)
  return found
}

function isLiteral(code: number): boolean {
  return code !== 0 && !'/+#$'.includes(String.fromCharCode(code)) && (code < 0xd800 || code > 0xdfff)
}

/** By first character: the hash after it, and second characters by the upper half of the hash after them. */
const BEGINNINGS = Array.from({ length: 40 }, (_, index) => {
  const first = String.fromCharCode(0x4e00 + index)
  const from = Math.imul(SEED ^ first.charCodeAt(0), PRIME)
  const seconds = new Map<number, number>()
  for (let code = 1; code < 0x10000; code++) {
    if (isLiteral(code)) seconds.set(Math.imul(from ^ code, PRIME) >>> 16, code)
  }
  return { first, from, seconds }
})

/** A filter of one level, or of one and `#`, with this hash; others for other `turn`s. */
function filterFor(hash: number, isMulti: boolean, turn = 0): string {
  let level = Math.imul(unshifted(hash, 13), inverse(MIXER))
  level = Math.imul(unshifted(level, 15), inverse(MIXER)) ^ Math.imul(isMulti ? 3 : 2, SEED)
  const before = Math.imul(level, inverse(PRIME))
  let turns = turn
  for (const { first, from, seconds } of BEGINNINGS) {
    const second = seconds.get(before >>> 16)
    if (second === undefined) continue
    const third = (Math.imul(from ^ second, PRIME) ^ before) & 0xffff
    if (isLiteral(third) && turns-- === 0)
      return `${first}${String.fromCharCode(second, third)}${isMulti ? '/#' : ''}`
  }
  throw new Error('there is none')
}

/** A hash of one part, which points to this slot while there are no more than 4,096. */
function pointing(slot: number, number = 0): number {
  return (0x77 << 24) | (number << 12) | slot
}

test('a shape is found although its only filter finds no slot while a part grows', () => {
  const set = new FilterSet<Leaf>()
  const held = new Set<string>()
  const add = (text: string): string => {
    set.set({ filter: text })
    held.add(text)
    return text
  }
  const remove = (text: string): void => {
    set.delete(text)
    held.delete(text)
  }
  const expectAll = (): void => {
    for (const text of held) {
      expect(matched(set, text.replace('/#', '/x').replace('+', 'x'))).toEqual([text])
    }
  }
  const elsewhere = add('elsewhere/+')
  // 512 slots, half full when the last one comes. Those of slot 500 go on at the beginning and are met
  // there first when the part grows; then those of slot 510 have the places of the first of them, one of
  // which is the only `x/#`.
  const first = Array.from({ length: 129 }, (_, index) => add(filterFor(pointing(200 + index), false)))
  for (const text of first.slice(0, 50)) remove(text)
  for (let index = 0; index < 100; index++) add(filterFor(pointing(500, index), index === 11))
  for (let index = 0; index < 38; index++) add(filterFor(pointing(510, index), false))
  for (let index = 0; held.size < 257; index++) add(filterFor(pointing(340 + index), false))
  expectAll()
  const last = add(filterFor(pointing(450), true))
  expect(matched(set, last.replace('/#', '/x'))).toEqual([last])
  expectAll()
  remove(last)
  expectAll()
  expect(matched(set, 'elsewhere/x')).toEqual([elsewhere])
  for (const text of held) set.delete(text)
  expect(set.nodeCount).toBe(0)
})

test('colliding filters are held and matched as in a list, while parts grow and shrink', () => {
  const places = fc.tuple(fc.constantFrom(0, 1, 30, 60, 62, 63), fc.nat({ max: 150 }), fc.boolean())
  const change = fc.record({ set: fc.boolean(), place: places })
  const blocks = fc.array(fc.tuple(change, fc.integer({ min: 1, max: 140 })), { maxLength: 12 })
  const property = fc.property(blocks, (steps) => {
    const set = new FilterSet<Leaf>(4)
    const model = new Map<string, Leaf>()
    for (const [step, times] of steps) {
      const [slot, from, isMulti] = step.place
      for (let number = from; number < from + times; number++) {
        const text = filterFor(pointing(slot, number), isMulti && number % 7 === 0)
        if (step.set) {
          const leaf = { filter: text }
          set.set(leaf)
          model.set(text, leaf)
        } else {
          set.delete(text)
          model.delete(text)
        }
      }
      for (const [text, leaf] of model) {
        expect(set.get(text)).toBe(leaf)
        expect(matched(set, text.replace('/#', '/x'))).toEqual([text])
      }
    }
    for (const text of model.keys()) {
      set.delete(text)
      expect(set.get(text)).toBeUndefined()
    }
    expect(set.nodeCount).toBe(0)
  })
  fc.assert(property, { numRuns: 100 })
})

test('a leaf at the greatest distance moves up when its slot is free', () => {
  const set = new FilterSet<Leaf>()
  const texts = Array.from({ length: 127 }, (_, slot) => filterFor(pointing(slot), false))
  for (const text of texts) set.set({ filter: text })
  const far = filterFor(pointing(0, 1), false)
  set.set({ filter: far })
  set.delete(texts[0]!)
  expect(matched(set, far)).toEqual([far])
  for (const text of texts) set.delete(text)
  set.delete(far)
  expect(set.nodeCount).toBe(0)
})
