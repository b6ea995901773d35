/** Reads the version of Godwit from its package. */
import { readFileSync } from 'node:fs'

/** Returns the version of Godwit. */
export function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
