/**
 * Measures how far one client can hurt the others, beside Mosquitto:
 *
 *   npm run bench:fairness -- [--only noisy,stalls,storm] [--brokers godwit,mosquitto] [--rounds 3]
 *                             [--secs 8] [--scale 1] [--attacks NAME,NAME] [--clients 5000] [--json FILE]
 *                             [--heap MIB] [--killed] [--set limits.profile=open]
 *
 * `noisy`: latencies of fifty quiet pairs, alone and beside a publisher at QoS 0 that sends as fast as it can
 * to a hundred subscribers; medians of `--rounds` rounds of `--secs` seconds.
 *
 * `stalls`: each attack alone against a broker of its own, once. Shows the longest time that the main
 * thread ran without a pause (CPU time, by schedstat), memory, and the outcome. With `--killed`, the attack
 * leaves its Sessions and messages behind, and the broker is killed with `kill -9` and started again on the
 * same data. That shows how long the start takes, and how many of ten newcomers get in. `--heap` is the
 * heap of the broker's Node.
 *
 * `storm`: clients with passwords that all come back after `kill -9`.
 */
import { appendFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { BROKER_NAMES } from '../bench/brokers.mjs'
import { buildMqload, runMqload } from '../bench/load.mjs'
import { known, median, printHead, printRow, shown } from '../bench/table.mjs'
import { ATTACKS, attack } from './attacks.mjs'
import { ATTACKER, FLEET_USER, heapFlags, longestHold, memory, restartGuarded, startGuarded } from './run.mjs'
import { pause, Raw } from './wire.mjs'

const PARTS = ['noisy', 'stalls', 'storm']

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'noisy,stalls,storm' },
    brokers: { type: 'string', default: 'godwit,mosquitto' },
    attacks: { type: 'string', default: ATTACKS.map(([name]) => name).join(',') },
    rounds: { type: 'string', default: '3' },
    secs: { type: 'string', default: '8' },
    scale: { type: 'string', default: '1' },
    clients: { type: 'string', default: '5000' },
    json: { type: 'string' },
    heap: { type: 'string' },
    killed: { type: 'boolean', default: false },
    set: { type: 'string', multiple: true, default: [] },
  },
})
const secs = Number(values.secs)
const rounds = Number(values.rounds)
const scale = Number(values.scale)
const started = { nodeFlags: heapFlags(values.heap), settings: values.set }
const parts = known(values.only, PARTS)
const brokers = known(values.brokers, BROKER_NAMES)
const attacks = known(
  values.attacks,
  ATTACKS.map(([name]) => name),
)
/** How often each part measures. */
const RUNS = {
  noisy: `noisy: medians of ${rounds} rounds of ${secs} s`,
  stalls: `stalls: one run of each attack at scale ${scale}`,
  storm: 'storm: one run of each variant',
}
buildMqload()
printHead(parts.map((part) => RUNS[part]).join('; '))
if (parts.includes('noisy')) await noisy()
if (parts.includes('stalls')) await stalls()
if (parts.includes('storm')) {
  const { printStorm } = await import('./storm.mjs')
  await printStorm({ clients: Number(values.clients) })
}

function keep(report) {
  if (values.json) appendFileSync(values.json, `${JSON.stringify(report)}\n`)
}

