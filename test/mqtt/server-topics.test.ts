import { describe, expect, test } from 'vitest'
import { Reason } from '../../src/mqtt/reason.ts'
import {
  arrivingTopic,
  isDeadLetterName,
  isQueueName,
  isReplyName,
  parseAddress,
  parseSubscription,
  type QueueSubscription,
  withProperties,
} from '../../src/mqtt/server-topics.ts'
import { topicFilterError, topicNameError } from '../../src/mqtt/topics.ts'
import { filterMatches } from '../../src/routing/filter.ts'
import { Random } from '../fuzz/random.ts'

const NOTHING = { prefetch: null, ack: null, leaseSeconds: null, meta: null }

function subscription(filter: string): QueueSubscription {
  expect(topicFilterError(filter)).toBeNull()
  const parsed = parseSubscription(filter)
  if (parsed?.kind !== 'queue') throw new Error(`${filter}: ${parsed?.sentence ?? 'no address'}`)
  return parsed
}

/** Returns the sentence that refuses a filter. */
function refusal(filter: string): string | undefined {
  const parsed = parseSubscription(filter)
  if (parsed?.kind !== 'invalid') return undefined
  expect(parsed.reasonCode).toBe(Reason.TopicFilterInvalid)
  return parsed.sentence
}

describe('PUBLISH', () => {
  test.each([
    ['$queue/jobs', 'jobs', null, '$queue/jobs'],
    ['$q/jobs', 'jobs', null, '$queue/jobs'],
    ['$queue/jobs/a/b', 'jobs', 'a/b', '$queue/jobs/a/b'],
    ['$q/jobs/a', 'jobs', 'a', '$queue/jobs/a'],
    ['$queue/jobs//a', 'jobs', '/a', '$queue/jobs//a'],
    ['$queue/site-7.jobs_X', 'site-7.jobs_X', null, '$queue/site-7.jobs_X'],
    ['$queue/jobs/a;b=c', 'jobs', 'a;b=c', '$queue/jobs/a;b=c'],
  ])('%s goes into queue %s', (topic, name, inner, canonical) => {
    expect(parseAddress(topic)).toEqual({ kind: 'queue', name, topic: inner, canonical })
  })

  test.each([
    ['$ack/jobs/0k3.1.Ab3dEf7h', 'done'],
    ['$ack/jobs/0k3.1.Ab3dEf7h/retry', 'retry'],
    ['$ack/jobs/0k3.1.Ab3dEf7h/dead', 'dead'],
    ['$ack/jobs/0k3.1.Ab3dEf7h/extend', 'extend'],
  ])('%s acknowledges: %s', (topic, verb) => {
    expect(parseAddress(topic)).toEqual({ kind: 'ack', name: 'jobs', tag: '0k3.1.Ab3dEf7h', verb })
  })

  test.each([
    'a',
    'queue/jobs',
    '$',
    '$SYS/broker/uptime',
    '$queues/jobs',
    '$queuejobs',
    '$Queue/jobs',
    '$qq',
    '$streams/x',
    '$acknowledge/x',
    '$shared/x',
    '/$queue/jobs',
  ])('%s is a topic as any other', (topic) => {
    expect(parseAddress(topic)).toBeNull()
    expect(parseSubscription(topic)).toBeNull()
  })

  test.each([
    ['$queue', 'the name of the queue is missing'],
    ['$queue/', 'the name of the queue is missing'],
    ['$q//a', 'the name of the queue is missing'],
    ['$queue/jobs/', 'the topic after the queue jobs is empty'],
    ['$queue/jobs/$SYS/x', 'the topic after the queue jobs begins with $'],
    ['$queue/jobs;prefetch=1', "'jobs;prefetch=1' is not a name of 1 to 64 letters"],
    ['$queue/gärten', "'gärten' is not a name of 1 to 64 letters"],
    [`$queue/${'n'.repeat(65)}`, `'${'n'.repeat(64)}…' is not a name of 1 to 64 letters`],
    ['$stream/temps', 'nothing can be published to $stream'],
    ['$share/g/a', 'nothing can be published to $share'],
    ['$delayed/5/a', 'this version has no delayed messages'],
    ['$ack', 'the name of the queue is missing'],
    ['$ack/jobs', 'what follows $ack/jobs is no tag'],
    ['$ack/jobs/', 'what follows $ack/jobs is no tag'],
    ['$ack/jobs/a b', 'what follows $ack/jobs is no tag'],
    ['$ack/jobs/0k3.1.Ab3dEf7h/done', 'what follows the tag is one of retry, dead, extend'],
    ['$ack/jobs/0k3.1.Ab3dEf7h/', 'what follows the tag is one of retry, dead, extend'],
    ['$ack/jobs/0k3.1.Ab3dEf7h/retry/5', 'what follows the tag is one of retry, dead, extend'],
  ])('%s is refused with 0x90', (topic, sentence) => {
    expect(topicNameError(topic)).toBeNull()
    expect(parseAddress(topic)).toEqual({
      kind: 'invalid',
      reasonCode: Reason.TopicNameInvalid,
      sentence: expect.stringContaining(sentence),
    })
  })
})

