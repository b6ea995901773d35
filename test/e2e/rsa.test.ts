/** Devices that know RSA only, beside everybody else, on the listeners that `godwit setup` makes. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeAll, expect, test } from 'vitest'
import { firstCertificate } from '../../src/runtime/certificates/authority-files.ts'
import { createServerCertificate } from '../../src/runtime/certificates/certificates.ts'
import { cleanUp, type Ended, MAIN, Program, temporaryDirectory } from './process.ts'

const DAY_MS = 86_400_000

let port: number
let webSocketPort: number

beforeAll(async () => {
  const probes = [createServer(), createServer()] as const
  for (const probe of probes) await new Promise<void>((resolve) => probe.listen(0, '::', resolve))
  ;[port, webSocketPort] = probes.map((probe) => (probe.address() as { port: number }).port) as [
    number,
    number,
  ]
  for (const probe of probes) await new Promise((resolve) => probe.close(resolve))
})

afterEach(cleanUp)

function ran(...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words]).ended
}

async function made(): Promise<{ directory: string; password: string; path: (name: string) => string }> {
  const directory = join(await temporaryDirectory(), 'data')
  const { code, stdout, stderr } = await ran(
    'setup',
    '--data',
    directory,
    '--port',
    `${port}`,
    '--ws-port',
    `${webSocketPort}`,
  )
  expect([code, stderr]).toEqual([0, ''])
  const [, password = ''] = /shown only once: (\S+)/.exec(stdout) ?? []
  return { directory, password, path: (name) => join(directory, name) }
}

async function begun(directory: string): Promise<Program> {
  const broker = new Program(process.execPath, [MAIN, '--data', directory])
  await broker.until((stdout) => stdout.includes("godwit listener 'wss'"))
  return broker
}

/** Resolves with the output of `openssl s_client` for a connection that it verifies with this file. */
async function connected(caFile: string, ...words: string[]): Promise<string> {
  const command = [
    's_client',
    '-connect',
    `localhost:${port}`,
    '-CAfile',
    caFile,
    '-verify_return_error',
    ...words,
  ]
  const { stdout, stderr } = await new Program('openssl', [...command, '-servername', 'localhost', '-brief'])
    .ended
  return stdout + stderr
}

/** The offers of a device that knows RSA only, in either version. */
const RSA_ONLY = [
  ['-tls1_2', '-cipher', 'ECDHE-RSA-AES128-GCM-SHA256', '-sigalgs', 'RSA+SHA256'],
  ['-tls1_3', '-sigalgs', 'rsa_pss_rsae_sha256:RSA+SHA256'],
] as const

test('the files of setup serve RSA-only devices, and ECDSA to all that know it [field-E27]', async () => {
  const { directory, password, path } = await made()
  await begun(directory)
  for (const words of RSA_ONLY) {
    // Both authorities in one file, and the one alone for devices that take just one.
    for (const file of ['ca.crt', 'ca-rsa.crt']) {
      const said = await connected(path(file), ...words)
      expect(said, `${words[0]} ${file}`).toContain('Verification: OK')
      expect(said, `${words[0]} ${file}`).toMatch(/signature type: RSA/i)
    }
  }
  for (const words of [['-tls1_2'], ['-tls1_3']]) {
    // A client that knows both gets the cheaper one, which an old copy of `ca.crt` without RSA verifies, too.
    writeFileSync(path('old-ca.crt'), firstCertificate(readFileSync(path('ca.crt'), 'utf8')))
    for (const file of ['ca.crt', 'old-ca.crt']) {
      const said = await connected(path(file), ...words)
      expect(said, `${words[0]} ${file}`).toContain('Verification: OK')
      expect(said, `${words[0]} ${file}`).toMatch(/signature type: ECDSA/i)
    }
  }
  // Of libmosquitto, too, made as narrow as those devices by OpenSSL's own configuration.
  const narrow = [
    ...['openssl_conf = all', '[all]', 'ssl_conf = ssl', '[ssl]', 'system_default = narrow', '[narrow]'],
    ...[
      'MaxProtocol = TLSv1.2',
      'CipherString = ECDHE-RSA-AES128-GCM-SHA256',
      'SignatureAlgorithms = RSA+SHA256',
    ],
  ]
  writeFileSync(path('openssl.cnf'), `${narrow.join('\n')}\n`)
  for (const [file, configuration] of [
    ['ca.crt', '/dev/null'],
    ['ca.crt', path('openssl.cnf')],
    ['ca-rsa.crt', path('openssl.cnf')],
  ] as const) {
    const words = ['-h', 'localhost', '-p', `${port}`, '--cafile', path(file), '-u', 'admin', '-P', password]
    const message = ['-q', '1', '-t', 'a', '-m', 'b']
    const pub = new Program('env', [`OPENSSL_CONF=${configuration}`, 'mosquitto_pub', ...words, ...message])
    expect(await pub.ended, `${file} ${configuration}`).toMatchObject({ code: 0, stderr: '' })
  }
})

