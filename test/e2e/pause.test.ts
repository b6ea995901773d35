/** A broker process that is stopped for a while, as by SIGSTOP, a debugger or a machine that is paused. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { generate, type IConnectPacket, type Packet, parser } from 'mqtt-packet'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MosquittoSub } from './process.ts'

afterEach(cleanUp)

/** A client with a Keep Alive of a second, which keeps what it receives. */
class Client {
  readonly packets: Packet[] = []
  readonly socket: Socket
  readonly #waiters: (() => void)[] = []

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1')
    const packets = parser({ protocolVersion: 4 })
    const look = (): void => {
      for (const waiter of this.#waiters.splice(0)) waiter()
    }
    packets.on('packet', (packet) => {
      this.packets.push(packet)
      look()
    })
    this.socket.on('data', (chunk) => packets.parse(chunk))
    this.socket.on('error', () => {})
    this.socket.on('close', look)
  }

  send(packet: Packet): void {
    this.socket.write(generate(packet))
  }

  /** Resolves when a packet of this kind has come, or the connection is gone. */
  async next(cmd: Packet['cmd']): Promise<void> {
    while (!this.socket.closed && !this.packets.some((packet) => packet.cmd === cmd)) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve))
    }
  }
}

const connecting = (clientId: string, keepalive: number): IConnectPacket => ({
  cmd: 'connect',
  protocolId: 'MQTT',
  protocolVersion: 4,
  clientId,
  clean: true,
  keepalive,
  will: { topic: 'will', payload: Buffer.from(clientId), qos: 0, retain: false },
})

test('clients with PINGREQ or CONNECT in the socket are served when it goes on [field-B6]', async () => {
  const broker = await BrokerProcess.start({ words: ['--set', 'limits.connect_timeout_seconds=1'] })
  const wills = await MosquittoSub.start(broker.port, ['-t', 'will'])
  const clients: Client[] = []
  for (let index = 0; index < 20; index++) {
    const client = new Client(broker.port)
    clients.push(client)
    client.send(connecting(`c${index}`, 1))
    await client.next('connack')
  }
  const silent = new Client(broker.port)
  silent.send(connecting('silent', 1))
  await silent.next('connack')
  const late = new Client(broker.port)
  await once(late.socket, 'connect')

  broker.program.signal('SIGSTOP')
  for (const client of clients) client.send({ cmd: 'pingreq' })
  late.send(connecting('late', 0))
  // Longer than one and a half Keep Alive, and than the time for CONNECT.
  await sleep(4000)
  broker.program.signal('SIGCONT')

  await Promise.all(clients.map((client) => client.next('pingresp')))
  await late.next('connack')
  expect(clients.map(({ packets }) => packets.at(-1)?.cmd)).toEqual(clients.map(() => 'pingresp'))
  expect(late.packets.map(({ cmd }) => cmd)).toEqual(['connack'])
  // A client that sent nothing is closed, as it should be.
  if (!silent.socket.closed) await once(silent.socket, 'close')
  expect((await wills.received(1))[0]).toContain('silent')
})
