/**
 * Each event of the table of states: the state before, the event, the state after, failures, and the record.
 */
import { describe, expect, test } from 'vitest'
import { parseTag } from '../../src/queue/explicit/tag.ts'
import { message, Stage } from './stage.ts'

const { Success, NoMatchingSubscribers } = { Success: 0x00, NoMatchingSubscribers: 0x10 }

function lastRecord(stage: Stage): object | undefined {
  return stage.records.at(-1)
}

/** A stage with one consumer that was sent `payloads`. */
function sent(payloads: readonly string[], options: object = {}, rules: object = {}) {
  const stage = new Stage(rules)
  const a = stage.join('a', options)
  stage.put(...payloads)
  return { stage, a }
}

describe('handing out', () => {
  test('appended: ready', () => {
    const stage = new Stage()
    stage.put('1', '2')
    expect(stage.group.states).toMatchObject({ ready: 2, messages: 2, bytes: 4 })
    expect(stage.records).toEqual([])
  })

  test('handed out at QoS 1: sent, and in order', () => {
    const { stage, a } = sent(['1', '2', '3'])
    expect(a.payloads).toEqual(['1', '2', '3'])
    expect(stage.group.states).toMatchObject({ ready: 0, inFlight: 3 })
    expect(stage.records).toEqual([])
  })

  test('handed out at QoS 0: gone, recorded in the same turn', () => {
    const { stage, a } = sent(['1', '2'], { qos: 0 })
    expect(a.payloads).toEqual(['1', '2'])
    expect(stage.group.states.messages).toBe(0)
    expect(stage.records).toEqual([
      { is: 'settled', lane: 0, first: 1, next: 2 },
      { is: 'settled', lane: 0, first: 2, next: 3 },
    ])
  })

  test('no more than the window', () => {
    const { stage, a } = sent(['1', '2', '3'], { prefetch: 2 })
    expect(a.payloads).toEqual(['1', '2'])
    a.answer()
    expect(a.payloads).toEqual(['1', '2', '3'])
    expect(stage.group.states.ready).toBe(0)
  })

  test('what was put in before the consumer came is read', () => {
    const stage = new Stage()
    stage.put(...Array.from({ length: 20 }, (_, at) => `${at}`))
    const a = stage.join('a', { prefetch: 20 })
    expect(a.payloads).toEqual(Array.from({ length: 20 }, (_, at) => `${at}`))
  })

  test('what has to be read first is handed out once it is there', () => {
    const stage = new Stage()
    stage.put('1', '2')
    stage.isLazy = true
    const a = stage.join('a')
    expect(a.payloads).toEqual([])
    stage.put('3')
    expect(a.payloads).toEqual([])
    stage.load()
    expect(a.payloads).toEqual(['1', '2', '3'])
  })

  test('a Shared Subscription keeps the QoS of the original', () => {
    const stage = new Stage()
    const a = stage.join('a', { face: 'share', qos: 2 })
    stage.group.append(message('0', { qos: 0 }))
    stage.group.append(message('1', { qos: 1 }))
    expect(a.has.map(({ qos }) => qos)).toEqual([1])
    expect(a.payloads).toEqual(['0', '1'])
    const b = new Stage()
    const c = b.join('c', { qos: 2 })
    b.group.append(message('0', { qos: 0 }))
    expect(c.has.map(({ qos }) => qos)).toEqual([2])
  })

  test('no room: nothing is offered until there is', () => {
    const stage = new Stage()
    const a = stage.join('a')
    a.capacity = 1
    stage.put('1', '2', '3')
    expect(a.payloads).toEqual(['1'])
    expect(a.member!.state).toBe('full')
    a.capacity = 5
    stage.group.room(a.member!)
    expect(a.payloads).toEqual(['1', '2', '3'])
  })

  test('too large for one: tried on another; too large for all: moving', () => {
    const stage = new Stage()
    const a = stage.join('a')
    const b = stage.join('b')
    a.sizeMax = 3
    b.sizeMax = 9
    stage.put('12345')
    expect([a.payloads, b.payloads]).toEqual([[], ['12345']])
    stage.put('1234567890')
    expect(stage.deaths).toMatchObject([{ reason: 'too-large', sequence: 2, clientId: '' }])
    expect(stage.group.states).toMatchObject({ moving: 1, ready: 0 })
  })

  test('too large, and only members of a Shared Subscription: discarded', () => {
    const stage = new Stage()
    stage.join('a', { face: 'share' }).sizeMax = 3
    stage.put('12345')
    expect(stage.drops).toMatchObject([{ reason: 'packet-too-large' }])
    expect(stage.group.states.messages).toBe(0)
  })
})

