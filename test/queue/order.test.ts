/**
 * The table of order: what each dispatch promises while consumers refuse, fall silent, are lost, and after a
 * start.
 */
import { describe, expect, test } from 'vitest'
import { parseTag } from '../../src/queue/explicit/tag.ts'
import type { GroupRules } from '../../src/queue/rules.ts'
import { message, Stage } from './stage.ts'

const NUMBERS = Array.from({ length: 20 }, (_, at) => `${at + 1}`)

function filled(rules: Partial<GroupRules>): Stage {
  const stage = new Stage(rules)
  stage.put(...NUMBERS)
  return stage
}

/** Puts `count` messages in for each of these topics, in turn. */
function putKeys(stage: Stage, keys: readonly string[], count: number): void {
  for (let number = 1; number <= count; number++) {
    for (const topic of keys) stage.group.append(message(`${topic}${number}`, { topic }))
  }
  stage.settle()
}

const DISPATCHES = ['fair', 'key', 'exclusive'] as const

describe('one consumer, no failures', () => {
  test.each(DISPATCHES)('%s: first in, first out', (dispatch) => {
    const stage = filled({ dispatch })
    const a = stage.join('a', { prefetch: 3 })
    while (a.has.length > 0) a.answer()
    expect(a.payloads).toEqual(NUMBERS)
  })
})

describe('refusal or time-out', () => {
  test('fair: later ones pass', () => {
    const stage = filled({})
    const a = stage.join('a', { prefetch: 1 })
    a.answer(0x80)
    expect(a.payloads).toEqual(['1', '2'])
  })

  test('key: first in, first out per key, and other keys go on', () => {
    const stage = new Stage({ dispatch: 'key' })
    putKeys(stage, ['a', 'b'], 3)
    const c = stage.join('c', { prefetch: 2 })
    expect(c.payloads).toEqual(['a1', 'b1'])
    c.answer(0x80)
    c.answer()
    expect(c.payloads).toEqual(['a1', 'b1', 'b2'])
    stage.pass(1000)
    while (c.has.length > 0) c.answer()
    const ofKey = (key: string) => c.payloads.filter((payload) => payload.startsWith(key))
    expect([ofKey('a'), ofKey('b')]).toEqual([
      ['a1', 'a1', 'a2', 'a3'],
      ['b1', 'b2', 'b3'],
    ])
  })

  test('key, a wider window: all of a key go to the consumer that has some of it', () => {
    const stage = new Stage({ dispatch: 'key', keyWindow: 3 })
    const [a, b] = [stage.join('a', { prefetch: 2 }), stage.join('b', { prefetch: 10 })]
    putKeys(stage, ['k'], 4)
    expect([a.payloads, b.payloads]).toEqual([['k1', 'k2'], []])
    a.answer()
    expect(a.payloads).toEqual(['k1', 'k2', 'k3'])
    stage.away(a)
    expect(b.payloads).toEqual(['k2', 'k3', 'k4'])
  })

  test('key: no more are looked at than may wait', () => {
    const stage = new Stage({ dispatch: 'key', lookaheadMessagesMax: 2 })
    putKeys(stage, ['k'], 5)
    stage.group.append(message('l1', { topic: 'l' }))
    const a = stage.join('a')
    expect(a.payloads).toEqual(['k1'])
    expect(stage.group.states).toMatchObject({ waiting: 2, ready: 3 })
    expect(stage.group.explain().join()).toContain('it looks no further ahead')
    a.answer()
    a.answer()
    a.answer()
    expect(a.payloads).toEqual(['k1', 'k2', 'k3', 'k4', 'l1'])
  })

  test('exclusive: what came back holds up what follows', () => {
    const stage = filled({ dispatch: 'exclusive', ackTimeoutSeconds: 2 })
    const a = stage.join('a', { prefetch: 1 })
    a.answer(0x80)
    expect(a.payloads).toEqual(['1'])
    stage.pass(1000)
    expect(a.payloads).toEqual(['1', '1'])
    stage.pass(2000)
    expect(a.payloads).toEqual(['1', '1'])
    a.answer(0)
    expect(a.payloads).toEqual(['1', '1', '2'])
  })
})

