/**
 * A few clients make the broker hold most of its memory, and others pay nothing. Real processes and sockets.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { rmdir, writeFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type IClientOptions, MqttClient } from 'mqtt'
import { afterEach, expect, test } from 'vitest'
import { connect as connectBytes, field, packet, uint16 } from '../mqtt/packets.ts'
import { BrokerProcess, cleanUp, MAIN, output, temporaryDirectory } from './process.ts'

const MIB = 1024 * 1024
const sockets = new Set<Socket>()
let mounted: string[] = []

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  sockets.clear()
  await cleanUp()
  for (const directory of mounted) {
    execFileSync('umount', ['-l', directory])
    await rmdir(directory)
  }
  mounted = []
})

async function broker(limits: string, more: { data?: string; keys?: string } = {}): Promise<BrokerProcess> {
  const file = join(await temporaryDirectory(), 'godwit.yaml')
  await writeFile(file, `limits: {profile: open, ${limits}}\n${more.keys ?? ''}`)
  return BrokerProcess.start({
    words: ['--config', file],
    ...(more.data !== undefined && { data: more.data }),
  })
}

/** A connection that sends these bytes first. Errors are the broker's way to say no. */
function raw(port: number, bytes: Buffer, localAddress = '127.0.0.1'): Socket {
  const socket = connect({ port, host: '127.0.0.1', localAddress })
  sockets.add(socket)
  socket.on('error', () => {})
  socket.on('close', () => sockets.delete(socket))
  socket.resume()
  socket.write(bytes)
  return socket
}

/** A client of 3.1.1 with a clean Session and a Subscription, which acknowledges nothing. */
function silent(port: number, name: string, filter: string, qos: number): Promise<Socket> {
  const socket = raw(port, Buffer.concat([connectBytes(4, 2, name), packet(0x82, uint16(1), filter, qos)]))
  return new Promise((resolve) => {
    let received = 0
    socket.on('data', (chunk) => {
      received += chunk.length
      // CONNACK and SUBACK.
      if (received >= 9) resolve(socket)
    })
  })
}

/** A client of MQTT.js that comes from this address. Rejects when it is not let in. */
function mqtt(port: number, options: IClientOptions, localAddress = '127.0.0.1'): Promise<MqttClient> {
  const client = new MqttClient(() => connect({ port, host: '127.0.0.1', localAddress }), {
    protocolVersion: 5,
    clean: true,
    reconnectPeriod: 0,
    ...options,
  })
  return new Promise((resolve, reject) => {
    client.once('connect', () => resolve(client))
    client.once('error', reject)
    client.once('close', () => reject(new Error('the connection was closed')))
  })
}

let newcomers = 0

/** A client that nobody knows comes in, keeps a message and gets it. */
async function expectService(port: number, localAddress = '127.0.0.1'): Promise<void> {
  const clientId = `newcomer${newcomers++}`
  const client = await mqtt(port, { clientId }, localAddress)
  const got = new Promise<string>((resolve) =>
    client.on('message', (_topic, payload) => resolve(`${payload}`)),
  )
  await client.subscribeAsync(`${clientId}/#`, { qos: 1 })
  await client.publishAsync(`${clientId}/t`, 'here', { qos: 1 })
  expect(await got).toBe('here')
  await client.endAsync()
}

function publisher(port: number, localAddress = '127.0.0.1'): Promise<MqttClient> {
  return mqtt(port, { clientId: `pub ${localAddress}` }, localAddress)
}

interface Status {
  readonly health: { readonly state: string; readonly detail: string }
  readonly residentBytes: number
  readonly counted: {
    readonly connectionsRefused: number
    readonly limited: Record<string, number>
    readonly relief: Record<string, number>
    readonly dropped: Record<string, number>
  }
  readonly held: { readonly memoryBytes: number }
}

async function status({ data }: BrokerProcess): Promise<Status> {
  return JSON.parse(await output(process.execPath, MAIN, 'status', '--json', '--data', data))
}

/** Waits until that many of the sockets are closed by the broker, or fails with the test. */
async function untilClosed(all: readonly Socket[], count: number): Promise<void> {
  await expect.poll(() => all.filter(({ destroyed }) => destroyed).length).toBeGreaterThanOrEqual(count)
}

test('five clean Sessions that acknowledge nothing of 100 MB: others are refused nothing', async () => {
  const server = await broker('memory_bytes_max: 48MiB')
  for (let number = 0; number < 5; number++) await silent(server.port, `silent${number}`, 'load', 1)
  const pub = await publisher(server.port)
  const payload = Buffer.alloc(256 * 1024)
  for (let number = 0; number < 400; number++) {
    await pub.publishAsync('load', payload, { qos: 1 })
    if (number % 50 === 49) await expectService(server.port)
  }
  const { counted, residentBytes } = await status(server)
  expect(counted.connectionsRefused).toBe(0)
  expect(Object.values(counted.relief).some((count) => count > 0)).toBe(true)
  expect(residentBytes).toBeLessThan(350 * MIB)
  await pub.endAsync()
})

