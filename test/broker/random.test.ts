/** Many clients do anything at any time, against a naive model of who gets which message in which order. */
import fc from 'fast-check'
import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { connectPacket, type Given, type TestClient, World } from './harness.ts'

type QoS = 0 | 1 | 2

const FILTERS = ['a', 'b', 'a/b', '+', 'a/+', '#', 'w/#'] as const
const TOPICS = ['a', 'b', 'a/b', 'c'] as const
const MATCHES: Record<string, readonly string[]> = {
  a: ['a'],
  b: ['b'],
  'a/b': ['a/b'],
  '+': ['a', 'b', 'c'],
  'a/+': ['a/b'],
  '#': ['a', 'b', 'a/b', 'c', 'w/x'],
  'w/#': ['w/x'],
}

/** A Session as the model sees it. */
interface ModelSession {
  readonly id: string
  readonly stored: boolean
  online: boolean
  readonly subscriptions: Map<string, QoS>
  /** Payloads above QoS 0 that must arrive, in order. */
  readonly owed: string[]
  /** Payloads at QoS 0 that may arrive. */
  readonly passing: Set<string>
  /** Position in `owed` of the latest message that was seen for the first time. */
  seen: number
  /** Delivered and acknowledged. */
  readonly done: Set<string>
  /** QoS 2 identifiers that the client has not been told to release. */
  readonly receiving: Map<number, string>
}

interface ModelClient {
  readonly id: string
  readonly version: 4 | 5
  readonly stored: boolean
  client: TestClient | null
  session: ModelSession | null
  will: string | null
  lastPacketId: number
  /** Packets that need an answer, in order. */
  unanswered: Packet[]
  /** Payloads that this client published, by identifier. */
  readonly published: Map<number, string>
}

type Step =
  | { do: 'connect'; who: number; clean: boolean; will: boolean }
  | { do: 'vanish' | 'disconnect' | 'violate'; who: number }
  | { do: 'subscribe'; who: number; filter: number; qos: QoS }
  | { do: 'unsubscribe'; who: number; filter: number }
  | { do: 'publish'; who: number; topic: number; qos: QoS; count: number }
  | { do: 'answer'; who: number; count: number }
  | { do: 'commit' }

const who = fc.nat({ max: 3 })
const qos = fc.constantFrom<QoS>(0, 1, 2)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('connect' as const),
      who,
      clean: fc.boolean(),
      will: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constantFrom('vanish' as const, 'disconnect', 'violate'), who }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('subscribe' as const), who, filter: fc.nat({ max: 6 }), qos }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('unsubscribe' as const), who, filter: fc.nat({ max: 6 }) }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('publish' as const),
      who,
      topic: fc.nat({ max: 3 }),
      qos,
      count: fc.integer({ min: 1, max: 6 }),
    }),
  },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('answer' as const), who, count: fc.nat({ max: 8 }) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('commit' as const) }) },
)

class Model {
  readonly world: World
  readonly clients: ModelClient[]
  readonly sessions = new Map<string, ModelSession>()
  #messages = 0

  constructor(world: World) {
    this.world = world
    this.clients = [0, 1, 2, 3].map((n) => ({
      id: `c${n}`,
      version: n % 2 === 0 ? 5 : 4,
      stored: n < 2,
      client: null,
      session: null,
      will: null,
      // Above those of SUBSCRIBE, which count from 1 on each connection.
      lastPacketId: 1000,
      unanswered: [],
      published: new Map(),
    }))
  }

  async run(next: Step): Promise<void> {
    if (next.do === 'commit') {
      await this.world.commit()
    } else {
      const client = this.clients[next.who]!
      if (next.do === 'connect') await this.#connect(client, next.clean, next.will)
      else if (client.client !== null) await this.#online(client, client.client, next)
    }
    this.look()
  }

