import { describe, expect, it } from 'vitest'
import { type Delivery, Message, NO_IDENTIFIERS, Topic } from '../../src/mqtt/message.ts'
import type { QoS } from '../../src/mqtt/packet.ts'
import type { SessionContext, SessionSink } from '../../src/session/context.ts'
import type { Leftover } from '../../src/session/leftover.ts'
import type { DropReason, SessionLimits } from '../../src/session/limits.ts'
import { effectiveQoS, Session } from '../../src/session/session.ts'
import { LedgerStore } from '../broker/ledger.ts'
import { TestParking } from './parking.ts'

const LIMITS: SessionLimits = {
  queueMessagesMax: Number.POSITIVE_INFINITY,
  queueBytesMax: Number.POSITIVE_INFINITY,
  queueFull: 'drop-oldest',
  queueQos0: false,
  inFlightMax: 100_000,
  inFlightBytesMax: Number.POSITIVE_INFINITY,
}

/** A Network Connection that writes down what it is asked to send. */
class Sink implements SessionSink {
  readonly lines: string[] = []
  congested = false
  immediate = false
  /** Payloads that exceed the Maximum Packet Size. */
  tooLarge: string | null = null

  pumped(): boolean {
    return false
  }

  publish({ message, qos }: Delivery, packetId: number, dup: boolean, durableAt: number): boolean {
    if (message.evicted) throw new Error('an evicted message was sent')
    if (message.payload.toString() === this.tooLarge) return false
    const wait = durableAt > 0 ? ` durable at ${durableAt}` : ''
    this.lines.push(`${message.payload} ${qos} ${packetId}${dup ? ' dup' : ''}${wait}`)
    return true
  }

  pubrel(packetId: number): void {
    this.lines.push(`pubrel ${packetId}`)
  }

  taken(): string[] {
    return this.lines.splice(0)
  }
}

class Room implements SessionContext {
  checksReceiving = false
  isInDoubt = false

  readonly doubtful = new Set<Message>()

  isDoubtful(message: Message): boolean {
    return this.doubtful.has(message)
  }

  /** Payloads that nobody may receive. */
  readonly denied = new Set<string>()
  readonly limits: SessionLimits
  readonly store = new LedgerStore()
  readonly drops: string[] = []
  readonly restoring: { session: Session; messages: readonly Message[] }[] = []
  time = 1000

  constructor(limits: Partial<SessionLimits> = {}) {
    this.limits = { ...LIMITS, ...limits }
  }

  now(): number {
    return this.time
  }

  mayReceive(_session: Session, { payload }: Message): boolean {
    return !this.denied.has(payload.toString())
  }

  dropped(_session: Session, reason: DropReason, { message }: Delivery): void {
    this.drops.push(`${reason} ${message.payload}`)
  }

  readonly sweeps: number[] = []

  headDropped(): void {}
  /** What is asked for in later turns. */
  readonly continuations: (() => void)[] = []
  later(action: () => void): void {
    this.continuations.push(action)
  }

  sweepAt(_session: Session, time: number): void {
    this.sweeps.push(time)
  }

  mark(): void {}

  restore(session: Session, messages: readonly Message[]): void {
    this.restoring.push({ session, messages })
  }

  settled(): void {}
  loosened(): void {}
  room(): void {}

  session(stored = false): Session {
    return new Session(this, {
      id: stored ? 1 : 0,
      clientId: 'a',
      owner: null,
      ownerId: null,
      stored,
      expirySeconds: 0,
    })
  }
}

const TOPIC = new Topic('t')

function delivery(payload: string, qos: QoS = 1, expiresAt = Number.POSITIVE_INFINITY): Delivery {
  const fields = { topic: TOPIC, payload: Buffer.from(payload), qos, retain: false, publisher: '', expiresAt }
  return {
    message: Message.of(fields),
    qos,
    retain: false,
    subscriptionIdentifiers: NO_IDENTIFIERS,
    share: null,
  }
}

function online(room = new Room(), receiveMaximum = 65_535, stored = false) {
  const session = room.session(stored)
  const sink = new Sink()
  session.attach(sink, receiveMaximum)
  return { room, session, sink }
}

