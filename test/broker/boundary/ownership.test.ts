import { describe, expect, test } from 'vitest'
import type { LinkInfo } from '../../../src/broker/boundary/link.ts'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { connectPacket, type Given, lasting, textsOf, type Version, World } from '../harness.ts'

/**
 * A user name is `name#id` for an account with that id, or a name alone. `former` lists those that no longer
 * exist.
 */
function accounts(former: ReadonlySet<string> = new Set()): Policy {
  return {
    authenticate: ({ userName }) => {
      const [name = null, id = null] = userName?.split('#') ?? []
      return { allow: true, userName: name, userId: id }
    },
    isFormerUser: (name, id) => former.has(id === null ? name : `${name}#${id}`),
  }
}

function stays(version: Version, more: Given = {}): Given {
  return version === 5 ? lasting(1000, more) : { clean: false, ...more }
}

const REFUSED = { 3: { returnCode: 5 }, 4: { returnCode: 5 }, 5: { reasonCode: 0x87 } }

async function left(world: World, version: Version, more: Given = {}): Promise<void> {
  const client = await world.connect('c', stays(version, more), version)
  await client.subscribe('secret', 1)
  await client.vanish()
  const publisher = await world.connect('p', {}, version)
  await publisher.publish('secret', 'for whoever was here before', 1)
  await publisher.vanish()
}

describe('a Session without an owner', () => {
  test.each([
    [4, true],
    [4, false],
    [5, true],
    [5, false],
  ] as const)(
    'MQTT version %s, Clean Start %s: a user gets a new Session and no queued messages [field-C12]',
    async (version, clean) => {
      const world = await World.make({ policy: accounts() })
      await left(world, version)
      const told = world.record('security')
      const ended = world.record('sessionEnded')
      const anna = await world.connect('c', stays(version, { clean, username: 'anna#1' }), version)
      while (await world.commit());
      expect(anna.connack).toMatchObject({ sessionPresent: false, ...(version === 5 && { reasonCode: 0 }) })
      await world.connect('p2').then((publisher) => publisher.publish('secret', 'later', 1))
      while (await world.commit());
      expect(await anna.drain()).toEqual([])
      expect(ended).toEqual([{ clientId: 'c', reason: 'ownerless' }])
      expect(told).toEqual([
        {
          kind: 'ownerless-session-ended',
          subject: 'c',
          by: 'anna',
          detail: 'of clients without credentials; Subscriptions: 1, messages: 1',
        },
      ])
      expect(world.server.state.counters.ownerlessSessionsEnded).toBe(1)
      if (version === 4 && clean) return
      // The Session belongs to her now.
      await anna.vanish()
      expect((await world.connect('c', stays(version), version)).connack).toMatchObject(REFUSED[version])
      const again = await world.connect('c', stays(version, { username: 'anna#1' }), version)
      expect(again.connack).toMatchObject({ sessionPresent: true })
    },
  )

  test('is taken from a connected client: 0x8E, and its Will is published [field-C12]', async () => {
    const world = await World.make({ policy: accounts() })
    const watcher = await world.connect('w')
    await watcher.subscribe('will')
    const will = { topic: 'will', payload: Buffer.from('gone'), qos: 0, retain: false }
    const squatter = await world.connect('c', lasting(1000, { will }))
    const anna = await world.connect('c', { username: 'anna#1' })
    while (await world.commit());
    expect(anna.connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
    expect(squatter.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8e }])
    expect(squatter.closed).toBe(true)
    expect(watcher.texts()).toEqual(['gone'])
    const back = await world.connect('c', lasting())
    expect(back.connack).toMatchObject({ reasonCode: 0x87 })
    expect(anna.closed).toBe(false)
  })

  test('gives its undelivered messages of a Shared Subscription to other members', async () => {
    const world = await World.make({ policy: accounts() })
    const first = await world.connect('c', lasting())
    await first.subscribe('$share/g/work', 1)
    await first.vanish()
    const publisher = await world.connect('p')
    await publisher.publish('work', 'to do', 1)
    const second = await world.connect('s', lasting())
    await second.subscribe('$share/g/work', 1)
    await world.connect('c', { username: 'anna#1' })
    while (await world.commit());
    expect(textsOf(second.got())).toEqual(['to do'])
  })

  test('that a restart ended leaves a Will, which is published and passes to nobody', async () => {
    const world = await World.make({ policy: accounts() })
    const watcher = await world.connect('w')
    await watcher.subscribe('will')
    const will = { topic: 'will', payload: Buffer.from('x'), properties: Buffer.alloc(0), qos: 0 } as const
    const record = {
      will: { ...will, retain: false, expirySeconds: undefined, delaySeconds: 0 },
      owner: null,
    }
    const { wills, usage } = world.server.state
    const pending = usage.willPut('c', {
      record: { ...record, dueAt: 0 },
      deadline: null,
      view: { clientId: 'c', userName: null, protocolVersion: 5 as const, link: watcher.link.info },
    })
    wills.set('c', pending)
    expect((await world.connect('c', { username: 'anna#1' })).connack).toMatchObject({ reasonCode: 0 })
    expect(watcher.texts()).toEqual(['x'])
  })
})

