import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { bansVersion, editBans, readBans, writeBans } from '../../../src/access/bans/bans-file.ts'
import { KeptBans } from '../../../src/access/bans/kept-bans.ts'
import { type Ban, Bans } from '../../../src/broker/boundary/bans.ts'

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

const CLOCK = { now: () => BAN.since, wallNow: () => BAN.since }

test('bans are read as they were written, from a file that only its owner can read', async () => {
  const bans: Ban[] = [BAN, { ...BAN, kind: 'client', subject: 'ä\u0000"', until: null, isAutomatic: true }]
  await writeBans(directory, bans)
  expect(await readBans(directory)).toEqual(bans)
  expect(statSync(join(directory, 'bans.json')).mode & 0o777).toBe(0o600)
  expect(await readBans(join(directory, 'nowhere'))).toEqual([])
})

test('a bad file is refused with what is wrong in it', async () => {
  const path = join(directory, 'bans.json')
  for (const [text, what] of [
    ['{', 'it is not JSON'],
    ['{}', 'it has no bans'],
    ['{"format":2,"bans":[]}', 'its format is 2'],
    [JSON.stringify({ format: 1, bans: [{ ...BAN, since: 'x' }] }), 'bans[0] is not a ban'],
    [JSON.stringify({ format: 1, bans: [{ ...BAN, subject: 'host' }] }), 'bans[0] is not a ban'],
  ] as const) {
    writeFileSync(path, text)
    await expect(readBans(directory)).rejects.toThrow(`${path}: ${what}`)
  }
})

test('edits of several processes wait for each other', async () => {
  const add = (i: number): Promise<void> =>
    editBans(directory, (bans) => [...bans, { ...BAN, kind: 'client', subject: `c${i}` }])
  await Promise.all(Array.from({ length: 20 }, (_, i) => add(i)))
  expect(await readBans(directory)).toHaveLength(20)
})

test('changes of a broker are in the file when they are confirmed, however many come at once', async () => {
  const kept = new KeptBans(new Bans(() => BAN.since), CLOCK, directory, () => {})
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

test('a ban that cannot be written is in force nevertheless, and its caller gets the error', async () => {
  const failures: Error[] = []
  const kept = new KeptBans(new Bans(() => BAN.since), CLOCK, join(directory, 'gone'), (error) =>
    failures.push(error),
  )
  await expect(kept.add(BAN)).rejects.toThrow('bans.json cannot be written: ENOENT')
  kept.impose({ ...BAN, subject: '198.51.100.1', isAutomatic: true })
  await kept.settled()
  await kept.settled()
  expect(failures).toHaveLength(1)
  expect(kept.list()).toHaveLength(2)
})

describe('a file that somebody else wrote while the broker runs', () => {
  async function running(bans: readonly Ban[]): Promise<KeptBans> {
    await writeBans(directory, bans)
    const kept = new KeptBans(new Bans(() => BAN.since), CLOCK, directory, () => {})
    kept.take(await readBans(directory), await bansVersion(directory))
    return kept
  }
  const user = (subject: string): Ban => ({ ...BAN, kind: 'user', subject, until: null })
  const subjects = (kept: KeptBans): string[] => kept.list().map(({ subject }) => subject)

  test('is taken over, with bans that are new, changed or gone', async () => {
    const kept = await running([BAN, user('stays'), user('goes')])
    expect(await kept.reread()).toBeNull()
    await writeBans(directory, [{ ...BAN, until: null }, user('stays'), user('comes')])
    expect(await kept.reread()).toEqual({ added: 1, changed: 1, lifted: 1 })
    expect(subjects(kept).sort()).toEqual(['203.0.113.0/24', 'comes', 'stays'])
    expect(kept.list().every(({ until }) => until === null)).toBe(true)
    expect(await kept.reread()).toBeNull()
    rmSync(join(directory, 'bans.json'))
    expect(await kept.reread()).toEqual({ added: 0, changed: 0, lifted: 3 })
  })

  test('changes nothing while it cannot be read, which is reported once', async () => {
    const kept = await running([user('u')])
    writeFileSync(join(directory, 'bans.json'), '{"format":1,"bans":[')
    await expect(kept.reread()).rejects.toThrow('it is not JSON')
    expect(await kept.reread()).toBeNull()
    expect(subjects(kept)).toEqual(['u'])
  })

  test('does not lift a ban that was added at the same time, or that could not be written', async () => {
    const kept = await running([user('u')])
    await writeBans(directory, [user('w')])
    const [, adding] = [kept.reread(), kept.add(user('v'))]
    await adding
    await kept.reread()
    expect(subjects(kept)).toContain('v')
    expect((await readBans(directory)).map(({ subject }) => subject)).toContain('v')
    const unwritten = await running([user('u')])
    rmSync(directory, { recursive: true })
    await expect(unwritten.add(user('v'))).rejects.toThrow('cannot be written')
    writeFileSync(directory, 'no directory')
    await expect(unwritten.reread()).rejects.toThrow('cannot be read')
    expect(subjects(unwritten)).toEqual(['u', 'v'])
  })
})

describe('after a restart a ban holds for the rest of its time', () => {
  /**
   * Seconds left of a ban for ten minutes, of which one had passed when the broker ended, by a wall clock so
   * far on.
   */
  async function left(wallSecondsLater: number): Promise<number | undefined> {
    const wall = Date.UTC(2026, 0, 1)
    const before = { broker: 1000, wall }
    const clock = { now: () => before.broker, wallNow: () => before.wall }
    const kept = new KeptBans(new Bans(clock.now), clock, directory, () => {})
    await kept.add({ ...BAN, since: 1000, until: 601_000 })
    before.broker += 60_000
    before.wall += 60_000
    // Whatever is written is written by the clocks of that moment.
    await kept.add({ ...BAN, kind: 'user', subject: 'u', since: 61_000, until: null })
    const after = { now: () => 7_000_000, wallNow: () => wall + 60_000 + wallSecondsLater * 1000 }
    const bans = new Bans(after.now)
    new KeptBans(bans, after, directory, () => {}).take(await readBans(directory))
    expect(bans.ofUser('u')).not.toBeNull()
    const until = bans.ofAddress('203.0.113.9')?.until
    return typeof until === 'number' ? (until - after.now()) / 1000 : undefined
  }

  test('by the wall clock, whatever broker time was before', async () => {
    expect(await left(0)).toBe(540)
    expect(await left(500)).toBe(40)
    expect(await left(541)).toBeUndefined()
  })

  test('and never for longer than imposed, even if the wall clock was set back', async () => {
    expect(await left(-1_000_000_000)).toBe(600)
  })
})
