import { describe, expect, it } from 'vitest'
import { DEFAULT_LIMITS } from '../../../../src/broker/boundary/limits.ts'
import { Output } from '../../../../src/broker/connection/output/output.ts'
import { ServerState } from '../../../../src/broker/state/server-state.ts'
import { TestLink } from '../../harness.ts'
import { LedgerStore } from '../../ledger.ts'

const ping = Buffer.from('d000', 'hex')

function made(outgoingBytesMax = 10, now = () => 0) {
  const store = new LedgerStore()
  store.automatic = false
  const none = { bootTime: () => null, randomId: () => '', keyedHash: () => Buffer.alloc(0) }
  const host = { now, wallNow: () => 0, defer: () => {}, ...none }
  const state = new ServerState({ host, store, limits: { ...DEFAULT_LIMITS, outgoingBytesMax }, policy: {} })
  const link = new TestLink({}, 4)
  let credits = 0
  const credited = (count: number): void => {
    credits += count
  }
  const output = new Output(state, link, { committed: () => {}, credited })
  /** One turn with a packet for each number: 0 waits for nothing, any other for the open block. */
  const turn = (...waits: number[]) => {
    for (const durableAt of waits) {
      output.push(ping, durableAt === 0 ? 0 : store.openSequence, 1)
      if (durableAt !== 0) store.dropped(1)
    }
    store.commit()
    output.flush()
  }
  const commit = () => {
    store.durable()
    output.release(store.committedSequence)
  }
  return { store, state, link, output, turn, commit, credits: () => credits }
}