describe('packet identifiers', () => {
  it('[MQTT-2.2.1-4] go from 1 upward, and each is free again when its delivery is complete', () => {
    const { session, sink } = online()
    for (const payload of ['a', 'b']) session.deliver(delivery(payload), 0)
    session.puback(1, false)
    session.deliver(delivery('c'), 0)
    expect(sink.taken()).toEqual(['a 1 1', 'b 1 2', 'c 1 3'])
  })

  it('[MQTT-2.2.1-4] wrap around after 65,535, and skip those in flight', () => {
    const { session, sink } = online()
    for (let n = 1; n <= 65_535; n++) {
      session.deliver(delivery(''), 0)
      if (n !== 1 && n !== 3 && n !== 65_535) session.puback(n, false)
    }
    sink.taken()
    for (const payload of ['x', 'y']) session.deliver(delivery(payload), 0)
    expect(sink.taken()).toEqual(['x 1 2', 'y 1 4'])
  })

  it('with all 65,535 in flight the rest waits, whatever the client allows', () => {
    const { session, sink } = online(new Room(), 65_535)
    for (let n = 1; n <= 65_536; n++) session.deliver(delivery(''), 0)
    expect(sink.taken()).toHaveLength(65_535)
    session.puback(77, false)
    expect(sink.taken()).toEqual([' 1 77'])
  })

  it('a message that was too large uses none', () => {
    const { session, sink, room } = online()
    sink.tooLarge = 'big'
    for (const payload of ['a', 'big', 'b']) session.deliver(delivery(payload), 0)
    expect(sink.taken()).toEqual(['a 1 1', 'b 1 2'])
    expect(room.drops).toEqual(['packet-too-large big'])
  })
})

describe('the window', () => {
  it('[MQTT-3.3.4-9] [MQTT-4.9.0-2] holds Receive Maximum messages; more go as it opens', () => {
    const { session, sink } = online(new Room(), 2)
    for (const payload of ['a', 'b', 'c', 'd']) session.deliver(delivery(payload), 0)
    expect(sink.taken()).toEqual(['a 1 1', 'b 1 2'])
    session.puback(2, false)
    session.deliver(delivery('e'), 0)
    session.puback(1, false)
    session.puback(3, false)
    expect(sink.taken()).toEqual(['c 1 3', 'd 1 4', 'e 1 5'])
  })

  it('[MQTT-4.9.0-1] inFlightMax narrows it', () => {
    const { session, sink } = online(new Room({ inFlightMax: 1 }))
    for (const payload of ['a', 'b']) session.deliver(delivery(payload), 0)
    expect(sink.taken()).toEqual(['a 1 1'])
  })

  it('[MQTT-3.3.4-10] PUBREL does not wait for it; it opens with PUBCOMP or a refusing PUBREC', () => {
    const { session, sink } = online(new Room(), 1)
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload, 2), 0)
    expect(session.pubrec(1, false)).toBe('received')
    expect(sink.taken()).toEqual(['a 2 1'])
    session.pubcomp(1)
    expect(sink.taken()).toEqual(['b 2 2'])
    expect(session.pubrec(2, true)).toBe('completed')
    expect(sink.taken()).toEqual(['c 2 3'])
  })

  it('a window that starts small grows with each acknowledgement while it is full [field-E28]', () => {
    const session = new Room().session(true)
    const sink = new Sink()
    for (let n = 0; n < 100; n++) session.deliver(delivery(`${n}`), 0)
    session.attach(sink, 65_535, 30, 4)
    const inFlight: number[] = [session.inFlightCount]
    for (let acknowledged = 0; acknowledged < 60; ) {
      // One round trip: all that is in flight is acknowledged.
      const packetIds = [...session.inFlight()].map(({ packetId }) => packetId)
      for (const packetId of packetIds) session.puback(packetId, false)
      acknowledged += packetIds.length
      inFlight.push(session.inFlightCount)
    }
    expect(inFlight).toEqual([4, 8, 16, 30, 30, 12])
  })

  it('a window that is never full does not grow, so a later burst is small, too [field-E28]', () => {
    const session = new Room().session()
    session.attach(new Sink(), 65_535, 1000, 20)
    for (let n = 1; n <= 500; n++) {
      session.deliver(delivery(''), 0)
      session.puback(n, false)
    }
    for (let n = 0; n < 600; n++) session.deliver(delivery(''), 0)
    expect([session.inFlightCount, session.queueLength]).toEqual([20, 580])
  })

  it('a QoS 0 message is sent when a full queue drops the one before it [field-B7]', () => {
    const { session, sink } = online(new Room({ queueMessagesMax: 2 }), 1)
    for (const payload of ['sent', 'oldest']) session.deliver(delivery(payload), 0)
    session.deliverAhead(delivery('retained', 0), 0)
    session.deliver(delivery('live', 0), 0)
    expect(sink.taken()).toEqual(['sent 1 1', 'retained 0 0', 'live 0 0'])
    expect(session.queueLength).toBe(0)
  })

  it('QoS 0 passes it', () => {
    const { session, sink } = online(new Room(), 1)
    for (const qos of [1, 1, 0] as const) session.deliver(delivery(`${qos}`, qos), 0)
    expect(sink.taken()).toEqual(['1 1 1', '0 0 0'])
  })

  it('[MQTT-3.3.4-9] PUBCOMP for an earlier connection makes no room for a PUBLISH', () => {
    const { session, sink } = online(new Room(), 2)
    session.deliver(delivery('a', 2), 0)
    session.pubrec(1, false)
    session.detach()
    for (const payload of ['b', 'c', 'd']) session.deliver(delivery(payload), 0)
    sink.taken()
    session.attach(sink, 2)
    expect(sink.taken()).toEqual(['pubrel 1', 'b 1 2', 'c 1 3'])
    session.pubcomp(1)
    expect(sink.taken()).toEqual([])
    session.puback(2, false)
    expect(sink.taken()).toEqual(['d 1 4'])
  })
})

