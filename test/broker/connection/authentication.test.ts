import { describe, expect, it } from 'vitest'
import type { AuthenticationExchange, AuthenticationStep } from '../../../src/broker/boundary/policy.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { connectPacket, type TestClient, World } from '../harness.ts'

/** A method whose steps are those of `script`; `said` collects what the client sent. */
function scripted(script: (AuthenticationStep | Promise<AuthenticationStep>)[], said: string[] = []) {
  return {
    said,
    policy: {
      authenticationExchange: (method: string): AuthenticationExchange | null =>
        method === 'M'
          ? {
              next: (data) => {
                said.push(data?.toString() ?? '-')
                return script.shift()!
              },
            }
          : null,
    },
  }
}

const next = (data?: string): AuthenticationStep => ({
  type: 'continue',
  data: data === undefined ? undefined : Buffer.from(data),
})
const success = (userName: string | null, data?: string): AuthenticationStep => ({
  type: 'success',
  userName,
  data: data === undefined ? undefined : Buffer.from(data),
})
const failure: AuthenticationStep = { type: 'failure', reasonCode: 0x87, reason: 'wrong' }

const auth = (reasonCode: number, data?: string, method = 'M') => ({
  cmd: 'auth',
  reasonCode,
  properties: {
    authenticationMethod: method,
    ...(data !== undefined && { authenticationData: Buffer.from(data) }),
  },
})
const begin = (data = 'hello', method = 'M') => ({
  ...connectPacket('a'),
  properties: { authenticationMethod: method, authenticationData: Buffer.from(data) },
})

async function authenticated(script: (AuthenticationStep | Promise<AuthenticationStep>)[]) {
  const { policy, said } = scripted([success('anna'), ...script])
  const world = await World.make({ policy })
  const client = world.open(5)
  expect(await client.send(begin())).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
  return { world, client, said }
}

const expectEnd = async (client: TestClient, packet: object, expected: object): Promise<void> => {
  expect(await client.send(packet as Record<string, unknown>)).toMatchObject([expected])
  expect(client.closed).toBe(true)
}

describe('enhanced authentication', () => {
  it('[MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] CONNACK has method and data', async () => {
    const { policy, said } = scripted([next('1'), next(), success('anna', 'bye')])
    const world = await World.make({ policy })
    const connected = world.record('connected')
    const client = world.open(5)
    expect(await client.send(begin())).toMatchObject([auth(0x18, '1')])
    expect(await client.send(auth(0x18, 'a'))).toMatchObject([auth(0x18)])
    expect(connected).toEqual([])
    expect(await client.send(auth(0x18))).toMatchObject([
      {
        cmd: 'connack',
        reasonCode: 0,
        properties: { authenticationMethod: 'M', authenticationData: Buffer.from('bye') },
      },
    ])
    expect(said).toEqual(['hello', 'a', '-'])
    expect(connected).toMatchObject([{ client: { clientId: 'a', userName: 'anna' } }])
  })

  it('a policy that answers later does not change the order of packets', async () => {
    const resolvers: ((step: AuthenticationStep) => void)[] = []
    const later = () => new Promise<AuthenticationStep>((resolve) => resolvers.push(resolve))
    const { policy, said } = scripted([later(), later()])
    const world = await World.make({ policy })
    const client = world.open(5)
    // The client may not send AUTH before it is asked; an early one is read when its turn comes.
    expect(await client.send(begin(), auth(0x18, 'a'), { cmd: 'pingreq' })).toEqual([])
    expect(said).toEqual(['hello'])
    resolvers[0]!(next('1'))
    await world.settle()
    expect(client.got()).toMatchObject([auth(0x18, '1')])
    expect(said).toEqual(['hello', 'a'])
    resolvers[1]!(success(null))
    await world.settle()
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['connack', 'pingresp'])
  })

  it('[MQTT-4.12.0-4] a failure is answered with CONNACK, and ends the connection', async () => {
    const { policy } = scripted([next('1'), failure])
    const world = await World.make({ policy })
    const client = world.open(5)
    await client.send(begin())
    await expectEnd(client, auth(0x18, 'x'), { cmd: 'connack', reasonCode: 0x87 })
    expect(world.census()).toMatchObject({ sessions: 0, connections: 0, deadlines: 0 })
  })

  it('[MQTT-4.12.0-1] an unknown method is refused with 0x8C, also without a policy', async () => {
    for (const options of [{ policy: scripted([]).policy }, {}]) {
      const world = await World.make(options)
      await expectEnd(world.open(5), begin('', 'other'), { cmd: 'connack', reasonCode: 0x8c })
    }
  })

  it('[MQTT-3.1.2-30] only AUTH and DISCONNECT are allowed before CONNACK', async () => {
    for (const packet of [{ cmd: 'pingreq' }, begin(), auth(0x19), auth(0x18, '', 'other')]) {
      const world = await World.make({ policy: scripted([next()]).policy })
      const client = world.open(5)
      await client.send(begin())
      await expectEnd(client, packet, { cmd: 'connack', reasonCode: 0x82 })
    }
    const world = await World.make({ policy: scripted([next()]).policy })
    const client = world.open(5)
    await client.send(begin())
    expect(await client.send({ cmd: 'disconnect', reasonCode: 0 })).toEqual([])
    expect(client.closed).toBe(true)
  })

  it('[MQTT-4.12.0-6] [MQTT-4.12.0-7] AUTH is a protocol error where CONNECT named no method', async () => {
    const world = await World.make({ policy: scripted([]).policy })
    const client = await world.connect('a')
    expect(client.connack).not.toHaveProperty('properties.authenticationMethod')
    await expectEnd(client, auth(0x19), { cmd: 'disconnect', reasonCode: 0x82 })
  })

  it('connectTimeoutSeconds ends an exchange that takes too long', async () => {
    const world = await World.make({
      policy: scripted([next(), new Promise<AuthenticationStep>(() => {})]).policy,
    })
    const client = world.open(5)
    await client.send(begin())
    await client.send(auth(0x18))
    await world.pass(11)
    expect(client.closed).toBe(true)
    expect(world.census()).toMatchObject({ connections: 0, deadlines: 0 })
  })
})

