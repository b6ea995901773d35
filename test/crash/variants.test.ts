import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { MUTANTS, STEPPED, TIGHT } from '../../scripts/crash/variants.mjs'

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url))

describe('the texts that the crash harness changes', () => {
  it.each([TIGHT, STEPPED, ...MUTANTS])('are in the build exactly once: $name', ({ edits }) => {
    expect(existsSync(DIST), 'npm run build first').toBe(true)
    for (const [file, from] of edits) {
      expect(readFileSync(`${DIST}${file}`, 'utf8').split(from).length - 1, `${file}: ${from}`).toBe(1)
    }
  })
})
