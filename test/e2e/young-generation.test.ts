import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { MAIN, output } from './process.ts'

const MIB = 1024 * 1024

/** Has objects survive while the young generation is held, and after that. Prints its sizes. */
const SURVIVORS = `
import { getHeapSpaceStatistics } from 'node:v8'
const { YoungGeneration } = await import(process.argv[1])
const sizes = []
function survive() {
  const kept = []
  for (let i = 0; i < 300_000; i++) kept.push({ i, list: [i] })
  sizes.push(getHeapSpaceStatistics().find((space) => space.space_name === 'new_space').space_size)
}
const young = new YoungGeneration()
survive()
young.stop()
survive()
console.log(JSON.stringify(sizes))
`

test.runIf(process.versions.v8.startsWith('11.3.'))(
  'objects that survive do not make the young generation grow while it is held',
  async () => {
    const file = pathToFileURL(join(dirname(MAIN), 'runtime', 'young-generation.js')).href
    const words = ['--input-type=module', '--eval', SURVIVORS, file]
    const [held, free] = JSON.parse(await output(process.execPath, ...words)) as [number, number]
    expect(held).toBeLessThanOrEqual(4 * MIB)
    expect(free).toBeGreaterThanOrEqual(16 * MIB)
  },
)
