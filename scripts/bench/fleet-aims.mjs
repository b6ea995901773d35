/** The aims for a fleet. Without FlashMQ, its share of the CPU time of Mosquitto stands in for it. */
import { printRow, shown } from './table.mjs'

/** CPU time of FlashMQ 1.26.2 as a share of that of Mosquitto 2.0.11 in the same run. */
const FLASHMQ_TO_MOSQUITTO = 0.97

/**
 * By broker and field of the report, at the default pace of commits: at most this `ratio` to FlashMQ, or
 * `atMost` so much.
 *
 * @type {Record<string, Record<string, { ratio?: number, atMost?: number }>>}
 */
const AIMS = {
  'godwit-memory': { cpu_us_per_msg: { ratio: 1.4 } },
  godwit: { cpu_us_per_msg: { ratio: 1.8 }, ack_p50_us: { atMost: 3000 }, ack_p99_us: { atMost: 12_000 } },
}

/**
 * Prints which aims are reached.
 *
 * @param {readonly string[]} brokers those that were measured
 * @param {ReadonlyMap<string, string>} titles of the fields
 * @param {(broker: string, field: string) => number} figure returns the median
 */
export function printFleetAims(brokers, titles, figure) {
  const aims = Object.entries(AIMS).flatMap(([broker, fields]) =>
    Object.entries(fields).map(([field, aim]) => ({ broker, field, ...aim })),
  )
  const measured = aims.filter(({ broker }) => brokers.includes(broker))
  const reference = (field) =>
    brokers.includes('flashmq') ? figure('flashmq', field) : FLASHMQ_TO_MOSQUITTO * figure('mosquitto', field)
  const isComparable = brokers.includes('flashmq') || brokers.includes('mosquitto')
  if (measured.length === 0 || !isComparable) return
  console.log('\nAims; where one is a ratio, it is that to FlashMQ\n')
  printRow(['broker', 'figure', 'measured', 'aim', 'reached'])
  printRow(Array(5).fill('---'))
  for (const { broker, field, ratio, atMost = Number.NaN } of measured) {
    const ours = ratio === undefined ? figure(broker, field) : figure(broker, field) / reference(field)
    const aim = ratio === undefined ? `at most ${shown(atMost)}` : `ratio ${ratio}`
    const isReached = ours <= (ratio ?? atMost)
    const measured = ratio === undefined ? shown(ours) : `ratio ${ours.toFixed(2)}`
    printRow([broker, titles.get(field), measured, aim, isReached ? 'yes' : '**no**'])
  }
}
