/**
 * One client must not keep the others waiting. Counts the work that is done before their turn, not the time.
 */
import fc from 'fast-check'
import mqttPacket from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import { SLICE_UNITS, UNITS } from '../../src/broker/state/work.ts'
import { type Given, lasting, type TestClient, textsOf, World } from './harness.ts'

const READERS = 100

function bytesOf(packets: readonly Given[], version = 5): Buffer {
  return Buffer.concat(
    packets.map((packet) => mqttPacket.generate(packet as never, { protocolVersion: version })),
  )
}

/** Returns messages at QoS 0 in one chunk. */
function noise(count: number, topic = 'noise'): Buffer {
  return bytesOf(
    Array.from({ length: count }, (_, at) => ({ cmd: 'publish', topic, payload: `n${at}`, qos: 0 })),
  )
}

const QUIET = bytesOf([{ cmd: 'publish', topic: 'quiet', payload: 'q', qos: 0 }])

async function made(readers = READERS): Promise<{ world: World; topics: string[]; all: TestClient[] }> {
  const world = await World.make()
  const all: TestClient[] = []
  for (let reader = 0; reader < readers; reader++) {
    const client = await world.connect(`reader${reader}`)
    await client.subscribe('noise')
    // The other outputs are the same.
    if (reader > 0 && readers === READERS) client.link.write = () => {}
    all.push(client)
  }
  const topics: string[] = []
  world.server.state.events.on('published', ({ message }) => topics.push(message.topic.name))
  return { world, topics, all }
}

/** Records the work of each turn for input and continuations. */
function turnsOf(world: World): number[] {
  const { state } = world.server
  const units: number[] = []
  let from = state.work.units
  const commit = world.ledger.commit.bind(world.ledger)
  world.ledger.commit = () => {
    units.push(state.work.units - from)
    from = state.work.units
    commit()
  }
  return units
}

describe('a publisher that sends as fast as it can', () => {
  it('has one slice before the packet of another client, and goes on after it', async () => {
    const { world, topics } = await made()
    const [noisy, quiet] = [await world.connect('noisy'), await world.connect('quiet')]
    noisy.link.handler!.received(noise(1000))
    quiet.link.handler!.received(QUIET)
    await world.settle()
    expect(topics).toHaveLength(1001)
    expect(topics.indexOf('quiet')).toBeLessThan((10 * SLICE_UNITS) / (READERS * UNITS.delivery))
    // Now both are active, and slices are short.
    topics.length = 0
    noisy.link.handler!.received(noise(1000))
    quiet.link.handler!.received(QUIET)
    await world.settle()
    expect(topics).toHaveLength(1001)
    expect(topics.indexOf('quiet')).toBeLessThanOrEqual(SLICE_UNITS / (READERS * UNITS.delivery))
  })

  it('waits for others with its next packets', async () => {
    const { world, topics } = await made()
    const [noisy, quiet] = [await world.connect('noisy'), await world.connect('quiet')]
    quiet.link.handler!.received(QUIET)
    noisy.link.handler!.received(noise(30))
    await world.settle()
    topics.length = 0
    // It had its share in the previous turn.
    noisy.link.handler!.received(noise(30))
    await Promise.resolve()
    noisy.link.handler!.received(noise(1))
    quiet.link.handler!.received(QUIET)
    await world.settle()
    expect(topics).toHaveLength(32)
    expect(topics.indexOf('quiet')).toBeLessThanOrEqual(SLICE_UNITS / (READERS * UNITS.delivery))
  })

  it('is not read from while its packets wait, and at most two reads are kept', async () => {
    const { world, topics } = await made()
    const noisy = await world.connect('noisy')
    const chunk = noise(5000)
    noisy.link.handler!.received(chunk)
    expect(noisy.link.paused).toBe(false)
    noisy.link.handler!.received(chunk)
    expect(noisy.link.paused).toBe(true)
    const connection = [...world.server.state.connected.values()].at(-1)!
    expect(connection.heldBytes).toBeLessThanOrEqual(2 * chunk.length)
    await world.settle()
    expect([topics.length, noisy.link.paused, connection.heldBytes]).toEqual([10_000, false, 0])
  })

  it('copies its packets out of shared read buffers once it is held for another reason', async () => {
    const { world } = await made()
    const noisy = await world.connect('noisy')
    const other = await world.connect('other')
    const [slab, chunk] = [Buffer.alloc(256 * 1024), noise(3000)]
    for (let at = 0; at < 2; at++) {
      chunk.copy(slab)
      noisy.link.handler!.received(slab.subarray(0, chunk.length))
    }
    world.server.state.connected.get(world.server.state.sessions.get('noisy')!)!.hold('pays')
    await world.settle()
    slab.fill(0xff)
    world.server.state.connected.get(world.server.state.sessions.get('noisy')!)!.release('pays')
    await other.bytes(QUIET)
    await world.settle()
    expect([noisy.closed, world.server.state.counters.publishReceived]).toEqual([false, 6001])
  })

  it('and many like it get no more than a slice each in a turn', async () => {
    const { world, topics } = await made()
    const many: TestClient[] = []
    for (let at = 0; at < 50; at++) many.push(await world.connect(`noisy${at}`))
    many[0]!.link.handler!.received(QUIET)
    many[1]!.link.handler!.received(QUIET)
    await world.settle()
    const units = turnsOf(world)
    for (const { link } of many) link.handler!.received(noise(60))
    await world.settle()
    expect(topics).toHaveLength(3002)
    expect(units.length).toBeGreaterThan(8)
    // The input of a turn, and one slice that had begun; writing comes on top.
    const written = READERS * (UNITS.write + 8)
    expect(Math.max(...units)).toBeLessThan(11 * SLICE_UNITS + 50 * (UNITS.read + 8) + 2 * written)
  })
})

