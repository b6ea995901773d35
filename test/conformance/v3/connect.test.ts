/** CONNECT, CONNACK and DISCONNECT of MQTT 3.1.1 (sections 3.1, 3.2, 3.14); 3.1 is the same unless noted. */
import { describe, expect, it } from 'vitest'
import { type TestClient, World } from '../../broker/harness.ts'
import { connect, packet, uint16 } from '../../mqtt/packets.ts'
import { OLD_DIALECTS, publish, sent } from '../wire.ts'

const CLEAN = 0x02
const WILL = 0x04
const PASSWORD = 0x40
const USER_NAME = 0x80
const ACCEPTED = '20020000'

/** The policy decides by the Client Identifier, whatever else the CONNECT has. */
const REFUSALS: Record<string, 0x85 | 0x86 | 0x87 | 0x88 | 0x83> = {
  identifier: 0x85,
  password: 0x86,
  user: 0x87,
  unavailable: 0x88,
  wordless: 0x83,
}
const refusing = {
  authenticate: ({ clientId }: { clientId: string }) => {
    const reasonCode = REFUSALS[clientId]
    return reasonCode === undefined
      ? ({ allow: true, userName: null } as const)
      : ({ allow: false, reasonCode, reason: 'no' } as const)
  },
}

/** Expects a CONNECT to end in silence: no CONNACK, no Session, and no effect of later packets. */
async function expectSilence(world: World, version: 3 | 4, bytes: Buffer): Promise<void> {
  const client = world.open(version)
  const behind = publish(version, 0, 'behind')
  expect([bytes.toString('hex'), await client.bytes(Buffer.concat([bytes, behind]))]).toEqual([
    bytes.toString('hex'),
    [],
  ])
  expect(client.closed).toBe(true)
  expect(world.census()).toMatchObject({ sessions: 0, connections: 0, wills: 0 })
}

