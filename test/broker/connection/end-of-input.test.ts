/**
 * Packets that a client sent before it left are handled before its end, on every transport, whatever holds
 * them.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextPass } from 'node:timers/promises'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Policy } from '../../../src/broker/boundary/policy.ts'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener, ListenerType } from '../../../src/transport/listener/listener.ts'
import { type Leaving, listenerOptions, Peer } from '../../transport/peers.ts'
import { connectPacket, type Given, lasting, type TestClient, World, type WorldOptions } from '../harness.ts'

const TRANSPORTS = ['tcp', 'tls', 'ws', 'wss', 'unix'] as const

let directory: string
let listener: Listener | undefined
let peers: Peer[]

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  peers = []
})

afterEach(async () => {
  for (const peer of peers) peer.destroy()
  await listener?.close()
  listener = undefined
  rmSync(directory, { recursive: true, force: true })
})

async function peerOf(world: World, type: ListenerType): Promise<Peer> {
  listener ??= await listen(listenerOptions(type, directory), world.server, { connectTimeoutSeconds: 10 })
  const peer = await Peer.open(listener)
  peers.push(peer)
  return peer
}

const bytes = (...packets: Given[]): Buffer =>
  Buffer.concat(packets.map((packet) => mqttPacket.generate(packet as Packet, { protocolVersion: 5 })))

const will = { topic: 'will', payload: Buffer.from('lost'), qos: 0, retain: false }
const connecting = (clientId = 'leaver') => ({ ...connectPacket(clientId), will })
const publish = (topic: string, payload: string): Given => ({ cmd: 'publish', topic, payload, qos: 0 })
const OPTIONS = { qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
const TEXTS = Array.from({ length: 20 }, (_, index) => `text ${index}`)
const LAST = [...TEXTS.map((text) => publish('out', text)), { cmd: 'disconnect' }]

/** Lets the process read what the kernel has. Nothing is asserted of how often. */
async function passes(): Promise<void> {
  for (let pass = 0; pass < 20; pass++) await nextPass()
}

async function until(world: World, holds: () => boolean): Promise<void> {
  while (!holds()) {
    await nextPass()
    await world.settle()
  }
}

/** A way to hold a connection: what it needs, what the client sends to be held, and how it is let go. */
interface Hold {
  readonly options: WorldOptions
  readonly packets: readonly Given[]
  /** Resolves when the connection is held. */
  held(world: World): Promise<void>
  release(world: World): Promise<void>
}

function policyHold(packets: readonly Given[], policy: (wait: () => Promise<true>) => Policy): Hold {
  let asked = false
  let answer: (value: true) => void
  const wait = () => {
    asked = true
    return new Promise<true>((resolve) => {
      answer = resolve
    })
  }
  return {
    options: { policy: policy(wait) },
    packets,
    held: (world) => until(world, () => asked),
    release: async () => answer(true),
  }
}

const HOLDS: Record<string, () => Hold> = {
  'its password is checked': () =>
    policyHold([], (wait) => ({
      authenticate: ({ clientId }) =>
        clientId === 'leaver'
          ? wait().then(() => ({ allow: true as const, userName: null }))
          : { allow: true, userName: null },
    })),
  'a policy thinks about a PUBLISH': () =>
    policyHold([publish('gate', 'x')], (wait) => ({
      authorizePublish: (_client, topic) => (topic === 'gate' ? wait() : true),
    })),
  'a policy thinks about a SUBSCRIBE': () =>
    policyHold(
      [
        {
          cmd: 'subscribe',
          messageId: 1,
          subscriptions: [{ topic: 'gate', qos: 0, nl: false, rap: false, rh: 0 }],
        },
      ],
      (wait) => ({ authorizeSubscribe: (_client, filter) => (filter === 'gate' ? wait() : true) }),
    ),
  'it subscribes to very many filters': () => ({
    options: {},
    packets: [
      {
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: Array.from({ length: 2000 }, (_, index) => ({
          topic: `f/${index}`,
          qos: 0,
          nl: false,
          rap: false,
          rh: 0,
        })),
      },
    ],
    held: async (world) => {
      while (!world.server.state.router.subscriptionCount) await nextPass()
    },
    release: async () => {},
  }),
  'the store is behind': () => ({
    options: { limits: { pendingCommitBytesMax: 1 } },
    packets: [publish('stored', 'x')],
    held: (world) => until(world, () => world.server.state.paused.size > 0),
    release: async (world) => {
      world.ledger.automatic = true
      while (await world.commit());
    },
  }),
  'it does not read its answers': () => ({
    options: { limits: { outgoingBytesMax: 1000 } },
    packets: Array.from({ length: 100 }, () => ({ cmd: 'pingreq' })),
    held: async (world) => {
      while (world.server.state.counters.packetsReceived < 20) await nextPass()
    },
    release: async () => {},
  }),
}

