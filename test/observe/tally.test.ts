import { Session } from 'node:inspector'
import { beforeEach, describe, expect, test } from 'vitest'
import { networkOf } from '../../src/broker/boundary/network.ts'
import { printable } from '../../src/observe/printable.ts'
import { type Fields, type LineKind, Tally } from '../../src/observe/tally.ts'
import { Random } from '../fuzz/random.ts'

const KIND: LineKind = { level: 'warn', text: 'refused', source: 'address', subject: 'user', burst: 1 }
const OTHER: LineKind = { ...KIND, text: 'other' }

let now: number
let lines: { readonly kind: LineKind; readonly fields: Fields; readonly text: string }[]
let tally: Tally

beforeEach(() => {
  now = 0
  lines = []
  tally = made(Number.POSITIVE_INFINITY)
})

function made(linesPerSecondMax: number): Tally {
  const write = (kind: LineKind, fields: Fields, text: string) => lines.push({ kind, fields, text })
  return new Tally({ repeatMs: 10_000, linesPerSecondMax, now: () => now, write })
}

function add(source: string, subject: string, detail = '', kind = KIND): void {
  tally.add(kind, { source, subject, detail }, () => ({ address: source, user: subject, detail }))
}

function pass(seconds: number): void {
  for (let second = 0; second < seconds; second++) {
    now += 1000
    tally.flush()
  }
}

const total = (): number => lines.reduce((sum, { fields }) => sum + (fields.count as number), 0)

describe('Tally', () => {
  test('forgets entries without new events', () => {
    let describes = 0
    const once = () => tally.add(KIND, { source: 'a', subject: '', detail: '' }, () => ({ of: describes++ }))
    once()
    pass(20)
    once()
    expect(describes).toBe(2)
    expect(lines.map(({ fields }) => fields.of)).toEqual([0, 1])
  })

  test('the most frequent event is logged by name among many other names [field-D24]', () => {
    for (let round = 0; round < 1000; round++) {
      add('192.0.2.7', `name-${round}`, `${round}`)
      if (round % 20 === 0) add('192.0.2.7', 'admin', `${round}`)
    }
    pass(10)
    const ofAdmin = lines.filter(({ fields }) => fields.user === 'admin')
    expect(ofAdmin.reduce((sum, { fields }) => sum + (fields.count as number), 0)).toBe(50)
    expect(lines.length).toBeLessThan(100)
    expect(lines.at(-1)).toMatchObject({
      fields: { address: '192.0.2.7' },
      text: expect.stringMatching(/^refused: \d+ more in 10 s, counted together$/),
    })
    expect(total()).toBe(1050)
  })

  test('a repeated address is logged among many that come once [field-D24]', () => {
    for (let round = 0; round < 20_000; round++) {
      add(`10.${round >> 16}.${(round >> 8) & 255}.${round & 255}`, '', `${round}`)
      if (round % 100 === 0) add('192.0.2.9', 'admin', `${round}`)
    }
    pass(10)
    const ofAdmin = lines.filter(({ fields }) => fields.user === 'admin')
    expect(ofAdmin.reduce((sum, { fields }) => sum + (fields.count as number), 0)).toBe(200)
    expect(lines.length).toBeLessThan(150)
    expect(total()).toBe(20_200)
  })

  test('each kind of line has its own bound [field-D24]', () => {
    tally = made(10)
    const ungrouped = { ...KIND, isUngrouped: true }
    for (let second = 0; second < 200; second++) {
      for (let index = 0; index < 100; index++) add(`${second}`, `${index}`, '', ungrouped)
      pass(1)
    }
    // A thousand at once, ten in each second, and the rests every ten seconds.
    expect(lines.length).toBeLessThan(1000 + 2000 + 20 * 17)
    lines = []
    add('a', 'b', '', OTHER)
    expect(lines.map(({ kind }) => kind.text)).toEqual(['other'])
  })

  test('random events: the counts add up and memory is bounded [field-D24]', () => {
    const seed = Math.floor(Math.random() * 0x7fffffff)
    const random = new Random(seed)
    tally = made(random.of([1, 10, 1000]))
    let added = 0
    for (let step = 0; step < 20_000; step++) {
      const count = random.of([1, 1, 1, 50])
      const [source, subject] = [
        `${random.below(random.of([3, 3000]))}`,
        `${random.below(random.of([2, 2000]))}`,
      ]
      tally.add(KIND, { source, subject, detail: `${random.below(4)}`, count }, () => ({}))
      added += count
      if (random.chance(0.01)) pass(random.below(12))
    }
    tally.end()
    expect([seed, total()]).toEqual([seed, added])
  })
})

test('1,500 refusals with names of 65 KB keep little in memory', async () => {
  const before = await liveBytes()
  const security: LineKind = { ...KIND, isUngrouped: true }
  for (let name = 0; name < 1500; name++) {
    const text = Buffer.from(`${name}`.padEnd(65_000, 'x')).toString()
    const occurrence = { source: `10.0.${name >>> 8}.${name & 255}`, subject: text, detail: `bad ${text}` }
    for (const kind of [KIND, OTHER, security]) {
      tally.add(kind, occurrence, () => ({ address: occurrence.source, user: printable(text) }))
    }
  }
  lines = []
  expect((await liveBytes()) - before).toBeLessThan(12_000_000)
  pass(20)
})

/** Bytes of the heap without garbage. */
async function liveBytes(): Promise<number> {
  const session = new Session()
  session.connect()
  // Objects on the caller's stack become garbage only when it returns.
  for (let round = 0; round < 3; round++) {
    await new Promise((resolve) => setImmediate(resolve))
    session.post('HeapProfiler.collectGarbage')
  }
  session.disconnect()
  return process.memoryUsage().heapUsed
}

test('an IPv6 network counts as one source, an IPv4 address as itself', () => {
  expect(
    ['192.0.2.7', '', '2001:db8:1:2:3:4:5:6', '2001:db8::1', '::1', 'fe80::1%eth0'].map(networkOf),
  ).toEqual(['192.0.2.7', '', '2001:db8:1:2::/64', '2001:db8:0:0::/64', '0:0:0:0::/64', 'fe80:0:0:0::/64'])
})
