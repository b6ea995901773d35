import { beforeEach, describe, expect, it } from 'vitest'
import { ExpiryJudge } from '../../scripts/crash/expiry-judge.mjs'

const EXPIRY_MS = 1000

let now: number
let judge: ExpiryJudge
beforeEach(() => {
  now = 0
  judge = new ExpiryJudge(EXPIRY_MS, () => now)
  startBroker()
})

function startBroker(): void {
  judge.brokerStarts()
  now += 100
  judge.brokerIsUp()
}

function restartBroker(): void {
  judge.brokerEnded()
  startBroker()
}

/** The kind of problem when a client that left at `leftAt` asks now, and its Session is there or not. */
function verdict(leftAt: number, present: boolean): string | null {
  return judge.judge({ leftAt, askedAt: now, present })?.kind ?? null
}

describe('a Session that is still there is overdue', () => {
  it('2 s after its end, without a restart', () => {
    now = 10_000
    expect(verdict(7001, true)).toBe(null)
    expect(verdict(6999, true)).toBe('overdue')
  })

  it('if the broker had a second to store that its client left, and was restarted then', () => {
    now = 6001
    restartBroker()
    now = 8100
    expect(verdict(5000, true)).toBe('overdue')
  })

  it('if the disk failed only after that second', () => {
    now = 6001
    judge.diskFails()
    now = 6100
    judge.diskIsMended()
    restartBroker()
    now = 8100
    expect(verdict(5000, true)).toBe('overdue')
  })

  it('if it outlived a start after which the broker lived for another second', () => {
    now = 5500
    restartBroker()
    now = 6700
    restartBroker()
    expect(verdict(5000, true)).toBe(null)
    now = 8700
    expect(verdict(5000, true)).toBe('overdue')
  })
})

describe('a Session is not overdue before 2 s after its end, counted from a start', () => {
  it('if the broker was killed within a second after the client left', () => {
    now = 5990
    restartBroker()
    now = 9000
    expect(verdict(5000, true)).toBe(null)
    now = 9100
    expect(verdict(5000, true)).toBe('overdue')
  })

  it('if the disk failed from when the client left until the kill', () => {
    now = 5100
    judge.diskFails()
    now = 8000
    restartBroker()
    now = 8200
    expect(verdict(5000, true)).toBe(null)
  })

  it('if the disk was mended so late that the store was not open again for a second before the kill', () => {
    now = 5100
    judge.diskFails()
    now = 5400
    judge.diskIsMended()
    now = 8390
    restartBroker()
    now = 8600
    expect(verdict(5000, true)).toBe(null)
  })

  it('if the broker ended when the disk failed, however late it was started again', () => {
    now = 5100
    judge.diskFails()
    judge.brokerEnded()
    now = 5400
    judge.diskIsMended()
    now = 9000
    startBroker()
    expect(verdict(5000, true)).toBe(null)
  })

  it('if the disk fails still', () => {
    now = 5100
    judge.diskFails()
    now = 6500
    restartBroker()
    now = 20_000
    expect(verdict(5000, true)).toBe(null)
  })
})

describe('a Session whose end counts from the mending of a full disk', () => {
  it('is overdue 5 s after the mending: the store is open 2 s later, and a Session may be 2 s late', () => {
    now = 5100
    judge.diskFails()
    now = 5400
    judge.diskIsMended()
    now = 10_400
    expect(verdict(5000, true)).toBe(null)
    now = 10_401
    expect(verdict(5000, true)).toBe('overdue')
  })
})

describe('a Session that is gone is lost', () => {
  it('before its end, but for the ticks of a clock', () => {
    now = 10_000
    expect(verdict(9151, false)).toBe('sessionsLost')
    expect(verdict(9150, false)).toBe(null)
  })
})