describe('a client that never sends PUBCOMP', () => {
  it('gets no more than inFlightMax messages, however often it comes back', () => {
    const { session, sink } = online(new Room({ inFlightMax: 10 }))
    for (let round = 0; round < 5; round++) {
      for (let n = 0; n < 10; n++) session.deliver(delivery('a', 2), 0)
      for (let packetId = 1; packetId <= 50; packetId++) session.pubrec(packetId, false)
      session.detach()
      sink.taken()
      session.attach(sink, 10)
    }
    expect(session.inFlightCount).toBe(10)
    sink.taken()
    session.pubcomp(3)
    expect(sink.taken()).toEqual(['a 2 11'])
  })

  it('does not use up the packet identifiers', () => {
    const { session, sink } = online(new Room())
    for (let n = 1; n <= 70_000; n++) session.deliver(delivery('a', 2), 0)
    for (let packetId = 1; packetId <= 65_535; packetId++) session.pubrec(packetId, false)
    session.detach()
    session.attach(sink, 65_535)
    expect([session.inFlightCount, session.queueLength]).toEqual([65_535, 4465])
  })
})

describe('when the client comes back', () => {
  it('[MQTT-4.4.0-1] [MQTT-4.6.0-1] messages in flight go first, in order, with DUP', () => {
    const { session, sink } = online()
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload, 2), 0)
    session.pubrec(2, false)
    session.detach()
    session.deliver(delivery('d'), 0)
    sink.taken()
    session.attach(sink, 65_535)
    expect(sink.taken()).toEqual(['pubrel 2', 'a 2 1 dup', 'c 2 3 dup', 'd 1 4'])
  })

  it('[MQTT-4.6.0-4] PUBRELs go in the order of the PUBRECs', () => {
    const { session, sink } = online()
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload, 2), 0)
    for (const packetId of [3, 1, 2]) session.pubrec(packetId, false)
    session.detach()
    sink.taken()
    session.attach(sink, 65_535)
    expect(sink.taken()).toEqual(['pubrel 3', 'pubrel 1', 'pubrel 2'])
  })

  it('[MQTT-4.3.3-6] after PUBREC the PUBLISH is not sent again', () => {
    const { session, sink } = online()
    session.deliver(delivery('a', 2), 0)
    session.pubrec(1, false)
    session.detach()
    sink.taken()
    session.attach(sink, 1)
    session.detach()
    session.attach(sink, 1)
    expect(sink.taken()).toEqual(['pubrel 1', 'pubrel 1'])
  })

  it('messages sent again keep to a smaller window, and no new one passes them', () => {
    const { session, sink } = online()
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload), 0)
    session.detach()
    sink.taken()
    session.attach(sink, 1)
    session.deliver(delivery('d'), 0)
    expect(sink.taken()).toEqual(['a 1 1 dup'])
    for (const packetId of [1, 2, 3]) session.puback(packetId, false)
    expect(sink.taken()).toEqual(['b 1 2 dup', 'c 1 3 dup', 'd 1 4'])
  })

  it('an acknowledgement also ends a delivery that was not sent again yet', () => {
    const { session, sink } = online()
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload), 0)
    session.detach()
    sink.taken()
    session.attach(sink, 1)
    session.puback(2, false)
    session.puback(1, false)
    expect(sink.taken()).toEqual(['a 1 1 dup', 'c 1 3 dup'])
    // The window is one message wide, still.
    session.deliver(delivery('d'), 0)
    expect(sink.taken()).toEqual([])
    session.puback(3, false)
    expect(sink.taken()).toEqual(['d 1 4'])
  })
})

