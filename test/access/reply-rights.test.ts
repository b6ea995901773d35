import { describe, expect, test } from 'vitest'
import type { Request } from '../../src/access/decision.ts'
import { decideReply, type ReplyRules } from '../../src/access/reply-rights.ts'

const RULES: ReplyRules = { enabled: true, declare: 'auto', replyOpen: true }

function subscribe(filter: string): Request {
  return { action: 'subscribe', filter, qos: 1 }
}

function publish(topic: string): Request {
  return { action: 'publish', topic, qos: 1, retain: false }
}

/** Whether the client `c1` may; null if the sources of rights are asked. */
function decided(request: Request, rules: Partial<ReplyRules> = {}, clientId = 'c1'): boolean | null {
  const decision = decideReply({ ...RULES, ...rules }, { clientId, userName: 'u' }, request)
  return decision?.allow ?? null
}

describe('rights of reply queues', () => {
  test('a reply queue is consumed and made by the client of that name alone', () => {
    expect(decided(subscribe('$queue/reply.c1'))).toBe(true)
    expect(decided(subscribe('$queue/reply.c2'))).toBe(false)
    expect(decided(subscribe('$queue/reply.c1'), {}, '')).toBe(false)
    expect(decided({ action: 'declare', topic: '$queue/reply.c1' })).toBe(true)
    expect(decided({ action: 'declare', topic: '$queue/reply.c2' })).toBe(false)
  })

  test('the answer names the client, or says that there can be none', () => {
    const of = (filter: string, clientId: string) =>
      decideReply(RULES, { clientId, userName: null }, subscribe(filter))
    expect(of('$queue/reply.c2', 'c1')).toEqual({
      allow: false,
      source: 'the broker',
      rule: "a reply queue is consumed by the client 'c2' alone, without any right",
    })
    // It would be the name of a dead letter queue.
    const nobodys = { allow: false, source: 'the broker', rule: "reply.c1.dead is nobody's reply queue" }
    expect(of('$queue/reply.c1.dead', 'c1.dead')).toEqual(nobodys)
  })

  test('everybody may publish to one, unless `reply_open` is false', () => {
    expect(decided(publish('$queue/reply.c2/a'))).toBe(true)
    expect(decided(publish('$queue/reply.c2/a'), { declare: 'operator' })).toBe(true)
    expect(decided(publish('$queue/reply.c2/a'), { replyOpen: false })).toBe(null)
  })

  test('there is none where only the operator declares', () => {
    expect(decided(subscribe('$queue/reply.c1'), { declare: 'operator' })).toBe(false)
  })

  test('about all else, and without queues, the rules are asked', () => {
    expect(decided(subscribe('$queue/reply.c1'), { enabled: false })).toBe(null)
    expect(decideReply(null, { clientId: 'c1', userName: null }, subscribe('$queue/reply.c1'))).toBe(null)
    expect(decided(subscribe('$queue/jobs'))).toBe(null)
    expect(decided(subscribe('reply.c1'))).toBe(null)
    expect(decided(publish('reply.c1'))).toBe(null)
    expect(decided({ action: 'receive', topic: '$queue/reply.c1' })).toBe(null)
  })
})
