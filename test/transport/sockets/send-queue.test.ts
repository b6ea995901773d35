import { randomInt } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import {
  PIECE_BYTES,
  ScratchBuffers,
  SendQueue,
  type Sink,
} from '../../../src/transport/sockets/send-queue.ts'

/** A kernel that takes pieces at once or later, and reads a piece's memory only when it takes it. */
class Kernel implements Sink {
  readonly received: Buffer[] = []
  readonly messages: Buffer[] = []
  #message: Buffer[] = []
  #late: { piece: Buffer; last: boolean }[] = []
  readonly callbacks: (() => void)[] = []
  takesAtOnce = true
  emptiedCalls = 0
  pieceBytesMax = 0
  asTheyAre = 0
  readonly #headroom: number

  constructor(headroom = 0) {
    this.#headroom = headroom
  }

  send(piece: Buffer, last: boolean, taken: () => void): boolean {
    this.asTheyAre++
    return this.#send(piece, last, taken)
  }

  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean {
    memory.fill(0xff, 0, this.#headroom)
    return this.#send(memory.subarray(this.#headroom, end), last, taken)
  }

  #send(piece: Buffer, last: boolean, taken: () => void): boolean {
    expect(this.#late.length).toBe(0)
    this.pieceBytesMax = Math.max(this.pieceBytesMax, piece.length)
    if (this.takesAtOnce) {
      this.#copy(piece, last)
      return true
    }
    this.callbacks.push(taken)
    this.#late.push({ piece, last })
    return false
  }

  emptied(): void {
    this.emptiedCalls++
  }

  /** Takes what is under way, and calls back for it. */
  take(): void {
    for (const { piece, last } of this.#late.splice(0)) this.#copy(piece, last)
    for (const taken of this.callbacks.splice(0)) taken()
  }

  #copy(piece: Buffer, last: boolean): void {
    const copy = Buffer.from(piece)
    this.received.push(copy)
    this.#message.push(copy)
    if (last) this.messages.push(Buffer.concat(this.#message.splice(0)))
  }
}

function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return Math.floor((state / 0x80000000) * below)
  }
}

function writes(next: (below: number) => number, count: number): Buffer[][] {
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + next(4) }, () => {
      const size = next(8) === 0 ? next(200_000) : 1 + next(300)
      return Buffer.alloc(size, next(256))
    }),
  )
}

const KINDS: [name: string, headroom: number, scratch: () => ScratchBuffers | null][] = [
  ['a stream with scratch buffers', 0, () => new ScratchBuffers(0)],
  ['a stream without', 0, () => null],
  ['frames with scratch buffers', 10, () => new ScratchBuffers(10)],
  ['frames without', 10, () => null],
]

describe.each(KINDS)('%s', (_name, headroom, scratch) => {
  test('every byte goes out once and in order, whenever the kernel takes it', () => {
    const seed = randomInt(0x7fffffff)
    console.log(`seed ${seed}`)
    const next = random(seed)
    const scratchBuffers = scratch()
    // Two Links share the scratch buffers, as those of one listener do.
    const kernels = [new Kernel(headroom), new Kernel(headroom)]
    const links = kernels.map((kernel) => new SendQueue(kernel, headroom, scratchBuffers))
    const sent: Buffer[][][] = [[], []]
    for (const chunks of writes(next, 600)) {
      const which = next(2)
      const kernel = kernels[which]!
      kernel.takesAtOnce = next(2) === 0
      const link = links[which]!
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
      const before = link.flushedBytes + link.bufferedBytes
      link.write(chunks, bytes)
      expect(link.flushedBytes + link.bufferedBytes).toBe(before + bytes)
      sent[which]!.push(chunks)
      if (next(3) === 0) kernels[next(2)]!.take()
    }
    links.forEach((link, i) => {
      const kernel = kernels[i]!
      while (link.bufferedBytes > 0) kernel.take()
      const expected = sent[i]!.map((chunks) => Buffer.concat(chunks))
      expect(Buffer.concat(kernel.received).equals(Buffer.concat(expected))).toBe(true)
      expect(link.flushedBytes).toBe(Buffer.concat(expected).length)
      expect(kernel.pieceBytesMax).toBeLessThanOrEqual(PIECE_BYTES)
      if (headroom > 0) {
        const messages = expected.filter((message) => message.length > 0)
        expect(kernel.messages.length).toBe(messages.length)
        expect(kernel.messages.every((message, m) => message.equals(messages[m]!))).toBe(true)
      }
    })
  })
})

