import { EventEmitter, once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener } from '../../../src/transport/listener/listener.ts'
import { Handshakes } from '../../../src/transport/listener/peer.ts'
import { listenerOptions, Peer } from '../peers.ts'
import { Recorder } from '../recorder.ts'

interface Ends {
  readonly remoteAddress: string | undefined
  readonly remotePort: number | undefined
  readonly localAddress: string | undefined
  readonly localPort: number | undefined
}

/** As much of a socket as a handshake knows. */
class EndsOnly extends EventEmitter {
  destroyed = false

  constructor(ends: Partial<Ends> = {}) {
    super()
    Object.assign(this, ends)
  }

  get socket(): Socket {
    return this as unknown as Socket
  }

  destroy(): void {
    this.destroyed = true
    this.emit('close')
  }
}

describe('handshakes under way', () => {
  const ENDS = { remoteAddress: '192.0.2.1', remotePort: 5000, localAddress: '192.0.2.7', localPort: 8883 }
  let timedOut: Socket[]
  let handshakes: Handshakes

  beforeEach(() => {
    vi.useFakeTimers()
    timedOut = []
    handshakes = new Handshakes(10_000, (socket) => timedOut.push(socket))
  })

  afterEach(() => {
    vi.useRealTimers()
  })

  test('from one port of a peer to two addresses of the broker are independent [field-C19]', () => {
    const one = new EndsOnly(ENDS)
    const other = new EndsOnly({ ...ENDS, localAddress: '192.0.2.8' })
    handshakes.add(one.socket)
    handshakes.add(other.socket)
    handshakes.done(new EndsOnly(ENDS).socket) // the TLS socket above it
    vi.advanceTimersByTime(10_000)
    expect(one.destroyed).toBe(false)
    expect(other.destroyed).toBe(true)
    expect(timedOut).toEqual([other])
    expect(handshakes.size).toBe(0)
  })

  test('of closed sockets without addresses are distinguished', () => {
    const sockets = [new EndsOnly(), new EndsOnly()]
    for (const { socket } of sockets) handshakes.add(socket)
    expect(handshakes.size).toBe(2)
    sockets[0]!.destroy()
    vi.advanceTimersByTime(10_000)
    expect(timedOut).toEqual([sockets[1]])
    expect(handshakes.size).toBe(0)
  })

  test('of a peer that reuses its port cancel the old timer', () => {
    const old = new EndsOnly(ENDS)
    handshakes.add(old.socket)
    const next = new EndsOnly(ENDS)
    handshakes.add(next.socket)
    old.destroy()
    expect(handshakes.done(next.socket)).toBe(0)
    vi.advanceTimersByTime(10_000)
    expect(timedOut).toEqual([])
  })

  test('are not cut off for a pause of the process [field-B6]', () => {
    const peer = new EndsOnly(ENDS)
    handshakes.add(peer.socket)
    const standing = vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 30_000)
    vi.advanceTimersByTime(10_000)
    standing.mockRestore()
    expect(peer.destroyed).toBe(false)
    vi.advanceTimersByTime(10_000)
    expect(peer.destroyed).toBe(true)
  })
})

describe.each(['tls', 'ws', 'wss'] as const)('over %s', (type) => {
  let listener: Listener
  const peers: Peer[] = []

  // Time passes only by hand: how long handshakes take on a busy machine does not matter.
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  })

  afterEach(async () => {
    vi.useRealTimers()
    for (const peer of peers.splice(0)) peer.destroy()
    await listener.close()
  })

  test('a peer may use one port for two addresses of the broker [field-C19]', async () => {
    const recorder = new Recorder()
    const refused: number[] = []
    const limits = { connectTimeoutSeconds: 10 }
    const options = { ...listenerOptions(type, ''), host: '0.0.0.0' }
    listener = await listen(options, recorder, limits, ({ remotePort }) => refused.push(remotePort))
    // The handshake of the second begins before that of the first ends.
    const below = connect({ host: '127.0.0.1', port: listener.port, localAddress: '127.0.0.1' })
    await once(below, 'connect')
    const from = { localAddress: '127.0.0.1', localPort: below.localPort! }
    const other = connect({ host: '127.0.0.2', port: listener.port, ...from })
    await once(other, 'connect')
    peers.push(await Peer.over(listener, below), await Peer.over(listener, other))
    while (recorder.links.length < 2) await turn()
    const silent = connect({ host: '127.0.0.1', port: listener.port })
    await once(silent, 'connect')
    const port = silent.localPort!
    const closed = once(silent.resume(), 'close')
    // The listener may not have seen it yet, so the time passes again.
    while (!silent.closed) {
      vi.advanceTimersByTime(10_000)
      await turn()
    }
    await closed
    expect(refused).toEqual([port])
    expect(recorder.links).toHaveLength(2)
    expect(recorder.links.flatMap(({ ends, closes }) => [...ends, ...closes])).toEqual([])
  })
})