describe('Output', () => {
  it('writes all packets that wait for no commit in one write at the end of the turn', () => {
    const { link, turn, output, credits } = made()
    turn(0, 0)
    expect([link.writes, link.packets.length, output.idle, credits()]).toEqual([1, 2, true, 2])
    output.flush()
    expect(link.writes).toBe(1)
  })

  it('a client counts as company for a commit when it did not wait for the ones just before', () => {
    let now = 0
    const { state, turn, commit, output } = made(10, () => now)
    const companyOf = (wait: boolean): number => {
      now += 10
      state.company = 0
      turn(wait ? 1 : 0)
      commit()
      return state.company
    }
    const other = new Output(state, new TestLink({}, 4), { committed: () => {}, credited: () => {} })
    /** Another client waits for a block. */
    const pass = (): void => {
      other.push(ping, state.store.openSequence, 0)
      ;(state.store as LedgerStore).dropped(1)
      state.store.commit()
      other.flush()
      commit()
    }
    for (let count = 0; count < 3; count++) pass()
    expect(companyOf(true)).toBe(1)
    expect(companyOf(true)).toBe(0)
    expect(companyOf(false)).toBe(0)
    pass()
    expect(companyOf(true)).toBe(0)
    for (let count = 0; count < 3; count++) pass()
    expect(companyOf(true)).toBe(1)
    for (let count = 0; count < 3; count++) pass()
    now -= 10
    expect(companyOf(true)).toBe(0)
    expect(output.idle).toBe(true)
  })

  it('writes the last packet of several alone over TLS, wherever they are in memory [field-E26]', () => {
    const { link, output, store, commit } = made(100_000)
    link.hidesRecords = true
    const written = (): string[] => link.raw.splice(0).map((bytes) => bytes.toString('hex'))
    const run = Buffer.from('d000d000d000', 'hex')
    const large = Buffer.concat([Buffer.from('328f270001740001', 'hex'), Buffer.alloc(5002, 'x')])
    // One alone; neighbours in one buffer; a packet of two chunks at the end, and in front.
    output.push(ping, 0, 0)
    output.flush()
    expect(written()).toEqual(['d000'])
    for (let at = 0; at < 6; at += 2) output.pushPart(run, at, at + 2, 0, 0)
    output.flush()
    expect(written()).toEqual(['d000d000', 'd000'])
    const pushLarge = (): void => {
      output.pushPart(large, 0, 8, 0, 0)
      output.pushBody(large.subarray(8))
    }
    output.push(ping, 0, 0)
    pushLarge()
    output.flush()
    expect(written()).toEqual(['d000', large.toString('hex')])
    pushLarge()
    output.push(ping, 0, 0)
    output.flush()
    expect(written()).toEqual([large.toString('hex'), 'd000'])
    // Several turns that wait for one commit leave together.
    for (let turn = 0; turn < 3; turn++) {
      output.push(ping, store.openSequence, 0)
      store.dropped(1)
      output.flush()
    }
    store.commit()
    commit()
    expect(written()).toEqual(['d000d000', 'd000'])
  })

  it('does so over TLS for sixteen writes of a stream, and then for one per second', () => {
    let now = 0
    const { link, output } = made(100_000, () => now)
    link.hidesRecords = true
    const writes = (): number => {
      const before = link.writes
      output.push(ping, 0, 0)
      output.push(ping, 0, 0)
      output.flush()
      return link.writes - before
    }
    const twenty = (): number => Array.from({ length: 20 }, writes).filter((count) => count === 2).length
    expect(twenty()).toBe(16)
    expect(twenty()).toBe(0)
    now += 3000
    expect(twenty()).toBe(3)
    now += 100_000
    expect(twenty()).toBe(16)
  })

  it('holds back all packets behind one that waits, and returns its credits when it leaves', () => {
    const { link, turn, commit, output, state, credits } = made()
    turn(0, 1)
    turn(0)
    turn(1)
    turn(0)
    expect([link.writes, credits(), state.waiting.size, output.idle]).toEqual([0, 0, 1, false])
    commit()
    expect([link.writes, link.packets.length, credits(), state.waiting.size]).toEqual([1, 3, 3, 1])
    commit()
    expect([link.writes, link.packets.length, credits(), state.waiting.size]).toEqual([2, 5, 5, 0])
    expect([output.idle, output.pushed, output.written]).toEqual([true, 5, 5])
  })

  it('joins successive acknowledgements into one chunk, in order with other packets', () => {
    const { link, output, state } = made(100)
    const other = new Output(state, new TestLink({}, 4), { committed: () => {}, credited: () => {} })
    output.acknowledge('puback', 4, 1, 0, 0, 1)
    output.acknowledge('puback', 4, 2, 0, 0, 1)
    output.push(ping, 0, 0)
    output.acknowledge('pubrec', 5, 3, 0x97, 0, 1)
    // Another connection writes meanwhile: in a buffer of its own.
    other.acknowledge('puback', 4, 9, 0, 0, 1)
    output.acknowledge('pubcomp', 5, 4, 0, 0, 1)
    output.flush()
    expect(link.chunkBytes).toEqual([8, 2, 9])
    expect(Buffer.concat(link.raw).toString('hex')).toBe('4002000140020002d000500300039770020004')
    expect([output.pushed, output.written]).toEqual([5, 5])
  })

  it('keeps no other memory alive with output that waits; shares a large packet', () => {
    const { link, output, turn, commit, store } = made(1_000_000)
    const kept: Buffer[] = []
    const write = link.write.bind(link)
    link.write = (chunks, bytes) => {
      kept.push(...chunks)
      write(chunks, bytes)
    }
    const memory = (chunk: Buffer) => chunk.buffer.byteLength
    const slab = Buffer.alloc(256 * 1024, ping)
    const large = Buffer.allocUnsafeSlow(20_000).fill(ping)
    link.stuck = true
    output.push(ping, 0, 0)
    output.flush()
    output.pushPart(slab, 0, 8000, 0, 0)
    output.flush()
    output.push(large, 0, 0)
    output.flush()
    expect(kept.map((chunk) => [chunk.length, memory(chunk) <= 20_000])).toEqual([
      [2, true],
      [8000, true],
      [20_000, true],
    ])
    expect(kept[2]).toBe(large)
    // Small ones lie one behind the other, in memory that nobody else writes into.
    kept.length = 0
    for (let count = 0; count < 100; count++) {
      Buffer.from('others use this pool')
      output.pushPart(slab, 2 * count, 2 * count + 100, 0, 0)
      output.flush()
    }
    expect(kept.every((chunk) => chunk.equals(slab.subarray(0, 100)))).toBe(true)
    const memories = new Set(kept.map((chunk) => chunk.buffer))
    expect([memories.size, [...memories].every((one) => one.byteLength === 4096)]).toEqual([3, true])
    link.take()
    link.stuck = false
    kept.length = 0
    // The disk stands still: what comes in the first turns stays as it is, the rest is copied.
    turn(1)
    for (let count = 0; count < 20; count++) {
      output.pushPart(slab, count * 2000, count * 2000 + 1000, store.openSequence, 0)
      store.dropped(1)
      output.flush()
    }
    store.commit()
    commit()
    commit()
    expect(kept.filter((chunk) => memory(chunk) === memory(slab)).length).toBe(7)
    expect(kept.length).toBe(21)
  })

  it('shares one copy of large bytes among readers that wait, in order with small ones', () => {
    const { state, store } = made()
    const slab = Buffer.alloc(256 * 1024, 's')
    const body = slab.subarray(1000, 9000)
    const written: Buffer[][] = []
    for (let reader = 0; reader < 3; reader++) {
      const link = new TestLink({}, 4)
      link.bufferedBytes = 1
      link.write = (chunks) => written.push([...chunks])
      const output = new Output(state, link, { committed: () => {}, credited: () => {} })
      output.push(ping, 0, 0)
      output.push(Buffer.from(`head ${reader}`), 0, 0)
      // A view of its own for each reader, as where neighbours in a read buffer are one chunk.
      output.pushBody(reader === 2 ? slab.subarray(1000, 9000) : body)
      output.push(ping, 0, 0)
      output.flush()
      expect([output.pushed, output.written]).toEqual([3, 3])
    }
    expect(written.map((chunks) => chunks.length)).toEqual([3, 3, 3])
    written.forEach((chunks, reader) => {
      const expected = [ping, Buffer.from(`head ${reader}`), body, ping]
      expect(Buffer.concat(chunks).equals(Buffer.concat(expected))).toBe(true)
    })
    const copies = new Set(written.map((chunks) => chunks[1]!))
    expect([copies.size, [...copies][0]!.buffer.byteLength]).toEqual([1, 8000])
    expect(store.recordedSequence).toBe(0)
  })

  it('copies output that waits out of the memory of the turn, each time', () => {
    const { state, link, output } = made(1_000_000)
    const written: Buffer[] = []
    link.write = (chunks) => written.push(Buffer.concat(chunks))
    link.bufferedBytes = 1
    const places = new Set<string>()
    for (const content of ['first', 'second', 'third']) {
      output.push(ping, 0, 0)
      for (let packet = 0; packet < 3; packet++) {
        const { turnBuffer } = output
        turnBuffer.reserve(2000)
        turnBuffer.buffer.fill(content, turnBuffer.start, turnBuffer.end)
        output.pushPart(turnBuffer.buffer, turnBuffer.start, turnBuffer.end, 0, 0)
        if (packet === 0) places.add(`${turnBuffer.start}`)
      }
      output.flush()
      state.turn.memory.turnEnded()
    }
    expect(places.size).toBe(1)
    const packet = (content: string) => Buffer.alloc(2000, content)
    expect(written.map((bytes) => bytes.equals(written[0]!))).toEqual([true, false, false])
    written.forEach((bytes, turn) => {
      const content = packet(['first', 'second', 'third'][turn]!)
      expect(bytes.equals(Buffer.concat([ping, content, content, content]))).toBe(true)
    })
  })

  it('counts a body with its packet in bytes, in weight and towards the link', () => {
    const { link, output } = made(10_000)
    const body = Buffer.alloc(6000, 'b')
    for (let packet = 0; packet < 2; packet++) {
      expect(output.congested).toBe(false)
      output.push(ping, 0, 0)
      output.pushBody(body)
    }
    expect(output.congested).toBe(true)
    expect(output.waitingBytes).toBe(2 * (6000 + 2 + 64))
    output.discard()
    expect(output.waitingBytes).toBe(0)
    expect(link.writes).toBe(0)
  })

  it('joins only packets that are neighbours in one buffer', () => {
    const { link, output } = made(100)
    const buffer = Buffer.from('d000d000d000d000d000', 'hex')
    output.pushPart(buffer, 0, 2, 0, 0)
    output.pushPart(buffer, 2, 4, 0, 0)
    output.pushPart(buffer, 6, 8, 0, 0)
    output.pushPart(Buffer.from(buffer), 8, 10, 0, 0)
    output.push(ping, 0, 0)
    output.push(ping, 0, 0)
    output.flush()
    expect(link.chunkBytes).toEqual([4, 2, 2, 2, 2])
    expect([output.pushed, output.written, link.packets.length]).toEqual([6, 6, 6])
  })

  it('goes on with acknowledgements in the next slab when one is full', () => {
    const { link, output } = made(1_000_000)
    for (let id = 1; id <= 10_000; id++) output.acknowledge('puback', 4, id, 0, 0, 1)
    output.flush()
    expect(link.chunkBytes.length).toBe(3)
    const bytes = Buffer.concat(link.raw)
    expect(bytes.length).toBe(40_000)
    for (let id = 1; id <= 10_000; id++) expect(bytes.readUInt32BE((id - 1) * 4)).toBe(0x40020000 + id)
  })

  it('makes a packet whose commit records nothing wait for earlier commits only', () => {
    const { link, output, store, turn, commit } = made()
    output.push(ping, store.openSequence, 0)
    output.flush()
    expect(link.writes).toBe(1)
    turn(1)
    output.push(ping, store.openSequence, 0)
    output.flush()
    expect(link.writes).toBe(1)
    commit()
    expect(link.packets).toHaveLength(3)
  })

  it('is congested by bytes added, held or not taken by the reader; never if nothing waits', () => {
    const { link, output, turn, commit } = made(2 * 66)
    output.push(ping, 0, 0)
    expect(output.congested).toBe(false)
    output.push(ping, 0, 0)
    // A packet of two bytes takes 64 more while it waits.
    expect([output.congested, output.waitingBytes]).toEqual([true, 132])
    output.push(ping, 0, 0)
    expect(output.backpressured).toBe(false)
    output.push(ping, 0, 0)
    expect(output.backpressured).toBe(true)
    output.flush()
    expect([output.congested, output.waitingBytes]).toEqual([false, 0])
    turn(1, 0)
    expect([output.congested, output.waitingBytes]).toEqual([true, 132])
    link.stuck = true
    commit()
    expect([output.congested, output.waitingBytes]).toEqual([false, 4])
    link.take()
    output.refresh()
    expect([output.congested, output.waitingBytes]).toEqual([false, 0])
  })

  it('discard drops packets that have not left, and their credits', () => {
    const { link, output, turn, commit, state, credits } = made()
    turn(1)
    output.push(ping, 0, 1)
    output.discard()
    commit()
    output.flush()
    expect([link.writes, credits(), state.waiting.size, output.idle]).toEqual([0, 0, 0, true])
    expect([output.pushed, output.written]).toEqual([2, 0])
  })

  it.each(['reads it later', 'took a part of it'])(
    'what a link was given stays as it is where it %s',
    (why) => {
      const { output, link, state } = made(1000)
      const kept: Buffer[] = []
      const keeping = Object.defineProperty(link, 'leavesWritten', { value: why === 'took a part of it' })
      keeping.stuck = why === 'took a part of it'
      keeping.write = (chunks, bytes) => {
        kept.push(...chunks)
        if (keeping.stuck) keeping.bufferedBytes += bytes
      }
      for (let packetId = 1; packetId <= 3; packetId++) {
        output.acknowledge('puback', 4, packetId, 0, 0, 0)
        output.flush()
        state.turn.memory.turnEnded()
      }
      expect(kept.map((chunk) => chunk.toString('hex'))).toEqual(['40020001', '40020002', '40020003'])
    },
  )
})
