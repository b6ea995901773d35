import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NO_IDENTIFIERS, Topic } from '../../src/mqtt/message.ts'
import type { QoS, SubscriptionOptions } from '../../src/mqtt/packet.ts'
import { innerFilter } from '../../src/routing/filter.ts'
import { type Inlet, NO_INLETS } from '../../src/routing/inlet.ts'
import type { Route } from '../../src/routing/route.ts'
import { Router } from '../../src/routing/router.ts'
import { mergeWithout, type RouteEntry } from '../../src/routing/subscription.ts'
import { EXAMPLES, naiveMatches } from './naive.ts'

interface Client {
  readonly name: string
}

const ann: Client = { name: 'ann' }
const bob: Client = { name: 'bob' }
const cid: Client = { name: 'cid' }

function options(qos: QoS, changes: Partial<SubscriptionOptions> = {}): SubscriptionOptions {
  return { qos, noLocal: false, retainAsPublished: false, retainHandling: 0, ...changes }
}

function names(route: Route<Client>): string[] {
  return route.entries.map((entry) => entry.subscriber.name).sort()
}

describe('matching', () => {
  test.each(EXAMPLES)('section 4.7: %s and %s: %s', (filter, topic, matches) => {
    const router = new Router<Client>()
    router.subscribe(ann, filter, options(0), 0)
    expect(names(router.route(new Topic(topic)))).toEqual(matches ? ['ann'] : [])
    router.subscribe(bob, `$share/group/${filter}`, options(0), 0)
    expect(router.route(new Topic(topic)).groups.map((group) => group.share)).toEqual(
      matches ? [`$share/group/${filter}`] : [],
    )
  })

  test('all examples of section 4.7 at once, subscribed and unsubscribed', () => {
    const router = new Router<Client>()
    const filters = [...new Set(EXAMPLES.map(([filter]) => filter))]
    for (const filter of filters) router.subscribe({ name: filter }, filter, options(0), 0)
    for (const topic of new Set(EXAMPLES.map(([, name]) => name))) {
      const expected = filters.filter((filter) => naiveMatches(filter, topic)).sort()
      expect(names(router.route(new Topic(topic)))).toEqual(expected)
    }
  })

  test('a filter of many levels is matched without recursion', () => {
    const router = new Router<Client>()
    const levels = '/'.repeat(60_000)
    for (const end of ['a', 'b', '+', '#']) router.subscribe({ name: end }, `${levels}${end}`, options(0), 0)
    expect(names(router.route(new Topic(`${levels}a`)))).toEqual(['#', '+', 'a'])
    for (const end of ['a', 'b', '+', '#']) {
      const [entry] = router.route(new Topic(`${levels}${end}`)).entries
      expect(entry).toBeDefined()
    }
  })
})

