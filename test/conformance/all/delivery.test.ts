/** Chapters 4.3 to 4.6, as in all versions: QoS, sending again, and order. */
import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { type Given, type TestClient, World } from '../../broker/harness.ts'
import { acknowledge, DIALECTS, publish, sent } from '../wire.ts'

/** PUBLISH packets as payload, QoS, packet identifier and DUP; others by their name and identifier. */
const brief = (packets: readonly Packet[]) =>
  packets.map((p) =>
    p.cmd === 'publish'
      ? `${p.payload} ${p.qos} ${p.messageId ?? '-'}${p.dup ? ' dup' : ''}`
      : `${p.cmd} ${p.messageId}`,
  )

describe.each(DIALECTS)('MQTT %s', (_, version) => {
  const none = version === 5 ? '00' : ''
  /** A client whose Session outlives its Network Connection. */
  const kept: Given =
    version === 5 ? { clean: false, properties: { sessionExpiryInterval: 1000 } } : { clean: false }

  async function pair(): Promise<{ world: World; sub: TestClient; pub: TestClient }> {
    const world = await World.make()
    const sub = await world.connect('sub', kept, version)
    const pub = await world.connect('pub', kept, version)
    await sub.subscribe('t', 2)
    sent(sub)
    sent(pub)
    return { world, sub, pub }
  }

  describe('QoS 0', () => {
    it(
      '[MQTT-4.3.1-1] [MQTT-4.3.1-1, 3.1.1] [MQTT-2.3.1-5, 3.1.1] [MQTT-3.3.1-2, 3.1.1] ' +
        '[MQTT-3.3.4-1, 3.1.1] ' +
        'is sent once and not answered, with QoS 0, DUP 0 and no packet identifier',
      async () => {
        const { world, sub, pub } = await pair()
        await pub.bytes(publish(version, 0, 't'))
        expect(sent(sub)).toBe(`30${version === 5 ? '05' : '04'}000174${none}78`)
        expect(sent(pub)).toBe('')
        await sub.vanish()
        const back = await world.connect('sub', kept, version)
        expect(back.got()).toEqual([])
      },
    )
  })

  describe('QoS 1', () => {
    it(
      '[MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.2-1, 3.1.1] [MQTT-2.3.1-2, 3.1.1] ' +
        '[MQTT-2.3.1-4, 3.1.1] ' +
        'goes to a subscriber with an unused identifier, QoS 1 and DUP 0',
      async () => {
        const { sub, pub } = await pair()
        for (const id of [9, 10]) await pub.bytes(publish(version, 2, 't', id))
        const head = `32${version === 5 ? '07' : '06'}000174`
        expect(sent(sub)).toBe(`${head}0001${none}78${head}0002${none}78`)
        await sub.bytes(acknowledge(0x40, 1))
        await pub.bytes(publish(version, 2, 't', 11))
        // 2 is in flight still: whatever comes next is another one.
        expect(sent(sub)).toBe(`${head}0003${none}78`)
      },
    )

    it(
      '[MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-4.3.2-1, 3.1.1] [MQTT-4.3.3-1, 3.1.1] ' +
        '[MQTT-2.3.1-2, 3.1.1] [MQTT-2.3.1-4, 3.1.1] ' +
        'identifiers in use are skipped when the numbers begin again',
      async () => {
        const { world, sub, pub } = await pair()
        const other = await world.connect('other', {}, version)
        for (const qos of [2, 2, 1] as const) await other.publish('t', '', qos)
        sub.got()
        await sub.send({ cmd: 'pubrec', messageId: 2 })
        const messages = Buffer.concat(Array.from({ length: 512 }, (_, n) => publish(version, 2, 't', n + 1)))
        let latest = 3
        while (latest < 65_535) {
          const from = latest + 1
          const count = Math.min(512, 65_535 - latest)
          await pub.bytes(messages.subarray(0, (messages.length / 512) * count))
          latest += count
          // A client before 5.0 gets them a few at a time, more with each acknowledgement.
          const identifiers: (number | undefined)[] = []
          for (let came = sub.got(); came.length > 0; came = sub.got()) {
            identifiers.push(...came.map(({ messageId }) => messageId))
            const acknowledged = came.map(({ messageId }) => acknowledge(0x40, messageId!))
            sub.link.packets.unshift(...(await sub.bytes(Buffer.concat(acknowledged))))
          }
          expect([identifiers[0], identifiers.at(-1), identifiers.length]).toEqual([from, latest, count])
        }
        for (const qos of [1, 2] as const) await other.publish('t', '', qos)
        expect(sub.got().map(({ messageId }) => messageId)).toEqual([4, 5])
      },
    )

    it(
      '[MQTT-4.3.2-3] [MQTT-4.4.0-1] [MQTT-4.4.0-1, 3.1.1] [MQTT-2.3.1-3, 3.1.1] ' +
        '[MQTT-3.3.1-1, 3.1.1] ' +
        'is unacknowledged until PUBACK, and is sent again with its identifier and DUP only when ' +
        'the client is back',
      async () => {
        const { world, sub, pub } = await pair()
        await pub.publish('t', 'one', 1)
        await pub.publish('t', 'two', 1)
        expect(brief(sub.got())).toEqual(['one 1 1', 'two 1 2'])
        await world.pass(3600)
        expect(sub.got()).toEqual([])
        await sub.send({ cmd: 'puback', messageId: 1 })
        await sub.vanish()
        const back = await world.connect('sub', kept, version)
        expect(brief(back.got())).toEqual(['two 1 2 dup'])
        await world.pass(3600)
        expect(back.got()).toEqual([])
        await back.send({ cmd: 'puback', messageId: 2 })
        await back.vanish()
        expect((await world.connect('sub', kept, version)).got()).toEqual([])
      },
    )

    it(
      '[MQTT-4.3.2-4] [MQTT-4.3.2-2, 3.1.1] [MQTT-2.3.1-6, 3.1.1] [MQTT-3.3.4-1, 3.1.1] ' +
        'from a client is answered by PUBACK with its identifier once the message is stored',
      async () => {
        const { world, sub, pub } = await pair()
        world.ledger.automatic = false
        await pub.bytes(publish(version, 2, 't', 0xabcd))
        expect([sent(pub), sent(sub)]).toEqual(['', ''])
        await world.commit()
        expect(sent(pub)).toBe('4002abcd')
        expect(world.ledger.lines).toContain('enqueue 1 x 1')
      },
    )

    it(
      '[MQTT-4.3.2-5] [MQTT-4.3.2-2, 3.1.1] ' +
        'after PUBACK the same identifier is a new message, whatever DUP says',
      async () => {
        const { sub, pub } = await pair()
        for (const flags of [2, 10, 2]) await pub.bytes(publish(version, flags, 't', 5))
        expect(brief(sub.got())).toEqual(['x 1 1', 'x 1 2', 'x 1 3'])
      },
    )
  })

  describe('QoS 2 to a subscriber', () => {
    it(
      '[MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-4] [MQTT-4.3.3-1, 3.1.1] ' +
        'PUBLISH with an unused identifier, QoS 2 and DUP 0; PUBREC is answered by PUBREL with the ' +
        'same identifier; PUBCOMP ends it',
      async () => {
        const { world, sub, pub } = await pair()
        await pub.bytes(publish(version, 4, 't', 77))
        expect(sent(sub)).toBe(`34${version === 5 ? '07' : '06'}0001740001${none}78`)
        await sub.bytes(acknowledge(0x50, 1))
        expect(sent(sub)).toBe('62020001')
        await pub.publish('t', 'next', 2)
        expect(brief(sub.got())).toEqual(['next 2 2'])
        await sub.bytes(acknowledge(0x70, 1))
        expect(sent(sub)).not.toContain('62')
        expect(world.server.state.sessions.get('sub')).toMatchObject({ inFlightCount: 1 })
      },
    )

    it(
      '[MQTT-4.3.3-3] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1] [MQTT-4.3.3-1, 3.1.1] ' +
        '[MQTT-4.4.0-1, 3.1.1] ' +
        'only on a new connection, the PUBLISH is sent again until PUBREC, and then the PUBREL ' +
        'until PUBCOMP',
      async () => {
        const { world, sub, pub } = await pair()
        await pub.publish('t', 'one', 2)
        await sub.vanish()
        const second = await world.connect('sub', kept, version)
        expect(brief(second.got())).toEqual(['one 2 1 dup'])
        await second.send({ cmd: 'pubrec', messageId: 1 })
        await world.pass(3600)
        expect(second.got()).toEqual([])
        for (let round = 0; round < 2; round++) {
          const next = await world.connect('sub', kept, version)
          expect(brief(next.got())).toEqual(['pubrel 1'])
        }
        const last = await world.connect('sub', kept, version)
        await last.send({ cmd: 'pubcomp', messageId: 1 })
        expect((await world.connect('sub', kept, version)).got()).toEqual([])
      },
    )
  })

  describe('QoS 2 from a client', () => {
    it(
      '[MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-4.3.3-2, 3.1.1] [MQTT-2.3.1-6, 3.1.1] ' +
        '[MQTT-3.3.4-1, 3.1.1] ' +
        'PUBREC and PUBCOMP carry its identifier, and PUBREC is sent once the message is stored',
      async () => {
        const { world, sub, pub } = await pair()
        world.ledger.automatic = false
        await pub.bytes(publish(version, 4, 't', 0x0102))
        expect([sent(pub), sent(sub)]).toEqual(['', ''])
        await world.commit()
        expect(sent(pub)).toBe('50020102')
        world.ledger.automatic = true
        await pub.bytes(acknowledge(0x62, 0x0102))
        expect(sent(pub)).toBe('70020102')
      },
    )

    it(
      '[MQTT-4.3.3-10] [MQTT-4.3.3-2, 3.1.1] ' +
        'a PUBLISH repeated before PUBREL gets PUBREC again and is delivered once, whatever its ' +
        'DUP, over connections too',
      async () => {
        const { world, sub, pub } = await pair()
        for (const flags of [4, 12, 4]) {
          await pub.bytes(publish(version, flags, 't', 5))
          expect(sent(pub)).toBe('50020005')
        }
        await pub.vanish()
        const back = await world.connect('pub', kept, version)
        sent(back)
        await back.bytes(publish(version, 12, 't', 5))
        expect(sent(back)).toBe('50020005')
        expect(sub.texts()).toEqual(['x'])
      },
    )

    it('[MQTT-4.3.3-12] [MQTT-4.3.3-2, 3.1.1] after PUBCOMP the identifier is a new message', async () => {
      const { sub, pub } = await pair()
      for (const payload of ['1', '2']) {
        await pub.bytes(publish(version, 12, 't', 5, payload))
        await pub.bytes(acknowledge(0x62, 5))
      }
      expect(sub.texts()).toEqual(['1', '2'])
    })
  })

  describe('section 4.5', () => {
    it(
      '[MQTT-4.5.0-1] [MQTT-4.5.0-1, 3.1.1] [MQTT-3.1.2-5, 3.1.1] ' +
        'a message is added to every Session with a matching Subscription, even if the client is ' +
        'away',
      async () => {
        const { world, sub, pub } = await pair()
        const away = await world.connect('away', kept, version)
        await away.subscribe('+', 1)
        const other = await world.connect('other', kept, version)
        await other.subscribe('u', 1)
        await away.vanish()
        await other.vanish()
        for (const qos of [1, 2] as const) await pub.publish('t', `${qos}`, qos)
        expect(sub.texts()).toEqual(['1', '2'])
        expect((await world.connect('away', kept, version)).texts()).toEqual(['1', '2'])
        expect((await world.connect('other', kept, version)).texts()).toEqual([])
      },
    )
  })

  describe('order', () => {
    it(
      '[MQTT-4.6.0-1] [MQTT-4.6.0-1, 3.1.1] ' +
        'PUBLISH packets are sent again in the order in which they were sent',
      async () => {
        const { world, sub, pub } = await pair()
        for (let n = 1; n <= 6; n++) await pub.publish('t', `${n}`, n % 2 === 0 ? 2 : 1)
        expect(sub.texts()).toHaveLength(6)
        await sub.send({ cmd: 'puback', messageId: 3 })
        await sub.vanish()
        const back = await world.connect('sub', kept, version)
        expect(brief(back.got())).toEqual(['1 1 1 dup', '2 2 2 dup', '4 2 4 dup', '5 1 5 dup', '6 2 6 dup'])
      },
    )

    it(
      '[MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-2, 3.1.1] [MQTT-4.6.0-3, 3.1.1] ' +
        'PUBACK and PUBREC are sent in the order of the PUBLISHes',
      async () => {
        const { world, pub } = await pair()
        world.ledger.automatic = false
        const order = [9, 2, 7, 3, 8, 1]
        const before = Buffer.concat(order.map((id) => publish(version, id % 2 === 0 ? 4 : 2, 't', id)))
        // Those that nobody stores may not pass those that wait for the disk.
        await pub.bytes(Buffer.concat([before, publish(version, 2, 'nobody', 30)]))
        while (await world.commit());
        expect(brief(pub.got())).toEqual([
          ...order.map((id) => `${id % 2 === 0 ? 'pubrec' : 'puback'} ${id}`),
          'puback 30',
        ])
      },
    )

    it(
      '[MQTT-4.6.0-4] [MQTT-4.6.0-4, 3.1.1] ' + 'PUBRELs keep the order of the PUBRECs, if resent too',
      async () => {
        const { world, sub, pub } = await pair()
        for (let n = 1; n <= 3; n++) await pub.publish('t', `${n}`, 2)
        sub.got()
        await sub.bytes(Buffer.concat([3, 1, 2].map((id) => acknowledge(0x50, id))))
        await sub.vanish()
        const back = await world.connect('sub', kept, version)
        expect(brief(back.got())).toEqual(['pubrel 3', 'pubrel 1', 'pubrel 2'])
      },
    )

    it(
      '[MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT-4.6.0-5, 3.1.1] [MQTT-4.6.0-6, 3.1.1] ' +
        'every topic is ordered: each subscriber gets a client’s messages of one QoS in their order, ' +
        'live, queued and read late',
      async () => {
        const world = await World.make({ limits: { inFlightMax: 3, outgoingBytesMax: 600 } })
        const [live, slow, away] = [
          await world.connect('live', kept, version),
          await world.connect('slow', kept, version),
          await world.connect('away', kept, version),
        ]
        for (const client of [live, slow, away]) await client.subscribe('#', 2)
        slow.link.stuck = true
        await away.vanish()
        const pub = await world.connect('pub', {}, version)
        const got: Record<string, string[]> = { live: [], slow: [], away: [] }
        for (let n = 0; n < 30; n++) {
          await pub.publish(`t/${n % 2}`, `${n % 2}/${n}`, ((n >> 1) % 2 === 0 ? 1 : 2) as 1 | 2)
          got.live!.push(...(await live.drain()))
        }
        slow.link.stuck = false
        slow.link.take()
        await world.settle()
        got.slow!.push(...(await slow.drain()))
        got.away!.push(...(await (await world.connect('away', kept, version)).drain()))
        const expected = Array.from({ length: 30 }, (_, n) => n)
        for (const texts of Object.values(got)) {
          const numbers = texts.map((text) => Number(text.split('/')[1]))
          expect([...numbers].sort((a, b) => a - b)).toEqual(expected)
          for (const topic of [0, 1]) {
            for (const qos of [0, 1]) {
              const same = numbers.filter((n) => n % 2 === topic && (n >> 1) % 2 === qos)
              expect(same).toEqual([...same].sort((a, b) => a - b))
            }
          }
        }
      },
    )
  })
})