describe('consumer lost', () => {
  test.each(DISPATCHES)('%s: what it held goes before what is new, in order', (dispatch) => {
    const stage = filled({ dispatch })
    const a = stage.join('a', { prefetch: 3 })
    const held = [...a.payloads]
    stage.away(a)
    const b = stage.join('b', { prefetch: 20 })
    expect(b.payloads.slice(0, held.length)).toEqual(held)
    while (b.has.length > 0) b.answer()
    expect(b.payloads).toEqual(NUMBERS)
  })

  test('exclusive: the next one takes over; the first, back, stands by', () => {
    const stage = new Stage({ dispatch: 'exclusive' })
    const [a, b] = [stage.join('a', { prefetch: 1 }), stage.join('b', { prefetch: 1 })]
    expect([a.member!.state, b.member!.state]).toEqual(['open', 'standby'])
    stage.put('1', '2', '3')
    a.answer()
    stage.away(a)
    expect(b.payloads).toEqual(['2'])
    expect(b.has[0]!.attempt).toBe(2)
    stage.back(a)
    expect(a.member!.state).toBe('standby')
    b.answer()
    expect([a.payloads, b.payloads]).toEqual([
      ['1', '2'],
      ['2', '3'],
    ])
  })
})

test('one that is refused by all who are there does not wait for the one that has it and is away', () => {
  const stage = new Stage({ retryDelaySeconds: 1 })
  const [a, b] = [stage.join('a'), stage.join('b')]
  stage.put('1')
  const [first, second] = a.has.length > 0 ? [a, b] : [b, a]
  first.answer(0x87)
  expect(second.payloads).toEqual(['1'])
  stage.away(second)
  stage.pass(2000) // it failed twice
  expect(first.payloads).toEqual(['1', '1'])
  stage.back(second)
  first.answer()
  expect(stage.group.states.messages).toBe(0)
})

describe('exclusive with explicit acknowledgement', () => {
  const explicit = { isExplicit: true, leaseSeconds: 10, prefetch: 1 }

  /** Two consumers; the first has received a message and is gone. */
  function lostWith(rules: Partial<GroupRules> = {}) {
    const stage = new Stage({ dispatch: 'exclusive', ...rules })
    const [a, b] = [stage.join('a', explicit), stage.join('b', explicit)]
    stage.put('1', '2')
    const tag = parseTag(a.has[0]!.tag)!
    a.answer()
    stage.away(a)
    return { stage, tag, b }
  }

  test('what a lost consumer holds holds up what follows, until its lease ends', () => {
    const { stage, b } = lostWith({ retryDelaySeconds: 0 })
    expect(b.payloads).toEqual([])
    expect(stage.group.explain().join()).toContain('waits for a message that a consumer before holds')
    stage.pass(10_000)
    expect(b.payloads).toEqual(['1'])
  })

  test('the lost one may still settle it', () => {
    const { stage, tag, b } = lostWith()
    expect(stage.group.answer(tag, 'done', null, '')).toBe('done')
    stage.settle()
    expect(b.payloads).toEqual(['2'])
  })

  test('what the active one holds holds up nothing', () => {
    const stage = new Stage({ dispatch: 'exclusive' })
    const a = stage.join('a', { ...explicit, prefetch: 5 })
    stage.put('1', '2')
    a.answer()
    stage.put('3')
    expect(a.payloads).toEqual(['1', '2', '3'])
  })
})

