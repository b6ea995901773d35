/**
 * The machine against the naive model: a short run on fixed seeds. `npm run fuzz -- --only queue` goes on.
 */
import { expect, test } from 'vitest'
import { Campaign } from '../fuzz/engine.ts'
import { QueueTarget } from '../fuzz/queue.ts'

test.each([1, 2, 3, 4])('seed %d: 5,000 steps', async (seed) => {
  const target = new QueueTarget()
  const campaign = new Campaign(target, seed)
  while (Number.parseInt(target.summary, 10) < 5000) {
    const find = await campaign.run(20)
    expect(find, find?.wrong + JSON.stringify(find?.input)).toBeNull()
  }
})
