import { expect, it } from 'vitest'
import { Incomplete, type Sender } from '../../../src/broker/accounts/incomplete.ts'
import { limitsWith } from '../../../src/broker/boundary/limits.ts'

const LIMITS = limitsWith({ memoryBytesMax: 20_000_000, memoryStrangersPercent: 5 })

class Stranger implements Sender {
  readonly view = { clientId: '' }
  readonly isStranger = true
  readonly addressName = '192.0.2.1'
  incompleteBytes = 0
  isCut = false
  readonly #incomplete: Incomplete

  constructor(incomplete: Incomplete) {
    this.#incomplete = incomplete
  }

  sends(bytes: number): void {
    this.incompleteBytes += bytes
    this.#incomplete.changed(true, bytes)
    this.#incomplete.bound(LIMITS)
  }

  cut(): void {
    this.isCut = true
    this.#incomplete.changed(true, -this.incompleteBytes)
    this.incompleteBytes = 0
  }
}

it('small strangers are not searched again with each byte, and a large one is found in time', () => {
  const strangers: Stranger[] = []
  let searches = 0
  const senders = {
    [Symbol.iterator]: () => {
      searches++
      return strangers[Symbol.iterator]()
    },
  }
  const incomplete = new Incomplete(senders, () => {})
  for (let count = 0; count < 1200; count++) strangers.push(new Stranger(incomplete))
  for (const stranger of strangers) stranger.sends(800)
  for (let round = 0; round < 200; round++) for (const stranger of strangers) stranger.sends(1)
  expect(incomplete.strangersBytes).toBe(1_200_000)
  expect(searches).toBeGreaterThan(0)
  expect(searches).toBeLessThanOrEqual(14)
  const large = new Stranger(incomplete)
  strangers.push(large)
  for (let sent = 0; sent < 40 && !large.isCut; sent++) large.sends(1000)
  expect(large.isCut).toBe(true)
  expect(strangers.filter(({ isCut }) => isCut)).toEqual([large])
})