  async #online(client: ModelClient, connection: TestClient, next: Step): Promise<void> {
    const session = client.session!
    switch (next.do) {
      case 'vanish':
        this.#lost(client)
        await connection.vanish()
        return
      case 'violate':
        this.#lost(client)
        await connection.bytes(Buffer.from('20020000', 'hex'))
        return
      case 'disconnect':
        client.will = null
        this.#lost(client)
        await connection.send({ cmd: 'disconnect', reasonCode: 0 })
        return
      case 'subscribe':
        session.subscriptions.set(FILTERS[next.filter]!, next.qos)
        await connection.subscribe(FILTERS[next.filter]!, next.qos)
        return
      case 'unsubscribe':
        session.subscriptions.delete(FILTERS[next.filter]!)
        await connection.unsubscribe(FILTERS[next.filter]!)
        return
      case 'publish': {
        const packets = Array.from({ length: next.count }, () =>
          this.#publish(client, TOPICS[next.topic]!, next.qos),
        )
        connection.link.packets.unshift(...(await connection.send(...packets)))
        return
      }
      case 'answer': {
        const answers = client.unanswered.splice(0, next.count).map((packet) => this.#answer(session, packet))
        if (answers.length > 0) connection.link.packets.unshift(...(await connection.send(...answers)))
        return
      }
      default:
        return
    }
  }

