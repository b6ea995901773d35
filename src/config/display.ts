/** PURE. Formats values of the configuration for errors, logs and commands, and hides secrets. */

/** Longer values are cut off. */
const CHARACTERS_MAX = 60

/** Replaces a secret value of any type. */
export const SECRET = '(secret)'

/** Names of secret keys, even if they are misspelt or misplaced. */
const SECRET_NAME = /pass(?!ed)|secret|token|private/i

/** Exceptions: keys that name a file. */
const OPEN_NAME = /_files?$/i

/** Whether the value at this path must not be shown. */
export function isSecret(path: readonly (string | number)[]): boolean {
  return path.some((part) => isSecretName(String(part)))
}

/** Returns the value with its secrets replaced. */
export function redact(value: unknown): unknown {
  if (typeof value === 'string') return value.includes('PRIVATE KEY-----') ? SECRET : value
  if (Array.isArray(value)) return value.map(redact)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([name, inner]): [string, unknown] => [
    name,
    isSecretName(name) ? SECRET : redact(inner),
  ])
  return Object.fromEntries(entries)
}

/** Formats a value for an error, in one short line. */
export function display(value: unknown): string {
  if (value === undefined || value === null) return 'nothing'
  return truncate(JSON.stringify(redact(value)))
}

/** Cuts off a long text. */
export function truncate(text: string): string {
  return text.length > CHARACTERS_MAX ? `${text.slice(0, CHARACTERS_MAX - 3)}...` : text
}

function isSecretName(name: string): boolean {
  return SECRET_NAME.test(name) && !OPEN_NAME.test(name)
}