describe('Subscriptions', () => {
  test('[MQTT-3.8.4-3] the same filter again replaces the Subscription', () => {
    const router = new Router<Client>()
    for (const filter of ['a/b', 'a/+', '$share/g/a/b']) {
      const first = router.subscribe(ann, filter, options(0), 5)
      expect(first).toMatchObject({ subscriber: ann, filter, options: options(0), identifier: 5 })
      expect(router.subscribe(ann, filter, options(0), 5)).toBe(first)
      const count = router.subscriptionCount
      const second = router.subscribe(ann, filter, options(2, { retainHandling: 1 }), 6)
      expect(second).not.toBe(first)
      expect(router.subscriptionCount).toBe(count)
      expect(router.unsubscribe(ann, filter)).toMatchObject({
        filter,
        options: options(2, { retainHandling: 1 }),
        identifier: 6,
      })
      expect(router.unsubscribe(ann, filter)).toBeNull()
    }
    expect(router.nodeCount).toBe(0)
  })

  test('[MQTT-3.10.4-1] filters are compared character by character', () => {
    const router = new Router<Client>()
    router.subscribe(ann, 'a/+', options(0), 0)
    router.subscribe(ann, 'a/b', options(0), 0)
    for (const filter of ['a/#', '+/+', 'a/c', 'a', 'a/+/', 'A/b', '$share/g/a/b', '$share/g/a/+']) {
      expect(router.unsubscribe(ann, filter)).toBeNull()
    }
    expect(router.unsubscribe(bob, 'a/b')).toBeNull()
    expect(router.subscriptionCount).toBe(2)
  })

  test('[MQTT-3.3.4-2] overlapping Subscriptions become one entry at the highest QoS', () => {
    const router = new Router<Client>()
    router.subscribe(ann, 'a/b', options(0), 0)
    router.subscribe(ann, 'a/+', options(2), 0)
    router.subscribe(ann, 'a/#', options(1, { retainAsPublished: true }), 0)
    router.subscribe(bob, '#', options(1), 0)
    const route = router.route(new Topic('a/b'))
    expect(names(route)).toEqual(['ann', 'bob'])
    expect(route.entries.find((entry) => entry.subscriber === ann)).toMatchObject({
      qos: 2,
      retainAsPublished: true,
      noLocal: false,
      identifiers: [],
    })
    const alone = route.entries.find((entry) => entry.subscriber === bob)
    expect(alone).toMatchObject({ qos: 1, retainAsPublished: false })
    expect(alone?.identifiers).toBe(NO_IDENTIFIERS)
  })

  test('[MQTT-3.3.4-4] all Subscription Identifiers are kept, including equal ones', () => {
    const router = new Router<Client>()
    router.subscribe(ann, 'a/b', options(0), 7)
    router.subscribe(ann, 'a/+', options(0), 0)
    router.subscribe(ann, 'a/#', options(0), 9)
    router.subscribe(ann, '+/b', options(0), 7)
    const [entry] = router.route(new Topic('a/b')).entries
    expect([...entry!.identifiers].sort()).toEqual([7, 7, 9])
    expect(router.route(new Topic('a/c')).entries[0]!.identifiers).toEqual([9])
  })

  test('[MQTT-3.8.3-3] No Local removes its Subscriptions, and only those, from the merged entry', () => {
    const router = new Router<Client>()
    router.subscribe(ann, 'a/b', options(2, { noLocal: true, retainAsPublished: true }), 1)
    const topic = new Topic('a/b')
    const sole = router.route(topic).entries[0]!
    expect(sole.noLocal).toBe(true)
    expect(mergeWithout(sole)).toBeNull()

    router.subscribe(ann, 'a/+', options(1), 2)
    router.subscribe(ann, 'a/#', options(0), 3)
    const [entry] = router.route(topic).entries
    expect(entry).toMatchObject({ qos: 2, noLocal: true, retainAsPublished: true })
    const rest = mergeWithout(entry!)
    expect(rest).toMatchObject({ subscriber: ann, qos: 1, noLocal: false, retainAsPublished: false })
    expect([...rest!.identifiers].sort()).toEqual([2, 3])
    expect([...entry!.identifiers].sort()).toEqual([1, 2, 3])

    const [plain] = router.route(new Topic('a/c')).entries
    expect(mergeWithout(plain!)).toBe(plain)
  })

  test('subscribers in several long lists have one entry each', () => {
    const router = new Router<Client>()
    const clients = Array.from({ length: 100 }, (_, index) => ({ name: `${index}` }))
    const filters = ['a/b', 'a/+', '+/b', '#']
    for (const [step, filter] of filters.entries()) {
      for (let index = 0; index < 100; index += step + 1) {
        router.subscribe(clients[index]!, filter, options(step === 2 ? 1 : 0), step + 1)
      }
    }
    // None of these is in the longest list.
    const others = clients.slice(0, 40).map((client) => ({ name: `other ${client.name}` }))
    for (const other of others)
      for (const filter of ['a/+', '+/b']) router.subscribe(other, filter, options(0), 9)
    const { entries } = router.route(new Topic('a/b'))
    expect(entries.length).toBe(140)
    for (const { subscriber, identifiers, qos } of entries) {
      const index = clients.indexOf(subscriber)
      const steps = [0, 1, 2, 3].filter((step) => index % (step + 1) === 0)
      expect([...identifiers].sort()).toEqual(index === -1 ? [9, 9] : steps.map((step) => step + 1))
      expect(qos).toBe(index !== -1 && index % 3 === 0 ? 1 : 0)
    }
  })

  test('a Route that is being read does not change', () => {
    const router = new Router<Client>()
    const clients = Array.from({ length: 100 }, (_, index) => ({ name: `${index}` }))
    for (const client of clients) router.subscribe(client, 'a', options(0), 0)
    const { entries } = router.route(new Topic('a'))
    const before = [...entries]
    for (const client of clients.slice(0, 99)) router.unsubscribe(client, 'a')
    router.subscribe(clients[99]!, 'a', options(1), 0)
    router.subscribe(ann, 'a', options(1), 0)
    expect(entries).toEqual(before)
    expect(names(router.route(new Topic('a')))).toEqual(['99', 'ann'])
  })
})

