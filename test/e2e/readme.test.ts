/** The commands and the programs of the README and of docs/embedding.md, as they stand there. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, Program, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

const LINES_MAX = 150

const README = readFileSync(join(ROOT, 'README.md'), 'utf8')

/** The commands below a heading that begin with these words. */
function commands(heading: string, start: string): string[] {
  const [, rest = ''] = README.split(`\n## ${heading}\n`)
  const blocks = rest.split('\n## ')[0]!.matchAll(/```sh\n([\s\S]*?)```/g)
  return [...blocks].flatMap(([, block]) => block!.split('\n').filter((line) => line.startsWith(start)))
}

/** Runs a command of the README against this broker. */
function run(command: string, { port }: BrokerProcess): Program {
  expect(command).toContain('-p 1883')
  return new Program('sh', ['-c', `exec ${command.replace('-p 1883', `-p ${port}`)}`])
}

/** Runs the program of a text in a directory of its own, on a free port. At its end it says `ready`. */
async function embedded(text: string): Promise<Program> {
  const directory = await temporaryDirectory()
  const [, code] = /```js\n(import [\s\S]*?)```/.exec(text)!
  const main = `${code!.replaceAll(/port: \d+/g, 'port: 0')}\nconsole.log('ready')\n`
  writeFileSync(join(directory, 'main.mjs'), main)
  mkdirSync(join(directory, 'node_modules'))
  symlinkSync(ROOT, join(directory, 'node_modules', 'godwit'))
  return new Program(process.execPath, ['main.mjs'], directory)
}

test('the README is one that is read', () => {
  expect(README.trimEnd().split('\n').length).toBeLessThanOrEqual(LINES_MAX)
})

test('a Session gets what was published while it was away, over a kill', async () => {
  const broker = await BrokerProcess.start()
  const [subscribe, take] = commands('A first message', 'mosquitto_sub')
  const [publish, fill] = commands('A first message', 'mosquitto_pub')
  const first = run(subscribe!, broker)
  // The message arrives once the Subscription is there.
  while (!first.stdout.includes('home/door open\n')) await run(publish!, broker).ended
  first.signal('SIGTERM')
  await first.ended
  for (const message of ['one', 'two']) await run(publish!.replace('open', message), broker).ended
  await broker.crash()
  await broker.restart()
  await run(subscribe!, broker).until((stdout) => stdout.endsWith('home/door one\nhome/door two\n'))

  expect(await run(fill!, broker).ended).toMatchObject({ code: 0 })
  expect(await run(take!, broker).ended).toMatchObject({ code: 0, stdout: 'resize photo 7\n' })
})

test('configuration in the environment and on the command line', async () => {
  const [command] = commands('Configuration', 'GODWIT_')
  const data = await temporaryDirectory()
  const program = `'${process.execPath}' '${MAIN}'`
  const words = command!.replace('node dist/main.js', program).replace('1884', `0 --data '${data}'`)
  const broker = new Program('sh', ['-c', `exec env ${words}`])
  await broker.until((stdout) => stdout.includes('godwit try:'))
})

test('the program of docs/embedding.md starts a broker, and ends', async () => {
  const text = readFileSync(join(ROOT, 'docs', 'embedding.md'), 'utf8')
  const program = await embedded(text)
  await program.until((stdout) => stdout.endsWith('ready\n'))
  program.signal('SIGTERM')
  expect(await program.ended).toMatchObject({ code: 0, stderr: '' })
})

test('the program of the README hands a message to itself, and ends', async () => {
  const program = await embedded(README)
  await program.until((stdout) => /^sensors\/1 20\.5$/m.test(stdout) && stdout.includes('ready\n'))
  program.signal('SIGTERM')
  expect(await program.ended).toMatchObject({ code: 0, stderr: '' })
})
