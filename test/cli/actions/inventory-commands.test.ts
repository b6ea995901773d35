/** The inventory commands as processes beside a broker process. */
import { connect, type IClientOptions, type MqttClient } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { parseCommandLine } from '../../../src/cli/command-line.ts'
import { BrokerProcess, cleanUp, type Ended, MAIN, Program, temporaryDirectory } from '../../e2e/process.ts'

const clients: MqttClient[] = []

afterEach(async () => {
  for (const client of clients.splice(0)) client.end(true)
  await cleanUp()
})

function godwit(broker: { data: string }, ...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words, '--data', broker.data]).ended
}

async function done(broker: { data: string }, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await godwit(broker, ...words)
  expect(code, `${words.join(' ')}\n${stdout}${stderr}`).toBe(0)
  return stdout
}

async function arrive(
  { port }: BrokerProcess,
  clientId: string,
  options: IClientOptions = {},
): Promise<MqttClient> {
  const client = connect(`mqtt://127.0.0.1:${port}`, {
    clientId,
    protocolVersion: 5,
    clean: false,
    reconnectPeriod: 0,
    properties: { sessionExpiryInterval: 3600 },
    ...options,
  })
  clients.push(client)
  await new Promise<void>((resolve, reject) => {
    client.once('connect', () => resolve())
    client.once('error', reject)
  })
  return client
}