describe('acknowledged', () => {
  test.each([Success, NoMatchingSubscribers])('PUBACK 0x%s: gone', (code) => {
    const { stage, a } = sent(['1'])
    a.answer(code)
    expect(stage.group.states.messages).toBe(0)
    expect(lastRecord(stage)).toEqual({ is: 'settled', lane: 0, first: 1, next: 2 })
  })

  test('PUBREC below 0x80: gone', () => {
    const { stage, a } = sent(['1'], { qos: 2 })
    a.answer()
    expect(stage.group.states.messages).toBe(0)
  })

  test('twice: the second one changes nothing', () => {
    const { stage, a } = sent(['1', '2'])
    const [one] = a.has
    a.answer(0, one)
    stage.group.acknowledged(one!, 0x80)
    expect(stage.records.length).toBe(1)
    expect(stage.group.states.inFlight).toBe(1)
  })

  test('with explicit acknowledgement: held until its lease ends', () => {
    const { stage, a } = sent(['1'], { isExplicit: true, leaseSeconds: 10 })
    expect(a.has[0]!.tag).toBe('01.1.t0-1-1-0')
    a.answer()
    expect(stage.group.states).toMatchObject({ held: 1, inFlight: 0 })
    expect(lastRecord(stage)).toEqual({ is: 'held', lane: 0, sequence: 1, until: 11_000 })
    stage.pass(10_000)
    expect(stage.group.states).toMatchObject({ held: 0, deferred: 1 })
    expect(lastRecord(stage)).toMatchObject({ is: 'returned', failures: 1, due: 12_000 })
    stage.pass(1000)
    expect(a.has[0]!.attempt).toBe(2)
  })

  test('explicit at QoS 0: held at once', () => {
    const { stage } = sent(['1'], { isExplicit: true, qos: 0 })
    expect(stage.group.states.held).toBe(1)
    expect(lastRecord(stage)).toMatchObject({ is: 'held', until: 61_000 })
  })
})