/** A world with a reader of all that is published, and a stored Session that has the store work. */
async function worldFor({ options }: Pick<Hold, 'options'>): Promise<{ world: World; texts: string[] }> {
  const world = await World.make(options)
  const texts: string[] = []
  for (const filter of ['out', 'will']) {
    world.server.subscribe(filter, OPTIONS, ({ message }) => texts.push(message.payload.toString()))
  }
  const keeper = await world.connect('keeper', lasting())
  await keeper.subscribe('stored', 1)
  await keeper.vanish()
  return { world, texts }
}

describe.each(TRANSPORTS)('over %s', (type) => {
  const ways: Leaving[] = ['half-closes', 'closes']
  // TLS may still have to send what the reset would throw away.
  if (type === 'tcp' || type === 'ws') ways.push('resets')
  if (type === 'ws' || type === 'wss') ways.push('sends a Close frame')

  describe.each(ways)('a client that sends all it has and %s', (leaving) => {
    test.each(Object.keys(HOLDS))(
      '[MQTT-3.14.4-3] while %s loses no message, and its DISCONNECT discards the Will [field-B5]',
      async (name) => {
        const hold = HOLDS[name]!()
        const { world, texts } = await worldFor(hold)
        if (name === 'the store is behind') world.ledger.automatic = false
        const peer = await peerOf(world, type)
        // In one piece, so that all of it has been read when the connection is held.
        await peer.send(bytes(connecting(), ...hold.packets, ...LAST))
        await peer.leave(leaving)
        await hold.held(world)
        await passes()
        await hold.release(world)
        await until(world, () => world.server.connectionCount === 0)
        while (await world.commit());
        expect(texts).toEqual(TEXTS)
        expect(world.census()).toMatchObject({ connections: 0, wills: 0, paused: 0, waiting: 0 })
      },
    )
  })
})

describe.each(TRANSPORTS)('over %s, while a policy thinks', (type) => {
  function slow(topic = 'gate'): { options: WorldOptions; answer: () => void; asked: () => boolean } {
    let answers: ((value: true) => void)[] = []
    return {
      options: {
        policy: {
          authorizePublish: (_client, asked) =>
            asked === topic ? new Promise<true>((resolve) => answers.push(resolve)) : true,
        },
      },
      answer: () => {
        for (const one of answers) one(true)
        answers = []
      },
      asked: () => answers.length > 0,
    }
  }

  test('handles packets before the end, even if writes to the client fail [field-B5]', async () => {
    const policy = slow()
    const { world, texts } = await worldFor(policy)
    const peer = await peerOf(world, type)
    const subscriptions = [{ topic: 'noise', qos: 0, nl: false, rap: false, rh: 0 }]
    await peer.send(
      bytes(connecting(), { cmd: 'subscribe', messageId: 1, subscriptions }, publish('gate', 'x')),
    )
    await until(world, policy.asked)
    // Behind this the socket is not read from.
    await peer.send(bytes(...LAST))
    await peer.leave('closes')
    const other = await world.connect('other')
    for (let round = 0; round < 5; round++) {
      await other.publish('noise', 'x'.repeat(1000))
      await passes()
    }
    policy.answer()
    await until(world, () => world.server.connectionCount === 1)
    await world.settle()
    expect(texts).toEqual(TEXTS)
  })

  test('answers the packets of a half-closed connection', async () => {
    const policy = slow()
    const { world } = await worldFor(policy)
    const peer = await peerOf(world, type)
    const last = { cmd: 'publish', topic: 'out', payload: 'x', qos: 1, messageId: 0x7654 }
    await peer.send(bytes(connecting(), publish('gate', 'x'), last))
    await peer.leave('half-closes')
    await until(world, policy.asked)
    await passes()
    policy.answer()
    await until(world, () => peer.received.includes(Buffer.from('7654', 'hex')))
    expect(world.server.connectionCount).toBe(0)
  })
})