describe('acknowledgements', () => {
  it('unknown ones, wrong kinds, and repeated PUBRECs', () => {
    const { session } = online()
    session.deliver(delivery('a', 1), 0)
    session.deliver(delivery('b', 2), 0)
    expect([session.puback(9, false), session.pubrec(9, false), session.pubcomp(9)]).toEqual([
      'unknown',
      'unknown',
      'unknown',
    ])
    expect([session.pubrec(1, false), session.pubcomp(1), session.puback(2, false)]).toEqual([
      'wrong-kind',
      'wrong-kind',
      'wrong-kind',
    ])
    expect([session.pubcomp(2), session.pubrec(2, false), session.pubrec(2, false)]).toEqual([
      'wrong-kind',
      'received',
      'received',
    ])
    expect([session.puback(2, false), session.pubcomp(2), session.pubcomp(2)]).toEqual([
      'wrong-kind',
      'completed',
      'unknown',
    ])
    expect(session.inFlightCount).toBe(1)
  })

  it('[MQTT-4.4.0-2] a refusal ends the delivery, and is counted', () => {
    const { session, sink, room } = online()
    session.deliver(delivery('a', 1), 0)
    session.deliver(delivery('b', 2), 0)
    expect([session.puback(1, true), session.pubrec(2, true)]).toEqual(['completed', 'completed'])
    expect(room.drops).toEqual(['refused-by-client a', 'refused-by-client b'])
    sink.taken()
    session.detach()
    session.attach(sink, 1)
    expect(sink.taken()).toEqual([])
  })

  it('more of them than messages do not widen the window', () => {
    const { session, sink } = online(new Room(), 1)
    session.deliver(delivery('a'), 0)
    for (let n = 0; n < 3; n++) session.puback(1, false)
    for (const payload of ['b', 'c']) session.deliver(delivery(payload), 0)
    expect(sink.taken()).toEqual(['a 1 1', 'b 1 2'])
  })
})

describe('QoS 0', () => {
  it('is dropped for a client that is away or slow, and counted; queued only when asked to', () => {
    const room = new Room()
    const away = room.session(true)
    away.deliver(delivery('a', 0), 0)
    const { session, sink } = online(room)
    sink.congested = true
    session.deliver(delivery('b', 0), 0)
    sink.congested = false
    sink.tooLarge = 'c'
    session.deliver(delivery('c', 0), 0)
    expect(room.drops).toEqual(['offline a', 'slow-reader b', 'packet-too-large c'])
    expect(room.store.lines).toEqual([])
  })

  it('queued: comes in its order among the others, once', () => {
    const room = new Room({ queueQos0: true })
    const session = room.session(true)
    for (const [payload, qos] of [
      ['a', 1],
      ['b', 0],
      ['c', 1],
    ] as const)
      session.deliver(delivery(payload, qos), 0)
    const sink = new Sink()
    session.attach(sink, 10)
    expect(sink.taken()).toEqual(['a 1 1 durable at 1', 'b 0 0', 'c 1 2 durable at 1'])
    expect(room.store.lines).toEqual([
      'enqueue 1 a 1',
      'enqueue 1 b 0',
      'enqueue 1 c 1',
      'sent 1 1',
      'dropped 1',
      'sent 1 2',
    ])
    const passing = room.session(false)
    passing.deliver(delivery('x', 0), 0)
    expect(room.drops).toEqual(['offline x'])
  })
})

describe('slow readers', () => {
  it('[MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT-4.6.0-5, 3.1.1] [MQTT-4.6.0-6, 3.1.1] are kept, in order', () => {
    const { session, sink } = online()
    session.deliver(delivery('a'), 0)
    sink.congested = true
    for (const payload of ['b', 'c']) session.deliver(delivery(payload), 0)
    session.pump()
    expect(sink.taken()).toEqual(['a 1 1'])
    sink.congested = false
    session.deliver(delivery('d'), 0)
    session.pump()
    expect(sink.taken()).toEqual(['b 1 2', 'c 1 3', 'd 1 4'])
  })
})