describe('refused', () => {
  test.each([0x80, 0x87])('0x%i: deferred, a failure, the delay doubles', (code) => {
    const { stage, a } = sent(['1'])
    a.answer(code)
    expect(stage.group.states.deferred).toBe(1)
    expect(lastRecord(stage)).toEqual({
      is: 'returned',
      lane: 0,
      sequence: 1,
      failures: 1,
      attempts: 1,
      due: 2000,
    })
    stage.pass(999)
    expect(a.payloads).toEqual(['1'])
    stage.pass(1)
    expect(a.payloads).toEqual(['1', '1'])
    a.answer(code)
    stage.pass(1999)
    expect(a.payloads.length).toBe(2)
    stage.pass(1)
    expect(a.has[0]!.attempt).toBe(3)
  })

  test('retry-after is heard', () => {
    const { stage, a } = sent(['1'])
    a.answer(0x80, a.has[0], 7)
    expect(lastRecord(stage)).toMatchObject({ due: 8000 })
  })

  test('retry-after is a day at most', () => {
    const { stage, a } = sent(['1'])
    a.answer(0x80, a.has[0], 100_000)
    expect(lastRecord(stage)).toMatchObject({ due: 1000 + 86_400_000 })
  })

  test('0x91: ready at once, no failure', () => {
    const { stage, a } = sent(['1'])
    a.answer(0x91)
    expect(a.payloads).toEqual(['1', '1'])
    expect(stage.failures(1)).toBe(0)
  })

  test.each([0x83, 0x90, 0x99])('0x%i: moving (refused)', (code) => {
    const { stage, a } = sent(['1'])
    a.answer(code, a.has[0], null, 'not JSON')
    expect(stage.group.states.moving).toBe(1)
    expect(stage.deaths).toMatchObject([
      { reason: 'refused', attempts: 1, code, detail: 'not JSON', clientId: 'a' },
    ])
    stage.group.moved(stage.deaths[0]!)
    expect(stage.group.states.messages).toBe(0)
    expect(lastRecord(stage)).toEqual({ is: 'settled', lane: 0, first: 1, next: 2 })
  })

  test('in a dead letter queue, nothing is refused for good', () => {
    const { stage, a } = sent(['1'], {}, { isDeadLetters: true })
    a.answer(0x99)
    expect(stage.group.states.deferred).toBe(1)
  })

  test('without dead letters: dropped, counted', () => {
    const { stage, a } = sent(['1'], {}, { hasDeadLetters: false })
    a.answer(0x99)
    expect(stage.drops).toMatchObject([{ reason: 'dead', sequence: 1 }])
    expect(stage.group.states.messages).toBe(0)
  })

  test('0x87 goes to another consumer at once, never back while there is one', () => {
    const { stage, a } = sent(['1'])
    const b = stage.join('b')
    a.answer(0x87)
    expect(b.payloads).toEqual(['1'])
    b.answer(0x80)
    stage.pass(10_000)
    expect([a.payloads, b.payloads]).toEqual([['1'], ['1', '1']])
    b.answer(0x80)
    stage.end(b)
    stage.pass(60_000)
    expect(a.payloads).toEqual(['1', '1'])
  })

  test('0x97: ready, no failure, and the consumer pauses', () => {
    const { stage, a } = sent(['1', '2'], { prefetch: 1 })
    const b = stage.join('b', { prefetch: 1 })
    b.answer()
    expect(b.payloads).toEqual(['2'])
    a.answer(0x97)
    expect(a.member!.state).toBe('paused')
    expect(b.payloads).toEqual(['2', '1'])
    expect(stage.failures(1)).toBe(0)
    stage.put('3')
    expect(a.payloads).toEqual(['1'])
    stage.pass(1000)
    expect(a.payloads).toEqual(['1', '3'])
    a.answer(0x97)
    stage.pass(1999)
    expect(a.member!.state).toBe('paused')
    stage.pass(1)
    expect(a.member!.state).toBe('full')
    a.answer()
    stage.put('4')
    a.answer(0x97)
    stage.pass(1000)
    expect(a.member!.state).not.toBe('paused')
  })

  test('at the limit of failures: moving (delivery-limit)', () => {
    const { stage, a } = sent(['x'], {}, { deliveryLimit: 3, retryDelaySeconds: 0.1 })
    a.answer(0x80)
    stage.pass(100)
    a.answer(0x80)
    stage.pass(200)
    a.answer(0x80, a.has[0], null, 'db down')
    expect(stage.deaths).toMatchObject([
      { reason: 'delivery-limit', attempts: 3, code: 0x80, detail: 'db down', clientId: 'a' },
    ])
  })

  test('by a member of a Shared Subscription: discarded [MQTT-4.8.2-6]', () => {
    const { stage, a } = sent(['1'], { face: 'share' })
    a.answer(0x80)
    expect(stage.drops).toMatchObject([{ reason: 'refused-by-client' }])
    expect(stage.group.states.messages).toBe(0)
    expect(stage.deaths).toEqual([])
  })
})