describe('Shared Subscriptions', () => {
  test('each group of a filter is separate from the others and from unshared Subscriptions', () => {
    const router = new Router<Client>()
    const topic = new Topic('a/b')
    router.subscribe(ann, '$share/one/a/+', options(1), 4)
    router.subscribe(bob, '$share/one/a/+', options(2), 0)
    router.subscribe(ann, '$share/two/a/+', options(0), 0)
    router.subscribe(ann, '$share/one/a/b', options(0), 0)
    router.subscribe(cid, 'a/+', options(0), 0)
    const route = router.route(topic)
    expect(names(route)).toEqual(['cid'])
    expect(route.groups.map((group) => group.share).sort()).toEqual([
      '$share/one/a/+',
      '$share/one/a/b',
      '$share/two/a/+',
    ])
    const group = router.shareGroup('$share/one/a/+')!
    expect(route.groups).toContain(group)
    expect(group.members.map((member) => member.subscriber)).toEqual([ann, bob])
    expect(group.members[0]).toMatchObject({ filter: '$share/one/a/+', identifier: 4, options: options(1) })
    expect(router.subscriptionCount).toBe(5)
    expect(router.sharedCount).toBe(4)
  })

  test('a group keeps its cursor while members come and go, and ends with the last', () => {
    const router = new Router<Client>()
    const topic = new Topic('a')
    router.subscribe(ann, '$share/g/a', options(1), 0)
    const [group] = router.route(topic).groups
    const read = group!.members
    group!.cursor = 41
    router.subscribe(bob, '$share/g/a', options(1), 0)
    router.unsubscribe(ann, '$share/g/a')
    expect(router.route(topic).groups[0]).toBe(group)
    expect(router.misses).toBe(1) // members are no reason to make the Route again
    expect(group!.members.map((member) => member.subscriber)).toEqual([bob])
    expect(read.map((member) => member.subscriber)).toEqual([ann])
    expect(group!.cursor).toBe(41)
    router.unsubscribe(bob, '$share/g/a')
    expect(router.route(topic).groups).toEqual([])
    expect(router.shareGroup('$share/g/a')).toBeNull()
    expect(group!.members).toEqual([])
    expect(router.nodeCount).toBe(0)
  })
})

