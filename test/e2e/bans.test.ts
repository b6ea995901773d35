/** `godwit ban` against the real process, and bans of a broker in this process on real sockets. */
import { once } from 'node:events'
import { readFile, stat } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { createBroker, type ListenerType } from '../../src/godwit.ts'
import { BrokerProcess, CERTIFICATES, cleanUp, MAIN, output, Program, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

async function publish(port: number, ...words: string[]): Promise<number | null> {
  const args = ['-h', '127.0.0.1', '-p', `${port}`, '-t', 'a', '-m', 'x', '-q', '1', ...words]
  return (await new Program('mosquitto_pub', args).ended).code
}

const godwit = (...words: string[]): Promise<string> => output(process.execPath, MAIN, ...words)

test('banned clients of 3.1.1 and 5.0 are refused until the ban is lifted, over a restart', async () => {
  const broker = await BrokerProcess.start()
  const { data } = broker
  const client = await connectAsync(`mqtt://127.0.0.1:${broker.port}`, {
    clientId: 'device-7',
    protocolVersion: 4,
    reconnectPeriod: 0,
  })
  const gone = new Promise<void>((resolve) => client.once('close', resolve))
  const told = await godwit(
    'ban',
    'add',
    '--client',
    'device-7',
    '--for',
    '1h',
    '--reason',
    'broken',
    '--data',
    data,
  )
  expect(told).toBe('Client Identifier device-7 is banned for 1 h 0 min; its connections have ended\n')
  await gone
  // CONNACK 5: not authorized.
  expect(await publish(broker.port, '-i', 'device-7', '-V', '311')).toBe(5)
  expect(await publish(broker.port, '-i', 'device-7', '-V', '5')).toBe(0x8a)
  expect(await publish(broker.port, '-i', 'other', '-V', '311')).toBe(0)
  expect((await stat(join(data, 'bans.json'))).mode & 0o777).toBe(0o600)
  await broker.stop()
  await broker.restart()
  expect(await publish(broker.port, '-i', 'device-7', '-V', '311')).toBe(5)
  await godwit('ban', 'remove', '--client', 'device-7', '--data', data)
  expect(await publish(broker.port, '-i', 'device-7', '-V', '311')).toBe(0)
  await broker.stop()
})

test('commands work on a stopped broker, and lists fit 80 columns', async () => {
  const data = await temporaryDirectory()
  const ban = (...words: string[]): Promise<string> => godwit('ban', ...words, '--data', data)
  expect(await ban('list')).toBe('nobody is banned; to ban somebody: godwit ban add ADDRESS --for 1h\n')
  expect(await ban('add', '203.0.113.9/24', '--for', '7d')).toBe(
    'address 203.0.113.0/24 is banned for 7 days 0 h; no broker runs: the ban takes effect at the ' +
      'next start\n',
  )
  await ban('add', '2001:db8:1:2:3:4:5:6', '--reason', 'a long story about what happened on that day in May')
  await ban('add', '--user', 'mallory')
  const list = await ban('list')
  expect(list.split('\n')[0]).toMatch(/^WHAT +WHO +LEFT +BY +REASON$/)
  expect(list).toMatch(/^user {5}mallory +for ever/m)
  for (const line of list.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
  expect(JSON.parse(await ban('list', '--json'))).toHaveLength(3)
  const wrong = await new Program(process.execPath, [MAIN, 'ban', 'remove', '--user', 'bob', '--data', data])
    .ended
  expect([wrong.code, wrong.stderr]).toEqual([
    1,
    "godwit: there is no ban of the user 'bob'\nSee `godwit ban list`.\nCode: GODWIT_BANS_REFUSED\n",
  ])
  const broker = await BrokerProcess.start({ data })
  const running = await ban('list')
  expect(running.split('\n')).toHaveLength(5)
  expect(running).toMatch(/203\.0\.113\.0\/24 +(?:6 days 23|7 days 0) h /)
  await ban('add', '--client', 'c', '--for', '2h')
  expect(await godwit('status', '--data', data)).toMatch(/^banned +4; see: godwit ban list$/m)
  await broker.stop()
  expect(await ban('list')).toMatch(/^client +c +(?:1 h 59|2 h 0) min /m)
  expect(JSON.parse(await readFile(join(data, 'bans.json'), 'utf8'))).toMatchObject({ format: 1 })
})

describe('a banned address', () => {
  test.each<ListenerType>(['tcp', 'tls', 'ws', 'wss'])(
    'is turned away by %s before a byte is read',
    async (type) => {
      const tls = {
        cert: join(CERTIFICATES, 'server.pem'),
        key: join(CERTIFICATES, 'server-key.pem'),
        clientCertificate: 'none',
      } as const
      const secure = type === 'tls' || type === 'wss'
      const broker = await createBroker({
        listeners: [
          { type, port: 0, ...(secure && { tls: { ...tls, clientCertificate: 'none' } as never }) },
        ],
      })
      try {
        const refused: string[] = []
        broker.events.on('refused', ({ reason }) => refused.push(reason))
        const bytes = async (): Promise<string> => {
          const socket = connect(broker.listeners[0]!.port, '127.0.0.1')
          let text = ''
          socket.on('data', (chunk) => {
            text += chunk.toString('latin1')
          })
          socket.on('error', () => {})
          socket.write(secure ? 'no TLS at all, which is answered' : 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
          await once(socket, 'close')
          return text
        }
        await bytes()
        const seen = refused.length + broker.figures.connectionsAccepted
        expect(seen).toBeGreaterThan(0)
        await broker.bans.add({ address: '127.0.0.0/8' }, { seconds: 60, reason: 'test' })
        expect(broker.bans.list()).toMatchObject([{ subject: '127.0.0.0/8', secondsLeft: 60, by: 'program' }])
        expect(await bytes()).toBe('')
        expect(refused.length + broker.figures.connectionsAccepted).toBe(seen)
        expect(broker.figures.limits.bans).toBe(1)
        expect(await broker.bans.remove({ address: '127.0.0.0/8' })).toBe(true)
        await bytes()
        expect(refused.length + broker.figures.connectionsAccepted).toBe(2 * seen)
      } finally {
        await broker.close()
      }
    },
  )
})
