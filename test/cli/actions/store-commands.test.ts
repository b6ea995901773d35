/** The store commands as processes, beside a broker that runs, is killed, or does not run. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { connect } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { freshDirectory, INCOMPLETE, storeFiles } from '../../../src/store/files/data-directory.ts'
import { Table, tableRange } from '../../../src/store/format/format.ts'
import { BACKUP_FILE_END, openDatabase } from '../../../src/store/level/backup.ts'
import { flood } from '../../e2e/flood.ts'
import {
  BrokerProcess,
  cleanUp,
  type Ended,
  MAIN,
  mosquittoPub,
  output,
  Program,
  temporaryDirectory,
} from '../../e2e/process.ts'

afterEach(cleanUp)

function godwit(...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words]).ended
}

/** As `godwit`, but it must end with 0. */
async function done(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await godwit(...words)
  expect(code, `${words.join(' ')}\n${stdout}${stderr}`).toBe(0)
  return stdout
}

/** A Session that subscribed to everything and left. */
async function leaveSession(port: number, clientId = 'subscriber'): Promise<void> {
  const options = {
    clientId,
    clean: false,
    protocolVersion: 5,
    properties: { sessionExpiryInterval: 86_400 },
  } as const
  const client = connect(`mqtt://127.0.0.1:${port}`, options)
  await client.subscribeAsync('numbers', { qos: 1 })
  await client.endAsync()
}

/** The numbers queued for the Session, in order. */
async function queued(path: string): Promise<number[]> {
  const text = await done('export', '--data', path)
  const payloads = new Map<number, string>()
  const numbers: number[] = []
  for (const line of text.trimEnd().split('\n')) {
    const { type, message, payload } = JSON.parse(line) as { type: string; message: number; payload: string }
    if (type === 'message') payloads.set(message, Buffer.from(payload, 'base64').toString())
    if (type === 'queued') numbers.push(Number(payloads.get(message)))
  }
  return numbers
}

function range(to: number): number[] {
  return Array.from({ length: to }, (_, number) => number)
}

/** A stopped data directory with some of everything. */
async function stoppedDirectory(messages = 200): Promise<string> {
  const broker = await BrokerProcess.start()
  await leaveSession(broker.port)
  await flood({ port: broker.port, topic: 'numbers', from: 0, to: messages })
  await mosquittoPub(broker.port, '-t', 'kept', '-m', 'retained', '-q', '1', '-r')
  await broker.stop()
  return broker.data
}

