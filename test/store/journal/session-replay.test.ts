/** Scans a journal and puts a Session together from it, with a strict and with a lenient DamageReport. */
import { describe, expect, test } from 'vitest'
import { type Damage, type DamageReport, refuseDamage } from '../../../src/store/format/damage.ts'
import { ByteReader, ByteWriter } from '../../../src/store/format/encoding.ts'
import { EntryFields } from '../../../src/store/format/entry.ts'
import { type BatchOperation, keyNumber } from '../../../src/store/format/format.ts'
import type { JournalRecord } from '../../../src/store/format/journal-record.ts'
import { PageTimes } from '../../../src/store/format/time-record.ts'
import { HeldBytes } from '../../../src/store/held-bytes.ts'
import { BodyIndex, Page, type StoredBody } from '../../../src/store/journal/body-index.ts'
import { StoredSession } from '../../../src/store/journal/checkpoints.ts'
import { Extensions } from '../../../src/store/journal/extensions.ts'
import { JournalScan, type JournalTarget } from '../../../src/store/journal/journal-scan.ts'
import { OpenBlock } from '../../../src/store/journal/open-block.ts'
import { MissingEntries } from '../../../src/store/journal/parked-queue.ts'
import { RELEASED, SessionBuilder } from '../../../src/store/journal/session-builder.ts'
import { SessionReplay } from '../../../src/store/journal/session-replay.ts'
import { delivery, message } from '../model.ts'

const SESSION = 7
const META = { format: 2, scanFromPage: 1, scanFromSequence: 1, sequence: 0, clean: false }
const BIG = 'x'.repeat(20_000)

/** Writes blocks, and keeps their pages. */
class Writer {
  readonly pages: [number: number, value: Buffer][] = []
  readonly #bodies = new BodyIndex(
    { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 },
    new HeldBytes(),
  )
  #nextPage = 1
  #sequence = 0
  readonly #block = new OpenBlock(
    () => this.#page(),
    () => this.#bodies.times,
    true,
  )

  block(fill: (open: OpenBlock) => void): this {
    fill(this.#block)
    const operations: BatchOperation[] = []
    const times = { brokerTime: 0, wallTime: 0, nextSession: 8, bootTime: null }
    this.#block.seal({ sequence: ++this.#sequence, ...times }, 0, operations)
    for (const one of operations) {
      if (one.type === 'put') this.pages.push([keyNumber(one.key), Buffer.from(one.value)])
    }
    this.#block.clear()
    return this
  }

  /** Appends a message of this size to the Session's queue. */
  enqueue(payload: string, qos: 0 | 1 = 1): StoredBody {
    const one = message('t', payload)
    const offset = this.#block.body(one)
    const body = this.#bodies.place(one, this.#block.page, offset, false)
    this.#block.named(body)
    this.#block.enqueue(SESSION, delivery(one, { qos }), body)
    return body
  }

  #page(): Page {
    const page = new Page(this.#nextPage++, this.#sequence + 1, 0)
    this.#bodies.addPage(page)
    return page
  }
}

/** A Session with an empty checkpoint. */
function emptySession(replay: SessionReplay): SessionBuilder {
  const record = { clientId: 'c', owner: null, ownerId: null, expirySeconds: 1, disconnectedAt: 0 }
  const session = new SessionBuilder(new StoredSession(1, SESSION), record, new Extensions())
  const head = new ByteWriter(64)
  for (let field = 0; field < 8; field++) head.u8(0)
  replay.begin(session, new ByteReader(head.taken()))
  return session
}

class Target implements JournalTarget {
  gaps = 0
  readonly session: SessionBuilder
  readonly #replay: SessionReplay

  constructor(replay: SessionReplay) {
    this.#replay = replay
    this.session = emptySession(replay)
  }

  page(): void {}

  record(record: JournalRecord): void {
    this.#replay.apply(this.session, record)
  }

  gap(): void {
    this.gaps++
    this.#replay.passGap(this.session)
  }
}

function scanned(pages: Writer['pages'], report: DamageReport, sequence = 0): Target {
  const times = new PageTimes()
  const target = new Target(new SessionReplay(new Extensions(), times, report))
  const scan = new JournalScan(META, times, target, report)
  for (const [number, value] of pages) scan.page(number, value)
  scan.end({ ...META, sequence })
  return target
}

/** Sizes of the entries in the queue; null for one that is missing. */
function queueOf({ queue }: SessionBuilder): (number | null)[] {
  const entry = new EntryFields()
  return queue.parts.flatMap((part) =>
    Array.from({ length: part.length }, (_, index) => {
      if (part instanceof MissingEntries) return null
      part.read(index, entry)
      return entry.size
    }),
  )
}

const size = (payload: string): number => message('t', payload).size

