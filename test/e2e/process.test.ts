import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import { connect, connectAsync, type IConnackPacket, type IDisconnectPacket } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import {
  BrokerProcess,
  cleanUp,
  type Ended,
  MAIN,
  mosquittoPub,
  Program,
  temporaryDirectory,
} from './process.ts'

afterEach(cleanUp)

function godwit(...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words]).ended
}

describe('the process', () => {
  test('SIGTERM gives clients of 5.0 0x8B and ends the broker with 0', async () => {
    const broker = await BrokerProcess.start({ webSocket: true })
    const options = { protocolVersion: 5, reconnectPeriod: 0 } as const
    const clients = [
      await connectAsync(`mqtt://127.0.0.1:${broker.port}`, options),
      await connectAsync(`ws://127.0.0.1:${broker.webSocketPort}/mqtt`, options),
    ]
    const told = clients.map(
      (client) => new Promise<IDisconnectPacket>((resolve) => client.once('disconnect', resolve)),
    )
    const { code, stdout, stderr } = await broker.stop()
    expect((await Promise.all(told)).map(({ reasonCode }) => reasonCode)).toEqual([0x8b, 0x8b])
    expect(code).toBe(0)
    expect(stdout).toMatch(/godwit stopped\n$/)
    expect(stderr).toBe('')
    for (const client of clients) await client.endAsync(true)
  })

  test('SIGTERM ends the broker even with a client that never reads', async () => {
    const broker = await BrokerProcess.start({ words: ['--set', 'shutdown_seconds=1'] })
    const socket = connectSocket(broker.port, '127.0.0.1')
    await once(socket, 'connect')
    const { code } = await broker.stop()
    expect(code).toBe(0)
    socket.destroy()
  })

  test('a second broker on the same data directory is refused, and the first goes on', async () => {
    const broker = await BrokerProcess.start()
    const { code, stderr } = await godwit('--port', '0', '--data', broker.data)
    expect(code).toBe(1)
    expect(stderr).toContain(broker.data)
    expect(stderr).toMatch(/another|in use/i)
    expect(stderr).not.toMatch(/\n {4}at /)
    await mosquittoPub(broker.port, '-q', '1', '-t', 'still', '-m', 'here')
  })

  test('an address in use is named', async () => {
    const broker = await BrokerProcess.start()
    const { code, stderr } = await godwit('--port', `${broker.port}`, '--data', await temporaryDirectory())
    expect(code).toBe(1)
    expect(stderr).toContain(`${broker.port}`)
    expect(stderr).not.toMatch(/\n {4}at /)
  })

  test('wrong usage and configuration end with 2 and tell what to do', async () => {
    const unknown = await godwit('--prot', '1883')
    expect([unknown.code, unknown.stderr]).toEqual([2, expect.stringContaining('--port')])
    const value = await godwit('--port', 'many')
    expect([value.code, value.stderr]).toEqual([2, expect.stringContaining('--port')])
    const file = join(await temporaryDirectory(), 'godwit.yaml')
    await writeFile(file, 'limits:\n  queue_byte_max: 1GiB\n')
    const check = await godwit('check', file)
    expect([check.code, check.stderr]).toEqual([2, expect.stringContaining('limits.queue_bytes_max')])
    expect(check.stderr).toContain('godwit.yaml:2')
    await writeFile(file, 'limits:\n  queue_bytes_max: 1GiB\n')
    expect((await godwit('check', file)).code).toBe(0)
  })

  test('the broker runs with a configuration file', async () => {
    const file = join(await temporaryDirectory(), 'godwit.yaml')
    await writeFile(file, 'limits:\n  maximum_qos: 1\n')
    const broker = await BrokerProcess.start({ words: ['--config', file] })
    const client = connect(`mqtt://127.0.0.1:${broker.port}`, { protocolVersion: 5, reconnectPeriod: 0 })
    const connack = await new Promise<IConnackPacket>((resolve) => client.once('connect', resolve))
    expect(connack.properties?.maximumQoS).toBe(1)
    await client.endAsync(true)
  })

  test('--version and --help go to stdout and end with 0', async () => {
    const version = await godwit('--version')
    expect([version.code, version.stdout]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)])
    const help = await godwit('--help')
    expect([help.code, help.stdout]).toEqual([0, expect.stringContaining('--data DIR')])
  })

  test('clients that take all descriptors do not end it, as it has read all its files', async () => {
    const data = await temporaryDirectory()
    const words = `ulimit -n 300; exec '${process.execPath}' '${MAIN}' --port 0 --data '${data}'`
    const broker = new Program('sh', ['-c', words])
    await broker.until((stdout) => /^godwit try:/m.test(stdout))
    const port = Number(/listening on mqtt:\/\/[^\s]+:(\d+)$/m.exec(broker.stdout)![1])
    const open = async () => {
      const socket = connectSocket(port, '127.0.0.1').on('error', () => {})
      await once(socket, 'connect')
      return socket
    }
    const first = await open()
    const dying = await open()
    const greedy = await Promise.all(Array.from({ length: 400 }, open))
    // Those that find no descriptor are closed.
    await Promise.any(greedy.map((socket) => once(socket.resume(), 'close')))
    const connack = once(first, 'data')
    // A Will in a Session that is stored.
    const properties = [5, 0x11, 0, 0, 0, 60]
    first.write(
      Buffer.from([
        0x10,
        0x1a,
        0,
        4,
        ...Buffer.from('MQTT'),
        5,
        0x0e,
        0,
        0,
        ...properties,
        0,
        1,
        0x61,
        0,
        0,
        1,
        0x77,
        0,
        1,
        0x21,
      ]),
    )
    expect((await connack)[0][0]).toBe(0x20)
    // And a DISCONNECT that says why.
    first.write(Buffer.from([0xe0, 2, 0x04, 0]))
    await once(first, 'close')
    // This is no CONNECT, and the peer is told so before the close.
    dying.resume().write(Buffer.from([0xc0, 0]))
    await once(dying, 'close')
    for (const socket of greedy) socket.destroy()
    await mosquittoPub(port, '-q', '1', '-t', 'still', '-m', 'here')
    broker.signal('SIGTERM')
    expect((await broker.ended).code).toBe(0)
  })

  test('input that is not MQTT harms nobody', async () => {
    const broker = await BrokerProcess.start({ webSocket: true })
    const garbage = [
      Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
      Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01]),
      Buffer.alloc(100_000, 0xff),
      Buffer.from([0x10, 0xff, 0xff, 0xff, 0x7f]),
    ]
    for (const port of [broker.port, broker.webSocketPort]) {
      for (const bytes of garbage) {
        const socket = connectSocket(port, '127.0.0.1').on('error', () => {})
        const closed = new Promise((resolve) => socket.once('close', resolve))
        // The last one is a CONNECT of 256 MB that never comes: it would wait for the connect time-out.
        socket.end(bytes)
        socket.resume()
        await closed
      }
    }
    await mosquittoPub(broker.port, '-q', '1', '-t', 'still', '-m', 'here')
    expect((await broker.stop()).code).toBe(0)
  })
})