describe('SUBSCRIBE', () => {
  test.each([
    ['$queue/jobs', 'topicless', null, '$queue/jobs'],
    ['$q/jobs', 'topicless', null, '$q/jobs'],
    ['$queue/jobs/#', 'full', null, '$queue/jobs'],
    ['$queue/jobs/orders/#', 'full', 'orders/#', '$queue/jobs'],
    ['$queue/jobs/orders/+/new', 'full', 'orders/+/new', '$queue/jobs'],
    ['$queue/jobs/+/#', 'full', '+/#', '$queue/jobs'],
    ['$queue/jobs//#', 'full', '/#', '$queue/jobs'],
    ['$queue/jobs;ack=explicit', 'topicless', null, '$queue/jobs;ack=explicit'],
    ['$queue/jobs;ack=explicit/#', 'full', null, '$queue/jobs;ack=explicit'],
    ['$queue/jobs;ack=explicit/+/#', 'tagged', null, '$queue/jobs;ack=explicit'],
    ['$q/jobs;ack=explicit;lease=9/+/a/#', 'tagged', 'a/#', '$q/jobs;ack=explicit;lease=9'],
    ['$queue/jobs;ack=packet/+/#', 'full', '+/#', '$queue/jobs;ack=packet'],
  ])('%s has the form %s and the filter %s', (filter, form, inner, prefix) => {
    expect(subscription(filter)).toMatchObject({
      name: 'jobs',
      form,
      filter: inner,
      prefix,
      canonical: '$queue/jobs',
    })
  })

  test('parameters are read', () => {
    expect(subscription('$queue/jobs').parameters).toEqual(NOTHING)
    expect(subscription('$queue/jobs;prefetch=auto').parameters).toEqual({ ...NOTHING, prefetch: 'auto' })
    expect(subscription('$queue/jobs;prefetch=1000;ack=explicit;lease=86400;meta=yes/#').parameters).toEqual({
      prefetch: 1000,
      ack: 'explicit',
      leaseSeconds: 86_400,
      meta: true,
    })
    expect(subscription('$queue/jobs;meta=no').parameters).toEqual({ ...NOTHING, meta: false })
  })

  test.each([
    ['$queue', 'the name of the queue is missing'],
    ['$queue/', 'the name of the queue is missing'],
    ['$queue/+', 'a wildcard cannot stand for the name of a queue'],
    ['$queue/#', 'a wildcard cannot stand for the name of a queue'],
    ['$queue/+/jobs', 'a wildcard cannot stand for the name of a queue'],
    ['$queue/;prefetch=1', 'the name of the queue is missing'],
    ['$queue/a b', "'a b' is not a name of 1 to 64 letters"],
    [`$queue/${'n'.repeat(65)}/#`, 'is not a name of 1 to 64 letters'],
    ['$queue/jobs/', 'the topic filter after the queue jobs is empty'],
    ['$queue/jobs/$SYS/#', 'the topic filter after the queue jobs begins with $'],
    ['$queue/jobs;ack=explicit/+', 'the tag of a message of queue jobs is asked for by /+/#'],
    ['$queue/jobs;ack=explicit/+/', 'the topic filter after the queue jobs is empty'],
    ['$queue/jobs;ack=explicit/+/$SYS/#', 'the topic filter after the queue jobs begins with $'],
    ['$queue/jobs;', "'' is not key=value"],
    ['$queue/jobs;prefetch', "'prefetch' is not key=value"],
    ['$queue/jobs;prefetch=', "'prefetch=' is not key=value"],
    ['$queue/jobs;Prefetch=1', "'Prefetch=1' is not key=value"],
    ['$queue/jobs;offset=earliest', "'offset' is not one of prefetch, ack, lease, meta"],
    ['$queue/jobs;prefetch=1;prefetch=1', 'prefetch occurs twice'],
    ['$queue/jobs;prefetch=0', 'prefetch is auto or 1 to 1000, not 0'],
    ['$queue/jobs;prefetch=1001', 'prefetch is auto or 1 to 1000, not 1001'],
    ['$queue/jobs;prefetch=01', 'prefetch is auto or 1 to 1000, not 01'],
    ['$queue/jobs;prefetch=1e2', 'prefetch is auto or 1 to 1000, not 1e2'],
    ['$queue/jobs;ack=manual', 'ack is packet or explicit, not manual'],
    ['$queue/jobs;ack=explicit;lease=86401', 'lease is 1 to 86400 seconds, not 86401'],
    ['$queue/jobs;meta=true', 'meta is yes or no, not true'],
    [`$queue/jobs;meta=${'y'.repeat(200)}`, 'queue jobs and its parameters have more than 200 bytes'],
    ['$ack/jobs/#', 'acknowledgements are published to $ack, nobody can subscribe to it'],
    ['$delayed/#', 'messages are published to $delayed, nobody can subscribe to it'],
    ['$stream/temps/#', 'this version has no streams'],
    ['$share/g/$queue/jobs', '$queue cannot be in a Shared Subscription'],
    ['$share/g/$q/jobs/#', '$q cannot be in a Shared Subscription'],
    ['$share/g/$ack/jobs', '$ack cannot be in a Shared Subscription'],
  ])('%s is refused with 0x8F', (filter, sentence) => {
    expect(topicFilterError(filter)).toBeNull()
    expect(refusal(filter)).toContain(sentence)
  })

  test('other Shared Subscriptions are as they were', () => {
    for (const filter of [
      '$share/jobs/jobs/#',
      '$share/g/$SYS/#',
      '$share/$queue/a',
      '$share/g/#',
      '$share/g/$share/g/a',
    ]) {
      expect(parseSubscription(filter)).toBeNull()
    }
  })

  test('a name has up to 64 bytes, its level up to 200', () => {
    const name = 'n'.repeat(64)
    expect(subscription(`$queue/${name}`).name).toBe(name)
    const parameters = ';ack=explicit;lease=1;meta=yes;prefetch='
    const level = `${name}${parameters}${'1'.repeat(200 - name.length - parameters.length)}`
    // The length is in order, so the value is what is refused.
    expect(refusal(`$queue/${level}`)).toContain('prefetch is')
    expect(refusal(`$queue/${level}1`)).toContain('more than 200 bytes')
  })

  test('a refusal never repeats more than 64 characters of the filter at once', () => {
    const long = refusal(`$queue/jobs;${'k'.repeat(150)}=1`)
    expect(long?.length).toBeLessThan(130)
  })
})

