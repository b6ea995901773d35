/**
 * Members of a Shared Subscription come and go: no message is lost that another may take, none at QoS 2 is
 * doubled.
 */
import fc from 'fast-check'
import type { Packet } from 'mqtt-packet'
import { expect, it } from 'vitest'
import { connectPacket, type Given, type TestClient, World } from './harness.ts'

interface Member {
  readonly id: string
  /** Session Expiry Interval in seconds; the first member's Session never ends. */
  readonly expirySeconds: number
  client: TestClient | null
  unanswered: Packet[]
  receiving: Map<number, string>
}

type Step =
  | { do: 'connect' | 'vanish' | 'end'; who: number; clean: boolean }
  | { do: 'publish'; qos: 1 | 2; count: number }
  | { do: 'answer'; who: number; count: number }
  | { do: 'commit' }

const who = fc.nat({ max: 3 })
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom('connect' as const, 'vanish', 'end'),
      who,
      clean: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('publish' as const),
      qos: fc.constantFrom<1 | 2>(1, 2),
      count: fc.integer({ min: 1, max: 5 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('answer' as const), who, count: fc.nat({ max: 5 }) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('commit' as const) }) },
)

class Group {
  readonly #world: World
  readonly #members: Member[]
  readonly #publisher: TestClient
  readonly #qos = new Map<string, 1 | 2>()
  readonly #received = new Map<string, number>()

  constructor(world: World, publisher: TestClient) {
    this.#world = world
    this.#publisher = publisher
    this.#members = [100_000, 1000, 1000, 0].map((expirySeconds, n) => ({
      id: `m${n}`,
      expirySeconds,
      client: null,
      unanswered: [],
      receiving: new Map(),
    }))
  }

  async run(next: Step): Promise<void> {
    if (next.do === 'commit') await this.#world.commit()
    else if (next.do === 'publish') await this.#publish(next.qos, next.count)
    else await this.#member(this.#members[next.who]!, next)
    this.#look()
  }

  async #publish(qos: 1 | 2, count: number): Promise<void> {
    for (let n = 0; n < count; n++) {
      const payload = `m ${this.#qos.size + 1}`
      this.#qos.set(payload, qos)
      await this.#publisher.publish('t', payload, qos)
    }
  }

  async #member(member: Member, next: Step & { who: number }): Promise<void> {
    if (next.do === 'connect') {
      await this.#connect(member, next.clean && member !== this.#members[0])
      return
    }
    const { client } = member
    if (client === null) return
    if (next.do === 'answer') {
      const answers = member.unanswered.splice(0, next.count).map(answerTo)
      if (answers.length > 0) client.link.packets.unshift(...(await client.send(...answers)))
      return
    }
    member.client = null
    const ends = next.do === 'end' && member !== this.#members[0] && member.expirySeconds > 0
    const properties = { sessionExpiryInterval: 0 }
    if (ends) await client.send({ cmd: 'disconnect', reasonCode: 0, properties })
    else await client.vanish()
  }

  async #connect(member: Member, clean: boolean): Promise<void> {
    const properties = { sessionExpiryInterval: member.expirySeconds, receiveMaximum: 3 }
    const client = this.#world.open(5)
    member.client = client
    member.unanswered = []
    const packets = await client.send({ ...connectPacket(member.id), clean, properties })
    client.link.packets.unshift(...packets)
    while (await this.#world.commit());
    const connack = client.link.packets[0]
    if (connack?.cmd === 'connack' && !connack.sessionPresent) member.receiving = new Map()
    await client.subscribe('$share/g/t', 2)
  }

  #look(): void {
    for (const member of this.#members) {
      for (const packet of member.client?.got() ?? []) this.#check(member, packet)
    }
  }

  #check(member: Member, packet: Packet): void {
    if (packet.cmd === 'pubrel') member.receiving.delete(packet.messageId!)
    if (packet.cmd !== 'publish' && packet.cmd !== 'pubrel') return
    member.unanswered.push(packet)
    if (packet.cmd === 'pubrel') return
    const payload = packet.payload.toString()
    expect(packet.qos).toBe(this.#qos.get(payload))
    if (packet.qos === 2 && member.receiving.get(packet.messageId!) === payload) return
    if (packet.qos === 2) member.receiving.set(packet.messageId!, payload)
    this.#received.set(payload, (this.#received.get(payload) ?? 0) + 1)
  }

  async finish(): Promise<void> {
    for (const each of this.#members.keys()) await this.run({ do: 'connect', who: each, clean: false })
    do {
      for (const each of this.#members.keys()) await this.run({ do: 'answer', who: each, count: 1000 })
      while (await this.#world.commit());
      this.#look()
    } while (this.#members.some(({ unanswered }) => unanswered.length > 0))
    let missing = 0
    for (const [payload, qos] of this.#qos) {
      const times = this.#received.get(payload) ?? 0
      if (qos === 1) expect([payload, times > 0]).toEqual([payload, true])
      else expect([payload, times <= 1]).toEqual([payload, true]) // [MQTT-4.8.2-5]
      if (times === 0) missing++
    }
    expect(missing).toBeLessThanOrEqual(this.#world.server.state.counters.drops['session-ended'])
    for (const { client } of this.#members) await client?.vanish()
    await this.#publisher.vanish()
    await this.#world.pass(100_001)
    while (await this.#world.commit());
    const census = this.#world.census()
    expect(census).toEqual(Object.fromEntries(Object.keys(census).map((key) => [key, 0])))
  }
}

function answerTo(packet: Packet): Given {
  const { messageId } = packet
  if (packet.cmd === 'publish') return { cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId }
  return { cmd: 'pubcomp', messageId }
}

it('members of a Shared Subscription come, go and end, with commits at random moments', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 100 }), async (steps) => {
      const world = await World.make({ limits: { receiveMaximum: 65_535 } })
      const publisher = await world.connect('publisher')
      world.ledger.automatic = false
      const group = new Group(world, publisher)
      await group.run({ do: 'connect', who: 0, clean: false })
      for (const each of steps) await group.run(each)
      await group.finish()
    }),
    { numRuns: 60 },
  )
})
