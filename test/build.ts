/** Before the tests of the project `built`: without a build, one clear error instead of one in each of them. */
import { existsSync } from 'node:fs'
import { MAIN } from './e2e/process.ts'

export function setup(): void {
  if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: run \`npm run build\` first, or --project unit`)
}
