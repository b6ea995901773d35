/**
 * One client cannot hurt the others: small versions of all attacks, beside a fleet that should notice
 * nothing.
 */
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, output, ROOT } from './process.ts'

afterEach(cleanUp)

test('npm run soak: a fleet loses nothing and is refused nothing while others try everything', async () => {
  const script = join(ROOT, 'scripts', 'fairness', 'soak.mjs')
  const words = ['--minutes', '1', '--devices', '60', '--scale', '0.01']
  const table = await output(process.execPath, script, ...words)
  expect(table).toMatch(/ 0 lost, 0 doubled; 0 disconnects, 0 refusals; peak \d+ MiB$/m)
  // The last attack ran at least once, so all of them did.
  expect(table).toMatch(/^\| noise \| \d+ \|/m)
})
