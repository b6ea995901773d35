import { beforeEach, describe, expect, it } from 'vitest'
import { QueueLedger } from '../../scripts/crash/queue-ledger.mjs'

const KEY = 'sender2 0'

let ledger: QueueLedger
beforeEach(() => {
  ledger = new QueueLedger()
  ledger.sent(KEY, true)
  ledger.acknowledge(KEY)
})

function lost(): number | undefined {
  ledger.audit()
  return ledger.counts.lost
}

describe('an acknowledged message of a queue is lost', () => {
  it('if it was never handed out', () => {
    expect(lost()).toBe(1)
    expect(ledger.details).toEqual([`${KEY} was acknowledged to its producer, and never handed out`])
  })

  it('unless it was answered, and the broker may have read that', () => {
    ledger.handed(KEY, 'box', false)
    ledger.answered(KEY, ledger.broker)
    expect(lost()).toBe(0)
    expect(ledger.unsure).toBe(1)
  })

  it('if the broker had ended when it was answered', () => {
    const { broker } = ledger
    ledger.handed(KEY, 'box', false)
    ledger.broker++
    ledger.answered(KEY, broker)
    expect(lost()).toBe(1)
  })

  it('if it came again after the answer, and nobody answered that', () => {
    ledger.handed(KEY, 'box', false)
    ledger.answered(KEY, ledger.broker)
    ledger.handed(KEY, 'box', false)
    expect(ledger.missing()).toBe(1)
    expect(lost()).toBe(1)
  })

  it('if it was sent again after PUBREC, and nobody answered that', () => {
    ledger.handed(KEY, 'box', false)
    ledger.answered(KEY, ledger.broker)
    ledger.unanswered(KEY)
    expect(lost()).toBe(1)
  })
})

describe('a message of which there may be two copies', () => {
  it('is finished with one answer', () => {
    const key = 'sender1 0'
    for (let sends = 0; sends < 2; sends++) ledger.sent(key, false)
    ledger.acknowledge(key)
    ledger.handed(key, 'box', false)
    ledger.answered(key, ledger.broker)
    ledger.handed(key, 'box', false)
    expect(ledger.missing()).toBe(1)
    ledger.answered(KEY, ledger.broker)
    expect(ledger.missing()).toBe(0)
  })
})

describe('a message is doubled', () => {
  it('if it comes again after its acknowledgement was committed', () => {
    ledger.handed(KEY, 'box', false)
    ledger.answered(KEY, ledger.broker)
    ledger.settled(KEY, 'box')
    expect(ledger.counts.doubled).toBe(0)
    ledger.handed(KEY, 'box', false)
    expect(ledger.counts.doubled).toBe(1)
  })
})