describe('time-outs', () => {
  test('sent at QoS 1: ready for another, the Session keeps an echo', () => {
    const { stage, a } = sent(['1', '2'], {}, { ackTimeoutSeconds: 2 })
    const b = stage.join('b', { prefetch: 1 })
    stage.pass(2000)
    expect(b.payloads).toEqual(['1'])
    expect(a.abandoned.map(({ sequence }) => sequence)).toEqual([1, 2])
    expect(a.member).toMatchObject({ state: 'silent', echoes: 2, inFlight: 0, used: 2 })
    // The oldest alone is charged.
    expect([stage.failures(1), stage.failures(2)]).toEqual([1, 0])
    expect(stage.silents).toEqual([a.member])
  })

  test('a late PUBACK on an echo: gone, wherever it is', () => {
    const { stage, a } = sent(['1'], {}, { ackTimeoutSeconds: 2 })
    const b = stage.join('b')
    stage.pass(2000)
    a.answer(0)
    expect(stage.group.states.messages).toBe(0)
    expect(b.abandoned.length).toBe(1)
    expect(b.member).toMatchObject({ echoes: 1, inFlight: 0 })
    b.answer(0)
    expect(b.member!.echoes).toBe(0)
    expect(stage.records.filter(({ is }) => is === 'settled').length).toBe(1)
    expect(a.member!.state).toBe('open')
  })

  test('a late refusal on an echo: no change', () => {
    const { stage, a } = sent(['1'], {}, { ackTimeoutSeconds: 2 })
    stage.pass(2000)
    a.answer(0x83)
    expect(stage.deaths).toEqual([])
    // It answered, so it may have it again.
    expect(a.payloads).toEqual(['1', '1'])
  })

  test('a consumer gets no message that it has an echo of', () => {
    const { stage, a } = sent(['1', '2'], {}, { ackTimeoutSeconds: 2 })
    stage.pass(1000)
    stage.put('3')
    stage.pass(1000)
    expect(a.payloads).toEqual(['1', '2', '3'])
    a.answer(0, a.has[2])
    expect(a.member!.state).toBe('open')
    stage.put('4')
    expect(a.payloads).toEqual(['1', '2', '3', '4'])
    expect(stage.group.states.ready).toBe(2)
    expect(stage.group.explain().join()).toContain('2 ready')
    stage.away(a)
    stage.back(a)
    expect(a.payloads).toEqual(['1', '2', '3', '4', '1', '2'])
  })

  test('QoS 2 and Shared Subscriptions do not time out', () => {
    const { stage } = sent(['1'], { qos: 2 }, { ackTimeoutSeconds: 2 })
    stage.pass(10_000)
    expect(stage.group.states.inFlight).toBe(1)
    const shared = sent(['1'], { face: 'share' }, { ackTimeoutSeconds: 2 })
    shared.stage.pass(10_000)
    expect(shared.stage.group.states.inFlight).toBe(1)
  })

  test('passed over: a shorter time-out, an echo that does not count, and the same consumer again', () => {
    const { stage, a } = sent(['1', '2', '3'], {}, { passedOverSeconds: 1 })
    a.answer(0, a.has[0])
    a.answer(0, a.has[1])
    stage.pass(1000)
    expect(a.payloads).toEqual(['1', '2', '3', '2'])
    expect(stage.failures(2)).toBe(1)
    expect(a.member).toMatchObject({ state: 'open', echoes: 1, used: 1 })
    expect(a.has.map(({ attempt }) => attempt)).toEqual([1, 2])
  })

  test('a number that is changed holds for running timers', () => {
    const { stage, a } = sent(['1'], {}, { ackTimeoutSeconds: 300 })
    stage.pass(5000)
    stage.group.change({ ...stage.rules, ackTimeoutSeconds: 2 })
    stage.settle()
    expect(a.member!.state).toBe('silent')
  })
})

