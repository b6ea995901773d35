/**
 * A message for very many subscribers: nobody else waits until all of them have it, and it stays one fact.
 */
import mqttPacket from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { SLICE_UNITS } from '../../../src/broker/state/work.ts'
import { type Given, lasting, type TestClient, World } from '../harness.ts'

const OPTIONS = { qos: 2, noLocal: false, retainAsPublished: false, retainHandling: 2 } as const
const CROWD = 20_000

/**
 * So many subscribers in this process; how many messages they got, and what each got whose number is asked
 * for.
 */
function crowd(world: World, count = CROWD): { count: number; texts: Map<number, string[]> } {
  const got = {
    count: 0,
    texts: new Map<number, string[]>([
      [0, []],
      [count - 1, []],
    ]),
  }
  for (let at = 0; at < count; at++) {
    world.server.subscribe('crowd', OPTIONS, ({ message }) => {
      got.count++
      got.texts.get(at)?.push(message.payload.toString())
    })
  }
  return got
}

function publish(payload: string, qos: 0 | 1 | 2, messageId = 1, topic = 'crowd'): Given {
  return { cmd: 'publish', topic, payload, qos, messageId }
}

function push(client: TestClient, ...packets: Given[]): void {
  const bytes = packets.map((packet) => mqttPacket.generate(packet as never, { protocolVersion: 5 }))
  client.link.handler!.received(Buffer.concat(bytes))
}

/**
 * A Session that is stored and offline, with so many Shared Subscriptions to the topic: each gets each
 * message.
 */
async function groups(world: World, clientId: string, count: number): Promise<void> {
  const client = await world.connect(clientId, lasting())
  const subscriptions = Array.from({ length: count }, (_, at) => ({
    topic: `$share/${clientId}-${at}/crowd`,
    qos: 2,
    nl: false,
    rap: false,
    rh: 0,
  }))
  await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
  await client.send({ cmd: 'disconnect' })
}

