import { describe, expect, it } from 'vitest'
import { Random } from '../../scripts/crash/random.mjs'
import { type Files, History, type NameRule, orderComplaint } from '../../scripts/crash/trace.mjs'

type Records = ConstructorParameters<typeof History>[1]

const SEEDS = Array.from({ length: 200 }, (_, seed) => seed)

const made = (file: string, name: string) => ({ type: 'O', file, name })
const opened = (file: string, name: string) => ({ type: 'E', file, name })
const written = (file: string, offset: number, text: string) => {
  return { type: 'W', file, offset, bytes: Buffer.from(text) }
}
const renamed = (name: string, to: string) => ({ type: 'R', name, to })
const removed = (name: string) => ({ type: 'U', name })
let syncs = 0
function synced(file: string): Records {
  const sync = `${++syncs}`
  return [
    { type: 'f', sync, file },
    { type: 'F', sync },
  ]
}

function texts(files: Files): Record<string, string | null> {
  return Object.fromEntries([...files].map(([name, bytes]) => [name, bytes?.toString() ?? null]))
}

/** All that a power cut may leave, over many seeds. */
function outcomes(before: Record<string, string>, records: Records, rule: NameRule) {
  const files: Files = new Map(Object.entries(before).map(([name, text]) => [name, Buffer.from(text)]))
  return SEEDS.map((seed) => texts(new History(files, records).survivors(rule, new Random(seed))))
}

describe('a power cut', () => {
  it('keeps what was synced, and any part of what was not', () => {
    const records = [made('1', 'log'), written('1', 0, 'kept'), ...synced('1'), written('1', 4, 'unsure')]
    const left = outcomes({}, records, 'ordered').map(({ log }) => log)
    for (const text of left) expect('keptunsure'.startsWith(text!)).toBe(true)
    expect(new Set(left).size).toBeGreaterThan(3)
    expect(Math.min(...left.map((text) => text!.length))).toBe(4)
  })

  it('does not keep what was written after the sync began', () => {
    const [begun, done] = synced('1')
    const records = [made('1', 'log'), begun!, written('1', 0, 'late'), done!]
    expect(outcomes({}, records, 'ordered').map(({ log }) => log)).toContain('')
  })

  it('keeps nothing for a sync that did not return', () => {
    const records = [made('1', 'log'), written('1', 0, 'text'), synced('1')[0]!]
    expect(outcomes({}, records, 'own').map(({ log }) => log)).toContain(undefined)
  })

  it('takes back a name if its directory was not synced', () => {
    const records = [made('1', 'new'), written('1', 0, 'new'), ...synced('1'), renamed('new', 'CURRENT')]
    for (const rule of ['ordered', 'own', 'strict'] as const) {
      const left = outcomes({ CURRENT: 'old' }, records, rule).map(({ CURRENT }) => CURRENT)
      expect(new Set(left)).toEqual(new Set(['old', 'new']))
    }
  })

  it('keeps names if their directory was synced, by every rule', () => {
    const records = [
      opened('9', '.'),
      made('1', 'new'),
      renamed('new', 'CURRENT'),
      removed('old'),
      ...synced('9'),
    ]
    for (const rule of ['ordered', 'own', 'strict'] as const) {
      for (const left of outcomes({ CURRENT: 'x', old: 'x' }, records, rule))
        expect(left).toEqual({ CURRENT: '' })
    }
  })

  it('does not confuse the names in two directories', () => {
    const records = [
      { type: 'M', name: 'data' },
      opened('9', '.'),
      ...synced('9'),
      made('1', 'data/log'),
      ...synced('9'),
    ]
    for (const left of outcomes({}, records, 'strict')) expect(left).toHaveProperty('data', null)
    expect(outcomes({}, records, 'strict').map((left) => left['data/log'])).toContain(undefined)
  })

  it('keeps the name of a synced file by a journal or a log tree, but not by the letter of POSIX', () => {
    const records = [made('1', 'other'), made('2', 'log'), ...synced('2')]
    const names = (rule: NameRule) => outcomes({}, records, rule).map((left) => Object.keys(left).join())
    expect(new Set(names('ordered'))).toEqual(new Set(['other,log']))
    expect(new Set(names('own'))).toEqual(new Set(['other,log', 'log']))
    expect(new Set(names('strict'))).toEqual(new Set(['other,log', 'other', '']))
  })

  it('knows a file that was there before, and takes back its truncation', () => {
    const records = [opened('1', 'log'), written('1', 3, 'def'), ...synced('1'), made('2', 'log')]
    const left = outcomes({ log: 'abc' }, records, 'ordered').map(({ log }) => log)
    expect(new Set(left)).toEqual(new Set(['abcdef', '']))
  })

  it('refuses a file that the trace does not explain', () => {
    expect(() => new History(new Map(), [written('1', 0, 'x')])).toThrow('does not say')
  })
})

describe('the order of a sync and an acknowledgement', () => {
  const sent = { type: 'S', bytes: Buffer.from('ack') }
  const ack = Buffer.from('ack')

  it.each([
    ['is right when the sync came back before', [written('1', 0, 'a m1 b'), ...synced('1'), sent], null],
    [
      'is wrong when it came back later',
      [written('1', 0, 'm1'), synced('1')[0]!, sent],
      'it was never synced',
    ],
    [
      'is wrong when it began before the write',
      [synced('1')[0]!, written('1', 0, 'm1'), sent],
      'it was never synced',
    ],
    [
      'is wrong when it was of another file',
      [written('1', 0, 'm1'), ...synced('2'), sent],
      'it was never synced',
    ],
    [
      'is wrong when the acknowledgement came first',
      [written('1', 0, 'm1'), sent, ...synced('1')],
      'it was acknowledged before the sync',
    ],
  ])('%s', (_, records, complaint) => {
    expect(orderComplaint(records, 'm1', ack)).toBe(complaint)
  })
})
