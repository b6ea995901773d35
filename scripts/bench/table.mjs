/** Prints the markdown tables of the benchmarks, with figures and ratios. */
import { cpus, release } from 'node:os'
import { versions } from './brokers.mjs'

/** Splits a list of names at commas. Ends the program with 2 when one is not among `names`. */
export function known(list, names) {
  const chosen = list.split(',')
  const unknown = chosen.find((name) => !names.includes(name))
  if (unknown === undefined) return chosen
  console.error(`There is no '${unknown}': ${names.join(', ')}`)
  process.exit(2)
}

/**
 * Prints two lines above a table: what ran, and where.
 *
 * @param {{ rounds: number, secs: number | string, from?: string }} run
 */
export function printMachine({ rounds, secs, from }) {
  printHead(from === undefined ? `medians of ${rounds} rounds of ${secs} s` : `medians of what ${from} has`)
}

/**
 * Prints the same two lines for a run that is described by `what`.
 *
 * @param {string} what
 */
export function printHead(what) {
  const { godwit, mosquitto, aedes, node } = versions()
  const cpu = cpus()
  console.log(`Godwit ${godwit}, Mosquitto ${mosquitto}, Aedes ${aedes}; Node ${node}, Linux ${release()}`)
  console.log(`${cpu.length} x ${cpu[0].model}; ${what}\n`)
}

export function printRow(cells) {
  console.log(`| ${cells.join(' | ')} |`)
}

/** Formats a figure, with its ratio to the reference if there is one. */
export function cell(value, reference) {
  if (!(Number.isFinite(value) && reference > 0)) return shown(value)
  return `${shown(value)} (${(value / reference).toFixed(2)})`
}

/** Returns the median of the finite values, NaN if there are none. */
export function median(list) {
  const sorted = list.filter(Number.isFinite).toSorted((a, b) => a - b)
  if (sorted.length === 0) return Number.NaN
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Formats a number with as many digits as are worth reading. */
export function shown(value) {
  if (!Number.isFinite(value)) return '–'
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US')
  return Number.isInteger(value) ? `${value}` : value.toFixed(Math.abs(value) >= 10 ? 1 : 2)
}
