import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setImmediate as nextPass } from 'node:timers/promises'
import { connect as connectTls, TLSSocket } from 'node:tls'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { listen } from '../../../src/transport/listen.ts'
import { HandshakeQueue, PASS_BEGUN } from '../../../src/transport/listener/handshake-queue.ts'
import type { HandshakeObserver, Listener } from '../../../src/transport/listener/listener.ts'
import { Handshakes } from '../../../src/transport/listener/peer.ts'
import { SocketLimit } from '../../../src/transport/listener/socket-limit.ts'
import { listenerOptions } from '../peers.ts'
import { closing, Recorder } from '../recorder.ts'

const CA = readFileSync(new URL('../../fixtures/tls/ca.pem', import.meta.url))

/** Stands for an accepted socket: says whether it is read from. */
class FakeSocket extends EventEmitter {
  readableLength = 0
  reading = true
  destroyed = false
  readonly _handle = {
    readStart: () => {
      this.reading = true
    },
    readStop: () => {
      this.reading = false
    },
  }

  get socket(): Socket {
    return this as unknown as Socket
  }

  /** The first bytes arrive, unless they are not read. */
  send(): void {
    if (!this.reading) return
    this.readableLength = 100
    this.emit('readable')
  }

  leave(): void {
    this.destroyed = true
    this.emit('close')
  }
}

describe('a queue of handshakes', () => {
  let deferred: (() => void)[]
  let begun: Socket[]
  let failed: Socket[]
  let stopped: Set<Socket>
  let queue: HandshakeQueue

  beforeEach(() => {
    deferred = []
    begun = []
    failed = []
    stopped = new Set()
    queue = new HandshakeQueue({
      begin: (socket) => begun.push(socket),
      failed: (socket) => failed.push(socket),
      stopTime: (socket) => stopped.add(socket),
      startTime: (socket) => stopped.delete(socket),
      defer: (callback) => deferred.push(callback),
    })
  })

  function pass(): void {
    for (const callback of deferred.splice(0)) callback()
  }

  function accepted(count: number): FakeSocket[] {
    const sockets = Array.from({ length: count }, () => new FakeSocket())
    for (const { socket } of sockets) queue.add(socket)
    return sockets
  }

  /** Sends the first bytes of those that have not sent them, and are read from. */
  function sendAll(sockets: readonly FakeSocket[]): void {
    for (const socket of sockets) if (socket.readableLength === 0) socket.send()
  }

  test('begins four in each pass, in the order of their first bytes', () => {
    const sockets = accepted(10).toReversed()
    const passes: number[] = []
    while (begun.length < 10 && passes.length < 10) {
      sendAll(sockets)
      passes.push(begun.length)
      pass()
    }
    // The fifth had the others paused, and begins first in the next pass.
    expect(passes).toEqual([4, 8, 10])
    expect(begun.slice(0, 5)).toEqual(sockets.slice(0, 5))
    expect(queue.waitingCount).toBe(0)
    pass()
    expect(deferred).toEqual([])
  })

  test('stops reading once a pass has had its handshakes, and stops the time of those who wait', () => {
    const sockets = accepted(1000)
    sendAll(sockets)
    expect(begun).toHaveLength(PASS_BEGUN)
    const waiting = () => sockets.filter(({ readableLength }) => readableLength > 0).length - begun.length
    expect(waiting()).toBeLessThan(10)
    expect(stopped.size).toBe(queue.waitingCount)
    let most = 0
    let passes = 0
    for (; begun.length < 1000 && passes < 1000; passes++) {
      const before = begun.length
      pass()
      sendAll(sockets)
      most = Math.max(most, begun.length - before)
      expect(waiting()).toBeLessThan(40)
    }
    expect(most).toBe(PASS_BEGUN)
    expect(passes).toBeLessThan(300)
    expect(stopped.size).toBe(0)
  })

  test('gives no places to peers that send nothing', () => {
    accepted(1000)
    const [one] = accepted(1)
    one!.send()
    expect(begun).toEqual([one])
  })

  test('pauses others when many handshakes end in one pass, and never those that have ended', () => {
    const sockets = accepted(400)
    for (let count = 0; begun.length < 400 && count < 400; count++) {
      sendAll(sockets)
      pass()
    }
    pass()
    const endedIn = (): number => {
      const able = sockets.filter(({ reading, destroyed }) => reading && !destroyed)
      let count = 0
      for (const one of able) {
        if (!one.reading) continue
        queue.ended(one.socket)
        one.destroyed = true
        count++
      }
      return count
    }
    const counts: number[] = []
    while (sockets.some(({ destroyed }) => !destroyed) && counts.length < 400) {
      counts.push(endedIn())
      pass()
    }
    expect(Math.max(...counts)).toBeLessThan(20)
    expect(sockets.every(({ reading }) => reading)).toBe(true)
    expect(queue.size).toBe(0)
  })

  test('forgets sockets that are closed, and reports those that leave while they wait', () => {
    const sockets = accepted(200)
    sendAll(sockets)
    const [closed, left] = sockets.filter(({ readableLength }) => readableLength > 0).slice(PASS_BEGUN)
    closed!.leave()
    // Node reports the end of the input without further bytes.
    left!.emit('readable')
    expect(failed).toEqual([left])
    for (const socket of sockets) socket.leave()
    expect(queue.size).toBe(0)
    pass()
    expect(begun).toHaveLength(PASS_BEGUN)
    for (const socket of sockets) expect(socket.listenerCount('readable')).toBe(0)
  })

  test('survives a reset of a socket that waits', () => {
    const [one] = accepted(1)
    one!.emit('error', new Error('read ECONNRESET'))
    one!.leave()
    expect(failed).toEqual([one])
    expect(queue.size).toBe(0)
  })
})

