/**
 * The aims for Godwit, set before it was written. They come from a prototype of 160 lines that was no broker,
 * measured beside Mosquitto on another machine. Ratios carry over only if both machines divide their time
 * between the kernel and the program alike, so bare.mjs is measured again where Godwit is.
 */
import { cell, printRow, shown } from './table.mjs'

/**
 * The aims, by row and field of the report: a `ratio` to Mosquitto in the same run, or an amount that is
 * `atMost` so much; `prototype` is the prototype's figure, in the same unit.
 *
 * @type {Record<string, Record<string, { ratio?: number, atMost?: number, prototype?: number }>>}
 */
export const AIMS = {
  'fanin-q0': { cpu_us_per_msg: { ratio: 0.08, prototype: 0.03 } },
  'fanin-q1': { cpu_us_per_msg: { ratio: 0.09, prototype: 0.06 } },
  'fanin-q2': { cpu_us_per_msg: { ratio: 0.08 } },
  'fanout-q0': { cpu_us_per_msg: { ratio: 0.04, prototype: 0.02 } },
  'fanout-q1': { cpu_us_per_msg: { ratio: 0.09, prototype: 0.06 } },
  'fanout-q0-1000': { cpu_us_per_msg: { ratio: 0.07, prototype: 0.04 } },
  'pairs-q0': { cpu_us_per_msg: { ratio: 0.08, prototype: 0.04 } },
  'pairs-q1': { cpu_us_per_msg: { ratio: 0.13, prototype: 0.09 } },
  'pairs-q0-single': { cpu_us_per_msg: { ratio: 1.1, prototype: 0.98 } },
  'pairs-q1-single': { cpu_us_per_msg: { ratio: 1.15, prototype: 1.05 } },
  'pairs-q0-8k': { cpu_us_per_msg: { ratio: 0.45, prototype: 0.45 } },
  'latency-q1': { p50_us: { ratio: 1.2, prototype: 1.17 }, p99_us: { ratio: 1.2, prototype: 1.21 } },
  'subs-1k': { cpu_us_per_msg: { atMost: 2 } },
  'subs-100k': {
    cpu_us_per_msg: { ratio: 0.2 },
    rss_bytes_per_subscription: { atMost: 250 },
  },
  'subs-1M': { cpu_us_per_msg: { atMost: 2 } },
  retained: { cpu_us_per_publish: { ratio: 2.5 }, cpu_us_per_drained: { ratio: 0.2 } },
  connect: { cpu_us_per_connect: { ratio: 3, prototype: 2.7 } },
  idle: { rss_bytes_per_conn: { atMost: 7 * 1024, prototype: 6.1 * 1024 } },
  'durable-q1': { cpu_us_per_stored: { ratio: 0.3 }, cpu_us_per_drained: { ratio: 0.35 } },
  start: { rss_mb: { atMost: 60, prototype: 44 } },
}

const COLUMNS = [
  'row',
  'figure',
  'godwit (to mosquitto)',
  'aim',
  'reached',
  'godwit to bare-node',
  'bare-node (to mosquitto)',
  'prototype, elsewhere',
]

/**
 * Prints which of the rows have reached their aim.
 *
 * @param {readonly string[]} rows names of rows; those without an aim are left out
 * @param {(row: string, field: string) => string} names returns the title of a figure
 * @param {(row: string, broker: string, field: string) => number} figure returns NaN where there is none
 * @param {string} godwit the name of the Godwit that is compared
 */
export function printAims(rows, names, figure, godwit) {
  const aims = rows.flatMap((row) =>
    Object.entries(AIMS[row] ?? {}).map(([field, aim]) => ({ row, field, ...aim })),
  )
  if (aims.length === 0) return
  console.log('\nAims; where one is a ratio, it is that of Godwit to Mosquitto\n')
  printRow(COLUMNS)
  printRow(COLUMNS.map(() => '---'))
  for (const { row, field, ratio, atMost, prototype } of aims) {
    const [ours, theirs, bare] = [godwit, 'mosquitto', 'bare-node'].map((broker) =>
      figure(row, broker, field),
    )
    const reached = ratio === undefined ? ours <= (atMost ?? Number.NaN) : ours / theirs <= ratio
    const known = Number.isFinite(ratio === undefined ? ours : ours / theirs)
    printRow([
      row,
      names(row, field),
      cell(ours, theirs),
      ratio === undefined ? `at most ${shown(atMost)}` : `ratio ${ratio}`,
      known ? (reached ? 'yes' : '**no**') : '–',
      shown(ours / bare),
      cell(bare, theirs),
      prototype === undefined ? '–' : ratio === undefined ? shown(prototype) : `ratio ${prototype}`,
    ])
  }
}
