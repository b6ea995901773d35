/**
 * A broker in a small heap, on large stores: it starts, serves and loses nothing, or explains why it cannot.
 */
import { connect } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { NO_IDENTIFIERS } from '../../src/mqtt/message.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { subscriptionRecord } from '../../src/store/subscription-record.ts'
import { connect as connectBytes, field, packet } from '../mqtt/packets.ts'
import { delivery, ModelServer, message } from '../store/model.ts'
import { cleanUp, type Ended, MAIN, Program, temporaryDirectory } from './process.ts'

const HEAP_MIB = 64
const AT_LEAST_ONCE = subscriptionRecord(
  { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 0 },
  0,
)

afterEach(cleanUp)

/** Makes a store with what `fill` records; heaps of any size can write it. */
async function storeWith(fill: (server: ModelServer) => Promise<void>): Promise<string> {
  const directory = await temporaryDirectory()
  const options = { directory, sync: false, residentBytesMax: 1_000_000, reserveBytes: 0 }
  const server = new ModelServer(new LevelStore(options))
  server.remember = false
  await server.open()
  await fill(server)
  await server.store.close()
  return directory
}

function broker(data: string, heapMiB: number, ...words: string[]): Program {
  const all = [`--max-old-space-size=${heapMiB}`, MAIN, '--port', '0', '--data', data, ...words]
  return new Program(process.execPath, all)
}

async function portOf(program: Program): Promise<number> {
  await program.until((stdout) => /^godwit try:/m.test(stdout))
  return Number(/listening on mqtt:\/\/[^\s]+:(\d+)$/m.exec(program.stdout)![1])
}

/** Receives and acknowledges so many messages of a client's Session; their payloads in order. */
function drain(port: number, clientId: string, count: number): Promise<string[]> {
  const payloads: string[] = []
  return new Promise((resolve, reject) => {
    let rest = Buffer.alloc(0)
    const socket = connect(port, '127.0.0.1', () => socket.write(connectBytes(4, 0, clientId)))
    socket.on('data', (chunk) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
      const answers: number[] = []
      // All packets here are shorter than 128 bytes.
      for (; rest.length >= 2 && rest.length >= 2 + rest[1]!; rest = rest.subarray(2 + rest[1]!)) {
        if (rest[0]! >>> 4 !== 3) continue
        const at = 4 + rest.readUInt16BE(2)
        answers.push(0x40, 2, rest[at]!, rest[at + 1]!)
        payloads.push(rest.toString('latin1', at + 2, 2 + rest[1]!))
      }
      if (answers.length > 0) socket.write(Buffer.from(answers))
      if (payloads.length >= count) socket.end()
    })
    socket.on('close', () => resolve(payloads))
    socket.on('error', reject)
  })
}

/** Sends these packets, each after the answer to the one before. */
function exchange(port: number, packets: readonly Buffer[]): Promise<void> {
  return new Promise((resolve, reject) => {
    let next = 1
    const socket = connect(port, '127.0.0.1', () => socket.write(packets[0]!))
    socket.on('data', () => {
      if (next < packets.length) socket.write(packets[next++]!)
      else socket.end(Buffer.from([0xe0, 0]))
    })
    socket.on('close', () => resolve())
    socket.on('error', reject)
  })
}

async function fillShares(
  server: ModelServer,
  sessions: number,
  shares: number,
  rounds: number,
): Promise<void> {
  for (let id = 1; id <= sessions; id++) server.createSession(id)
  for (let share = 0; share < shares; share++) {
    server.subscribe(1 + (share % sessions), `$share/${share}/foo/#`, AT_LEAST_ONCE)
  }
  for (let round = 0; round < rounds; round++) {
    const one = message('foo/x', String(round).padStart(15, '0'))
    for (let share = 0; share < shares; share++) {
      const entry = { message: one, qos: 1, retain: false, subscriptionIdentifiers: NO_IDENTIFIERS } as const
      server.enqueue(1 + (share % sessions), { ...entry, share: `$share/${share}/foo/#` })
    }
    await server.commit()
  }
}