describe('connections and Sessions', () => {
  test('connection lost, Session stays: loose, the oldest charged and recorded', () => {
    const { stage, a } = sent(['1', '2'])
    stage.away(a)
    expect(stage.group.states.inFlight).toBe(2)
    expect(stage.records).toEqual([
      { is: 'returned', lane: 0, sequence: 1, failures: 1, attempts: 0, due: 0 },
    ])
    expect(a.released).toEqual([])
  })

  test('client is back, nobody claimed it: sent, and nothing is handed out anew', () => {
    const { stage, a } = sent(['1', '2'])
    stage.away(a)
    stage.back(a)
    expect(a.payloads).toEqual(['1', '2'])
    a.answer()
    a.answer()
    expect(stage.group.states.messages).toBe(0)
  })

  test('another consumer is ready: sent there, the first Session forgets the identifier', () => {
    const { stage, a } = sent(['1', '2'])
    const b = stage.join('b', { prefetch: 1 })
    stage.away(a)
    expect(b.payloads).toEqual(['1'])
    expect(b.has[0]!.attempt).toBe(2)
    expect(a.released.map(({ sequence }) => sequence)).toEqual([1])
    stage.back(a)
    expect(a.member!.inFlight).toBe(1)
    stage.group.acknowledged(a.released[0]!, 0)
    expect(stage.group.states.inFlight).toBe(2)
  })

  test('the same at QoS 2: pinned, nobody else gets it', () => {
    const { stage, a } = sent(['1'], { qos: 2 })
    const b = stage.join('b', { qos: 2 })
    stage.away(a)
    stage.pass(3_600_000)
    expect(b.payloads).toEqual([])
    stage.back(a)
    a.answer()
    expect(stage.group.states.messages).toBe(0)
  })

  test('Session ends: ready, the oldest charged unless it was', () => {
    const { stage, a } = sent(['1', '2'])
    stage.away(a)
    stage.end(a)
    expect([stage.failures(1), stage.failures(2)]).toEqual([1, 0])
    expect(stage.group.states.ready).toBe(2)
    const b = stage.join('b')
    expect(b.has.map(({ attempt }) => attempt)).toEqual([2, 2])
    stage.end(b)
    expect([stage.failures(1), stage.failures(2)]).toEqual([2, 0])
  })

  test('rights are lost: ready, nothing charged', () => {
    const { stage, a } = sent(['1'])
    stage.end(a, false)
    expect(stage.failures(1)).toBe(0)
    expect(stage.group.states.ready).toBe(1)
    expect(a.member!.isGone).toBe(true)
  })

  test('Session ends, pinned: moving (in-doubt); from a Shared Subscription discarded', () => {
    const { stage, a } = sent(['1'], { qos: 2 })
    stage.away(a)
    stage.end(a)
    expect(stage.deaths).toMatchObject([{ reason: 'in-doubt', clientId: 'a' }])
    const shared = new Stage()
    const m = shared.join('m', { qos: 2, face: 'share' })
    shared.group.append(message('1', { qos: 2 }))
    shared.end(m)
    expect(shared.drops).toMatchObject([{ reason: 'session-ended' }])
    expect(shared.group.states.messages).toBe(0)
  })

  test('the limit is reached by lost connections: a loose one is taken from its Session', () => {
    const { stage, a } = sent(['1', '2'], {}, { deliveryLimit: 2 })
    stage.away(a)
    stage.back(a)
    stage.away(a)
    expect(stage.deaths).toMatchObject([{ reason: 'delivery-limit', sequence: 1 }])
    expect(a.released.map(({ sequence }) => sequence)).toEqual([1])
  })

  test('a pinned one never reaches it', () => {
    const { stage, a } = sent(['1'], { qos: 2 }, { deliveryLimit: 2 })
    for (let count = 0; count < 5; count++) {
      stage.away(a)
      stage.back(a)
    }
    expect(stage.deaths).toEqual([])
    expect(stage.group.states.inFlight).toBe(1)
  })

  test('bystanders of a consumer that dies again and again are not charged', () => {
    const stage = new Stage({ deliveryLimit: 3 })
    stage.put('1', '2', '3', '4', '5')
    for (let count = 0; count < 3; count++) stage.end(stage.join(`c${count}`, { prefetch: 5 }))
    expect(stage.deaths).toMatchObject([{ sequence: 1, reason: 'delivery-limit' }])
    expect([2, 3, 4, 5].map((sequence) => stage.failures(sequence))).toEqual([0, 0, 0, 0])
    expect(stage.group.states).toMatchObject({ ready: 4, moving: 1 })
  })

  test('UNSUBSCRIBE: what was sent is completed, nothing new', () => {
    const { stage, a } = sent(['1'])
    stage.group.leave(a.member!)
    stage.put('2')
    expect(a.payloads).toEqual(['1'])
    expect(a.member).toMatchObject({ state: 'closing', isGone: false })
    a.answer()
    expect(a.member!.isGone).toBe(true)
    expect([...stage.group.members]).toEqual([])
  })

  test('held, connection lost: held', () => {
    const { stage, a } = sent(['1'], { isExplicit: true })
    a.answer()
    stage.away(a)
    expect(stage.group.states.held).toBe(1)
    stage.end(a)
    expect(stage.group.states.held).toBe(1)
    expect(stage.failures(1)).toBe(0)
  })

  test('SUBSCRIBE again: the consumer stays, with another window', () => {
    const { stage, a } = sent(['1', '2', '3'], { prefetch: 1 })
    stage.group.rejoin(a.member!, { ...a.member!.options, prefetch: 2 })
    stage.settle()
    expect(a.payloads).toEqual(['1', '2'])
  })
})