test('ten subscribers that read nothing: newcomers get in, and the subscribers pay', async () => {
  const server = await broker('memory_bytes_max: 24MiB')
  const readers: Socket[] = []
  for (let number = 0; number < 10; number++) {
    const reader = await silent(server.port, `reader${number}`, 'load', 0)
    reader.removeAllListeners('data')
    reader.pause()
    readers.push(reader)
  }
  const pub = await publisher(server.port)
  const payload = Buffer.alloc(64 * 1024)
  for (let number = 0; number < 400; number++) {
    await pub.publishAsync('load', payload, { qos: 0 })
    await pub.publishAsync('nowhere', 'x', { qos: 1 })
    if (number % 100 === 99) await expectService(server.port)
  }
  await expect.poll(async () => (await status(server)).counted.relief.disconnected ?? 0).toBeGreaterThan(0)
  await expectService(server.port)
  expect((await status(server)).counted.connectionsRefused).toBe(0)
  await pub.endAsync()
})

test('2,000 strangers with 63 KB each: log-ins from the same address still get through', async () => {
  const server = await broker('memory_bytes_max: 64MiB')
  const begun = Buffer.concat([Buffer.from([0x10, 0xfb, 0xff, 0x3f]), Buffer.alloc(63_000)])
  const strangers: Socket[] = []
  for (let number = 0; number < 2000; number++) {
    strangers.push(raw(server.port, begun))
    if (number % 400 === 399) await expectService(server.port)
  }
  await untilClosed(strangers, 1900)
  await expectService(server.port)
  const { counted, residentBytes } = await status(server)
  expect(counted.connectionsRefused).toBe(0)
  expect(counted.limited.memoryStrangersPercent).toBeGreaterThan(1900)
  expect(residentBytes).toBeLessThan(350 * MIB)
})

test('200 half-sent PUBLISH of 24 MB: memory is bounded, the largest are cut off', async () => {
  const server = await broker('memory_bytes_max: 128MiB')
  const begun = Buffer.concat([
    connectBytes(4, 2, 'x').subarray(0, 0),
    Buffer.from([0x30, 0x80, 0xd8, 0xb8, 0x0b]),
  ])
  const body = Buffer.concat([field('t'), Buffer.alloc(2 * MIB)])
  const senders: Socket[] = []
  for (let number = 0; number < 200; number++) {
    senders.push(raw(server.port, Buffer.concat([connectBytes(4, 2, `half${number}`), begun, body])))
    if (number % 50 === 49) await expectService(server.port)
  }
  await untilClosed(senders, 150)
  const { counted, residentBytes, held } = await status(server)
  expect(counted.limited.memoryIncompletePercent).toBeGreaterThan(100)
  expect(held.memoryBytes).toBeLessThan(128 * MIB)
  expect(residentBytes).toBeLessThan(500 * MIB)
  await expectService(server.port)
})

function mayMount(): boolean {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', directory], { stdio: 'ignore' })
    writeFileSync(join(directory, 'file'), Buffer.alloc(MIB / 2))
    execFileSync('umount', [directory], { stdio: 'ignore' })
    return true
  } catch {
    return false
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

test.runIf(mayMount())(
  'one user fills a disk of 400 MB with queues that never expire: others go on, also over a restart',
  async () => {
    const disk = mkdtempSync(join(tmpdir(), 'godwit-disk-'))
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=400m', 'none', disk])
    mounted.push(disk)
    const data = join(disk, 'data')
    mkdirSync(data)
    const server = await broker('memory_bytes_max: 256MiB, when_exhausted: refuse', {
      data,
      keys: 'data: {reserve_bytes: 32MiB}\n',
    })
    const greedy = '127.0.0.2'
    for (let number = 0; number < 4; number++) {
      const clientId = `hoard${number}`
      const stored = { clean: false, properties: { sessionExpiryInterval: 0xffffffff } }
      const hoard = await mqtt(server.port, { clientId, ...stored }, greedy)
      await hoard.subscribeAsync(`${clientId}/#`, { qos: 1 })
      await hoard.endAsync()
    }
    const pub = await publisher(server.port, greedy)
    pub.on('error', () => {})
    const payload = randomBytes(128 * 1024) // LevelDB compresses others
    let taken = 0
    const untilRefused = async () => {
      let refusal: unknown = null
      while (refusal === null && taken < 4000) {
        await pub.publishAsync(`hoard${taken % 4}/t`, payload, { qos: 1 }).then(
          () => taken++,
          (error: unknown) => {
            refusal = error
          },
        )
        if (taken % 300 === 299) await expectService(server.port)
      }
      expect(taken).toBeLessThan(4000)
    }
    await untilRefused()
    let { health, counted } = await status(server)
    // A compaction may have made room since the refusal, which may have been that of a full disk.
    while (health.state === 'ok' || counted.relief['publish-refused'] === undefined) {
      await untilRefused()
      ;({ health, counted } = await status(server))
    }
    expect(health.state).toBe('pressed')
    expect(health.detail).toContain(`(anonymous at ${greedy})`)
    expect(counted.relief['publish-refused']).toBeGreaterThan(0)
    for (let number = 0; number < 20; number++) await expectService(server.port)
    await server.crash()
    await server.restart()
    await expectService(server.port)
    expect(readFileSync('/proc/mounts', 'utf8')).toContain(disk)
  },
)
