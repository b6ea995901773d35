/** The real process with few file descriptors: strangers take all that they get, and the store goes on. */
import { readdirSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { afterEach, expect, test } from 'vitest'
import { CERTIFICATES, cleanUp, MAIN, output, Program, temporaryDirectory } from '../e2e/process.ts'

const OPEN_FILES_MAX = 300
const MESSAGES = 640
const PAYLOAD_BYTES = 64 * 1024
/** Messages under way at a time. */
const WINDOW = 16

/** As far as a stranger gets without being a client: some bytes of a handshake, or none. */
const BEGINNINGS = {
  mqtt: '',
  mqtts: Buffer.from('16030102000100', 'hex'),
  ws: 'GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\n',
}

const strangers = new Set<Socket>()

afterEach(async () => {
  for (const socket of strangers) socket.destroy()
  strangers.clear()
  await cleanUp()
})

async function started(directory: string, openFiles: string): Promise<{ program: Program; urls: string[] }> {
  const config = join(directory, 'godwit.yaml')
  const tls = { cert: join(CERTIFICATES, 'server.pem'), key: join(CERTIFICATES, 'server-key.pem') }
  writeFileSync(
    config,
    JSON.stringify({
      data: { directory: join(directory, 'data') },
      listeners: [
        { name: 'tcp', type: 'tcp', port: 0 },
        { name: 'tls', type: 'tls', port: 0, tls },
        { name: 'ws', type: 'ws', port: 0 },
      ],
      limits: { connect_timeout_seconds: 600 },
    }),
  )
  const line = `ulimit -n ${openFiles}; exec "$0" "$1" --config "$2"`
  const program = new Program('sh', ['-c', line, process.execPath, MAIN, config])
  await program.until((stdout) => /^godwit try:/m.test(stdout))
  return { program, urls: [...program.stdout.matchAll(/listening on (\S+)$/gm)].map(([, url]) => url!) }
}

/** Three hundred strangers, evenly to each listener, and no word from them afterwards. */
function crowd(urls: readonly string[]): void {
  for (let count = 0; count < 100; count++) {
    for (const url of urls) {
      const { protocol, port } = new URL(url)
      const socket = connect(Number(port), '127.0.0.1')
      strangers.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => strangers.delete(socket))
      socket.write(BEGINNINGS[protocol.slice(0, -1) as keyof typeof BEGINNINGS])
    }
  }
}

/** The numbers of the store's logs: each time it begins another it takes a higher one. */
function logNumber(directory: string): number {
  const logs = readdirSync(join(directory, 'data')).filter((name) => /^\d+\.log$/.test(name))
  return Math.max(...logs.map((name) => Number.parseInt(name, 10)))
}

function payload(number: number): Buffer {
  const bytes = Buffer.alloc(PAYLOAD_BYTES, number % 256)
  bytes.writeUInt32BE(number)
  return bytes
}

test('strangers who take every file descriptor they get do not end the broker', async () => {
  const directory = await temporaryDirectory()
  const { program, urls } = await started(directory, `${OPEN_FILES_MAX}`)
  expect(program.stdout).toMatch(/^godwit note: the limit of open files, 300, allows 172 connections/m)
  const end = program.ended.then(({ code, stdout, stderr }) => {
    throw new Error(`the broker ended with ${code}\n${stdout}\n${stderr}`)
  })
  end.catch(() => {})
  const client = await connectAsync(urls[0]!, { reconnectPeriod: 0, protocolVersion: 5, clientId: 'in' })
  const before = logNumber(directory)
  crowd(urls)
  const room = OPEN_FILES_MAX - 128 - 1
  await Promise.race([end, expect.poll(() => strangers.size).toBe(room)])
  const acknowledged: number[] = []
  const publishing = Array.from({ length: WINDOW }, async (_, first) => {
    for (let number = first; number < MESSAGES; number += WINDOW) {
      await client.publishAsync(`kept/${number}`, payload(number), { qos: 1, retain: true })
      acknowledged.push(number)
      if (acknowledged.length === MESSAGES / 2) crowd(urls)
    }
  })
  await Promise.race([end, Promise.all(publishing)])
  expect(logNumber(directory) - before).toBeGreaterThan(3)
  await Promise.race([end, expect.poll(() => strangers.size).toBe(room)])
  const told = JSON.parse(
    await output(process.execPath, MAIN, 'status', '--json', '--data', join(directory, 'data')),
  )
  expect(told).toMatchObject({
    health: { state: 'ok' },
    openFiles: { openFilesMax: OPEN_FILES_MAX, connectionsMax: room + 1, sockets: room + 1 },
    counted: { limited: { connectionsMax: 600 - room } },
  })
  expect(await output(process.execPath, MAIN, 'status', '--data', join(directory, 'data'))).toMatch(
    /^connections +172 open, at most 172 \(limit of open files: 300\)$/m,
  )
  expect(program.stdout).toMatch(/"limit":"connectionsMax".*limit of open files, 300, allows 172 connections/)
  await program.kill()

  const again = await started(directory, '$(ulimit -Hn)')
  const reader = await connectAsync(again.urls[0]!, { reconnectPeriod: 0, protocolVersion: 5 })
  const found = new Set<number>()
  reader.on('message', (_topic, bytes) => {
    const number = bytes.readUInt32BE()
    if (bytes.equals(payload(number))) found.add(number)
  })
  await reader.subscribeAsync('kept/#', { qos: 1 })
  await expect.poll(() => found.size).toBe(acknowledged.length)
  expect(acknowledged).toHaveLength(MESSAGES)
  await reader.endAsync()
})