describe('a sound journal', () => {
  test('restores queue and flight, with bodies of the same and of earlier pages and blocks', () => {
    const writer = new Writer()
    let first: StoredBody | undefined
    writer.block((open) => {
      first = writer.enqueue(BIG)
      writer.enqueue('bb')
      open.enqueue(SESSION, delivery(first.message), first)
    })
    writer.block((open) => {
      open.enqueue(SESSION, delivery(first!.message), first!)
      open.sent(SESSION, 5)
      open.sent(SESSION, 6)
      open.received(SESSION, 5)
      open.inboundAdded(SESSION, 9, 77)
    })
    const { session, gaps } = scanned(writer.pages, refuseDamage, 2)
    expect(queueOf(session)).toEqual([size(BIG), size(BIG)])
    expect([...session.inFlight.keys()]).toEqual([6, 5])
    expect(session.inFlight.get(5)).toBe(RELEASED)
    expect([...session.inbound]).toEqual([[9, 77]])
    expect({ last: session.lastPacketId, gaps }).toEqual({ last: 6, gaps: 0 })
  })
})

describe('a journal that contradicts its Session', () => {
  const contradictions: readonly (readonly [string, (writer: Writer, open: OpenBlock) => void])[] = [
    ['sends from an empty queue', (_writer, open) => open.sent(SESSION, 1)],
    ['drops from an empty queue', (_writer, open) => open.dropped(SESSION)],
    ['completes a packet that is not in flight', (_writer, open) => open.completed(SESSION, 1)],
    ['releases a packet that is not in flight', (_writer, open) => open.received(SESSION, 1)],
    [
      'sends QoS 0 with a packet identifier',
      (writer, open) => {
        writer.enqueue('zero', 0)
        open.sent(SESSION, 1)
      },
    ],
  ]

  test.each(contradictions)('%s: a strict reader refuses it, a lenient one keeps messages', (_name, fill) => {
    const writer = new Writer()
    writer.block((open) => fill(writer, open))
    writer.block((open) => {
      writer.enqueue('kept')
      open.sent(SESSION, 2)
    })
    expect(() => scanned(writer.pages, refuseDamage, 2)).toThrow('the journal does not fit the queue of "c"')
    const damages: Damage[] = []
    const { session } = scanned(writer.pages, (damage) => damages.push(damage), 2)
    expect(damages.length).toBe(1)
    expect(session.isCertain).toBe(false)
    expect(queueOf(session).at(-1)).toBe(size('kept'))
    expect(session.lastPacketId).toBe(2)
  })
})

describe('a journal with lost pages', () => {
  /** Four blocks; the second has two pages, and the third sends. */
  function pages(): Writer['pages'] {
    const writer = new Writer()
    writer.block((open) => {
      writer.enqueue('first')
      open.inboundAdded(SESSION, 9, 0)
    })
    writer.block((open) => {
      const big = writer.enqueue(BIG)
      writer.enqueue('second')
      open.enqueue(SESSION, delivery(big.message), big)
    })
    writer.block((open) => open.sent(SESSION, 1))
    writer.block(() => writer.enqueue('last'))
    return writer.pages
  }

  test.each([
    ['in the middle of a block', [2], 'journal page 2 is missing'],
    ['at its beginning', [1], 'journal page 1 is missing'],
    ['several of them', [3, 4], 'journal pages 3 to 4 are missing'],
    ['at its end', [5], 'the journal ends at block 3, not at 4'],
    ['all of them', [1, 2, 3, 4, 5], 'the journal ends before page 1'],
  ])('%s: a strict reader refuses it', (_name, lost, what) => {
    const left = pages().filter(([number]) => !lost.includes(number))
    expect(() => scanned(left, refuseDamage, 4)).toThrow(what)
  })

  test('a lenient reader counts lost bodies, and keeps messages queued that may have been sent', () => {
    const damages: Damage[] = []
    const left = pages().filter(([number]) => number !== 2)
    const { session, gaps } = scanned(left, (damage) => damages.push(damage), 4)
    expect(damages.map(({ what }) => what)).toEqual(['journal page 2 is missing'])
    expect(gaps).toBe(1)
    // Both enqueues of the lost body are in the page after it.
    expect(queueOf(session)).toEqual([size('first'), null, size('second'), null, size('last')])
    expect([...session.inFlight]).toEqual([])
    expect([...session.inbound]).toEqual([])
  })

  test('a lenient reader goes on after a page with a changed byte', () => {
    const all = pages()
    all[1]![1][100]! ^= 1
    const damages: Damage[] = []
    const { session } = scanned(all, (damage) => damages.push(damage), 4)
    expect(damages.map(({ what }) => what)).toEqual(['journal page 2 does not match its checksum'])
    expect(queueOf(session).at(-1)).toBe(size('last'))
  })
})
