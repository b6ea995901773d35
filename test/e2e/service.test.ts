/** The systemd unit, judged by systemd's own tool, which the tests need no running systemd for. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { output, ROOT } from './process.ts'

const UNIT = join(ROOT, 'config', 'godwit.service')

/** Of 100; above 50 systemd calls a service exposed. What is left is the network, and nothing can be done without. */
const EXPOSURE_MAX = 20

test('the unit has no mistakes that systemd finds, and next to no rights', async () => {
  await output('systemd-analyze', 'verify', UNIT)
  const words = ['security', '--offline=true', `--threshold=${EXPOSURE_MAX}`, '--no-pager', UNIT]
  const told = await output('systemd-analyze', ...words)
  expect(told).toContain('Overall exposure level for godwit.service')
})

test('the unit waits longer for the end than the broker takes, and does not repeat a wrong configuration', () => {
  const unit = readFileSync(UNIT, 'utf8')
  expect(unit).toMatch(/^ExecStart=\/usr\/bin\/env godwit start --data \/var\/lib\/godwit$/m)
  expect(unit).toMatch(/^RestartPreventExitStatus=2$/m)
  expect(Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)![1])).toBeGreaterThan(5 + 2)
})
