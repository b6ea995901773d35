import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { type IConnectPacket, type Packet, generate as packetBytes, parser } from 'mqtt-packet'
import { afterEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { type Broker, type Census, createBroker } from '../../src/godwit.ts'
import { cleanUp, temporaryDirectory } from './process.ts'

const ROUNDS = 25

let broker: Broker

afterEach(async () => {
  await broker.close()
  await cleanUp()
})

/** A raw client: sends packets, and waits for a packet of a kind. */
class RawClient {
  readonly socket: Socket
  readonly version: 4 | 5
  readonly closed: Promise<unknown>
  readonly #got: Packet[] = []
  #watcher: () => void = () => {}

  constructor(version: 4 | 5) {
    this.version = version
    this.socket = connect(broker.listeners[0]!.port, '127.0.0.1').on('error', () => {})
    this.closed = new Promise((resolve) => this.socket.once('close', resolve))
    const packets = parser({ protocolVersion: version })
    packets.on('packet', (packet) => {
      this.#got.push(packet)
      this.#watcher()
    })
    this.socket.on('data', (chunk) => packets.parse(chunk))
  }

  send(packet: Packet): void {
    this.socket.write(packetBytes(packet, { protocolVersion: this.version }))
  }

  async until(command: Packet['cmd']): Promise<void> {
    while (!this.#got.some(({ cmd }) => cmd === command)) {
      await new Promise<void>((resolve) => {
        this.#watcher = resolve
      })
    }
  }

  async connect(more: Partial<IConnectPacket> = {}): Promise<void> {
    const protocolVersion = this.version
    this.send({ cmd: 'connect', clientId: '', protocolVersion, clean: true, keepalive: 0, ...more })
    await this.until('connack')
  }

  async subscribe(topic: string, qos: 0 | 1 | 2): Promise<void> {
    this.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos }] })
    await this.until('suback')
  }

  publish(topic: string, qos: 0 | 1 | 2, retain = false, payload: string | Buffer = 'x'): void {
    this.send({ cmd: 'publish', topic, payload, qos, messageId: 2, dup: false, retain })
  }

  vanish(): Promise<unknown> {
    this.socket.destroy()
    return this.closed
  }
}

const WILL = { topic: 'soak/will', payload: Buffer.from('gone'), qos: 1, retain: false } as const

