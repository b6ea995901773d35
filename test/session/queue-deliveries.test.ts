/** Messages of queues in a Session: sent or not taken, answered, given up, and sent again. */
import { describe, expect, it } from 'vitest'
import { type Delivery, Message, NO_IDENTIFIERS, Topic } from '../../src/mqtt/message.ts'
import type { AcknowledgePacket, QoS } from '../../src/mqtt/packet.ts'
import type { QueueDelivery, SessionContext, SessionSink } from '../../src/session/context.ts'
import type { SessionLimits } from '../../src/session/limits.ts'
import { abandon, offer, queueFlight, release } from '../../src/session/queue-deliveries.ts'
import { Session } from '../../src/session/session.ts'
import { LedgerStore } from '../broker/ledger.ts'

const LIMITS: SessionLimits = {
  queueMessagesMax: 10,
  queueBytesMax: 10_000,
  queueFull: 'drop-oldest',
  queueQos0: false,
  inFlightMax: 100,
  inFlightBytesMax: 100_000,
}

class Sink implements SessionSink {
  congested = false
  readonly immediate = false
  packetBytesMax = Number.POSITIVE_INFINITY
  readonly sent: string[] = []

  pumped(): boolean {
    return false
  }

  publish({ message, qos }: Delivery, packetId: number, dup: boolean, durableAt: number): boolean {
    if (message.size > this.packetBytesMax) return false
    this.sent.push(`${message.payload} ${qos} ${packetId}${dup ? ' dup' : ''} @${durableAt}`)
    return true
  }

  pubrel(packetId: number): void {
    this.sent.push(`pubrel ${packetId}`)
  }

  taken(): string[] {
    return this.sent.splice(0)
  }
}

class Server implements SessionContext {
  readonly limits = LIMITS
  readonly store = new LedgerStore()
  readonly checksReceiving = false
  readonly isInDoubt = false
  readonly told: string[] = []
  readonly restoring: Message[] = []

  now(): number {
    return 0
  }
  dropped(): void {
    this.told.push('dropped')
  }
  mayReceive(): boolean {
    return true
  }
  isDoubtful(): boolean {
    return false
  }
  sweepAt(): void {}
  later(): void {}
  headDropped(): void {}
  mark(): void {}
  restore(_session: Session, messages: readonly Message[]): void {
    this.restoring.push(...messages)
  }
  settled(
    _session: Session,
    { source, isEcho }: QueueDelivery,
    reasonCode: number,
    packet: AcknowledgePacket | null,
  ): void {
    const why = packet?.reasonString ?? ''
    this.told.push(`settled ${source.sequence} ${reasonCode}${why}${isEcho === true ? ' echo' : ''}`)
  }
  loosened(session: Session): void {
    this.told.push(`loosened ${ids(session)}`)
  }
  room(): void {
    this.told.push('room')
  }
}

function ids(session: Session): string {
  return [...queueFlight(session)].map(({ packetId }) => packetId).join(' ')
}

function consuming(stored = false, receiveMaximum = 65_535) {
  const server = new Server()
  const id = stored ? 1 : 0
  const session = new Session(server, {
    id,
    clientId: 'a',
    owner: null,
    ownerId: null,
    stored,
    expirySeconds: 0,
  })
  session.consumers = { memoryBytes: 0 }
  const sink = new Sink()
  session.attach(sink, receiveMaximum)
  server.told.length = 0
  return { server, session, sink }
}

function queued(sequence: number, qos: QoS = 1, payload = `m${sequence}`): QueueDelivery {
  const topic = new Topic('$queue/q')
  const fields = { topic, payload: Buffer.from(payload), qos, retain: false, publisher: '' }
  const message = Message.of(fields)
  message.stored = {}
  const source = { group: 1, lane: 0, sequence, attempt: 1, filter: '$queue/q' }
  return { message, qos, retain: false, subscriptionIdentifiers: NO_IDENTIFIERS, share: null, source }
}

function puback(packetId: number, reasonCode = 0, reasonString?: string): AcknowledgePacket {
  return { type: 'puback', packetId, reasonCode, reasonString }
}

