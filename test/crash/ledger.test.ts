import { beforeEach, describe, expect, it, vi } from 'vitest'
import { Ledger, payloadOf, type Receiver, type Stream } from '../../scripts/crash/ledger.mjs'

let now = 0
beforeEach(() => {
  now = 0
  vi.spyOn(performance, 'now').mockImplementation(() => now)
  return () => vi.restoreAllMocks()
})

/** A publisher of QoS 1 on one topic, and a subscriber that was there before it. */
class Trial {
  readonly ledger = new Ledger()
  readonly stream: Stream
  readonly receiver: Receiver

  constructor(expirySeconds?: number) {
    this.stream = this.ledger.stream('x1', 'x/0', 1, false, expirySeconds)
    this.receiver = this.ledger.receiver('late2', true)
    this.ledger.subscribed(this.ledger.subscribing(this.receiver, 'x/+', 2))
  }

  /** Sends so many new messages, 20 ms apart. */
  send(count: number): void {
    for (let index = 0; index < count; index++) {
      this.ledger.sent(this.stream)
      now += 20
    }
  }

  repeat(...sequences: number[]): void {
    for (const sequence of sequences) this.ledger.repeated(this.stream, sequence)
  }

  arrive(...sequences: number[]): void {
    for (const sequence of sequences) {
      const packet = { topic: 'x/0', payload: payloadOf('x1', sequence), qos: 1, dup: false, retain: false }
      this.ledger.arrived(this.receiver, packet, 'late2 2')
    }
  }

  get misordered(): number {
    return this.ledger.counts.misordered!
  }
}

describe('a message that arrives behind a later one is misordered', () => {
  it('if it was sent once, even if messages expire', () => {
    const trial = new Trial(1)
    trial.send(3)
    trial.repeat(2)
    now = 1030
    trial.arrive(2, 0)
    expect(trial.misordered).toBe(1)
  })

  it('if its first copy cannot have expired', () => {
    for (const expirySeconds of [3600, undefined]) {
      const trial = new Trial(expirySeconds)
      trial.send(3)
      trial.repeat(0, 1, 2)
      now += 1030
      trial.arrive(2, 0)
      expect(trial.misordered).toBe(1)
    }
  })

  it('but not if its first copy may have expired in the queue, and the second one arrived later', () => {
    const trial = new Trial(1)
    trial.send(3)
    now = 500
    trial.repeat(0, 1, 2)
    now = 1030
    trial.arrive(2, 0, 1, 2)
    expect(trial.ledger.details).toEqual([])
  })

  it('if its last copy was sent before the first of the later one, whatever expired', () => {
    const trial = new Trial(1)
    trial.send(1)
    trial.repeat(0)
    trial.send(1)
    now = 1010
    trial.arrive(1, 0)
    expect(trial.misordered).toBe(1)
  })

  it('and the report tells what became of both', () => {
    const trial = new Trial(1)
    trial.send(3)
    trial.ledger.published(trial.stream, 2)
    now = 300
    trial.repeat(0)
    now = 500
    trial.arrive(2, 0)
    expect(trial.ledger.details).toEqual([
      "misordered: late2 got x1's 0 on x/0 after 2; QoS 1, expires after 1 s\n" +
        '0: sent 500 ms ago, the last of 2 times 200 ms ago, not acknowledged, ' +
        'came 0 ms ago at QoS 1, connection late2 2\n' +
        '2: sent 460 ms ago, acknowledged 440 ms ago, came 0 ms ago at QoS 1, connection late2 2',
    ])
  })
})

describe('a message is overdue', () => {
  it('if it arrives more than 4 s after its expiry, counted from its acknowledgement', () => {
    for (const [arrivesAt, overdue] of [
      [8000 + 1000 + 4000, 0],
      [8000 + 1000 + 4001, 1],
    ] as const) {
      now = 0
      const trial = new Trial(1)
      trial.send(1)
      now = 8000
      trial.ledger.published(trial.stream, 0)
      now = arrivesAt
      trial.arrive(0)
      expect(trial.ledger.counts.overdue).toBe(overdue)
    }
  })

  it('but not if it was never acknowledged: a busy broker may have just read it', () => {
    const trial = new Trial(1)
    trial.send(1)
    now = 20_000
    trial.arrive(0)
    expect(trial.ledger.counts.overdue).toBe(0)
  })
})
