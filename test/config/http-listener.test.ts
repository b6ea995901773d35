import { expect, test } from 'vitest'
import { configChanges } from '../../src/config/changes.ts'
import { checkConfig, loadConfig } from '../../src/config/config.ts'
import { httpOptions } from '../../src/config/listeners.ts'

function http(text: string, flags = {}): ReturnType<typeof httpOptions> {
  return httpOptions(loadConfig({ file: 'test.yaml', text, flags }).http)
}

test('health is served on loopback by default, and an address that is taken only warns', () => {
  expect(http('')).toMatchObject({ hosts: ['127.0.0.1', '::1'], port: 18_083, isRequired: false })
  expect(http('http: { enabled: true }')).toMatchObject({ isRequired: true })
})

test('one key switches it off', () => {
  expect(http('http: { enabled: false, port: 1 }')).toBeNull()
})

test('a port of MQTT on the command line leaves it out unless it is asked for', () => {
  expect(http('', { port: '1883' })).toBeNull()
  expect(http('', { wsPort: '8083' })).toBeNull()
  expect(http('', { host: '0.0.0.0' })).toMatchObject({ hosts: ['127.0.0.1', '::1'] })
  expect(http('http: { port: 9 }', { port: '1883' })).toMatchObject({ port: 9 })
  expect(http('', { port: '1883', set: ['http.enabled=true'] })).toMatchObject({ port: 18_083 })
})

test('a certificate without its key, and the other way round, is a problem with its line', () => {
  expect(() => http('http:\n  tls:\n    cert: a.pem')).toThrow(
    /test\.yaml:3: http\.tls\.cert: .*http\.tls\.key/,
  )
  expect(() => http('http:\n  tls:\n    key: a.pem')).toThrow(/http\.tls\.key: .*http\.tls\.cert/)
})

test('the check names certificates of HTTP that cannot be read', () => {
  const text = 'http:\n  tls:\n    cert: /none/a.pem\n    key: /none/b.pem'
  expect(() => checkConfig({ file: 'test.yaml', text })).toThrow(
    /test\.yaml:3: http\.tls\.cert: .*cannot read \/none\/a\.pem[\s\S]*test\.yaml:4: http\.tls\.key/,
  )
})

test('a reload tells changes of HTTP, and hides its secrets', () => {
  const tls = (passphrase: string) => `tls: { cert: a.pem, key: b.pem, passphrase: ${passphrase} }`
  const load = (text: string) => loadConfig({ file: 'test.yaml', text })
  const changes = configChanges(
    load(`http: { port: 1, ${tls('one')} }`),
    load(`http: { port: 2, ${tls('two')} }`),
  )
  expect(changes).toEqual([
    { key: 'http.port', from: '1', to: '2', effect: 'now' },
    { key: 'http.tls.passphrase', from: '(secret)', to: '(another one)', effect: 'connections' },
  ])
})
