/** Wall clocks that are wrong for a while, and real processes that are killed. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connect, type IConnackPacket, type MqttClient } from 'mqtt'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { cleanUp, MAIN, Program, temporaryDirectory } from './process.ts'

const SHIFTED = fileURLToPath(new URL('shifted-clock.mjs', import.meta.url))
const DAY_MS = 86_400_000

let data: string
let clockFile: string
let port: number
let broker: Program

beforeEach(async () => {
  data = await temporaryDirectory()
  clockFile = join(await temporaryDirectory(), 'clock.json')
})

afterEach(cleanUp)

/** The wall clock of the machine shows so much more than it should, and this is its start. */
function setClock(wallMs: number, boot: 'a' | 'b'): void {
  writeFileSync(clockFile, JSON.stringify({ wallMs, boot }))
}

async function start(...words: string[]): Promise<void> {
  process.env.TEST_CLOCK_FILE = clockFile
  broker = new Program(process.execPath, ['--import', SHIFTED, MAIN, '--port', '0', '--data', data, ...words])
  delete process.env.TEST_CLOCK_FILE
  await broker.until((stdout) => /^godwit try:/m.test(stdout))
  port = Number(/listening on mqtt:\/\/[^\s]+:(\d+)$/m.exec(broker.stdout)![1])
}

interface Client {
  readonly client: MqttClient
  readonly texts: string[]
  readonly isPresent: boolean
  /** Resolves when so many messages came. */
  until(count: number): Promise<void>
}

/** A client that is connected; it gets what its Session holds without asking. */
async function join5(clientId: string, properties = {}): Promise<Client> {
  const client = connect(`mqtt://127.0.0.1:${port}`, {
    ...{ clientId, clean: clientId !== 'sub', protocolVersion: 5, reconnectPeriod: 0, properties },
  })
  const texts: string[] = []
  let watchers: (() => void)[] = []
  client.on('message', (_topic, payload) => {
    texts.push(payload.toString())
    for (const watcher of watchers) watcher()
    watchers = []
  })
  const connack = await new Promise<IConnackPacket>((resolve) => client.once('connect', resolve))
  const until = async (count: number): Promise<void> => {
    while (texts.length < count) await new Promise<void>((resolve) => watchers.push(resolve))
  }
  return { client, texts, isPresent: connack.sessionPresent, until }
}

function subscriber(): Promise<Client> {
  return join5('sub', { sessionExpiryInterval: 3600 })
}

/** A Session with two messages, and a retained message; all of it expires in an hour. */
async function fill(): Promise<void> {
  const sub = await subscriber()
  await sub.client.subscribeAsync('t', { qos: 1 })
  await sub.client.endAsync()
  const pub = await join5('pub')
  const properties = { messageExpiryInterval: 3600 }
  await pub.client.publishAsync('t', 'one', { qos: 1, properties })
  await pub.client.publishAsync('t', 'two', { qos: 1, properties })
  await pub.client.publishAsync('r', 'kept', { qos: 1, retain: true, properties })
  await pub.client.endAsync()
}

/** Resolves with the retained messages that a new subscriber finds. */
async function retained(): Promise<string[]> {
  const late = await join5('late')
  await late.client.subscribeAsync('r', { qos: 1 })
  await late.client.subscribeAsync('end', { qos: 1 })
  // It arrives after the retained messages.
  await late.client.publishAsync('end', 'end', { qos: 1 })
  await late.until(1)
  while (late.texts.at(-1) !== 'end') await late.until(late.texts.length + 1)
  await late.client.endAsync()
  return late.texts.slice(0, -1)
}

describe('a wrong wall clock', () => {
  test('in 1970 at first, then set, and SIGKILL: nothing has expired [field-A3]', async () => {
    setClock(5000 - Date.now(), 'a')
    await start()
    await fill()
    setClock(0, 'a')
    await broker.kill()
    await start()
    const sub = await subscriber()
    expect(sub.isPresent).toBe(true)
    await sub.until(2)
    expect(sub.texts).toEqual(['one', 'two'])
    expect(await retained()).toEqual(['kept'])
    await sub.client.endAsync()
  })

  test('set by two days while the broker runs is recorded at once, for a power cut [field-A3]', async () => {
    setClock(-2 * DAY_MS, 'a')
    await start()
    await fill()
    setClock(0, 'a')
    await broker.until((stdout) => stdout.includes('the wall clock was set'))
    // The line is written when the commit is under way.
    const { client } = await join5('last', { sessionExpiryInterval: 60 })
    await client.endAsync()
    await broker.kill()
    setClock(0, 'b')
    await start()
    const sub = await subscriber()
    await sub.until(2)
    expect(sub.texts).toEqual(['one', 'two'])
    await sub.client.endAsync()
  })

  test('two days ahead after a power cut, then set back: messages wait until then [field-A3]', async () => {
    setClock(0, 'a')
    await start()
    await fill()
    await broker.kill()
    setClock(2 * DAY_MS, 'b')
    await start()
    const sub = await subscriber()
    expect(sub.isPresent).toBe(true)
    expect(await retained()).toEqual([])
    expect(sub.texts).toEqual([])
    setClock(0, 'b')
    await sub.until(2)
    expect(sub.texts).toEqual(['one', 'two'])
    expect(await retained()).toEqual(['kept'])
    await sub.client.endAsync()
  })

  test(
    'that is right after two days without power: expired messages are deleted after the grace ' +
      '[field-A3]',
    async () => {
      setClock(0, 'a')
      await start()
      await fill()
      await broker.kill()
      setClock(2 * DAY_MS, 'b')
      await start('--set', 'limits.clock_grace_seconds=1')
      const sub = await subscriber()
      // It is in the queue after those that expired, and is sent once they are deleted.
      const pub = await join5('pub')
      await pub.client.publishAsync('t', 'new', { qos: 1 })
      await sub.until(1)
      expect(sub.texts).toEqual(['new'])
      expect(await retained()).toEqual([])
      for (const { client } of [sub, pub]) await client.endAsync()
    },
  )
})
