import { expect, test } from 'vitest'
import { MAIN, Program } from './process.ts'

test('V8 knows the flags that the program sets: it would complain on stderr', async () => {
  const { code, stderr } = await new Program(process.execPath, [MAIN, '--version']).ended
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})