describe('a full queue', () => {
  const filled = (limits: Partial<SessionLimits>, stored = true) => {
    const room = new Room(limits)
    const session = room.session(stored)
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload), 0)
    return { room, session }
  }
  const waiting = (session: Session) => {
    const sink = new Sink()
    session.attach(sink, 10)
    return sink.taken().map((line) => line.slice(0, 1))
  }

  it('drop-oldest, by messages and by bytes', () => {
    for (const limits of [{ queueMessagesMax: 2 }, { queueBytesMax: 5 }]) {
      const { room, session } = filled({ ...limits, queueFull: 'drop-oldest' })
      expect(room.drops).toEqual(['queue-full a'])
      expect(room.store.lines).toEqual(['enqueue 1 a 1', 'enqueue 1 b 1', 'dropped 1', 'enqueue 1 c 1'])
      expect(waiting(session)).toEqual(['b', 'c'])
    }
  })

  it('drop-newest, and also refuse for a message whose publisher was not refused', () => {
    for (const queueFull of ['drop-newest', 'refuse'] as const) {
      const { room, session } = filled({ queueMessagesMax: 2, queueFull })
      expect(room.drops).toEqual(['queue-full c'])
      expect(waiting(session)).toEqual(['a', 'b'])
    }
  })

  it('a message that is larger than the whole queue is dropped itself', () => {
    const { room, session } = filled({ queueBytesMax: 6 })
    session.deliver(delivery('too large'), 0)
    expect(room.drops).toEqual(['queue-full too large'])
    expect(session.queueLength).toBe(3)
  })

  it('never drops what is in flight', () => {
    const { session, room, sink } = online(new Room({ queueMessagesMax: 1 }), 1)
    for (const payload of ['a', 'b', 'c']) session.deliver(delivery(payload), 0)
    expect(room.drops).toEqual(['queue-full b'])
    session.puback(1, false)
    expect(sink.taken()).toEqual(['a 1 1', 'c 1 2'])
  })

  it('queueFullFor tells in advance if a queue is full; a message sent at once needs no place', () => {
    const { session } = filled({ queueMessagesMax: 3, queueFull: 'refuse' })
    expect(session.queueFullFor(delivery('x').message)).toBe(true)
    session.attach(new Sink(), 10)
    expect(session.queueFullFor(delivery('x').message)).toBe(false)
    const bytes = filled({ queueBytesMax: 7 })
    expect(bytes.session.queueFullFor(delivery('').message)).toBe(false)
    expect(bytes.session.queueFullFor(delivery('x').message)).toBe(true)
  })
})

describe('expiry', () => {
  it('[MQTT-3.3.2-5] a message that expired in the queue is dropped when its turn comes', () => {
    const room = new Room()
    const session = room.session(true)
    session.deliver(delivery('a', 1, 2000), 0)
    session.deliver(delivery('b', 1, 3000), 0)
    room.time = 2000
    const sink = new Sink()
    session.attach(sink, 10)
    expect(sink.taken()).toEqual(['b 1 1 durable at 1'])
    expect(room.drops).toEqual(['expired a'])
  })
})

describe('a long queue whose bodies are on disk', () => {
  function parkedQueue(share: (n: number) => string | null): { session: Session; all: Delivery[] } {
    const room = new Room()
    const parking = new TestParking(100)
    room.store.park = (each, onto) => parking.park(each, onto)
    room.store.unpark = (parked, count) => parking.unpark(parked, count)
    room.store.peek = (parked, index) => parking.peek(parked, index)
    room.store.droppedParked = () => {}
    const session = room.session(true)
    const all = Array.from({ length: 1000 }, (_, n) => ({ ...delivery(`${n}`), share: share(n) }))
    for (const each of all) {
      session.deliver(each, 0)
      each.message.evict()
    }
    expect(parking.parked).toBeGreaterThan(900)
    return { session, all }
  }

  it('ends without looking at each message that no other Session may get', () => {
    const { session } = parkedQueue(() => null)
    expect([...session.held()].length).toBeLessThan(100)
    const undelivered = leftoversOf(session)
    expect(undelivered.length).toBeLessThan(100)
    expect(undelivered.reduce((sum, { count }) => sum + count, 0)).toBe(1000)
    expect([session.queueLength, session.queueBytes, [...session.held()]]).toEqual([0, 0, []])
  })

  it('gives every message of a Shared Subscription, in order, when the Session ends', () => {
    const share = '$share/group/filter'
    const { session, all } = parkedQueue((n) => (n >= 300 && n < 310 ? share : null))
    const undelivered = leftoversOf(session)
    const shared = undelivered.filter(({ delivery: each }) => each.share !== null)
    expect(shared.map(({ delivery: each }) => each)).toEqual(all.slice(300, 310))
    expect(shared.every(({ mayGoToOthers, count }) => mayGoToOthers && count === 1)).toBe(true)
    expect(undelivered.reduce((sum, { count }) => sum + count, 0)).toBe(1000)
  })
})

