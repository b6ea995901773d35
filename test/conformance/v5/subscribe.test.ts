/** SUBSCRIBE to UNSUBACK of MQTT 5.0 (sections 3.8 to 3.11, 4.8): what older versions do not have. */
import { describe, expect, it } from 'vitest'
import { type Given, lasting, type TestClient, World } from '../../broker/harness.ts'
import { packet, properties, uint16 } from '../../mqtt/packets.ts'
import { expectEachRefused, expectNoFilters, subscribe, unsubscribe } from '../wire.ts'
import { ask } from './answers.ts'

describe('SUBACK and UNSUBACK', () => {
  it(
    '[MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2] ' +
      'have no properties, whatever was refused, and so fit wherever their codes fit',
    async () => {
      const policy = { authorizeSubscribe: () => 0x97 as const }
      const world = await World.make({ policy, limits: { profile: 'open' } })
      // As many filters as the answer has room for in 10 bytes: 2 + 2 + 1 + 5.
      const client = await world.connect('a', { properties: { maximumPacketSize: 10 } })
      expect(await ask(client, subscribe(5, 1, 'a', 0, 'b', 0, 'c', 0, 'd', 0, 'e', 0))).toBe(
        `9008000100${'97'.repeat(5)}`,
      )
      expect(await ask(client, unsubscribe(5, 2, 'a', 'b', 'c', 'd', 'e'))).toBe(
        `b008000200${'11'.repeat(5)}`,
      )
      // One more, and the only thing that fits is DISCONNECT 0x95 without a Reason String.
      expect(await ask(client, unsubscribe(5, 3, 'a', 'b', 'c', 'd', 'e', 'f'))).toMatch(/^e00[12]95(00)?$/)
      expect(client.closed).toBe(true)
    },
  )

  it(
    '[MQTT-3.9.3-2] [MQTT-3.8.4-7] ' +
      'have a code of SUBACK’s table, whatever a policy says, and a refusal makes no Subscription',
    async () => {
      let answer = 0
      const world = await World.make({ policy: { authorizeSubscribe: () => answer as 0 } })
      const client = await world.connect('a')
      const allowed = [0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]
      for (answer = 0; answer < 256; answer++) {
        const code = await client.subscribe('t', 2)
        expect([answer, code]).toEqual([answer, allowed.includes(answer) ? answer : 0x80])
      }
      expect(world.census()).toMatchObject({ subscriptions: 0 })
    },
  )
})

describe('errors in SUBSCRIBE and UNSUBSCRIBE', () => {
  const withProperties = (first: number, bytes: Buffer, ...payload: (string | number)[]): Buffer =>
    packet(first, uint16(1), bytes, ...payload)

  it('properties: misplaced, repeated, out of range, cut off', async () => {
    const world = await World.make()
    const user = [0x26, 'k', 'v'] as const
    const wrong = (bytes: Buffer, code: number): [Buffer, number] => [
      withProperties(0x82, bytes, 't', 0),
      code,
    ]
    await expectEachRefused(world, 5, [
      wrong(properties(0x0b, 0), 0x82), // Subscription Identifier 0
      wrong(properties(0x0b, 1, 0x0b, 2), 0x82), // two of them
      wrong(properties(0x0b, [0x81, 0x00]), 0x81), // longer than it needs to be
      wrong(properties(0x0b, [0xff, 0xff, 0xff, 0xff, 0x01]), 0x81), // five bytes
      wrong(properties(0x0b), 0x81),
      wrong(properties(0x11, [0, 0, 0, 1]), 0x81), // Session Expiry Interval
      wrong(properties(0x1f, 'reason'), 0x81), // Reason String
      wrong(properties(0x7f, 0), 0x81),
      wrong(properties(0x26, 'k'), 0x81),
      wrong(properties(0x26, 'k', [0, 1, 0]), 0x81),
      [packet(0x82, uint16(1), [0x80, 0x00], 't', 0), 0x81], // Property Length longer than it needs to be
      [packet(0x82, uint16(1), 9, 't', 0), 0x81], // ... beyond the packet
      [packet(0x82, uint16(1)), 0x81], // ... left out
      [withProperties(0xa2, properties(0x0b, 1), 't'), 0x81],
      [withProperties(0xa2, properties(0x26, 'k'), 't'), 0x81],
      [packet(0xa2, uint16(1), 9, 't'), 0x81],
      [packet(0xa2, uint16(1)), 0x81],
    ])
    expect(world.census()).toMatchObject({ subscriptions: 0 })
    const client = await world.connect('a')
    const fine = properties(...user, 0x0b, [0xff, 0xff, 0xff, 0x7f], ...user)
    expect(await ask(client, withProperties(0x82, fine, 't', 0))).toBe('900400010000')
    expect(await ask(client, withProperties(0xa2, properties(...user, ...user), 't'))).toBe('b00400010000')
  })

  it('[MQTT-3.8.3-4] No Local on a Shared Subscription is a protocol error without effect', async () => {
    const world = await World.make()
    await expectEachRefused(world, 5, [
      [subscribe(5, 1, 'fine', 0, '$share/g/t', 4), 0x82],
      [subscribe(5, 1, '$share/g/#', 0x2e), 0x82],
    ])
    expect(world.census()).toMatchObject({ subscriptions: 0 })
    // $SHARE and $share without a slash are filters like others.
    const client = await world.connect('a')
    expect(await ask(client, subscribe(5, 1, '$SHARE/g/t', 4, '$share', 5, '$sharing/t', 6))).toBe(
      '9006000100000102',
    )
  })

  it(
    '[MQTT-4.8.2-1] [MQTT-4.8.2-2] ' +
      'a Shared Subscription has a ShareName of one character or more without wildcards, a slash, and ' +
      'a valid filter',
    async () => {
      const world = await World.make()
      const wrong = [
        '$share/',
        '$share//',
        '$share//t',
        '$share/g',
        '$share/g/',
        '$share/+/t',
        '$share/#',
        '$share/#/t',
        '$share/g+/t',
        '$share/g#/t',
        '$share/+',
        '$share/g/a#',
        '$share/g/#/a',
        '$share/g/+a',
      ]
      await expectNoFilters(world, 5, wrong)
      const client = await world.connect('a')
      for (const filter of [
        '$share/g/t',
        '$share/g//',
        '$share/g/#',
        '$share/ /+',
        '$share/$share/$share/g/t',
      ]) {
        expect([filter, await client.subscribe(filter, 1)]).toEqual([filter, 1])
      }
    },
  )
})

