import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test, vi } from 'vitest'
import { LateModules } from '../../src/cli/late-modules.ts'
import { createBroker } from '../../src/godwit.ts'
import { cleanUp, temporaryDirectory } from '../e2e/process.ts'

afterEach(async () => {
  vi.useRealTimers()
  await cleanUp()
})

test('one after the other, and one that cannot be loaded is tried again', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  const calls: string[] = []
  let isFull = true
  const first = (): void => {
    calls.push('first')
    if (isFull) throw new Error('EMFILE')
  }
  new LateModules([first, () => calls.push('second')])
  expect(calls).toEqual([])
  vi.advanceTimersToNextTimer()
  expect(calls).toEqual(['first'])
  vi.advanceTimersToNextTimer()
  vi.advanceTimersToNextTimer()
  expect(calls).toEqual(['first', 'second', 'first'])
  isFull = false
  vi.advanceTimersToNextTimer()
  expect(calls).toEqual(['first', 'second', 'first', 'first'])
  expect(vi.getTimerCount()).toBe(0)
})

test('one that is stopped loads nothing any more', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  const load = vi.fn()
  new LateModules([load]).stop()
  expect(vi.getTimerCount()).toBe(0)
  expect(load).not.toHaveBeenCalled()
})

test('a broker that has started loads what a packet could need, before one does', async () => {
  const require = createRequire(import.meta.url)
  const names = ['mqtt-packet', 'aedes-persistence-level/asyncPersistence.js']
  const loaded = (): string[] => names.filter((name) => require.resolve(name) in require.cache)
  expect(loaded()).toEqual([])
  const broker = await createBroker({
    dataDirectory: await temporaryDirectory(),
    listeners: [{ type: 'tcp', host: '127.0.0.1', port: 0 }],
  })
  while (loaded().length < names.length) await sleep(20)
  await broker.close()
})
