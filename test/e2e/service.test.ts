/** The systemd unit, judged by systemd's own tool, which the tests need no running systemd for. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { output, ROOT } from './process.ts'

const UNIT = join(ROOT, 'config', 'godwit.service')

/** Of 100; systemd calls a service above 50 exposed. The rest is for the network, which the broker needs. */
const EXPOSURE_MAX = 20

test('systemd finds no mistakes in the unit, which has almost no rights', async () => {
  await output('systemd-analyze', 'verify', UNIT)
  const words = ['security', '--offline=true', `--threshold=${EXPOSURE_MAX}`, '--no-pager', UNIT]
  const told = await output('systemd-analyze', ...words)
  expect(told).toContain('Overall exposure level for godwit.service')
})

test('the unit gives the broker time to end, and does not restart it on a wrong configuration', () => {
  const unit = readFileSync(UNIT, 'utf8')
  expect(unit).toMatch(/^ExecStart=\/usr\/bin\/env godwit start --data \/var\/lib\/godwit$/m)
  expect(unit).toMatch(/^RestartPreventExitStatus=2$/m)
  expect(Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)![1])).toBeGreaterThan(5 + 2)
})
