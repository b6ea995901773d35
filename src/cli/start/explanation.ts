/** Explains an error to the user: the message, the next step, and its code. */
import { ConfigError } from '../../config/config-error.ts'
import { ERRORS, errorCode } from '../../errors.ts'

/**
 * Returns the text for stderr. An error with neither a code nor advice is a defect and shows its stack. See
 * `docs/errors.md` for the codes.
 */
export function explanation(error: unknown): string {
  const code = errorCode(error)
  const given: unknown = error instanceof Error && 'advice' in error ? error.advice : undefined
  const advice = typeof given === 'string' ? given : code === null ? null : ERRORS[code].next
  if (advice === null) return defect(error)
  const { message } = error as Error
  // The problems of a configuration begin with their places.
  const first = error instanceof ConfigError ? message : `godwit: ${message}`
  return [first, advice, ...(code === null ? [] : [`Code: ${code}`]), ''].join('\n')
}

function defect(error: unknown): string {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
  return `godwit: ${text}\n${ERRORS.GODWIT_DEFECT.next}\nCode: GODWIT_DEFECT\n`
}
