/** `npm run crash`: kills a broker again and again, and audits what it acknowledged. See --help. */
import { parseArgs } from 'node:util'
import { BROKER_NAMES, brokerKind } from './broker.mjs'
import { Run } from './run.mjs'

const HELP = `Kills a broker again and again under a crowd of clients, and audits what it acknowledged.

  npm run crash -- [options]

      --broker NAME         ${BROKER_NAMES.join(', ')}, or a command with {port} and {data}; godwit by default
      --runs N              how many runs, each on a new directory; 3 by default
      --kills N             kills in each run; 10 by default
      --minutes N           runs for so long instead of --runs
      --seed N              of the first run; the following ones count on. Repeats the plan of a run
      --durability KIND     of Godwit: fsync (default), os or memory
      --main FILE           Godwit's main.js; dist/main.js by default
      --idle-seconds N      how long a silent broker is waited for before what is due counts as lost; 10
      --keep                leaves the data directories behind
  -h, --help

Exit codes: 0 nothing was lost, doubled or misordered; 1 something was; 2 wrong usage.
`

const OPTIONS = {
  broker: { type: 'string', default: 'godwit' },
  runs: { type: 'string', default: '3' },
  kills: { type: 'string', default: '10' },
  minutes: { type: 'string' },
  seed: { type: 'string' },
  durability: { type: 'string', default: 'fsync' },
  main: { type: 'string' },
  'idle-seconds': { type: 'string', default: '10' },
  keep: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
}

const { values } = parseArgs({ options: OPTIONS })
if (values.help) process.stdout.write(HELP)
else process.exitCode = (await crash()) ? 0 : 1

async function crash() {
  const settings = {
    durability: values.durability,
    ...(values.main === undefined ? {} : { main: values.main }),
  }
  const kind = brokerKind(values.broker, settings)
  const firstSeed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed)
  const endsAt = values.minutes === undefined ? null : performance.now() + Number(values.minutes) * 60_000
  const runs = endsAt === null ? Number(values.runs) : Number.POSITIVE_INFINITY
  const total = { runs: 0, kills: 0, acknowledged: 0, delivered: 0, problems: 0 }
  for (let index = 0; index < runs && (endsAt === null || performance.now() < endsAt); index++) {
    const seed = firstSeed + index
    const idleMs = Number(values['idle-seconds']) * 1000
    const run = new Run({ kind, seed, kills: Number(values.kills), idleMs, keep: values.keep })
    await run.execute()
    const problems = report(kind.name, seed, run)
    total.runs++
    total.kills += run.kills
    total.acknowledged += run.ledger.acknowledged
    total.delivered += run.ledger.delivered
    total.problems += problems
  }
  return verdict(kind.name, total)
}

function report(name, seed, { kills, ledger }) {
  const { acknowledged, delivered, counts, details } = ledger
  const figures = [
    `${kills} kills`,
    `${acknowledged} acknowledged`,
    `${delivered} delivered`,
    `${counts.lost} lost`,
    `${counts.doubled} doubled`,
    `${counts.misordered} misordered`,
    `${counts.sessionsLost} sessions lost`,
    `${counts.retainedLost} retained lost`,
    `${counts.willsLost} Wills lost`,
    `${counts.strays} strays`,
  ]
  console.log(`${name} seed ${seed}: ${figures.join(', ')}`)
  for (const detail of details) console.log(`  ${detail.replaceAll('\n', '\n    ')}`)
  return Object.values(counts).reduce((sum, count) => sum + count, 0)
}

function verdict(name, { runs, kills, acknowledged, delivered, problems }) {
  const what = `${runs} runs, ${kills} kills, ${acknowledged} acknowledged, ${delivered} delivered`
  if (problems === 0) console.log(`verdict: ${name} kept what it acknowledged (${what})`)
  else console.log(`verdict: ${name} FAILED, ${problems} problems (${what})`)
  return problems === 0
}