describe('the cached Route', () => {
  function warm(router: Router<Client>, count: number, name: (index: number) => string): Topic[] {
    const topics = Array.from({ length: count }, (_, index) => new Topic(name(index)))
    for (const topic of topics) router.route(topic)
    router.misses = 0
    return topics
  }

  function missesOf(router: Router<Client>, topics: readonly Topic[]): number {
    const before = router.misses
    for (const topic of topics) router.route(topic)
    return router.misses - before
  }

  test('is the same object until something changes', () => {
    const router = new Router<Client>()
    router.subscribe(ann, 'a', options(0), 0)
    const topic = new Topic('a')
    expect(router.route(topic)).toBe(router.route(topic))
    expect(router.misses).toBe(1)
    router.subscribe(ann, 'a', options(0), 0)
    router.route(topic)
    expect(router.misses).toBe(1) // the same Subscription again is no change
    router.subscribe(ann, 'a', options(1), 0)
    expect(router.route(topic).entries[0]!.qos).toBe(1)
    expect(router.misses).toBe(2)
  })

  test('an exact filter invalidates only its own topic', () => {
    const router = new Router<Client>()
    router.subscribe(ann, 'site/+/state', options(0), 0)
    const topics = warm(router, 1000, (index) => `site/${index}/state`)
    router.subscribe(bob, 'site/500/state', options(0), 0)
    expect(missesOf(router, topics)).toBe(1)
    expect(names(router.route(topics[500]!))).toEqual(['ann', 'bob'])
    router.unsubscribe(bob, 'site/500/state')
    expect(missesOf(router, topics)).toBe(1)
    expect(names(router.route(topics[500]!))).toEqual(['ann'])
  })

  test('a wildcard filter invalidates only topics below its literal levels', () => {
    const router = new Router<Client>()
    const topics = warm(router, 1000, (index) => `site/${index % 100}/${Math.floor(index / 100)}`)
    for (const filter of ['site/7/#', 'site/7/+', '$share/g/site/7/+/#']) {
      router.subscribe(bob, filter, options(0), 0)
      expect(missesOf(router, topics)).toBe(10)
      router.unsubscribe(bob, filter)
      expect(missesOf(router, topics)).toBe(10)
    }
    router.subscribe(bob, 'site/7', options(0), 0)
    expect(missesOf(router, topics)).toBe(0)
  })

  test('a filter with a literal level after a + invalidates only topics with that level', () => {
    const router = new Router<Client>()
    const topics = warm(router, 1000, (index) => `site/${index}/${index % 10 === 0 ? 'alarm' : 'state'}`)
    router.subscribe(bob, 'site/+/alarm/#', options(0), 0)
    expect(missesOf(router, topics)).toBe(100)
    router.subscribe(bob, '+/5/state', options(0), 0)
    expect(missesOf(router, topics)).toBe(1)
    router.subscribe(bob, '+/+/state', options(0), 0)
    expect(missesOf(router, topics)).toBe(1000)
  })

  test('constant subscribing and unsubscribing keeps the Routes of unrelated topics', () => {
    const router = new Router<Client>()
    const topics = warm(router, 100, (index) => `sensor/${index}/temperature`)
    let routed = 0
    for (let round = 0; round < 5000; round++) {
      const client = { name: `${round}` }
      router.subscribe(client, `device/${round}/command`, options(1), 0)
      router.subscribe(client, `device/${round}/config/#`, options(1), 0)
      router.route(topics[round % topics.length]!)
      router.unsubscribe(client, `device/${round}/command`)
      router.unsubscribe(client, `device/${round}/config/#`)
      router.route(topics[(round * 7) % topics.length]!)
      routed += 2
    }
    expect(router.misses).toBeLessThan(routed / 20)
  })

  test('an evicted topic that is still in use does not use an old Route', () => {
    const router = new Router<Client>()
    const evicted = new Topic('a/b')
    router.route(evicted)
    const again = new Topic('a/b')
    router.subscribe(ann, 'a/b', options(0), 0)
    expect(names(router.route(again))).toEqual(['ann'])
    expect(names(router.route(evicted))).toEqual(['ann'])
    router.unsubscribe(ann, 'a/b')
    expect(names(router.route(evicted))).toEqual([])
    expect(names(router.route(again))).toEqual([])
  })

  test('a Route of another router is not used', () => {
    const router = new Router<Client>()
    const topic = new Topic('a')
    router.subscribe(ann, 'a', options(0), 0)
    router.route(topic)
    expect(names(new Router<Client>().route(topic))).toEqual([])
  })

  test('a stale Route is dropped, a valid one stays', () => {
    const router = new Router<Client>()
    const topic = new Topic('a')
    router.subscribe(ann, 'a', options(0), 0)
    const route = router.route(topic)
    router.subscribe(bob, 'b', options(0), 0)
    router.release(topic)
    expect(topic.route).toBe(route)
    router.unsubscribe(ann, 'a')
    router.release(topic)
    expect(topic.route).toBeNull()
  })

  test('large Routes are cached in bounded number', () => {
    const router = new Router<Client>()
    for (let index = 0; index < 5000; index++) router.subscribe({ name: `${index}` }, 'a/#', options(0), 0)
    const topics = Array.from({ length: 200 }, (_, index) => new Topic(`a/${index}`))
    for (const topic of topics) expect(router.route(topic).entries.length).toBe(5000)
    expect(topics.filter((topic) => topic.route !== null).length).toBe(Math.floor(524_288 / 5000))
    expect(topics.at(-1)!.route).not.toBeNull()
    const lists = new Set(topics.map((topic) => router.route(topic).entries))
    expect(lists.size).toBe(1) // one list for all topics, not a copy each
  })
})

