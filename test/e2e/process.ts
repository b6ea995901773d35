/** The real processes: the broker as it is built, and the programs that talk to it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Another build can be named, so that one can be tested while `dist` is in use. */
export const MAIN = process.env.TEST_GODWIT_MAIN ?? join(ROOT, 'dist', 'main.js')

export const CERTIFICATES = join(ROOT, 'test', 'fixtures', 'tls')

/** Debian's own Python, for which python3-paho-mqtt is installed. */
export const PYTHON = '/usr/bin/python3'

const running = new Set<Program>()
const directories = new Set<string>()

/** A directory that `cleanUp` removes. */
export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-e2e-'))
  directories.add(directory)
  return directory
}

/** Ends every program that a test left running and removes its directories: for `afterEach`. */
export async function cleanUp(): Promise<void> {
  await Promise.all([...running].map((program) => program.kill()))
  await Promise.all([...directories].map((directory) => rm(directory, { recursive: true, force: true })))
  directories.clear()
}

export interface Ended {
  /** Null when a signal ended it. */
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** A program under way: its output as it comes, and its end. */
export class Program {
  readonly name: string
  /** Never rejects but when the program cannot be started. */
  readonly ended: Promise<Ended>
  readonly #child: ChildProcess
  #stdout = ''
  #stderr = ''
  #isOver = false
  #watchers = new Set<() => void>()

