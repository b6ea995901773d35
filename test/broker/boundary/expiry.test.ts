import { describe, expect, it } from 'vitest'
import { expiryTime, secondsLeft } from '../../../src/broker/boundary/expiry.ts'
import { lasting, World } from '../harness.ts'

/** Times with fractions that have no exact binary form, as real clocks have them. */
const CLOCKS = [0.1, 1839.523, 32_694.766, 77_777.7, 1_234_567.899_999, 86_400_000.3]

describe('Message Expiry Interval', () => {
  it('[MQTT-3.3.2-6] is the received one less the whole seconds that passed, at any time [field-B9]', () => {
    for (const clock of CLOCKS) {
      for (const seconds of [0, 1, 2, 59, 100, 3600, 86_400, 4_294_967_295]) {
        const expiresAt = expiryTime(clock, seconds)
        expect(secondsLeft(expiresAt, clock), `${seconds} s at ${clock}`).toBe(seconds)
        for (let waited = 0; waited <= Math.min(seconds, 200); waited += 0.25) {
          const left = secondsLeft(expiresAt, clock + waited * 1000)
          expect(left).toBeLessThanOrEqual(seconds)
          // A clock at x.9999 ms shows a whole millisecond more a moment later.
          expect(Math.abs(left - (seconds - Math.floor(waited)))).toBeLessThanOrEqual(
            Number.isInteger(waited) || waited === seconds ? 1 : 0,
          )
        }
      }
    }
  })

  it('is never 0 for a message that has not expired, and never negative for one that has [field-B9]', () => {
    for (const clock of CLOCKS) {
      const expiresAt = expiryTime(clock, 10)
      for (const before of [0.001, 0.5, 1, 999, 1000]) {
        expect(secondsLeft(expiresAt, expiresAt - before)).toBe(1)
      }
      for (const after of [0, 0.001, 5000]) expect(secondsLeft(expiresAt, expiresAt + after)).toBe(0)
    }
    // From a store of format 1, with fractions in its times.
    expect(secondsLeft(1000.7, 1000.2)).toBe(1)
    expect(secondsLeft(1000.1 + 100_000, 1000.1)).toBe(100)
    expect(secondsLeft(Number.POSITIVE_INFINITY, 5)).toBe(-1)
    expect(expiryTime(5.5, undefined)).toBe(Number.POSITIVE_INFINITY)
  })

  it.each(CLOCKS)('is unchanged if the message did not wait, at %d [field-B9]', async (clock) => {
    const world = await World.make()
    world.monotonic += clock
    const sub = await world.connect('sub')
    await sub.subscribe('#', 1)
    const pub = await world.connect('pub')
    for (const messageExpiryInterval of [1, 2, 99, 100, 100_000]) {
      await pub.publish('t', 'x', 1, { retain: true, properties: { messageExpiryInterval } })
      expect(sub.got()).toMatchObject([{ properties: { messageExpiryInterval } }])
      expect(world.server.inventory.retainedMessage('t')).toMatchObject({
        expiresInSeconds: messageExpiryInterval,
      })
    }
    const late = await world.connect('late')
    await late.subscribe('#', 1)
    expect(late.got()).toMatchObject([{ retain: true, properties: { messageExpiryInterval: 100_000 } }])
  })

  it.each(CLOCKS)('of a Will is unchanged, at %d [field-B9]', async (clock) => {
    const world = await World.make()
    world.monotonic += clock
    const sub = await world.connect('sub')
    await sub.subscribe('#', 1)
    const properties = { messageExpiryInterval: 100 }
    const will = { topic: 'w', payload: Buffer.from('x'), qos: 1 as const, retain: false, properties }
    const lost = await world.connect('lost', { will })
    await lost.vanish()
    expect(sub.got()).toMatchObject([{ properties: { messageExpiryInterval: 100 } }])
  })

  it.each(CLOCKS)('does not grow by a restart, at %d [field-B9]', async (clock) => {
    const world = await World.make()
    world.monotonic += clock
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('#', 1)
    await sub.vanish()
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 1, { properties: { messageExpiryInterval: 100 } })
    await world.pass(2.5)
    const back = await world.connect('sub', lasting())
    expect(back.got()).toMatchObject([{ properties: { messageExpiryInterval: 98 } }])
  })

  it('[MQTT-3.3.2-5] passed for the first copy only: the second one follows later messages', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('#', 1)
    await sub.vanish()
    const sendAll = async (dup: boolean): Promise<void> => {
      const pub = await world.connect('pub', lasting())
      const properties = { messageExpiryInterval: 1 }
      for (const text of ['a', 'b', 'c']) {
        await pub.publish('t', text, 1, { dup, properties })
        world.monotonic += 20
      }
      // The client did not see the acknowledgements.
      await pub.vanish()
    }
    await sendAll(false)
    world.monotonic += 440
    await sendAll(true)
    // 10 ms after the first copy of 'a' has expired.
    world.monotonic += 450
    expect((await world.connect('sub', lasting())).texts()).toEqual(['b', 'c', 'a', 'b', 'c'])
  })
})
