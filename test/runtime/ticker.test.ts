import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Ticker } from '../../src/runtime/ticker.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

/** Has something to do at these times, in ms from the start; and once a second. */
function server(...due: number[]) {
  const started = performance.now()
  const clock = () => performance.now() - started
  let lookedAt = 0
  return {
    ticks: [] as number[],
    onEarlierDeadline: () => {},
    get idleMs() {
      return Math.max(0, Math.min(...due, lookedAt + 1000) - clock())
    },
    tick() {
      lookedAt = clock()
      this.ticks.push(lookedAt)
      while (due.length > 0 && Math.min(...due) <= lookedAt) due.splice(due.indexOf(Math.min(...due)), 1)
    },
    add(time: number) {
      due.push(time)
      this.onEarlierDeadline()
    },
  }
}

test('an idle Server is woken once a second and when something is due', () => {
  const idle = server(1500)
  const ticker = new Ticker(idle, 100)
  vi.advanceTimersByTime(3600)
  ticker.stop()
  expect(idle.ticks.map((time) => Math.floor(time / 10) * 10)).toEqual([1000, 1500, 2500, 3500])
})

test('an earlier deadline wakes the Server earlier', () => {
  const woken = server()
  const ticker = new Ticker(woken, 100)
  vi.advanceTimersByTime(200)
  woken.add(400)
  woken.add(700)
  vi.advanceTimersByTime(600)
  ticker.stop()
  expect(woken.ticks.map((time) => Math.floor(time / 10) * 10)).toEqual([400, 700])
})

test('frequent deadlines wake the Server ten times a second', () => {
  const busy = server(...Array.from({ length: 1000 }, (_, index) => index))
  const ticker = new Ticker(busy, 100)
  vi.advanceTimersByTime(1000)
  ticker.stop()
  expect(busy.ticks.length).toBeGreaterThanOrEqual(9)
  expect(busy.ticks.length).toBeLessThanOrEqual(11)
})

test('a stopped Ticker wakes nobody', () => {
  const closed = server(500)
  new Ticker(closed, 100).stop()
  closed.add(10)
  vi.advanceTimersByTime(2000)
  expect(closed.ticks).toEqual([])
  expect(vi.getTimerCount()).toBe(0)
})
