/** PUBLISH and SUBSCRIBE of MQTT 3.1.1 (sections 3.3, 3.8, 4.8), where 5.0 differs or says it elsewhere. */
import { describe, expect, it } from 'vitest'
import { World } from '../../broker/harness.ts'
import { acknowledge, OLD_DIALECTS, publish, sent, subscribe } from '../wire.ts'

describe.each(OLD_DIALECTS)('MQTT %s', (_, version) => {
  describe('RETAIN', () => {
    it(
      '[MQTT-3.3.1-5, 3.1.1] [MQTT-3.3.1-6, 3.1.1] [MQTT-3.3.1-8, 3.1.1] ' +
        'each new Subscription gets the last retained message of every topic that matches, at its ' +
        'QoS, with RETAIN',
      async () => {
        const world = await World.make()
        const pub = await world.connect('pub', {}, version)
        for (const qos of [0, 1, 2] as const) {
          await pub.publish(`r/${qos}`, 'old', 2, { retain: true })
          await pub.publish(`r/${qos}`, `new ${qos}`, qos, { retain: true })
        }
        await pub.publish('other', 'no', 1, { retain: true })
        for (let round = 0; round < 2; round++) {
          const sub = await world.connect('sub', {}, version)
          await sub.subscribe('r/+', 2)
          const got = sub.got().map((p) => p.cmd === 'publish' && [p.topic, `${p.payload}`, p.qos, p.retain])
          expect(got.sort()).toEqual([
            ['r/0', 'new 0', 0, true],
            ['r/1', 'new 1', 1, true],
            ['r/2', 'new 2', 2, true],
          ])
        }
      },
    )

    it('[MQTT-3.3.1-7, 3.1.1] a retained message at QoS 0 replaces the one before', async () => {
      const world = await World.make()
      const pub = await world.connect('pub', {}, version)
      await pub.publish('t', 'one', 1, { retain: true })
      await pub.publish('t', 'zero', 0, { retain: true })
      const sub = await world.connect('sub', {}, version)
      await sub.subscribe('t', 1)
      expect(sub.got()).toMatchObject([{ qos: 0, payload: Buffer.from('zero') }])
    })

    it(
      '[MQTT-3.3.1-9, 3.1.1] [MQTT-3.3.1-10, 3.1.1] [MQTT-3.3.1-11, 3.1.1] ' +
        'subscribers get RETAIN 0, even of an empty message, which removes the retained one and is ' +
        'not retained itself',
      async () => {
        const world = await World.make()
        const pub = await world.connect('pub', {}, version)
        const sub = await world.connect('sub', {}, version)
        await sub.subscribe('t', 1)
        sent(sub)
        await pub.bytes(publish(version, 3, 't', 1, 'kept'))
        await pub.bytes(publish(version, 3, 't', 2, ''))
        expect(sent(sub)).toBe(`3209000174${'0001'}${Buffer.from('kept').toString('hex')}32050001740002`)
        const late = await world.connect('late', {}, version)
        await late.subscribe('t', 1)
        expect(late.got()).toEqual([])
        expect(world.server.state.retained.count).toBe(0)
      },
    )

    it('[MQTT-3.3.1-12, 3.1.1] RETAIN 0 keeps, replaces and removes nothing', async () => {
      const world = await World.make()
      const pub = await world.connect('pub', {}, version)
      await pub.publish('t', 'kept', 1, { retain: true })
      for (const payload of ['passing', '']) {
        await pub.publish('t', payload, 1)
        await pub.publish('u', payload, 1)
      }
      const sub = await world.connect('sub', {}, version)
      await sub.subscribe('#', 1)
      expect(sub.texts()).toEqual(['kept'])
    })
  })

  it(
    '[MQTT-3.3.1-3, 3.1.1] ' +
      'DUP to a subscriber tells whether the message was sent to it before, whatever the ' +
      'publisher’s DUP',
    async () => {
      const world = await World.make()
      const sub = await world.connect('sub', { clean: false }, version)
      await sub.subscribe('t', 2)
      const pub = await world.connect('pub', {}, version)
      for (const [flags, id] of [
        [10, 1],
        [12, 2],
      ] as const) {
        await pub.bytes(publish(version, flags, 't', id))
      }
      expect(sub.got().map((p) => p.cmd === 'publish' && p.dup)).toEqual([false, false])
      await sub.vanish()
      const back = await world.connect('sub', { clean: false }, version)
      expect(back.got().map((p) => p.cmd === 'publish' && p.dup)).toEqual([true, true])
    },
  )

  it(
    '[MQTT-3.3.2-3, 3.1.1] ' +
      'the topic name that a subscriber gets is the published one, and matches its filter',
    async () => {
      const world = await World.make()
      const sub = await world.connect('sub', {}, version)
      for (const filter of ['a/+/c', 'b/#', '$share/g/s/+']) await sub.subscribe(filter, 0)
      const pub = await world.connect('pub', {}, version)
      for (const topic of ['a/b/c', 'a//c', 'b', 'b/x/y', 's/1', 'a/b', 'c/b']) await pub.publish(topic, '')
      expect(sub.got().map((p) => p.cmd === 'publish' && p.topic)).toEqual([
        'a/b/c',
        'a//c',
        'b',
        'b/x/y',
        's/1',
      ])
    },
  )

  it(
    '[MQTT-3.3.5-1, 3.1.1] ' +
      'with overlapping Subscriptions the message arrives once, at the highest QoS of all that ' +
      'match',
    async () => {
      const filters = ['a/b', 'a/+', '#', '+/b'] as const
      for (const [at, qos] of [
        [0, 2],
        [1, 2],
        [2, 2],
        [3, 1],
      ] as const) {
        const world = await World.make()
        const sub = await world.connect('sub', {}, version)
        for (const [index, filter] of filters.entries()) await sub.subscribe(filter, index === at ? qos : 0)
        const pub = await world.connect('pub', {}, version)
        for (const published of [0, 1, 2] as const) {
          await pub.publish('a/b', 'x', published)
          expect(sub.got()).toMatchObject([{ cmd: 'publish', qos: Math.min(published, qos) }])
        }
      }
    },
  )

  it('[MQTT-3.3.5-2, 3.1.1] a PUBLISH that is not allowed is acknowledged and reaches nobody', async () => {
    const world = await World.make({ policy: { authorizePublish: (_client, topic) => topic !== 'no' } })
    const sub = await world.connect('sub')
    await sub.subscribe('#', 2)
    const pub = await world.connect('pub', {}, version)
    sent(pub)
    await pub.bytes(publish(version, 1, 'no'))
    await pub.bytes(publish(version, 3, 'no', 1))
    await pub.bytes(publish(version, 5, 'no', 2))
    await pub.bytes(publish(version, 13, 'no', 2))
    await pub.bytes(acknowledge(0x62, 2))
    expect(sent(pub)).toBe('40020001500200025002000270020002')
    expect(sub.got()).toEqual([])
    expect(world.server.state.retained.count).toBe(0)
    expect(pub.closed).toBe(false)
  })

  it('[MQTT-3.8.3-2, 3.1.1] filters with wildcards are supported', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', {}, version)
    sent(sub)
    await sub.bytes(subscribe(version, 1, '#', 0, '+', 1, 'a/+/#', 2))
    expect(sent(sub)).toBe('90050001000102')
  })

  it(
    '[MQTT-3.9.3-2, 3.1.1] ' +
      'SUBACK has 0x00, 0x01 or 0x02, and 0x80 for a refusal in 3.1.1; 3.1 has no code for it and ' +
      'gets 0x00',
    async () => {
      const world = await World.make({
        limits: { maximumQoS: 1, subscriptionsPerClientMax: 2, topicLevelsMax: 3 },
        policy: { authorizeSubscribe: (_client, filter) => (filter === 'quota' ? 0x97 : filter !== 'no') },
      })
      const sub = await world.connect('sub', {}, version)
      sent(sub)
      await sub.bytes(
        subscribe(version, 1, 'a', 2, 'no', 2, 'quota', 1, 'a/b/c/d', 0, 'b', 0, 'c', 1, 'a', 0),
      )
      const refused = version === 4 ? '80' : '00'
      expect(sent(sub)).toBe(`9009000101${refused.repeat(3)}00${refused}00`)
      expect(world.census()).toMatchObject({ subscriptions: 2 })
    },
  )

  it(
    '[MQTT-4.8.0-2, 3.1.1] ' +
      'an error of the Server in handling a packet closes the connection of that packet, and no ' +
      'other',
    async () => {
      const failing = { authorizePublish: () => Promise.reject(new Error('no database')) }
      const world = await World.make({ policy: failing })
      const other = await world.connect('other', {}, version)
      const pub = await world.connect('pub', {}, version)
      sent(pub)
      await pub.bytes(publish(version, 2, 't', 1))
      expect(sent(pub)).toBe('')
      expect([pub.closed, other.closed]).toEqual([true, false])
      // Disk or memory is short: nothing is acknowledged that is not kept.
      const kept = await World.make()
      await (await kept.connect('sub', { clean: false }, version)).subscribe('t', 1)
      kept.ledger.refusal = 'the disk is nearly full'
      const late = await kept.connect('pub', {}, version)
      sent(late)
      await late.bytes(publish(version, 2, 't', 1))
      expect([sent(late), late.closed]).toEqual(['', true])
    },
  )

  it('DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE is allowed in 3.1 only', async () => {
    const world = await World.make()
    for (const bytes of [
      subscribe(version, 1, 't', 0),
      acknowledge(0x62, 1),
      Buffer.from('a2050001000174', 'hex'),
    ]) {
      const client = await world.connect('a', {}, version)
      bytes[0]! |= 8
      const answers = await client.bytes(bytes)
      expect([answers.length, client.closed]).toEqual(version === 3 ? [1, false] : [0, true])
    }
  })
})
