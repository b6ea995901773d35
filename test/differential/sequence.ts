/** Has well-behaved clients do the same with two brokers in lock step, and collects what each client got. */
import type { Answer, PublishFields } from '../fuzz/answers.ts'
import type { Plain, PlainConnect, PlainRequest, Version } from '../fuzz/plain.ts'
import { writeProperty } from '../fuzz/plain.ts'
import type { Random } from '../fuzz/random.ts'
import { WireClient } from './client.ts'

export type Step =
  | { readonly do: 'connect'; readonly who: number; readonly packet: PlainConnect }
  | { readonly do: 'send'; readonly who: number; readonly packet: Plain }
  /** Answers so many of the packets that arrived. */
  | { readonly do: 'answer'; readonly who: number; readonly count: number }
  | { readonly do: 'vanish'; readonly who: number }

/** How a client of one broker stands. */
export interface Place {
  client: WireClient | null
  unanswered: Answer[]
}

export const CLIENTS = 3

/** Rounds of PINGREQ by which a broker has noticed the end of a Network Connection and sent what follows. */
const ROUNDS = 3

/** One broker, as one sequence sees it: names of its own, so that nothing is left of earlier ones. */
export class Side {
  readonly name: string
  readonly port: number
  readonly prefix: string
  readonly places: Place[] = Array.from({ length: CLIENTS }, () => ({ client: null, unanswered: [] }))
  #others: WireClient[] = []

  constructor(name: string, port: number, prefix: string) {
    this.name = name
    this.port = port
    this.prefix = prefix
  }