test('an earlier setup with ECDSA alone gets advice, and serves both after --rsa [field-E27]', async () => {
  const { directory, path } = await made()
  for (const name of ['ca-rsa.crt', 'ca-rsa.key', 'server-rsa.crt', 'server-rsa.key']) rmSync(path(name))
  writeFileSync(path('ca.crt'), firstCertificate(readFileSync(path('ca.crt'), 'utf8')))
  const yaml = readFileSync(path('godwit.yaml'), 'utf8')
  const old = yaml.replaceAll(/tls: \{.*\}/g, 'tls: { cert: server.crt, key: server.key }')
  writeFileSync(path('godwit.yaml'), old)
  const broker = await begun(directory)
  const again = await ran('setup', '--data', directory)
  expect(again.stdout).toContain(`to serve both: godwit setup --rsa --data ${directory}`)
  expect(readFileSync(path('godwit.yaml'), 'utf8')).toBe(old)
  expect(await connected(path('ca.crt'), ...RSA_ONLY[0])).toMatch(/alert handshake failure/)
  expect((await ran('setup', '--rsa', '--data', directory)).code).toBe(0)
  expect(readFileSync(path('godwit.yaml'), 'utf8')).toBe(yaml)
  expect((await ran('reload', '--data', directory)).code).toBe(0)
  expect(await connected(path('ca.crt'), ...RSA_ONLY[0])).toMatch(/signature type: RSA/i)
  await broker.kill()
})

test('--renew keeps the keys, --new-key makes new ones [field-E27]', async () => {
  const { directory, path } = await made()
  const keys = (): string[] =>
    ['server.key', 'server-rsa.key'].map((name) => readFileSync(path(name), 'utf8'))
  const serials = (): string[] =>
    ['server.crt', 'server-rsa.crt'].map((name) => new X509Certificate(readFileSync(path(name))).serialNumber)
  const before = [keys(), serials()]
  expect((await ran('setup', '--renew', '--data', directory)).stdout).toContain(
    'server.crt for the existing key',
  )
  expect(keys()).toEqual(before[0])
  for (const [i, serial] of serials().entries()) expect(serial).not.toBe(before[1]![i])
  expect((await ran('setup', '--new-key', '--data', directory)).code).toBe(0)
  for (const [i, key] of keys().entries()) expect(key).not.toBe(before[0]![i])
  expect((await ran('check', path('godwit.yaml'))).stdout).toContain('ok')
})

test('the broker renews certificates that expire soon by itself, and says so [field-E27]', async () => {
  const { directory, path } = await made()
  const read = (name: string): string => readFileSync(path(name), 'utf8')
  const issuer = { certificate: firstCertificate(read('ca.crt')), key: read('ca.key') }
  const names = { names: ['localhost'], addresses: ['127.0.0.1'] }
  const old = await createServerCertificate(issuer, names, Date.now() - 385 * DAY_MS, {
    key: read('server.key'),
  })
  writeFileSync(path('server.crt'), old.certificate)
  const broker = await begun(directory)
  await broker.until((stdout) => stdout.includes('"msg":"certificate renewed"'))
  await broker.until((stdout) => stdout.includes('"msg":"certificate loaded"'))
  const young = new X509Certificate(read('server.crt'))
  expect(Date.parse(young.validTo) - Date.now()).toBeGreaterThan(390 * DAY_MS)
  expect(young.publicKey.equals(new X509Certificate(old.certificate).publicKey)).toBe(true)
  expect(await connected(path('ca.crt'))).toContain('Verification: OK')
  const status = await ran('status', '--data', directory)
  expect(status.stdout).toMatch(/certificate +mqtts is valid until [\d-]+, 39\d days; renewed automatically/)
})