describe('output that waits', () => {
  it('in a long queue is sent in slices when the client is back', async () => {
    const world = await World.make({ limits: { inFlightMax: 65_535 } })
    await (await world.connect('away', lasting())).send(
      { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'noise', qos: 1 }] },
      { cmd: 'disconnect' },
    )
    const payload = Buffer.from('n')
    for (let at = 0; at < 10_000; at++) {
      void world.server.publish({ topic: 'noise', payload, qos: 1, retain: false, publisher: '' })
    }
    await world.settle()
    const units = turnsOf(world)
    const client = await world.connect('away', lasting())
    expect(textsOf(client.got())).toHaveLength(10_000)
    expect(Math.max(...units)).toBeLessThan(3 * SLICE_UNITS)
  })

  it('for a commit is sent in slices', async () => {
    const world = await World.make()
    await (await world.connect('away', lasting())).send(
      { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'noise', qos: 1 }] },
      { cmd: 'disconnect' },
    )
    let count = 0
    const options = { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 2 } as const
    for (let at = 0; at < 20_000; at++) world.server.subscribe('noise', options, () => count++)
    world.ledger.automatic = false
    const published = world.server.publish({
      topic: 'noise',
      payload: Buffer.from('n'),
      qos: 1,
      retain: false,
      publisher: '',
    })
    await world.settle()
    expect(count).toBe(0)
    // Its parts may be in several commits.
    let atOnce = 0
    for (let before = 0; world.ledger.durable(); before = count) atOnce = Math.max(atOnce, count - before)
    expect(atOnce).toBeLessThan(10_000)
    await world.settle()
    expect(count).toBe(20_000)
    await published
  })
})

