import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { editBans, readBans, writeBans } from '../../src/access/bans-file.ts'
import { KeptBans } from '../../src/access/kept-bans.ts'
import { type Ban, Bans } from '../../src/broker/bans.ts'

let directory: string

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-bans-'))
})

afterEach(() => rmSync(directory, { recursive: true, force: true }))

const BAN: Ban = {
  kind: 'address',
  subject: '203.0.113.0/24',
  since: 1_700_000_000_000,
  until: 1_700_000_600_000,
  reason: 'scans',
  by: 'root',
  isAutomatic: false,
}

test('bans are read as they were written, by their owner alone', async () => {
  const bans: Ban[] = [BAN, { ...BAN, kind: 'client', subject: 'ä\u0000"', until: null, isAutomatic: true }]
  await writeBans(directory, bans)
  expect(await readBans(directory)).toEqual(bans)
  expect(statSync(join(directory, 'bans.json')).mode & 0o777).toBe(0o600)
  expect(await readBans(join(directory, 'nowhere'))).toEqual([])
})

test('a bad file is refused in words that name what is wrong', async () => {
  const path = join(directory, 'bans.json')
  for (const [text, what] of [
    ['{', 'it is not JSON'],
    ['{}', 'it has no bans'],
    ['{"format":2,"bans":[]}', 'it is of format 2'],
    [JSON.stringify({ format: 1, bans: [{ ...BAN, since: 'x' }] }), 'bans[0] is no ban'],
    [JSON.stringify({ format: 1, bans: [{ ...BAN, subject: 'host' }] }), 'bans[0] is no ban'],
  ] as const) {
    writeFileSync(path, text)
    await expect(readBans(directory)).rejects.toThrow(`${path}: ${what}`)
  }
})

test('edits of several processes follow each other', async () => {
  const add = (i: number): Promise<void> =>
    editBans(directory, (bans) => [...bans, { ...BAN, kind: 'client', subject: `c${i}` }])
  await Promise.all(Array.from({ length: 20 }, (_, i) => add(i)))
  expect(await readBans(directory)).toHaveLength(20)
})

test('what a broker changes is in the file when it is confirmed, however much changes at once', async () => {
  const kept = new KeptBans(new Bans(() => BAN.since), directory, () => {})
  await Promise.all(
    Array.from({ length: 50 }, async (_, i) => {
      await kept.add({ ...BAN, kind: 'client', subject: `c${i}` })
      const text = readFileSync(join(directory, 'bans.json'), 'utf8')
      expect(text).toContain(`"c${i}"`)
    }),
  )
  expect(await kept.remove('client', 'c7')).toBe(true)
  expect(await kept.remove('client', 'c7')).toBe(false)
  expect((await readBans(directory)).map(({ subject }) => subject)).not.toContain('c7')
  expect(kept.impose({ ...BAN, subject: '198.51.100.1', isAutomatic: true })).toBe(true)
  await kept.settled()
  expect(await readBans(directory)).toHaveLength(50)
})

test('a ban that cannot be written holds all the same, and whoever waits for it is told', async () => {
  const failures: Error[] = []
  const kept = new KeptBans(new Bans(() => BAN.since), join(directory, 'gone'), (error) =>
    failures.push(error),
  )
  await expect(kept.add(BAN)).rejects.toThrow('bans.json cannot be written: ENOENT')
  kept.impose({ ...BAN, subject: '198.51.100.1', isAutomatic: true })
  await kept.settled()
  await kept.settled()
  expect(failures).toHaveLength(1)
  expect(kept.list()).toHaveLength(2)
})
