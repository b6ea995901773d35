import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { Reason } from '../../../src/mqtt/reason.ts'
import { lasting, type TestClient, textsOf, World } from '../harness.ts'

const identifiersOf = (packets: Packet[]) =>
  packets.map((p) => (p.cmd === 'publish' ? (p.properties?.subscriptionIdentifier ?? 0) : null))

describe('SUBSCRIBE and SUBACK', () => {
  it('[MQTT-3.8.4-1] [MQTT-3.9.3-1] [MQTT-3.8.4-6] a code per filter, in order', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    const subscriptions = [2, 0, 1].map((qos, n) => ({ topic: `t${n}`, qos, nl: false, rap: false, rh: 0 }))
    expect(await client.send({ cmd: 'subscribe', messageId: 77, subscriptions })).toMatchObject([
      { cmd: 'suback', messageId: 77, granted: [2, 0, 1] },
    ])
  })

  it('[MQTT-3.2.2-10] a SUBSCRIBE above the Maximum QoS is granted what there is', async () => {
    const world = await World.make({ limits: { maximumQoS: 1 } })
    const client = await world.connect('a')
    expect([await client.subscribe('t', 2), await client.subscribe('u', 0)]).toEqual([1, 0])
  })

  it('[MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2] an invalid filter: no effect', async () => {
    for (const topic of [
      'a#',
      '#/a',
      'a+/b',
      '$share//t',
      '$share/a',
      '$share/a/',
      '$share/a+/t',
      '$share/g/a#',
    ]) {
      const world = await World.make()
      const client = await world.connect('a')
      const subscriptions = ['fine', topic].map((filter) => ({
        topic: filter,
        qos: 0,
        nl: false,
        rap: false,
        rh: 0,
      }))
      const answer = await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
      expect(answer).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8f }])
      expect(world.census()).toMatchObject({ subscriptions: 0 })
      const old = await world.connect('b', {}, 4)
      await old.subscribe(topic)
      expect(old.closed).toBe(true)
    }
  })

  it('[MQTT-3.8.3-4] No Local on a Shared Subscription is a protocol error', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    await client.subscribe('$share/g/t', 0, { nl: true })
    expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x82 }])
  })

  it('limits: number, length and levels of filters, each counted', async () => {
    const world = await World.make({
      limits: { subscriptionsPerClientMax: 2, topicBytesMax: 10, topicLevelsMax: 3 },
    })
    const limited = world.record('limited')
    const client = await world.connect('a')
    expect(await client.subscribe('12345678901')).toBe(0x8f)
    expect(await client.subscribe('ééééé1')).toBe(0x8f)
    expect(await client.subscribe('a/b/c/d')).toBe(0x8f)
    expect(await client.subscribe('a', 0)).toBe(0)
    expect(await client.subscribe('b', 0)).toBe(0)
    expect(await client.subscribe('c', 0)).toBe(0x97)
    expect(await client.subscribe('b', 1)).toBe(1)
    expect(limited.map(({ limit }) => limit)).toEqual([
      'topicBytesMax',
      'topicBytesMax',
      'topicLevelsMax',
      'subscriptionsPerClientMax',
    ])
    const old = await world.connect('b', {}, 4)
    expect(await old.subscribe('a/b/c/d')).toBe(0x80)
  })

  it('the limits of a Shared Subscription are those of the filter in it', async () => {
    const world = await World.make({ limits: { topicBytesMax: 10, topicLevelsMax: 2 } })
    const client = await world.connect('a')
    expect(await client.subscribe('$share/group/a/b', 1)).toBe(1)
    expect(await client.subscribe('$share/group/a/b/c', 1)).toBe(0x8f)
  })

  it('policies: refusals with their codes, in order with what is granted; a promise waits', async () => {
    let answer: (value: boolean) => void = () => {}
    const world = await World.make({
      policy: {
        authorizeSubscribe: (_client, filter) =>
          filter === 'slow'
            ? new Promise((resolve) => (answer = resolve))
            : filter === 'quota'
              ? Reason.QuotaExceeded
              : filter !== 'no',
      },
    })
    const subscribed = world.record('subscribed')
    const client = await world.connect('a')
    const packet = (...filters: string[]) => ({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: filters.map((topic) => ({ topic, qos: 1, nl: false, rap: false, rh: 0 })),
    })
    expect(await client.send(packet('yes', 'no', 'quota'))).toMatchObject([{ granted: [1, 0x87, 0x97] }])
    expect(await client.send(packet('slow', 'no'), { cmd: 'pingreq' })).toEqual([])
    answer(true)
    await world.settle()
    expect(client.got()).toMatchObject([{ granted: [1, 0x87] }, { cmd: 'pingresp' }])
    expect(subscribed.map(({ filter, reasonCode }) => [filter, reasonCode])).toEqual([
      ['yes', 1],
      ['no', 0x87],
      ['quota', 0x97],
      ['slow', 1],
      ['no', 0x87],
    ])
    const old = await world.connect('b', {}, 4)
    expect(await old.send(packet('no', 'quota', 'yes'))).toMatchObject([{ granted: [0x80, 0x80, 1] }])
    await client.send(packet('slow'))
    await client.vanish()
    answer(true)
    await world.settle()
    expect(world.census()).toMatchObject({ subscriptions: 1 })
  })

  it('SUBACK and UNSUBACK of a stored Session wait for the commit; others do not', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    const passing = await world.connect('passing')
    world.ledger.automatic = false
    expect(await kept.subscribe('t', 1)).toBeUndefined()
    await world.commit()
    expect(kept.got()).toMatchObject([{ cmd: 'suback', granted: [1] }])
    expect(await kept.unsubscribe('t')).toBeUndefined()
    await world.commit()
    expect(kept.got()).toMatchObject([{ cmd: 'unsuback' }])
    expect(await passing.subscribe('t', 1)).toBe(1)
    expect(await passing.unsubscribe('t')).toBe(0)
  })

  it('while the store takes nothing a stored Session gets no new Subscription', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    const passing = await world.connect('passing')
    world.ledger.refusal = 'the disk is nearly full'
    expect(await kept.subscribe('t', 1)).toBe(0x97)
    expect(await passing.subscribe('t', 1)).toBe(1)
  })

  it('while the store is full a consumer may come back and drain its queue [field-D21]', async () => {
    for (const version of [4, 5] as const) {
      const world = await World.make()
      const given = version === 5 ? lasting() : { clean: false }
      const kept = await world.connect('kept', given, version)
      await kept.subscribe('t/#', 1)
      await kept.subscribe('$share/g/s', 1)
      kept.link.gone()
      await world.settle()
      const pub = await world.connect('pub')
      for (const text of ['1', '2', '3']) await pub.publish('t/a', text, 1)
      world.ledger.refusal = 'the disk is nearly full'
      const back = await world.connect('kept', given, version)
      expect(back.connack).toMatchObject({ sessionPresent: true })
      expect(await back.subscribe('t/#', 1)).toBe(1)
      expect(await back.subscribe('t/#', 0)).toBe(0)
      expect(await back.subscribe('$share/g/s', 1)).toBe(1)
      expect(await back.subscribe('other', 1)).toBe(version === 5 ? 0x97 : 0x80)
      await world.settle()
      expect(back.texts()).toEqual(['1', '2', '3'])
      expect(await back.unsubscribe('$share/g/s')).toBe(version === 5 ? 0 : undefined)
    }
  })

  it('while the store takes nothing a Session can be ended in every way [field-D21]', async () => {
    const world = await World.make()
    const names = ['leaving', 'clean', 'deleted']
    for (const name of names) await (await world.connect(name, lasting())).subscribe(name, 1)
    world.ledger.refusal = 'the disk is nearly full'
    const leaving = await world.connect('leaving', lasting())
    await leaving.send({ cmd: 'disconnect', properties: { sessionExpiryInterval: 0 } })
    const clean = await world.connect('clean', { clean: true })
    clean.link.gone()
    world.server.inventory.endSession('deleted')
    await world.settle()
    expect(names.filter((name) => world.server.state.sessions.has(name))).toEqual([])
    expect(world.ledger.lines.filter((line) => line.startsWith('deleteSession'))).toHaveLength(3)
  })
})

