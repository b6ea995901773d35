/**
 * Runs all attacks in turn, beside a fleet of ordinary devices that should notice nothing:
 *
 *   npm run soak -- [--minutes 60] [--devices 500] [--brokers godwit,mosquitto] [--scale 0.1]
 *                   [--attacks NAME,NAME] [--json FILE] [--from 127.0.0.2] [--heap MIB]
 *
 * `--from` is the attacker's address; with 127.0.0.1 it is that of the fleet, as behind one router.
 * `--heap` is Node's heap for Godwit.
 *
 * Ends with 1 when Godwit refused or disconnected devices of the fleet, or lost anything. Latencies are those
 * of the worst round of each attack, beside those of the quiet time before the first one.
 */
import { appendFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { BROKER_NAMES } from '../bench/brokers.mjs'
import { known, printRow, shown } from '../bench/table.mjs'
import { ATTACKS, attack } from './attacks.mjs'
import { ATTACKER, Fleet, heapFlags, longestHold, memory, startGuarded } from './run.mjs'
import { pause } from './wire.mjs'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    devices: { type: 'string', default: '500' },
    brokers: { type: 'string', default: 'godwit' },
    scale: { type: 'string', default: '0.1' },
    attacks: { type: 'string', default: ATTACKS.map(([name]) => name).join(',') },
    from: { type: 'string', default: '127.0.0.2' },
    json: { type: 'string' },
    heap: { type: 'string' },
  },
})
const attacks = known(
  values.attacks,
  ATTACKS.map(([name]) => name),
)
const scale = Number(values.scale)
const QUIET_MS = 10_000
const BETWEEN_MS = 1000
const ATTACK_MS_MAX = 120_000

let failed = false
for (const name of known(values.brokers, BROKER_NAMES)) {
  const isWell = await soak(name)
  failed ||= name.startsWith('godwit') && !isWell
}
process.exitCode = failed ? 1 : 0

async function soak(name) {
  const { broker, pauses } = await startGuarded(name, { nodeFlags: heapFlags(values.heap) })
  try {
    const fleet = await Fleet.start(broker.port, Number(values.devices))
    await fleet.figures()
    await pause(Math.min(QUIET_MS, Number(values.minutes) * 6000))
    await pauses()
    const quiet = await fleet.figures()
    const columns = [
      'while',
      'rounds',
      'fleet p50 ms',
      'p99 ms',
      'max ms',
      'fleet itself late, ms',
      'disconnects',
      'refused',
      'CPU ms held',
      'MiB',
      'figures',
    ]
    console.log(
      `${name}: ${values.devices} devices, ${values.minutes} minutes of attacks at scale ${scale}\n`,
    )
    printRow(columns)
    printRow(columns.map(() => '---'))
    const { rssMiB } = memory(broker.pid)
    row('nothing', { ...quiet, disconnects: 0, refused: 0, hold: Number.NaN, rssMiB, figures: {} })
    let before = quiet
    const worst = new Map()
    const until = performance.now() + Number(values.minutes) * 60_000
    for (let round = 0; round < attacks.length || performance.now() < until; round++) {
      if (broker.ended !== null) break
      const attackName = attacks[round % attacks.length]
      const signal = AbortSignal.timeout(ATTACK_MS_MAX)
      const figures = await attack(attackName, {
        port: broker.port,
        from: values.from,
        ...ATTACKER,
        scale,
        signal,
      })
      await pause(BETWEEN_MS)
      const hold = longestHold(await pauses())
      const now = await fleet.figures()
      const seen = {
        ...now,
        disconnects: now.disconnects - before.disconnects,
        refused: now.refused - before.refused,
      }
      const { rssMiB } = memory(broker.pid)
      worst.set(attackName, worse(worst.get(attackName), { ...seen, hold, rssMiB, figures }))
      if (values.json)
        appendFileSync(
          values.json,
          `${JSON.stringify({ broker: name, attackName, hold, ...seen, ...figures })}\n`,
        )
      before = now
    }
    for (const [attackName, found] of worst) row(attackName, found)
    const { peakMiB } = memory(broker.pid)
    const { ended } = broker
    const end = await fleet.end()
    console.log(
      `\n${name}: ${end.published} published, ${end.acknowledged} acknowledged, ${end.received} received, ` +
        `${end.lost} lost, ${end.doubled} doubled; ` +
        `${end.disconnects} disconnects, ${end.refused + end.nacks} refusals; ` +
        `peak ${shown(peakMiB)} MiB${ended === null ? '' : `; the broker ended with ${ended}`}\n`,
    )
    return ended === null && end.lost + end.disconnects + end.refused + end.nacks === 0
  } finally {
    await broker.stop()
  }
}

/** Joins the rounds of an attack: the largest latencies, the sums of faults, and the latest figures. */
function worse(one, other) {
  if (one === undefined) return { ...other, rounds: 1 }
  const larger = ['p50Ms', 'p99Ms', 'maxMs', 'lateMs', 'hold', 'rssMiB'].map((field) => [
    field,
    Math.max(one[field], other[field]),
  ])
  const sum = ['disconnects', 'refused'].map((field) => [field, one[field] + other[field]])
  return { ...other, ...Object.fromEntries([...larger, ...sum]), rounds: one.rounds + 1 }
}

function row(what, { p50Ms, p99Ms, maxMs, lateMs, disconnects, refused, hold, rssMiB, figures, rounds = 1 }) {
  const told = Object.entries(figures).map(([field, value]) => `${field} ${value}`)
  const ms = [p50Ms, p99Ms, maxMs, lateMs].map(shown)
  printRow([what, rounds, ...ms, disconnects, refused, shown(hold), shown(rssMiB), told.join(', ')])
}