test('a start on 500,000 entries of 10,000 Shared Subscriptions succeeds, all are delivered', async () => {
  const [shares, rounds] = [10_000, 50]
  const data = await storeWith((server) => fillShares(server, 1, shares, rounds))
  const program = broker(data, HEAP_MIB)
  const payloads = await drain(await portOf(program), 'client-1', shares * rounds)
  expect(payloads.length).toBe(shares * rounds)
  let wrong = 0
  for (const [index, payload] of payloads.entries())
    if (Number(payload) !== Math.floor(index / shares)) wrong++
  expect(wrong).toBe(0)
  program.signal('SIGTERM')
  expect((await program.ended).code).toBe(0)
})

test('a start on 800,000 entries in 1,000 Sessions succeeds, and a Session gets its own', async () => {
  const [sessions, shares, rounds] = [1000, 20_000, 40]
  const data = await storeWith((server) => fillShares(server, sessions, shares, rounds))
  const program = broker(data, HEAP_MIB)
  const port = await portOf(program)
  for (const id of [1, 500, 1000]) {
    const payloads = await drain(port, `client-${id}`, (shares / sessions) * rounds)
    const expected = Array.from({ length: payloads.length }, (_, index) =>
      Math.floor((index * sessions) / shares),
    )
    expect(payloads.map(Number)).toEqual(expected)
    expect(payloads.length).toBe((shares / sessions) * rounds)
  }
  program.signal('SIGTERM')
  expect((await program.ended).code).toBe(0)
})

test('a start on 200,000 messages in flight to 400 Sessions succeeds, and all are sent again', async () => {
  const [sessions, each] = [400, 500]
  const data = await storeWith(async (server) => {
    for (let id = 1; id <= sessions; id++) {
      server.createSession(id)
      for (let index = 0; index < each; index++) {
        server.enqueue(id, delivery(message('foo/x', String(index))))
        server.send(id)
      }
      await server.commit()
    }
  })
  const program = broker(data, HEAP_MIB)
  const port = await portOf(program)
  for (const id of [1, 200, 400]) {
    const payloads = await drain(port, `client-${id}`, each)
    expect(payloads.map(Number)).toEqual(Array.from({ length: each }, (_, index) => index))
  }
  program.signal('SIGTERM')
  expect((await program.ended).code).toBe(0)
})

test('very many groups on one filter: a small heap parks their messages, and starts again', async () => {
  const [shares, rounds] = [10_000, 60]
  const data = await temporaryDirectory()
  const words = ['--set', 'limits.profile=open', '--durability', 'os']
  const program = broker(data, HEAP_MIB, ...words)
  const port = await portOf(program)
  const subscribes: Buffer[] = []
  for (let from = 0; from < shares; from += 1000) {
    const filters = Array.from({ length: 1000 }, (_, index) => [
      field(`$share/${from + index}/foo/#`),
      Buffer.from([1]),
    ])
    subscribes.push(packet(0x82, Buffer.from([0, 1]), ...filters.flat()))
  }
  await exchange(port, [connectBytes(4, 0, 'client-1'), ...subscribes])
  const publishes = Array.from({ length: rounds }, (_, index) =>
    packet(0x32, field('foo/x'), Buffer.from([0, 1 + index]), Buffer.from(String(index).padStart(15, '0'))),
  )
  await exchange(port, [connectBytes(4, 2, 'publisher'), ...publishes])
  await program.kill()

  const again = broker(data, HEAP_MIB, ...words)
  const payloads = await drain(await portOf(again), 'client-1', shares * rounds)
  expect(payloads.length).toBe(shares * rounds)
  expect(payloads.every((payload, index) => Number(payload) === Math.floor(index / shares))).toBe(true)
})

/**
 * Sends packets, so many at a time, until one is refused by SUBACK or the end of the connection. Resolves
 * with the number of packets that were sent.
 */