describe('backup', () => {
  test.each([
    ['a file', BACKUP_FILE_END],
    ['a directory', ''],
  ])('%s during a QoS 1 flood holds everything acknowledged before it began, in order', async (_, end) => {
    const broker = await BrokerProcess.start()
    await leaveSession(broker.port)
    const total = 60_000
    const target = join(await temporaryDirectory(), `backup${end}`)
    let acknowledged = 0
    let before = 0
    let backup: Promise<string> | undefined
    const reached = await flood({
      port: broker.port,
      topic: 'numbers',
      from: 0,
      to: total,
      progress: (next) => {
        acknowledged = next
        if (next < total / 6 || backup !== undefined) return
        before = acknowledged
        backup = done('backup', target, '--data', broker.data)
      },
    })
    expect(reached).toBe(total)
    expect(await backup).toContain('records')
    await broker.crash()
    expect(await done('check-store', target)).toContain('nothing is damaged')
    const restored = join(await temporaryDirectory(), 'data')
    expect(await done('restore', target, '--data', restored)).toContain('1 Sessions')
    const numbers = await queued(restored)
    expect(numbers.length).toBeGreaterThanOrEqual(before)
    expect(numbers).toEqual(range(numbers.length))

    const again = await BrokerProcess.start({ data: restored })
    const client = connect(`mqtt://127.0.0.1:${again.port}`, {
      clientId: 'subscriber',
      clean: false,
      protocolVersion: 5,
      properties: { sessionExpiryInterval: 86_400 },
    })
    const arrived: number[] = []
    client.on('message', (_topic, payload) => arrived.push(Number(payload)))
    await expect.poll(() => arrived.length, { timeout: 60_000 }).toBe(numbers.length)
    expect(arrived).toEqual(numbers)
    await client.endAsync(true)
  })

  test.each(['broker', 'backup'])(
    'SIGKILL of the %s during a backup leaves nothing that looks like a backup',
    async (victim) => {
      const broker = await BrokerProcess.start()
      await leaveSession(broker.port)
      await flood({ port: broker.port, topic: 'numbers', from: 0, to: 2000 })
      // More than the sockets' buffers take.
      const large = join(await temporaryDirectory(), 'large')
      await writeFile(large, Buffer.alloc(4_000_000, 'x'))
      for (const topic of ['1', '2', '3', '4'])
        await mosquittoPub(broker.port, '-t', topic, '-f', large, '-q', '1', '-r')
      const directory = await temporaryDirectory()
      const target = join(directory, `backup${BACKUP_FILE_END}`)
      const program = new Program(process.execPath, [MAIN, 'backup', target, '--data', broker.data])
      // The first bytes are there: it is under way. Stopped, it reads no more, and the broker waits for it.
      const isUnderWay = (): boolean => {
        const [name] = readdirSync(directory)
        return name !== undefined && statSync(join(directory, name)).size > 0
      }
      while (!isUnderWay()) await new Promise((resolve) => setImmediate(resolve))
      program.signal('SIGSTOP')
      if (victim === 'broker') {
        await broker.crash()
        program.signal('SIGCONT')
      } else await program.kill()
      const { code } = await program.ended
      expect(code).not.toBe(0)
      expect(existsSync(target)).toBe(false)
      if (victim === 'broker') {
        expect(program.stderr).toContain('the broker ended before its answer was complete')
        expect(await readdir(directory)).toEqual([])
        await broker.restart()
      }
      expect(await done('backup', target, '--data', broker.data)).toContain('backed up')
      expect(await queued(target)).toEqual(range(2000))
    },
  )

  test('works without a broker and never overwrites anything', async () => {
    const data = await stoppedDirectory()
    const target = join(await temporaryDirectory(), `backup${BACKUP_FILE_END}`)
    await done('backup', target, '--data', data)
    expect(await queued(target)).toEqual(range(200))
    const again = await godwit('backup', target, '--data', data)
    expect(again).toMatchObject({ code: 1, stdout: '' })
    expect(again.stderr).toContain(`${target} exists\nA backup never overwrites anything`)
    const none = await godwit('backup', `${target}.2`, '--data', join(data, 'none'))
    expect(none).toMatchObject({ code: 1 })
    expect(none.stderr).toContain('there is no store in')
  })

  test('every cut and every flipped bit of a backup is noticed before anything is replaced', async () => {
    const data = await stoppedDirectory(20)
    const directory = await temporaryDirectory()
    const target = join(directory, `backup${BACKUP_FILE_END}`)
    await done('backup', target, '--data', data)
    const sound = await readFile(target)
    const restored = join(directory, 'restored')
    for (const share of [0, 0.3, 0.9, 0.999]) {
      await truncate(target, Math.floor(sound.length * share))
      const { code, stderr } = await godwit('restore', target, '--data', restored)
      expect(code).toBe(1)
      expect(stderr).toContain('damaged: it was cut off')
      await writeFile(target, sound)
    }
    for (const share of [0.05, 0.5, 0.95]) {
      const flipped = Buffer.from(sound)
      const at = Math.floor(sound.length * share)
      flipped[at] = flipped[at]! ^ 4
      await writeFile(target, flipped)
      const { code, stderr } = await godwit('restore', target, '--data', restored)
      expect(code).toBe(1)
      expect(stderr).toContain('is damaged: ')
    }
    expect(await readdir(restored)).toEqual([])
  })
})

