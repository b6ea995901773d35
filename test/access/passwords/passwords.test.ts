import { execFileSync } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Place } from '../../../src/access/logins/fair-queue.ts'
import { type LoginResult, Logins } from '../../../src/access/logins/logins.ts'
import { LeftError, PasswordWork } from '../../../src/access/logins/password-work.ts'
import { generatePassword } from '../../../src/access/passwords/generated-password.ts'
import { parsePasswordFile } from '../../../src/access/passwords/password-file.ts'
import {
  hashPassword,
  isPassword,
  type PasswordHash,
  parsePasswordHash,
  scramVerifier,
} from '../../../src/access/passwords/password-hash.ts'

/** `argon2id` as `mosquitto_passwd` of 2.1 writes it: 46 MiB, one pass. Of the password "geheim". */
const ARGON2ID_OF_21 = '$argon2id$v=19$m=47104,t=1,p=1$TWm9u4PrrXnCyG3xXDpnlQ$'

function parsed(text: string): PasswordHash {
  const result = parsePasswordHash(text)
  if (typeof result === 'string') throw new Error(result)
  return result
}

describe('password files', () => {
  test('of mosquitto_passwd, in both formats, accept only the right password', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'godwit-passwd-'))
    try {
      const path = join(directory, 'passwd')
      execFileSync('mosquitto_passwd', ['-c', '-b', path, 'alice', 'sécret 1'], { stdio: 'ignore' })
      execFileSync('mosquitto_passwd', ['-H', 'sha512', '-b', path, 'bob', 'sécret 2'], { stdio: 'ignore' })
      const users = parsePasswordFile(readFileSync(path, 'utf8'), path)
      expect([...users].map(([name, { kind }]) => [name, kind])).toEqual([
        ['alice', 'pbkdf2-sha512'],
        ['bob', 'sha512'],
      ])
      for (const [name, password] of [
        ['alice', 'sécret 1'],
        ['bob', 'sécret 2'],
      ]) {
        expect(await isPassword(users.get(name!)!, Buffer.from(password!))).toBe(true)
        expect(await isPassword(users.get(name!)!, Buffer.from(`${password}x`))).toBe(false)
      }
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  test('may have argon2id hashes, comments and empty lines', async () => {
    const hash = await hashPassword(Buffer.from('geheim'))
    const users = parsePasswordFile(`# users\n\ncarol:${hash}\r\n`, 'file')
    expect(await isPassword(users.get('carol')!, Buffer.from('geheim'))).toBe(true)
    expect(parsed(`${ARGON2ID_OF_21}${'A'.repeat(43)}`).kind).toBe('argon2')
  })

  test('report every bad line by its number, and never its text', () => {
    const text = [
      'alice',
      ':x',
      'bob:hunter2',
      'carol:$7$0$AAAA$BBBB',
      'dave:$6$c2FsdA==$dG9vIHNob3J0',
      'erin:$argon2id$v=19$m=99999999,t=1,p=1$TWm9u4PrrXnCyG3xXDpnlQ$AAAA',
    ].join('\n')
    const good = `alice:$6$c2FsdHNhbHRzYWx0$${Buffer.alloc(64).toString('base64')}`
    expect(() => parsePasswordFile(text, 'p')).toThrow(
      /^p:1: .*\np:2: .*\np:3: .*\np:4: .*\np:5: .*\np:6: .*$/,
    )
    expect(() => parsePasswordFile(text, 'p')).not.toThrow(/hunter2|c2FsdA/)
    expect(() => parsePasswordFile(`${good}\n${good}`, 'p')).toThrow('p:2: the user is in the file already')
  })
})

test('a SCRAM-SHA-256 verifier checks a client proof (RFC 5802 section 3)', async () => {
  const { salt, iterations, storedKey } = await scramVerifier('pencil')
  const { pbkdf2Sync, createHash } = await import('node:crypto')
  const salted = pbkdf2Sync('pencil', Buffer.from(salt, 'base64'), iterations, 32, 'sha256')
  const clientKey = createHmac('sha256', salted).update('Client Key').digest()
  expect(createHash('sha256').update(clientKey).digest('base64')).toBe(storedKey)
})

test('the hash of a generated password is accepted only whole, and only from the accounts', () => {
  const { encoded } = generatePassword()
  expect(parsed(encoded)).toMatchObject({ kind: 'generated', encoded })
  for (const broken of [encoded.slice(0, -1), `${encoded}A`, encoded.replace('v=1', 'v=2'), `${encoded}$`])
    expect(parsePasswordHash(broken)).toContain('$godwit-generated$v=1$SALT$DIGEST')
  expect(() => parsePasswordFile(`alice:${encoded}`, 'p')).toThrow('p:1: the password is not hashed')
})