function fill(
  port: number,
  clientId: string,
  packetOf: (n: number) => Buffer,
  atOnce: number,
): Promise<number> {
  return new Promise((resolve) => {
    let sent = 0
    let answered = 0
    let isFull = false
    let rest = Buffer.alloc(0)
    const socket = connect(port, '127.0.0.1', () => socket.write(connectBytes(4, 0, clientId)))
    const send = (): void => {
      const packets = Array.from({ length: atOnce }, (_, index) => packetOf(sent + index))
      sent += atOnce
      socket.write(Buffer.concat(packets))
    }
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk])
      // All answers here are shorter than 16,384 bytes.
      for (;;) {
        const isLong = rest.length > 1 && rest[1]! > 127
        const length = isLong ? (rest[1]! & 127) + 128 * (rest[2] ?? 0) + 3 : (rest[1] ?? 0) + 2
        if (rest.length < (isLong ? 3 : 2) || rest.length < length) break
        if (rest[0] !== 0x20) answered++
        if (rest[0] === 0x90 && rest[length - 1] === 0x80) isFull = true
        rest = rest.subarray(length)
      }
      if (isFull) socket.end(Buffer.from([0xe0, 0]))
      else if (answered === sent) send()
    })
    socket.on('close', () => resolve(sent))
    // What the broker has not read when it closes makes the kernel reset the connection.
    socket.on('error', () => {})
  })
}

/** The Return Codes of so many newcomers. */
async function newcomers(port: number, count: number): Promise<number[]> {
  const codes: number[] = []
  for (let n = 0; n < count; n++) {
    const code = new Promise<number>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(connectBytes(4, 2, `newcomer-${n}`)))
      socket.on('data', (chunk) => {
        resolve(chunk[3]!)
        socket.end(Buffer.from([0xe0, 0]))
      })
      socket.on('error', reject)
    })
    codes.push(await code)
  }
  return codes
}

const packetId = (n: number): Buffer => Buffer.from([n >>> 8, n & 255])

const FULL = {
  'retained messages': (port: number) =>
    fill(port, 'a', (n) => packet(0x33, field(`r/${n}`), packetId(1 + (n % 500)), Buffer.from('hello')), 500),
  Subscriptions: (port: number) => {
    const filters = (n: number): Buffer[] =>
      Array.from({ length: 1000 }, (_, index) =>
        Buffer.concat([field(`f/${1000 * n + index}`), Buffer.from([1])]),
      )
    return fill(port, 'a', (n) => packet(0x82, packetId(1 + n), ...filters(n)), 1)
  },
  'messages for clients that are away': async (port: number) => {
    for (let away = 0; away < 100; away++) {
      const subscribe = packet(0x82, packetId(1), field('q'), Buffer.from([1]))
      await exchange(port, [connectBytes(4, 0, `away-${away}`), subscribe])
    }
    // Their queues are capped: nothing is refused.
    let left = 15_000
    const each = (n: number): Buffer => packet(0x32, field('q'), packetId(1 + (n % 500)), Buffer.from('x'))
    return await fill(port, 'a', (n) => (--left > 0 ? each(n) : Buffer.from([0xe0, 0])), 500)
  },
}

test.each(Object.keys(FULL) as (keyof typeof FULL)[])(
  'a broker that is full of %s is killed, starts again in the same heap, and lets newcomers in',
  async (kind) => {
    const data = await temporaryDirectory()
    const words = ['--set', 'limits.profile=open', '--durability', 'os']
    const program = broker(data, HEAP_MIB, ...words)
    const port = await portOf(program)
    expect(await FULL[kind](port)).toBeGreaterThan(90)
    expect(await newcomers(port, 5)).toEqual([0, 0, 0, 0, 0])
    await program.kill()
    const again = broker(data, HEAP_MIB, ...words)
    expect(await newcomers(await portOf(again), 5)).toEqual([0, 0, 0, 0, 0])
    again.signal('SIGTERM')
    expect((await again.ended).code).toBe(0)
  },
)

test('a store that cannot fit into memory is refused with a reason, and nothing is changed', async () => {
  const data = await storeWith(async (server) => {
    server.createSession(1)
    for (let index = 0; index < 150_000; index++) {
      server.subscribe(1, `${index}/${'x'.repeat(40)}`, AT_LEAST_ONCE)
      if (index % 10_000 === 0) await server.commit()
    }
  })
  const { code, signal, stderr }: Ended = await broker(data, 40).ended
  expect([code, signal], stderr).toEqual([1, null])
  expect(stderr).toMatch(/does not fit into memory: 1 Sessions, \d+ Subscriptions and 0 retained messages/)
  expect(stderr).toContain('NODE_OPTIONS=--max-old-space-size=')
  const large = broker(data, 400)
  await portOf(large)
  large.signal('SIGTERM')
  expect((await large.ended).code).toBe(0)
})