describe('an offer', () => {
  it('is sent at once, lets go of its body, and waits for the commit that is named', () => {
    const { session, sink } = consuming()
    const one = queued(1)
    expect(offer(session, one, 7)).toBe('sent')
    expect(sink.taken()).toEqual(['m1 1 1 @7'])
    expect(one.message.evicted).toBe(true)
    expect(session.inFlightCount).toBe(1)
    expect(offer(session, queued(2, 0), 8)).toBe('sent')
    expect(sink.taken()).toEqual(['m2 0 0 @8'])
    expect(session.inFlightCount).toBe(1)
  })

  it('of a stored Session waits for its own record', () => {
    const { session, sink, server } = consuming(true)
    offer(session, queued(1), 0)
    expect(sink.taken()).toEqual([`m1 1 1 @${server.store.openSequence}`])
  })

  it('is not taken beyond the window, behind messages of the Session, or by a congested reader', () => {
    const { session, sink } = consuming(false, 1)
    offer(session, queued(1), 0)
    expect(offer(session, queued(2), 0)).toBe('no-room')
    session.puback(1, false, puback(1))
    sink.congested = true
    expect(offer(session, queued(2), 0)).toBe('no-room')
    expect(session.hasMore).toBe(true)
    sink.congested = false
    expect(offer(session, queued(2), 0)).toBe('sent')
    const { source: _, ...own } = queued(9)
    session.deliver(own, 0)
    session.puback(2, false, puback(2))
    expect(sink.taken()).toEqual(['m1 1 1 @0', 'm2 1 2 @0', 'm9 1 3 @0'])
  })

  it('that is larger than the client takes leaves nothing behind', () => {
    const { session, sink } = consuming()
    sink.packetBytesMax = 5
    expect(offer(session, queued(1), 0)).toBe('too-large')
    expect(session.inFlightCount).toBe(0)
  })
})

describe('the answer', () => {
  it('frees the identifier, tells the queue, and then that there is room', () => {
    const { session, server } = consuming()
    offer(session, queued(1), 0)
    expect(session.puback(1, true, puback(1, 0x80, ' why'))).toBe('completed')
    expect(server.told).toEqual(['settled 1 128 why', 'room'])
    expect(session.inFlightCount).toBe(0)
    expect(session.inFlightBytes).toBe(0)
  })

  it('of QoS 2 is PUBREC; the identifier stays until PUBCOMP', () => {
    const { session, server } = consuming()
    offer(session, queued(1, 2), 0)
    expect(session.pubrec(1, false, { ...puback(1), type: 'pubrec' })).toBe('received')
    expect(server.told).toEqual(['settled 1 0'])
    expect(session.pubrec(1, false)).toBe('received')
    expect(session.pubcomp(1)).toBe('completed')
    expect(server.told).toEqual(['settled 1 0', 'room'])
    offer(session, queued(2, 2), 0)
    expect(session.pubrec(2, true, { ...puback(2, 0x99), type: 'pubrec' })).toBe('completed')
    expect(server.told).toEqual(['settled 1 0', 'room', 'settled 2 153', 'room'])
  })

  it('to a message that went elsewhere reaches the queue; its identifier stays in use until then', () => {
    const { session, sink, server } = consuming(false, 2)
    for (const sequence of [1, 2]) offer(session, queued(sequence), 0)
    abandon(session, 1)
    expect(offer(session, queued(3), 0)).toBe('no-room')
    session.puback(1, false, puback(1))
    expect(server.told).toEqual(['settled 1 0 echo', 'room'])
    offer(session, queued(3), 0)
    expect(sink.taken().at(-1)).toBe('m3 1 3 @0')
  })
})

describe('a lost connection', () => {
  it('is told; what nobody took is sent again with DUP, in order, once its body is back', () => {
    const { session, server } = consuming(true)
    for (const sequence of [1, 2, 3]) offer(session, queued(sequence), 0)
    abandon(session, 1)
    session.detach()
    expect(server.told).toEqual(['loosened 2 3'])
    release(session, 2)
    const sink = new Sink()
    session.attach(sink, 10)
    expect(sink.taken()).toEqual([])
    const [message] = server.restoring
    expect(server.restoring).toHaveLength(1)
    message!.restore(new Topic('$queue/q'), Buffer.alloc(0), Buffer.from('m3'))
    session.restored()
    expect(sink.taken()).toEqual(['m3 1 3 dup @0'])
    expect(message!.evicted).toBe(true)
    expect(session.puback(2, false, puback(2))).toBe('unknown')
  })

  it('does not make a Session without consumers look at its flight', () => {
    const { session, server } = consuming()
    session.consumers = null
    session.detach()
    session.attach(new Sink(), 10)
    expect(server.told).toEqual([])
  })
})

describe('memory', () => {
  it('counts for nothing what is in flight from a queue, and the store gets no bodies of it', () => {
    const { session, server } = consuming(true)
    offer(session, queued(1), 0)
    expect(server.store.held.bytes).toBe(0)
    expect([...session.held()]).toEqual([])
    abandon(session, 1)
    expect([...session.inFlight()]).toEqual([])
    session.detach()
    expect(session.park(10)).toBe(0)
  })
})
