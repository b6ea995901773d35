import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LoginFile, type LoginFileOptions, MAC_BYTES } from '../../../src/access/files/login-file.ts'
import { RememberedLogins } from '../../../src/access/logins/remembered-logins.ts'
import type { ChosenHash } from '../../../src/access/passwords/password-hash.ts'
import { createBroker } from '../../../src/godwit.ts'

const TMPFS = 0x01021994

let root: string
let runtime: string
let data: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'godwit-remembered-'))
  runtime = join(root, 'run')
  data = join(root, 'data')
  mkdirSync(data)
})

afterEach(() => rmSync(root, { recursive: true, force: true }))

/** As if the directory were in memory. */
function opened(failures: Error[] = [], options: Partial<LoginFileOptions> = {}): LoginFile {
  return LoginFile.open(runtime, data, {
    failed: (error) => failures.push(error),
    isInMemory: () => true,
    ...options,
  })
}

function hash(encoded: string): ChosenHash {
  return { kind: 'argon2', encoded }
}

const secret = Buffer.from('a secret')

function file(): string {
  const [name, ...others] = readdirSync(runtime)
  expect(others).toEqual([])
  return join(runtime, name!)
}

describe('successful log-ins', () => {
  test('outlive a restart, but only for the same user, password and hash', () => {
    new RememberedLogins(opened()).add('alice', secret, hash('h1'))
    // Nobody closes anything: it is as after `kill -9`.
    const after = new RememberedLogins(opened())
    expect(after.size).toBe(1)
    expect(after.has('alice', secret, hash('h1'))).toBe(true)
    expect(after.has('alice', secret, hash('h2'))).toBe(false)
    expect(after.has('alice', Buffer.from('another'), hash('h1'))).toBe(false)
    expect(after.has('bob', secret, hash('h1'))).toBe(false)
    // Where one ends and the next begins is part of it.
    expect(after.has('aliceh', secret, hash('1'))).toBe(false)
    expect(after.has('alice', Buffer.from('1a secret'), hash('h'))).toBe(false)
    after.add('bob', secret, hash('h1'))
    expect(new RememberedLogins(opened()).size).toBe(2)
    expect(statSync(file()).mode & 0o777).toBe(0o600)
    const bytes = readFileSync(file())
    for (const word of ['alice', 'a secret', 'h1']) expect(bytes.includes(word)).toBe(false)
  })

  test('of one data directory do not count in another', () => {
    new RememberedLogins(opened()).add('alice', secret, hash('h'))
    data = join(root, 'other')
    mkdirSync(data)
    expect(new RememberedLogins(opened()).size).toBe(0)
  })

  test('are bounded in memory and in the file; the latest ones stay', () => {
    const few = new RememberedLogins(null, 3)
    for (const name of ['a', 'b', 'c']) few.add(name, secret, hash('h'))
    expect(few.has('a', secret, hash('h'))).toBe(true)
    few.add('d', secret, hash('h'))
    expect(['a', 'b', 'c', 'd'].map((name) => few.has(name, secret, hash('h')))).toEqual([
      true,
      false,
      true,
      true,
    ])
    const written = opened()
    const kept = new Set(['x'.repeat(MAC_BYTES)])
    for (let i = 0; i < 200_000; i++) written.append('x'.repeat(MAC_BYTES), kept)
    expect(statSync(file()).size).toBeLessThan(131_072 * MAC_BYTES + 100)
  })

  test('are not written by opening the file', () => {
    opened()
    expect(readdirSync(runtime)).toEqual([])
  })

  test('are left out where a crash cut the file off', () => {
    const before = new RememberedLogins(opened())
    before.add('alice', secret, hash('h'))
    before.add('bob', secret, hash('h'))
    appendFileSync(file(), Buffer.alloc(MAC_BYTES - 1, 1))
    const after = new RememberedLogins(opened())
    expect(after.size).toBe(2)
    after.add('carol', secret, hash('h'))
    expect((statSync(file()).size - 16) % MAC_BYTES).toBe(0)
    expect(new RememberedLogins(opened()).size).toBe(3)
  })
})

describe('a file of log-ins is ignored', () => {
  const ways: Readonly<Record<string, () => void>> = {
    'that others can read': () => chmodSync(file(), 0o640),
    'that others can write': () => chmodSync(file(), 0o602),
    'that has another name, too': () => linkSync(file(), join(root, 'other-name')),
    'that is a symbolic link': () => {
      const path = file()
      const moved = join(root, 'moved')
      linkSync(path, moved)
      rmSync(path)
      symlinkSync(moved, path)
    },
    'that is no such file': () => appendFileSync(file(), 'x', { flag: 'w' }),
  }
  test.each(Object.keys(ways))('%s', (way) => {
    new RememberedLogins(opened()).add('alice', secret, hash('h'))
    const before = readFileSync(file())
    ways[way]!()
    const after = new RememberedLogins(opened())
    expect(after.has('alice', secret, hash('h'))).toBe(false)
    // A new one with a new key takes its place.
    after.add('alice', secret, hash('h'))
    expect(statSync(file()).mode & 0o777).toBe(0o600)
    expect(readFileSync(file()).subarray(16, 48).equals(before.subarray(16, 48))).toBe(false)
    expect(new RememberedLogins(opened()).has('alice', secret, hash('h'))).toBe(true)
  })

  test('on a disk, where a thief could try passwords against it', () => {
    const options = { failed: () => {}, isInMemory: () => false }
    expect(() => LoginFile.open(runtime, data, options)).toThrow('is not in memory (tmpfs)')
    expect(readdirSync(runtime)).toEqual([])
    const { failed } = options
    if (statfsSync(root).type !== TMPFS)
      expect(() => LoginFile.open(runtime, data, { failed })).toThrow('is not in memory (tmpfs)')
  })

  test('in a directory that is open to others', () => {
    mkdirSync(runtime)
    for (const mode of [0o755, 0o770, 0o701]) {
      chmodSync(runtime, mode)
      expect(() => opened()).toThrow('is open to other users (chmod 0700)')
    }
  })

  test('once it cannot be written; the broker goes on and reports it once', () => {
    const failures: Error[] = []
    const logins = new RememberedLogins(opened(failures))
    rmSync(runtime, { recursive: true })
    logins.add('alice', secret, hash('h'))
    logins.add('bob', secret, hash('h'))
    expect(failures).toHaveLength(1)
    expect(logins.has('bob', secret, hash('h'))).toBe(true)
  })
})

test('a broker without such a directory says why, and starts', async () => {
  mkdirSync(runtime)
  chmodSync(runtime, 0o755)
  const broker = await createBroker({ dataDirectory: data, access: {}, runtimeDirectory: runtime })
  expect(broker.loginsNotice).toBe(
    `log-ins are not remembered over a restart: ${runtime} is open to other users (chmod 0700)`,
  )
  await broker.close()
})

const hasMemory = existsSync('/dev/shm') && statfsSync('/dev/shm').type === TMPFS

test.runIf(hasMemory)('in memory the kernel is asked, and log-ins outlive a restart', () => {
  runtime = mkdtempSync('/dev/shm/godwit-remembered-')
  try {
    const open = (): LoginFile => LoginFile.open(runtime, data, { failed: () => {} })
    new RememberedLogins(open()).add('alice', secret, hash('h'))
    expect(new RememberedLogins(open()).has('alice', secret, hash('h'))).toBe(true)
  } finally {
    rmSync(runtime, { recursive: true })
  }
})
