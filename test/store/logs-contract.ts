/** The executable contract of a LogStore: every store passes it, durable ones also the part on reopening. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { StoreMaker } from './contract.ts'
import { actOnLogs, entry, LogModel, textOf } from './log-model.ts'
import { Random } from './model.ts'

export function logsContract(name: string, make: StoreMaker, { durable }: { durable: boolean }): void {
  describe(`${name} keeps the contract of logs`, () => {
    let directory: string
    let model: LogModel

    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'godwit-logs-'))
      model = new LogModel(make(directory))
      await model.open()
      model.createSession()
    })

    afterEach(async () => {
      await model.store.close().catch(() => undefined)
      await rm(directory, { recursive: true, force: true })
    })

    test('sequences count from 1, and an entry is read back as it was', async () => {
      const queue = model.declare('jobs')
      const log = queue.record.logs[0]!
      const messages = [entry('one'), entry('', { topic: '' }), entry('three', { qos: 2, expiresAt: 5000 })]
      expect(messages.map((message) => model.append(queue, 0, message))).toEqual([1, 2, 3])
      await model.commit()
      const segment = (await model.store.logs.load(log, 1))!
      expect([1, 2, 3].map((sequence) => textOf(segment.message(sequence)))).toEqual(messages.map(textOf))
      expect([1, 2, 3].map((sequence) => segment.sizeAt(sequence))).toEqual(messages.map(({ size }) => size))
      expect(segment.expiresAt(3)).toBe(5000)
      expect(segment.has(4)).toBe(false)
    })

    test('the segment that grows has new entries at once', async () => {
      const queue = model.declare('jobs')
      const log = queue.record.logs[0]!
      model.append(queue, 0, entry('one'))
      const cursor = model.store.logs.segment(log, 1)!.from(1)
      expect(cursor.next()).toBe(true)
      expect(cursor.next()).toBe(false)
      model.append(queue, 0, entry('x'.repeat(5000)))
      expect(cursor.next()).toBe(true)
      expect(cursor.sequence).toBe(2)
      expect(cursor.message().payload.length).toBe(5000)
    })

    test('an entry has the times of its append', async () => {
      const queue = model.declare('jobs')
      model.append(queue, 0, entry('one'))
      model.brokerTime += 300
      model.wallTime += 300
      model.append(queue, 0, entry('two'))
      await model.commit()
      const cursor = (await model.store.logs.load(queue.record.logs[0]!, 2))!.from(2)
      cursor.next()
      expect(cursor.appendedAt).toBe(model.brokerTime)
      expect(cursor.appendedWall).toBe(model.wallTime)
    })

    test('figures count what is not settled', async () => {
      const queue = model.declare('jobs')
      const figures = model.store.logs.log(queue.record.logs[0]!)
      const sizes = ['a', 'bb', 'ccc', 'dddd'].map((text) => {
        const message = entry(text)
        model.append(queue, 0, message)
        return message.size
      })
      expect(figures).toMatchObject({ messages: 4, next: 5, first: 1 })
      model.settle(queue, 0, 2, 4)
      await model.commit()
      expect(figures).toMatchObject({ messages: 2, bytes: sizes[0]! + sizes[3]!, next: 5 })
      model.settle(queue, 0, 1, 5)
      await model.commit()
      expect(figures).toMatchObject({ messages: 0, bytes: 0, first: 5, next: 5, segments: 0 })
      expect(await model.store.logs.load(queue.record.logs[0]!, 1)).toBeNull()
    })

    test('a long log is read in order, with holes where segments are settled', async () => {
      const queue = model.declare('jobs')
      const log = queue.record.logs[0]!
      for (let count = 0; count < 6000; count++) {
        model.append(queue, 0, entry(`message ${count}`))
        if (count % 500 === 0) await model.commit()
      }
      model.settle(queue, 0, 1500, 4500)
      await model.commit()
      const found: number[] = []
      for (let from = 1; ; ) {
        const segment = await model.store.logs.load(log, from)
        if (segment === null) break
        const cursor = segment.from(from)
        while (cursor.next()) if (queue.live[0]!.has(cursor.sequence)) found.push(cursor.sequence)
        from = segment.end
      }
      expect(found).toEqual([...queue.live[0]!.keys()])
      expect(model.store.logs.log(log)).toMatchObject({ messages: 3000, first: 1, next: 6001 })
    })

    test('an entry that is settled twice, or never was, is a fault', async () => {
      const queue = model.declare('jobs')
      const { logs } = model.store
      model.append(queue, 0, entry('one'))
      logs.settled(queue.group, 0, 1, 2, 1)
      expect(() => logs.settled(queue.group, 0, 1, 2, 1)).toThrow('settled twice')
      expect(() => logs.settled(queue.group, 0, 7, 8, 1)).toThrow()
    })

    test('expiring names the entries that may have expired', async () => {
      const queue = model.declare('jobs')
      const log = queue.record.logs[0]!
      for (let count = 0; count < 3000; count++)
        model.append(queue, 0, entry('x', { expiresAt: count === 2500 ? 9000 : Number.POSITIVE_INFINITY }))
      await model.commit()
      const { logs } = model.store
      expect(logs.log(log).earliestExpiry).toBe(9000)
      expect(logs.expiring(log, 1, 8999)).toBe(-1)
      const from = logs.expiring(log, 1, 9000)
      const segment = (await logs.load(log, from))!
      expect(segment.has(2501)).toBe(true)
      expect(logs.expiring(log, segment.end, 9000)).toBe(-1)
      logs.expiresFrom(log, from, 20_000)
      expect(logs.expiring(log, 1, 9000)).toBe(-1)
      expect(logs.log(log).earliestExpiry).toBe(20_000)
    })

    test('a deleted definition is gone with its logs, and its numbers do not come back', async () => {
      const queue = model.declare('jobs')
      for (let count = 0; count < 2000; count++) model.append(queue, 0, entry('x'))
      await model.commit()
      model.delete('jobs')
      await model.commit()
      expect(() => model.store.logs.log(queue.record.logs[0]!)).toThrow('no definition has')
      const again = model.declare('jobs')
      expect(again.number).toBeGreaterThan(queue.number)
      expect(model.append(again, 0, entry('new'))).toBe(1)
      await model.commit()
    })

    test('whatever happens, the logs have what is not settled', async () => {
      const random = new Random(7)
      for (let step = 0; step < 800; step++) {
        actOnLogs(model, random)
        if (random.below(10) === 0) await model.commit()
      }
      await model.commit()
      for (const queue of model.queues.values()) {
        for (const [lane, live] of queue.live.entries()) {
          const log = queue.record.logs[lane]!
          const bytes = [...live.values()].reduce((sum, { size }) => sum + size, 0)
          expect(model.store.logs.log(log)).toMatchObject({
            messages: live.size,
            bytes,
            next: queue.nexts[lane],
          })
          for (const [sequence, { text }] of live) {
            const segment = (await model.store.logs.load(log, sequence))!
            expect(textOf(segment.message(sequence))).toBe(text)
          }
        }
      }
    })

    if (durable) reopened()

    function reopened(): void {
      const reopen = async (): Promise<void> => {
        const before = model.describe()
        await model.store.close()
        model = new LogModel(make(directory))
        await model.open()
        expect(model.describe()).toBe(before)
      }

      test('everything is there again after closing', async () => {
        const queue = model.declare('jobs', 2)
        for (let count = 0; count < 2500; count++) model.append(queue, count % 2, entry(`message ${count}`))
        model.settle(queue, 0, 1, 1100)
        model.settle(queue, 1, 200, 300)
        model.return(queue, { lane: 1, sequence: 1, failures: 2, attempts: 3, due: 77 })
        model.hold(queue, {
          lane: 1,
          sequence: 3,
          attempt: 1,
          until: 99,
          token: 'abcdefgh',
          leaseSeconds: 90,
          clientId: 'w',
        })
        model.rememberId(queue, 'u1')
        model.send(queue, 1, 1, 4)
        await model.commit()
        await reopen()
        await reopen()
      })

      test.each([
        ['in the middle', 2, 3],
        ['at the end', 3, 5],
      ])(
        'entries keep their sequences when others are settled %s, before and after',
        async (_, first, next) => {
          model.declare('jobs')
          const queue = () => [...model.queues.values()][0]!
          const log = queue().record.logs[0]!
          const add = async (text: string): Promise<void> => {
            model.append(queue(), 0, entry(text))
            await model.commit()
          }
          const settle = async (from: number, to: number): Promise<void> => {
            model.settle(queue(), 0, from, to)
            await model.commit()
          }
          const expectTexts = async (): Promise<void> => {
            for (const [sequence, { text }] of queue().live[0]!) {
              const segment = (await model.store.logs.load(log, sequence))!
              expect(textOf(segment.message(sequence))).toBe(text)
            }
          }
          for (const text of ['one', 'two', 'three', 'four']) await add(text)
          await settle(first, next)
          // What was settled is on disk no more.
          await reopen()
          await add('five')
          await expectTexts()
          await settle(1, 2)
          await expectTexts()
          await reopen()
          await settle(2, 3)
          await add('six')
          await expectTexts()
          await reopen()
          await expectTexts()
        },
      )

      test.each([1, 2, 3])('random states are there again after closing, seed %i', async (seed) => {
        const random = new Random(seed)
        for (let round = 0; round < 8; round++) {
          for (let step = 0; step < 150; step++) {
            actOnLogs(model, random)
            if (random.below(10) === 0) await model.commit()
          }
          await reopen()
        }
      })
    }
  })
}
