/**
 * Bounds for the cost of a message, in numbers that do not depend on the machine or its load: writes to a
 * link, system calls, bytes allocated. Times are for `npm run bench`. When something gets cheaper, lower its
 * bound.
 */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { generate as packetBytes } from 'mqtt-packet'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, output } from '../e2e/process.ts'

/**
 * Sockets of this test's clients. They are closed first: the killed broker would reset those with unread
 * input.
 */
const open = new Set<Socket>()

afterEach(async () => {
  for (const socket of open) socket.destroy()
  open.clear()
  await cleanUp()
})

interface Cost {
  readonly writesPerMessage: number
  readonly writesPerTurn: number
  readonly bytesPerMessage: number
  readonly collections: number
}

interface Costs {
  readonly costs: Record<string, Cost>
  readonly idleConnectionBytes: number
}

/** V8 of Node 20 was measured; another one may lay out its objects otherwise. */
const HEADROOM = process.version.startsWith('v20.') ? 1.1 : 1.5

/**
 * Per message that is published, retained messages that are sent, or per CONNECT: writes, and bytes as Node
 * 20 allocates them. Runs differ by less than 2 %. A chunk has 20 messages in fan-in (ten publishers),
 * fan-out (to 100) and of retained ones, one in pairs (50); 500 retained messages are sent, and 500 messages
 * of QoS 1 queued and drained, at a time.
 */
const BOUNDS = {
  'fan-in QoS 0': { writes: 1 / 200, bytes: 380 },
  'fan-in QoS 0, with a policy': { writes: 1 / 200, bytes: 380 },
  'fan-in QoS 1': { writes: 11 / 200, bytes: 624 },
  'fan-in QoS 1, beside queues': { writes: 11 / 200, bytes: 624 },
  // With digests of messages that are not released yet.
  'fan-in QoS 2': { writes: 22 / 200, bytes: 891 },
  'fan-out QoS 0': { writes: 100 / 20, bytes: 885 },
  'fan-out QoS 1': { writes: 101 / 20, bytes: 9130 },
  'pairs QoS 0': { writes: 1, bytes: 461 },
  'pairs QoS 0, beside queues': { writes: 1, bytes: 461 },
  'pairs QoS 1': { writes: 2, bytes: 1066 },
  'pairs QoS 2': { writes: 4, bytes: 1902 },
  'retained, stored': { writes: 1 / 20, bytes: 700 },
  // In two slices; 40 bytes are for what was sent, to which newer messages of the same topic must not be put
  // in front.
  'retained, sent': { writes: 2 / 500, bytes: 261 },
  // 20 with CONNACK, then twice as many with each round trip.
  'queued and drained': { writes: 6 / 500, bytes: 810 },
  // Between 7,750 and 7,820, as the compiler has it.
  CONNECT: { writes: 1, bytes: 7500 },
}

/** Heap for a connection with nothing to do, without its socket. */
const IDLE_CONNECTION_BYTES = 1950

describe('in the core', () => {
  let counted: Costs

  beforeAll(async () => {
    // Compiled and collected on one thread, when it is due and not when another thread has time: the same in
    // each run.
    const semiSpace = ['--min-semi-space-size=256', '--max-semi-space-size=256']
    const flags = ['--expose-gc', '--single-threaded', ...semiSpace]
    const child = join(import.meta.dirname, 'cost-child.mjs')
    counted = JSON.parse(await output(process.execPath, ...flags, child, dirname(MAIN)))
  })

  test.each(Object.entries(BOUNDS))(
    '%s: one write per link and turn, and no more bytes than before',
    (name, bound) => {
      const cost = counted.costs[name]!
      expect(cost.writesPerTurn).toBe(1)
      expect(cost.writesPerMessage).toBeCloseTo(bound.writes, 6)
      expect(cost.collections, 'collections while bytes were counted').toBe(0)
      expect(cost.bytesPerMessage).toBeGreaterThan(0)
      expect(cost.bytesPerMessage).toBeLessThanOrEqual(bound.bytes * HEADROOM)
    },
  )

  test.each(['fan-in QoS 1', 'pairs QoS 0'])(
    '%s: 10,000 queues for other topics cost at most 3 %% more bytes',
    (name) => {
      const beside = counted.costs[`${name}, beside queues`]!.bytesPerMessage
      expect(beside / counted.costs[name]!.bytesPerMessage).toBeLessThanOrEqual(1.03)
    },
  )

  test('an idle connection', () => {
    expect(counted.idleConnectionBytes).toBeGreaterThan(0)
    expect(counted.idleConnectionBytes).toBeLessThanOrEqual(IDLE_CONNECTION_BYTES * HEADROOM)
  })
})

/** Waves of messages; the next one is sent when the one before has arrived and is acknowledged. */
const WAVES = 40

