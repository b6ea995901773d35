/**
 * All attacks in turn, beside a fleet of ordinary devices that should notice nothing:
 *
 *   npm run soak -- [--minutes 60] [--devices 500] [--brokers godwit,mosquitto] [--scale 0.1] [--attacks NAME,NAME] [--json FILE]
 *
 * Ends with 1 when Godwit's fleet was refused, disconnected or lost anything. Latencies are shown beside those of the quiet time
 * before the first attack.
 */
import { appendFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { BROKER_NAMES } from '../bench/brokers.mjs'
import { known, printRow, shown } from '../bench/table.mjs'
import { ATTACKS, attack } from './attacks.mjs'
import { ATTACKER, Fleet, longestHold, memory, startGuarded } from './run.mjs'
import { pause } from './wire.mjs'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    devices: { type: 'string', default: '500' },
    brokers: { type: 'string', default: 'godwit' },
    scale: { type: 'string', default: '0.1' },
    attacks: { type: 'string', default: ATTACKS.map(([name]) => name).join(',') },
    json: { type: 'string' },
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
  const { broker, pauses } = await startGuarded(name)
  try {
    const fleet = await Fleet.start(broker.port, Number(values.devices))
    await fleet.figures()
    await pause(Math.min(QUIET_MS, Number(values.minutes) * 6000))
    await pauses()
    const quiet = await fleet.figures()
    const columns = [
      'while',
      'fleet p50 ms',
      'p99 ms',
      'max ms',
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
    row('nothing', quiet, Number.NaN, broker, {})
    let before = quiet
    const until = performance.now() + Number(values.minutes) * 60_000
    for (let round = 0; performance.now() < until && broker.ended === null; round++) {
      const attackName = attacks[round % attacks.length]
      const signal = AbortSignal.timeout(ATTACK_MS_MAX)
      const figures = await attack(attackName, { port: broker.port, ...ATTACKER, scale, signal })
      await pause(BETWEEN_MS)
      const hold = longestHold(await pauses())
      const now = await fleet.figures()
      const seen = {
        ...now,
        disconnects: now.disconnects - before.disconnects,
        refused: now.refused - before.refused,
      }
      row(attackName, seen, hold, broker, figures)
      if (values.json)
        appendFileSync(
          values.json,
          `${JSON.stringify({ broker: name, attackName, hold, ...seen, ...figures })}\n`,
        )
      before = now
    }
    const { peakMiB } = memory(broker.pid)
    const { ended } = broker
    const end = await fleet.end()
    console.log(
      `\n${name}: ${end.published} published, ${end.acknowledged} acknowledged, ${end.received} received, ${end.lost} lost, ` +
        `${end.doubled} doubled; ${end.disconnects} disconnects, ${end.refused + end.nacks} refusals; ` +
        `peak ${shown(peakMiB)} MiB${ended === null ? '' : `; the broker ended with ${ended}`}\n`,
    )
    return ended === null && end.lost + end.disconnects + end.refused + end.nacks === 0
  } finally {
    await broker.stop()
  }
}

function row(what, fleet, hold, broker, figures) {
  const { p50Ms, p99Ms, maxMs, disconnects, refused } = fleet
  const told = Object.entries(figures).map(([field, value]) => `${field} ${value}`)
  const ms = [p50Ms, p99Ms, maxMs].map(shown)
  const { rssMiB } = memory(broker.pid)
  printRow([what, ...ms, disconnects, refused, shown(hold), shown(rssMiB), told.join(', ')])
}
