import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener } from '../../../src/transport/listener/listener.ts'
import { listenerOptions, Peer } from '../peers.ts'
import { Recorder } from '../recorder.ts'

let listener: Listener
let proxy: Server
let peer: Peer

afterEach(async () => {
  peer.destroy()
  proxy.close()
  await listener.close()
})

test.each(['tls', 'wss'] as const)(
  'half of a TLS record counts over %s before it can be decrypted',
  async (type) => {
    const recorder = new Recorder()
    listener = await listen(listenerOptions(type, ''), recorder, { connectTimeoutSeconds: 10 })
    let isCut = false
    let rest: Buffer | undefined
    let upstream: Socket
    proxy = createServer((downstream) => {
      upstream = connect(listener.port, '127.0.0.1')
      upstream.pipe(downstream)
      downstream.on('data', (chunk) => {
        if (!isCut) upstream.write(chunk)
        else if (rest === undefined) {
          upstream.write(chunk.subarray(0, chunk.length - 100))
          rest = chunk.subarray(chunk.length - 100)
        } else rest = Buffer.concat([rest, chunk])
      })
      for (const socket of [upstream, downstream]) socket.on('error', () => {})
    }).listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    const { port } = proxy.address() as { port: number }
    const below = connect(port, '127.0.0.1')
    await once(below, 'connect')
    peer = await Peer.over(listener, below)
    const recorded = await recorder.at(0)
    await peer.send(Buffer.from('first'))
    await recorded.until(({ text }) => text === 'first')
    const before = recorded.link.arrivedBytes!
    expect(recorded.link.arrivedBytes).toBe(before)

    isCut = true
    await peer.send(Buffer.alloc(5000, 'x'))
    await expect.poll(() => recorded.link.arrivedBytes).toBeGreaterThan(before + 4000)
    expect(recorded.receivedBytes).toBe(5)
    const meanwhile = recorded.link.arrivedBytes
    isCut = false
    upstream!.write(rest!)
    await recorded.until(({ receivedBytes }) => receivedBytes === 5005)
    expect(recorded.link.arrivedBytes).toBe(meanwhile)
  },
)
