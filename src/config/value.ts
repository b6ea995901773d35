/** Defines the kinds of values in a configuration as zod types whose issues name the allowed values. */
import { z } from 'zod'
import {
  bytesInWords,
  integersInWords,
  type Range,
  readBytes,
  readInteger,
  readSeconds,
  secondsInWords,
} from '../structures/quantity.ts'

/** The word for a value that the broker computes. */
export const AUTOMATIC = 'auto'

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
  return value(integersInWords(range), (found) => readInteger(found, range))
}

/** Accepts a number of bytes, as a number or like `64KiB`. */
export function bytes(range: Range) {
  return value(bytesInWords(range), (found) => readBytes(found, range))
}

/** Accepts a number of bytes or the word `auto`. */
export function bytesOrAutomatic(range: Range) {
  return value(`${bytesInWords(range)}, or ${AUTOMATIC}`, (found): number | typeof AUTOMATIC | undefined =>
    found === AUTOMATIC ? found : readBytes(found, range),
  )
}

/** Accepts seconds, as a number or like `30s`, `5m`, `2h`, `1d`. */
export function seconds(range: Range, precision: 'whole' | 'fractional' = 'fractional') {
  return value(secondsInWords(range, precision), (found) => readSeconds(found, range, precision))
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