describe('packets that a client sent before it left are handled in slices', () => {
  const texts = (reader: TestClient): number => textsOf(reader.got()).length

  it('when the network fails', async () => {
    const { world, all } = await made()
    const noisy = await world.connect('noisy')
    noisy.link.handler!.received(noise(2000))
    noisy.link.handler!.ended(undefined)
    await world.settle()
    expect(texts(all[0]!)).toBe(2000)
    expect(world.server.state.counters.slicesEnded).toBeGreaterThan(2)
    expect(world.server.state.counters.clientsConnected).toBe(READERS)
  })

  it('when DISCONNECT follows', async () => {
    const { world, all } = await made()
    const disconnected = world.record('disconnected')
    const noisy = await world.connect('noisy')
    noisy.link.handler!.received(Buffer.concat([noise(1000), Buffer.from('e000', 'hex')]))
    await world.settle()
    expect(texts(all[0]!)).toBe(1000)
    expect(disconnected.map(({ clientId, by }) => [clientId, by])).toEqual([['noisy', 'client']])
  })

  it('before the same client connects again', async () => {
    const { world, all } = await made()
    const noisy = await world.connect('noisy', lasting())
    noisy.link.handler!.received(noise(1000))
    noisy.link.handler!.ended(undefined)
    const again = await world.connect('noisy', lasting())
    expect(again.connack).toMatchObject({ sessionPresent: true })
    await world.settle()
    expect(texts(all[0]!)).toBe(1000)
  })

  it('and its Keep Alive stands still while they wait', async () => {
    const { world } = await made()
    const noisy = await world.connect('noisy', { keepalive: 10 })
    noisy.link.handler!.received(noise(1000))
    world.monotonic += 60_000
    world.server.tick()
    await world.settle()
    expect(noisy.closed).toBe(false)
  })
})

type Step = {
  readonly kind: number
  readonly topic: string
  readonly filter: string
  readonly qos: 0 | 1 | 2
}

const steps = fc.array(
  fc.record<Step>({
    kind: fc.nat(11),
    topic: fc.constantFrom('noise', 'noise', 'noise', 'own', 'other'),
    filter: fc.constantFrom('own', 'noise', '#', '$share/g/noise'),
    qos: fc.constantFrom(0, 1, 2),
  }),
  { minLength: 400, maxLength: 600, size: 'max' },
)

function packetsOf({ kind, topic, filter, qos }: Step, at: number): Given[] {
  const messageId = at + 1
  if (kind === 0) return [{ cmd: 'pingreq' }]
  if (kind === 1) return [{ cmd: 'subscribe', messageId, subscriptions: [{ topic: filter, qos }] }]
  if (kind === 2) return [{ cmd: 'unsubscribe', messageId, unsubscriptions: [filter] }]
  const publish = { cmd: 'publish', topic, payload: `m${at}`, qos, retain: kind === 3, messageId }
  return qos === 2 ? [publish, { cmd: 'pubrel', messageId }] : [publish]
}

/** Returns the packets that each client gets if its input comes one by one, or all at once. */
async function outputsOf(
  packets: readonly Given[],
  atOnce: boolean,
): Promise<{ outputs: string[]; slices: number }> {
  const { world, all } = await made(40)
  const [client, other] = [await world.connect('random'), await world.connect('other')]
  await other.bytes(QUIET)
  if (atOnce) await client.bytes(bytesOf(packets))
  else for (const packet of packets) await client.bytes(bytesOf([packet]))
  const outputs = [...all, client].map(({ link }) => Buffer.concat(link.raw).toString('hex'))
  return { outputs, slices: world.server.state.counters.slicesEnded }
}

describe('slices change only when something is done', () => {
  it('each client gets the same packets, whatever is sent', async () => {
    let slices = 0
    await fc.assert(
      fc.asyncProperty(steps, async (given) => {
        const packets = given.flatMap(packetsOf)
        const [single, together] = [await outputsOf(packets, false), await outputsOf(packets, true)]
        slices += together.slices
        expect(together.outputs).toEqual(single.outputs)
      }),
      { numRuns: 10 },
    )
    expect(slices).toBeGreaterThan(15)
  })
})
