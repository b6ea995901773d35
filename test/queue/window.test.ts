/**
 * The window: a simulation of consumers with work and lines of all kinds (section "States of a consumer").
 */
import { describe, expect, test } from 'vitest'
import { Window } from '../../src/queue/state/window.ts'
import { Random } from '../fuzz/random.ts'

interface Outcome {
  /** Rate as a share of the possible one. */
  readonly share: number
  /** The most work that it held at once after the beginning, in ms. */
  readonly heldMs: number
  readonly window: number
}

/** A consumer that works `workMs` on each message, one after the other, `roundTripMs` away. */
function simulate(roundTripMs: number, workMs: number, spread = 0.5, seed = 1): Outcome {
  const random = new Random(seed)
  const window = new Window('auto')
  const half = roundTripMs / 2
  const lasting = Math.max(60_000, 200 * workMs)
  // Acknowledgements on their way: when they arrive, and when their message was sent.
  const acknowledgements: { at: number; sentAt: number }[] = []
  let [now, freeAt, done, heldMs] = [0, 0, 0, 0]
  const send = (): void => {
    while (acknowledgements.length < window.size) {
      const start = Math.max(now + half, freeAt)
      freeAt = start + workMs * (1 + spread * (2 * (random.uint32() / 2 ** 32) - 1))
      acknowledgements.push({ at: freeAt + half, sentAt: now })
    }
  }
  send()
  while (now < lasting && done < 20_000) {
    const { at, sentAt } = acknowledgements.shift()!
    now = at
    done++
    window.acknowledged(now, sentAt)
    send()
    if (done > 20) heldMs = Math.max(heldMs, acknowledgements.length * workMs)
  }
  const possible = Math.min(1 / Math.max(workMs, 1e-9), 100 / Math.max(roundTripMs, 1e-9))
  return { share: done / now / possible, heldMs, window: window.size }
}

describe('the window learns', () => {
  const roundTrips = [0.2, 1, 10, 50, 150]
  const works = [0.05, 1, 5, 20, 50, 100, 300, 1000, 3000, 5000]
  const cases = roundTrips.flatMap((roundTrip) => works.map((work) => [roundTrip, work] as const))

  test.each(cases)('a line of %d ms and work of %d ms: the consumer is busy', (roundTrip, work) => {
    const { share } = simulate(roundTrip, work)
    // 150 ms away, jobs of a second are sent one by one at times.
    expect(share).toBeGreaterThan(roundTrip === 150 && work >= 300 ? 0.8 : 0.88)
  })

  test.each(works.filter((work) => work >= 20))('work of %d ms: it holds about 0.3 s of it', (work) => {
    const { heldMs } = simulate(0.2, work)
    expect(heldMs).toBeLessThanOrEqual(Math.max(600, 2 * work))
  })

  test('a job of seconds is held alone, and quick answers get a hundred', () => {
    expect(simulate(0.2, 3000).window).toBe(1)
    expect(simulate(0.2, 0.05).window).toBe(100)
  })

  test('it at most doubles with each acknowledgement', () => {
    const window = new Window('auto')
    const sizes = [window.size]
    for (let count = 0; count < 8; count++) {
      window.acknowledged(10, 10)
      sizes.push(window.size)
    }
    expect(sizes).toEqual([1, 2, 4, 8, 16, 32, 64, 100, 100])
  })

  test('a number that was asked for stays', () => {
    const window = new Window(7)
    window.acknowledged(10_000, 0)
    expect(window.size).toBe(7)
    window.ask('auto')
    for (let count = 1; count < 10; count++) window.acknowledged(10_000 + 5000 * count, 0)
    expect(window.size).toBe(1)
  })
})