  /** Does it, and resolves with what each client got, as lines without packet identifiers. */
  async run(step: Step): Promise<string[][]> {
    const place = this.places[step.who]!
    await this.#do(step, place)
    const [first, ...rest] = [place.client, ...this.#open().filter((client) => client !== place.client)]
    for (
      let round = 0;
      round < (step.do === 'send' && step.packet.type !== 'disconnect' ? 1 : ROUNDS);
      round++
    ) {
      await first?.barrier()
      await Promise.all(rest.map((client) => client?.barrier()))
    }
    const got = this.places.map((each) => this.#took(each))
    return (await this.#released(place)) ? this.#withMore(got) : got
  }

  /**
   * A QoS 2 message is certainly on its way only after PUBREL: by the methods A and B of section 4.3.3, it
   * may be sent before or not. So a client that published one completes it in the same step.
   */
  async #released(place: Place): Promise<boolean> {
    const received = place.unanswered.filter(({ type }) => type === 5)
    if (received.length === 0) return false
    place.unanswered = place.unanswered.filter(({ type }) => type !== 5)
    place.client?.send(...received.map(answerTo))
    await place.client?.barrier()
    await Promise.all(this.#open().map((client) => client.barrier()))
    return true
  }

  #withMore(got: readonly string[][]): string[][] {
    return this.places.map((each, who) => [...got[who]!, ...this.#took(each)])
  }

  #open(): WireClient[] {
    return this.places.flatMap(({ client }) => (client === null ? [] : [client]))
  }

  async #do(step: Step, place: Place): Promise<void> {
    switch (step.do) {
      case 'connect': {
        if (place.client !== null) this.#others.push(place.client)
        place.unanswered = []
        const client = await WireClient.open(this.port, step.packet.version)
        place.client = client
        client.send(this.#named(step.packet))
        await client.until((answers) => answers.length > 0)
        return
      }
      case 'send':
        place.client?.send(this.#named(step.packet))
        return
      case 'answer':
        place.client?.send(...place.unanswered.splice(0, step.count).map(answerTo))
        return
      case 'vanish':
        await place.client?.vanish()
        place.client = null
        place.unanswered = []
    }
  }

  #took(place: Place): string[] {
    const { client } = place
    if (client === null) return []
    const came = client.take()
    place.unanswered.push(
      ...came.filter(({ type, qos }) => (type === 3 && qos > 0) || type === 5 || type === 6),
    )
    const lines = came.map((answer) => this.#line(answer))
    if (client.closed) {
      place.client = null
      place.unanswered = []
      lines.push('closed')
    }
    return lines
  }

  #line({ type, text, reasonCode, present, publish }: Answer): string {
    if (publish !== null) return this.#publishLine(publish)
    if (type === 2) return `CONNACK ${present ? 'present' : 'new'} ${reasonCode}`
    // PUBREL and its like have packet identifiers of the broker's choice.
    if (type === 6) return `PUBREL ${reasonCode}`
    return text.trim()
  }

  #publishLine(publish: PublishFields): string {
    const { qos, retain, dup, topic, payload, expiry, identifiers, properties } = publish
    const flags = `${dup ? ' dup' : ''}${retain ? ' retain' : ''}`
    const ids = [...identifiers].sort((a, b) => a - b)
    const more = `${expiry >= 0 ? ' expires' : ''} [${ids}] ${sorted(properties)}`
    return `PUBLISH QoS ${qos}${flags} ${topic.slice(this.prefix.length)} ${payload}${more}`
  }

  /** With names of this sequence alone. */
  #named(packet: Plain): Plain {
    const named = (topic: string): string => {
      const [, share, rest] = /^(\$share\/[^/]+\/)(.*)$/.exec(topic) ?? []
      return share === undefined ? this.prefix + topic : share + this.prefix + rest
    }
    switch (packet.type) {
      case 'connect': {
        const { will } = packet
        const clientId = `${this.prefix.replaceAll('/', '')}${packet.clientId}`
        return { ...packet, clientId, will: will === null ? null : { ...will, topic: named(will.topic) } }
      }
      case 'publish':
        return { ...packet, topic: named(packet.topic) }
      case 'subscribe':
        return {
          ...packet,
          requests: packet.requests.map((each) => ({ ...each, filter: named(each.filter) })),
        }
      case 'unsubscribe':
        return { ...packet, filters: packet.filters.map(named) }
      default:
        return packet
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open(), ...this.#others].map((client) => client.vanish()))
  }
}

function answerTo({ type, qos, packetId }: Answer): Plain {
  if (type === 3) return { type: qos === 1 ? 'puback' : 'pubrec', packetId, reasonCode: 0 }
  return { type: type === 5 ? 'pubrel' : 'pubcomp', packetId, reasonCode: 0 }
}

/** Properties may be in any order but User Properties, which keep theirs [MQTT-3.3.2-18]. */
function sorted(properties: string): string {
  const bytes = Buffer.from(properties, 'hex')
  const list: string[] = []
  const pairs: string[] = []
  for (let at = 0; at < bytes.length; ) {
    const id = bytes[at]!
    let end = at + 2
    if (id !== 1) end = at + 3 + bytes.readUInt16BE(at + 1)
    if (id === 38) end += 2 + bytes.readUInt16BE(end)
    if (id === 38) pairs.push(bytes.toString('hex', at, end))
    else list.push(bytes.toString('hex', at, end))
    at = end
  }
  return [...list.sort(), ...pairs].join(' ')
}

// ── actions of clients ───────────────────────────────────────────────────────────────────────────

const TOPICS = ['a', 'b', 'a/b', 'c/d']
const DISJOINT = ['a', 'b', 'a/+', 'c/#']
const OVERLAPPING = ['a', 'b', '+', 'a/b', 'a/#', '#', '+/d', 'c/#']

export interface Course {
  /** Whether Subscriptions of one client may overlap. */
  readonly overlapping: boolean
  readonly steps: readonly Step[]
}

export function course(random: Random): Course {
  const overlapping = random.chance(0.25)
  const first = Array.from({ length: CLIENTS }, (_, who) => connect(random, who))
  const steps: Step[] = Array.from({ length: random.between(8, 30) }, () => step(random, overlapping))
  return { overlapping, steps: [...first, ...steps] }
}

function step(random: Random, overlapping: boolean): Step {
  const who = random.below(CLIENTS)
  return random.weighted<() => Step>([
    [2, () => connect(random, who)],
    [10, () => ({ do: 'send', who, packet: publish(random) })],
    [5, () => ({ do: 'send', who, packet: subscribe(random, overlapping) })],
    [
      1,
      () => ({
        do: 'send',
        who,
        packet: {
          type: 'unsubscribe',
          packetId: id(random),
          filters: [random.of(overlapping ? OVERLAPPING : DISJOINT)],
          pairs: [],
        },
      }),
    ],
    [8, () => ({ do: 'answer', who, count: random.of([1, 2, 10]) })],
    [1, () => ({ do: 'vanish', who })],
    [
      1,
      () => ({
        do: 'send',
        who,
        packet: {
          type: 'disconnect',
          reasonCode: random.of([0, 0, 4]),
          expiry: undefined,
          reason: undefined,
          pairs: [],
        },
      }),
    ],
  ])()
}

/** Used up to their acknowledgement, which may take some steps: so many that they rarely meet. */
function id(random: Random): number {
  return random.between(1, 60_000)
}

function connect(random: Random, who: number): Step {
  const version: Version = random.weighted([
    [1, 3],
    [3, 4],
    [4, 5],
  ] as const)
  return {
    do: 'connect',
    who,
    packet: {
      type: 'connect',
      version,
      bridge: version < 5 && random.chance(0.1),
      clientId: `c${who}`,
      clean: random.chance(0.4),
      keepAlive: 0,
      userName: undefined,
      password: undefined,
      will: random.chance(0.25)
        ? {
            topic: random.of(TOPICS),
            payload: payload(random),
            qos: random.below(3),
            retain: random.chance(0.3),
            properties: '',
            expiry: undefined,
            delay: 0,
          }
        : null,
      expiry: random.of([0, 1000]),
      receiveMaximum: random.of([65_535, 65_535, 1, 2]),
      packetMaximum: null,
      aliasMaximum: 0,
      responseInformation: false,
      problemInformation: true,
      pairs: [],
      method: undefined,
      data: undefined,
    },
  }
}

function payload(random: Random): string {
  return random.chance(0.1) ? '' : random.bytes(3).toString('hex')
}

function publish(random: Random): Plain {
  const qos = random.below(3)
  const list = [
    [1, 1],
    [3, 't'],
    [38, ['b', '1']],
    [38, ['a', '2']],
    [38, ['b', '']],
    [9, '00ff'],
    [8, 'r'],
  ] as const
  const some = random.chance(0.8) ? [] : list.filter(() => random.chance(0.4))
  return {
    type: 'publish',
    topic: random.of(TOPICS),
    alias: 0,
    qos,
    retain: random.chance(0.25),
    dup: false,
    packetId: qos === 0 ? 0 : id(random),
    payload: some.some(([property]) => property === 1) ? '74' : payload(random),
    properties: Buffer.concat(some.map((each) => writeProperty(each))).toString('hex'),
    expiry: random.of([undefined, undefined, 1000]),
  }
}

function subscribe(random: Random, overlapping: boolean): Plain {
  const filters = overlapping ? OVERLAPPING : DISJOINT
  const requests = Array.from(
    { length: random.of([1, 1, 2]) },
    (): PlainRequest => ({
      filter: random.of(filters),
      qos: random.below(3),
      noLocal: random.chance(0.15),
      retainAsPublished: random.chance(0.3),
      retainHandling: random.below(3),
    }),
  )
  return {
    type: 'subscribe',
    packetId: id(random),
    requests,
    identifier: random.of([0, 0, 1, 200]),
    pairs: [],
  }
}