describe('answers by tag', () => {
  function held(rules: object = {}) {
    const { stage, a } = sent(['1'], { isExplicit: true, leaseSeconds: 10 }, rules)
    const tag = parseTag(a.has[0]!.tag)!
    a.answer()
    return { stage, a, tag }
  }

  test('done: gone', () => {
    const { stage, tag } = held()
    expect(stage.group.isThere(tag)).toBe(true)
    expect(stage.group.answer(tag, 'done', null, '')).toBe('done')
    expect(stage.group.states.messages).toBe(0)
    expect(stage.group.answer(tag, 'done', null, '')).toBe('gone')
    expect(stage.group.isThere(tag)).toBe(false)
  })

  test('done while it is with somebody else, deferred or ready: gone all the same', () => {
    const { stage, a, tag } = held()
    const b = stage.join('b', { isExplicit: true })
    stage.pass(11_000)
    expect([a.payloads.length, b.payloads.length]).toEqual([1, 1])
    stage.group.answer(tag, 'done', null, '')
    expect(stage.group.states.messages).toBe(0)
    expect(b.abandoned.length).toBe(1)
    const other = held()
    other.stage.pass(10_000)
    expect(other.stage.group.states.deferred).toBe(1)
    expect(other.stage.group.answer(other.tag, 'done', null, '')).toBe('done')
    expect(other.stage.group.states.messages).toBe(0)
  })

  test('retry: deferred so long, a failure', () => {
    const { stage, tag } = held()
    stage.group.answer(tag, 'retry', 5, '')
    expect(lastRecord(stage)).toMatchObject({ is: 'returned', failures: 1, due: 6000 })
    expect(stage.group.states.deferred).toBe(1)
  })

  test('dead: moving (refused)', () => {
    const { stage, tag } = held()
    stage.group.answer(tag, 'dead', null, 'broken')
    expect(stage.deaths).toMatchObject([{ reason: 'refused', detail: 'broken' }])
  })

  test('extend: the lease ends later', () => {
    const { stage, tag } = held()
    stage.pass(5000)
    expect(stage.group.answer(tag, 'extend', 30, '')).toBe('done')
    expect(lastRecord(stage)).toMatchObject({ is: 'held', until: 36_000 })
    stage.pass(29_000)
    expect(stage.group.states.held).toBe(1)
  })

  test('a tag that is not the latest: only done has an effect', () => {
    const { stage, tag } = held()
    stage.pass(12_000)
    for (const verb of ['retry', 'dead', 'extend'] as const) {
      expect(stage.group.answer(tag, verb, 1, '')).toBe('gone')
    }
    expect(stage.group.states.inFlight).toBe(1)
  })

  test('an answer before PUBACK: the identifier stays in use until PUBACK', () => {
    const { stage, a } = sent(['1'], { isExplicit: true })
    stage.group.answer(parseTag(a.has[0]!.tag)!, 'done', null, '')
    expect(a.member!.echoes).toBe(1)
    a.answer()
    expect(a.member).toMatchObject({ echoes: 0, used: 0 })
  })

  test('what is no tag', () => {
    for (const text of ['', '0', '01', '01.1', '01.1.', '01.x.t', 'a1.1.t', '01.1.t.x', '0Z.1.t']) {
      expect(parseTag(text)).toBeNull()
    }
    expect(parseTag('3zz.12.aB_-9')).toEqual({ lane: 3, sequence: 1295, attempt: 12, token: 'aB_-9' })
  })
})

