/** The HTTP listener of a broker: health, and the limits that keep it from starving MQTT. */
import { connect, createServer, type Socket } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { type Broker, createBroker } from '../../src/godwit.ts'

const brokers: Broker[] = []

async function started(options: Parameters<typeof createBroker>[0] = {}): Promise<Broker> {
  const broker = await createBroker({ http: { hosts: ['127.0.0.1'], port: 0 }, ...options })
  brokers.push(broker)
  return broker
}

afterEach(async () => {
  await Promise.all(brokers.splice(0).map((broker) => broker.close()))
})

/** Sends a raw request and returns all bytes until the connection ends. */
function raw(broker: Broker, text: string): Promise<string> {
  const { port } = new URL(broker.httpAddresses[0]!)
  return new Promise((resolve) => {
    let answer = ''
    const socket = connect(Number(port), '127.0.0.1', () => socket.write(text))
    socket.setEncoding('utf8').on('data', (data: string) => {
      answer += data
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(answer))
  })
}

function request(path: string, headers: Readonly<Record<string, string>> = {}, method = 'GET'): string {
  const lines = Object.entries({ Host: 'localhost', Connection: 'close', ...headers })
  return `${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`
}

describe('health over HTTP', () => {
  test('a program that embeds the broker opens no HTTP listener unless it asks', async () => {
    const broker = await started({ http: null })
    expect(broker.httpAddresses).toEqual([])
    expect((await started({ http: undefined as never })).httpAddresses).toEqual([])
  })

  test('a broker that runs is alive and ready', async () => {
    const broker = await started()
    const live = await fetch(`${broker.httpAddresses[0]}/livez`)
    expect([live.status, await live.text()]).toEqual([200, 'ok\n'])
    const ready = await fetch(`${broker.httpAddresses[0]}/readyz`)
    expect([ready.status, await ready.text()]).toEqual([200, 'ready\n'])
    expect(ready.headers.get('cache-control')).toBe('no-store')
    expect(ready.headers.get('x-content-type-options')).toBe('nosniff')
  })

  test('a broker whose clients are as many as it takes is not ready, and says why', async () => {
    const broker = await started({
      limits: { connectionsMax: 1 },
      listeners: [{ type: 'tcp', port: 0 }],
    })
    const socket = connect(broker.listeners[0]!.port, '127.0.0.1', () =>
      socket.write(Buffer.from('100c00044d5154540402003c0000', 'hex')),
    )
    await new Promise((resolve) => socket.once('data', resolve))
    const ready = await fetch(`${broker.httpAddresses[0]}/readyz`)
    expect(ready.status).toBe(503)
    expect(await ready.text()).toBe('not ready\nAll 1 clients of limits.connections_max are connected.\n')
    socket.destroy()
  })

  test('other methods and paths are told so', async () => {
    const broker = await started()
    expect(await raw(broker, request('/readyz', {}, 'DELETE'))).toMatch(/^HTTP\/1.1 405 .*allow: GET, HEAD/is)
    expect(await raw(broker, request('/'))).toMatch(/^HTTP\/1.1 404 .*\/livez, \/readyz and \/metrics/s)
    expect(await raw(broker, request('/readyz', {}, 'HEAD'))).toMatch(/^HTTP\/1.1 200 .*\r\n\r\n$/s)
  })

  test('an address that is taken fails a required listener and leaves nothing open', async () => {
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
    const { port } = taken.address() as { port: number }
    await expect(createBroker({ http: { hosts: ['127.0.0.1'], port } })).rejects.toMatchObject({
      code: 'GODWIT_LISTEN_IN_USE',
    })
    const broker = await started({ http: { hosts: ['127.0.0.1'], port, isRequired: false } })
    expect(broker.httpAddresses).toEqual([])
    expect(broker.httpWarnings).toEqual([expect.stringMatching(/in use by another program.*http\.enabled/)])
    await new Promise((resolve) => taken.close(resolve))
  })

  test('a reload opens, keeps, moves and closes it', async () => {
    const broker = await started({ http: null })
    const http = { hosts: ['127.0.0.1'], port: 0 }
    await broker.reconfigure({ http })
    const [first] = broker.httpAddresses
    expect((await fetch(`${first}/livez`)).status).toBe(200)
    await broker.reconfigure({ http: { ...http, isRequired: false } })
    expect(broker.httpAddresses).toEqual([first])
    await broker.reconfigure({ http: { ...http, hosts: ['127.0.0.2'] } })
    expect(broker.httpAddresses[0]).toMatch(/127\.0\.0\.2/)
    await broker.reconfigure({ http: null })
    expect(broker.httpAddresses).toEqual([])
    await expect(fetch(`${first}/livez`)).rejects.toThrow()
  })

  test('a reload that cannot open an MQTT listener leaves HTTP as it was', async () => {
    const broker = await started()
    const [before] = broker.httpAddresses
    const { port } = new URL(before!)
    const listeners = [{ type: 'tcp', port: Number(port) }] as const
    const http = { hosts: ['127.0.0.1', '127.0.0.2'], port: Number(port) }
    await expect(broker.reconfigure({ http, listeners })).rejects.toThrow(/in use/)
    expect((await fetch(`${broker.httpAddresses[0]}/livez`)).status).toBe(200)
    expect(broker.httpAddresses).toHaveLength(1)
  })
})

describe('what the HTTP listener refuses', () => {
  test('names that a stranger may have pointed at this machine, and pages of other sites', async () => {
    const broker = await started()
    const refused = await raw(broker, request('/livez', { Host: 'evil.example' }))
    expect(refused).toMatch(/^HTTP\/1.1 403 .*http\.hosts/s)
    const foreign = { Origin: 'https://evil.example' }
    expect(await raw(broker, request('/livez', foreign))).toMatch(/^HTTP\/1.1 403 /)
    const own = new URL(broker.httpAddresses[0]!)
    expect(await raw(broker, request('/livez', { Host: own.host, Origin: own.origin }))).toMatch(
      /^HTTP\/1.1 200 /,
    )
  })

  test('a connection from this machine is judged strictly on every address', async () => {
    const broker = await started({ http: { hosts: ['0.0.0.0'], port: 0 } })
    expect(await raw(broker, request('/livez', { Host: 'evil.example' }))).toMatch(/^HTTP\/1.1 403 /)
    expect(await raw(broker, request('/livez'))).toMatch(/^HTTP\/1.1 200 /)
  })

  test('a body', async () => {
    const broker = await started()
    expect(await raw(broker, `${request('/livez', { 'Content-Length': '3' })}abc`)).toMatch(/^HTTP\/1.1 413 /)
    expect(await raw(broker, request('/livez', { 'Transfer-Encoding': 'chunked' }))).toMatch(
      /^HTTP\/1.1 413 /,
    )
  })

  test('long headers and bytes that are no HTTP', async () => {
    const broker = await started()
    expect(await raw(broker, request('/livez', { 'X-Long': 'x'.repeat(20_000) }))).toMatch(/^HTTP\/1.1 431 /)
    expect(await raw(broker, '\x10\x0c\0\x04MQTT')).toMatch(/^HTTP\/1.1 400 /)
  })

  test('requests that do not wait for the answer before them', async () => {
    const broker = await started()
    const all = await raw(broker, request('/livez').replace('close', 'keep-alive').repeat(50))
    expect(all.split('HTTP/1.1 200').length).toBeLessThan(50)
  })

  test('more connections than it may have', async () => {
    const broker = await started({ http: { hosts: ['127.0.0.1'], port: 0, connectionsMax: 2 } })
    const { port } = new URL(broker.httpAddresses[0]!)
    const sockets: Socket[] = []
    for (let i = 0; i < 2; i++) {
      const socket = connect(Number(port), '127.0.0.1')
      sockets.push(socket)
      await new Promise((resolve) => {
        socket.once('data', resolve)
        socket.write(request('/livez').replace('close', 'keep-alive'))
      })
    }
    expect(await raw(broker, request('/livez'))).toBe('')
    for (const socket of sockets) socket.destroy()
  })
})
