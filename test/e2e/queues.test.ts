/** Queues with the programs that people use: the examples of docs/queues.md. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, MosquittoSub, output, Program, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

async function start(configuration: string): Promise<BrokerProcess> {
  const data = await temporaryDirectory()
  writeFileSync(join(data, 'godwit.yaml'), configuration)
  return BrokerProcess.start({ data })
}

function godwit(broker: BrokerProcess, ...words: string[]): Promise<string> {
  return output(process.execPath, MAIN, ...words, '--data', broker.data)
}

function publish({ port }: BrokerProcess, ...words: string[]): Program {
  return new Program('mosquitto_pub', ['-p', `${port}`, '-q', '1', ...words])
}

function take({ port }: BrokerProcess, ...words: string[]): Promise<string> {
  return output('mosquitto_sub', '-p', `${port}`, '-q', '1', ...words)
}

describe('queues and mosquitto', () => {
  test('a message waits for the first consumer, over a crash too', async () => {
    const broker = await start('')
    expect(await publish(broker, '-t', '$queue/hello', '-m', 'Hello').ended).toMatchObject({ code: 0 })
    await broker.crash()
    await broker.restart()
    expect(await take(broker, '-t', '$queue/hello', '-C', '1', '-v')).toBe('$queue/hello Hello\n')
  })

  test('workers share what publishers send to ordinary topics', async () => {
    const broker = await start("queues: { declared: [{ name: jobs, filters: ['jobs/#'] }] }")
    await publish(broker, '-t', 'jobs/resize/1', '-m', '1').ended
    const workers = [
      await MosquittoSub.start(broker.port, ['-t', '$queue/jobs/#', '-q', '1'], '%t %p'),
      await MosquittoSub.start(broker.port, ['-t', '$share/jobs/jobs/#', '-q', '1'], '%t %p'),
      await MosquittoSub.start(broker.port, ['-t', '$q/jobs;prefetch=5/#', '-q', '1'], '%t %p'),
    ]
    const [listener] = [await MosquittoSub.start(broker.port, ['-t', 'jobs/#', '-q', '1'], '%t %p')]
    for (let n = 2; n <= 12; n++) await publish(broker, '-t', `jobs/resize/${n}`, '-m', `${n}`).ended
    await listener!.received(11)
    const got = (): string[] => workers.flatMap((worker) => worker.messages)
    await expect.poll(() => got().length, { timeout: 60_000 }).toBe(12)
    expect(
      got()
        .map((line) => Number(line.split(' ')[1]))
        .sort((a, b) => a - b),
    ).toEqual(Array.from({ length: 12 }, (_, at) => at + 1))
    const topics = ['$queue/jobs/jobs/resize/', 'jobs/resize/', '$q/jobs;prefetch=5/jobs/resize/']
    for (const [at, worker] of workers.entries()) {
      for (const line of worker.messages) expect(line.startsWith(topics[at]!)).toBe(true)
    }
    expect(await godwit(broker, 'queue', 'list')).toMatch(/^jobs +0 +0 +0 +0 +3 +file +jobs\/#$/m)
  })

  test('a full queue tells a publisher of 5.0, and disconnects one before', async () => {
    const broker = await start('queues: { declared: [{ name: box, messages_max: 1 }] }')
    await publish(broker, '-t', '$queue/box', '-m', '1').ended
    const told = await publish(broker, '-V', '5', '-t', '$queue/box', '-m', '2').ended
    expect(told.stderr).toContain('Publish 1 failed: Quota exceeded.')
    expect(told.stderr).toContain('queue box is full (1 message)')
    expect((await publish(broker, '-t', '$queue/box', '-m', '3').ended).code).not.toBe(0)
    expect(await take(broker, '-t', '$queue/box', '-C', '1')).toBe('1\n')
  })

  test('rights: a worker consumes, a device publishes to topics only', async () => {
    const broker = await start("queues: { declared: [{ name: jobs, filters: ['jobs/#'] }] }")
    await godwit(broker, 'role', 'add', 'worker', 'allow subscribe $queue/jobs')
    await godwit(broker, 'role', 'add', 'device', 'allow publish jobs/#')
    const password = async (name: string, role: string): Promise<string[]> => {
      const told = await godwit(broker, 'user', 'add', name, '--role', role, '--generate')
      return ['-u', name, '-P', told.trim().split('\n').at(-1)!]
    }
    const worker = await password('w', 'worker')
    const device = await password('d', 'device')
    await publish(broker, ...device, '-t', 'jobs/1', '-m', 'A').ended
    const denied = await publish(broker, ...device, '-V', '5', '-t', '$queue/jobs/jobs/1', '-m', 'B').ended
    expect(denied.stderr).toContain('Publish 1 failed: Not authorized.')
    expect(await take(broker, ...worker, '-t', '$queue/jobs/#', '-C', '1', '-v')).toBe(
      '$queue/jobs/jobs/1 A\n',
    )
    const words = ['-p', `${broker.port}`, ...worker, '-V', '5', '-q', '1', '-t', '$queue/other']
    expect((await new Program('mosquitto_sub', words).ended).stderr).toContain('denied')
    const explained = await godwit(broker, 'explain', 'access', '--user', 'w', '--declare', '$queue/other')
    expect(explained).toContain("denied: user 'w' may not declare $queue/other")
  })
})