function leftoversOf(session: Session): Leftover[] {
  const leftovers: Leftover[] = []
  for (let next = session.leftover(); next !== null; next = session.leftover()) {
    leftovers.push(next)
    session.dropLeftover()
  }
  return leftovers
}

describe('a Session that is not stored', () => {
  it('that is full of small messages drops them in slices for a large one', () => {
    const room = new Room({ queueBytesMax: 30_000, queueFull: 'drop-oldest' })
    const session = room.session(true)
    for (let count = 0; count < 5000; count++) session.deliver(delivery('small'), 0)
    expect(room.drops).toEqual([])
    session.deliver(delivery('x'.repeat(29_000)), 0)
    expect([room.drops.length, session.queueLength, room.continuations.length]).toEqual([1024, 3977, 1])
    for (let slices = 0; room.continuations.length > 0; slices++) {
      const before = room.drops.length
      room.continuations.shift()!()
      expect(room.drops.length - before).toBeLessThanOrEqual(1024)
      expect(slices).toBeLessThan(6)
    }
    expect(session.queueBytes).toBeLessThanOrEqual(30_000)
    expect(session.queue.at(session.queueTail - 1).message.payload.length).toBe(29_000)
    expect(room.drops.length + session.queueLength).toBe(5001)
  })

  it('holds queued messages, since other Sessions may store them and finish with them earlier', () => {
    const { session, sink } = online(new Room(), 1)
    const [sent, waiting, last] = [delivery('a'), delivery('b'), delivery('c')]
    for (const each of [sent, waiting, last]) session.deliver(each, 0)
    const holders = (): number[] => [sent, waiting, last].map(({ message }) => message.holders)
    expect(holders()).toEqual([0, 1, 1])
    session.puback(1, false)
    expect(sink.taken()).toEqual(['a 1 1', 'b 1 2'])
    expect(holders()).toEqual([0, 0, 1])
    session.detach()
    expect(holders()).toEqual([0, 0, 1])
    expect(leftoversOf(session).map(({ delivery: { message } }) => message)).toEqual(
      [waiting, last].map(({ message }) => message),
    )
    expect(holders()).toEqual([0, 0, 0])
  })
})

describe('bodies that are on disk only', () => {
  it('are read back in slices before they are sent, one slice at a time, and in order', () => {
    const room = new Room()
    const session = room.session(true)
    const all = Array.from({ length: 600 }, (_, n) => delivery(`${n}`))
    for (const each of all) session.deliver(each, 0)
    for (const { message } of all.slice(1)) message.evict()
    const sink = new Sink()
    session.attach(sink, 1000)
    let asked = 0
    while (room.restoring.length > 0) {
      expect(room.restoring).toHaveLength(1)
      const { messages } = room.restoring.shift()!
      expect(messages.length).toBeLessThanOrEqual(256)
      asked += messages.length
      session.deliver(delivery('late'), 0)
      for (const message of messages) {
        message.restore(TOPIC, Buffer.alloc(0), Buffer.from(`${all.findIndex((d) => d.message === message)}`))
      }
      session.restored()
    }
    expect(asked).toBe(599)
    expect(sink.taken().map((line) => line.split(' ')[0])).toEqual([
      ...all.map((_, n) => `${n}`),
      'late',
      'late',
      'late',
    ])
  })

  it('messages to send again are read back, too; a client that left meanwhile gets nothing', () => {
    const { session, sink, room } = online(new Room(), 10, true)
    const first = delivery('a')
    session.deliver(first, 0)
    session.detach()
    first.message.evict()
    sink.taken()
    session.attach(sink, 10)
    expect(room.restoring).toHaveLength(1)
    session.detach()
    first.message.restore(TOPIC, Buffer.alloc(0), Buffer.from('a'))
    session.restored()
    expect(sink.taken()).toEqual([])
    session.attach(sink, 10)
    expect(sink.taken()).toEqual(['a 1 1 dup'])
  })
})

