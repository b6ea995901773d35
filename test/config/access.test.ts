import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DEFAULT_ACCESS } from '../../src/access/access-options.ts'
import { checkConfig, loadConfig } from '../../src/config/config.ts'

let root: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'godwit-config-'))
})

afterEach(() => rmSync(root, { recursive: true, force: true }))

function file(text: string): string {
  const path = join(root, 'godwit.yaml')
  writeFileSync(path, text)
  return path
}

describe('access', () => {
  test('has defaults that accept nobody', () => {
    expect(loadConfig().access).toEqual(DEFAULT_ACCESS)
  })

  test('takes paths relative to the file, fingerprints with or without colons, and SUBACK codes', () => {
    const pairs = Array.from({ length: 32 }, () => 'AB')
    const text = `access:
  accounts: false
  password_files: [passwd, /etc/passwd.mqtt]
  acl_files: [acl]
  default: deny
  certificate_user: fingerprint
  certificates:
    - { fingerprint: "${pairs.join(':')}", user: a }
    - { fingerprint: "${pairs.join('')}", user: b }
  denied_before_5: disconnect
  check_retained_author: false
  denied_subscription_code: 0x8F
`
    expect(loadConfig({ file: file(text) }).access).toEqual({
      accounts: false,
      passwordFiles: [join(root, 'passwd'), '/etc/passwd.mqtt'],
      aclFiles: [join(root, 'acl')],
      default: 'deny',
      certificateUser: 'fingerprint',
      certificates: [
        { fingerprint: pairs.join(':'), user: 'a' },
        { fingerprint: pairs.join(''), user: 'b' },
      ],
      deniedBefore5: 'disconnect',
      checkRetainedAuthor: false,
      deniedSubscription: 0x8f,
    })
  })

  test.each([
    ['password_files: passwd', 'a list of paths'],
    ['certificates: [{ fingerprint: AB, user: a }]', 'a list of { fingerprint, user }'],
    ['denied_subscription_code: 0x00', 'one of 0x80'],
    ['default: maybe', 'auto, allow or deny'],
  ])('%s: %s', (line, message) => {
    expect(() => loadConfig({ file: file(`access:\n  ${line}\n`) })).toThrow(message)
  })

  test('`godwit check` reads the files, and names each bad line', () => {
    writeFileSync(join(root, 'passwd'), 'alice:plain\n')
    writeFileSync(join(root, 'acl'), 'topic read a\ntopic what a\n')
    const path = file('access:\n  password_files: [passwd, missing]\n  acl_files: [acl]\n')
    expect(() => checkConfig({ file: path })).toThrow(
      expect.objectContaining({
        problems: expect.arrayContaining([
          expect.objectContaining({ where: `${join(root, 'passwd')}:1` }),
          expect.objectContaining({ where: `${join(root, 'acl')}:2` }),
          expect.objectContaining({ where: `${path}:2`, message: expect.stringContaining('ENOENT') }),
        ]),
      }),
    )
  })
})