describe('re-authentication', () => {
  it('[MQTT-4.12.1-1] the client may begin it at any time; other packets go on', async () => {
    const { client, said } = await authenticated([next('again'), success('anna', 'fine')])
    expect(await client.send(auth(0x19, 'new'))).toMatchObject([auth(0x18, 'again')])
    expect(await client.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback' }])
    expect(await client.send(auth(0x18, 'proof'))).toMatchObject([auth(0, 'fine')])
    expect(said).toEqual(['hello', 'new', 'proof'])
    expect(client.closed).toBe(false)
  })

  it('[MQTT-4.12.1-2] a failure, or another user, is answered with DISCONNECT', async () => {
    // 0x86 is a word of CONNACK only [MQTT-3.14.2-1].
    for (const step of [failure, success('bert'), { ...failure, reasonCode: 0x86 } as const]) {
      const { client } = await authenticated([step])
      await expectEnd(client, auth(0x19), { cmd: 'disconnect', reasonCode: 0x87 })
    }
  })

  it('a method that is gone is answered with DISCONNECT, not CONNACK [MQTT-3.2.0-2]', async () => {
    let known = true
    const world = await World.make({
      policy: { authenticationExchange: () => (known ? { next: () => success('anna') } : null) },
    })
    const client = world.open(5)
    await client.send(begin())
    known = false
    await expectEnd(client, auth(0x19), { cmd: 'disconnect', reasonCode: 0x87 })
  })

  it('AUTH out of turn, or with another method, is a protocol error', async () => {
    for (const packets of [[auth(0x18)], [auth(0x19, '', 'other')], [auth(0x19), auth(0x19)]]) {
      const { client } = await authenticated([next(), next()])
      const answers = await client.send(...packets)
      expect(answers.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x82 })
    }
  })

  it('a client may vanish while a step is pending', async () => {
    let answer: (step: AuthenticationStep) => void = () => {}
    const { world, client } = await authenticated([new Promise((resolve) => (answer = resolve))])
    await client.send(auth(0x19))
    await client.vanish()
    answer(success('bert'))
    await world.settle()
    expect(client.got()).toEqual([])
    expect(world.census()).toMatchObject({ sessions: 0, connections: 0 })
  })
})

describe('user name and password', () => {
  it('the policy gets the credentials of CONNECT, and names the user', async () => {
    const seen: unknown[] = []
    const world = await World.make({
      policy: {
        authenticate: ({ clientId, userName, password, protocolVersion, userProperties }) => {
          seen.push([clientId, userName, password?.toString(), protocolVersion, userProperties])
          return { allow: true, userName: userName ?? null }
        },
      },
    })
    await world.connect('a', { username: 'anna', password: Buffer.from('secret') }, 4)
    const properties = { userProperties: { k: ['1', '2'] } }
    await world.connect('', { properties })
    expect(seen).toEqual([
      ['a', 'anna', 'secret', 4, []],
      [
        'auto-id1',
        undefined,
        undefined,
        5,
        [
          ['k', '1'],
          ['k', '2'],
        ],
      ],
    ])
  })

  it('packets wait for a promise, the client may vanish meanwhile, and a rejection is 0x83', async () => {
    const answers: [(value: { allow: true; userName: null }) => void, (error: Error) => void][] = []
    const world = await World.make({
      policy: { authenticate: () => new Promise((resolve, reject) => answers.push([resolve, reject])) },
    })
    const client = world.open(5)
    expect(await client.send(connectPacket('a'), { cmd: 'pingreq' })).toEqual([])
    expect(client.link.paused).toBe(true)
    answers[0]![0]({ allow: true, userName: null })
    await world.settle()
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['connack', 'pingresp'])
    expect(client.link.paused).toBe(false)
    const gone = world.open(5)
    await gone.send(connectPacket('b'))
    await gone.vanish()
    answers[1]![0]({ allow: true, userName: null })
    await world.settle()
    expect(world.census()).toMatchObject({ sessions: 1 })
    const failed = world.open(5)
    await failed.send(connectPacket('c'))
    answers[2]![1](new Error('no database'))
    await world.settle()
    expect(failed.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0x83 }])
  })
})

describe('CONNACK with what the policy adds', () => {
  const connected = async (request: boolean) => {
    const world = await World.make({
      policy: {
        authenticate: () => ({
          allow: true,
          userName: 'u',
          responseInformation: 'answers/u',
          userProperties: [['region', 'north']],
        }),
      },
    })
    const { connack } = await world.connect('a', { properties: { requestResponseInformation: request } })
    return (connack as { properties?: Record<string, unknown> }).properties
  }

  it('[MQTT-3.1.2-28] Response Information only on request, User Properties always', async () => {
    expect(await connected(true)).toMatchObject({
      responseInformation: 'answers/u',
      userProperties: { region: 'north' },
    })
    expect(await connected(false)).not.toHaveProperty('responseInformation')
  })

  it('a refusal can name another server to use', async () => {
    const policy = {
      authenticate: () =>
        ({
          allow: false,
          reasonCode: Reason.UseAnotherServer,
          reason: 'moved',
          serverReference: 'other:1883',
        }) as const,
    }
    const world = await World.make({ policy })
    const { connack } = await world.connect('a')
    expect(connack).toMatchObject({ reasonCode: 0x9c, properties: { serverReference: 'other:1883' } })
  })
})