  async #connect(client: ModelClient, wanted: boolean, will: boolean): Promise<void> {
    // 3.1.1 has one flag for both.
    const clean = client.version === 4 ? !client.stored : wanted
    const old = client.client
    if (old !== null) this.#lost(client)
    let session = this.sessions.get(client.id) ?? null
    if (session !== null && clean) {
      this.sessions.delete(client.id)
      session = null
    }
    if (session === null) {
      session = {
        id: client.id,
        stored: client.stored,
        online: true,
        subscriptions: new Map(),
        owed: [],
        passing: new Set(),
        seen: -1,
        done: new Set(),
        receiving: new Map(),
      }
      this.sessions.set(client.id, session)
    }
    session.online = true
    client.session = session
    client.unanswered = []
    client.will = will ? `will ${++this.#messages}` : null
    const properties = client.stored ? { sessionExpiryInterval: 1000 } : {}
    const connection = this.world.open(client.version)
    client.client = connection
    const packets = await connection.send({
      ...connectPacket(client.id, client.version),
      clean,
      ...(client.version === 5 && { properties }),
      ...(client.will !== null && {
        will: { topic: 'w/x', payload: Buffer.from(client.will), qos: 1, retain: false },
      }),
    })
    connection.link.packets.unshift(...packets)
    if (old === null) return
    // [MQTT-3.1.4-3], and nothing else that was under way.
    for (const packet of old.got()) expect(packet).toMatchObject({ cmd: 'disconnect', reasonCode: 0x8e })
    while (await this.world.commit()) expect(old.got()).toEqual([])
  }

  /** Ends the Network Connection: its Will is published, and a Session that does not outlive it ends. */
  #lost(client: ModelClient): void {
    const session = client.session!
    session.online = false
    client.client = null
    client.session = null
    if (client.will !== null) this.#fanOut('w/x', client.will, 1)
    client.will = null
    if (!session.stored) this.sessions.delete(client.id)
  }

  #publish(client: ModelClient, topic: string, level: QoS): Given {
    const payload = `m ${++this.#messages}`
    this.#fanOut(topic, payload, level)
    if (level === 0) return { cmd: 'publish', topic, payload, qos: 0 }
    const messageId = ++client.lastPacketId
    client.published.set(messageId, payload)
    return { cmd: 'publish', topic, payload, qos: level, messageId }
  }

  #fanOut(topic: string, payload: string, level: QoS): void {
    for (const session of this.sessions.values()) {
      const granted = [...session.subscriptions].filter(([filter]) => MATCHES[filter]!.includes(topic))
      if (granted.length === 0) continue
      const effective = Math.min(level, Math.max(...granted.map(([, each]) => each)))
      if (effective > 0) session.owed.push(payload)
      else if (session.online) session.passing.add(payload)
    }
  }

  #answer(session: ModelSession, packet: Packet): Given {
    const { messageId } = packet
    if (packet.cmd === 'pubrel') return { cmd: 'pubcomp', messageId }
    if (packet.cmd !== 'publish') return { cmd: 'pubrel', messageId }
    if (packet.qos === 1) session.done.add(packet.payload.toString())
    return { cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId }
  }

  /** Reads and checks the packets of all clients. */
  look(): void {
    for (const client of this.clients) {
      if (client.client === null) continue
      for (const packet of client.client.got()) this.#check(client, client.session!, packet)
      expect(client.client.closed).toBe(false)
    }
  }

  #check(client: ModelClient, session: ModelSession, packet: Packet): void {
    if (packet.cmd === 'publish') {
      this.#checkPublish(session, packet)
      if (packet.qos > 0) client.unanswered.push(packet)
    } else if (packet.cmd === 'pubrel') {
      session.receiving.delete(packet.messageId!)
      client.unanswered.push(packet)
    } else if (packet.cmd === 'puback' || packet.cmd === 'pubrec') {
      // Nothing is acknowledged before it is durable.
      const payload = client.published.get(packet.messageId!)!
      const { lines, durableLines } = this.world.ledger
      const at = lines.findLastIndex((line) => line.startsWith('enqueue') && line.includes(` ${payload} `))
      expect(at).toBeLessThan(durableLines)
      if (packet.cmd === 'pubrec') client.unanswered.push(packet)
    }
  }

  #checkPublish(session: ModelSession, packet: Packet & { cmd: 'publish' }): void {
    const payload = packet.payload.toString()
    if (packet.qos === 0) {
      expect(packet.dup).toBe(false)
      expect([payload, session.passing.delete(payload)]).toEqual([payload, true])
      return
    }
    expect(session.done).not.toContain(payload)
    const at = session.owed.indexOf(payload)
    expect([payload, at >= 0]).toEqual([payload, true])
    const first = at > session.seen
    // In order and without a gap: nothing is dropped silently.
    if (first) expect(at).toBe(session.seen + 1)
    session.seen = Math.max(session.seen, at)
    if (!first) expect(packet.dup).toBe(true)
    if (packet.qos !== 2) return
    const known = session.receiving.get(packet.messageId!)
    if (known === undefined) expect(first).toBe(true)
    else expect(known).toBe(payload)
    session.receiving.set(packet.messageId!, payload)
  }

  /** Lets all clients connect, take everything that is owed, and leave for good. */
  async finish(): Promise<void> {
    const { world } = this
    for (const who of this.clients.keys()) {
      await this.run({ do: 'connect', who, clean: false, will: false })
    }
    do {
      for (const who of this.clients.keys()) await this.run({ do: 'answer', who, count: 1000 })
      while (await world.commit());
      this.look()
    } while (this.clients.some(({ unanswered }) => unanswered.length > 0))
    for (const session of this.sessions.values()) {
      expect([session.id, session.seen]).toEqual([session.id, session.owed.length - 1])
      expect(world.server.state.sessions.get(session.id)).toMatchObject({ queueLength: 0, inFlightCount: 0 })
    }
    for (const { client } of this.clients) await client?.vanish()
    await world.pass(1001)
    while (await world.commit());
    const census = world.census()
    // 3.1.1 Sessions live until an operator sets a maximum: the model sets one.
    expect(census).toEqual(Object.fromEntries(Object.keys(census).map((key) => [key, 0])))
  }
}

describe('clients that do anything at any time', () => {
  it.each([
    ['a commit per turn, several under way', false, 1000],
    ['a commit at a time, that carries whole turns', true, 3],
  ])('get what they are owed, in order, and leave nothing behind: %s', async (_, oneAtATime, inFlightMax) => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 120 }), async (steps) => {
        const world = await World.make({ limits: { inFlightMax, sessionExpirySecondsMax: 1000 } })
        world.ledger.automatic = false
        world.ledger.oneAtATime = oneAtATime
        const model = new Model(world)
        for (const each of steps) await model.run(each)
        await model.finish()
        expect(world.fatal).toBeNull()
      }),
      { numRuns: 60 },
    )
  })
})
