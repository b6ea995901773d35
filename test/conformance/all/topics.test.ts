/** Section 4.7 as all versions have it: topic names and topic filters. */
import { describe, expect, it } from 'vitest'
import { World } from '../../broker/harness.ts'
import { DIALECTS, expectEachRefused, expectNoFilters, publish, subscribe, unsubscribe } from '../wire.ts'

describe.each(DIALECTS)('MQTT %s', (_, version) => {
  it(
    '[MQTT-4.7.0-1] [MQTT-4.7.1-1, 3.1.1] [MQTT-3.3.2-2, 3.1.1] ' +
      'a topic name with a wildcard is refused, and reaches nobody',
    async () => {
      const world = await World.make()
      const sub = await world.connect('sub')
      await sub.subscribe('#', 0)
      const names = ['#', '+', 'a/#', 'a/+/b', 'a+', '#a', '$a/+']
      await expectEachRefused(
        world,
        version,
        names.flatMap((name) => [0, 2, 4].map((flags) => [publish(version, flags, name, 1), 0x90] as const)),
      )
      expect(sub.got()).toEqual([])
    },
  )

  it(
    '[MQTT-4.7.1-1] [MQTT-4.7.1-2, 3.1.1] ' +
      '# stands alone or after a separator, and last; it matches the parent and all below',
    async () => {
      const world = await World.make()
      const wrong = ['a#', '#/a', 'a/#/b', 'a/b#', '##', '#/', 'a/#b', '+#', 'sport/tennis#', '/#/']
      await expectNoFilters(world, version, wrong)
      expect(await matches('#')).toEqual(NAMES)
      expect(await matches('a/#')).toEqual(['a', 'a/', 'a/b', 'a/b/c', 'a//c'])
      expect(await matches('a/b/#')).toEqual(['a/b', 'a/b/c'])
      expect(await matches('/#')).toEqual(['/', '/a'])
    },
  )

  it(
    '[MQTT-4.7.1-2] [MQTT-4.7.1-3, 3.1.1] ' + '+ fills a whole level at any place, and matches exactly one',
    async () => {
      const world = await World.make()
      const wrong = ['a+', '+a', '++', 'a/+b', 'a/b+/c', '+a/#', 'a/++']
      await expectNoFilters(world, version, wrong)
      expect(await matches('+')).toEqual(['a', 'b', 'A'])
      expect(await matches('+/+')).toEqual(['a/', 'a/b', '/', '/a'])
      expect(await matches('/+')).toEqual(['/', '/a'])
      expect(await matches('a/+/c')).toEqual(['a/b/c', 'a//c'])
      expect(await matches('+/b/#')).toEqual(['a/b', 'a/b/c'])
      expect(await matches('a/+')).toEqual(['a/', 'a/b'])
    },
  )

  it(
    '[MQTT-4.7.2-1] [MQTT-4.7.2-1, 3.1.1] ' +
      'a filter that begins with a wildcard matches no name that begins with $, retained messages ' +
      'included',
    async () => {
      const world = await World.make()
      const pub = await world.connect('pub', {}, version)
      const names = ['$a', '$a/b', '$', 'a/$b']
      for (const name of names) await pub.publish(name, name, 0, { retain: true })
      const seen: Record<string, string[]> = {}
      for (const filter of ['#', '+', '+/b', '+/#', '$a/+', '$a/#', '$', 'a/+']) {
        const sub = await world.connect('sub', {}, version)
        await sub.subscribe(filter)
        const retained = sub.texts()
        for (const name of names) await pub.publish(name, name)
        expect(sub.texts().sort()).toEqual(retained.sort())
        seen[filter] = retained
      }
      expect(seen).toEqual({
        '#': ['a/$b'],
        '+': [],
        '+/b': [],
        '+/#': ['a/$b'],
        '$a/+': ['$a/b'],
        '$a/#': ['$a', '$a/b'],
        $: ['$'],
        'a/+': ['a/$b'],
      })
    },
  )

  it('[MQTT-4.7.3-1] [MQTT-4.7.3-1, 3.1.1] names and filters have at least one character', async () => {
    const world = await World.make()
    await expectEachRefused(world, version, [
      [publish(version, 0, ''), version === 5 ? 0x82 : 0x90], // 5.0: without an alias, section 3.3.2.1
      [publish(version, 2, '', 1), version === 5 ? 0x82 : 0x90],
      [subscribe(version, 1, '', 0), 0x8f],
      [subscribe(version, 1, 'a', 0, '', 0), 0x8f],
      [unsubscribe(version, 1, ''), 0x8f],
    ])
  })

  it(
    '[MQTT-4.7.3-2] [MQTT-4.7.3-2, 3.1.1] [MQTT-1.5.3-2, 3.1.1] [MQTT-1.5.3-1, 3.1.1] ' +
      '[MQTT-3.3.2-1, 3.1.1] ' +
      'U+0000, surrogates and ill-formed bytes in a name or filter are refused',
    async () => {
      const world = await World.make()
      const wrong = [
        [0x00],
        [0x61, 0x00, 0x62],
        [0xed, 0xa0, 0x80],
        [0xed, 0xbf, 0xbf],
        [0xc1, 0x81],
        [0x80],
      ].map((bytes) => Buffer.from([0, bytes.length, ...bytes]))
      await expectEachRefused(
        world,
        version,
        wrong.flatMap((string) => [
          [publish(version, 0, string), 0x81],
          [publish(version, 2, string, 1), 0x81],
          [subscribe(version, 1, string, 0), 0x81],
          [unsubscribe(version, 1, string), 0x81],
        ]),
      )
    },
  )

  it(
    '[MQTT-4.7.3-3] [MQTT-4.7.3-3, 3.1.1] ' +
      'a name and a filter of 65,535 bytes, the most possible, are accepted',
    async () => {
      const world = await World.make({ limits: { profile: 'open' } })
      const sub = await world.connect('sub', {}, version)
      const pub = await world.connect('pub', {}, version)
      const names = ['x'.repeat(65_535), '/'.repeat(65_535), `${'\u20ac'.repeat(21_845)}`]
      for (const name of names) {
        expect(await sub.subscribe(name, 1)).toBe(1)
        await pub.publish(name, name.slice(0, 3), 1)
        expect(sub.got()).toMatchObject([{ cmd: 'publish', topic: name }])
      }
    },
  )

  it(
    '[MQTT-4.7.3-4] [MQTT-4.7.3-4, 3.1.1] [MQTT-1.5.3-3, 3.1.1] ' +
      'nothing is normalised: characters are compared as they are, U+FEFF is kept, empty levels count',
    async () => {
      const world = await World.make()
      const sub = await world.connect('sub', {}, version)
      const pub = await world.connect('pub', {}, version)
      const names = [
        'a',
        'A',
        '\u00c5',
        'A\u030a',
        '\u212b',
        '\ufeffa',
        'a\ufeff',
        'a/',
        '/a',
        'a//b',
        'a/b',
        ' a',
        'a ',
        '\ud83d\ude00',
        'a\u0001',
        '%61',
        'a/../b',
      ]
      for (const filter of names) {
        await sub.subscribe(filter)
        for (const name of names) await pub.publish(name, name)
        expect(sub.got().map((p) => p.cmd === 'publish' && [p.topic, p.payload.toString()])).toEqual([
          [filter, filter],
        ])
        await sub.unsubscribe(filter)
      }
    },
  )

  const NAMES = ['a', 'a/', 'a/b', 'a/b/c', 'a//c', '/', '/a', 'b', 'A']

  /** Resolves with the names that a filter matches, live and as retained messages. */
  async function matches(filter: string): Promise<string[]> {
    const world = await World.make()
    const pub = await world.connect('pub', {}, version)
    for (const name of NAMES) await pub.publish(name, name, 0, { retain: true })
    const sub = await world.connect('sub', {}, version)
    await sub.subscribe(filter)
    const retained = sub.texts()
    for (const name of NAMES) await pub.publish(name, name)
    const live = sub.texts()
    expect([...retained].sort()).toEqual([...live].sort())
    return live
  }
})
