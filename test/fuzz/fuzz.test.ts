/** A short run of every fuzz target, counted in inputs; and every find of a long one, by its name. */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { Campaign } from './engine.ts'
import { PLANS } from './targets.ts'

const SEED = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 0x7fffffff))

describe(`a short run, FUZZ_SEED=${SEED}`, () => {
  test.each(PLANS)('$target.name: $shortRun $target.unit', async ({ target, shortRun }) => {
    const campaign = new Campaign(target, SEED)
    const find = await campaign.run(shortRun)
    expect(find, JSON.stringify(find, null, 2)).toBeNull()
    expect(campaign.inputs).toBe(shortRun)
    expect(campaign.kept).toBeGreaterThan(10)
  })
})

interface Kept {
  readonly name: string
  readonly target: string
  /** What was wrong. */
  readonly wrong: string
  readonly input: unknown
}

const FINDS = fileURLToPath(new URL('./finds/', import.meta.url))

const finds = readdirSync(FINDS)
  .filter((file) => file.endsWith('.json'))
  .map((file) => JSON.parse(readFileSync(`${FINDS}${file}`, 'utf8')) as Kept)

describe('what a fuzzer found stays repaired', () => {
  test.each(finds)('$target: $name', async ({ target: name, input }) => {
    const plan = PLANS.find(({ target }) => target.name === name)!
    await plan.target.run(plan.target.read(input as never))
  })
})