describe('restore and import', () => {
  test('existing data is refused, and kept aside with --force', async () => {
    const [first, second] = [await stoppedDirectory(10), await stoppedDirectory(20)]
    const target = join(await temporaryDirectory(), `backup${BACKUP_FILE_END}`)
    await done('backup', target, '--data', first)
    const refused = await godwit('restore', target, '--data', second)
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toContain('is not empty\nName an empty directory')
    expect(await queued(second)).toEqual(range(20))
    await done('restore', target, '--data', second, '--force')
    expect(await queued(second)).toEqual(range(10))
    const [aside] = (await readdir(second)).filter((name) => name.startsWith('replaced-'))
    expect(await queued(join(second, aside!))).toEqual(range(20))
  })

  test('an export of an import is identical', async () => {
    const data = await stoppedDirectory()
    const directory = await temporaryDirectory()
    const [first, second, copy] = ['1.jsonl', '2.jsonl', 'copy'].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ]
    await done('export', first, '--data', data)
    expect(await done('import', first, '--data', copy)).toContain('1 Sessions, 200 queued')
    await done('export', second, '--data', copy)
    expect(await readFile(second, 'utf8')).toBe(await readFile(first, 'utf8'))
    // And through pipes.
    const godwit = `${process.execPath} ${MAIN}`
    const imported = `${godwit} import --data ${copy} --force < ${first}`
    const exported = `${godwit} export - --data ${copy} | cmp - ${first}`
    await output('sh', '-c', `${imported} && ${exported}`)
  })

  test('an invalid import changes nothing', async () => {
    const data = await stoppedDirectory(5)
    const directory = await temporaryDirectory()
    const file = join(directory, 'export.jsonl')
    await done('export', file, '--data', data)
    const lines = (await readFile(file, 'utf8')).split('\n')
    await writeFile(file, lines.with(3, lines[1]!).join('\n'))
    const { code, stderr } = await godwit('import', file, '--data', data, '--force')
    expect(code).toBe(1)
    expect(stderr).toContain(`${file}: line 4 is a second Session of subscriber\nNothing was imported.`)
    expect(await queued(data)).toEqual(range(5))
    expect(
      (await readdir(data)).filter((name) => name.startsWith('.') || name.startsWith('replaced')),
    ).toEqual([])
  })

  test.each(['old', 'new'])(
    'one that was cut off while the %s files were moved is reported and finished',
    async (phase) => {
      const data = await stoppedDirectory(5)
      const target = join(await temporaryDirectory(), `backup${BACKUP_FILE_END}`)
      await done('backup', target, '--data', data)
      const fresh = freshDirectory(data)
      await done('restore', target, '--data', fresh)
      await writeFile(join(data, INCOMPLETE), JSON.stringify({ phase, aside: 'replaced-then' }))
      // Half of them are gone already.
      const [from, to] = phase === 'old' ? [data, join(data, 'replaced-then')] : [fresh, data]
      if (phase === 'new')
        for (const name of await storeFiles(data)) if (name !== INCOMPLETE) await rm(join(data, name))
      await mkdir(to, { recursive: true })
      const names = (await storeFiles(from)).filter((name) => name !== INCOMPLETE)
      for (const name of names.slice(0, names.length / 2)) await rename(join(from, name), join(to, name))
      for (const words of [
        ['start', '--port', '0'],
        ['export'],
        ['backup', `${target}.2`],
        ['check-store'],
      ]) {
        const { code, stderr } = await godwit(...words, '--data', data)
        expect(code).toBe(1)
        expect(stderr).toContain(`a restore, import or repair of ${data} was cut off\nFinish it with`)
      }
      expect(await done('repair', '--data', data)).toContain('is not damaged; 1 Sessions, 5 queued')
      expect(await queued(data)).toEqual(range(5))
      if (phase === 'old') expect(await queued(join(data, 'replaced-then'))).toEqual(range(5))
    },
  )
})

describe('check-store and repair', () => {
  test('a damaged value is named with the loss; repair keeps the rest and a copy', async () => {
    const data = await stoppedDirectory(30)
    const db = await openDatabase(data)
    const [segment] = await db.keys(tableRange(Table.CheckpointSegment)).all()
    await db.put(segment!, Buffer.from('damaged value'))
    await db.close()

    const started = await godwit('--port', '0', '--data', data)
    expect(started.code).toBe(1)
    expect(started.stderr).toContain('godwit check-store DIR')
    const before = (await readdir(data)).sort()
    const checked = await godwit('check-store', data)
    expect(checked.code).toBe(1)
    expect(checked.stdout).toContain(
      'damaged: the queue from position 0 on of Session 1 does not match its checksum',
    )
    expect(checked.stdout).toContain('damaged: the queue of "subscriber" has holes; lost: 30 of its messages')
    expect((await readdir(data)).sort()).toEqual(before)

    const repaired = await done('repair', data)
    expect(repaired).toContain('1 Sessions, 0 queued and 0 in-flight messages, 1 retained messages')
    expect(repaired).toContain('lost: 30 of its messages')
    const [aside] = (await readdir(data)).filter((name) => name.startsWith('damaged-'))
    expect((await godwit('check-store', join(data, aside!))).stdout).toBe(
      checked.stdout.replaceAll(data, join(data, aside!)),
    )
    expect(await done('check-store', data)).toContain('nothing is damaged')
    expect(await done('repair', data)).toContain('repaired nothing')
    const broker = await BrokerProcess.start({ data })
    await broker.stop()
  })

  test('a file of LevelDB that cannot be read is reported and repaired', async () => {
    const data = await stoppedDirectory(3000)
    const db = await openDatabase(data)
    await db.compactRange(Buffer.from([0]), Buffer.from([255]))
    await db.close()
    const names = (await readdir(data)).filter((name) => name.endsWith('.ldb'))
    const file = await open(join(data, names[0]!), 'r+')
    const { size } = await file.stat()
    await file.write(Buffer.alloc(4096, 0xff), 0, 4096, Math.floor(size / 3))
    await file.close()
    const checked = await godwit('check-store', data)
    expect(checked.code).toBe(1)
    expect(checked.stdout).toContain('damaged: ')
    const repaired = await done('repair', data)
    expect(repaired).toContain('lost: ')
    expect(await done('check-store', data)).toContain('nothing is damaged')
    const broker = await BrokerProcess.start({ data })
    await broker.stop()
  })
})

