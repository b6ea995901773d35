/** Flow control, Session State and QoS 2 with the properties of MQTT 5.0 (sections 4.1, 4.3, 4.4, 4.9). */
import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { type Given, lasting, type TestClient, textsOf, World } from '../../broker/harness.ts'
import { publish, sent } from '../wire.ts'

const windowOf = (receiveMaximum: number, seconds = 1000): Given => ({
  clean: false,
  properties: { sessionExpiryInterval: seconds, receiveMaximum },
})

/** A subscriber with a window of two to which four messages of a QoS were published. */
async function flooded(qos: 1 | 2): Promise<{ world: World; sub: TestClient; pub: TestClient }> {
  const world = await World.make()
  const sub = await world.connect('sub', windowOf(2))
  await sub.subscribe('t', 2)
  const pub = await world.connect('pub')
  for (let n = 1; n <= 4; n++) await pub.publish('t', `${n}`, qos)
  expect(sub.texts()).toEqual(['1', '2'])
  return { world, sub, pub }
}

describe('the send quota of the Server', () => {
  it(
    '[MQTT-4.9.0-1] [MQTT-4.9.0-2] ' +
      'is the client’s Receive Maximum, the most PUBLISH packets above QoS 0 that are ' +
      'unacknowledged',
    async () => {
      for (const receiveMaximum of [1, 2, 7, 100]) {
        const world = await World.make()
        const sub = await world.connect('sub', windowOf(receiveMaximum))
        await sub.subscribe('t', 2)
        const pub = await world.connect('pub')
        for (let n = 0; n < 120; n++) await pub.publish('t', `${n}`, ((n % 2) + 1) as 1 | 2)
        expect(sub.got()).toHaveLength(receiveMaximum)
        await world.pass(100)
        expect(sub.got()).toEqual([])
      }
    },
  )

  it(
    '[MQTT-4.9.0-2] ' +
      'grows by one with PUBACK, PUBCOMP, and PUBREC of 0x80 or more, not with repeated or unknown ' +
      'ones',
    async () => {
      const one = await flooded(1)
      const again = { cmd: 'puback', messageId: 1 }
      expect(textsOf(await one.sub.send(again, again, again))).toEqual(['3'])
      expect(textsOf(await one.sub.send({ ...again, messageId: 2, reasonCode: 0x87 }))).toEqual(['4'])
      expect(await one.sub.send({ ...again, messageId: 77 })).toEqual([])

      const two = await flooded(2)
      const rec = (messageId: number, reasonCode = 0) => ({ cmd: 'pubrec', messageId, reasonCode })
      const comp = (messageId: number, reasonCode = 0) => ({ cmd: 'pubcomp', messageId, reasonCode })
      expect(await two.sub.send(rec(1), rec(1))).toMatchObject([{ cmd: 'pubrel' }, { cmd: 'pubrel' }])
      expect(textsOf(await two.sub.send(comp(1), comp(1), comp(9)))).toEqual(['3'])
      expect(textsOf(await two.sub.send(rec(2, 0x99)))).toEqual(['4'])
      expect(await two.sub.send(rec(2, 0x99), comp(2, 0x92))).toEqual([])
    },
  )

  it(
    '[MQTT-4.9.0-3] ' +
      'at zero all else goes on: QoS 0, PUBREL, SUBACK, UNSUBACK, PINGRESP, and messages of the ' +
      'client',
    async () => {
      const { sub, pub } = await flooded(2)
      await pub.publish('t', 'zero', 0)
      expect(sub.texts()).toEqual(['zero'])
      const kinds = (packets: readonly Packet[]) => packets.map(({ cmd }) => cmd)
      expect(kinds(await sub.send({ cmd: 'pubrec', messageId: 1 }))).toEqual(['pubrel'])
      expect(await sub.subscribe('u', 1)).toBe(1)
      expect(await sub.unsubscribe('u')).toBe(0)
      expect(kinds(await sub.send({ cmd: 'pingreq' }))).toEqual(['pingresp'])
      expect(kinds(await sub.publish('x', '', 1))).toEqual(['puback'])
      expect(kinds(await sub.publish('x', '', 2))).toEqual(['pubrec'])
      expect(sub.closed).toBe(false)
    },
  )

  it(
    '[MQTT-4.9.0-1] ' +
      'begins anew with each connection’s Receive Maximum; a PUBLISH that is sent again counts, a ' +
      'PUBREL does not',
    async () => {
      const { world, sub } = await flooded(2)
      await sub.send({ cmd: 'pubrec', messageId: 1 })
      await sub.vanish()
      const back = await world.connect('sub', windowOf(2))
      const brief = (p: Packet) => (p.cmd === 'publish' ? `${p.payload}${p.dup ? ' dup' : ''}` : p.cmd)
      expect(back.got().map(brief)).toEqual(['pubrel', '2 dup', '3'])
      await back.vanish()
      const narrow = await world.connect('sub', windowOf(1))
      expect(narrow.got().map(brief)).toEqual(['pubrel', '2 dup'])
      await narrow.send({ cmd: 'pubcomp', messageId: 1 })
      expect(narrow.got()).toEqual([])
    },
  )
})