describe('User Properties of SUBSCRIBE', () => {
  const merged = (filter: string, ...properties: [string, string][]) =>
    withProperties(subscription(filter).parameters, properties)

  test('say the same as parameters, and parameters win', () => {
    expect(merged('$queue/jobs', ['queue-prefetch', '7'], ['queue-meta', 'yes'])).toEqual({
      ...NOTHING,
      prefetch: 7,
      meta: true,
    })
    expect(merged('$queue/jobs;prefetch=3', ['queue-prefetch', '7'])).toMatchObject({ prefetch: 3 })
    expect(merged('$queue/jobs', ['queue-ack', 'explicit'], ['queue-lease', '5'])).toMatchObject({
      ack: 'explicit',
      leaseSeconds: 5,
    })
    expect(merged('$queue/jobs', ['queue-prefetch', '7'], ['queue-prefetch', '8'])).toMatchObject({
      prefetch: 8,
    })
  })

  test('others are not heard', () => {
    expect(merged('$queue/jobs', ['prefetch', '0'], ['queue-colour', 'red'], ['x', ''])).toEqual(NOTHING)
  })

  test('a value that does not fit is refused', () => {
    expect(merged('$queue/jobs', ['queue-prefetch', '0'])).toEqual({
      kind: 'invalid',
      reasonCode: Reason.TopicFilterInvalid,
      sentence: 'the User Property queue-prefetch is auto or 1 to 1000, not 0',
    })
  })

  test('lease in the filter needs explicit acknowledgement', () => {
    expect(merged('$queue/jobs;lease=5')).toMatchObject({ sentence: 'lease needs ack=explicit' })
    expect(merged('$queue/jobs;lease=5', ['queue-ack', 'explicit'])).toMatchObject({ leaseSeconds: 5 })
    // The property holds for all filters of the packet, so it need not mean this one.
    expect(merged('$queue/jobs', ['queue-lease', '5'])).toMatchObject({ leaseSeconds: 5, ack: null })
  })
})