describe('UNSUBSCRIBE', () => {
  it('[MQTT-3.10.4-1] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.11.3-1] removes and answers', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('a/+')
    await sub.subscribe('a/b')
    const packet = { cmd: 'unsubscribe', messageId: 5, unsubscriptions: ['a/#', 'a/+', 'a/+'] }
    expect(await sub.send(packet)).toMatchObject([
      { cmd: 'unsuback', messageId: 5, granted: [0x11, 0, 0x11] },
    ])
    const pub = await world.connect('pub')
    await pub.publish('a/b', '1')
    await pub.publish('a/c', '2')
    expect(sub.texts()).toEqual(['1'])
    const old = await world.connect('old', {}, 4)
    await old.send({ cmd: 'unsubscribe', messageId: 5, unsubscriptions: ['x'] })
    expect(old.link.raw.at(-1)?.toString('hex')).toBe('b0020005')
  })

  it('[MQTT-3.10.4-2] [MQTT-3.10.4-3] nothing new is added, what is under way is completed', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', { properties: { receiveMaximum: 1 } })
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    await pub.publish('t', '1', 2)
    await pub.publish('t', '2', 1)
    await sub.unsubscribe('t')
    await pub.publish('t', '3', 1)
    expect(await sub.drain()).toEqual(['1', '2'])
  })
})