describe('the window of the client', () => {
  it(
    '[MQTT-3.3.4-7] ' +
      'is enforced: one message above Receive Maximum is refused with 0x93; QoS 2 counts once if ' +
      'repeated, QoS 0 never',
    async () => {
      const world = await World.make({ limits: { receiveMaximum: 2 } })
      const watcher = await world.connect('watcher')
      await watcher.subscribe('t', 0)
      const pub = await world.connect('pub')
      const one = publish(5, 4, 't', 1, 'one')
      const again = publish(5, 12, 't', 1, 'one')
      const within = Buffer.concat([
        one,
        again,
        publish(5, 4, 't', 2, 'two'),
        again,
        publish(5, 0, 't', 0, '0'),
      ])
      expect((await pub.bytes(within)).map(({ cmd }) => cmd)).toEqual([
        'pubrec',
        'pubrec',
        'pubrec',
        'pubrec',
      ])
      expect(await pub.bytes(publish(5, 2, 't', 3, 'three'))).toMatchObject([
        { cmd: 'disconnect', reasonCode: 0x93 },
      ])
      expect(pub.closed).toBe(true)
      expect(watcher.texts()).toEqual(['one', 'two', '0'])
    },
  )
})

describe('QoS 2 and message expiry', () => {
  it('[MQTT-4.3.3-13] acknowledgements go on when the message has expired, on both sides', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', windowOf(1))
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    const expiring = { properties: { messageExpiryInterval: 1 } }
    await pub.publish('t', 'sent', 2, expiring)
    await pub.publish('t', 'waiting', 2, expiring)
    await world.pass(10)
    // From the publisher: PUBREC again, PUBREL, PUBCOMP.
    const again = { cmd: 'publish', topic: 't', payload: 'sent', qos: 2, messageId: 1, dup: true }
    expect(await pub.send({ ...again, ...expiring })).toMatchObject([{ cmd: 'pubrec', reasonCode: 0 }])
    for (const messageId of [1, 2]) {
      expect(await pub.send({ cmd: 'pubrel', messageId })).toMatchObject([{ cmd: 'pubcomp', reasonCode: 0 }])
    }
    // To the subscriber: messages that were sent are completed, others are dropped.
    expect(sub.texts()).toEqual(['sent'])
    expect(await sub.send({ cmd: 'pubrec', messageId: 1 })).toMatchObject([{ cmd: 'pubrel', reasonCode: 0 }])
    expect(await sub.send({ cmd: 'pubcomp', messageId: 1 })).toEqual([])
    expect(world.server.state.counters.drops.expired).toBe(1)
  })
})

describe('Session State', () => {
  it(
    '[MQTT-4.1.0-1] ' +
      'is not discarded while the connection is open, however short the Session Expiry Interval',
    async () => {
      for (const seconds of [0, 1]) {
        const world = await World.make()
        const sub = await world.connect('sub', windowOf(1, seconds))
        await sub.subscribe('t', 2)
        const pub = await world.connect('pub')
        for (const text of ['1', '2']) await pub.publish('t', text, 2)
        await world.pass(100_000)
        expect(await sub.drain()).toEqual(['1', '2'])
        expect(await sub.unsubscribe('t')).toBe(0)
      }
    },
  )

  it(
    '[MQTT-4.1.0-2] ' +
      'is discarded within half a second when the Session Expiry Interval has passed after the ' +
      'connection',
    async () => {
      for (const end of ['vanish', 'disconnect'] as const) {
        const world = await World.make()
        const client = await world.connect('a', lasting(5))
        await client.subscribe('t', 1)
        if (end === 'vanish') await client.vanish()
        else await client.send({ cmd: 'disconnect', reasonCode: 0 })
        await world.pass(4.5)
        expect(world.census()).toMatchObject({ sessions: 1, subscriptions: 1 })
        await world.pass(1)
        expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0, deadlines: 0 })
        expect((await world.connect('a', lasting(5))).connack).toMatchObject({ sessionPresent: false })
      }
    },
  )
})

describe('refused deliveries', () => {
  it('[MQTT-4.4.0-2] a message refused with 0x80 or more is acknowledged and not sent again', async () => {
    for (const reasonCode of [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]) {
      const world = await World.make()
      const sub = await world.connect('sub', lasting())
      await sub.subscribe('t', 2)
      const pub = await world.connect('pub')
      await pub.publish('t', 'one', 1)
      await pub.publish('t', 'two', 2)
      sent(sub)
      await sub.send({ cmd: 'puback', messageId: 1, reasonCode }, { cmd: 'pubrec', messageId: 2, reasonCode })
      expect(sent(sub)).toBe('')
      await sub.vanish()
      expect((await world.connect('sub', lasting())).got()).toEqual([])
    }
  })

  it('[MQTT-4.3.3-4] a PUBREC of 0x80 or more, known or not, is never answered by PUBREL', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    expect(await sub.send({ cmd: 'pubrec', messageId: 9, reasonCode: 0x80 })).toEqual([])
    expect(await sub.send({ cmd: 'pubrec', messageId: 9 })).toMatchObject([
      { cmd: 'pubrel', reasonCode: 0x92 },
    ])
  })

  it('[MQTT-4.3.3-9] after a PUBREC of 0x80 or more the identifier is a new message', async () => {
    let allow = false
    const world = await World.make({ policy: { authorizePublish: () => allow } })
    const sub = await world.connect('sub')
    await sub.subscribe('t', 0)
    const pub = await world.connect('pub')
    expect(await pub.bytes(publish(5, 4, 't', 1, 'no'))).toMatchObject([{ cmd: 'pubrec', reasonCode: 0x87 }])
    allow = true
    for (const flags of [12, 12]) {
      expect(await pub.bytes(publish(5, flags, 't', 1, 'yes'))).toMatchObject([
        { cmd: 'pubrec', reasonCode: 0 },
      ])
    }
    expect(sub.texts()).toEqual(['yes'])
  })
})