describe('recorded in the store', () => {
  it('a stored Session: each step, and every first PUBLISH waits for its commit', () => {
    const { session, sink, room } = online(new Room(), 1, true)
    session.deliver(delivery('a', 2), 1)
    session.deliver(delivery('b', 1), 1)
    session.pubrec(1, false)
    session.pubcomp(1)
    session.puback(2, false)
    session.addInbound(5, 77)
    expect([session.isInbound(5), session.inboundCount]).toEqual([true, 1])
    expect([session.releaseInbound(5), session.releaseInbound(5)]).toEqual([true, false])
    expect(room.store.lines).toEqual([
      'enqueue 1 a 2',
      'sent 1 1',
      'enqueue 1 b 1',
      'received 1 1',
      'completed 1 1',
      'sent 1 2',
      'completed 1 2',
      'inboundAdded 1 5 77',
      'inboundRemoved 1 5',
    ])
    expect(sink.taken()).toEqual(['a 2 1 durable at 1', 'b 1 2 durable at 1'])
  })

  it('a Session that ends with its connection: nothing, and a PUBLISH waits for its message only', () => {
    const { session, sink, room } = online(new Room(), 1)
    session.deliver(delivery('a', 2), 7)
    session.pubrec(1, false)
    session.pubcomp(1)
    session.addInbound(5, 77)
    session.releaseInbound(5)
    expect(room.store.lines).toEqual([])
    expect(sink.taken()).toEqual(['a 2 1 durable at 7'])
  })

  it('a checkpoint reads the present state', () => {
    const { session } = online(new Room(), 2, true)
    for (const payload of ['a', 'b', 'c', 'd']) session.deliver(delivery(payload, 2), 0)
    session.pubrec(1, false)
    session.addInbound(9, 78)
    expect(
      [...session.inFlight()].map(({ packetId, delivery: of }) => [packetId, of?.message.payload.toString()]),
    ).toEqual([
      [2, 'b'],
      [1, undefined],
    ])
    expect([session.queueHead, session.queueTail, session.lastPacketId]).toEqual([0, 2, 2])
    expect(session.queue.at(1).message.payload.toString()).toBe('d')
    expect([...session.inbound()]).toEqual([[9, 78]])
    expect([...session.held()].map((held) => held instanceof Message && held.payload.toString())).toEqual([
      'b',
      'c',
      'd',
    ])
  })

  it('a recovered Session goes on where it was', () => {
    const room = new Room()
    const session = Session.recovered(room, {
      id: 4,
      record: { clientId: 'a', owner: 'anna', ownerId: 'id of anna', expirySeconds: 60, disconnectedAt: 500 },
      subscriptions: [
        ['t', { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 0, identifier: 3 }],
      ],
      inFlight: [
        { packetId: 8, delivery: delivery('a', 1) },
        { packetId: 9, delivery: null },
      ],
      queue: [delivery('b')],
      queueHead: 17,
      lastPacketId: 9,
      inbound: [[5, 79]],
    })
    expect(session.record()).toEqual({
      clientId: 'a',
      owner: 'anna',
      ownerId: 'id of anna',
      expirySeconds: 60,
      disconnectedAt: 500,
    })
    expect([session.queueHead, session.isInbound(5), session.subscriptions.get('t')?.identifier]).toEqual([
      17,
      true,
      3,
    ])
    const sink = new Sink()
    session.attach(sink, 10)
    expect(sink.taken()).toEqual(['pubrel 9', 'a 1 8 dup', 'b 1 10 durable at 1'])
    expect(session.record().disconnectedAt).toBe(0)
  })
})

describe('a subscriber in this process', () => {
  it('takes everything at once, and keeps nothing', () => {
    const room = new Room({ inFlightMax: 1, queueMessagesMax: 1 })
    const session = room.session()
    const sink = new Sink()
    sink.immediate = true
    session.attach(sink, 65_535)
    for (const qos of [0, 1, 2, 1] as const) session.deliver(delivery(`${qos}`, qos), 3)
    expect(sink.taken()).toEqual([
      '0 0 0 durable at 3',
      '1 1 0 durable at 3',
      '2 2 0 durable at 3',
      '1 1 0 durable at 3',
    ])
    expect([session.inFlightCount, session.queueLength, room.drops]).toEqual([0, 0, []])
  })
})

