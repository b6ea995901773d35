import { describe, expect, it } from 'vitest'
import { packet, uint16 } from '../../mqtt/packets.ts'
import { connectPacket, lasting, type TestClient, World } from '../harness.ts'

const will = { topic: 'will', payload: Buffer.from('lost'), qos: 0, retain: false }

describe('CONNECT and CONNACK', () => {
  it('[MQTT-3.1.4-5] a plain CONNECT of each version is accepted', async () => {
    const world = await World.make()
    for (const version of [3, 4, 5] as const) {
      const client = await world.connect(`c${version}`, {}, version)
      const code = version === 5 ? 'reasonCode' : 'returnCode'
      expect(client.connack).toMatchObject({ cmd: 'connack', sessionPresent: false, [code]: 0 })
      expect(client.got()).toEqual([])
    }
  })

  it('CONNACK announces only limits that differ from the default of the standard', async () => {
    const open = await World.make({
      limits: { profile: 'open', receiveMaximum: 65_535, topicAliasMaximum: 0 },
    })
    const plain = await open.connect('a')
    expect(plain.connack).not.toHaveProperty('properties')
    const strict = await World.make({
      limits: {
        receiveMaximum: 7,
        topicAliasMaximum: 3,
        maximumQoS: 1,
        retainAvailable: false,
        packetBytesMax: 5000,
        keepAliveSecondsMax: 60,
        sessionExpirySecondsMax: 100,
      },
    })
    const told = await strict.connect('', { keepalive: 0, properties: { sessionExpiryInterval: 101 } })
    expect(told.connack).toMatchObject({
      reasonCode: 0,
      properties: {
        receiveMaximum: 7,
        topicAliasMaximum: 3,
        maximumQoS: 1,
        retainAvailable: false,
        maximumPacketSize: 5000,
        serverKeepAlive: 60,
        sessionExpiryInterval: 100,
        assignedClientIdentifier: 'auto-id1',
      },
    })
  })

  it('[MQTT-3.1.2-28] without Request Response Information there is no Response Information', async () => {
    const world = await World.make()
    const asking = await world.connect('a', { properties: { requestResponseInformation: true } })
    expect(asking.connack).toHaveProperty('properties.responseInformation', '$queue/reply.a')
    const client = await world.connect('a', { properties: { requestResponseInformation: false } })
    expect(client.connack).not.toHaveProperty('properties.responseInformation')
  })

  it('[MQTT-3.2.2-16] an empty Client Identifier gets a new one that no Session uses', async () => {
    const world = await World.make()
    await world.connect('auto-id1')
    const assigned = await world.connect('')
    expect(assigned.connack).toMatchObject({ properties: { assignedClientIdentifier: 'auto-id2' } })
    const other = await world.connect('', {}, 4)
    expect(other.connack).toMatchObject({ returnCode: 0 })
    expect(Array.from(world.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual([
      'auto-id1',
      'auto-id2',
      'auto-id3',
    ])
  })

  it('[MQTT-3.1.3-8, 3.1.1] an empty Client Identifier needs Clean Session; not in 3.1', async () => {
    const world = await World.make()
    for (const [version, hex] of [
      [4, '100c00044d51545404000000' + '0000'],
      [3, '100e00064d514973647003020000' + '0000'],
      [3, '100e00064d514973647003000000' + '0000'],
    ] as const) {
      const client = world.open(version)
      const answer = await client.bytes(Buffer.from(hex, 'hex'))
      expect(answer).toMatchObject([{ cmd: 'connack', returnCode: 2, sessionPresent: false }])
      expect(client.closed).toBe(true)
    }
  })

  it('[MQTT-3.1.3-8] emptyClientIdentifierAllowed: false refuses with 0x85', async () => {
    const world = await World.make({ limits: { emptyClientIdentifierAllowed: false } })
    const client = await world.connect('')
    expect(client.connack).toMatchObject({ reasonCode: 0x85, sessionPresent: false })
    expect(client.closed).toBe(true)
  })

  it('[MQTT-3.2.2-22] a Keep Alive above the maximum is lowered, except for 3.1.1', async () => {
    const world = await World.make({ limits: { keepAliveSecondsMax: 60 } })
    const within = await world.connect('a', { keepalive: 30 })
    expect(within.connack).not.toHaveProperty('properties.serverKeepAlive')
    const above = await world.connect('b', { keepalive: 61 })
    expect(above.connack).toMatchObject({ properties: { serverKeepAlive: 60 } })
    const old = await world.connect('c', { keepalive: 61 }, 4)
    await world.pass(91)
    expect([within.closed, above.closed, old.closed]).toEqual([true, true, false])
    await world.pass(1)
    expect(old.closed).toBe(true)
  })

  it('[MQTT-3.2.2-12] [MQTT-3.2.2-13] a Will beyond what is supported is refused', async () => {
    const world = await World.make({ limits: { maximumQoS: 0, retainAvailable: false, topicBytesMax: 10 } })
    const refused = async (changed: object): Promise<unknown> => {
      const client = await world.connect('a', { will: { ...will, ...changed } })
      expect(client.closed).toBe(true)
      return (client.connack as { reasonCode?: number }).reasonCode
    }
    expect(await refused({ qos: 1 })).toBe(0x9b)
    expect(await refused({ retain: true })).toBe(0x9a)
    expect(await refused({ topic: '$SYS/x' })).toBe(0x87)
    expect(await refused({ topic: '12345678901' })).toBe(0x90)
    expect(world.census()).toMatchObject({ sessions: 0, wills: 0, deadlines: 0 })
  })

  it('the level limit holds for Will Topics too', async () => {
    const world = await World.make({ limits: { topicLevelsMax: 2 } })
    const refused = await world.connect('a', { will: { ...will, topic: 'a/b/c' } })
    expect(refused.connack).toMatchObject({ reasonCode: 0x90 })
    const allowed = await world.connect('a', { will: { ...will, topic: 'a/b' } })
    expect(allowed.connack).toMatchObject({ reasonCode: 0 })
  })

  it('[MQTT-3.1.0-1] a first packet that is not CONNECT closes in silence', async () => {
    const world = await World.make()
    for (const version of [4, 5] as const) {
      const client = world.open(version)
      expect(await client.send({ cmd: 'pingreq' })).toEqual([])
      expect(client.closed).toBe(true)
    }
    expect(world.census()).toMatchObject({ connections: 0, deadlines: 0 })
  })

  it('[MQTT-3.1.0-2] a second CONNECT is a protocol error', async () => {
    const world = await World.make()
    const modern = await world.connect('a')
    expect(await modern.send(connectPacket('a'))).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x82 }])
    expect(modern.closed).toBe(true)
    const old = await world.connect('b', {}, 4)
    expect(await old.send(connectPacket('b', 4))).toEqual([])
    expect(old.closed).toBe(true)
  })

  it('[MQTT-3.1.4-1] only a malformed CONNECT of 5.0 is answered before the connection ends', async () => {
    const world = await World.make()
    const modern = world.open(5)
    // the reserved Connect Flag [MQTT-3.1.2-3]
    expect(await modern.bytes(Buffer.from('100e00044d51545405030000000001610000', 'hex'))).toMatchObject([
      { cmd: 'connack', reasonCode: 0x81, sessionPresent: false },
    ])
    expect(modern.closed).toBe(true)
    const old = world.open(4)
    expect(await old.bytes(Buffer.from('100d00044d5154540403000000016100', 'hex').subarray(0, 15))).toEqual(
      [],
    )
    expect(old.closed).toBe(true)
    const foreign = world.open(4)
    expect(await foreign.bytes(Buffer.from('GET / HTTP/1.1\r\n\r\n'))).toEqual([])
    expect(foreign.closed).toBe(true)
  })

  it('[MQTT-3.1.2-2] an unknown level is answered: 0x01 in 3.1.1, 0x84 above 5', async () => {
    const world = await World.make()
    const level2 = world.open(4)
    expect(await level2.bytes(Buffer.from('100d00044d51545402020000000161', 'hex'))).toMatchObject([
      { cmd: 'connack', returnCode: 1 },
    ])
    expect(level2.closed).toBe(true)
    const level6 = world.open(5)
    expect(await level6.bytes(Buffer.from('100e00044d5154540602000000000161', 'hex'))).toMatchObject([
      { cmd: 'connack', reasonCode: 0x84 },
    ])
    expect(level6.closed).toBe(true)
  })

  it('[MQTT-3.1.4-6] packets behind CONNECT are handled only if it is accepted', async () => {
    const refuse = { authenticate: () => ({ allow: false, reasonCode: 0x86, reason: 'no' }) as const }
    const world = await World.make({ policy: refuse })
    const published = world.record('published')
    const client = world.open(5)
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 0 }
    expect(await client.send(connectPacket('a'), publish)).toMatchObject([
      { cmd: 'connack', reasonCode: 0x86, properties: { reasonString: 'no' } },
    ])
    expect(published).toEqual([])
    const free = await World.make()
    const seen = free.record('published')
    await free.open(5).send(connectPacket('a'), publish)
    expect(seen).toHaveLength(1)
  })

  it('refusals in 3.1.1 use its return codes; where none fits there is no CONNACK', async () => {
    const answers = { bad: 0x86, banned: 0x8a, busy: 0x89, odd: 0x83 } as const
    const world = await World.make({
      policy: {
        authenticate: ({ clientId }) => ({
          allow: false,
          reasonCode: answers[clientId as keyof typeof answers],
          reason: '',
        }),
      },
    })
    const refused = world.record('refused')
    const codes: unknown[] = []
    for (const clientId of Object.keys(answers)) {
      const client = world.open(4)
      codes.push(...(await client.send(connectPacket(clientId, 4))))
      expect(client.closed).toBe(true)
    }
    expect(codes).toMatchObject([{ returnCode: 4 }, { returnCode: 5 }, { returnCode: 3 }])
    expect(refused.map(({ reasonCode }) => reasonCode)).toEqual([0x86, 0x8a, 0x89, 0x83])
    expect(world.server.state.counters.connectionsRefused).toBe(4)
  })

  it('[MQTT-3.2.2-19] [MQTT-3.1.2-24] a CONNACK respects the Maximum Packet Size of the client', async () => {
    const policy = {
      authenticate: ({ clientId }: { clientId: string }) =>
        clientId === 'out'
          ? ({ allow: false, reasonCode: 0x87, reason: 'a long reason' } as const)
          : ({ allow: true, userName: null } as const),
    }
    const world = await World.make({ policy })
    const refused = await world.connect('out', { properties: { maximumPacketSize: 15 } })
    expect(refused.connack).toMatchObject({ reasonCode: 0x87 })
    expect(refused.connack).not.toHaveProperty('properties.reasonString')
    const tiny = world.open(5)
    expect(await tiny.send({ ...connectPacket('in'), properties: { maximumPacketSize: 5 } })).toEqual([])
    expect(tiny.closed).toBe(true)
    expect(world.census()).toMatchObject({ sessions: 0, connections: 0 })
  })

  it('connectionsMax refuses the next one, cuts off others beyond it, and frees places again', async () => {
    const world = await World.make({ limits: { connectionsMax: 1 } })
    const limited = world.record('limited')
    const first = await world.connect('a')
    expect((await world.connect('b')).connack).toMatchObject({ reasonCode: 0x97 })
    expect((await world.connect('c', {}, 4)).connack).toMatchObject({ returnCode: 3 })
    expect(limited).toMatchObject([
      { limit: 'connectionsMax', clientId: 'b' },
      { limit: 'connectionsMax', clientId: 'c' },
    ])
    const silent = Array.from({ length: 65 }, () => world.open())
    expect(silent.map(({ link }) => link.handler === null)).toEqual([...Array(64).fill(false), true])
    expect(world.server.state.counters.limits.connectionsMax).toBe(3)
    for (const client of silent.slice(0, 64)) await client.vanish()
    await first.vanish()
    expect((await world.connect('b')).connack).toMatchObject({ reasonCode: 0 })
  })

  it('[MQTT-3.1.4-3] connectionsMax lets a client replace only its own connection [field-C16]', async () => {
    const policy = {
      authenticate: async ({ userName }: { userName: string | undefined }) =>
        userName === undefined
          ? ({ allow: false, reasonCode: 0x86, reason: 'wrong' } as const)
          : ({ allow: true, userName } as const),
    }
    const world = await World.make({ limits: { connectionsMax: 2 }, policy })
    const owner = { username: 'owner' }
    const half = await world.connect('device', { ...lasting(), ...owner })
    await world.connect('other', owner)
    // Without the password, or as another user, it is refused and takes nothing over.
    expect((await world.connect('device')).connack).toMatchObject({ reasonCode: 0x86 })
    expect((await world.connect('device', { username: 'thief' })).connack).toMatchObject({ reasonCode: 0x87 })
    expect((await world.connect('new', owner)).connack).toMatchObject({ reasonCode: 0x97 })
    expect(half.closed).toBe(false)
    const back = await world.connect('device', { ...lasting(), ...owner })
    expect(back.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
    expect(half.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8e }])
    expect(world.server.state.connected.size).toBe(2)
    expect((await world.connect('new', owner)).connack).toMatchObject({ reasonCode: 0x97 })
  })

  it('connectionsMax does not count connections that are refused, or closing [field-C16]', async () => {
    const world = await World.make({ limits: { connectionsMax: 2 } })
    // Their peers do not close: the transport lingers.
    const lingering = (client: TestClient): TestClient => {
      client.link.lingers = true
      return client
    }
    for (let round = 0; round < 30; round++) {
      const refused = lingering(world.open(5, { allowAnonymous: false }))
      await refused.send(connectPacket('stranger'))
      expect(refused.link.ended).toBe(true)
      if (round >= 15) refused.link.gone()
    }
    for (let round = 0; round < 20; round++) {
      const client = lingering(world.open())
      expect(await client.send(connectPacket(`c${round}`))).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
      await client.send({ cmd: 'disconnect' })
    }
    // Sockets have a bound all the same: twice as many, and those that are about to say who they are.
    const many = Array.from({ length: 100 }, () => world.open())
    expect(many.filter(({ link }) => link.handler === null).length).toBeGreaterThan(60)
  })

  it('connectTimeoutSeconds ends connections without a complete CONNECT, and no others', async () => {
    const world = await World.make({ limits: { connectTimeoutSeconds: 10 } })
    const limited = world.record('limited')
    const silent = world.open()
    const slow = world.open()
    await slow.bytes(Buffer.from('100d0004', 'hex'))
    const quick = await world.connect('a')
    await world.pass(9.9)
    expect([silent.closed, slow.closed]).toEqual([false, false])
    await world.pass(0.2)
    expect([silent.closed, slow.closed, quick.closed]).toEqual([true, true, false])
    expect(silent.got()).toEqual([])
    expect(limited.map(({ limit }) => limit)).toEqual(['connectTimeoutSeconds', 'connectTimeoutSeconds'])
  })

  it('anonymous clients need a listener that allows them', async () => {
    const world = await World.make()
    const client = world.open(5, { allowAnonymous: false })
    expect(await client.send(connectPacket('a'))).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    expect(client.closed).toBe(true)
  })

  it('a stored Session is refused while the store takes nothing; others are accepted', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    await kept.vanish()
    world.ledger.refusal = 'the disk is nearly full'
    expect((await world.connect('new', lasting())).connack).toMatchObject({ reasonCode: 0x97 })
    expect((await world.connect('willed', { will })).connack).toMatchObject({ reasonCode: 0x97 })
    expect((await world.connect('kept', lasting(1000, { will }))).connack).toMatchObject({
      reasonCode: 0,
      sessionPresent: true,
    })
    expect((await world.connect('passing')).connack).toMatchObject({ reasonCode: 0 })
  })

  it('a CONNACK waits for the commit of what it promises, and nothing precedes it', async () => {
    const world = await World.make()
    world.ledger.automatic = false
    const client = world.open(5)
    expect(await client.send({ ...connectPacket('a'), ...lasting() }, { cmd: 'pingreq' })).toEqual([])
    await world.commit()
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['connack', 'pingresp'])
    expect(client.link.writes).toBe(1)
  })

  it('an unknown protocol name ends the connection without an answer, at any level [field-D25]', async () => {
    const world = await World.make()
    const refused = world.record('refused')
    for (const level of [3, 4, 5, 0x84]) {
      const client = world.open(4)
      expect(await client.bytes(packet(0x10, 'MQTX', level, 2, uint16(0), 'a'))).toEqual([])
      expect(client.closed).toBe(true)
    }
    expect(refused.map(({ reasonCode }) => reasonCode)).toEqual([0x84, 0x84, 0x84, 0x84])
    const known = world.open(4)
    expect(await known.bytes(packet(0x10, 'MQTT', 9, 2, uint16(0), 'a'))).toMatchObject([{ cmd: 'connack' }])
  })

  it('bits that 3.1 does not use are ignored there, and refused in 3.1.1 [field-D25]', async () => {
    const unused = [
      packet(0x38, 'a', Buffer.from('DUP with QoS 0')),
      packet(0x83, uint16(1), 'a', 0xfd),
      packet(0x4f, uint16(9)),
      packet(0x5e, uint16(9)),
      packet(0x63, uint16(9)),
      packet(0x7f, uint16(9)),
      packet(0xa3, uint16(2), 'a'),
      packet(0xcf),
    ]
    const world = await World.make()
    const old = await world.connect('old', { protocolId: 'MQIsdp' }, 3)
    const answers = await old.bytes(Buffer.concat(unused))
    expect(answers.map(({ cmd }) => cmd)).toEqual(['suback', 'pubrel', 'pubcomp', 'unsuback', 'pingresp'])
    expect(answers[0]).toMatchObject({ granted: [1] })
    await old.bytes(packet(0xef))
    expect(old.closed).toBe(true)
    expect(world.server.state.counters.limits).toMatchObject({ packetBytesMax: 0 })
    for (const bytes of unused) {
      const strict = await world.connect('strict', {}, 4)
      expect([bytes.toString('hex'), await strict.bytes(bytes), strict.closed]).toEqual([
        bytes.toString('hex'),
        [],
        true,
      ])
    }
  })
})