/** Measures the pairs alone and beside the noise, at QoS 0 and 1, broker by broker, round after round. */
async function noisy() {
  const found = new Map()
  for (let round = 0; round < rounds; round++) {
    for (const name of brokers) {
      for (const qos of [0, 1]) {
        const { broker } = await startGuarded(name, started)
        try {
          const alone = await pairs(broker, qos)
          const noise = noiseAt(broker)
          await pause(2000)
          const beside = await pairs(broker, qos)
          const { in_per_s: sent } = await noise
          for (const [when, report] of Object.entries({ alone, beside })) {
            const key = `${name} ${qos} ${when}`
            found.set(key, [...(found.get(key) ?? []), { ...report, sent }])
            keep({ part: 'noisy', broker: name, qos, when, sent, ...report })
          }
        } finally {
          await broker.stop()
        }
      }
    }
  }
  printRow(['pairs at', 'broker', 'when', 'p50 ms', 'p99 ms', 'max ms', 'lost', 'noise taken/s'])
  printRow(['---', '---', '---', '---', '---', '---', '---', '---'])
  for (const qos of [0, 1]) {
    for (const name of brokers) {
      for (const when of ['alone', 'beside']) {
        const reports = found.get(`${name} ${qos} ${when}`)
        const ms = (field) => shown(median(reports.map((report) => report[field] / 1000)))
        const lost = reports.reduce((sum, report) => sum + (report.lost ?? 0), 0)
        const rate = when === 'beside' ? shown(median(reports.map(({ sent }) => sent))) : '–'
        printRow([`QoS ${qos}`, name, when, ms('p50_us'), ms('p99_us'), ms('max_us'), lost, rate])
      }
    }
  }
  console.log()
}

/** Publishes as fast as the broker takes it, a little longer than the pairs are measured. */
function noiseAt({ port }) {
  const load = '--scenario fanout --qos 0 --subs 100 --window 20000 --backlog 100000000 --warmup 1'.split(' ')
  const who = ['--user', ATTACKER.user, '--pass', ATTACKER.password, '--port', `${port}`]
  return runMqload([...load, ...who, '--secs', `${secs + 3}`], secs + 60)
}

function pairs({ port, pid }, qos) {
  const load = `--scenario latency --pairs 50 --rate 250 --warmup 1 --qos ${qos} --prefix quiet`.split(' ')
  const who = ['--user', FLEET_USER.user, '--pass', FLEET_USER.password]
  return runMqload([...load, ...who, '--secs', `${secs}`, '--port', `${port}`, '--pid', `${pid}`], secs + 60)
}

/** Runs each attack against a broker of its own. */
async function stalls() {
  printRow(['attack', 'broker', 'CPU ms without a pause', 'peak MiB', 'MiB after', 'ended', 'figures'])
  printRow(['---', '---', '---', '---', '---', '---', '---'])
  for (const attackName of attacks) {
    for (const name of brokers) {
      const { broker, pauses } = await startGuarded(name, started)
      try {
        await pauses()
        const signal = AbortSignal.timeout(180_000)
        const figures = await attack(attackName, {
          port: broker.port,
          ...ATTACKER,
          scale,
          signal,
          stays: values.killed,
        })
        await pause(1500)
        const hold = longestHold(await pauses())
        const { rssMiB, peakMiB } = memory(broker.pid)
        const ended = broker.ended ?? 'no'
        if (values.killed) Object.assign(figures, await afterKill(broker))
        const told = Object.entries(figures).map(([what, value]) => `${what} ${value}`)
        printRow([attackName, name, shown(hold), shown(peakMiB), shown(rssMiB), ended, told.join(', ')])
        keep({ part: 'stalls', attack: attackName, broker: name, hold, rssMiB, peakMiB, ended, ...figures })
      } finally {
        await broker.stop()
      }
    }
  }
  console.log()
}

/** Kills the broker and starts it again on what the attack left. Resolves with the figures of that start. */
async function afterKill(broker) {
  const again = await restartGuarded(broker, started)
  try {
    let letIn = 0
    for (let n = 0; n < 10; n++) {
      const client = await Raw.open(again.port, FLEET_USER)
      if (client.isOpen) letIn++
      client.destroy()
    }
    await pause(1500)
    const { rssMiB, peakMiB } = memory(again.pid)
    return {
      'restart ms': Math.round(again.startMs),
      'let in after it': `${letIn} of 10`,
      'peak MiB after it': shown(peakMiB),
      'MiB after it': shown(rssMiB),
      'ended after it': again.ended ?? 'no',
    }
  } finally {
    await again.stop()
  }
}