it('[MQTT-3.8.4-8] the QoS of a delivery is the lower of both', () => {
  const all: QoS[] = [0, 1, 2]
  for (const published of all)
    for (const granted of all) expect(effectiveQoS(published, granted)).toBe(Math.min(published, granted))
})

describe('messages that expire in the queue', () => {
  /** An absent Session whose queue holds these; a number is when one expires. */
  function waiting(room: Room, entries: readonly (string | number)[], stored = true): Session {
    const session = room.session(stored)
    entries.forEach((entry, n) => {
      session.deliver(typeof entry === 'number' ? delivery(`x${n}`, 1, entry) : delivery(entry), 0)
    })
    return session
  }

  /** What a client gets that comes now. */
  function got(session: Session): string[] {
    const sink = new Sink()
    session.attach(sink, 65_535)
    return sink.taken().map((line) => line.split(' ')[0]!)
  }

  it.each(['drop-oldest', 'drop-newest', 'refuse'] as const)(
    'give way first where the queue is full, wherever they are: %s [field-B8]',
    (queueFull) => {
      const room = new Room({ queueMessagesMax: 4, queueFull })
      const session = waiting(room, ['a', 2000, 'b', 2000])
      expect(session.queueFullFor(delivery('c').message)).toBe(true)
      room.time = 2000
      for (const text of ['c', 'd']) {
        expect(session.queueFullFor(delivery(text).message)).toBe(false)
        session.deliver(delivery(text), 0)
      }
      expect(session.queueFullFor(delivery('e').message)).toBe(true)
      expect(room.drops).toEqual([])
      expect(got(session)).toEqual(['a', 'b', 'c', 'd'])
      expect(room.drops).toEqual(['expired x1', 'expired x3'])
    },
  )

  it('count in bytes, too [field-B8]', () => {
    const room = new Room({ queueBytesMax: 24, queueFull: 'drop-newest' })
    const session = waiting(room, ['aaaaa', 2000, 'bbbbb'])
    for (const text of ['ccccc', 'ddddd']) session.deliver(delivery(text), 0)
    expect(room.drops).toEqual(['queue-full ddddd'])
    room.time = 3000
    session.deliver(delivery('e'), 0)
    expect(room.drops).toEqual(['queue-full ddddd'])
    expect(got(session)).toEqual(['aaaaa', 'bbbbb', 'ccccc', 'e'])
  })

  it('are swept when the first expires, from the head in bounded steps [field-B8]', () => {
    const room = new Room()
    const session = waiting(room, [...Array.from({ length: 3000 }, () => 5000), 4000, 'kept'])
    expect(room.sweeps).toEqual([5000, 4000])
    room.time = 5000
    const lengths: number[] = []
    while (session.queue.sweep()) lengths.push(session.queueLength)
    expect([...lengths, session.queueLength]).toEqual([1978, 954, 1])
    expect([room.drops.length, session.queueBytes]).toEqual([3001, 5])
    expect(got(session)).toEqual(['kept'])
  })

  it('behind one that stays are given back once it is worth while, and the order stays [field-B8]', () => {
    const room = new Room()
    const session = waiting(
      room,
      Array.from({ length: 600 }, (_, n) => (n % 2 === 0 ? `k${n}` : 3000 + n)),
    )
    room.time = 3300
    expect([session.queue.sweep(), session.queueLength]).toEqual([false, 600])
    expect(room.sweeps.at(-1)).toBe(3301)
    room.time = 4000
    expect([session.queue.sweep(), session.queueLength]).toEqual([false, 300])
    expect(session.queueHead).toBe(600)
    expect(room.drops).toHaveLength(300)
    expect(got(session)).toEqual(Array.from({ length: 300 }, (_, n) => `k${n * 2}`))
  })

  it('a full queue has room for one more with each that expires, in any order [field-B8]', () => {
    const room = new Room({ queueMessagesMax: 20_000, queueFull: 'drop-newest' })
    // One expires each millisecond, in any order.
    const session = waiting(
      room,
      Array.from({ length: 20_000 }, (_, n) => 2000 + ((n * 7919) % 20_000)),
      false,
    )
    for (let n = 0; n < 1000; n++) {
      room.time = 2000 + n
      session.deliver(delivery('new'), 0)
      expect(session.queueFullFor(delivery('more').message)).toBe(true)
    }
    expect(room.drops).toEqual([])
  })
})
