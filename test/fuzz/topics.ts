/** Fuzzes topic names and filters against section 4.7, word by word: validity, matches, subscribers. */

import { Message, Topic } from '../../src/mqtt/message.ts'
import { topicFilterError, topicNameError } from '../../src/mqtt/topics.ts'
import { filterMatches } from '../../src/routing/filter.ts'
import { RetainedTree } from '../../src/routing/retained.ts'
import { Router } from '../../src/routing/router.ts'
import type { Random } from './random.ts'
import { same, shorter, type Target } from './target.ts'

interface Subscriber {
  readonly name: number
}

const SUBSCRIBERS: readonly Subscriber[] = [{ name: 0 }, { name: 1 }, { name: 2 }]

type Operation = readonly ['subscribe' | 'unsubscribe' | 'publish' | 'clear', string, number]

export const topics: Target<readonly Operation[]> = {
  name: 'topics',
  unit: 'sequences of Subscriptions, retained messages and look-ups',

  make(random, corpus) {
    const before = corpus.length > 0 && random.chance(0.3) ? random.of(corpus) : []
    return [...before.slice(0, 20), ...Array.from({ length: random.between(1, 14) }, () => operation(random))]
  },

  run(operations) {
    const router = new Router<Subscriber>()
    const retained = new RetainedTree()
    const subscriptions = new Map<string, Set<number>>()
    const kept = new Map<string, Topic>()
    const traits = new Set<string>()
    const known = new Map<string, Topic>()
    for (const [what, text, who] of operations) {
      if (what === 'publish' || what === 'clear') {
        same(topicNameError(text) === null, isName(text), `whether ${JSON.stringify(text)} is a Topic Name`)
        if (!isName(text)) continue
        const topic = known.get(text) ?? new Topic(text)
        known.set(text, topic)
        if (what === 'clear') {
          same(retained.delete(text) !== null, kept.delete(text), 'retained')
          continue
        }
        const expected = [...subscriptions].flatMap(([filter, subscribers]) =>
          matches(unshared(filter), text)
            ? [...subscribers].map((subscriber) => `${subscriber} ${filter}`)
            : [],
        )
        same(found(router, topic), expected.sort(), `who gets ${JSON.stringify(text)}`)
        traits.add(`${expected.length}`)
        kept.set(text, topic)
        retained.set(Message.of({ topic, payload: Buffer.from('x'), qos: 0, retain: true, publisher: '' }))
        continue
      }
      const error = topicFilterError(text)
      same(error === null, isFilter(text), `whether ${JSON.stringify(text)} is a Topic Filter (${error})`)
      if (error !== null) {
        traits.add(error)
        continue
      }
      if (what === 'subscribe') {
        router.subscribe(
          SUBSCRIBERS[who]!,
          text,
          { qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 },
          0,
        )
        subscriptions.set(text, (subscriptions.get(text) ?? new Set()).add(who))
        lookUp(text, retained, kept)
      } else {
        router.unsubscribe(SUBSCRIBERS[who]!, text)
        subscriptions.get(text)?.delete(who)
      }
    }
    for (const [filter, subscribers] of subscriptions)
      for (const who of subscribers) router.unsubscribe(SUBSCRIBERS[who]!, filter)
    same([router.subscriptionCount, router.nodeCount], [0, 0], 'what is left in the router')
    return [...traits].sort().join(' ')
  },

  *smaller(operations) {
    yield* shorter(operations)
  },

  write: (operations) => operations,
  read: (json: readonly Operation[]) => json,
}

function lookUp(filter: string, retained: RetainedTree, kept: ReadonlyMap<string, Topic>): void {
  if (filter.startsWith('$share/')) return
  const names = [...retained.match(filter)].flatMap((message) =>
    message === null ? [] : [message.topic.name],
  )
  const expected = [...kept.keys()].filter((name) => matches(filter, name))
  same(names.sort(), expected.sort(), `the retained messages of ${JSON.stringify(filter)}`)
  for (const name of kept.keys())
    same(filterMatches(filter, name), matches(filter, name), `${filter} and ${name}`)
}

function found(router: Router<Subscriber>, topic: Topic): string[] {
  const { entries, groups } = router.route(topic)
  const plain = entries.flatMap(({ subscriptions }) => subscriptions)
  const shared = groups.flatMap(({ members }) => members)
  return [...plain, ...shared].map(({ subscriber, filter }) => `${subscriber.name} ${filter}`).sort()
}

const LEVELS = [
  'a',
  'b',
  '',
  '+',
  '#',
  '$a',
  '$share',
  '$SYS',
  'g',
  'aa',
  'a+',
  '#a',
  '\u{1d11e}',
  'é',
  '__proto__',
  ' ',
]

function operation(random: Random): Operation {
  const what = random.weighted([
    [5, 'subscribe'],
    [2, 'unsubscribe'],
    [5, 'publish'],
    [1, 'clear'],
  ] as const)
  const plain = what === 'publish' || what === 'clear'
  const levels = Array.from({ length: random.of([1, 1, 2, 3, 4]) }, () => level(random, plain))
  const prefix = !plain && random.chance(0.25) ? `$share/${random.of(['g', 'h', 'g', '', '+', 'a#'])}/` : ''
  return [what, prefix + levels.join('/'), random.below(3)]
}

function level(random: Random, plain: boolean): string {
  if (random.chance(0.02)) return random.of(['\0', '\ud800', 'a\udc00'])
  if (random.chance(0.6)) return random.of(plain ? ['a', 'b', ''] : ['a', 'b', '', '+', '#'])
  return random.of(LEVELS)
}

// ── section 4.7, word by word ─────────────────────────────────────────────────────────────────────────────

function isText(text: string): boolean {
  return text.length > 0 && Buffer.from(text).toString() === text && !text.includes('\0')
}

function isName(text: string): boolean {
  return isText(text) && !text.includes('+') && !text.includes('#')
}

function isFilter(text: string): boolean {
  if (!isText(text)) return false
  const [first, share, ...inner] = text.split('/')
  if (first !== '$share' || share === undefined) return wildcardsAreRight(text.split('/'))
  if (share === '' || share.includes('+') || share.includes('#')) return false
  return inner.length > 0 && inner.join('/') !== '' && wildcardsAreRight(inner)
}

function wildcardsAreRight(levels: readonly string[]): boolean {
  return levels.every((each, index) => {
    if (each.includes('#')) return each === '#' && index === levels.length - 1
    return !each.includes('+') || each === '+'
  })
}

export function unshared(filter: string): string {
  return filter.startsWith('$share/') ? filter.split('/').slice(2).join('/') : filter
}

/** Level by level. */
export function matches(filter: string, name: string): boolean {
  if (name.startsWith('$') && /^[+#]/.test(filter)) return false
  return levelsMatch(filter.split('/'), name.split('/'))
}

function levelsMatch(filter: readonly string[], name: readonly string[]): boolean {
  const [first, ...rest] = filter
  if (first === undefined) return name.length === 0
  if (first === '#') return true
  if (name.length === 0 || (first !== '+' && first !== name[0])) return false
  return levelsMatch(rest, name.slice(1))
}
