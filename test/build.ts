/** Runs before the tests of the project `built`: gives one clear error if there is no build. */
import { existsSync } from 'node:fs'
import { MAIN } from './e2e/process.ts'

export function setup(): void {
  if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: run \`npm run build\` first, or --project unit`)
}
