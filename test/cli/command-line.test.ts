/** The help of the command line, and its agreement with the commands. */
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { helpText, parseCommandLine } from '../../src/cli/command-line.ts'

test('the help is the text that is stored beside this test', async () => {
  const stored = readFileSync(new URL('help.txt', import.meta.url), 'utf8')
  expect(await helpText()).toBe(stored)
})

test('every file of commands is in the list', () => {
  const folder = new URL('../../src/cli/commands/', import.meta.url)
  const list = readFileSync(new URL('../../src/cli/command-line.ts', import.meta.url), 'utf8')
  const missing = readdirSync(folder).filter((file) => !list.includes(`import('./commands/${file}')`))
  expect(missing).toEqual([])
})

test.each([
  ['stat', "unknown command 'stat'; did you mean start?"],
  ['nonsense', "unknown command 'nonsense'"],
])('%s is refused', async (word, message) => {
  await expect(parseCommandLine([word])).rejects.toThrow(message)
})