/** Every way to come and go. Each leaves nothing once its connection is closed. */
const WAYS: Readonly<Record<string, (version: 4 | 5, name: string) => Promise<unknown>>> = {
  async 'says nothing and goes'(version) {
    const client = new RawClient(version)
    await once(client.socket, 'connect')
    await client.vanish()
  },
  async 'goes in the middle of CONNECT'(version) {
    const client = new RawClient(version)
    client.socket.write(Buffer.from([0x10, 0x40, 0x00, 0x04, 0x4d]))
    client.socket.end()
    await client.closed
  },
  async 'connects and leaves politely'(version) {
    const client = new RawClient(version)
    await client.connect()
    client.send({ cmd: 'disconnect' })
    client.socket.end()
    await client.closed
  },
  async 'subscribes and vanishes with a Will'(version) {
    const client = new RawClient(version)
    await client.connect({ will: WILL })
    await client.subscribe('soak/#', 2)
    await client.vanish()
  },
  async 'leaves QoS 1 unacknowledged and QoS 2 half done'(version) {
    const client = new RawClient(version)
    await client.connect()
    await client.subscribe('soak/+/half', 2)
    client.publish('soak/1/half', 1)
    await client.until('puback')
    client.publish('soak/2/half', 2)
    await client.until('pubrec')
    await client.vanish()
  },
  async 'is a member of a Shared Subscription and vanishes with a job'(version) {
    const client = new RawClient(version)
    await client.connect()
    await client.subscribe('$share/soak/soak/jobs', 1)
    client.publish('soak/jobs', 1)
    await client.until('publish')
    await client.vanish()
  },
  async 'sets a retained message and clears it'(version, name) {
    const client = new RawClient(version)
    await client.connect()
    client.publish(`soak/retained/${name}`, 1, true)
    await client.until('puback')
    client.publish(`soak/retained/${name}`, 0, true, '')
    client.send({ cmd: 'pingreq' })
    await client.until('pingresp')
    await client.vanish()
  },
  async 'is taken over, then leaves'(version, name) {
    const clientId = `soak-${name}`
    const [first, second] = [new RawClient(version), new RawClient(version)]
    await first.connect({ clientId, will: WILL })
    await second.connect({ clientId })
    await first.closed
    await second.vanish()
  },
  async 'keeps a Session, comes back to it, and ends it'(version, name) {
    const clientId = `kept-${name}`
    const session: Partial<IConnectPacket> = { clientId, clean: false }
    const first = new RawClient(version)
    await first.connect({ ...session, ...(version === 5 && { properties: { sessionExpiryInterval: 100 } }) })
    await first.subscribe('soak/kept', 2)
    await first.vanish()
    await broker.publish({ topic: 'soak/kept', payload: 'waiting', qos: 2 })
    const second = new RawClient(version)
    await second.connect(session)
    await second.until('publish')
    await second.vanish()
    const third = new RawClient(version)
    await third.connect({ clientId })
    await third.vanish()
  },
  async 'breaks the protocol'(version) {
    const client = new RawClient(version)
    await client.connect()
    client.socket.write(Buffer.from([0x36, 0x05, 0x00, 0x01, 0x61, 0x00, 0x01])) // QoS 3
    await client.closed
  },
  async 'does not read what it asked for'(version) {
    const client = new RawClient(version)
    await client.connect()
    await client.subscribe('soak/large', 1)
    client.socket.pause()
    for (let i = 0; i < 4; i++) client.publish('soak/large', 0, false, Buffer.alloc(1_000_000))
    await broker.publish({ topic: 'soak/large', payload: Buffer.alloc(1_000_000), qos: 1 })
    await client.vanish()
  },
  async 'opens a WebSocket and drops it'(version) {
    const socket = new WebSocket(broker.listeners[1]!.address, ['mqtt'])
    await once(socket, 'open')
    const connection = { cmd: 'connect', clientId: '', protocolVersion: version, keepalive: 0 } as const
    socket.send(packetBytes({ ...connection, clean: true }, { protocolVersion: version }))
    await once(socket, 'message')
    socket.terminate()
    await once(socket, 'close')
  },
}

const NOTHING: Record<Exclude<keyof Census, 'topicBytes'>, 0> = {
  connections: 0,
  sessions: 0,
  subscriptions: 0,
  sharedSubscriptions: 0,
  retainedMessages: 0,
  retainedBytes: 0,
  queuedMessages: 0,
  inFlightMessages: 0,
  wills: 0,
  queues: 0,
  queuesMessages: 0,
  queuesBytes: 0,
  consumers: 0,
  deadlines: 0,
  waiting: 0,
  paused: 0,
  retainedDeliveries: 0,
  memoryBytes: 0,
}

/** Returns what the broker holds, without the topic names that it remembers within a limit. */
function left(): Omit<Census, 'topicBytes'> {
  const { memoryBytes, topicBytes, ...rest } = broker.census()
  return { ...rest, memoryBytes: memoryBytes - topicBytes }
}

describe.each(['memory', 'fsync'] as const)('soak, durability %s', (durability) => {
  test('clients come and go in every way, and nothing of them is left', async () => {
    broker = await createBroker({
      durability,
      ...(durability === 'fsync' && { dataDirectory: await temporaryDirectory() }),
      listeners: [
        { type: 'tcp', port: 0 },
        { type: 'ws', port: 0 },
      ],
    })
    for (let round = 0; round < ROUNDS; round++) {
      const version = round % 2 === 0 ? 5 : 4
      await Promise.all(Object.values(WAYS).map((way, i) => way(version, `${round}-${i}`)))
    }
    await expect.poll(left, { timeout: 100_000 }).toEqual(NOTHING)
    expect(broker.figures.connectionsAccepted).toBeGreaterThan(ROUNDS * Object.keys(WAYS).length)
    expect(broker.figures.clientsConnected).toBe(0)
  })
})
