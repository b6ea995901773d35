/** A bridge of Debian's Mosquitto to Godwit, with its defaults, in both directions and all its versions. */
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import {
  BrokerProcess,
  cleanUp,
  freePort,
  MosquittoSub,
  mosquittoPub,
  output,
  Program,
  temporaryDirectory,
} from './process.ts'

const MOSQUITTO = existsSync('/usr/sbin/mosquitto') ? '/usr/sbin/mosquitto' : 'mosquitto'

const LONG = { timeout: 60_000 }

afterEach(cleanUp)

/** A Mosquitto with a bridge to Godwit. Its configuration names only what is not Mosquitto's default. */
class Bridge {
  readonly port: number
  readonly #file: string
  #program!: Program

  private constructor(port: number, file: string) {
    this.port = port
    this.#file = file
  }

  static async start(broker: BrokerProcess, lines: readonly string[]): Promise<Bridge> {
    const port = await freePort()
    const directory = await temporaryDirectory()
    const file = join(directory, 'mosquitto.conf')
    const all = [
      `listener ${port} 127.0.0.1`,
      'allow_anonymous true',
      'persistence true',
      `persistence_location ${directory}/`,
      'log_dest stdout',
      ...(process.getuid?.() === 0 ? ['user root'] : []),
      'connection b1',
      `address 127.0.0.1:${broker.port}`,
      // By default it waits for 5 to 30 s.
      'restart_timeout 1',
      ...lines,
    ]
    await writeFile(file, `${all.join('\n')}\n`)
    const bridge = new Bridge(port, file)
    await bridge.run()
    return bridge
  }

  /** Starts it, or starts it again; resolves when it answers. */
  async run(): Promise<void> {
    this.#program = new Program(MOSQUITTO, ['-c', this.#file])
    const answers = (): Promise<boolean> =>
      output('mosquitto_pub', '-h', '127.0.0.1', '-p', `${this.port}`, '-t', '$none', '-n').then(
        () => true,
        () => false,
      )
    await expect.poll(answers, LONG).toBe(true)
  }

  async stop(): Promise<void> {
    this.#program.signal('SIGTERM')
    await this.#program.ended
  }
}

/** Subscribes to everything, and to the states of bridges. */
function everything(port: number): Promise<MosquittoSub> {
  return MosquittoSub.start(port, ['-V', 'mqttv5', '--retain-as-published', '-q', '2', '-t', '#'])
}

/** Resolves when the bridge has told Godwit this state. */
async function state(broker: BrokerProcess, wanted: '0' | '1'): Promise<void> {
  const topic = '$SYS/broker/connection/+/state'
  const latest = async (): Promise<string | undefined> => {
    const words = ['-h', '127.0.0.1', '-p', `${broker.port}`, '-t', topic, '-C', '1', '-W', '1']
    return output('mosquitto_sub', ...words).then(
      (text) => text.trim(),
      () => undefined,
    )
  }
  await expect.poll(latest, LONG).toBe(wanted)
}

/** Resolves with the retained message of a topic; with null if none arrives within a second. */
async function retained(port: number, topic: string): Promise<string | null> {
  const words = ['-h', '127.0.0.1', '-p', `${port}`, '-t', topic, '-C', '1', '-W', '1', '--retained-only']
  return output('mosquitto_sub', ...words).then(
    (text) => text.trim(),
    () => null,
  )
}

const only = (sub: MosquittoSub, start: string): string[] =>
  sub.messages.filter((line) => line.startsWith(start))