/**
 * Wake-ups of the event loop by other threads take a read and a write each: one a second for the look at a
 * file, and one for each collection of V8's young generation.
 */
const OTHER_CALLS_MAX = 30

/** V8 marks the old generation in steps, each of which would wake the event loop: some eighty, or 1,400. */
const NODE_FLAGS = ['--no-incremental-marking-task']

/** Commits of the clock and of the ends of connections. */
const OTHER_COMMITS_MAX = 4

const ACKNOWLEDGEMENT_BYTES = 4

type QoS = 0 | 1 | 2

const UPGRADE = [
  'GET /mqtt HTTP/1.1',
  'Host: localhost',
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==',
  'Sec-WebSocket-Protocol: mqtt',
  '\r\n',
].join('\r\n')

/** Of a frame with up to 125 bytes: from the Server, without a mask. */
const FRAME_HEADER_BYTES = 2

/** In a frame with a mask that changes nothing. */
function framed(packet: Buffer): Buffer {
  return Buffer.concat([Buffer.from([0x82, 0x80 | packet.length, 0, 0, 0, 0]), packet])
}

class Peer {
  readonly socket: Socket
  readonly #webSocket: boolean
  #bytes = 0
  #expected = 0
  #watcher: () => void = () => {}

  private constructor(socket: Socket, webSocket: boolean) {
    this.socket = socket
    this.#webSocket = webSocket
    socket.on('data', (chunk) => {
      this.#bytes += chunk.length
      this.#watcher()
    })
  }

  /** Over WebSocket where the port says so. */
  static async connect(
    port: number | { ws: number },
    clientId: string,
    filter?: string,
    qos: QoS = 0,
    clean = true,
  ): Promise<Peer> {
    const webSocket = typeof port !== 'number'
    const socket = connect({ port: webSocket ? port.ws : port, host: '127.0.0.1', noDelay: true })
    await once(socket, 'connect')
    open.add(socket)
    const peer = new Peer(socket, webSocket)
    if (webSocket) await peer.#upgrade()
    peer.send(packetBytes({ cmd: 'connect', clientId, keepalive: 0, clean, protocolVersion: 4 }))
    await peer.gets(4)
    if (filter === undefined) return peer
    peer.send(packetBytes({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filter, qos }] }))
    await peer.gets(5)
    return peer
  }

  async #upgrade(): Promise<void> {
    this.socket.write(UPGRADE)
    const [answer] = (await once(this.socket, 'data')) as [Buffer]
    expect(answer.toString('latin1')).toMatch(/^HTTP\/1\.1 101 [\s\S]*\r\n\r\n$/)
    this.#expected = answer.length
  }

  send(packet: Buffer): void {
    this.socket.write(this.#webSocket ? framed(packet) : packet)
  }

  /** Resolves when a packet of so many bytes has come, or packets, each in a frame of its own. */
  gets(bytes: number): Promise<void> {
    this.#expected += this.#webSocket ? FRAME_HEADER_BYTES + bytes : bytes
    return this.#until(this.#expected)
  }

  /** Resolves when so many bytes came in all. */
  async #until(bytes: number): Promise<void> {
    while (this.#bytes < bytes) {
      await new Promise<void>((resolve) => {
        this.#watcher = resolve
      })
    }
  }
}

function messages(topic: string, qos: QoS, count: number, retain = false): Buffer {
  const payload = Buffer.alloc(64, 'x')
  return Buffer.concat(
    Array.from({ length: count }, (_, i) =>
      packetBytes({ cmd: 'publish', topic, payload, qos, messageId: i + 1, dup: false, retain }),
    ),
  )
}