describe('the inventory of a running broker', () => {
  test('is listed and shown for people and for programs', async () => {
    const broker = await BrokerProcess.start()
    const sensor = await arrive(broker, 'sensor-1', {
      will: { topic: 'lost', payload: Buffer.from('x'), qos: 1, retain: true },
    })
    await sensor.subscribeAsync('a/+', { qos: 1 })
    await sensor.publishAsync('a/state', 'grüß Gott', { qos: 1, retain: true })
    const away = await arrive(broker, 'away\u0007')
    await away.subscribeAsync('#', { qos: 2 })
    await away.endAsync()

    const list = await done(broker, 'client', 'list')
    expect(list).toMatch(/^CLIENT +USER +MQTT +LISTENER +ADDRESS +CONNECTED +IN FLIGHT +QUEUED$/m)
    expect(list).toMatch(/^sensor-1 +\(anonymous\) +5\.0 +\S+ +127\.0\.0\.1:\d+ +\d+ s +\d+ +\d+$/m)
    const sessions = await done(broker, 'session', 'list')
    expect(sessions).toMatch(/^away\\u\{7\} +\(anonymous\) +left \d+ s ago +after 1 h 0 min /m)
    expect(sessions).not.toContain('\u0007')
    const shown = await done(broker, 'session', 'show', 'sensor-1')
    expect(shown).toMatch(/^state +connected$/m)
    expect(shown).toMatch(/^Will +lost, QoS 1, retained, 1 B$/m)
    expect(await done(broker, 'subscription', 'list', '--topic', 'a/b')).toMatch(/^sensor-1 +.* a\/\+ +1$/m)
    expect(await done(broker, 'subscription', 'list', '--client', 'sensor-?', '--topic', 'b')).toBe(
      'no Subscriptions\n',
    )
    expect(await done(broker, 'retained', 'list')).toMatch(/^a\/state +1 +sensor-1 +never +11$/m)
    expect(await done(broker, 'retained', 'show', 'a/state')).toMatch(/^ +grüß Gott$/m)

    const page = JSON.parse(await done(broker, 'session', 'list', '--json', '--limit', '1'))
    expect(page).toMatchObject({ rows: [{ clientId: 'sensor-1' }], after: expect.any(String) })
    const next = JSON.parse(await done(broker, 'session', 'list', '--json', '--after', page.after))
    expect(next).toMatchObject({ rows: [{ clientId: 'away\u0007' }], after: null })
    const again = await godwit(broker, 'session', 'list', '--after', page.after)
    expect(again).toMatchObject({ code: 1, stdout: '' })
    expect(again.stderr).toContain('Begin the list again, without --after.')
  })

  test('lists Sessions up to the limit over several pages', async () => {
    const broker = await BrokerProcess.start({ words: ['--durability', 'os'] })
    const count = 1100
    for (let from = 0; from < count; from += 100) {
      const group = await Promise.all(
        Array.from({ length: 100 }, (_, index) => arrive(broker, `c${from + index}`)),
      )
      await Promise.all(group.map((client) => client.endAsync()))
    }
    const page = JSON.parse(await done(broker, 'session', 'list', '--json', '--limit', '1050'))
    expect(new Set(page.rows.map(({ clientId }: { clientId: string }) => clientId)).size).toBe(1050)
    const shown = await done(broker, 'session', 'list')
    expect(shown.split('\n')).toHaveLength(1 + 100 + 1 + 1)
    expect(shown).toMatch(/^for more rows: the same command with --after \S+, or with a larger --limit$/m)
  })

  test('kick keeps the Session; deletions survive a crash right after the answer', async () => {
    const broker = await BrokerProcess.start()
    const kicked = await arrive(broker, 'kicked')
    const reason = new Promise<number | undefined>((resolve) => {
      kicked.on('disconnect', ({ reasonCode }) => resolve(reasonCode))
    })
    expect(await done(broker, 'client', 'kick', 'kicked')).toContain("ended the connection of 'kicked'")
    expect(await reason).toBe(0x98)
    const deleted = await arrive(broker, 'deleted')
    await deleted.subscribeAsync('a', { qos: 1 })
    const other = await arrive(broker, 'other')
    await other.subscribeAsync(['a', 'b'], { qos: 1 })
    for (const topic of ['r/1', 'r/2', 'keep']) {
      await other.publishAsync(topic, 'x', { qos: 1, retain: true })
    }
    await done(broker, 'session', 'delete', 'deleted')
    await done(broker, 'subscription', 'delete', 'other', 'a')
    expect(await done(broker, 'retained', 'delete', '--topic', 'r/#')).toBe(
      'deleted 2 retained messages: r/#\n',
    )
    await broker.crash()
    await broker.restart()
    const names = JSON.parse(await done(broker, 'session', 'list', '--json')).rows.map(
      ({ clientId }: { clientId: string }) => clientId,
    )
    expect(names.sort()).toEqual(['kicked', 'other'])
    const { rows } = JSON.parse(await done(broker, 'subscription', 'list', '--json'))
    expect(rows).toMatchObject([{ clientId: 'other', topicFilter: 'b' }])
    expect(await done(broker, 'retained', 'list')).toMatch(/^keep .*\n$/m)
    expect(await done(broker, 'retained', 'list')).not.toContain('r/')
  })

  test('an unknown name and a missing broker are reported with advice', async () => {
    const broker = await BrokerProcess.start()
    for (const [words, message, advice] of [
      [['session', 'show', 'x'], "there is no Session of the client 'x'", 'godwit session list'],
      [['client', 'kick', 'x'], "there is no Session of the client 'x'", 'godwit session list'],
      [['retained', 'delete', 'x'], "no message is retained for 'x'", 'godwit retained list'],
      [['subscription', 'list', '--topic', 'a#'], 'a# is not a topic filter', '# for all levels at the end'],
    ] as const) {
      const { code, stdout, stderr } = await godwit(broker, ...words)
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toContain(message)
      expect(stderr).toContain(advice)
    }
    const nowhere = { data: await temporaryDirectory() }
    const { code, stderr } = await godwit(nowhere, 'client', 'list')
    expect(code).toBe(1)
    expect(stderr).toBe(
      `godwit: no broker answers for ${nowhere.data}\n` +
        'Start one with `godwit`, or name its directory with --data.\nCode: GODWIT_BROKER_UNREACHABLE\n',
    )
  })

  test.each([
    [['client'], 'client needs one of list, show, kick, delete'],
    [['client', 'lsit'], "unknown command 'client lsit'; did you mean list?"],
    [['session', 'show'], 'session show needs a client: godwit session show CLIENT'],
    [['subscription', 'delete', 'c'], 'needs a filter: godwit subscription delete CLIENT FILTER'],
    [['retained', 'delete'], 'retained delete needs TOPIC, or a selection by --topic or --client'],
    [
      ['retained', 'delete', 'a', '--topic', 'b'],
      'takes TOPIC or a selection by --topic or --client, not both',
    ],
    [
      ['session', 'delete'],
      'session delete needs CLIENT, or a selection by --client or --user or --older-than',
    ],
    [['session', 'delete', 'c', '--user', 'u'], 'takes CLIENT or a selection'],
    [['session', 'delete', '--client', '*'], 'session delete with --client needs --dry-run'],
    [['session', 'delete', '--user', 'u', '--yes', '--dry-run'], 'takes one of --dry-run and --yes'],
    [['session', 'delete', '--older-than', 'a month', '--yes'], 'a time such as 90s, 5m, 2h or 30d'],
    [['client', 'kick', '--older-than', '1d', '--yes'], 'client kick has no option --older-than'],
    [['session', 'list', '--limit', '0'], '--limit 0: it must be a whole number of at least 1'],
    [['session', 'list', '--topic', 'a'], 'session list has no option --topic'],
  ])('wrong words: %j', async (words, message) => {
    await expect(parseCommandLine(words)).rejects.toThrow(message)
  })
})