describe('a Session of a former user', () => {
  test('never passes to the next user with that name [field-C12]', async () => {
    const world = await World.make({ policy: accounts() })
    await left(world, 5, { username: 'anna#1' })
    const told = world.record('security')
    const next = await world.connect('c', lasting(1000, { username: 'anna#2' }))
    while (await world.commit());
    expect(next.connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
    expect(await next.drain()).toEqual([])
    expect(told).toMatchObject([{ detail: expect.stringContaining('of an earlier user anna') }])
  })

  test.each(['bert#3', 'bert'])(
    'ends for %s once its user no longer exists, and not before [field-C12]',
    async (username) => {
      const former = new Set<string>()
      const world = await World.make({ policy: accounts(former) })
      await left(world, 5, { username: 'anna#1' })
      expect((await world.connect('c', { username })).connack).toMatchObject({ reasonCode: 0x87 })
      former.add('anna#1')
      expect((await world.connect('c', { username })).connack).toMatchObject({ reasonCode: 0 })
    },
  )

  test('cannot be taken by clients without credentials', async () => {
    const former = new Set<string>()
    const world = await World.make({ policy: accounts(former) })
    await left(world, 5, { username: 'anna#1' })
    former.add('anna#1')
    expect((await world.connect('c', lasting())).connack).toMatchObject({ reasonCode: 0x87 })
  })

  test('cannot be resumed by a CONNECT that was under way when the user was removed', async () => {
    const former = new Set<string>()
    let decide: (answer: boolean) => void = () => {}
    const authorizePublish = (): Promise<boolean> => new Promise((resolve) => (decide = resolve))
    const world = await World.make({ policy: { ...accounts(former), authorizePublish } })
    const client = world.open(5)
    const will = { topic: 'w', payload: Buffer.from('w'), qos: 0, retain: false }
    await client.send({ ...connectPacket('c'), properties: {}, username: 'anna#1', will })
    former.add('anna#1')
    decide(true)
    await world.settle()
    expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    expect(world.server.state.sessions.size).toBe(0)
  })

  test('does not exist with a policy that knows no accounts: only names count', async () => {
    const policy: Policy = {
      authenticate: ({ userName }) => ({ allow: true, userName: userName ?? null }),
    }
    const world = await World.make({ policy })
    await left(world, 5, { username: 'anna' })
    expect((await world.connect('c', { username: 'bert' })).connack).toMatchObject({ reasonCode: 0x87 })
    expect((await world.connect('c', lasting(1000, { username: 'anna' }))).connack).toMatchObject({
      sessionPresent: true,
    })
  })
})

describe('Client Identifiers that a listener binds to users or certificates', () => {
  const certificate = { subjectCommonName: 'device-7', subjectAltNames: [], fingerprint256: 'AB' }

  async function asked(
    world: World,
    clientId: string,
    info: Partial<LinkInfo>,
    version: Version = 5,
    username?: string,
  ): Promise<Record<string, unknown>> {
    const client = world.open(version, info)
    const [connack] = await client.send({
      ...connectPacket(clientId, version),
      ...(version === 5 && { properties: {} }),
      ...(username !== undefined && { username }),
    })
    await client.vanish()
    return connack as unknown as Record<string, unknown>
  }

  test.each([
    ['anna', 'anna', true],
    ['anna/phone', 'anna', true],
    ['anna/a/b', 'anna', true],
    ['anna-phone', 'anna', false],
    ['annabel', 'anna', false],
    ['Anna', 'anna', false],
    ['phone', 'anna', false],
    ['/anna', 'anna', false],
    // The user `anna/phone` would get the Sessions of anna.
    ['anna/phone', 'anna/phone', false],
    ['anna/phone/1', 'anna/phone', false],
    ['anna', undefined, false],
  ])('to users: %j is of %s: %s [field-C12]', async (clientId, userName, isTheirs) => {
    const world = await World.make({ policy: accounts() })
    const told = world.record('refused')
    const rule = { clientIdRule: 'user' } as const
    const expected = isTheirs ? Reason.Success : Reason.ClientIdentifierNotValid
    expect(await asked(world, clientId, rule, 5, userName)).toMatchObject({ reasonCode: expected })
    expect(await asked(world, clientId, rule, 4, userName)).toMatchObject({ returnCode: isTheirs ? 0 : 2 })
    expect(world.server.state.counters.limits.clientIdRule).toBe(isTheirs ? 0 : 2)
    for (const { reason } of told) expect(reason).toContain('client_id: user')
  })

  test('for users: an empty one is replaced by one with the prefix of the user', async () => {
    const world = await World.make({ policy: accounts() })
    const connack = await asked(world, '', { clientIdRule: 'user' }, 5, 'anna#1')
    expect(connack.properties).toMatchObject({
      assignedClientIdentifier: expect.stringMatching(/^anna\/auto-id\d+$/),
    })
    expect(await asked(world, '', { clientIdRule: 'user' }, 4, 'anna#1')).toMatchObject({ returnCode: 0 })
  })

  test.each([
    ['device-7', certificate, true],
    ['device-8', certificate, false],
    ['device-7/x', certificate, false],
    ['', certificate, false],
    ['device-7', undefined, false],
    ['device-7', { ...certificate, subjectCommonName: null }, false],
  ])('to certificates: %j [field-C12]', async (clientId, shown, isTheirs) => {
    const world = await World.make({ policy: accounts() })
    const info = { clientIdRule: 'certificate', ...(shown !== undefined && { certificate: shown }) } as const
    const expected = isTheirs ? Reason.Success : Reason.ClientIdentifierNotValid
    expect(await asked(world, clientId, info)).toMatchObject({ reasonCode: expected })
  })

  test('a refusal takes nothing over, and free Client Identifiers stay free', async () => {
    const world = await World.make({ policy: accounts() })
    const bert = await world.connect('anna/phone', { username: 'bert#2' })
    expect(await asked(world, 'anna/phone', { clientIdRule: 'user' }, 5, 'bert#2')).toMatchObject({
      reasonCode: Reason.ClientIdentifierNotValid,
    })
    expect(bert.closed).toBe(false)
  })
})