describe('system calls of the process', () => {
  /** Reads and writes of files and sockets so far. */
  async function calls(broker: BrokerProcess): Promise<{ reads: number; writes: number }> {
    const text = await readFile(`/proc/${broker.program.pid}/io`, 'utf8')
    const of = (name: string): number => Number(new RegExp(`^${name}: (\\d+)$`, 'm').exec(text)![1])
    return { reads: of('syscr'), writes: of('syscw') }
  }

  /** Checks the calls during `work` against those that it is due. */
  async function expectCalls(
    broker: BrokerProcess,
    due: { reads: number; writes: number },
    work: () => Promise<void>,
  ): Promise<void> {
    const before = await calls(broker)
    await work()
    const after = await calls(broker)
    const reads = after.reads - before.reads
    const writes = after.writes - before.writes
    expect(writes, 'nothing is counted here').toBeGreaterThan(0)
    expect(reads).toBeLessThanOrEqual(due.reads + OTHER_CALLS_MAX)
    expect(writes).toBeLessThanOrEqual(due.writes + OTHER_CALLS_MAX)
  }

  function start(): Promise<BrokerProcess> {
    // A line in the log is a write, too.
    const quiet = ['--log-level', 'warn', '--set', 'sys.interval_seconds=off']
    const words = ['--durability', 'memory', ...quiet]
    return BrokerProcess.start({ words, nodeFlags: NODE_FLAGS, webSocket: true })
  }

  function acknowledgement(cmd: 'puback' | 'pubrec' | 'pubrel' | 'pubcomp', messageId: number): Buffer {
    return packetBytes({ cmd, messageId })
  }

  interface Pair {
    readonly publisher: Peer
    readonly subscriber: Peer
    readonly message: Buffer
  }

  /**
   * A message from the publisher to the subscriber and whatever acknowledges it, each packet in a segment of
   * its own.
   */
  async function passOn({ publisher, subscriber, message }: Pair, qos: QoS, packetId: number): Promise<void> {
    publisher.send(message)
    await subscriber.gets(message.length)
    if (qos === 0) return
    await publisher.gets(ACKNOWLEDGEMENT_BYTES)
    subscriber.send(acknowledgement(qos === 1 ? 'puback' : 'pubrec', packetId))
    if (qos === 1) return
    await subscriber.gets(ACKNOWLEDGEMENT_BYTES)
    subscriber.send(acknowledgement('pubcomp', packetId))
    publisher.send(acknowledgement('pubrel', 1))
    await publisher.gets(ACKNOWLEDGEMENT_BYTES)
  }

  test.each([
    ['TCP', 0],
    ['TCP', 1],
    ['TCP', 2],
    ['WebSocket', 0],
    ['WebSocket', 1],
    ['WebSocket', 2],
  ] as const)(
    'pairs over %s, QoS %i, a message at a time: one read per packet in, one write per packet out',
    async (over, qos) => {
      const broker = await start()
      const port = over === 'TCP' ? broker.port : { ws: broker.webSocketPort }
      const pairs = await Promise.all(
        Array.from({ length: 50 }, async (_, i) => ({
          subscriber: await Peer.connect(port, `s${i}`, `pairs/${i}`, qos),
          publisher: await Peer.connect(port, `p${i}`),
          message: messages(`pairs/${i}`, qos, 1),
        })),
      )
      const due = WAVES * 50 * (qos === 0 ? 1 : 2 * qos)
      await expectCalls(broker, { reads: due, writes: due }, async () => {
        for (let number = 1; number <= WAVES; number++) {
          await Promise.all(pairs.map((pair) => passOn(pair, qos, number)))
        }
      })
    },
  )

  test('fan-out: twenty messages in a segment take one read, and one write for each subscriber', async () => {
    const broker = await start()
    const publisher = await Peer.connect(broker.port, 'publisher')
    const subscribers = await Promise.all(
      Array.from({ length: 100 }, (_, i) => Peer.connect(broker.port, `s${i}`, 'out')),
    )
    const chunk = messages('out', 0, 20)
    await expectCalls(broker, { reads: WAVES, writes: WAVES * 100 }, async () => {
      for (let number = 1; number <= WAVES; number++) {
        publisher.send(chunk)
        await Promise.all(subscribers.map((subscriber) => subscriber.gets(chunk.length)))
      }
    })
  })

  test('CONNECT: one read, one write, and a read for its end', async () => {
    const broker = await start()
    const count = 200
    await expectCalls(broker, { reads: 2 * count, writes: count }, async () => {
      for (let i = 0; i < count; i++) {
        const { socket } = await Peer.connect(broker.port, `c${i}`)
        socket.end()
        await once(socket, 'close')
      }
    })
  })
})

describe('commits of the process', () => {
  async function commits(broker: BrokerProcess): Promise<number> {
    const status = await output(process.execPath, MAIN, 'status', '--json', '--data', broker.data)
    return (JSON.parse(status) as { store: { commits: number } }).store.commits
  }

  /** Waves of messages of QoS 1, each in one segment of 20, and the commits that they take. */
  async function commitsFor(retain: boolean): Promise<number> {
    const broker = await BrokerProcess.start({ words: ['--set', 'sys.interval_seconds=off'] })
    const away = await Peer.connect(broker.port, 'away', 'kept/#', 1, false)
    away.socket.end()
    await once(away.socket, 'close')
    const publisher = await Peer.connect(broker.port, 'publisher')
    const chunk = messages('kept/state', 1, 20, retain)
    const before = await commits(broker)
    for (let number = 1; number <= WAVES; number++) {
      publisher.send(chunk)
      await publisher.gets(20 * ACKNOWLEDGEMENT_BYTES)
    }
    return (await commits(broker)) - before
  }

  test.each([
    ['queued for a Session whose client is away', false],
    ['queued and retained', true],
  ])('twenty messages in a segment take one commit: %s', async (_, retain) => {
    const count = await commitsFor(retain)
    expect(count).toBeGreaterThanOrEqual(WAVES)
    expect(count).toBeLessThanOrEqual(WAVES + OTHER_COMMITS_MAX)
  })
})