describe('a client that is gone while its last packets wait', () => {
  interface Waiting {
    readonly world: World
    readonly texts: string[]
    readonly client: TestClient
    answer(): void
  }

  async function waiting(...last: Given[]): Promise<Waiting> {
    let answer: (value: boolean) => void = () => {}
    const { world, texts } = await worldFor({
      options: {
        policy: {
          authorizePublish: (_client, topic) =>
            topic === 'gate' ? new Promise((resolve) => (answer = resolve)) : true,
        },
      },
    })
    const client = await world.connect('leaver', { will, keepalive: 10 })
    await client.send(publish('gate', 'x'), ...last)
    await client.vanish()
    expect(world.server.connectionCount).toBe(1)
    return { world, texts, client, answer: () => answer(true) }
  }

  test('is connected until they are handled, whatever its Keep Alive says [field-B5]', async () => {
    const { world, texts, answer } = await waiting(publish('out', 'last'))
    await world.pass(30)
    expect(texts).toEqual([])
    answer()
    await world.settle()
    expect(texts).toEqual(['last', 'lost']) // no DISCONNECT: the Will comes behind what it sent
    // The deadline is that of the keeper's Session.
    expect(world.census()).toMatchObject({ connections: 0, clientsConnected: 0, wills: 0, deadlines: 1 })
  })

  test('gets no messages meanwhile, which wait in its Session', async () => {
    const { world, client, answer } = await waiting()
    await client.vanish()
    const again = await world.connect('keeper', lasting())
    expect(again.texts()).toEqual([])
    answer()
    await world.settle()
    expect(world.server.connectionCount).toBe(1)
  })

  test('is ended after a while if the policy does not answer', async () => {
    const { world, texts } = await waiting(publish('out', 'last'))
    await world.pass(59)
    expect(world.server.connectionCount).toBe(1)
    const ended = world.record('disconnected')
    await world.pass(2)
    expect(world.server.connectionCount).toBe(0)
    expect(ended).toMatchObject([{ by: 'network', reason: expect.stringContaining('waited too long') }])
    expect(texts).toEqual(['lost'])
  })

  test('is ended at once by the operator, by a stop, or when it connects anew', async () => {
    const kicked = await waiting(publish('out', 'last'))
    expect(kicked.world.server.disconnect('leaver', 0x98, 'by the operator')).toBe(true)
    await kicked.world.settle()
    expect(kicked.texts).toEqual(['lost'])
    expect(kicked.world.census()).toMatchObject({ connections: 0, deadlines: 1 })

    const stopped = await waiting(publish('out', 'last'))
    await stopped.world.server.stop(new Promise(() => {}))
    expect(stopped.world.server.connectionCount).toBe(0)

    const back = await waiting(publish('out', 'last'))
    await back.world.connect('leaver')
    expect(back.world.server.connectionCount).toBe(1)
    back.answer()
    await back.world.settle()
    expect(back.texts).toEqual(['lost'])
  })

  test('has its DISCONNECT handled when it connects anew, if the store held it [field-B5]', async () => {
    const { world, texts } = await worldFor({ options: { limits: { pendingCommitBytesMax: 1 } } })
    world.ledger.automatic = false
    const client = world.open()
    await client.send({ ...connecting() })
    expect(world.server.state.paused.size).toBe(1)
    await client.send(publish('out', 'last'), { cmd: 'disconnect' })
    await client.vanish()
    const again = world.open()
    await again.send(connectPacket('leaver'))
    world.ledger.automatic = true
    while (await world.commit());
    expect(texts).toEqual(['last'])
    expect(again.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0 }])
  })

  test('is ended although it read no answers and its transport is gone [field-B5]', async () => {
    const { world, texts } = await worldFor({ options: { limits: { outgoingBytesMax: 10 } } })
    const client = await world.connect('leaver', { will })
    client.link.stuck = true
    await client.send(...Array.from({ length: 40 }, () => ({ cmd: 'pingreq' })))
    await client.send(publish('out', 'last'))
    expect(client.link.paused).toBe(true)
    // As when the transport is destroyed: it forgets what it had to send, and nothing is drained.
    client.link.bufferedBytes = 0
    await client.vanish()
    expect(texts).toEqual(['last', 'lost'])
    expect(world.census()).toMatchObject({ connections: 0, clientsConnected: 0, wills: 0 })
  })

  test('does not take over from a connection that is newer than its end', async () => {
    const answers: (() => void)[] = []
    const world = await World.make({
      policy: {
        authenticate: () =>
          new Promise((resolve) => answers.push(() => resolve({ allow: true, userName: null }))),
      },
    })
    const gone = world.open()
    await gone.send(connectPacket('device'), publish('out', 'last'))
    await gone.vanish()
    await world.pass(1)
    const newer = world.open()
    await newer.send(connectPacket('device'))
    answers[1]!()
    await world.settle()
    answers[0]!()
    await world.settle()
    expect(newer.closed).toBe(false)
    expect(world.server.connectionCount).toBe(1)
  })

  test('does not take over what a newer connection left, either [field-B5]', async () => {
    const answers: (() => void)[] = []
    const world = await World.make({
      policy: {
        authenticate: () =>
          new Promise((resolve) => answers.push(() => resolve({ allow: true, userName: null }))),
      },
    })
    const gone = world.open()
    await gone.send(connectPacket('device'), publish('out', 'last'))
    await gone.vanish()
    await world.pass(1)
    const newer = world.open()
    await newer.send({ ...connectPacket('device'), ...lasting() })
    answers[1]!()
    await world.settle()
    await newer.subscribe('news', 1)
    await newer.send({ cmd: 'disconnect' })
    answers[0]!()
    await world.settle()
    expect(world.census()).toMatchObject({ connections: 0, sessions: 1, subscriptions: 1 })
  })

  test('is not let in if it sent only CONNECT', async () => {
    const world = await World.make({ policy: { authenticate: () => new Promise(() => {}) } })
    const gone = world.open()
    await gone.send(connectPacket('device'))
    await gone.vanish()
    expect(world.census()).toMatchObject({ connections: 0, deadlines: 0 })
  })
})
