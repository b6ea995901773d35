/** `godwit queue` as processes beside a broker process. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import {
  BrokerProcess,
  cleanUp,
  type Ended,
  MAIN,
  output,
  Program,
  temporaryDirectory,
} from '../../e2e/process.ts'

afterEach(cleanUp)

function godwit(broker: BrokerProcess, ...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words, '--data', broker.data]).ended
}

async function done(broker: BrokerProcess, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await godwit(broker, ...words)
  expect(code, `${words.join(' ')}\n${stdout}${stderr}`).toBe(0)
  return stdout
}

function publish(broker: BrokerProcess, topic: string, payload: string): Promise<string> {
  return output('mosquitto_pub', '-p', `${broker.port}`, '-t', topic, '-q', '1', '-m', payload)
}

/** Subscribes until so many messages came; returns them as `topic payload`. */
function take(broker: BrokerProcess, filter: string, count: number): Promise<string> {
  const words = ['-p', `${broker.port}`, '-t', filter, '-q', '1', '-C', `${count}`, '-v']
  return output('mosquitto_sub', ...words)
}

async function start(
  configuration: string,
): Promise<{ broker: BrokerProcess; write: (text: string) => void }> {
  const data = await temporaryDirectory()
  const write = (text: string): void => writeFileSync(join(data, 'godwit.yaml'), text)
  write(configuration)
  return { broker: await BrokerProcess.start({ data }), write }
}

describe('godwit queue', () => {
  test('a queue that was made by use is shown with what waits in it', async () => {
    const { broker } = await start('queues: { defaults: { delivery_limit: 7 } }')
    await publish(broker, '$queue/hello', 'Hello')
    expect(await done(broker, 'queue', 'list')).toMatch(
      /^QUEUE +MESSAGES .* FILTERS\nhello +1 +1 +0 +\d+ +0 +use\n$/,
    )
    const shown = await done(broker, 'queue', 'show', 'hello')
    expect(shown).toMatch(/^messages +1, \d+ B \(1 ready\)$/m)
    expect(shown).toMatch(/^delivery_limit +7$/m)
    expect(shown).toMatch(/^bytes_max +1\.0 GiB$/m)
    expect(shown).toMatch(/\n\nWhy messages wait:\n- 1 ready\n- it has no consumer\n$/)
    expect(await done(broker, 'queue', 'peek', 'hello', '--payload')).toMatch(/^payload +5 B\n +Hello$/m)
    expect(await take(broker, '$queue/hello', 1)).toBe('$queue/hello Hello\n')
    const details: unknown = JSON.parse(await done(broker, 'queue', 'show', 'hello', '--json'))
    expect(details).toMatchObject({ origin: 'use', filters: [], messages: 0, why: [] })
    expect(await done(broker, 'queue', 'peek', 'hello')).toBe('no messages\n')
    expect(await done(broker, 'queue', 'consumers', 'hello')).toBe('no consumers\n')
  })

  test('a queue is declared, changed, emptied by a move, and deleted', async () => {
    const { broker } = await start('')
    const declare = ['queue', 'declare', 'jobs', '--filter', 'jobs/#', '--set', 'delivery_limit=3']
    expect(await done(broker, ...declare)).toBe('queue jobs declared\n')
    expect(await done(broker, ...declare)).toBe('queue jobs is there already, with these properties\n')
    expect(await done(broker, 'queue', 'declare', 'later')).toBe('queue later declared\n')
    await publish(broker, 'jobs/a', 'A')
    await publish(broker, 'jobs/b', 'B')
    const moved = await done(broker, 'queue', 'move', 'jobs', '--to', 'later', '--topic', 'jobs/b')
    expect(moved).toBe('moved 1 message from jobs to later\n')
    const refused = await godwit(broker, 'queue', 'delete', 'jobs')
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toContain('queue jobs has 1 message and 0 consumers\n')
    expect(refused.stderr).toContain('Code: GODWIT_QUEUE_REFUSED')
    await broker.crash()
    await broker.restart()
    expect(await done(broker, 'queue', 'change', 'later', '--set', 'share=false')).toBe(
      'queue later changed\n',
    )
    expect(await done(broker, 'queue', 'delete', 'jobs', '--force')).toBe(
      'queue jobs deleted with 1 message\n',
    )
    expect(await take(broker, '$queue/later/#', 1)).toBe('$queue/later/jobs/b B\n')
  })

  test('a reload declares what is new, changes what is other, and leaves what is gone', async () => {
    const { broker, write } = await start('queues: { declared: [{ name: a, filters: [a/#] }, { name: b }] }')
    await publish(broker, 'a/1', 'A')
    write('queues: { declared: [{ name: b, messages_max: 5 }, { name: c, filters: [c/#] }] }')
    const told = await done(broker, 'reload')
    expect(told).toMatch(/^queues\.declared: .*, at once$/m)
    expect(told).toContain('queue a is not declared any more; it stays until godwit queue delete')
    await publish(broker, 'c/1', 'C')
    expect(await take(broker, '$queue/c/#', 1)).toBe('$queue/c/c/1 C\n')
    expect(await done(broker, 'queue', 'show', 'b')).toMatch(/^messages_max +5$/m)
    expect(await done(broker, 'queue', 'list')).toMatch(/^a .* orphaned +file +a\/#$/m)
    expect(await done(broker, 'queue', 'delete', 'a', '--force')).toBe('queue a deleted with 1 message\n')
  })
})
