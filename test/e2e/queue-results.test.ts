/** Explicit acknowledgement and results with mosquitto_sub, mosquitto_pub and a shell: examples 28 to 30. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import {
  BrokerProcess,
  cleanUp,
  MAIN,
  MosquittoSub,
  mosquittoPub,
  output,
  Program,
  temporaryDirectory,
} from './process.ts'

const TAGGED = '$queue/jobs;ack=explicit/+/#'

const JOBS = "queues: { declared: [{ name: jobs, filters: ['jobs/#'], results: 'results/{topic}' }] }\n"

/** Takes one message, acknowledges it, works, and publishes the sum of its words. */
const WORKER = `
mosquitto_sub -p "$1" -t '${TAGGED}' -q 1 -C "$2" -v |
while read -r topic payload; do
  tag=$(echo "$topic" | cut -d / -f 3)
  sum=0
  for number in $payload; do sum=$((sum + number)); done
  mosquitto_pub -p "$1" -t "\\$ack/jobs/$tag" -q 1 -m "$sum"
done
`

afterEach(() => cleanUp())

async function configured(yaml: string): Promise<BrokerProcess> {
  const file = join(await temporaryDirectory(), 'godwit.yaml')
  await writeFile(file, yaml)
  return BrokerProcess.start({ words: ['--config', file] })
}

/** Figures of the queue `jobs`. */
async function shown(broker: BrokerProcess): Promise<{ messages: number; held: number }> {
  const text = await output(process.execPath, MAIN, 'queue', 'show', 'jobs', '--json', '--data', broker.data)
  return JSON.parse(text)
}

describe('explicit acknowledgement', () => {
  test('28: a shell worker of 3.1.1, and a requester that was away', async () => {
    const broker = await configured(JOBS)
    const requester = ['-t', 'results/#', '-q', '1', '-i', 'c', '-c']
    const before = await MosquittoSub.start(broker.port, requester)
    await before.vanish()
    await mosquittoPub(broker.port, '-t', 'jobs/add/7', '-q', '1', '-m', '2 3')
    const sub = await MosquittoSub.start(broker.port, ['-t', TAGGED, '-q', '1', '-C', '1'], '%t %p')
    expect((await sub.ended).code).toBe(0)
    const [line] = sub.messages
    expect(line).toMatch(/^\$queue\/jobs;ack=explicit\/01\.1\.[\w-]{12}\/jobs\/add\/7 2 3$/)
    await expect.poll(async () => (await shown(broker)).held).toBe(1)
    const tag = line!.split('/')[2]!
    await mosquittoPub(broker.port, '-t', `$ack/jobs/${tag}`, '-q', '1', '-m', '5')
    expect(await shown(broker)).toMatchObject({ messages: 0 })
    await broker.crash()
    await broker.restart()
    const after = await MosquittoSub.start(broker.port, requester, '%t %p')
    expect(await after.received(1)).toEqual(['results/jobs/add/7 5'])
    await mosquittoPub(broker.port, '-t', 'results/end', '-q', '1', '-m', 'end')
    expect(await after.received(2)).toEqual(['results/jobs/add/7 5', 'results/end end'])
  })

  test('28: the worker is a shell script', async () => {
    const broker = await configured(JOBS)
    const results = await MosquittoSub.start(broker.port, ['-t', 'results/#', '-q', '1'], '%t %p')
    for (const payload of ['2 3', '40 2', '7']) {
      await mosquittoPub(broker.port, '-t', 'jobs/add', '-q', '1', '-m', payload)
    }
    await output('sh', '-c', WORKER, 'worker', `${broker.port}`, '3')
    expect((await results.received(3)).sort()).toEqual([
      'results/jobs/add 42',
      'results/jobs/add 5',
      'results/jobs/add 7',
    ])
    expect(await shown(broker)).toMatchObject({ messages: 0 })
  })

  test('29: a killed worker holds its message until the lease ends, over a crash, too', async () => {
    const broker = await configured(
      "queues: { declared: [{ name: jobs, filters: ['jobs/#'], retry_delay_seconds: 0 }] }\n",
    )
    await mosquittoPub(broker.port, '-t', 'jobs/a', '-q', '1', '-m', 'x')
    const filter = '$queue/jobs;ack=explicit;lease=3/+/#'
    const first = await MosquittoSub.start(broker.port, ['-t', filter, '-q', '1'], '%t')
    const [before] = await first.received(1)
    await expect.poll(async () => (await shown(broker)).held).toBe(1)
    await first.vanish()
    await broker.crash()
    await broker.restart()
    const second = await MosquittoSub.start(broker.port, ['-t', filter, '-q', '1'], '%t')
    const [after] = await second.received(1)
    const [tag, next] = [before!.split('/')[2]!, after!.split('/')[2]!]
    expect([tag.split('.')[1], next.split('.')[1]]).toEqual(['1', '2'])
    // The work is done, whoever has the message now.
    await mosquittoPub(broker.port, '-t', `$ack/jobs/${tag}`, '-q', '1', '-n')
    expect(await shown(broker)).toMatchObject({ messages: 0 })
  })

  test('30: a requester asks, goes, and finds its answer in a queue', async () => {
    const broker = await BrokerProcess.start()
    const ask = ['-V', '5', '-t', '$queue/jobs', '-q', '1', '-m', 'ping']
    const properties = ['response-topic', '$queue/answers', 'correlation-data', '17']
    const [response, correlation] = [properties.slice(0, 2), properties.slice(2)]
    await mosquittoPub(broker.port, ...ask, '-D', 'publish', ...response, '-D', 'publish', ...correlation)
    await broker.crash()
    await broker.restart()
    const sub = await MosquittoSub.start(broker.port, ['-t', TAGGED, '-q', '1', '-C', '1'], '%t %p')
    await sub.ended
    expect(sub.messages[0]).toMatch(/^\$queue\/jobs;ack=explicit\/[\w.-]+ ping$/)
    const tag = sub.messages[0]!.split(/[/ ]/)[2]!
    await mosquittoPub(broker.port, '-t', `$ack/jobs/${tag}`, '-q', '1', '-m', 'pong')
    const words = ['-V', '5', '-t', '$queue/answers', '-q', '1', '-C', '1', '-F', '%D %p']
    expect(await output('mosquitto_sub', '-p', `${broker.port}`, ...words)).toBe('17 pong\n')
  })

  test('30: mosquitto_rr prints the answer of a worker', async () => {
    const broker = await BrokerProcess.start()
    const port = `${broker.port}`
    const worker = new Program('sh', ['-c', WORKER, 'worker', port, '1'])
    await expect
      .poll(() =>
        shown(broker).then(
          ({ messages }) => messages,
          () => -1,
        ),
      )
      .toBe(0)
    const ask = ['-V', '5', '-t', '$queue/jobs', '-e', '$queue/answers', '-m', '40 2', '-q', '1', '-W', '30']
    expect(await output('mosquitto_rr', '-p', port, '-i', 'x', ...ask)).toBe('42\n')
    await worker.ended
  })
})