describe('password work', () => {
  const place: Place = { address: '192.0.2.1', userName: 'u', bytes: 1, isSuspect: false }
  const QUEUE = {
    loginQueueMax: 3,
    loginQueueBytesMax: 1000,
    loginQueuePerAddressMax: 100,
    loginQueuePerUserMax: 100,
  }

  test('never takes more than two threads; log-ins beyond the queue are refused and counted', async () => {
    const work = new PasswordWork({ atOnceMax: 2, limits: QUEUE })
    let running = 0
    let most = 0
    const task = async (): Promise<void> => {
      running++
      most = Math.max(most, running)
      await new Promise((resolve) => setImmediate(resolve))
      running--
    }
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => work.login(place, task)))
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(5)
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ limit: 'loginQueueMax' })
    }
    expect(most).toBe(2)
    expect(work.figures).toEqual({ done: 5, refused: 3, left: 0 })
    expect([work.running, work.waiting, work.waitingBytes]).toEqual([0, 0, 0])
    await expect(work.login(place, () => Promise.reject(new Error('x')))).rejects.toThrow('x')
    expect(work.running).toBe(0)
  })

  test('of the operator goes before all waiting log-ins', async () => {
    const work = new PasswordWork({ atOnceMax: 1 })
    const done: string[] = []
    const task = (name: string) => async (): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve))
      done.push(name)
    }
    await Promise.all([
      work.login(place, task('first')),
      work.login(place, task('second')),
      work.login(place, task('third')),
      work.run(task('user add')),
    ])
    expect(done).toEqual(['first', 'user add', 'second', 'third'])
  })

  test('is not done for clients that left while they waited', async () => {
    const work = new PasswordWork({ atOnceMax: 1 })
    const hashed: string[] = []
    const hash = (name: string) => async (): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve))
      hashed.push(name)
    }
    let leave = (): void => {}
    const told: string[] = []
    const waiting = {
      queued: (callback: () => void) => {
        leave = callback
        told.push('queued')
      },
      served: () => told.push('served'),
    }
    const first = work.login(place, hash('first'))
    const second = work.login(place, hash('second'), waiting)
    const third = work.login(place, hash('third'), { queued: () => {}, served: () => told.push('served') })
    leave()
    leave()
    expect(work.waiting).toBe(1)
    await expect(second).rejects.toThrow(LeftError)
    await Promise.all([first, third])
    expect(hashed).toEqual(['first', 'third'])
    expect(told).toEqual(['queued', 'served'])
    expect(work.figures).toEqual({ done: 2, refused: 0, left: 1 })
  })
})

function check(
  logins: Logins,
  userName: string,
  password: string,
  stored: PasswordHash | undefined,
): LoginResult | Promise<LoginResult> {
  const place = { address: '192.0.2.1', isSuspect: false, isDelayed: () => false, waiting: undefined }
  return logins.check({ userName, password: Buffer.from(password), stored, ...place })
}

describe('log-ins', () => {
  test('that succeed are remembered until the stored password changes; others never', async () => {
    const work = new PasswordWork()
    const logins = new Logins(work)
    const stored = parsed(await hashPassword(Buffer.from('a')))
    expect(await check(logins, 'u', 'b', stored)).toBe('wrong')
    expect(await check(logins, 'u', 'a', stored)).toBe('right')
    expect(work.figures.done).toBe(2)
    expect(check(logins, 'u', 'a', stored)).toBe('right')
    expect(check(logins, 'u', 'b', stored)).toBeInstanceOf(Promise)
    // The boundary between name and password is part of what is remembered.
    expect(check(logins, '', 'ua', stored)).toBeInstanceOf(Promise)
    const changed = parsed(await hashPassword(Buffer.from('c')))
    expect(await check(logins, 'u', 'a', changed)).toBe('wrong')
    expect(logins.remembered).toBe(1)
  })

  test('with a generated password need no slow hash; wrong ones cost as for unknown users', async () => {
    const work = new PasswordWork()
    const logins = new Logins(work)
    const { password, encoded } = generatePassword()
    const stored = parsed(encoded)
    expect(check(logins, 'u', password, stored)).toBe('right')
    expect([work.figures.done, logins.remembered]).toEqual([0, 0])
    // Of the same form, of another length, and none at all.
    const wrongs = [generatePassword().password, 'guess', '']
    for (const [index, wrong] of wrongs.entries()) {
      const [known, unknown] = [stored, undefined].map((it) => check(logins, 'u', wrong, it))
      expect([known, unknown].map((answer) => answer instanceof Promise)).toEqual([true, true])
      expect(await Promise.all([known, unknown])).toEqual(['wrong', 'wrong'])
      expect(work.figures.done).toBe(2 * (index + 1))
    }
    expect(check(logins, 'u', password, stored)).toBe('right')
  })

  test('with a chosen password never succeed by the quick hash, even if the file has one', async () => {
    const salt = Buffer.alloc(16, 1)
    for (const chosen of ['hunter2', 'correct horse battery 1!']) {
      const digest = createHmac('sha256', salt).update(chosen).digest()
      const unpadded = (bytes: Buffer): string => bytes.toString('base64').replace(/=+$/, '')
      const stored = parsed(`$godwit-generated$v=1$${unpadded(salt)}$${unpadded(digest)}`)
      expect(await isPassword(stored, Buffer.from(chosen))).toBe(false)
    }
  })

  test('of unknown users fail after as much work as those of known ones', async () => {
    const work = new PasswordWork()
    const logins = new Logins(work)
    expect(await check(logins, 'nobody', 'x', undefined)).toBe('wrong')
    expect(work.figures.done).toBe(1)
  })
})

test('argon2 that cannot be loaded is not reported as a wrong hash', () => {
  const require = createRequire(import.meta.url)
  require('@node-rs/argon2')
  const module = require.cache[require.resolve('@node-rs/argon2')]!
  const { exports } = module
  const stored = `${ARGON2ID_OF_21}${'A'.repeat(43)}`
  try {
    Object.defineProperty(module, 'exports', {
      configurable: true,
      get: () => {
        throw new Error('Cannot find native binding')
      },
    })
    expect(() => parsePasswordHash(stored)).toThrow('native binding')
  } finally {
    Object.defineProperty(module, 'exports', { configurable: true, writable: true, value: exports })
  }
  expect(parsePasswordHash(stored)).toMatchObject({ kind: 'argon2' })
})
