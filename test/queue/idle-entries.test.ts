/** The oldest entry that nobody holds, against a search through all of them. */
import { expect, it } from 'vitest'
import { Entry, isIdle, State } from '../../src/queue/state/consumer.ts'
import { IdleEntries } from '../../src/queue/state/idle-entries.ts'

it('is the one that a search through all finds', () => {
  let seed = 7
  const random = (below: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed % below
  }
  const idle = new IdleEntries()
  const entries = Array.from({ length: 300 }, (_, at) => new Entry(0, at + 1, 1))
  for (const entry of entries) entry.state = State.Sent
  const states = [State.Ready, State.Waiting, State.Deferred, State.Sent, State.Loose, State.Held, State.Gone]
  for (let step = 0; step < 20_000; step++) {
    const entry = entries[random(entries.length)]!
    entry.state = states[random(states.length)]!
    if (isIdle(entry)) idle.add(entry, entries.length)
    if (step % 50 === 0) expect(idle.first).toBe(entries.find(isIdle) ?? null)
  }
})