describe.each(OLD_DIALECTS)('MQTT %s', (_, version) => {
  const hello = (flags: number, ...tail: (string | number[])[]): Buffer => connect(version, flags, ...tail)

  async function greeted(world: World, bytes: Buffer): Promise<[TestClient, string]> {
    const client = world.open(version)
    await client.bytes(bytes)
    return [client, sent(client)]
  }

  describe('the first packet', () => {
    it('[MQTT-3.1.0-1, 3.1.1] anything but CONNECT closes the connection at its first byte', async () => {
      const world = await World.make()
      for (let first = 0; first < 256; first++) {
        if (first === 0x10) continue
        const client = world.open(version)
        expect(await client.bytes(Buffer.from([first]))).toEqual([])
        expect([first, client.closed]).toEqual([first, true])
      }
    })

    it(
      '[MQTT-3.1.0-2, 3.1.1] ' + 'a second CONNECT ends the connection, and takes over no other Session',
      async () => {
        const world = await World.make()
        const other = await world.connect('other', {}, version)
        const client = await world.connect('a', {}, version)
        sent(client)
        await client.bytes(hello(CLEAN, 'other'))
        expect(sent(client)).toBe('')
        expect([client.closed, other.closed]).toEqual([true, false])
      },
    )

    it('[MQTT-3.1.2-1, 3.1.1] another protocol name closes the connection without any effect', async () => {
      const world = await World.make()
      for (const name of ['MQTt', 'mqtt', 'MQTTX', 'MQT', '', 'MQIsdP', 'AMQP', 'MQTT\ufeff']) {
        await expectSilenceOrVersionRefusal(world, packet(0x10, name, version, 2, uint16(60), 'a'))
      }
      // A name with the level of the other one.
      const swapped = packet(0x10, version === 3 ? 'MQTT' : 'MQIsdp', version, 2, uint16(60), 'a')
      await expectSilenceOrVersionRefusal(world, swapped)
    })

    it(
      '[MQTT-3.1.2-2, 3.1.1] ' +
        'an unknown protocol level is answered by CONNACK 0x01, and the connection is closed',
      async () => {
        const world = await World.make()
        for (const level of [0, 1, 2, version === 3 ? 4 : 3]) {
          const name = version === 3 ? 'MQIsdp' : 'MQTT'
          const [client, answer] = await greeted(world, packet(0x10, name, level, 2, uint16(60), 'a'))
          expect([level, answer]).toEqual([level, '20020001'])
          expect(client.closed).toBe(true)
        }
        expect(world.census()).toMatchObject({ sessions: 0 })
      },
    )

    /** The Server may say 0x01 to a protocol name that it does not know; it never says more. */
    async function expectSilenceOrVersionRefusal(world: World, bytes: Buffer): Promise<void> {
      const [client, answer] = await greeted(world, bytes)
      expect(['', '20020001']).toContain(answer)
      expect(client.closed).toBe(true)
      expect(world.census()).toMatchObject({ sessions: 0, connections: 0 })
    }
  })

  describe('Connect Flags', () => {
    it(
      '[MQTT-3.1.2-3, 3.1.1] [MQTT-3.1.4-1, 3.1.1] ' +
        'a reserved flag that is not 0 closes the connection without CONNACK; 3.1 ignores it',
      async () => {
        const world = await World.make()
        for (const flags of [CLEAN | 1, 1]) {
          if (version === 4) await expectSilence(world, version, hello(flags, 'a'))
          else expect((await greeted(world, hello(flags, 'a')))[1]).toBe(ACCEPTED)
        }
      },
    )

    it('[MQTT-3.1.2-9, 3.1.1] Will Flag 1 without Will topic or message is refused', async () => {
      const world = await World.make()
      await expectSilence(world, version, hello(CLEAN | WILL, 'a'))
      await expectSilence(world, version, hello(CLEAN | WILL, 'a', 'topic'))
      const [, answer] = await greeted(world, hello(CLEAN | WILL, 'a', 'topic', ''))
      expect(answer).toBe(ACCEPTED)
    })

    it(
      '[MQTT-3.1.2-11, 3.1.1] [MQTT-3.1.2-13, 3.1.1] [MQTT-3.1.2-15, 3.1.1] ' +
        'with Will Flag 0 there are no Will fields, and Will QoS and Will Retain must be 0 in ' +
        '3.1.1; 3.1 ignores them',
      async () => {
        const world = await World.make()
        for (const flags of [0x08, 0x10, 0x18, 0x20, 0x28]) {
          await expectSilence(world, version, hello(CLEAN | flags, 'a', 'topic', 'message'))
          if (version === 4) {
            await expectSilence(world, version, hello(CLEAN | flags, 'a'))
            continue
          }
          const [client, answer] = await greeted(world, hello(CLEAN | flags, 'a'))
          expect([answer, world.census().wills]).toEqual([ACCEPTED, 0])
          await client.vanish()
        }
      },
    )

    it('[MQTT-3.1.2-14, 3.1.1] a Will QoS of 3 is refused, 0 to 2 are taken', async () => {
      const world = await World.make()
      await expectSilence(world, version, hello(CLEAN | WILL | 0x18, 'a', 'topic', 'message'))
      for (const qos of [0, 1, 2]) {
        const [, answer] = await greeted(world, hello(CLEAN | WILL | (qos << 3), 'a', 'topic', 'message'))
        expect(answer).toBe(ACCEPTED)
      }
    })

    it(
      '[MQTT-3.1.2-18, 3.1.1] [MQTT-3.1.2-20, 3.1.1] ' +
        'with User Name Flag 0 or Password Flag 0 the field is absent',
      async () => {
        const world = await World.make()
        await expectSilence(world, version, hello(CLEAN, 'a', 'user'))
        await expectSilence(world, version, hello(CLEAN, 'a', 'user', 'password'))
        await expectSilence(world, version, hello(CLEAN | USER_NAME, 'a', 'user', 'password'))
      },
    )

    it('[MQTT-3.1.2-22, 3.1.1] a Password without a User Name is refused', async () => {
      const world = await World.make()
      await expectSilence(world, version, hello(CLEAN | PASSWORD, 'a', 'password'))
      await expectSilence(world, version, hello(CLEAN | PASSWORD, 'a', 'user', 'password'))
    })
  })

  describe('payload', () => {
    it(
      '[MQTT-3.1.3-1, 3.1.1] [MQTT-3.1.3-3, 3.1.1] ' +
        'its fields are read in their order, the Client Identifier first',
      async () => {
        const seen: unknown[] = []
        const world = await World.make({
          policy: {
            authenticate: ({ clientId, userName, password }) => {
              seen.push([clientId, userName, password?.toString()])
              return { allow: true, userName: userName ?? null }
            },
          },
        })
        const watcher = await world.connect('watcher', { username: 'w' })
        await watcher.subscribe('#', 0)
        const flags = CLEAN | WILL | USER_NAME | PASSWORD
        const bytes = hello(flags, 'id', 'will/topic', 'will message', 'user', [0, 4, 0xff, 0, 1, 2])
        const [client, answer] = await greeted(world, bytes)
        expect(answer).toBe(ACCEPTED)
        expect(seen[1]).toEqual(['id', 'user', Buffer.from([0xff, 0, 1, 2]).toString()])
        await client.vanish()
        expect(watcher.got()).toMatchObject([{ topic: 'will/topic', payload: Buffer.from('will message') }])
        // A CONNECT that ends before its Client Identifier.
        await expectSilenceBeside(
          world,
          packet(0x10, version === 3 ? 'MQIsdp' : 'MQTT', version, 2, uint16(60)),
        )
      },
    )

    it(
      '[MQTT-3.1.3-4, 3.1.1] [MQTT-3.1.3-10, 3.1.1] [MQTT-3.1.3-11, 3.1.1] [MQTT-1.5.3-1, 3.1.1] ' +
        '[MQTT-1.5.3-2, 3.1.1] ' +
        'Client Identifier, Will topic and user name are UTF-8',
      async () => {
        const world = await World.make()
        for (const wrong of [
          [0, 2, 0xc3, 0x28],
          [0, 1, 0x00],
          [0, 3, 0xed, 0xa0, 0x80],
          [0, 2, 0x61, 0xe2],
        ]) {
          await expectSilence(world, version, hello(CLEAN, wrong))
          await expectSilence(world, version, hello(CLEAN | WILL, 'a', wrong, 'message'))
          await expectSilence(world, version, hello(CLEAN | USER_NAME, 'a', wrong))
          // Neither the Will message nor the password is a string.
          const [client, answer] = await greeted(
            world,
            hello(CLEAN | WILL | USER_NAME | PASSWORD, 'a', 'topic', wrong, 'user', wrong),
          )
          expect(answer).toBe(ACCEPTED)
          await client.send({ cmd: 'disconnect' })
        }
      },
    )

    it(
      '[MQTT-3.1.3-5, 3.1.1] ' + 'Client Identifiers of 1 to 23 characters of 0-9a-zA-Z are allowed',
      async () => {
        const world = await World.make()
        const alphabet = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
        const ids = [...alphabet, ...Array.from({ length: 40 }, (_, at) => alphabet.slice(at, at + 23))]
        for (let bytes = 1; bytes <= 23; bytes++) ids.push('Z'.repeat(bytes))
        for (const id of ids)
          expect([id, (await greeted(world, hello(CLEAN, id)))[1]]).toEqual([id, ACCEPTED])
      },
    )

    it(
      '[MQTT-3.1.3-2, 3.1.1] [MQTT-3.1.4-2, 3.1.1] ' +
        'the Client Identifier names the Session: the same one takes it over, another one has its ' +
        'own',
      async () => {
        const world = await World.make()
        const first = await world.connect('a', { clean: false }, version)
        await first.subscribe('t', 1)
        const other = await world.connect('A', { clean: false }, version)
        expect(first.closed).toBe(false)
        sent(first)
        const second = await world.connect('a', { clean: false }, version)
        expect([first.closed, other.closed, second.closed]).toEqual([true, false, false])
        expect(sent(first)).toBe('')
        await (await world.connect('pub')).publish('t', 'x', 1)
        expect([second.texts(), other.texts()]).toEqual([['x'], []])
      },
    )

    async function expectSilenceBeside(world: World, bytes: Buffer): Promise<void> {
      const [client, answer] = await greeted(world, bytes)
      expect(answer).toBe('')
      expect(client.closed).toBe(true)
    }
  })

  describe('answers', () => {
    it(
      '[MQTT-3.1.4-4, 3.1.1] [MQTT-3.2.0-1, 3.1.1] ' +
        'CONNACK 0 is the first packet, even if messages wait for the client',
      async () => {
        const world = await World.make()
        const first = await world.connect('a', { clean: false }, version)
        await first.subscribe('t', 2)
        await first.vanish()
        await (await world.connect('pub')).publish('t', 'x', 2)
        world.ledger.automatic = false
        const client = world.open(version)
        await client.bytes(Buffer.concat([hello(0, 'a'), packet(0xc0)]))
        expect(sent(client)).toBe('')
        while (await world.commit());
        const answer = sent(client)
        expect(answer.slice(0, 8)).toBe(version === 3 ? ACCEPTED : '20020100')
        expect(answer.slice(8)).toContain('d000')
      },
    )

    it(
      '[MQTT-3.2.2-4, 3.1.1] [MQTT-3.2.2-5, 3.1.1] [MQTT-3.1.3-9, 3.1.1] ' +
        'a refusal is a CONNACK with a return code and Session Present 0, and the close',
      async () => {
        const world = await World.make({ policy: refusing })
        const answers: string[] = []
        for (const id of ['identifier', 'password', 'user', 'unavailable']) {
          const [client, answer] = await greeted(world, hello(0, id))
          answers.push(answer)
          expect(client.closed).toBe(true)
        }
        expect(answers).toEqual(['20020002', '20020004', '20020005', '20020003'])
      },
    )

    it(
      '[MQTT-3.2.2-6, 3.1.1] ' +
        'a refusal without a fitting return code closes the connection without CONNACK',
      async () => {
        const world = await World.make({ policy: refusing })
        const [client, answer] = await greeted(world, hello(0, 'wordless'))
        expect([answer, client.closed]).toEqual(['', true])
      },
    )

    it('[MQTT-3.1.4-5, 3.1.1] no packet after a refused CONNECT is processed', async () => {
      const world = await World.make({ policy: refusing })
      const published = world.record('published')
      for (const id of ['password', 'wordless']) {
        await greeted(world, Buffer.concat([hello(0, id), publish(version, 2, 't', 1), packet(0xc0)]))
      }
      expect(published).toEqual([])
    })
  })

  describe('Sessions', () => {
    it(
      '[MQTT-3.1.2-4, 3.1.1] [MQTT-3.1.4-3, 3.1.1] [MQTT-4.1.0-1, 3.1.1] [MQTT-3.2.2-2, 3.1.1] ' +
        'Clean Session 0 resumes Subscriptions, queue and identifiers, however old they are',
      async () => {
        const world = await World.make()
        const first = await world.connect('a', { clean: false }, version)
        await first.subscribe('t', 2)
        await first.send({ cmd: 'publish', topic: 'u', payload: '', qos: 2, messageId: 9 })
        await first.send({ cmd: 'disconnect' })
        await (await world.connect('pub')).publish('t', 'x', 1)
        await world.pass(1e7)
        const [client, answer] = await greeted(world, hello(0, 'a'))
        expect(answer.slice(0, 8)).toBe(version === 3 ? ACCEPTED : '20020100')
        expect(answer.slice(8)).toBe('3206000174000178')
        expect(await client.send({ cmd: 'pubrel', messageId: 9 })).toMatchObject([{ cmd: 'pubcomp' }])
      },
    )

    it(
      '[MQTT-3.2.2-3, 3.1.1] [MQTT-3.1.2-4, 3.1.1] ' +
        'Clean Session 0 without a stored Session is answered by Session Present 0 and makes a ' +
        'lasting Session',
      async () => {
        const world = await World.make()
        const [client, answer] = await greeted(world, hello(0, 'a'))
        expect(answer).toBe(ACCEPTED)
        await client.vanish()
        expect(world.census()).toMatchObject({ sessions: 1 })
      },
    )

    it(
      '[MQTT-3.2.2-1, 3.1.1] [MQTT-3.1.2-6, 3.1.1] ' +
        'Clean Session 1 discards the old Session; the new one ends with its connection and is not ' +
        'used again',
      async () => {
        const world = await World.make()
        const old = await world.connect('a', { clean: false }, version)
        await old.subscribe('t', 1)
        await old.vanish()
        const pub = await world.connect('pub')
        await pub.publish('t', 'old', 1)
        const [clean, answer] = await greeted(world, hello(CLEAN, 'a'))
        expect(answer).toBe(ACCEPTED)
        await clean.subscribe('t', 1)
        await pub.publish('t', 'x', 1)
        expect(clean.texts()).toEqual(['x'])
        await clean.vanish()
        expect(world.census()).toMatchObject({ sessions: 1, subscriptions: 0 })
        const [, again] = await greeted(world, hello(0, 'a'))
        expect(again).toBe(ACCEPTED)
      },
    )

    it('[MQTT-4.1.0-2, 3.1.1] a Session lives as long as its connection, Clean Session or not', async () => {
      const world = await World.make({ limits: { sessionExpirySecondsMax: 10 } })
      for (const clean of [true, false]) {
        const client = await world.connect('a', { clean }, version)
        await client.subscribe('t', 1)
        await world.pass(100_000)
        await (await world.connect('pub')).publish('t', 'x', 1)
        expect(client.texts()).toEqual(['x'])
      }
    })

    it('[MQTT-3.1.2-7, 3.1.1] retained messages stay when the Session of their publisher ends', async () => {
      const world = await World.make()
      const pub = await world.connect('a', { clean: true }, version)
      await pub.publish('t', 'kept', 1, { retain: true })
      await pub.send({ cmd: 'disconnect' })
      const again = await world.connect('a', { clean: true }, version)
      await again.subscribe('t', 0)
      expect(again.texts()).toEqual(['kept'])
    })
  })

  describe('Keep Alive', () => {
    it(
      '[MQTT-3.1.2-24, 3.1.1] ' +
        'silence for one and a half Keep Alives ends the connection as a network failure does; any ' +
        'packet prevents that',
      async () => {
        const world = await World.make()
        const watcher = await world.connect('watcher')
        await watcher.subscribe('will')
        const will = { topic: 'will', payload: Buffer.from('lost'), qos: 0, retain: false }
        for (const packetBytes of [packet(0xc0), publish(version, 0, 't'), packet(0x40, uint16(1))]) {
          const client = await world.connect('a', { keepalive: 10, will }, version)
          for (let round = 0; round < 5; round++) {
            await world.pass(14.4)
            await client.bytes(packetBytes)
          }
          expect(client.closed).toBe(false)
          await world.pass(14.9)
          expect(client.closed).toBe(false)
          await world.pass(0.2)
          expect(client.closed).toBe(true)
          expect(watcher.texts()).toEqual(['lost'])
        }
        const patient = await world.connect('b', { keepalive: 0 }, version)
        await world.pass(1e6)
        expect(patient.closed).toBe(false)
      },
    )
  })

  describe('Will', () => {
    const will = { topic: 'will', payload: Buffer.from('lost'), qos: 1, retain: false }

    it(
      '[MQTT-3.1.2-8, 3.1.1] [MQTT-3.1.2-10, 3.1.1] ' +
        'it is published once when the connection ends without DISCONNECT, however that happens',
      async () => {
        const world = await World.make()
        const watcher = await world.connect('watcher', {}, version)
        await watcher.subscribe('will', 2)
        const ends: ((client: TestClient) => Promise<unknown>)[] = [
          (client) => client.vanish(),
          (client) => client.bytes(Buffer.from([0])),
          () => world.pass(16),
          () => world.connect('a', { keepalive: 10 }, version),
        ]
        for (const end of ends) {
          const client = await world.connect('a', { clean: false, keepalive: 10, will }, version)
          await end(client)
          expect(watcher.got()).toMatchObject([{ payload: will.payload, qos: 1, retain: false }])
          await (await world.connect('a', { clean: true }, version)).vanish()
          await world.pass(100)
          expect(watcher.got()).toEqual([])
          expect(world.census()).toMatchObject({ wills: 0 })
        }
      },
    )

    it('[MQTT-3.14.4-3, 3.1.1] [MQTT-3.1.2-10, 3.1.1] DISCONNECT deletes it', async () => {
      const world = await World.make()
      const watcher = await world.connect('watcher', {}, version)
      await watcher.subscribe('will', 2)
      const client = await world.connect('a', { clean: false, will }, version)
      await client.send({ cmd: 'disconnect' })
      await (await world.connect('a', { clean: true }, version)).vanish()
      await world.pass(1e6)
      expect(watcher.got()).toEqual([])
      expect(world.census()).toMatchObject({ wills: 0 })
    })

    it('[MQTT-3.1.2-12, 3.1.1] without Will Flag no Will is published, not even an earlier one', async () => {
      const world = await World.make()
      const watcher = await world.connect('watcher', {}, version)
      await watcher.subscribe('#', 2)
      await (await world.connect('a', { clean: false, will }, version)).send({ cmd: 'disconnect' })
      await (await world.connect('a', { clean: false }, version)).vanish()
      await world.pass(1e6)
      expect(watcher.got()).toEqual([])
    })

    it('[MQTT-3.1.2-16, 3.1.1] [MQTT-3.1.2-17, 3.1.1] it is retained only with Will Retain', async () => {
      const world = await World.make()
      for (const retain of [false, true]) {
        await (await world.connect('a', { will: { ...will, retain } }, version)).vanish()
        const late = await world.connect('late', {}, version)
        await late.subscribe('will', 2)
        expect(late.got()).toMatchObject(retain ? [{ payload: will.payload, qos: 1, retain: true }] : [])
      }
    })
  })
})