describe('a start', () => {
  test.each(DISPATCHES)('%s: held ones come first again', (dispatch) => {
    const stage = filled({ dispatch })
    const a = stage.join('a', { prefetch: 3 })
    const held = [...a.payloads]
    const again = stage.restarted()
    const b = again.join('b', { prefetch: 20 })
    while (b.has.length > 0) b.answer()
    expect(b.payloads.slice(0, held.length)).toEqual(held)
    expect(b.payloads).toEqual(NUMBERS)
  })

  test('key: what is deferred holds up its key', () => {
    const stage = new Stage({ dispatch: 'key' })
    putKeys(stage, ['a', 'b'], 2)
    const c = stage.join('c', { prefetch: 2 })
    c.answer(0x80, c.has[0], 60)
    const again = stage.restarted()
    const d = again.join('d', { prefetch: 10 })
    expect(d.payloads).toEqual(['b1'])
    d.answer()
    expect(d.payloads).toEqual(['b1', 'b2'])
    again.pass(60_000)
    expect(d.payloads).toEqual(['b1', 'b2', 'a1'])
  })
})

describe('who is next', () => {
  test('fair: the one that holds least, of several the one that was served longest ago', () => {
    const stage = new Stage()
    const [a, b, c] = ['a', 'b', 'c'].map((name) => stage.join(name, { prefetch: 3 }))
    stage.put('1', '2', '3', '4')
    expect([a!.payloads, b!.payloads, c!.payloads]).toEqual([['1', '4'], ['2'], ['3']])
    b!.answer()
    stage.put('5', '6')
    expect([b!.payloads, c!.payloads]).toEqual([
      ['2', '5'],
      ['3', '6'],
    ])
  })

  test('fair: who is ten times slower gets about a tenth', () => {
    const stage = new Stage()
    const [fast, slow] = [stage.join('fast', { prefetch: 'auto' }), stage.join('slow', { prefetch: 'auto' })]
    stage.put(...Array.from({ length: 2000 }, (_, at) => `${at}`))
    for (let at = 1; at <= 1000; at++) {
      stage.pass(20)
      if (fast.has.length > 0) fast.answer()
      if (at % 10 === 0 && slow.has.length > 0) slow.answer()
    }
    const share = fast.payloads.length / (fast.payloads.length + slow.payloads.length)
    expect(share).toBeGreaterThan(0.88)
  })

  test('priorities: the highest lane first, and the lowest one now and then', () => {
    const stage = new Stage({ priorities: 3, priorityBurst: 2 })
    for (const priority of [0, 5, 9]) {
      for (let number = 1; number <= 4; number++) {
        stage.group.append(message(`${priority}-${number}`), null, priority)
      }
    }
    const a = stage.join('a', { prefetch: 1 })
    while (a.has.length > 0) a.answer()
    expect(a.payloads.slice(0, 4)).toEqual(['9-1', '9-2', '0-1', '9-3'])
    expect(new Set(a.payloads).size).toBe(12)
  })

  test('a newer message of a key takes the place of one that nobody holds', () => {
    const stage = new Stage({ lastValue: true })
    putKeys(stage, ['a', 'b'], 3)
    expect(stage.group.states.messages).toBe(2)
    const c = stage.join('c', { prefetch: 1 })
    expect(c.payloads).toEqual(['a3'])
    stage.group.append(message('a4', { topic: 'a' }))
    c.answer(0x80)
    c.answer()
    expect(c.payloads).toEqual(['a3', 'b3', 'a4'])
  })
})

