/**
 * Fuzzes the broker for some minutes: `npm run fuzz -- --minutes 10 --seed 7 --only codec,session`. Compiles
 * src and test/fuzz beside each other, and runs the targets in a thread that this one watches. Prints a table
 * of the inputs of each target and a line that sums them up. If something was found, prints the shrunken
 * input and ends with 1.
 */
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const COMPILED = join(ROOT, '.fuzz')

/** An input that takes longer than this counts as a hang: the slowest inputs take a few milliseconds. */
const HANG_MS = 120_000

const REPORT_MS = 60_000

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 0x7fffffff)) },
    only: { type: 'string' },
    'no-coverage': { type: 'boolean', default: false },
  },
})
const seed = Number(values.seed)
const only = values.only?.split(',') ?? null
const minutes = Number(values.minutes)
if (!(minutes > 0) || !Number.isInteger(seed)) {
  console.error('usage: npm run fuzz -- [--minutes N] [--seed S] [--only framing,codec,...] [--no-coverage]')
  process.exit(2)
}

compile()
watch()

function compile() {
  rmSync(COMPILED, { recursive: true, force: true })
  const compiler = join(
    dirname(createRequire(import.meta.url).resolve('typescript/package.json')),
    'bin',
    'tsc',
  )
  const config = join(ROOT, 'scripts', 'fuzz', 'tsconfig.json')
  const { status } = spawnSync(process.execPath, [compiler, '-p', config], { stdio: 'inherit' })
  if (status !== 0) process.exit(2)
}

function watch() {
  const progress = new Int32Array(new SharedArrayBuffer(4))
  const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
    workerData: {
      compiled: pathToFileURL(`${COMPILED}/`).href,
      seed,
      only,
      minutes,
      coverage: !values['no-coverage'],
      progress,
    },
  })
  /** @type {any} The latest report of the thread. */
  let latest = null
  let seen = -1
  let seenAt = Date.now()
  const clock = setInterval(() => {
    const now = Atomics.load(progress, 0)
    if (now !== seen) {
      seen = now
      seenAt = Date.now()
    } else if (Date.now() - seenAt > HANG_MS) {
      console.error(`HANG: no input has ended for ${HANG_MS / 1000} s, seed ${seed}, in ${latest?.running}`)
      process.exit(1)
    }
  }, 1000)
  const reports = setInterval(() => latest !== null && console.log(line(latest)), REPORT_MS)
  worker.on('message', (message) => {
    latest = message
    if (message.end) {
      clearInterval(clock)
      clearInterval(reports)
      finish(message)
    }
  })
  worker.on('error', (error) => {
    console.error(`CRASH, seed ${seed}, in ${latest?.running}:`, error)
    process.exit(1)
  })
}

function finish(result) {
  for (const { name, unit, inputs, kept, reached, seconds, summary } of result.targets) {
    const rate = Math.round(inputs / Math.max(seconds, 0.001))
    const code = reached > 0 ? `, ${reached} pieces of code reached` : ''
    if (summary !== undefined) console.log(`${name}, seed ${seed}: ${summary}`)
    console.log(`${name.padEnd(9)} ${String(inputs).padStart(10)} ${unit}, ${rate}/s, ${kept} kept${code}`)
  }
  if (result.find !== null) {
    console.log(`\nFOUND in ${result.find.target}, seed ${seed}:\n${result.find.wrong}\n`)
    console.log(JSON.stringify(result.find.input))
  }
  console.log(line(result))
  process.exit(result.find === null ? 0 : 1)
}

function line({ targets, find, heapBytes, heapBytesBefore, minutes: taken }) {
  const inputs = targets.reduce((sum, target) => sum + target.inputs, 0)
  const each = targets.map((target) => `${target.name} ${target.inputs}`).join(', ')
  const mib = (bytes) => `${(bytes / 1024 / 1024).toFixed(0)} MiB`
  const found = find === null ? 'nothing found' : '1 find'
  const heap = `heap ${mib(heapBytesBefore)} to ${mib(heapBytes)}`
  return `fuzz: ${inputs} inputs (${each}) in ${taken.toFixed(1)} min, seed ${seed}, ${heap}, ${found}`
}