describe('a running broker', () => {
  test('status and start tell how often commits are synced [field-E30]', async () => {
    const words = ['--durability', 'interval', '--set', 'data.durability_interval_seconds=2.5']
    const broker = await BrokerProcess.start({ words })
    expect(broker.program.stdout).toMatch(
      /durability interval: .*a crash of the machine can lose the last 2.5 s$/m,
    )
    expect(await done('status', '--data', broker.data)).toContain('durability interval (synced every 2.5 s)')
    expect(JSON.parse(await done('status', '--json', '--data', broker.data))).toMatchObject({
      durability: 'interval',
      durabilityIntervalSeconds: 2.5,
    })
    await broker.stop()
  })

  test('shows its state for people and for programs', async () => {
    const broker = await BrokerProcess.start()
    await leaveSession(broker.port)
    const text = await done('status', '--data', broker.data)
    expect(text).toMatch(/^godwit +\d+\.\d+\.\d+, process \d+, up \d+ s\nhealth +ok\n/)
    expect(text).toMatch(new RegExp(`^listening on +mqtt://127.0.0.1:${broker.port}$`, 'm'))
    expect(text).toMatch(/^clients +0 connected, 1 Sessions, 0 Wills$/m)
    expect(text).not.toMatch(/^lost|^limits/m)
    const status = JSON.parse(await done('status', '--json', '--data', broker.data))
    expect(status).toMatchObject({
      processId: broker.program.pid,
      durability: 'fsync',
      health: { state: 'ok', detail: '' },
      held: { sessions: 1, subscriptions: 1, queuedMessages: 0 },
      store: { commits: expect.any(Number) },
      counted: { connectionsAccepted: 1, connectionsRefused: 0, dropped: {}, limited: {} },
    })
    expect(await done('export', '--data', broker.data)).toContain('"clientId":"subscriber"')
    expect(await done('check-store', broker.data)).toContain('nothing is damaged')
    await broker.stop()
    const stopped = await godwit('status', '--data', broker.data)
    expect(stopped).toMatchObject({ code: 1, stdout: '' })
    expect(stopped.stderr).toContain(`no broker answers for ${broker.data}\nStart one`)
  })

  test('refuses restore, import and repair of its directory', async () => {
    const broker = await BrokerProcess.start()
    const target = join(await temporaryDirectory(), `backup${BACKUP_FILE_END}`)
    await done('backup', target, '--data', broker.data)
    for (const words of [['restore', target, '--force'], ['import', target, '--force'], ['repair']]) {
      const { code, stderr } = await godwit(...words, '--data', broker.data)
      expect(code).toBe(1)
      expect(stderr).toBe(
        `godwit: a running broker uses ${broker.data}\nStop that broker first.\nCode: GODWIT_STORE_LOCKED\n`,
      )
    }
  })

  test('serves clients without a control socket, and says so', async () => {
    const data = join(await temporaryDirectory(), 'x'.repeat(90))
    await mkdir(data)
    const broker = await BrokerProcess.start({ data })
    expect(broker.program.stdout).toMatch(
      /godwit note: .* cannot reach this broker: the path .* of a socket may have at most 107/,
    )
    const { code, stderr } = await godwit('backup', join(data, '..', 'b'), '--data', data)
    expect(code).toBe(1)
    expect(stderr).toContain(`another broker runs on ${data}`)
  })
})