describe.each([
  ['its default, 3.1.1', []],
  ['3.1', ['bridge_protocol_version mqttv31']],
  ['3.1.1 without the bridge bit', ['try_private false']],
  ['5.0', ['bridge_protocol_version mqttv50']],
] as const)('a bridge of Mosquitto, %s', (_name, lines) => {
  // Without it, Mosquitto cannot tell its own returning messages from those of others.
  const isPlain = lines.some((line) => line === 'try_private false')

  test('carries messages both ways at every QoS, each once, and tells its state [field-C13]', async () => {
    const broker = await BrokerProcess.start()
    const topics = isPlain ? ['topic out/# out 2', 'topic in/# in 2'] : ['topic # both 2']
    const bridge = await Bridge.start(broker, [...lines, ...topics])
    await state(broker, '1')
    const here = await everything(broker.port)
    const there = await everything(bridge.port)
    for (const qos of ['0', '1', '2']) {
      await mosquittoPub(broker.port, '-q', qos, '-t', `in/${qos}`, '-m', 'of Godwit')
      await mosquittoPub(bridge.port, '-q', qos, '-t', `out/${qos}`, '-m', 'of Mosquitto')
    }
    await mosquittoPub(broker.port, '-q', '1', '-r', '-t', 'in/kept', '-m', 'kept')
    await mosquittoPub(bridge.port, '-q', '1', '-r', '-t', 'out/kept', '-m', 'kept')
    const out = [0, 1, 2].map((qos) => `out/${qos} ${qos} 0 of Mosquitto`)
    const inward = [0, 1, 2].map((qos) => `in/${qos} ${qos} 0 of Godwit`)
    const flag = isPlain ? 0 : 1
    await expect.poll(() => only(here, 'out/').length, LONG).toBe(4)
    await expect.poll(() => only(there, 'in/').length, LONG).toBe(4)
    // A last message in each direction arrives after any that came back.
    await mosquittoPub(bridge.port, '-q', '1', '-t', 'out/end', '-m', 'x')
    await mosquittoPub(broker.port, '-q', '1', '-t', 'in/end', '-m', 'x')
    await expect.poll(() => only(here, 'out/').at(-1), LONG).toBe('out/end 1 0 x')
    await expect.poll(() => only(there, 'in/').at(-1), LONG).toBe('in/end 1 0 x')
    // Each of the four has five in the end, or more, which would be wrong.
    await expect.poll(() => only(here, 'in/').length, LONG).toBe(5)
    await expect.poll(() => only(there, 'out/').length, LONG).toBe(5)
    // Between topics there is no order.
    const sorted = (sub: MosquittoSub, start: string): string[] => only(sub, start).toSorted()
    expect(sorted(here, 'out/')).toEqual([...out, 'out/end 1 0 x', 'out/kept 1 1 kept'])
    expect(sorted(there, 'in/')).toEqual([...inward, 'in/end 1 0 x', `in/kept 1 ${flag} kept`])
    expect(sorted(here, 'in/')).toEqual([...inward, 'in/end 1 0 x', 'in/kept 1 1 kept'])
    expect(sorted(there, 'out/')).toEqual([...out, 'out/end 1 0 x', 'out/kept 1 1 kept'])
    expect(await retained(broker.port, 'out/kept')).toBe('kept')
    if (!isPlain) expect(await retained(bridge.port, 'in/kept')).toBe('kept')
    await bridge.stop()
    await state(broker, '0')
  })

  // Without the bit RETAIN is not passed on, so nothing is retained there.
  if (isPlain) return

  test('comes back after a restart of either side, and no message is lost or stale [field-C13]', async () => {
    const broker = await BrokerProcess.start()
    const bridge = await Bridge.start(broker, [...lines, 'topic out/# out 2', 'topic in/# in 2'])
    await state(broker, '1')
    await mosquittoPub(bridge.port, '-q', '1', '-r', '-t', 'out/kept', '-m', 'old')
    await mosquittoPub(broker.port, '-q', '1', '-r', '-t', 'in/kept', '-m', 'old')
    await expect.poll(() => retained(broker.port, 'out/kept'), LONG).toBe('old')
    await expect.poll(() => retained(bridge.port, 'in/kept'), LONG).toBe('old')

    await broker.crash()
    for (const qos of ['1', '2']) await mosquittoPub(bridge.port, '-q', qos, '-t', `out/${qos}`, '-m', 'x')
    await mosquittoPub(bridge.port, '-q', '1', '-r', '-t', 'out/kept', '-m', 'new')
    await broker.restart()
    const here = await everything(broker.port)
    const queued = (): string[] =>
      only(here, 'out/')
        .filter((line) => line.endsWith(' x'))
        .toSorted()
    await expect.poll(queued, LONG).toEqual(['out/1 1 0 x', 'out/2 2 0 x'])
    await expect.poll(() => retained(broker.port, 'out/kept'), LONG).toBe('new')
    await state(broker, '1')

    await bridge.stop()
    for (const qos of ['1', '2']) await mosquittoPub(broker.port, '-q', qos, '-t', `in/${qos}`, '-m', 'x')
    await mosquittoPub(broker.port, '-q', '1', '-r', '-t', 'in/kept', '-m', 'new')
    await bridge.run()
    const there = await everything(bridge.port)
    await state(broker, '1')
    await expect.poll(() => retained(bridge.port, 'in/kept'), LONG).toBe('new')
    await mosquittoPub(broker.port, '-q', '1', '-t', 'in/end', '-m', 'x')
    await expect.poll(() => only(there, 'in/end'), LONG).toEqual(['in/end 1 0 x'])
    for (const { port } of [broker, bridge]) {
      expect([await retained(port, 'out/kept'), await retained(port, 'in/kept')]).toEqual(['new', 'new'])
    }
  })
})

test('a bridge with a password works with the role that user add grants [field-C13]', async () => {
  const data = await temporaryDirectory()
  const passwords = join(data, 'password')
  await writeFile(passwords, 'secret\n')
  const main = join(import.meta.dirname, '..', '..', 'dist', 'main.js')
  await output(process.execPath, main, 'user', 'add', 'edge', '--password-file', passwords, '--data', data)
  const broker = await BrokerProcess.start({ data })
  const login = ['-u', 'edge', '-P', 'secret']
  const lines = ['remote_username edge', 'remote_password secret', 'topic # both 1']
  const bridge = await Bridge.start(broker, lines)
  const here = await MosquittoSub.start(broker.port, [...login, '-q', '1', '-t', '#'])
  const arrived = async (): Promise<number> => {
    await mosquittoPub(bridge.port, '-q', '1', '-t', 'a', '-m', 'x')
    return here.messages.length
  }
  await expect.poll(arrived, LONG).toBeGreaterThan(0)
})
