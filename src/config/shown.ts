/** PURE. Values of the configuration as errors, logs and commands show them: secrets never. */

/** Longer values are cut, in characters. */
const CHARACTERS_MAX = 60

/** Stands for what is secret, whatever type it has. */
export const SECRET = '(secret)'

/** Also of keys that are misspelt, or stand where they may not. */
const SECRET_NAME = /pass|secret|token|private/i

/** Parts of such names that name a file or a choice. */
const OPEN_NAME = /_files?$/i

/** Whether what is at this path must not be shown. */
export function isSecret(path: readonly (string | number)[]): boolean {
  return path.some((part) => isSecretName(String(part)))
}

/** The same value, with what is secret in it replaced. */
export function redacted(value: unknown): unknown {
  if (typeof value === 'string') return value.includes('PRIVATE KEY-----') ? SECRET : value
  if (Array.isArray(value)) return value.map(redacted)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([name, inner]): [string, unknown] => [
    name,
    isSecretName(name) ? SECRET : redacted(inner),
  ])
  return Object.fromEntries(entries)
}

/** A value as an error shows it: one line, not too long. */
export function shown(value: unknown): string {
  if (value === undefined || value === null) return 'nothing'
  return shortened(JSON.stringify(redacted(value)))
}

/** A text that is cut where it is too long. */
export function shortened(text: string): string {
  return text.length > CHARACTERS_MAX ? `${text.slice(0, CHARACTERS_MAX - 3)}...` : text
}

function isSecretName(name: string): boolean {
  return SECRET_NAME.test(name) && !OPEN_NAME.test(name)
}
