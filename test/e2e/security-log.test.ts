/** The security log of a broker's process, in a file of its own and in the log. */
import { readFile, rename, stat } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, output, Program, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

type Entry = Record<string, unknown>

async function entries(path: string): Promise<Entry[]> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

/** Resolves with the entries once there is one with this code. */
async function until(path: string, code: string): Promise<Entry[]> {
  for (;;) {
    const found = await entries(path)
    if (found.some(({ security }) => security === code)) return found
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

function publish(port: number, ...words: string[]): Promise<unknown> {
  return new Program('mosquitto_pub', ['-h', '127.0.0.1', '-p', `${port}`, '-t', 'a', '-m', 'x', ...words])
    .ended
}

test('log-ins, refusals and changes are in a file for its owner only, without secrets', async () => {
  const data = await temporaryDirectory()
  const path = join(await temporaryDirectory(), 'security.log')
  await output(process.execPath, MAIN, 'user', 'add', 'ada', '--generate', '--data', data)
  const added = await output(process.execPath, MAIN, 'user', 'add', 'bo', '--generate', '--data', data)
  const password = added.trimEnd().split('\n').at(-1)!
  const broker = await BrokerProcess.start({ data, words: ['--set', `log.security_file=${path}`] })
  await publish(broker.port, '-i', 'device', '-u', 'bo', '-P', password)
  await publish(broker.port, '-i', 'device', '-u', 'bo', '-P', 'not-the-password')
  await output(process.execPath, MAIN, 'user', 'disable', 'bo', '--data', data)
  await publish(broker.port, '-i', 'device', '-u', 'bo', '-P', password)
  const by = userInfo().username
  const found = await until(path, 'S303')
  expect(found).toMatchObject(
    expect.arrayContaining([
      expect.objectContaining({ security: 'S101', clientId: 'device', userName: 'bo' }),
      expect.objectContaining({ security: 'S102', clientId: 'device', userName: 'bo' }),
      expect.objectContaining({ security: 'S303', subject: 'bo', by: expect.stringContaining(by) }),
    ]),
  )
  expect((await stat(path)).mode & 0o777).toBe(0o600)

  await rename(path, `${path}.1`)
  const backup = join(await temporaryDirectory(), 'b.godwit-backup')
  await output(process.execPath, MAIN, 'backup', backup, '--data', data)
  await broker.stop()
  const all = [...(await entries(`${path}.1`)), ...(await entries(path))]
  expect(all.map(({ security }) => security)).toContain('S505')
  const text = JSON.stringify(all) + broker.program.stdout
  expect(text).not.toContain(password)
  expect(text).not.toContain('not-the-password')
})

test('without a file they are in the log, with their codes', async () => {
  const broker = await BrokerProcess.start()
  await publish(broker.port, '-i', 'device')
  await output(process.execPath, MAIN, 'backup', join(await temporaryDirectory(), 'b'), '--data', broker.data)
  const { stdout } = await broker.stop()
  const logged = stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Entry)
  expect(logged).toMatchObject(
    expect.arrayContaining([
      expect.objectContaining({ security: 'S101', clientId: 'device', msg: 'client connected' }),
      expect.objectContaining({ security: 'S505', subject: broker.data, by: expect.any(String) }),
    ]),
  )
})

test('a file that cannot be written prevents the start, and says so', async () => {
  const data = await temporaryDirectory()
  const path = join(data, 'none', 'security.log')
  const words = [MAIN, '--port', '0', '--data', data, '--set', `log.security_file=${path}`]
  const { code, stderr } = await new Program(process.execPath, words).ended
  expect(code).toBe(1)
  expect(stderr).toContain(`${path} cannot be written`)
  expect(stderr).toContain("Name a file in a directory that the broker's user can write.")
})

test('in the data directory of a fresh setup the file does not prevent the start [field-A2]', async () => {
  const data = await temporaryDirectory()
  await output(process.execPath, MAIN, 'setup', '--data', data)
  const path = join(data, 'security.log')
  const broker = await BrokerProcess.start({ data, words: ['--set', `log.security_file=${path}`] })
  await broker.stop()
  await broker.restart()
  await broker.stop()
  expect((await stat(path)).isFile()).toBe(true)
})