describe('Subscription Options', () => {
  it('[MQTT-3.8.3-3] No Local: not to the publisher, but to everybody else', async () => {
    const world = await World.make()
    const a = await world.connect('a')
    const b = await world.connect('b')
    for (const client of [a, b]) await client.subscribe('t', 0, { nl: true })
    await a.publish('t', 'x')
    expect([a.texts(), b.texts()]).toEqual([[], ['x']])
    await a.subscribe('+', 0)
    expect(textsOf(await a.publish('t', 'y'))).toEqual(['y'])
  })

  it('[MQTT-3.3.1-12] [MQTT-3.3.1-13] Retain As Published', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    const pub = await world.connect('pub')
    const flags = async () => {
      await pub.publish('t', 'x', 0, { retain: true })
      await pub.publish('t', 'y', 0)
      return sub.got().map((p) => p.cmd === 'publish' && p.retain)
    }
    await sub.subscribe('t', 0, { rap: false })
    expect(await flags()).toEqual([false, false])
    await sub.subscribe('t', 0, { rap: true, rh: 2 })
    expect(await flags()).toEqual([true, false])
  })

  it('[MQTT-3.8.4-8] the lower QoS of both', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    for (const granted of [0, 1, 2] as const) {
      const sub = await world.connect(`s${granted}`)
      await sub.subscribe('t', granted)
      for (const qos of [0, 1, 2] as const) await pub.publish('t', '', qos)
      expect(sub.got().map((p) => p.cmd === 'publish' && p.qos)).toEqual(
        [0, 1, 2].map((qos) => Math.min(qos, granted)),
      )
      await sub.vanish()
    }
  })

  it('[MQTT-3.8.4-3] the same filter replaces the Subscription; no loss [MQTT-3.8.4-4]', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    const pub = await world.connect('pub')
    await sub.subscribe('t', 1, {}, { subscriptionIdentifier: 1 })
    await pub.publish('t', 'a', 1)
    await sub.subscribe('t', 0, {}, { subscriptionIdentifier: 2 })
    await pub.publish('t', 'b', 1)
    const got = sub.got()
    expect(got).toMatchObject([
      { payload: Buffer.from('a'), qos: 1 },
      { payload: Buffer.from('b'), qos: 0 },
    ])
    expect(identifiersOf(got)).toEqual([1, 2])
    expect(world.census()).toMatchObject({ subscriptions: 1 })
  })

  it('[MQTT-3.3.4-2] [MQTT-3.3.4-4] overlap: one message, highest QoS, all identifiers', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    const old = await world.connect('old', {}, 4)
    for (const client of [sub, old]) {
      await client.subscribe('a/b', 0, {}, { subscriptionIdentifier: 1 })
      await client.subscribe('a/+', 2, {}, { subscriptionIdentifier: 268_435_455 })
      await client.subscribe('#', 1)
    }
    const pub = await world.connect('pub')
    await pub.publish('a/b', 'x', 2)
    const got = sub.got()
    expect(got).toMatchObject([{ qos: 2 }])
    expect(new Set(identifiersOf(got).flat())).toEqual(new Set([1, 268_435_455]))
    expect(old.got()).toMatchObject([{ qos: 2 }])
  })

  it('overlapping with No Local: of the publisher’s own, only those without it count', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    await client.subscribe('a/b', 2, { nl: true }, { subscriptionIdentifier: 1 })
    await client.subscribe('a/+', 0, {}, { subscriptionIdentifier: 2 })
    const got = (await client.publish('a/b', 'x', 1)).filter(({ cmd }) => cmd === 'publish')
    expect(got).toMatchObject([{ qos: 0 }])
    expect(identifiersOf(got)).toEqual([2])
  })

  it('[MQTT-4.7.2-1] leading wildcards leave $ topics alone', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    for (const filter of ['#', '+/x', '$SYS/#']) await sub.subscribe(filter)
    world.server.publishOwn('$SYS/x', Buffer.from('sys'))
    const pub = await world.connect('pub')
    await pub.publish('$internal/x', 'no')
    await world.settle()
    expect(sub.texts()).toEqual(['sys'])
  })
})

