/** Other users of the machine cannot read a broker's files, whatever the umask of its start. */
import { readdirSync, statSync } from 'node:fs'
import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, mosquittoPub, output, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8)

test('messages, Sessions and backups are readable by the broker’s user only', async () => {
  const data = join(await temporaryDirectory(), 'new')
  const mask = process.umask(0)
  let broker: BrokerProcess
  try {
    broker = await BrokerProcess.start({ data })
  } finally {
    process.umask(mask)
  }
  expect(modeOf(data)).toBe('700')
  await mosquittoPub(broker.port, '-t', 'a', '-m', 'x', '-r', '-q', '1')
  const backup = join(data, '..', 'backup')
  await output(process.execPath, MAIN, 'backup', backup, '--data', data)
  await output(process.execPath, MAIN, 'export', `${backup}.jsonl`, '--data', data)
  const files = [data, backup].flatMap((directory) =>
    readdirSync(directory).map((name) => join(directory, name)),
  )
  expect(files.length).toBeGreaterThan(8)
  for (const path of [...files, `${backup}.jsonl`]) expect(modeOf(path), path).toMatch(/^[67]00$/)
})

test('the start warns of a directory or password file that others can access, with a remedy', async () => {
  const data = join(await temporaryDirectory(), 'open')
  const passwords = join(data, 'passwords')
  await mkdir(data)
  await output('mosquitto_passwd', '-b', '-c', passwords, 'u', 'p')
  const words = ['--set', `access.password_files=["${passwords}"]`]
  for (const [mode, told] of [
    [0o777, true],
    [0o755, false],
  ] as const) {
    await chmod(data, mode)
    await chmod(passwords, told ? 0o644 : 0o600)
    const broker = await BrokerProcess.start({ data, words })
    expect(broker.program.stdout.includes(`note: ${data} lets every user`)).toBe(told)
    expect(broker.program.stdout.includes(`chmod o-w ${data}\n`)).toBe(told)
    expect(broker.program.stdout.includes(`chmod o-rw ${passwords}\n`)).toBe(told)
    await broker.program.kill()
  }
})
