/** `npm run crash`: kills a broker again and again, and audits what it acknowledged. See --help. */
import { existsSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { BROKER_NAMES, brokerKind, GODWIT_MAIN } from './broker.mjs'
import { buildFaults } from './disk.mjs'
import { checkInterval } from './interval.mjs'
import { LOADS, wordsOf } from './loads.mjs'
import { checkOrder } from './order.mjs'
import { QueueRun } from './queue-run.mjs'
import { Run } from './run.mjs'
import { NAME_RULES } from './trace.mjs'
import { MUTANTS, STEPPED, TIGHT, variant } from './variants.mjs'

const HELP = `Kills a broker again and again under a crowd of clients, and audits what it acknowledged.

  npm run crash -- [options]

      --broker NAME         ${BROKER_NAMES.join(', ')}, or a command with {port} and {data}; godwit by default
      --runs N              number of runs, each on a new directory; 4 by default
      --kills N             kills in each run; 10 by default
      --minutes N           runs for N minutes, instead of --runs
      --seed N              seed of the first run; each further run adds 1. A seed repeats the plan of a run
      --durability KIND     durability of Godwit: fsync (default), interval, os or memory
      --main FILE           Godwit's main.js; dist/main.js by default
      --limits KIND         limits of Godwit: usual; tight, which keeps checkpoints and compactions always
                            under way, and with long queues makes each take many commits; or both (default:
                            tight for odd seeds)
      --load KIND           usual: everything at once; lagging: long queues of subscribers that lag behind and
                            drain; full: long queues that drop their oldest messages; or all in turn (default
                            for kills of Godwit; otherwise usual)
      --power-cuts          makes every kill a power cut: data that was not synced is lost, in part or whole
      --names RULE          rule for names that no sync of their directory kept: ordered (as in ext4 and xfs),
                            own (as in btrfs), or strict (the letter of POSIX); by default ordered or own, by
                            chance
      --disk-errors         lets all writes fail for a while between kills: the disk is full, or has an error
      --backups             backs Godwit up while it runs and is killed; restores and audits completed backups
      --queues              runs producers and consumers of queues instead of the crowd
      --mutants             runs copies of Godwit that are wrong on purpose, each until it is caught
      --only TEXT           runs only mutants with this text in their names
      --interval            shows what \`durability: interval\` keeps over power cuts and SIGKILL in turn
      --order               shows from a trace that messages are synced before they are acknowledged
      --idle-seconds N      how long the broker may be silent before messages that are due count as lost; 10
      --keep                keeps the data directories
  -h, --help

Exit codes: 0 nothing was lost, doubled or misordered (with --mutants: each was caught); 1 otherwise; 2 wrong
usage, or the broker changed its files in a way that the harness does not record.
`

/** @satisfies {import('node:util').ParseArgsConfig['options']} */
const OPTIONS = {
  broker: { type: 'string', default: 'godwit' },
  runs: { type: 'string', default: '4' },
  kills: { type: 'string', default: '10' },
  minutes: { type: 'string' },
  seed: { type: 'string' },
  durability: { type: 'string', default: 'fsync' },
  main: { type: 'string', default: GODWIT_MAIN },
  limits: { type: 'string', default: 'both' },
  load: { type: 'string' },
  'power-cuts': { type: 'boolean', default: false },
  'disk-errors': { type: 'boolean', default: false },
  names: { type: 'string' },
  backups: { type: 'boolean', default: false },
  queues: { type: 'boolean', default: false },
  mutants: { type: 'boolean', default: false },
  only: { type: 'string', default: '' },
  order: { type: 'boolean', default: false },
  interval: { type: 'boolean', default: false },
  'idle-seconds': { type: 'string', default: '10' },
  keep: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
}

/** The interval that `--interval` configures. */
const INTERVAL_SECONDS = 1
/** A mutant that was not caught in so many runs has escaped. */
const MUTANT_RUNS_MAX = 20
/** Wills with a delay, and Wills of clients of a killed broker, arrive seconds later. */
const MUTANT_IDLE_MS = 3500
/** Leases end after 8 s. */
const QUEUE_MUTANT_IDLE_MS = 10_500

let values
/** The library that `buildFaults` built, once it is needed. */
let faults
try {
  values = parseArgs({ options: OPTIONS }).values
  process.exitCode = await main()
} catch (error) {
  console.error(`crash: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 2
}

async function main() {
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  for (const name of ['runs', 'kills', 'minutes', 'seed', 'idle-seconds']) numberIfGiven(name)
  if (!['usual', 'tight', 'both'].includes(values.limits)) throw new Error(`--limits ${values.limits}?`)
  if (values.load !== undefined && ![...LOADS, 'all'].includes(values.load))
    throw new Error(`--load ${values.load}?`)
  if (values.load === 'full' && values.broker !== 'godwit') throw new Error('--load full is for Godwit')
  if (values.names !== undefined && !NAME_RULES.includes(values.names))
    throw new Error(`--names ${values.names}?`)
  if (values.backups && values.broker !== 'godwit') throw new Error('--backups is for Godwit')
  if (values.queues && (values.broker !== 'godwit' || values.backups))
    throw new Error('--queues is for Godwit, and does not go with --backups')
  if (values.backups && (values['power-cuts'] || values['disk-errors'])) {
    throw new Error('--backups goes with kills only')
  }
  const firstSeed = numberIfGiven('seed') ?? Math.floor(Math.random() * 2 ** 31)
  try {
    if (values.interval) return (await interval(firstSeed)) ? 0 : 1
    if (values.order) return (await order(firstSeed)) ? 0 : 1
    return (await (values.mutants ? mutants(firstSeed) : trial(firstSeed))) ? 0 : 1
  } finally {
    faults?.remove()
  }
}

/** Returns the number of an option that has a default. */
function number(name) {
  const found = numberIfGiven(name)
  if (found === undefined) throw new Error(`--${name} is missing`)
  return found
}

function numberIfGiven(name) {
  const text = values[name]
  if (text === undefined) return undefined
  const found = Number(text)
  if (text.trim() === '' || !(found >= 0)) throw new Error(`--${name} ${text} is no number`)
  return found
}

async function trial(firstSeed) {
  const minutes = numberIfGiven('minutes')
  const endsAt = minutes === undefined ? Number.POSITIVE_INFINITY : performance.now() + minutes * 60_000
  const runs = minutes === undefined ? number('runs') : Number.POSITIVE_INFINITY
  const total = { runs: 0, kills: 0, acknowledged: 0, delivered: 0, problems: 0 }
  const isGodwit = values.broker === 'godwit'
  if (isGodwit && !existsSync(values.main)) throw new Error(`${values.main} is missing: npm run build`)
  const isAltered = isGodwit && values.limits !== 'usual'
  const tight = isAltered ? variant(values.main, TIGHT) : null
  const stepped = isAltered ? variant(values.main, STEPPED) : null
  try {
    for (let index = 0; index < runs && performance.now() < endsAt; index++) {
      const seed = firstSeed + index
      const isTight = tight !== null && (values.limits === 'tight' || seed % 2 === 1)
      const { durability, main } = values
      const load = loadOf(seed)
      const limits = load === 'usual' ? TIGHT : STEPPED
      const altered = load === 'usual' ? tight : stepped
      const words = [...(isTight ? (limits.words ?? []) : []), ...wordsOf(load)]
      const settings = { durability, main: isTight && altered !== null ? altered.main : main, words }
      const modes = { ...modesWanted(), load }
      const kind = brokerKind(values.broker, settings)
      const run = await executed(kind, seed, number('idle-seconds') * 1000, modes)
      const what = [isTight ? limits.name : '', load === 'usual' ? '' : load].filter((word) => word !== '')
      const suffix = what.length === 0 ? '' : ` (${what.join(', ')})`
      add(total, run, report(`${values.broker}${suffix}`, seed, run))
    }
  } finally {
    tight?.remove()
    stepped?.remove()
  }
  verdict(values.broker, total)
  return total.problems === 0
}

/** Returns the load of the run with this seed. Each load meets both kinds of limits. */
function loadOf(seed) {
  const isPlain = values.broker === 'godwit' && !Object.values(modesWanted()).includes(true)
  const wanted = values.load ?? (isPlain ? 'all' : 'usual')
  if (wanted !== 'all') return wanted
  const loads = values.broker === 'godwit' ? LOADS : LOADS.filter((load) => load !== 'full')
  return loads[seed % loads.length]
}

function modesWanted() {
  const { backups, queues } = values
  return { powerCuts: values['power-cuts'], diskErrors: values['disk-errors'], backups, queues }
}

async function executed(kind, seed, idleMs, modes) {
  const needsFaults = modes.powerCuts || modes.diskErrors
  if (needsFaults) faults ??= buildFaults()
  const disk = {
    library: needsFaults ? faults.library : undefined,
    nameRules: values.names === undefined ? undefined : [values.names],
  }
  const plan = { kind, seed, kills: number('kills'), idleMs, keep: values.keep, ...disk, ...modes }
  const run = modes.queues ? new QueueRun({ ...plan, main: values.main }) : new Run(plan)
  await run.execute()
  return run
}

function add(total, { kills, ledger }, problems) {
  total.runs++
  total.kills += kills
  total.acknowledged += ledger.acknowledged
  total.delivered += ledger.delivered
  total.problems += problems
}

function report(name, seed, run) {
  const { kills, ledger } = run
  const { acknowledged, delivered, counts, details } = ledger
  const figures = [
    `${kills} kills`,
    `${acknowledged} acknowledged`,
    `${delivered} delivered`,
    `${counts.lost} lost`,
    ...('flagged' in counts && counts.flagged > 0 ? [`${counts.flagged} only with RETAIN`] : []),
    `${counts.doubled} doubled`,
    `${counts.misordered} misordered`,
    `${counts.sessionsLost} sessions lost`,
    ...('unsure' in ledger ? [`${ledger.unsure} perhaps answered`] : []),
    ...('retainedLost' in counts ? figuresOfCrowd(counts) : [`${counts.strays} strays`]),
  ]
  const backups = 'backups' in run ? run.backups : null
  if (backups !== null) {
    const { completed, restored, owed } = backups
    figures.push(`${completed} backups, ${restored} restored with ${owed} deliveries due in them`)
    figures.push(`${counts.backups} wrong with backups`)
  }
  console.log(`${name} seed ${seed}: ${figures.join(', ')}`)
  for (const detail of details) console.log(`  ${detail.replaceAll('\n', '\n    ')}`)
  return ledger.problems
}

function figuresOfCrowd(counts) {
  return [
    `${counts.retainedLost} retained lost`,
    `${counts.willsLost} Wills lost`,
    `${counts.overdue} too early or too late`,
    `${counts.strays} strays`,
  ]
}

function verdict(name, { runs, kills, acknowledged, delivered, problems }) {
  const what = `${runs} runs, ${kills} kills, ${acknowledged} acknowledged, ${delivered} delivered`
  if (problems === 0) console.log(`verdict: ${name} kept what it acknowledged (${what})`)
  else console.log(`verdict: ${name} FAILED, ${problems} problems (${what})`)
}

async function order(seed) {
  const { durability, main, broker } = values
  const kind = brokerKind(broker, { durability, main })
  faults = buildFaults()
  const { checked, complaints } = await checkOrder({ kind, library: faults.library, seed })
  for (const complaint of complaints) console.log(`  ${complaint}`)
  const bad = complaints.length
  console.log(`verdict: ${broker} synced ${checked - bad} of ${checked} messages before it acknowledged them`)
  return bad === 0
}

async function interval(firstSeed) {
  faults ??= buildFaults()
  const words = ['--set', `data.durability_interval_seconds=${INTERVAL_SECONDS}`]
  const kind = brokerKind('godwit', { durability: 'interval', main: values.main, words })
  const nameRules = values.names === undefined ? undefined : [values.names]
  const runs = number('runs')
  let bad = 0
  let worstMs = 0
  for (let index = 0; index < runs; index++) {
    const powerCut = index % 2 === 0
    const seed = firstSeed + index
    const given = {
      kind,
      library: faults.library,
      seed,
      intervalSeconds: INTERVAL_SECONDS,
      powerCut,
      nameRules,
    }
    const { acknowledged, lost, lostMs, complaints } = await checkInterval(given)
    worstMs = Math.max(worstMs, lostMs)
    const how = powerCut ? 'power cut' : 'SIGKILL'
    const losses = `${acknowledged} acknowledged, ${lost} of the last ${lostMs.toFixed(0)} ms lost`
    console.log(`interval seed ${seed}, ${how}: ${losses}`)
    for (const complaint of complaints) console.log(`  ${complaint}`)
    bad += complaints.length
  }
  const what = `${runs} runs with ${INTERVAL_SECONDS} s, at most ${worstMs.toFixed(0)} ms were lost`
  console.log(
    bad === 0
      ? `verdict: interval kept its promise (${what})`
      : `verdict: interval FAILED, ${bad} problems (${what})`,
  )
  return bad === 0
}

async function mutants(firstSeed) {
  let escaped = 0
  const chosen = MUTANTS.filter(({ name }) => name.includes(values.only))
  if (chosen.length === 0) throw new Error(`no mutant's name has '${values.only}' in it`)
  for (const mutant of chosen) {
    const changed = variant(values.main, mutant)
    try {
      if (!(await caught(mutant, changed.main, firstSeed))) escaped++
    } finally {
      changed.remove()
    }
  }
  console.log(`verdict: ${chosen.length - escaped} of ${chosen.length} mutants were caught`)
  return escaped === 0
}

/**
 * Resolves with true as soon as a run finds a problem, with false after `MUTANT_RUNS_MAX` runs.
 *
 * @param {import('./variants.mjs').Variant} mutant
 * @param {string} main
 * @param {number} firstSeed
 */
async function caught({ name, durability = values.durability, modes = {}, words = [] }, main, firstSeed) {
  const { load = 'usual' } = modes
  const kind = brokerKind('godwit', { durability, main, words: [...wordsOf(load), ...words] })
  let kills = 0
  for (let index = 0; index < MUTANT_RUNS_MAX; index++) {
    const idleMs = modes.queues === true ? QUEUE_MUTANT_IDLE_MS : MUTANT_IDLE_MS
    const run = await executed(kind, firstSeed + index, idleMs, { ...modesWanted(), ...modes })
    kills += run.kills
    if (run.ledger.problems === 0) continue
    report(`mutant: ${name},`, firstSeed + index, run)
    console.log(`caught after ${kills} kills: it ${name}`)
    return true
  }
  console.log(`NOT CAUGHT in ${kills} kills: it ${name}`)
  return false
}
