import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  createAuthority,
  createServerCertificate,
  type IssuedCertificate,
  type KeyKind,
} from '../../../src/runtime/certificates/certificates.ts'
import { keyPairs, type PemSource } from '../../../src/transport/tls/key-pairs.ts'

const NAMES = { names: ['localhost'], addresses: [] }

let authorities: Record<KeyKind, IssuedCertificate>
let servers: Record<KeyKind, IssuedCertificate>

beforeAll(async () => {
  const made = async (kind: KeyKind) => {
    const authority = await createAuthority(`Tests ${kind}`, Date.now(), kind)
    return [authority, await createServerCertificate(authority, NAMES, Date.now(), { kind })] as const
  }
  const [ecdsa, rsa] = [await made('ECDSA'), await made('RSA')]
  authorities = { ECDSA: ecdsa[0], RSA: rsa[0] }
  servers = { ECDSA: ecdsa[1], RSA: rsa[1] }
})

const source = (name: string, ...texts: string[]): PemSource => ({ name, text: texts.join('') })

function paired(certificates: PemSource[], keys: PemSource[]): [string, number][] {
  return keyPairs(certificates, keys, undefined).map(({ kind, chain }) => [
    kind,
    chain.match(/BEGIN CERTIFICATE/g)!.length,
  ])
}

describe('certificates and keys', () => {
  test('of both kinds are matched across files in any order [field-E27]', () => {
    const { ECDSA, RSA } = servers
    expect(
      paired(
        [source('a.crt', ECDSA.certificate), source('b.crt', RSA.certificate)],
        [source('b.key', RSA.key), source('a.key', ECDSA.key)],
      ),
    ).toEqual([
      ['ECDSA', 1],
      ['RSA', 1],
    ])
  })

  test('in one file are both served, each with the chain that follows it [field-E27]', () => {
    const { ECDSA, RSA } = servers
    const certificates = source(
      'both.crt',
      RSA.certificate,
      authorities.RSA.certificate,
      ECDSA.certificate,
      authorities.ECDSA.certificate,
    )
    expect(paired([certificates], [source('both.key', ECDSA.key, RSA.key)])).toEqual([
      ['RSA', 2],
      ['ECDSA', 2],
    ])
  })

  test('are refused if one has no key [field-E27]', () => {
    const { ECDSA, RSA } = servers
    const certificates = source('both.crt', ECDSA.certificate, RSA.certificate)
    expect(() => paired([certificates], [source('a.key', ECDSA.key)])).toThrow(
      'key mismatch: no key of tls.key belongs to the RSA certificate CN=localhost of both.crt',
    )
  })

  test('that do not match are named with their kinds and files [field-E27]', async () => {
    const { ECDSA, RSA } = servers
    const other = await createServerCertificate(authorities.RSA, NAMES, Date.now(), { kind: 'RSA' })
    const both = [source('a.crt', ECDSA.certificate), source('b.crt', RSA.certificate)]
    expect(() => paired(both, [source('a.key', ECDSA.key), source('b.key', other.key)])).toThrow(
      'no key of tls.key belongs to the RSA certificate CN=localhost of b.crt',
    )
    const keys = [source('a.key', ECDSA.key), source('b.key', RSA.key)]
    expect(() => paired(both.slice(0, 1), keys)).toThrow(
      'the RSA key of b.key belongs to no certificate of tls.cert',
    )
    expect(() =>
      paired([...both, source('c.crt', other.certificate)], [...keys, source('c.key', other.key)]),
    ).toThrow('there are two certificates for RSA keys, and a server can show one of each kind')
    expect(() => paired(both, [source('a.key', 'nothing')])).toThrow('a.key holds no whole private key')
    expect(() => paired([source('a.crt', ECDSA.key)], keys)).toThrow('a.crt holds no whole certificate')
  })

  test('in other orders and forms of OpenSSL are understood', () => {
    const directory = mkdtempSync(join(tmpdir(), 'godwit-'))
    try {
      const path = (name: string): string => join(directory, name)
      const openssl = (...words: string[]) => execFileSync('openssl', words, { stdio: 'ignore' })
      // With EC PARAMETERS before the key, and a certificate that claims to be an authority.
      openssl('ecparam', '-name', 'prime256v1', '-genkey', '-out', path('ec.key'))
      openssl(
        'req',
        '-x509',
        '-new',
        '-key',
        path('ec.key'),
        '-subj',
        '/CN=own',
        '-days',
        '30',
        '-out',
        path('ec.crt'),
      )
      const read = (name: string): string => readFileSync(path(name), 'utf8')
      expect(paired([source('ec.crt', read('ec.crt'))], [source('ec.key', read('ec.key'))])).toEqual([
        ['ECDSA', 1],
      ])
      // One file for everything, the authority first.
      const all = source('all.pem', authorities.RSA.certificate, servers.RSA.certificate, servers.RSA.key)
      expect(paired([all], [all])).toEqual([['RSA', 2]])
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  test('with a single certificate are still served', () => {
    const { ECDSA, RSA } = servers
    const path = join(mkdtempSync(join(tmpdir(), 'godwit-')), 'key')
    try {
      // In the form of OpenSSL before PKCS 8, whose headers have hyphens.
      const words = ['rsa', '-traditional', '-aes128', '-passout', 'pass:secret', '-out', path]
      execFileSync('openssl', words, { input: RSA.key, stdio: ['pipe', 'ignore', 'ignore'] })
      const key = source('a.key', readFileSync(path, 'utf8'))
      expect(keyPairs([source('a.crt', RSA.certificate)], [key], 'secret')).toMatchObject([{ kind: 'RSA' }])
      expect(() => keyPairs([source('a.crt', RSA.certificate)], [key], 'wrong')).toThrow('cannot be read')
    } finally {
      rmSync(dirname(path), { recursive: true })
    }
    // The same certificate twice, as when a chain was put together by hand.
    const twice = source('twice.crt', ECDSA.certificate, ECDSA.certificate)
    expect(paired([twice], [source('a.key', ECDSA.key)])).toEqual([['ECDSA', 1]])
  })

  test("of an unmarked authority do not count as a server's", () => {
    const directory = mkdtempSync(join(tmpdir(), 'godwit-'))
    try {
      const path = (name: string): string => join(directory, name)
      const read = (name: string): string => readFileSync(path(name), 'utf8')
      const openssl = (line: string) =>
        execFileSync('openssl', line.split(' '), { stdio: 'ignore', cwd: directory })
      for (const name of ['root', 'leaf']) {
        openssl(`ecparam -name prime256v1 -genkey -noout -out ${name}.key`)
        openssl(`req -new -key ${name}.key -subj /CN=${name} -out ${name}.csr`)
      }
      // Version 1 has no extensions.
      openssl('x509 -req -in root.csr -signkey root.key -days 30 -out root.crt')
      openssl('x509 -req -in leaf.csr -CA root.crt -CAkey root.key -CAcreateserial -days 30 -out leaf.crt')
      const chain = source('chain.crt', read('leaf.crt'), read('root.crt'))
      expect(paired([chain], [source('leaf.key', read('leaf.key'))])).toEqual([['ECDSA', 2]])
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})