describe('[MQTT-3.3.2-3] the arriving topic matches the filter of the Subscription', () => {
  test.each([
    ['$queue/jobs', 'jobs/a', '$queue/jobs'],
    ['$queue/jobs', null, '$queue/jobs'],
    ['$queue/jobs/#', 'jobs/a', '$queue/jobs/jobs/a'],
    ['$queue/jobs/#', null, '$queue/jobs'],
    ['$queue/jobs/#', '/', '$queue/jobs//'],
    ['$queue/jobs;prefetch=1/#', 'a/b', '$queue/jobs;prefetch=1/a/b'],
    ['$q/jobs/a/+', 'a/b', '$q/jobs/a/b'],
    ['$queue/jobs;ack=explicit/+/#', 'a', '$queue/jobs;ack=explicit/0k3.1.Ab3dEf7h/a'],
    ['$queue/jobs;ack=explicit/+/#', null, '$queue/jobs;ack=explicit/0k3.1.Ab3dEf7h'],
    ['$queue/jobs;ack=explicit/+/a/#', 'a/b', '$queue/jobs;ack=explicit/0k3.1.Ab3dEf7h/a/b'],
    ['$queue/jobs;ack=explicit/#', 'a', '$queue/jobs;ack=explicit/a'],
  ])('%s and the topic %s', (filter, topic, arrives) => {
    expect(arrivingTopic(subscription(filter), topic, '0k3.1.Ab3dEf7h')).toBe(arrives)
    expect(filterMatches(filter, arrives)).toBe(true)
  })

  test('with random Subscriptions and topics', () => {
    const seed = Math.floor(Math.random() * 2 ** 32)
    const random = new Random(seed)
    const levels = ['a', 'b', '', 'ü', 'x;y=z', '$c', '0', 'a b']
    const some = (pick: () => string) => Array.from({ length: 1 + random.below(4) }, pick)
    const forms = new Set<string>()
    for (let round = 0; round < 20_000; round++) {
      const topic = some(() => random.of(levels)).join('/')
      if (topic === '' || topic.startsWith('$')) continue
      const inner = filterOf(random, topic)
      const filter =
        random.of(['$queue', '$q']) +
        `/${random.of(['jobs', 'A.b-c_9', 'n'.repeat(64)])}` +
        random.of(['', ';prefetch=9', ';meta=yes;prefetch=auto', ';ack=explicit', ';ack=explicit;lease=60']) +
        random.of(['', '/#', `/${inner}`, '/+/#', `/+/${inner}`])
      const parsed = parseSubscription(filter)
      // Such as /+/$c: not every random filter is one.
      if (parsed?.kind !== 'queue') continue
      const queued = random.below(8) === 0 && parsed.filter === null ? null : topic
      // The queue has this filter, so it took nothing else.
      if (parsed.filter !== null && !filterMatches(parsed.filter, topic)) continue
      forms.add(parsed.form)
      const arrives = arrivingTopic(parsed, queued, `0${random.below(1e9).toString(36)}.1.Ab3dEf7h`)
      expect(filterMatches(filter, arrives), `seed ${seed}: ${filter} and ${arrives}`).toBe(true)
      expect(topicNameError(arrives)).toBeNull()
    }
    expect([...forms].sort()).toEqual(['full', 'tagged', 'topicless'])
  })
})

/** Returns a filter that matches the topic. */
function filterOf(random: Random, topic: string): string {
  const levels = topic.split('/').map((level) => (random.below(3) === 0 ? '+' : level))
  if (random.below(3) > 0) return levels.join('/')
  return [...levels.slice(0, random.below(levels.length + 1)), '#'].join('/')
}

test('names', () => {
  expect(['jobs', 'a.b', '-', 'Z_9'].every(isQueueName)).toBe(true)
  expect(['', 'a/b', 'a;b', 'a b', 'ü', 'n'.repeat(65)].some(isQueueName)).toBe(false)
  expect([isDeadLetterName('jobs.dead'), isDeadLetterName('jobs.deadly')]).toEqual([true, false])
  expect([isReplyName('reply.c1'), isReplyName('replies')]).toEqual([true, false])
})
