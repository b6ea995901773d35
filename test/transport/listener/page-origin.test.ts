import { expect, test } from 'vitest'
import type { ListenerOptions } from '../../../src/transport/listener/listener.ts'
import { type OriginRequest, originRefusal } from '../../../src/transport/listener/page-origin.ts'

const OPEN: ListenerOptions = { name: 'web', type: 'ws', allowAnonymous: true }
const CERTIFIED: ListenerOptions = {
  name: 'web',
  type: 'wss',
  host: '0.0.0.0',
  allowAnonymous: false,
  tls: { cert: '', key: '', clientCertificate: 'require' },
}

const SITUATION = {
  hasUsers: false,
  isKnownName: (name: string) => ['pi', 'pi.local', '192.168.1.7', 'fe80::1'].includes(name),
}

function isLetIn(options: Partial<ListenerOptions>, origin: string | undefined, host: string): boolean {
  const asked: OriginRequest = { origin, host, port: 8083 }
  return originRefusal({ ...OPEN, ...options }, asked, SITUATION) === null
}

test.each([
  ['http://localhost:8083', 'localhost:8083'],
  ['http://LOCALHOST:8083', 'Localhost.:8083'],
  ['http://127.0.0.1:8083', '127.0.0.1:8083'],
  ['http://127.1.2.3:8083', '127.1.2.3:8083'],
  ['http://[::1]:8083', '[0:0:0:0:0:0:0:1]:8083'],
  ['http://[fe80::1]:8083', '[FE80::1]:8083'],
  ['http://pi', 'pi:80'],
  ['http://pi.local:80', 'pi.local'],
  // A proxy on this machine that ends TLS and forwards the name that it was asked for.
  ['https://pi.local', 'pi.local'],
  ['https://192.168.1.7:443', '192.168.1.7'],
  [undefined, '127.0.0.1:8083'],
  [undefined, 'pi'],
])('a loopback listener serves a page of %s that asks for %s [field-D22]', (origin, host) => {
  expect(isLetIn({}, origin, host)).toBe(true)
})

test.each([
  ['https://evil.example', '127.0.0.1:8083'],
  ['http://localhost:3000', 'localhost:8083'],
  ['http://localhost', 'localhost:8083'],
  ['http://127.0.0.1:8083', 'localhost:8083'],
  ['http://localhost.evil.example:8083', 'localhost.evil.example:8083'],
  ['http://127.0.0.1.evil.example:8083', '127.0.0.1.evil.example:8083'],
  ['http://127.0.0.1:8083@evil.example', '127.0.0.1:8083'],
  ['http://203.0.113.7:8083', '203.0.113.7:8083'],
  ['null', '127.0.0.1:8083'],
  ['file://', 'localhost:8083'],
  ['', 'localhost:8083'],
  ['chrome-extension://localhost:8083', 'localhost:8083'],
  [undefined, 'evil.example:8083'],
  [undefined, ''],
  [undefined, 'localhost:8083/'],
  [undefined, 'evil.example#localhost'],
])('a loopback listener refuses a page of %s that asks for %s [field-D22]', (origin, host) => {
  expect(isLetIn({}, origin, host)).toBe(false)
})

test('other listeners accept any name of a proxy, but no page from their own port', () => {
  const host = '0.0.0.0'
  expect(isLetIn({ host }, 'https://home.example', 'home.example')).toBe(true)
  expect(isLetIn({ host }, undefined, 'home.example:8083')).toBe(true)
  expect(isLetIn({ host }, 'http://rebound.example:8083', 'rebound.example:8083')).toBe(false)
  expect(isLetIn({ host }, 'http://pi:8083', 'pi:8083')).toBe(true)
  expect(isLetIn({ host }, 'https://other.example', 'home.example')).toBe(false)
})

test('a certificate that a browser sends by itself does not let a page in', () => {
  expect(isLetIn(CERTIFIED, 'https://evil.example', 'pi:8084')).toBe(false)
  expect(isLetIn(CERTIFIED, 'http://pi:8084', 'pi:8084')).toBe(false)
  expect(isLetIn(CERTIFIED, 'https://pi:8084', 'pi:8084')).toBe(true)
  const tls = { cert: '', key: '', clientCertificate: 'none' } as const
  expect(isLetIn({ ...CERTIFIED, tls }, 'https://evil.example', 'pi:8084')).toBe(true)
})

test('listed origins are compared without case and default ports; all others are refused', () => {
  const allowedOrigins = ['https://Example.org', 'http://localhost:5173', 'app://Here']
  for (const origin of [
    'https://example.org',
    'https://EXAMPLE.ORG:443',
    'http://localhost:5173',
    'app://here',
  ]) {
    expect(isLetIn({ allowedOrigins }, origin, 'anything'), origin).toBe(true)
  }
  for (const origin of [
    'http://example.org',
    'https://example.org:8443',
    'https://sub.example.org',
    'null',
  ]) {
    expect(isLetIn({ allowedOrigins, allowAnonymous: false }, origin, 'localhost:8083'), origin).toBe(false)
  }
  expect(isLetIn({ allowedOrigins: ['*'] }, 'null', 'anything')).toBe(true)
})

test('an origin that could forge text is not repeated', () => {
  const asked = { origin: 'https://evil.example"]\u001b[2J', host: 'localhost:8083', port: 8083 }
  const refusal = originRefusal(OPEN, asked, SITUATION)
  expect(refusal?.reason).toMatch(/^pages of this origin /)
  expect(JSON.stringify(refusal)).not.toContain('evil')
})
