/**
 * A publisher of numbered QoS 1 messages over a raw socket (MQTT 3.1.1), which knows which ones were
 * acknowledged.
 */
import { connect, type Socket } from 'node:net'
import { generate, parser } from 'mqtt-packet'

/** Messages without PUBACK at a time. */
const WINDOW = 1000

export interface FloodOptions {
  readonly port: number
  readonly topic: string
  /** Number of the first message and one past the last; the number is the payload. */
  readonly from: number
  readonly to: number
  /** Called with the number of the first message that is not yet acknowledged. */
  readonly progress?: (next: number) => void
}

/**
 * Resolves with the number of the first message that was not acknowledged: `to`, or less when the connection
 * was lost. Rejects when the broker acknowledges out of order.
 */
export function flood({ port, topic, from, to, progress = () => {} }: FloodOptions): Promise<number> {
  return new Promise((resolve, reject) => {
    let sent = from
    let acknowledged = from
    const socket = connect(port, '127.0.0.1')
    const packets = parser({ protocolVersion: 4 })
    packets.on('packet', (packet) => {
      if (packet.cmd === 'puback') {
        if (packet.messageId !== identifierOf(acknowledged)) {
          reject(new Error(`PUBACK ${packet.messageId} instead of ${identifierOf(acknowledged)}`))
          socket.destroy()
        }
        acknowledged++
        progress(acknowledged)
      }
      if (acknowledged === to) socket.end(generate({ cmd: 'disconnect' }))
      else sent = send(socket, topic, sent, Math.min(to, acknowledged + WINDOW))
    })
    socket.on('error', () => {}) // A killed broker may reset the connection; `close` follows.
    socket.on('data', (chunk) => packets.parse(chunk))
    socket.on('close', () => resolve(acknowledged))
    socket.write(
      generate({ cmd: 'connect', clientId: 'flood', protocolVersion: 4, clean: true, keepalive: 0 }),
    )
  })
}

function identifierOf(number: number): number {
  return (number % 65_535) + 1
}

function send(socket: Socket, topic: string, from: number, to: number): number {
  const chunks: Buffer[] = []
  for (let number = from; number < to; number++) {
    const messageId = identifierOf(number)
    chunks.push(
      generate({
        cmd: 'publish',
        topic,
        payload: String(number),
        qos: 1,
        messageId,
        dup: false,
        retain: false,
      }),
    )
  }
  if (chunks.length > 0) socket.write(Buffer.concat(chunks))
  return Math.max(from, to)
}