describe('Shared Subscriptions', () => {
  const member = async (world: World, id: string, more = {}, version: 3 | 4 | 5 = 5): Promise<TestClient> => {
    const client = await world.connect(id, version === 5 ? lasting(1000, more) : { clean: false }, version)
    expect(await client.subscribe('$share/g/t', 2)).toBe(2)
    return client
  }

  it('each message goes to one member, of every version, in turn', async () => {
    const world = await World.make()
    const members = [
      await member(world, 'a', {}, 3),
      await member(world, 'b', {}, 4),
      await member(world, 'c', {}, 5),
    ]
    const other = await world.connect('other')
    await other.subscribe('$share/other/t', 0)
    const pub = await world.connect('pub')
    for (let n = 0; n < 9; n++) await pub.publish('t', `${n}`, (n % 3) as 0 | 1 | 2)
    expect(members.map((client) => client.got().length)).toEqual([3, 3, 3])
    expect(other.texts()).toHaveLength(9)
  })

  it('[MQTT-4.8.2-3] respects the QoS that was granted, and the identifier', async () => {
    const world = await World.make()
    const sub = await world.connect('a')
    await sub.subscribe('$share/g/t', 0, {}, { subscriptionIdentifier: 9 })
    await (await world.connect('pub')).publish('t', 'x', 2)
    const got = sub.got()
    expect(got).toMatchObject([{ qos: 0 }])
    expect(identifiersOf(got)).toEqual([9])
  })

  it('a Shared and a plain Subscription of one Session: both deliver', async () => {
    const world = await World.make()
    const sub = await world.connect('a')
    await sub.subscribe('$share/g/t', 0)
    await sub.subscribe('t', 0)
    await (await world.connect('pub')).publish('t', 'x', 0)
    expect(sub.texts()).toEqual(['x', 'x'])
  })

  it('by who has room: a member whose window is full is passed by', async () => {
    const world = await World.make()
    const slow = await member(world, 'slow', {
      properties: { sessionExpiryInterval: 1000, receiveMaximum: 1 },
    })
    const quick = await member(world, 'quick')
    const pub = await world.connect('pub')
    for (let n = 0; n < 10; n++) {
      await pub.publish('t', `${n}`, 1)
      await quick.send(...quick.got().map(({ messageId }) => ({ cmd: 'puback', messageId })))
    }
    expect(slow.got()).toHaveLength(1)
    expect(world.server.state.sessions.get('slow')?.queueLength).toBe(0)
  })

  it('an online member is preferred; with all away one queue gets all, QoS 0 is dropped', async () => {
    const world = await World.make()
    const away = await member(world, 'away')
    await away.vanish()
    const here = await member(world, 'here')
    const pub = await world.connect('pub')
    for (let n = 0; n < 4; n++) await pub.publish('t', 'x', 0)
    expect(here.texts()).toHaveLength(4)
    await here.vanish()
    await pub.publish('t', 'zero', 0)
    expect(world.server.state.counters.drops.offline).toBe(1)
    for (let n = 0; n < 4; n++) await pub.publish('t', `${n}`, 1)
    const { sessions } = world.server.state
    expect([sessions.get('away')?.queueLength, sessions.get('here')?.queueLength]).toEqual([4, 0])
    const back = await world.connect('here', lasting())
    expect(await back.drain()).toEqual(['0', '1', '2', '3'])
  })

  it('unacknowledged QoS 1 and unsent messages go to another member when a Session ends', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const first = await member(world, 'first', {
      properties: { sessionExpiryInterval: 1000, receiveMaximum: 2 },
    })
    await pub.publish('t', 'sent', 1)
    await pub.publish('t', 'delivering', 2)
    await pub.publish('t', 'queued 1', 1)
    await pub.publish('t', 'queued 2', 2)
    // What was not sent goes at once, since the second one idles; what is in flight when it ends.
    const second = await member(world, 'second')
    await first.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
    const got = second.got()
    expect(got.map((p) => p.cmd === 'publish' && [p.payload.toString(), p.qos, p.dup])).toEqual([
      ['queued 1', 1, false],
      ['queued 2', 2, false],
      ['sent', 1, false],
    ])
    // [MQTT-4.8.2-5]
    expect(world.server.state.counters.drops['session-ended']).toBe(1)
    const lines = world.ledger.lines
    const deleted = lines.indexOf('deleteSession 1 holding 0')
    expect(deleted).toBeGreaterThan(-1)
    expect(lines.indexOf('enqueue 2 sent 1')).toBeLessThan(deleted)
  })

  it('a message passed on to a stored Session waits for its commit, whoever had it before', async () => {
    const world = await World.make()
    const passing = await world.connect('passing')
    await passing.subscribe('$share/g/t', 1)
    await (await world.connect('pub')).publish('t', 'x', 1)
    const kept = await member(world, 'kept')
    world.ledger.automatic = false
    await passing.vanish()
    expect(kept.got()).toEqual([])
    await world.commit()
    expect(kept.texts()).toEqual(['x'])
  })

  it('[MQTT-4.8.2-4] while the Session lives, its member completes what it began', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const first = await member(world, 'first')
    await pub.publish('t', 'one', 2)
    await first.vanish()
    const second = await member(world, 'second')
    expect(second.texts()).toEqual([])
    const back = await world.connect('first', lasting())
    expect(back.got()).toMatchObject([{ cmd: 'publish', dup: true, qos: 2 }])
  })

  it('[MQTT-4.8.2-6] a message that a member refuses is discarded', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const a = await member(world, 'a')
    const b = await member(world, 'b')
    await pub.publish('t', '1', 1)
    await pub.publish('t', '2', 2)
    const both = [...a.got().map((p) => [a, p] as const), ...b.got().map((p) => [b, p] as const)]
    for (const [client, p] of both) {
      const cmd = p.cmd === 'publish' && p.qos === 1 ? 'puback' : 'pubrec'
      expect(await client.send({ cmd, messageId: p.messageId, reasonCode: 0x83 })).toEqual([])
    }
    expect([...a.got(), ...b.got()]).toEqual([])
    expect(world.server.state.counters.drops['refused-by-client']).toBe(2)
    const { sessions } = world.server.state
    expect([sessions.get('a')?.inFlightCount, sessions.get('b')?.inFlightCount]).toEqual([0, 0])
  })

  it('expired messages are not passed on', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const first = await member(world, 'first')
    await first.vanish()
    await pub.publish('t', 'old', 1, { properties: { messageExpiryInterval: 5 } })
    await pub.publish('t', 'new', 1)
    await world.pass(6)
    const second = await member(world, 'second')
    expect(second.texts()).toEqual(['new'])
    expect(world.server.state.counters.drops.expired).toBe(1)
  })

  it('a message on disk only is read back before it goes to another member', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const first = await member(world, 'first')
    await first.vanish()
    await pub.publish('t', 'body', 1)
    const { message } = world.server.state.sessions.get('first')!.queue.at(0)
    const { topic, payload, properties } = message
    message.evict()
    world.ledger.onRestore = (evicted) => evicted.restore(topic, properties, payload)
    const second = await member(world, 'second')
    await world.pass(1001)
    expect(second.got()).toMatchObject([{ topic: 't', payload: Buffer.from('body') }])
  })

  it('no member left: the message is lost, and counted', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const only = await member(world, 'only')
    await pub.publish('t', 'x', 1)
    await only.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
    expect(world.server.state.counters.drops['session-ended']).toBe(1)
    expect(world.census()).toMatchObject({ sessions: 1, nodes: 0 })
  })

  it('retained messages are not sent for a Shared Subscription (section 4.8.2)', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 0, { retain: true })
    const client = await member(world, 'a')
    expect(client.texts()).toEqual([])
  })
})
