/** PURE. Reads numbers of things, bytes and seconds as people write them: `64KiB`, `5m`, `unlimited`. */

/** The word for no limit. */
export const UNLIMITED = 'unlimited'

/** A range of numbers; `unlimited` tells whether that word is allowed. */
export interface Range {
  readonly min: number
  readonly max?: number
  readonly unlimited?: boolean
}

const BYTE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
}

const SECOND_UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }

/** Returns a whole number in the range; undefined for anything else. */
export function readInteger(found: unknown, range: Range): number | undefined {
  return inRange(typeof found === 'number' && Number.isInteger(found) ? found : undefined, found, range)
}

/** Returns bytes, given as a number or like `64KiB`. */
export function readBytes(found: unknown, range: Range): number | undefined {
  return inRange(wholeOnly(measure(found, BYTE_UNITS)), found, range)
}

/** Returns seconds, given as a number or like `30s`, `5m`, `2h`, `1d`. */
export function readSeconds(
  found: unknown,
  range: Range,
  precision: 'whole' | 'fractional' = 'fractional',
): number | undefined {
  const measured = measure(found, SECOND_UNITS)
  return inRange(precision === 'whole' ? wholeOnly(measured) : measured, found, range)
}

/** Names the integers that `readInteger` takes. */
export function integersInWords(range: Range): string {
  return `a whole number${inWords(range)}`
}

/** Names the values that `readBytes` takes. */
export function bytesInWords(range: Range): string {
  return `bytes, as a number or like 64KiB, 1MiB, 1GiB,${inWords(range)}`
}

/** Names the values that `readSeconds` takes. */
export function secondsInWords(range: Range, precision: 'whole' | 'fractional' = 'fractional'): string {
  const unit = precision === 'whole' ? 'whole seconds' : 'seconds'
  return `${unit}, as a number or like 30s, 5m, 2h, 1d,${inWords(range)}`
}

function inWords(range: Range): string {
  const numbers = range.max === undefined ? ` from ${range.min}` : ` from ${range.min} to ${range.max}`
  return range.unlimited === true ? `${numbers}, or ${UNLIMITED}` : numbers
}

function inRange(read: number | undefined, found: unknown, range: Range): number | undefined {
  if (found === UNLIMITED && range.unlimited === true) return Number.POSITIVE_INFINITY
  if (read === undefined || read < range.min || read > (range.max ?? Number.MAX_SAFE_INTEGER))
    return undefined
  return read
}

function wholeOnly(number: number | undefined): number | undefined {
  return number !== undefined && Number.isInteger(number) ? number : undefined
}

function measure(found: unknown, units: Readonly<Record<string, number>>): number | undefined {
  if (typeof found === 'number') return found
  if (typeof found !== 'string') return undefined
  const match = /^(\d+(?:\.\d+)?) ?([A-Za-z]+)$/.exec(found)
  const unit = match === null ? undefined : units[match[2]!]
  return unit === undefined ? undefined : Number(match![1]) * unit
}
