/** The programs of docs/queues.md, as they stand there. */
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, output, Program, ROOT, temporaryDirectory } from './process.ts'

const TEXT = readFileSync(join(ROOT, 'docs', 'queues.md'), 'utf8')

const PHOTOS = new Set(Array.from({ length: 10 }, (_, at) => `photo ${at + 1}`))

/** Workers in process groups of their own, as each terminal has one. */
const groups = new Set<Program>()

afterEach(async () => {
  for (const leader of groups) killGroup(leader)
  await cleanUp()
})

/** The part of the document below a heading, up to the next one. */
function section(heading: string): string {
  const [, rest = ''] = TEXT.split(`\n## ${heading}\n`)
  return rest.split('\n## ')[0]!
}

/** Writes the programs of a section, by the name in their first line, for a broker. */
async function written(heading: string, broker: BrokerProcess): Promise<string> {
  const directory = await temporaryDirectory()
  symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'))
  const programs = section(heading).matchAll(/```(?:js|sh)\n(?:\/\/|#) (\S+\.(?:mjs|sh))\n([\s\S]*?)```/g)
  for (const [, name, code] of programs) {
    const text = addressed(code!.replace("'mqtt://localhost'", `'mqtt://127.0.0.1:${broker.port}'`), broker)
    expect(text).not.toBe(code)
    writeFileSync(join(directory, name!), text)
  }
  return directory
}

/** A text in which the programs of Mosquitto and `godwit` are those of this broker. */
function addressed(text: string, { port, data }: BrokerProcess): string {
  return text
    .replace(/\bmosquitto_(?:pub|sub)\b/g, (program) => `${program} -h 127.0.0.1 -p ${port}`)
    .replace(/^godwit (.*)$/, (_, words) => `'${process.execPath}' '${MAIN}' ${words} --data '${data}'`)
}

/** The commands of a section with a program. */
function commands(heading: string, name: string): string[] {
  return [...section(heading).matchAll(/^ {4}(\S.*)$/gm)]
    .map(([, line]) => line!)
    .filter((line) => line.startsWith(name))
}

/** Runs a command of the document with the shell. */
function shell(command: string, broker: BrokerProcess): Program {
  return new Program('sh', ['-c', addressed(command, broker).replace(/^mosquitto_/, 'exec $&')])
}

/** Runs a command in a process group, which `killGroup` ends as a whole. */
function inGroup(command: string, directory: string): Program {
  const leader = new Program('setsid', command.split(/ +/).slice(0, 2), directory)
  groups.add(leader)
  return leader
}

/** SIGKILL for a process group that `inGroup` made. */
function killGroup(leader: Program): void {
  if (groups.delete(leader)) process.kill(-leader.pid, 'SIGKILL')
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

  test('has ten results of two slow shell workers of which one is killed', async () => {
    const broker = await BrokerProcess.start()
    const directory = await written('Slow workers, and results', broker)
    const command = (start: string): string[] => commands('Slow workers, and results', start)
    const [[declare], [fill], [results]] = [command('godwit '), command('for '), command('mosquitto_sub ')]
    expect(await shell(declare!, broker).ended).toMatchObject({ code: 0 })
    expect(await shell(fill!, broker).ended).toMatchObject({ code: 0 })
    const workers = command('sh ').map((line) => inGroup(line, directory))
    expect(workers).toHaveLength(2)
    const reader = shell(results!, broker)
    await reader.until((stdout) => stdout.includes('\n'))
    killGroup(workers.find(({ pid }) => reader.stdout.endsWith(`by ${pid}\n`))!)
    await reader.until((stdout) => stdout.split('\n').length > 10)
    expect(reader.stdout.match(/^photo \d+/gm)!.sort()).toEqual([...PHOTOS].sort())
    const words = ['queue', 'show', 'photos', '--json', '--data', broker.data]
    expect(JSON.parse(await output(process.execPath, MAIN, ...words))).toMatchObject({ messages: 0 })
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
    expect(photos(reader.stdout)).toEqual(PHOTOS)
  })
})