describe('a message for a crowd', () => {
  it('is given out in slices, and is acknowledged when everybody has it', async () => {
    const world = await World.make()
    const got = crowd(world)
    const publisher = await world.connect('publisher')
    const { work, counters } = world.server.state
    const from = work.units
    push(publisher, publish('one', 1))
    // The Route, and the first slice.
    expect(work.units - from).toBeLessThan(8 * SLICE_UNITS)
    expect(world.ledger.held.bytes).toBeGreaterThan('crowdone'.length)
    const other = await world.connect('other')
    expect(other.connack).toMatchObject({ reasonCode: 0 })
    await world.settle()
    expect(got.count).toBe(CROWD)
    expect(world.ledger.held.bytes).toBe(0)
    expect(publisher.got().map(({ cmd }) => cmd)).toEqual(['puback'])
    expect(counters.publishReceived).toBe(1)
  })

  it('[MQTT-4.6.0-6] comes before later messages to its topic, from any publisher', async () => {
    const world = await World.make()
    const got = crowd(world)
    const [first, second] = [await world.connect('first'), await world.connect('second')]
    push(first, publish('a1', 1, 1), publish('a2', 0), publish('a3', 1, 3))
    push(second, publish('b1', 1, 1))
    void world.server.publish({
      topic: 'crowd',
      payload: Buffer.from('c1'),
      qos: 0,
      retain: false,
      publisher: '',
    })
    await world.settle()
    expect(got.count).toBe(5 * CROWD)
    const [head, tail] = [...got.texts.values()]
    expect(head).toEqual(tail)
    expect(head!.filter((text) => text.startsWith('a'))).toEqual(['a1', 'a2', 'a3'])
    expect(head!.toSorted()).toEqual(['a1', 'a2', 'a3', 'b1', 'c1'])
  })

  it('[MQTT-3.10.4-2] does not go to a Session it had not reached when its Subscription ended', async () => {
    const world = await World.make()
    const got = crowd(world)
    const [late, gone] = [await world.connect('late'), await world.connect('gone')]
    await late.subscribe('crowd')
    await gone.subscribe('crowd')
    const publisher = await world.connect('publisher')
    push(publisher, publish('one', 0))
    push(late, { cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['crowd'] })
    gone.link.destroy()
    await world.settle()
    expect(late.got().map(({ cmd }) => cmd)).toEqual(['unsuback'])
    expect(got.count).toBe(CROWD)
    expect(world.server.state.counters.drops['session-ended']).toBe(0)
  })

  it.each([1, 2] as const)(
    'is durable before its QoS %i acknowledgement, and as a whole at QoS 2',
    async (qos) => {
      const world = await World.make({ limits: { profile: 'open' } })
      await groups(world, 'g', 9000)
      await groups(world, 'h', 9000)
      const publisher = await world.connect('publisher', lasting())
      const commits: number[] = []
      const { ledger } = world
      const { lines } = ledger
      const from = lines.length
      const durable = ledger.durable.bind(ledger)
      ledger.durable = () => {
        commits.push(lines.length - from)
        expect(publisher.got()).toEqual([])
        return durable()
      }
      push(publisher, publish('one', qos))
      await world.settle()
      expect(lines.length - from).toBeGreaterThanOrEqual(18_000)
      if (qos === 2) expect(commits).toHaveLength(1)
      else expect(commits.length).toBeGreaterThan(1)
      expect(publisher.got().map(({ cmd }) => cmd)).toEqual([qos === 2 ? 'pubrec' : 'puback'])
    },
  )

  it('lets the store commit between two whole messages, however many follow', async () => {
    const world = await World.make()
    const got = crowd(world)
    const { ledger } = world
    await (await world.connect('stored', lasting())).subscribe('others', 1)
    const other = await world.connect('other')
    // What was begun and ended of whole messages, and the commits in between.
    const steps: string[] = []
    const [begin, end, commit] = [ledger.beginAtomic, ledger.endAtomic, ledger.commit].map((f) =>
      f.bind(ledger),
    )
    ledger.beginAtomic = () => {
      steps.push('begin')
      begin!()
    }
    ledger.endAtomic = () => {
      end!()
      steps.push('end')
    }
    ledger.commit = () => {
      if (steps.at(-1) === 'end') steps.push('commit')
      commit!()
    }
    const senders = [await world.connect('first', {}, 4), await world.connect('second', {}, 4)]
    for (const sender of senders) {
      push(sender, ...[1, 2, 3, 4].map((id) => ({ ...publish(`${id}`, 2, id), retain: true })))
    }
    push(other, publish('one', 1, 1, 'others'))
    await world.settle()
    expect(got.count).toBe(8 * CROWD)
    expect(other.got().map(({ cmd }) => cmd)).toEqual(['puback'])
    expect(steps).toEqual(Array.from({ length: 8 }, () => ['begin', 'end', 'commit']).flat())
  })

  it('is durable together with its packet identifier, or with the end of the Will that it is', async () => {
    const world = await World.make()
    const got = crowd(world)
    const { ledger } = world
    const will = { topic: 'crowd', payload: Buffer.from('will'), qos: 1, retain: true }
    const lost = await Promise.all(['a', 'b'].map((id) => world.connect(id, { will, ...lasting(0) })))
    const senders = await Promise.all(['first', 'second'].map((id) => world.connect(id, lasting())))
    const from = ledger.lines.length
    const counted = (word: string, to: number): number =>
      ledger.lines.slice(from, to).filter((line) => line.startsWith(word)).length
    const commits: number[] = []
    const commit = ledger.commit.bind(ledger)
    ledger.commit = () => {
      const { openSequence } = ledger
      const to = ledger.lines.length
      commit()
      if (ledger.openSequence === openSequence) return
      commits.push(to)
      const others = counted('inboundAdded', to) + counted('deleteWill', to)
      expect(counted('putRetained', to)).toBe(others)
    }
    for (const sender of senders) {
      push(sender, ...[1, 2].map((id) => ({ ...publish(`${id}`, 2, id), retain: true })))
    }
    for (const client of lost) client.link.destroy()
    await world.settle()
    expect(got.count).toBe(6 * CROWD)
    expect(counted('deleteWill', ledger.lines.length)).toBe(2)
    expect(commits.length).toBeGreaterThanOrEqual(6)
  })

  it('[MQTT-4.3.3-10] is not given out again to a client that comes back while it is under way', async () => {
    const world = await World.make()
    const got = crowd(world)
    const publisher = await world.connect('publisher', lasting())
    push(publisher, publish('one', 2, 7))
    publisher.link.destroy()
    const again = await world.connect('publisher', lasting())
    const answers = await again.send({ ...publish('one', 2, 7), dup: true })
    expect(answers.map(({ cmd }) => cmd)).toEqual(['pubrec'])
    expect(got.count).toBe(CROWD)
  })

  it('is given out to the end before the Server stops', async () => {
    const world = await World.make()
    const got = crowd(world)
    const publisher = await world.connect('publisher')
    push(publisher, publish('one', 1))
    await Promise.all([world.server.stop(Promise.resolve()), world.settle()])
    expect(got.count).toBe(CROWD)
  })
})