describe('memory of cached Routes', () => {
  test('is bounded for a subscriber with very many matching Subscriptions, and for very many groups', () => {
    for (const share of [() => '', (bits: number) => `$share/g${bits}/`]) {
      const router = new Router<Client>()
      for (let bits = 0; bits < 2 ** 12; bits++) {
        const levels = Array.from({ length: 12 }, (_, level) => ((bits >> level) & 1 ? 'a' : '+'))
        router.subscribe(ann, `${share(bits)}${levels.join('/')}/#`, options(0), 1)
      }
      const topics = Array.from({ length: 200 }, (_, index) => new Topic(`${'a/'.repeat(12)}${index}`))
      for (const topic of topics) {
        const { entries, groups } = router.route(topic)
        expect((entries[0]?.identifiers.length ?? 0) + groups.length).toBe(2 ** 12)
      }
      expect(topics.filter((topic) => topic.route !== null).length).toBe(524_288 / 2 ** 12)
      expect(topics.at(-1)!.route).not.toBeNull()
    }
  })
})

describe('names of topics with cached Routes', () => {
  test('are limited in number when they are long', () => {
    const router = new Router<Client>()
    for (let index = 0; index < 65; index++) router.subscribe({ name: `${index}` }, '#', options(0), 0)
    const topics = Array.from({ length: 400 }, (_, index) => new Topic(`${'x'.repeat(65_000)}${index}`))
    for (const topic of topics) expect(router.route(topic).entries.length).toBe(65)
    expect(topics.filter((topic) => topic.route !== null).length).toBeLessThan(260)
    expect(topics.at(-1)!.route).not.toBeNull()
  })
})