describe('expiry', () => {
  test('found when its turn comes: gone', () => {
    const stage = new Stage()
    stage.group.append(message('1', { expiresAt: 1500 }))
    stage.put('2')
    stage.time = 2000
    const a = stage.join('a')
    expect(a.payloads).toEqual(['2'])
    expect(stage.drops).toMatchObject([{ reason: 'expired', sequence: 1 }])
  })

  test('found by the sweep, in any state that nobody holds', () => {
    const stage = new Stage({ deadLetterReasons: ['expired'] })
    const a = stage.join('a', { prefetch: 2 })
    for (let count = 1; count <= 4; count++) stage.group.append(message(`${count}`, { expiresAt: 5000 }))
    stage.group.append(message('5'))
    a.answer(0x80, a.has[0], 3600)
    stage.pass(20_000)
    // 1 was deferred, 2 and 3 are held, 4 waited.
    expect(stage.deaths.map(({ sequence, reason }) => [sequence, reason])).toEqual([
      [1, 'expired'],
      [4, 'expired'],
    ])
    expect(stage.group.states).toMatchObject({ inFlight: 2, ready: 1, moving: 2 })
  })

  test('a loose one at its claim', () => {
    const stage = new Stage()
    const a = stage.join('a')
    stage.group.append(message('1', { expiresAt: 5000 }))
    stage.away(a)
    stage.time = 6000
    const b = stage.join('b')
    expect(b.payloads).toEqual([])
    expect(a.released.length).toBe(1)
    expect(stage.group.states.messages).toBe(0)
  })
})

describe('what the operator sees and takes', () => {
  test('look: the state of any message', () => {
    const { stage, a } = sent(['1', '2', '3', '4', '5'], { prefetch: 3 })
    a.answer(0x80)
    a.answer(0x83)
    stage.group.pause()
    a.answer()
    const states = [1, 2, 3, 4, 5, 6].map((sequence) => stage.group.look(0, sequence)?.state ?? null)
    expect(states).toEqual(['deferred', 'moving', null, 'in-flight', 'in-flight', null])
    expect(stage.group.look(0, 1)).toMatchObject({ state: 'deferred', failures: 1, attempts: 1 })
    stage.put('6')
    expect(stage.group.look(0, 6)).toMatchObject({ state: 'ready', failures: 0, attempts: 0 })
  })

  test('extract: settled unless somebody holds it', () => {
    const { stage, a } = sent(['1', '2', '3'], { prefetch: 2 })
    a.answer(0x80)
    stage.put('4')
    expect([1, 2, 4, 5].map((sequence) => stage.group.extract(0, sequence))).toEqual([
      true,
      false,
      true,
      false,
    ])
    expect([1, 4].map((sequence) => stage.group.extract(0, sequence))).toEqual([false, false])
    expect(stage.group.states).toMatchObject({ messages: 2, bytes: 4 })
    expect(stage.group.counts.acknowledged).toBe(0)
  })
})

