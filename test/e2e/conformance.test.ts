/** The standards' bytes on the real process: a part of test/conformance over each transport. */
import { connect as connectSocket, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import type { Version } from '../broker/harness.ts'
import { exchange, type Party } from '../conformance/exchange.ts'
import { DIALECTS, publish, subscribe, unsubscribe } from '../conformance/wire.ts'
import { connect, packet, properties } from '../mqtt/packets.ts'
import { BrokerProcess, cleanUp } from './process.ts'

let broker: BrokerProcess

beforeEach(async () => {
  broker = await BrokerProcess.start({ webSocket: true })
})
afterEach(cleanUp)

/** A client that writes bytes and keeps the answers. */
abstract class Wire {
  hex = ''
  closed = false
  #watchers: (() => void)[] = []

  abstract write(bytes: Buffer): void

  /** Resolves when as much has come as is expected, or the connection is closed. */
  async has(hex: string): Promise<void> {
    while (this.hex.length < hex.length && !this.closed) await this.#changed()
  }

  async isClosed(): Promise<void> {
    while (!this.closed) await this.#changed()
  }

  protected got(bytes: Buffer): void {
    this.hex += bytes.toString('hex')
    this.#tell()
  }

  protected gone(): void {
    this.closed = true
    this.#tell()
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#watchers.push(resolve))
  }

  #tell(): void {
    for (const watcher of this.#watchers.splice(0)) watcher()
  }
}

class TcpWire extends Wire {
  readonly #socket: Socket
  readonly #slices: number

  /** Writes so many bytes at a time. */
  constructor(slices = Number.POSITIVE_INFINITY) {
    super()
    this.#slices = slices
    this.#socket = connectSocket(broker.port, '127.0.0.1').setNoDelay(true)
    this.#socket.on('data', (bytes) => this.got(bytes))
    this.#socket.on('error', () => {})
    this.#socket.on('close', () => this.gone())
  }

  write(bytes: Buffer): void {
    const slice = Math.min(this.#slices, bytes.length)
    for (let at = 0; at < bytes.length; at += slice) this.#socket.write(bytes.subarray(at, at + slice))
  }
}

class WebSocketWire extends Wire {
  readonly #webSocket = new WebSocket(`ws://127.0.0.1:${broker.webSocketPort}/mqtt`, 'mqtt')

  constructor() {
    super()
    this.#webSocket.on('message', (bytes: Buffer) => this.got(bytes))
    this.#webSocket.on('close', () => this.gone())
  }

  write(bytes: Buffer): void {
    const send = () => this.#webSocket.send(bytes)
    if (this.#webSocket.readyState === WebSocket.CONNECTING) this.#webSocket.once('open', send)
    else send()
  }
}

const TRANSPORTS = [
  ['TCP', () => new TcpWire()],
  ['TCP, a byte at a time', () => new TcpWire(1)],
  ['WebSocket', () => new WebSocketWire()],
] as const satisfies readonly (readonly [string, () => Wire])[]

describe.each(DIALECTS)('MQTT %s', (_, version) => {
  test.each(TRANSPORTS)('a whole conversation over %s', async (_name, open) => {
    const wires: Record<Party, Wire> = { sub: open(), pub: open() }
    const expected: Record<Party, string> = { sub: '', pub: '' }
    for (const { from, bytes, toSub, toPub } of exchange(version)) {
      if (wires[from].closed || (expected[from] !== '' && bytes[0] === 0x10)) {
        await wires[from].isClosed()
        expect(wires[from].hex).toBe(expected[from])
        wires[from] = open()
        expected[from] = ''
      }
      wires[from].write(bytes)
      expected.sub += toSub
      expected.pub += toPub
      await Promise.all([wires.sub.has(expected.sub), wires.pub.has(expected.pub)])
      expect([wires.sub.hex, wires.pub.hex]).toEqual([expected.sub, expected.pub])
    }
    await Promise.all([wires.sub.isClosed(), wires.pub.isClosed()])
    expect([wires.sub.hex, wires.pub.hex]).toEqual([expected.sub, expected.pub])
    expect((await broker.stop()).code).toBe(0)
  })

  test.each(TRANSPORTS)(
    'packets that break a rule are refused over %s, with a Reason Code in 5.0',
    async (_name, open) => {
      for (const [bytes, reasonCode] of wrong(version)) {
        const wire = open()
        wire.write(connect(version, 2, version === 5 ? properties() : Buffer.alloc(0), 'wrong'))
        await wire.has('2002')
        while (!/^20(02.{4}|0b.{22})/.test(wire.hex)) await wire.has(`${wire.hex}00`)
        const before = wire.hex.length
        wire.write(Buffer.concat([bytes, packet(0xc0)]))
        await wire.isClosed()
        const answer = wire.hex.slice(before)
        const hex = bytes.toString('hex')
        if (version < 5) expect([hex, answer]).toEqual([hex, ''])
        else expect([hex, answer]).toEqual([hex, expect.stringMatching(/^e0/)])
        if (version === 5) expect([hex, Number.parseInt(answer.slice(4, 6), 16)]).toEqual([hex, reasonCode])
      }
      expect((await broker.stop()).code).toBe(0)
    },
  )
})

/** Flags that are reserved since 3.1.1: those of PINGREQ, and DUP at QoS 0. */
function unusedBits(version: Version): readonly (readonly [Buffer, number])[] {
  return [
    [packet(0xc1), 0x81],
    [publish(version, 8, 't'), 0x81],
  ]
}

/** Bytes that no client may send, and the Reason Codes in 5.0. */
function wrong(version: Version): readonly (readonly [Buffer, number])[] {
  return [
    [packet(0x00), 0x81],
    [packet(0xd0), 0x82],
    // 3.1 disregards the bits that it does not use.
    ...(version === 3 ? [] : unusedBits(version)),
    [Buffer.from([0xc0, 0x80, 0x00]), 0x81],
    [Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x01]), 0x81],
    [publish(version, 6, 't', 1), 0x81],
    [publish(version, 2, 't', 0), 0x81],
    [publish(version, 0, 'a/#'), 0x90],
    [publish(version, 0, [0, 2, 0xc0, 0x80]), 0x81],
    [subscribe(version, 1), 0x82],
    [subscribe(version, 1, 'a#', 0), 0x8f],
    [subscribe(version, 1, '$share//a', 0), 0x8f],
    [unsubscribe(version, 1), 0x82],
    [connect(version, 2, version === 5 ? properties() : Buffer.alloc(0), 'again'), 0x82],
  ]
}