describe('SendQueue', () => {
  test('a write that the kernel takes at once is not followed by emptied', () => {
    const kernel = new Kernel()
    const outgoing = new SendQueue(kernel, 0, new ScratchBuffers(0))
    outgoing.write([Buffer.from('ab'), Buffer.from('c')], 3)
    expect(outgoing.bufferedBytes).toBe(0)
    expect(outgoing.flushedBytes).toBe(3)
    kernel.take()
    expect(kernel.emptiedCalls).toBe(0)
  })

  test('with TLS the latest write is a separate piece, whatever waits before it [field-E26]', () => {
    const kernel = new Kernel()
    const outgoing = new SendQueue(kernel, 0, null)
    kernel.takesAtOnce = false
    const write = (text: string): void => outgoing.write([Buffer.from(text)], text.length)
    for (const text of ['first', 'second', 'third', 'fourth', 'last']) write(text)
    while (outgoing.bufferedBytes > 0) kernel.take()
    expect(kernel.received.map(String)).toEqual(['first', 'secondthirdfourth', 'last'])
    outgoing.write([Buffer.alloc(40_000, 'x'), Buffer.from('y')], 40_001)
    outgoing.write([Buffer.alloc(40_000, 'z')], 40_000)
    write('end')
    while (outgoing.bufferedBytes > 0) kernel.take()
    expect(kernel.received.at(-1)!.toString()).toBe('end')
    expect(Buffer.concat(kernel.received.slice(3)).length).toBe(80_004)
  })

  test('a write that had to wait is followed by emptied once', () => {
    const kernel = new Kernel()
    const outgoing = new SendQueue(kernel, 0, new ScratchBuffers(0))
    kernel.takesAtOnce = false
    outgoing.write([Buffer.alloc(10)], 10)
    outgoing.write([Buffer.alloc(20)], 20)
    expect(outgoing.bufferedBytes).toBe(30)
    kernel.takesAtOnce = true
    kernel.take()
    kernel.take()
    expect(outgoing.bufferedBytes).toBe(0)
    expect(kernel.emptiedCalls).toBe(1)
  })

  test('progress on one large chunk shows piece by piece', () => {
    const kernel = new Kernel()
    const outgoing = new SendQueue(kernel, 0, new ScratchBuffers(0))
    kernel.takesAtOnce = false
    outgoing.write([Buffer.alloc(3 * PIECE_BYTES)], 3 * PIECE_BYTES)
    const figures = [outgoing.flushedBytes]
    for (let i = 0; i < 3; i++) {
      kernel.take()
      figures.push(outgoing.flushedBytes)
    }
    expect(figures).toEqual([0, PIECE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES])
  })

  test('a scratch buffer that the kernel still reads is not used for another Link', () => {
    const scratchBuffers = new ScratchBuffers(0)
    const kernels = [new Kernel(), new Kernel()] as const
    kernels[0].takesAtOnce = false
    const links = kernels.map((kernel) => new SendQueue(kernel, 0, scratchBuffers))
    links[0]!.write([Buffer.from('fir'), Buffer.from('st')], 5)
    links[1]!.write([Buffer.from('sec'), Buffer.from('ond')], 6)
    kernels[0].take()
    expect(kernels[0].received.map(String)).toEqual(['first'])
    expect(kernels[1].received.map(String)).toEqual(['second'])
  })

  test('for a framed sink a small chunk is copied after its header, a large one sent directly', () => {
    const kernel = new Kernel(10)
    const outgoing = new SendQueue(kernel, 10, new ScratchBuffers(10))
    const small = Buffer.from('the memory before this is of others').subarray(11)
    outgoing.write([small], small.length)
    expect(kernel.asTheyAre).toBe(0)
    outgoing.write([Buffer.alloc(PIECE_BYTES)], PIECE_BYTES)
    expect(kernel.asTheyAre).toBe(1)
    expect(kernel.messages[0]!.toString()).toBe('before this is of others')
    expect(Buffer.from(small.buffer, small.byteOffset - 11, 11).toString()).toBe('the memory ')
  })

  test('after close nothing is sent and nothing counts as buffered', () => {
    const kernel = new Kernel()
    const outgoing = new SendQueue(kernel, 0, new ScratchBuffers(0))
    kernel.takesAtOnce = false
    outgoing.write([Buffer.alloc(100_000)], 100_000)
    outgoing.close()
    outgoing.write([Buffer.alloc(1)], 1)
    kernel.take()
    expect(outgoing.bufferedBytes).toBe(0)
    expect(kernel.received.length).toBe(1)
    expect(kernel.emptiedCalls).toBe(0)
  })
})
