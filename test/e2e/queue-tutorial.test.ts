/** The programs of docs/queues.md, as they stand there. */
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, Program, ROOT, temporaryDirectory } from './process.ts'

const TEXT = readFileSync(join(ROOT, 'docs', 'queues.md'), 'utf8')

afterEach(cleanUp)

/** The part of the document below a heading, up to the next one. */
function section(heading: string): string {
  const [, rest = ''] = TEXT.split(`\n## ${heading}\n`)
  return rest.split('\n## ')[0]!
}

/** Writes the programs of a section, by the name in their first line, for a broker. */
async function written(heading: string, { port }: BrokerProcess): Promise<string> {
  const directory = await temporaryDirectory()
  symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'))
  for (const [, name, code] of section(heading).matchAll(/```js\n\/\/ (\S+\.mjs)\n([\s\S]*?)```/g)) {
    const text = code!.replace("'mqtt://localhost'", `'mqtt://127.0.0.1:${port}'`)
    expect(text).not.toBe(code)
    writeFileSync(join(directory, name!), text)
  }
  return directory
}

/** The commands of a section with a program. */
function commands(heading: string, name: string): string[] {
  return [...section(heading).matchAll(/^ {4}(\S.*)$/gm)]
    .map(([, line]) => line!)
    .filter((line) => line.startsWith(name))
}

/** Runs a command of the document with the shell. */
function shell(command: string, { port }: BrokerProcess): Program {
  const given = command.replace(/^mosquitto_\w+/, (program) => `exec ${program} -h 127.0.0.1 -p ${port}`)
  return new Program('sh', ['-c', given])
}

describe('the tutorial', () => {
  test('says hello with mosquitto, the producer first', async () => {
    const broker = await BrokerProcess.start()
    const [publish, take] = commands('Hello', 'mosquitto_')
    expect(await shell(publish!, broker).ended).toMatchObject({ code: 0 })
    await broker.crash()
    await broker.restart()
    await shell(take!, broker).until((stdout) => stdout === '$queue/hello Hello\n')
  })

  test('says hello with MQTT.js, the producer first', async () => {
    const broker = await BrokerProcess.start()
    const directory = await written('Hello', broker)
    expect(await new Program('node', ['send.mjs'], directory).ended).toMatchObject({ code: 0 })
    await broker.crash()
    await broker.restart()
    const receiver = new Program('node', ['receive.mjs'], directory)
    await receiver.until((stdout) => stdout === '$queue/hello Hello\n')
  })

  test('has ten results of two slow workers of which one is killed', async () => {
    const broker = await BrokerProcess.start()
    const directory = await written('Slow workers, and results', broker)
    const run = (line: string): Program => new Program('node', [line.split(/ +/)[1]!], directory)
    const [jobs, worker, other, results] = commands('Slow workers, and results', 'node ')
    expect(await run(jobs!).ended).toMatchObject({ code: 0 })
    const workers = [run(worker!), run(other!)]
    for (const one of workers) await one.until((stdout) => stdout === 'ready\n')
    const reader = run(results!)
    await reader.until((stdout) => stdout.includes(`by ${workers[1]!.pid}\n`))
    await workers[1]!.kill()
    const photos = (stdout: string): Set<string> => new Set(stdout.match(/^photo \d+/gm))
    await reader.until((stdout) => photos(stdout).size === 10)
    expect(photos(reader.stdout)).toEqual(new Set(Array.from({ length: 10 }, (_, at) => `photo ${at + 1}`)))
  })
})