describe('a full queue', () => {
  test('drop-oldest: the oldest that nobody holds; if all are held, the new one', () => {
    const stage = new Stage({ messagesMax: 2, overflow: 'drop-oldest' })
    const a = stage.join('a', { prefetch: 1 })
    stage.put('1', '2', '3', '4')
    expect(stage.group.states).toMatchObject({ messages: 2, inFlight: 1, ready: 1 })
    a.answer()
    expect(a.payloads).toEqual(['1', '4'])
    const b = stage.join('b', { prefetch: 1 })
    stage.put('5')
    expect(b.payloads).toEqual(['5'])
    stage.put('6')
    expect(stage.group.states).toMatchObject({ messages: 2, inFlight: 2 })
    expect(stage.group.counts.dropped.overflow).toBe(3)
  })

  test('reject: refused, with the limit; drop-newest: dropped', () => {
    const stage = new Stage({ messagesMax: 1, overflow: 'auto', filters: [] })
    expect(stage.group.refusal(message('1'))).toBeNull()
    stage.put('1')
    expect(stage.group.refusal(message('2'))).toEqual({ limit: 'messages', max: 1 })
    expect(stage.group.append(message('2', { qos: 0 }))).toBe('overflow')
    const newest = new Stage({ messagesMax: 1, overflow: 'drop-newest' })
    newest.put('1')
    expect(newest.group.refusal(message('2'))).toBeNull()
    expect(newest.group.append(message('2'))).toBe('overflow')
  })

  test('larger than all that it may hold: refused under every policy', () => {
    for (const overflow of ['drop-oldest', 'drop-newest', 'reject'] as const) {
      const stage = new Stage({ bytesMax: 10, overflow })
      expect(stage.group.refusal(message('12345678901'))).toEqual({ limit: 'size', max: 10 })
    }
  })

  test('a lower limit: it drops what is too much, in slices', () => {
    const stage = new Stage({ overflow: 'drop-oldest' })
    stage.isAutomatic = false
    stage.put(...Array.from({ length: 1500 }, (_, at) => `${at}`))
    stage.group.change({ ...stage.rules, messagesMax: 10 })
    stage.group.work()
    expect(stage.group.states.messages).toBe(1500 - 512)
    while (stage.group.hasWork) stage.group.work()
    expect(stage.group.states.messages).toBe(10)
  })

  test('while the oldest is read, it may hold a little more, and then drops the newest', () => {
    const stage = new Stage({ messagesMax: 10, overflow: 'drop-oldest' })
    stage.put(...Array.from({ length: 10 }, (_, at) => `${at}`))
    stage.isLazy = true
    const outcomes = Array.from({ length: 300 }, () => stage.group.append(message('x')))
    expect(outcomes.filter((outcome) => outcome === 'in').length).toBe(256)
    for (let reads = 0; reads < 100 && stage.wanted.size > 0; reads++) stage.load()
    expect(stage.group.states.messages).toBe(10)
  })
})

describe('what the operator does', () => {
  test('purge: everything that is there and that nobody holds; what comes meanwhile stays', () => {
    const stage = new Stage()
    const a = stage.join('a', { prefetch: 2 })
    stage.put('1', '2', '3', '4')
    a.answer(0x80)
    stage.isAutomatic = false
    stage.group.purge()
    stage.group.append(message('5'))
    stage.isAutomatic = true
    stage.settle()
    expect(stage.group.states).toMatchObject({ messages: 3, inFlight: 2, ready: 1, deferred: 0 })
    expect(stage.group.counts.dropped.purged).toBe(2)
  })

  test('pause: nothing is handed out, also after a start; everything else goes on', () => {
    const stage = new Stage()
    const a = stage.join('a', { prefetch: 1 })
    stage.put('1')
    stage.group.pause()
    stage.put('2')
    a.answer()
    expect(a.payloads).toEqual(['1'])
    const again = stage.restarted()
    const b = again.join('b')
    expect(b.payloads).toEqual([])
    again.group.resume()
    again.settle()
    expect(b.payloads).toEqual(['2'])
  })

  test('too much in memory: nothing new is handed out, and that is told once', () => {
    const stage = filled({ unsettledMax: 3 })
    const a = stage.join('a', { prefetch: 10 })
    expect(a.payloads).toEqual(['1', '2', '3'])
    expect(stage.unsettledMaxTold).toBe(1)
    a.answer()
    expect(a.payloads.length).toBe(4)
  })

  test('an id is known for its time, also after a start', () => {
    const stage = new Stage({ deduplicateSeconds: 300 })
    expect(stage.group.append(message('1'), 'u1')).toBe('in')
    expect(stage.group.append(message('1'), 'u1')).toBe('duplicate')
    const again = stage.restarted()
    expect(again.group.append(message('1'), 'u1')).toBe('duplicate')
    again.pass(300_000)
    expect(again.group.append(message('1'), 'u1')).toBe('in')
    expect(again.group.counts.duplicates).toBe(1)
  })
})