describe('a start after a crash', () => {
  test('sent to a Session that is not stored: ready, no failure', () => {
    const { stage } = sent(['1', '2'])
    const again = stage.restarted()
    const b = again.join('b')
    expect(b.payloads).toEqual(['1', '2'])
    expect(again.failures(1)).toBe(0)
  })

  test('sent to a Session that is not stored, at QoS 2: in doubt, and nobody else gets it', () => {
    const { stage, a } = sent(['1', '2'], { qos: 2 })
    a.answer(0x97, a.has[1])
    // A checkpoint says the same as the records.
    expect([...stage.group.held()]).toEqual([...stage.log.held.values()])
    const again = stage.restarted()
    const b = again.join('b', { qos: 2 })
    expect(b.payloads).toEqual(['2'])
    expect(again.deaths).toMatchObject([{ reason: 'in-doubt', sequence: 1, attempts: 1, clientId: 'a' }])
    // Until it is moved, the next start must know, too.
    expect([...again.group.held()]).toEqual([...again.log.held.values()])
    const third = again.restarted()
    third.settle()
    expect(third.deaths.map(({ sequence, clientId }) => `${sequence} ${clientId}`)).toEqual(['1 a', '2 b'])
    for (const death of third.deaths) third.group.moved(death)
    expect([third.group.states.messages, [...third.group.held()].length]).toEqual([0, 0])
  })

  test('… and by a Shared Subscription discarded', () => {
    const stage = new Stage()
    stage.join('m', { qos: 2, face: 'share' })
    stage.group.append(message('1', { qos: 2 }))
    const again = stage.restarted()
    again.settle()
    expect(again.drops).toMatchObject([{ reason: 'session-ended', sequence: 1 }])
    expect(again.group.states.messages).toBe(0)
  })

  test('sent to a stored Session: loose or pinned, with its failures', () => {
    const { stage, a } = sent(['1', '2', '3'])
    a.answer()
    stage.away(a)
    const again = stage.restarted()
    const b = again.join('a', {}, false)
    const places = [2, 3].map((sequence) => ({ lane: 0, sequence, attempt: 1, packetId: sequence }))
    const handles = [
      again.group.adopt(b.member!, { ...places[0]!, qos: 1 }),
      again.group.adopt(b.member!, { ...places[1]!, qos: 2 }),
    ]
    expect(again.group.states).toMatchObject({ inFlight: 2, ready: 0, messages: 2 })
    expect(again.group.adopt(b.member!, { lane: 0, sequence: 1, attempt: 1, packetId: 1, qos: 1 })).toBeNull()
    again.back(b)
    again.group.acknowledged(handles[1]!, 0)
    again.group.acknowledged(handles[0]!, 0x80)
    expect(again.failures(2)).toBe(2)
    expect(again.group.states).toMatchObject({ messages: 1, deferred: 1, bytes: 2 })
  })

  test('what was taken from a Session by a time-out is not adopted', () => {
    const { stage } = sent(['1'], {}, { ackTimeoutSeconds: 2 })
    stage.pass(2000)
    const again = stage.restarted()
    const b = again.join('a', {}, false)
    expect(again.group.adopt(b.member!, { lane: 0, sequence: 1, attempt: 1, packetId: 1, qos: 1 })).toBeNull()
    expect(again.group.states.ready).toBe(1)
  })

  test('held and deferred: the same, deadlines go on', () => {
    const { stage, a } = sent(['1', '2'], { isExplicit: true, leaseSeconds: 10 })
    const tag = parseTag(a.has[1]!.tag)!
    a.answer(0x80, a.has[0], 5)
    a.answer(0, a.has[0])
    const again = stage.restarted()
    expect(again.group.states).toMatchObject({ held: 1, deferred: 1 })
    const b = again.join('b')
    again.pass(4999)
    expect(b.payloads).toEqual([])
    again.pass(1)
    expect(b.payloads).toEqual(['1'])
    expect(again.group.answer(tag, 'extend', 60, '')).toBe('done')
    again.pass(30_000)
    expect(again.group.states.held).toBe(1)
    expect(again.group.answer(tag, 'done', null, '')).toBe('done')
  })

  test('its state is what a checkpoint needs', () => {
    const { stage, a } = sent(['1', '2', '3', '4', '5', '6'])
    a.answer(0, a.has[1])
    a.answer(0, a.has[2])
    a.answer(0x80, a.has[0])
    const { lanes } = stage.group
    expect(lanes.map(({ floor, runs }) => [floor, [...runs]])).toEqual([
      [
        1,
        [
          { first: 2, next: 3 },
          { first: 4, next: 5 },
        ],
      ],
    ])
    expect([...stage.group.returned()]).toEqual([
      { lane: 0, sequence: 1, failures: 1, attempts: 1, due: 2000 },
    ])
  })
})