describe('compared with the naive matcher', () => {
  // Few names, so that most topics match several filters and most filters have several subscribers.
  const level = fc.oneof(
    { weight: 8, arbitrary: fc.constantFrom('a', 'b') },
    { weight: 1, arbitrary: fc.constantFrom('', '$s', '\u00e9', 'aa') },
  )
  const topicName = fc.array(level, { minLength: 1, maxLength: 3 }).map((levels) => levels.join('/') || '/')
  const plainFilter = fc
    .tuple(fc.array(fc.oneof(level, fc.constant('+')), { minLength: 1, maxLength: 3 }), fc.boolean())
    .map(([levels, multi]) => (multi ? [...levels.slice(0, 2), '#'] : levels).join('/') || '/')
  const filter = fc.oneof(
    { weight: 4, arbitrary: plainFilter },
    { weight: 1, arbitrary: fc.constant('#') },
    {
      weight: 1,
      arbitrary: fc.tuple(fc.constantFrom('g', 'h'), plainFilter).map(([g, f]) => `$share/${g}/${f}`),
    },
  )
  const subscriptionOptions: fc.Arbitrary<SubscriptionOptions> = fc.record({
    qos: fc.constantFrom<QoS>(0, 1, 2),
    noLocal: fc.boolean(),
    retainAsPublished: fc.boolean(),
    retainHandling: fc.constantFrom<0 | 1 | 2>(0, 1, 2),
  })
  const who = fc.oneof(fc.nat({ max: 2 }), fc.nat({ max: 39 }))
  const action = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        type: fc.constant('subscribe' as const),
        who,
        filter,
        options: subscriptionOptions,
        identifier: fc.nat({ max: 3 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('unsubscribe' as const), who, filter }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('drop' as const), pick: fc.nat() }) },
    { weight: 5, arbitrary: fc.record({ type: fc.constant('route' as const), topic: topicName }) },
  )

  interface Held {
    readonly client: Client
    readonly filter: string
    readonly options: SubscriptionOptions
    readonly identifier: number
  }

  function describeEntry(entry: RouteEntry<Client>): object {
    return {
      name: entry.subscriber.name,
      qos: entry.qos,
      retainAsPublished: entry.retainAsPublished,
      noLocal: entry.noLocal,
      identifiers: [...entry.identifiers].sort(),
      filters: entry.subscriptions.map((subscription) => subscription.filter).sort(),
      identifiersOfAll: entry.subscriptions.map((subscription) => subscription.identifier).sort(),
    }
  }

  function naiveEntry(held: readonly Held[]): object {
    return {
      name: held[0]!.client.name,
      qos: Math.max(...held.map((each) => each.options.qos)),
      retainAsPublished: held.some((each) => each.options.retainAsPublished),
      noLocal: held.some((each) => each.options.noLocal),
      identifiers: held
        .map((each) => each.identifier)
        .filter((identifier) => identifier !== 0)
        .sort(),
      filters: held.map((each) => each.filter).sort(),
      identifiersOfAll: held.map((each) => each.identifier).sort(),
    }
  }

  test('subscribing, replacing, unsubscribing and routing in any order', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 200, size: 'max' }), (actions) => {
        const router = new Router<Client>()
        const clients = Array.from({ length: 40 }, (_, index) => ({ name: `c${index}` }))
        const model = new Map<string, Held>()
        const topics = new Map<string, Topic>()
        const remove = (key: string, client: Client, name: string) => {
          const held = model.get(key)
          const removed = router.unsubscribe(client, name)
          if (held === undefined) expect(removed).toBeNull()
          else {
            expect(removed).toMatchObject({ subscriber: client, filter: name, options: held.options })
          }
          model.delete(key)
        }
        for (const step of actions) {
          if (step.type === 'subscribe') {
            const client = clients[step.who]!
            const key = `${step.who} ${step.filter}`
            const count = router.subscriptionCount
            const { filter, options, identifier } = step
            const held = router.subscribe(client, filter, options, identifier)
            expect(held).toMatchObject({ subscriber: client, filter, options, identifier })
            expect(router.subscriptionCount).toBe(count + (model.has(key) ? 0 : 1))
            model.set(key, { client, filter, options, identifier })
          } else if (step.type === 'unsubscribe') {
            remove(`${step.who} ${step.filter}`, clients[step.who]!, step.filter)
          } else if (step.type === 'drop') {
            if (model.size === 0) continue
            const [key, held] = [...model][step.pick % model.size]!
            remove(key, held.client, held.filter)
          } else {
            const topic = topics.get(step.topic) ?? new Topic(step.topic)
            topics.set(step.topic, topic)
            compare(router, topic, model)
          }
        }
        for (const topic of topics.values()) compare(router, topic, model)
        expect(router.subscriptionCount).toBe(model.size)
        const shared = [...model.values()].filter((held) => held.filter.startsWith('$share/'))
        expect(router.sharedCount).toBe(shared.length)
        for (const [key, held] of [...model]) remove(key, held.client, held.filter)
        expect(router.subscriptionCount).toBe(0)
        expect(router.sharedCount).toBe(0)
        expect(router.nodeCount).toBe(0)
        for (const topic of topics.values()) compare(router, topic, model)
      }),
      { numRuns: 300 },
    )
  })

  function compare(router: Router<Client>, topic: Topic, model: ReadonlyMap<string, Held>): void {
    const plain = new Map<Client, Held[]>()
    const groups = new Map<string, string[]>()
    for (const held of model.values()) {
      const inner = innerFilter(held.filter)
      if (!naiveMatches(inner, topic.name)) continue
      if (inner === held.filter) plain.set(held.client, [...(plain.get(held.client) ?? []), held])
      else groups.set(held.filter, [...(groups.get(held.filter) ?? []), held.client.name].sort())
    }
    const route = router.route(topic)
    const byName = (one: object, other: object) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1)
    expect(route.entries.map(describeEntry).sort(byName)).toEqual(
      [...plain.values()].map(naiveEntry).sort(byName),
    )
    const found = route.groups.map(
      (group) => [group.share, group.members.map((member) => member.subscriber.name).sort()] as const,
    )
    expect(new Map(found)).toEqual(groups)
    expect(found.length).toBe(groups.size)
  }
})