test('the time of a peer that waits for us does not count', () => {
  vi.useFakeTimers()
  try {
    const timedOut: Socket[] = []
    const handshakes = new Handshakes(10_000, (socket) => timedOut.push(socket))
    const { socket } = new FakeSocket()
    Object.assign(socket, { destroy: () => {} })
    handshakes.add(socket)
    vi.advanceTimersByTime(6000)
    handshakes.stopTime(socket)
    vi.advanceTimersByTime(60_000)
    expect(timedOut).toEqual([])
    handshakes.startTime(socket)
    vi.advanceTimersByTime(3900)
    expect(timedOut).toEqual([])
    vi.advanceTimersByTime(200)
    expect(timedOut).toEqual([socket])
  } finally {
    vi.useRealTimers()
  }
})

describe.each(['tls', 'wss'] as const)('a %s listener', (type) => {
  const COUNT = 60
  let recorder: Recorder
  let listener: Listener
  let accepted: SocketLimit
  let reasons: string[]
  let clients: Socket[]

  beforeEach(async () => {
    accepted = new SocketLimit(Number.POSITIVE_INFINITY)
    recorder = new Recorder()
    reasons = []
    clients = []
    const limits = { connectTimeoutSeconds: 30 }
    const shared = { sockets: accepted, refused: () => {} }
    const observer: HandshakeObserver = (_, reason) => reasons.push(reason)
    listener = await listen(listenerOptions(type, ''), recorder, limits, observer, shared)
  })

  afterEach(async () => {
    vi.restoreAllMocks()
    for (const client of clients) client.destroy()
    for (const { link } of recorder.links) link.destroy()
    await listener.close()
  })

  /** Connects without a handshake. Resolves when all are accepted. */
  async function connected(): Promise<Socket[]> {
    const sockets = Array.from({ length: COUNT }, () => connect(listener.port, '127.0.0.1'))
    clients.push(...sockets)
    for (const socket of sockets) socket.on('error', () => {})
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    while (accepted.sockets < COUNT) await nextPass()
    return sockets
  }

  test('begins few of many handshakes in one pass of the event loop, and completes all', async () => {
    const made = vi.spyOn(TLSSocket.prototype as unknown as { _init(): void }, '_init')
    const count = (): number => made.mock.instances.filter((one) => hasAnsweredClient(one)).length
    const sockets = await connected()
    let passBegun = 0
    let most = 0
    let watching = true
    const watch = (): void => {
      most = Math.max(most, count() - passBegun)
      passBegun = count()
      if (watching) setImmediate(watch)
    }
    watch()
    const secured = sockets.map((socket) => {
      const client = connectTls({ socket, ca: CA, host: '127.0.0.1' })
      client.on('error', () => {})
      return once(client, 'secureConnect')
    })
    await Promise.all(secured)
    watching = false
    expect(count()).toBe(COUNT)
    expect(most).toBeLessThanOrEqual(2 * PASS_BEGUN)
    expect(reasons).toEqual([])
  })

  test('closes sockets that wait when it is closed', async () => {
    const sockets = await connected()
    for (const socket of sockets) connectTls({ socket, ca: CA, host: '127.0.0.1' }).on('error', () => {})
    const gone = sockets.map((socket) => closing(socket.resume()))
    await listener.close()
    await Promise.all(gone)
    expect(recorder.links).toEqual([])
  })
})

/** Whether this is the listener's side of a handshake, and has answered the ClientHello. */
function hasAnsweredClient(instance: unknown): boolean {
  const { _tlsOptions, _parent } = instance as { _tlsOptions: { isServer?: boolean }; _parent: Socket }
  return _tlsOptions.isServer === true && _parent.bytesWritten > 0
}
