import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openControlSocket } from '../../../src/admin/control.ts'
import { checkAgainstRunning, reload } from '../../../src/cli/start/reload.ts'

test('the Client Identifier of a client that is cut off cannot control the terminal', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  const cutOff = [{ clientId: '\u001b[2Jx\nall is well', listener: 'a', reason: 'it is gone' }]
  const answer = () => ({ changes: [], files: [], cutOff })
  const control = await openControlSocket(directory, { reload: answer, 'check-config': answer })
  try {
    for (const text of [
      await reload(directory, false),
      await checkAgainstRunning(directory, 'f', '', false),
    ]) {
      expect(text.split('\n')).toHaveLength(3)
      expect(text).toContain('  \\u{1b}[2Jx\\u{a}all is well: it is gone')
    }
  } finally {
    await control.close()
    rmSync(directory, { recursive: true })
  }
})