  constructor(name: string, args: readonly string[], directory?: string) {
    this.name = name
    this.#child = spawn(name, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(directory !== undefined && { cwd: directory }),
    })
    running.add(this)
    this.#child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.#stdout += text
      this.#look()
    })
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
      this.#look()
    })
    this.ended = new Promise((resolve, reject) => {
      this.#child.on('error', reject)
      this.#child.on('close', (code, signal) => {
        this.#isOver = true
        running.delete(this)
        this.#look()
        resolve({ code, signal, stdout: this.#stdout, stderr: this.#stderr })
      })
    })
  }

  get pid(): number {
    return this.#child.pid!
  }

  get stdout(): string {
    return this.#stdout
  }

  get stderr(): string {
    return this.#stderr
  }

  /** Resolves when its output on stdout fits; rejects when it ends before. */
  async until(fits: (stdout: string) => boolean): Promise<void> {
    while (!fits(this.#stdout)) {
      if (this.#isOver) {
        throw new Error(`${this.name} ended too early.\nstdout: ${this.#stdout}\nstderr: ${this.#stderr}`)
      }
      await new Promise<void>((resolve) => this.#watchers.add(resolve))
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<Ended> {
    this.signal('SIGKILL')
    return this.ended
  }

  #look(): void {
    const watchers = [...this.#watchers]
    this.#watchers.clear()
    for (const watcher of watchers) watcher()
  }
}

/** Runs a program to its end. Throws with its output unless it ends with 0. */
export async function output(name: string, ...args: string[]): Promise<string> {
  const { code, signal, stdout, stderr } = await new Program(name, args).ended
  if (code !== 0) throw new Error(`${name} ${args.join(' ')}: ${code ?? signal}\n${stdout}\n${stderr}`)
  return stdout
}

export interface BrokerOptions {
  /** A new directory when absent. */
  readonly data?: string
  /** Further words of the command line. */
  readonly words?: readonly string[]
  /** Flags of Node, before the program. */
  readonly nodeFlags?: readonly string[]
  /** With a WebSocket listener, too. */
  readonly webSocket?: boolean
}

/** `godwit` as a process of its own, on free ports of 127.0.0.1. */
export class BrokerProcess {
  readonly data: string
  /** Where it listens for TCP. The same after a restart. */
  port = 0
  /** Where it listens for WebSocket; 0 for nowhere. */
  webSocketPort = 0
  readonly #options: BrokerOptions
  #program!: Program

  private constructor(data: string, options: BrokerOptions) {
    this.data = data
    this.#options = options
  }

  /** Resolves when it listens. */
  static async start(options: BrokerOptions = {}): Promise<BrokerProcess> {
    if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: npm run build`)
    const broker = new BrokerProcess(options.data ?? (await temporaryDirectory()), options)
    await broker.#run()
    return broker
  }

  get program(): Program {
    return this.#program
  }

  /** SIGKILL, as a power cut would end it; resolves when it is gone. */
  async crash(): Promise<void> {
    await this.#program.kill()
  }

  /** SIGTERM; resolves with how it ended. */
  stop(): Promise<Ended> {
    this.#program.signal('SIGTERM')
    return this.#program.ended
  }

  /** Starts it again, on the same data and ports. */
  restart(): Promise<void> {
    return this.#run()
  }

  async #run(): Promise<void> {
    const { words = [], nodeFlags = [], webSocket = false } = this.#options
    const ports = ['--port', `${this.port}`, ...(webSocket ? ['--ws-port', `${this.webSocketPort}`] : [])]
    const all = [...nodeFlags, MAIN, ...ports, '--data', this.data, ...words]
    const program = new Program(process.execPath, all)
    this.#program = program
    await program.until((stdout) => /^godwit try:/m.test(stdout))
    const [, port] = /listening on mqtt:\/\/[^\s]+:(\d+)$/m.exec(program.stdout)!
    this.port = Number(port)
    this.webSocketPort = Number(/listening on ws:\/\/[^\s]+:(\d+)\//.exec(program.stdout)?.[1] ?? 0)
  }
}

/** Ports below the range from which systems choose when they are asked for any. */
const PORTS = { from: 20_000, count: 12_000 }

/**
 * Resolves with a port for a program that cannot choose one itself. Nobody who asks for any port gets it
 * before that program opens it.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = PORTS.from + Math.floor(Math.random() * PORTS.count)
    const isFree = await new Promise<boolean>((resolve) => {
      const server = createServer()
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
    })
    if (isFree) return port
  }
}

/** `mosquitto_sub`, which tells when its subscriptions are granted. Messages are lines after `> `. */
export class MosquittoSub {
  readonly #program: Program

  private constructor(program: Program) {
    this.#program = program
  }

  /** Resolves when the SUBACK came. `args` as for mosquitto_sub; messages are shown as `format` says. */
  static async start(port: number, args: readonly string[], format = '%t %q %r %p'): Promise<MosquittoSub> {
    // Its output goes to a pipe, which it would fill before it writes.
    const words = [
      '-oL',
      'mosquitto_sub',
      '-d',
      '-h',
      '127.0.0.1',
      '-p',
      `${port}`,
      '-F',
      `> ${format}`,
      ...args,
    ]
    const sub = new MosquittoSub(new Program('stdbuf', words))
    await sub.#program.until((stdout) => stdout.includes('Subscribed (mid'))
    return sub
  }

  get messages(): string[] {
    return this.#program.stdout
      .split('\n')
      .filter((line) => line.startsWith('> '))
      .map((line) => line.slice(2))
  }

  /** Resolves with the messages when there are so many; without `-C` there may come more. */
  async received(count: number): Promise<string[]> {
    await this.#program.until(() => this.messages.length >= count)
    return this.messages
  }

  /** Vanishes without DISCONNECT. */
  async vanish(): Promise<void> {
    await this.#program.kill()
  }

  /** Leaves with DISCONNECT. */
  async leave(): Promise<void> {
    this.#program.signal('SIGINT')
    await this.#program.ended
  }

  get ended(): Promise<Ended> {
    return this.#program.ended
  }
}

/** `mosquitto_pub`, to its end: a QoS 1 or 2 message is acknowledged then. */
export function mosquittoPub(port: number, ...args: string[]): Promise<string> {
  return output('mosquitto_pub', '-h', '127.0.0.1', '-p', `${port}`, ...args)
}
