/**
 * A real process, really killed: everything it reported as durable must be there, in order, and nothing
 * twice.
 */
import { execFile, spawn } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { ModelServer, Random } from './model.ts'

const ROOT = join(import.meta.dirname, '../..')
/** A directory below node_modules, so that the compiled child finds its packages. */
const COMPILED = join(ROOT, 'node_modules/.cache', `godwit-kill-${process.pid}`)
const CHILD = join(COMPILED, 'test/store/kill-child.js')
const KILLS = 6

// Node 20 does not run TypeScript, so the child is compiled first.
beforeAll(async () => {
  await mkdir(COMPILED, { recursive: true })
  const config = {
    extends: join(ROOT, 'tsconfig.json'),
    compilerOptions: { noEmit: false, noCheck: true, declaration: false, rootDir: ROOT, outDir: COMPILED },
    include: [join(import.meta.dirname, 'kill-child.ts')],
  }
  await writeFile(join(COMPILED, 'tsconfig.json'), JSON.stringify(config))
  await writeFile(join(COMPILED, 'package.json'), '{"type":"module"}')
  await promisify(execFile)(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', COMPILED])
})

afterAll(() => rm(COMPILED, { recursive: true, force: true }))

/** Runs the child until it has acknowledged `lines` more commits, and kills it. Returns its last number. */
async function runAndKill(directory: string, lines: number): Promise<number> {
  const child = spawn(process.execPath, [CHILD, directory], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  let errors = ''
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString()
  })
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString()
    if (output.split('\n').length > lines) child.kill('SIGKILL')
  })
  const signal = await new Promise((resolve) => child.on('close', (_code, killedBy) => resolve(killedBy)))
  expect(signal, errors).toBe('SIGKILL')
  const whole = output.slice(0, output.lastIndexOf('\n')).split('\n')
  return Number(whole.at(-1))
}

test('after SIGKILL everything acknowledged is there, in order', async () => {
  const seed = Math.floor(Math.random() * 0x7fffffff)
  const random = new Random(seed)
  const directory = await mkdtemp(join(tmpdir(), 'godwit-kill-'))
  try {
    for (let kill = 0; kill < KILLS; kill++) {
      const acknowledged = await runAndKill(directory, 1 + random.below(120))
      const store = new LevelStore({ directory, sync: true, residentBytesMax: 1_000_000, reserveBytes: 0 })
      const server = new ModelServer(store)
      server.remember = false
      await server.open()
      await server.restoreAll()
      const payloads = server
        .session(1)
        .queue.map((entry) => Number.parseInt(entry.message.payload.toString(), 10))
      expect(payloads, `seed ${seed}, kill ${kill}`).toEqual(payloads.map((_, index) => index + 1))
      expect(payloads.length).toBeGreaterThanOrEqual(acknowledged)
      await store.close()
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