describe('Shared Subscriptions', () => {
  const member = async (world: World, id: string, connect: Given = lasting(), qos: 0 | 1 | 2 = 2) => {
    const client = await world.connect(id, connect)
    expect(await client.subscribe('$share/g/t', qos)).toBe(qos)
    return client
  }
  const connected = (receiveMaximum: number): Given => ({
    clean: false,
    properties: { sessionExpiryInterval: 1000, receiveMaximum },
  })
  const took = (clients: readonly TestClient[]) => clients.map((client) => client.texts())

  it('[MQTT-4.8.2-3] each message goes to one member, at the QoS granted to that member', async () => {
    const world = await World.make()
    const members = [
      await member(world, 'zero', {}, 0),
      await member(world, 'one', {}, 1),
      await member(world, 'two', {}, 2),
    ]
    const pub = await world.connect('pub')
    for (let n = 0; n < 6; n++) await pub.publish('t', `${n}`, 2)
    expect(members.map((client) => client.got().map((p) => p.cmd === 'publish' && p.qos))).toEqual([
      [0, 0],
      [1, 1],
      [2, 2],
    ])
  })

  it(
    '[MQTT-4.8.2-4] ' +
      'a QoS 2 delivery to a member is completed when the member is back, before and after its ' +
      'PUBREC',
    async () => {
      const world = await World.make()
      const pub = await world.connect('pub')
      const first = await member(world, 'first')
      for (const payload of ['sent', 'received']) await pub.publish('t', payload, 2)
      await first.send({ cmd: 'pubrec', messageId: 2 })
      await first.vanish()
      const second = await member(world, 'second')
      await world.pass(900)
      expect(second.got()).toEqual([])
      const back = await world.connect('first', lasting())
      expect(back.got()).toMatchObject([
        { cmd: 'pubrel', messageId: 2 },
        { cmd: 'publish', messageId: 1, dup: true, qos: 2 },
      ])
      expect(second.got()).toEqual([])
    },
  )

  it('[MQTT-4.8.2-5] a QoS 2 delivery to a member goes to nobody else when its Session ends', async () => {
    const ends: ((world: World, client: TestClient) => Promise<unknown>)[] = [
      (_, client) =>
        client.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } }),
      async (world, client) => {
        await client.vanish()
        await world.pass(1001)
      },
      (world) => world.connect('first', { clean: true }),
    ]
    for (const end of ends) {
      const world = await World.make()
      const dropped = world.record('dropped')
      const pub = await world.connect('pub')
      const first = await member(world, 'first', connected(2))
      await pub.publish('t', 'sent', 2)
      await pub.publish('t', 'received', 2)
      await first.send({ cmd: 'pubrec', messageId: 2 })
      await pub.publish('t', 'waiting', 2)
      const second = await member(world, 'second')
      await end(world, first)
      expect(took([second])).toEqual([['waiting']])
      expect(dropped.map(({ reason, message }) => `${reason} ${message.payload}`)).toEqual([
        'session-ended sent',
      ])
    }
  })

  it(
    '[MQTT-4.8.2-6] ' +
      'a message that a member refuses with 0x80 or more is discarded: nobody gets it, nor the ' +
      'member again',
    async () => {
      for (const reasonCode of [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]) {
        const world = await World.make()
        const pub = await world.connect('pub')
        const a = await member(world, 'a')
        for (const qos of [1, 2] as const) await pub.publish('t', `${qos}`, qos)
        const b = await member(world, 'b')
        expect(await a.send({ cmd: 'puback', messageId: 1, reasonCode })).toMatchObject([{}, {}])
        expect(await a.send({ cmd: 'pubrec', messageId: 2, reasonCode })).toEqual([])
        await a.vanish()
        const back = await world.connect('a', lasting())
        await back.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
        expect([...back.got(), ...b.got()]).toEqual([])
      }
    },
  )
})

describe('No Local', () => {
  it(
    '[MQTT-3.8.3-3] ' + 'holds for the Client Identifier, over connections and for Wills, but not for others',
    async () => {
      const world = await World.make()
      const client = await world.connect('a', lasting())
      await client.subscribe('t', 1, { nl: true })
      await client.publish('t', 'mine', 1)
      await (await world.connect('b')).publish('t', 'theirs', 1)
      expect(client.texts()).toEqual(['theirs'])
      await client.vanish()
      const will = { topic: 't', payload: Buffer.from('will'), qos: 1 as const, retain: false }
      const back = await world.connect('a', lasting(1000, { will }))
      await back.drain()
      await back.publish('t', 'mine again', 2)
      expect(back.texts()).toEqual([])
      await back.vanish()
      expect((await world.connect('a', lasting())).texts()).toEqual([])
    },
  )
})