describe('differences between 3.1.1 and 3.1', () => {
  it(
    '[MQTT-3.1.2-19, 3.1.1] [MQTT-3.1.2-21, 3.1.1] ' +
      'a flag without its User Name or Password is refused in 3.1.1; in 3.1 the length of the ' +
      'packet decides',
    async () => {
      const world = await World.make()
      for (const flags of [USER_NAME, USER_NAME | PASSWORD]) {
        const fields = flags === USER_NAME ? ['a'] : ['a', 'user']
        await expectSilence(world, 4, connect(4, CLEAN | flags, ...fields))
        const old = world.open(3)
        await old.bytes(connect(3, CLEAN | flags, ...fields))
        expect(sent(old)).toBe(ACCEPTED)
        await old.vanish()
      }
    },
  )

  it(
    '[MQTT-3.1.3-6, 3.1.1] [MQTT-3.1.3-7, 3.1.1] [MQTT-3.1.3-8, 3.1.1] ' +
      '3.1.1 assigns a Client Identifier for an empty one with Clean Session 1; otherwise it is ' +
      'refused with 0x02, in 3.1 always',
    async () => {
      const world = await World.make()
      const pub = await world.connect('pub')
      const clients: TestClient[] = []
      for (let n = 0; n < 2; n++) {
        const client = world.open(4)
        await client.bytes(connect(4, CLEAN, ''))
        expect(sent(client)).toBe(ACCEPTED)
        await client.subscribe(`t/${n}`, 0)
        clients.push(client)
      }
      expect(clients.map(({ closed }) => closed)).toEqual([false, false])
      await pub.publish('t/0', 'x')
      expect(clients.map((client) => client.texts())).toEqual([['x'], []])
      expect(world.census()).toMatchObject({ sessions: 3 })
      for (const [version, flags] of [
        [4, 0],
        [3, CLEAN],
        [3, 0],
      ] as const) {
        const client = world.open(version)
        await client.bytes(connect(version, flags, ''))
        expect([sent(client), client.closed]).toEqual(['20020002', true])
      }
    },
  )

  it('a Client Identifier of more than 23 characters is refused with 0x02 in 3.1 only', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    for (const [id, old] of [
      ['x'.repeat(23), ACCEPTED],
      ['\u20ac'.repeat(23), ACCEPTED],
      ['x'.repeat(24), '20020002'],
      ['\u20ac'.repeat(24), '20020002'],
      ['x'.repeat(65_535), '20020002'],
    ] as const) {
      for (const version of [3, 4] as const) {
        const client = world.open(version)
        await client.bytes(connect(version, CLEAN, id))
        expect(sent(client)).toBe(version === 3 ? old : ACCEPTED)
        await client.vanish()
      }
    }
  })
})
