/** Defines the kinds of values in a configuration as zod types whose issues name the allowed values. */
import { z } from 'zod'

/** The word for no limit. */
const UNLIMITED = 'unlimited'
/** The word for a value that the broker computes. */
export const AUTOMATIC = 'auto'

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

/** Accepts values for which `read` does not return undefined; `allowed` is the message of the issue. */
export function value<T>(allowed: string, read: (found: unknown) => T | undefined) {
  return z.unknown().transform((found, context): T => {
    const result = read(found)
    if (result !== undefined) return result
    context.addIssue({ code: 'custom', message: allowed })
    return z.NEVER
  })
}

/** Accepts an integer. */
export function integer(range: Range) {
  return value(`a whole number${inWords(range, String)}`, (found) =>
    inRange(typeof found === 'number' && Number.isInteger(found) ? found : undefined, found, range),
  )
}

/** Accepts a number of bytes, as a number or like `64KiB`. */
export function bytes(range: Range) {
  return value(
    `bytes, as a number or like 64KiB, 1MiB, 1GiB,${inWords(range, (limit) => String(limit))}`,
    (found) => inRange(wholeOnly(measure(found, BYTE_UNITS)), found, range),
  )
}

/** Accepts a number of bytes or the word `auto`. */
export function bytesOrAutomatic(range: Range) {
  const allowed = `bytes, as a number or like 64KiB, 1MiB, 1GiB,${inWords(range, String)}, or ${AUTOMATIC}`
  return value(allowed, (found): number | typeof AUTOMATIC | undefined =>
    found === AUTOMATIC ? found : inRange(wholeOnly(measure(found, BYTE_UNITS)), found, range),
  )
}

/** Accepts seconds, as a number or like `30s`, `5m`, `2h`, `1d`. */
export function seconds(range: Range, precision: 'whole' | 'fractional' = 'fractional') {
  const unit = precision === 'whole' ? 'whole seconds' : 'seconds'
  return value(`${unit}, as a number or like 30s, 5m, 2h, 1d,${inWords(range, String)}`, (found) => {
    const measured = measure(found, SECOND_UNITS)
    return inRange(precision === 'whole' ? wholeOnly(measured) : measured, found, range)
  })
}

/** Accepts `true` or `false`. */
export function flag() {
  return value('true or false', (found) => (typeof found === 'boolean' ? found : undefined))
}

/** Accepts one of these words, numbers or booleans. */
export function oneOf<const T extends string | number | boolean>(choices: readonly T[]) {
  return value(choices.join(', ').replace(/, ([^,]*)$/, ' or $1'), (found) =>
    choices.find((choice) => choice === found),
  )
}

/** Accepts text that matches the pattern, by default any that is not empty. */
export function text(allowed: string, pattern = /./) {
  return value(allowed, (found) => (typeof found === 'string' && pattern.test(found) ? found : undefined))
}

function inWords(range: Range, written: (limit: number) => string): string {
  const numbers =
    range.max === undefined
      ? ` from ${written(range.min)}`
      : ` from ${written(range.min)} to ${written(range.max)}`
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