describe('a Route that is made in steps', () => {
  /** All filters over `a` and `+` of so many levels: of more shapes than the table takes. */
  function crossed(levels: number): string[] {
    return Array.from({ length: 2 ** levels }, (_, bits) =>
      Array.from({ length: levels }, (__, level) => ((bits >> level) & 1 ? '+' : 'a')).join('/'),
    )
  }

  test('visits a bounded number of nodes in one step, and equals the Route that is made at once', () => {
    const meter = { units: 0 }
    const router = new Router<Client>(meter)
    for (const filter of crossed(12)) router.subscribe({ name: filter }, filter, options(0), 0)
    expect(router.mayTakeLong).toBe(true)
    const name = 'a/a/a/a/a/a/a/a/a/a/a/a'
    const topic = new Topic(name)
    let steps = 0
    let most = 0
    for (let isDone = false; !isDone; steps++) {
      const before = meter.units
      isDone = router.prepare(topic, 1000)
      if (!isDone) most = Math.max(most, meter.units - before)
    }
    expect(steps).toBeGreaterThan(10)
    expect(most).toBeLessThan(1100)
    const { misses } = router
    expect(names(router.route(topic))).toEqual(names(router.route(new Topic(name))))
    expect(router.misses).toBe(misses + 1)
  })

  test('is correct although Subscriptions come and go between the steps', () => {
    const filters = crossed(6)
    const anything = fc.tuple(fc.boolean(), fc.nat({ max: filters.length - 1 }))
    fc.assert(
      fc.property(fc.array(anything, { maxLength: 200 }), fc.nat({ max: 63 }), (changes, bits) => {
        const router = new Router<Client>()
        const clients = filters.map((name) => ({ name }))
        const held = new Set<string>()
        const change = ([isAdded, index]: readonly [boolean, number]): void => {
          const filter = filters[index]!
          if (isAdded) router.subscribe(clients[index]!, filter, options(0), 0)
          else router.unsubscribe(clients[index]!, filter)
          if (isAdded) held.add(filter)
          else held.delete(filter)
        }
        for (let index = 0; index < filters.length; index += 2) change([true, index])
        const name = Array.from({ length: 6 }, (_, level) => ((bits >> level) & 1 ? 'a' : 'b')).join('/')
        const topic = new Topic(name)
        let next = 0
        while (!router.prepare(topic, 1)) if (next < changes.length) change(changes[next++]!)
        const expected = [...held].filter((filter) => naiveMatches(filter, name)).sort()
        expect(names(router.route(topic))).toEqual(expected)
      }),
      { numRuns: 200 },
    )
  })
})

describe('inlets', () => {
  const inlet = (): Inlet => ({ refusal: () => null, append: () => {} })

  test('a Route names each inlet once, beside subscribers and groups', () => {
    const router = new Router<Client>()
    const [jobs, all] = [inlet(), inlet()]
    for (const filter of ['jobs/#', 'jobs/+', '+/a']) router.addInlet(filter, jobs)
    router.addInlet('jobs/#', all)
    router.subscribe(ann, 'jobs/a', options(1), 0)
    router.subscribe(bob, '$share/g/jobs/#', options(1), 0)
    const route = router.route(new Topic('jobs/a'))
    expect(new Set(route.inlets)).toEqual(new Set([jobs, all]))
    expect(route.inlets).toHaveLength(2)
    expect(names(route)).toEqual(['ann'])
    expect(route.groups).toHaveLength(1)
    expect(route.sole).toBe(null)
  })

  test('a Route without inlets has the one empty array, and may be sole', () => {
    const router = new Router<Client>()
    router.addInlet('jobs/#', inlet())
    router.subscribe(ann, 'other', options(1), 0)
    expect(router.route(new Topic('other')).inlets).toBe(NO_INLETS)
    expect(router.route(new Topic('other')).sole).not.toBe(null)
    expect(router.route(new Topic('nobody')).inlets).toBe(NO_INLETS)
  })

  test('inlets come and go under cached Routes, and leave no nodes behind', () => {
    const router = new Router<Client>()
    const topic = new Topic('jobs/a')
    const jobs = inlet()
    router.subscribe(ann, 'jobs/a', options(1), 0)
    expect(router.route(topic).inlets).toBe(NO_INLETS)
    router.addInlet('jobs/a', jobs)
    expect(router.route(topic).inlets).toEqual([jobs])
    router.unsubscribe(ann, 'jobs/a')
    expect(router.route(topic)).toMatchObject({ inlets: [jobs], entries: [], groups: [], sole: null })
    router.removeInlet('jobs/a', jobs)
    expect(router.route(topic).inlets).toBe(NO_INLETS)
    expect(router.nodeCount).toBe(0)
  })

  test('a Route that is made in steps has them as well', () => {
    const router = new Router<Client>()
    const jobs = inlet()
    router.addInlet('jobs/#', jobs)
    router.addInlet('+/a', jobs)
    router.subscribe(ann, 'jobs/a', options(1), 0)
    const topic = new Topic('jobs/a')
    while (!router.prepare(topic, 1));
    expect(router.route(topic)).toMatchObject({ inlets: [jobs], sole: null })
    expect(names(router.route(topic))).toEqual(['ann'])
  })
})
