/** The log of a real broker under strangers who make noise, and with a reader that stops. */
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { connect } from 'node:net'
import type { Readable } from 'node:stream'
import { afterEach, expect, test } from 'vitest'
import { connect as connectBytes } from '../mqtt/packets.ts'
import { BrokerProcess, cleanUp, MAIN, output, temporaryDirectory } from './process.ts'

const LONG = { timeout: 60_000 }

afterEach(cleanUp)

interface Line {
  readonly msg: string
  readonly userName?: string
  readonly remoteAddress?: string
  readonly count?: number
  readonly security?: string
}

/** Connects, sends these bytes and resolves with the CONNACK's last byte; leaves without a word. */
function knock(port: number, bytes: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes))
    socket.once('data', (chunk) => {
      resolve(chunk[3]!)
      socket.destroy()
    })
    socket.once('error', reject)
  })
}

const lines = (stdout: string): Line[] =>
  stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line)

test('30 guesses at admin after 1,100 anonymous refusals leave lines for both [field-D24]', async () => {
  const data = await temporaryDirectory()
  await output(process.execPath, MAIN, 'user', 'add', 'admin', '--generate', '--data', data)
  const words = ['--set', 'allow_anonymous=false', '--set', 'log.repeat_seconds=1']
  const broker = await BrokerProcess.start({ data, words })
  for (let round = 0; round < 1100; round++) {
    expect(await knock(broker.port, connectBytes(4, 2, `noise-${round}`))).toBe(5)
    if (round % 37 !== 0) continue
    const guess = connectBytes(4, 0xc2, `guess-${round}`, 'admin', `password-${round}`)
    // 4: a wrong password; 3: too many were wrong, and this one was not looked at.
    expect(await knock(broker.port, guess)).toBeOneOf([4, 3])
  }
  const { stdout } = await broker.stop()
  const refused = lines(stdout).filter(({ msg }) => msg.startsWith('client refused'))
  const ofAdmin = refused.filter(({ userName }) => userName === 'admin')
  expect(ofAdmin.reduce((sum, { count = 1 }) => sum + count, 0)).toBe(30)
  for (const { remoteAddress, security } of ofAdmin) {
    expect([remoteAddress, security]).toEqual(['127.0.0.1', 'S102'])
  }
  expect(refused.reduce((sum, { count = 1 }) => sum + count, 0)).toBe(1130)
  expect(stdout).not.toContain('password-')
})

test('the broker serves on if the reader of stdout stops, and tells what was lost [field-D24]', async () => {
  const words = [
    ...['start', '--port', '0', '--data', await temporaryDirectory(), '--durability', 'memory'],
    ...['--set', 'log.lines_per_second_max=unlimited', '--set', 'log.waiting_bytes_max=64KiB'],
  ]
  const program: ChildProcessByStdio<null, Readable, null> = spawn(process.execPath, [MAIN, ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    let stdout = ''
    program.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    await expect.poll(() => /listening on mqtt:\S+:(\d+)/.exec(stdout)?.[1], LONG).toBeDefined()
    const port = Number(/listening on mqtt:\S+:(\d+)/.exec(stdout)![1])
    program.stdout.pause()
    // More lines than the pipe, this process's buffer and the broker's hold together.
    const clients = 3000
    for (let client = 0; client < clients; client++) {
      expect(await knock(port, connectBytes(4, 2, `client-${client}-${'x'.repeat(100)}`))).toBe(0)
    }
    program.stdout.resume()
    const lost = (): Line | undefined => lines(stdout).find(({ msg }) => msg.includes('were lost'))
    await expect.poll(lost, LONG).toBeDefined()
    expect(lost()!.count).toBeGreaterThan(0)
    expect(await knock(port, connectBytes(4, 2, 'after'))).toBe(0)
    await expect.poll(() => stdout.includes('"clientId":"after"'), LONG).toBe(true)
    // Each came and left; what is not there was counted.
    const seen = (): number => lines(stdout).filter(({ msg }) => msg.startsWith('client ')).length
    await expect.poll(() => seen() + lost()!.count!, LONG).toBe(2 * (clients + 1))
  } finally {
    program.kill('SIGKILL')
  }
})
