/**
 * The executable contract of a Store: every implementation passes it, durable ones also the part on
 * reopening.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SESSION_NEVER_EXPIRES } from '../../src/mqtt/packet.ts'
import type { Parked, Store } from '../../src/store/store.ts'
import { act, delivery, ModelServer, message, Random } from './model.ts'

/** Makes a store on a directory that is empty, or was written by an earlier store. */
export type StoreMaker = (directory: string) => Store

export function storeContract(name: string, make: StoreMaker, { durable }: { durable: boolean }): void {
  describe(`${name} keeps the store's contract`, () => {
    let directory: string
    let server: ModelServer

    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'godwit-store-'))
      server = new ModelServer(make(directory))
    })

    afterEach(async () => {
      await server.store.close().catch(() => undefined)
      await rm(directory, { recursive: true, force: true })
    })

    test('an empty store recovers nothing', async () => {
      const recovered = await server.store.open(server)
      expect(recovered).toMatchObject({ brokerTime: 0, wallTime: 0, retained: [], wills: [] })
      expect([...recovered.sessions]).toEqual([])
      expect(server.store.refusal).toBeNull()
      expect(server.store.recordedSequence).toBe(server.store.committedSequence)
      expect(server.store.pendingBytes).toBe(0)
    })

    test('a commit makes all earlier records durable', async () => {
      await server.open()
      server.createSession(1)
      server.enqueue(1, delivery(message('a', 'one')))
      const wanted = server.store.recordedSequence
      await server.commit()
      expect(server.store.committedSequence).toBeGreaterThanOrEqual(wanted)
      expect(server.store.pendingBytes).toBe(0)
    })

    test('an atomic section is in one commit, even if another commit ends meanwhile', async () => {
      await server.open()
      const { store } = server
      server.createSession(1)
      store.commit()
      const before = store.recordedSequence
      store.beginAtomic()
      server.enqueue(1, delivery(message('a', 'one')))
      store.commit()
      await expect.poll(() => store.committedSequence).toBe(before)
      const open = store.openSequence
      store.commit()
      server.enqueue(1, delivery(message('a', 'two')))
      expect(store.openSequence).toBe(open)
      store.endAtomic()
      await server.commit()
      expect(store.committedSequence).toBe(open)
    })

    test('a commit without records does nothing', async () => {
      await server.open()
      server.store.commit()
      expect(server.store.recordedSequence).toBe(server.store.committedSequence)
      expect(server.committedSequences).toEqual([])
    })

    test('figures count a body once, until its last delivery is done', async () => {
      await server.open()
      server.createSession(1)
      server.createSession(2)
      const shared = message('topic', 'payload')
      server.enqueue(1, delivery(shared))
      server.enqueue(2, delivery(shared))
      await server.commit()
      expect(server.store.figures.storedBytes).toBe(shared.size)
      server.send(1)
      server.acknowledge(1, 1)
      await server.commit()
      expect(server.store.figures.storedBytes).toBe(shared.size)
      server.deleteSession(2)
      await server.commit()
      expect(server.store.figures).toMatchObject({ storedBytes: 0, residentBytes: 0 })
    })

    test('evict frees durable bodies that nobody else holds, and they can be read back', async () => {
      await server.open()
      server.createSession(1)
      const [free, held] = [message('free', 'x'.repeat(1000)), message('held', 'y'.repeat(1000))]
      server.enqueue(1, delivery(free))
      server.enqueue(1, delivery(held))
      expect(server.store.evict(10_000)).toBe(0)
      await server.commit()
      held.holders++
      const before = server.store.figures.residentBytes
      const freed = server.store.evict(10_000)
      expect(server.store.figures.residentBytes).toBe(before - freed)
      expect(held.evicted).toBe(false)
      expect(free.evicted).toBe(server.store.canPark)
      if (free.evicted) await server.store.restore([free])
      expect(free.payload.length).toBe(1000)
    })

    test('entries are counted as reported, and memory is short above the limit', async () => {
      await server.open()
      const { entryBytes } = server.store.figures
      server.store.countEntries(1000)
      expect(server.store.figures.entryBytes).toBe(entryBytes + 1000)
      server.store.countEntries(1e12)
      expect(server.store.isMemoryShort).toBe(durable)
      server.store.countEntries(-1e12 - 1000)
      expect(server.store.figures.entryBytes).toBe(entryBytes)
    })

    test('a message may be stored again after its last delivery was done', async () => {
      await server.open()
      server.createSession(1)
      const again = message('topic', 'payload')
      for (let round = 0; round < 3; round++) {
        server.enqueue(1, delivery(again))
        await server.commit()
        await server.store.restore([again])
        expect(again.payload.toString()).toBe('payload')
        server.send(1)
        server.acknowledge(1, server.session(1).lastPacketId)
        await server.commit()
      }
      expect(server.store.figures.storedBytes).toBe(0)
    })

    test('restored messages equal the stored ones', async () => {
      await server.open()
      server.createSession(1)
      for (let index = 0; index < 500; index++) {
        const details = {
          qos: 2,
          publisher: `p${index}`,
          properties: Buffer.from([38, index & 255]),
        } as const
        server.enqueue(1, delivery(message(`topic/${index}`, `payload ${index}`, details)))
        if (index % 50 === 0) await server.commit()
      }
      await server.commit()
      await server.restoreAll()
      for (const [index, { message: stored }] of server.session(1).queue.entries()) {
        expect(stored.topic.name).toBe(`topic/${index}`)
        expect(stored.payload.toString()).toBe(`payload ${index}`)
        expect(stored.properties).toEqual(Buffer.from([38, index & 255]))
      }
    })

    if (durable) durableContract()

    function durableContract(): void {
      const reopen = async (): Promise<void> => {
        await server.store.close()
        const next = new ModelServer(make(directory))
        next.brokerTime = server.brokerTime
        server = next
        await server.open()
        await server.restoreAll()
      }

      test('everything survives closing', async () => {
        await server.open()
        const random = new Random(1)
        for (let step = 0; step < 2000; step++) act(server, random, step)
        const before = server.describe()
        await reopen()
        expect(server.describe()).toBe(before)
      })

      test('broker time and wall time of the last commit come back', async () => {
        await server.open()
        server.brokerTime = 12_345
        server.wallTime = 1_800_000_000_123
        server.boot = { bootId: 'a0'.repeat(16), sinceBoot: 77.5 }
        server.createSession(1)
        await server.commit()
        await server.store.close()
        const next = new ModelServer(make(directory))
        server = next
        const recovered = await next.store.open(next)
        expect(recovered.brokerTime).toBe(12_345)
        expect(recovered.wallTime).toBe(1_800_000_000_123)
        expect(recovered.bootTime).toEqual({ bootId: 'a0'.repeat(16), sinceBoot: 77.5 })
        server.boot = null
        server.createSession(2)
        await server.commit()
        await server.store.close()
        server = new ModelServer(make(directory))
        expect((await server.store.open(server)).bootTime).toBeNull()
      })

      test('parked entries are checkpointed, recovered, and released with their Session', async () => {
        await server.open()
        server.createSession(1)
        server.createSession(2)
        const shares = ['$share/a/t', '$share/b/t']
        for (let index = 0; index < 300; index++) {
          const one = message('t', `${index}`)
          for (const id of [1, 2]) server.enqueue(id, { ...delivery(one), share: shares[index % 2]! })
        }
        for (let index = 0; index < 50; index++) server.send(1)
        server.acknowledge(1, 7)
        await server.commit()
        const { store } = server
        const flight = server.session(1).sent
        const parked: Parked[] = []
        for (const sent of flight.values()) {
          const onto = parked.at(-1) ?? null
          const into = store.park(sent!, onto)!
          if (into !== onto) parked.push(into)
        }
        expect(parked.reduce((sum, { length }) => sum + length, 0)).toBe(49)
        await server.commit()
        const sent = parked.flatMap((entries) => store.unpark(entries, entries.length))
        for (const [index, packetId] of [...flight.keys()].entries()) flight.set(packetId, sent[index]!)
        for (const id of [1, 2]) server.session(id).deliveries.park(10_000)
        expect(server.session(2).deliveries.parked).toBe(300)
        await server.restoreAll()
        const before = server.describe()
        await reopen()
        expect(server.describe()).toBe(before)
        expect(server.session(1).queue.map(({ share }) => share)).toEqual(
          Array.from({ length: 250 }, (_, index) => shares[index % 2]),
        )
        server.deleteSession(1)
        server.deleteSession(2)
        await server.commit()
        await server.commit()
        expect(server.store.figures).toMatchObject({ storedBytes: 0, residentBytes: 0 })
      })

      test('using a Session number again does not bring the old Session back', async () => {
        await server.open()
        server.createSession(1)
        server.enqueue(1, delivery(message('a', 'old')))
        server.addInbound(1, 7)
        server.subscribe(1, 'a', {
          qos: 1,
          noLocal: false,
          retainAsPublished: false,
          retainHandling: 0,
          identifier: 0,
        })
        server.deleteSession(1)
        server.createSession(1, 'another')
        server.enqueue(1, delivery(message('a', 'new')))
        await server.commit()
        await reopen()
        expect(server.session(1).record.clientId).toBe('another')
        expect(server.session(1).subscriptions.size).toBe(0)
        expect([...server.session(1).inbound()]).toEqual([])
        expect(server.session(1).queue.map((entry) => entry.message.payload.toString())).toEqual(['new'])
      })

      test('the latest retained message and Will of a turn win', async () => {
        await server.open()
        const will = {
          topic: 'w',
          qos: 1,
          retain: false,
          properties: Buffer.alloc(0),
          expirySeconds: undefined,
        } as const
        for (let round = 0; round < 50; round++) {
          server.retain(message('a', `a${round}`, { retain: true, expiresAt: round }))
          server.retain(message('b', `b${round}`, { retain: true }))
          server.setWill('c', {
            will: { ...will, payload: Buffer.from(`w${round}`), delaySeconds: round },
            owner: null,
            dueAt: 0,
          })
        }
        server.clearRetained('b')
        await server.commit()
        const before = server.describe()
        await reopen()
        expect(server.describe()).toBe(before)
        expect(server.retained.get('a')?.expiresAt).toBe(49)
      })

      test('a Session record keeps owner, expiry and disconnection', async () => {
        await server.open()
        server.createSession(3, 'client', 'owner', 'id of owner')
        server.createSession(4, 'anonymous')
        await server.commit()
        server.disconnect(3)
        await server.commit()
        await reopen()
        expect(server.session(3).record).toEqual({
          clientId: 'client',
          owner: 'owner',
          ownerId: 'id of owner',
          expirySeconds: 3600,
          disconnectedAt: 1000,
        })
        expect(server.session(4).record).toEqual({
          clientId: 'anonymous',
          owner: null,
          ownerId: null,
          expirySeconds: SESSION_NEVER_EXPIRES,
          disconnectedAt: 0,
        })
      })

      test.each(seeds())('random operations with reopening at random commits, seed %i', async (seed) => {
        const random = new Random(seed)
        await server.open()
        for (let step = 0; step < 6000; step++) {
          act(server, random, step)
          if (random.chance(0.03)) server.store.commit()
          if (random.chance(0.01)) await server.commit()
          if (random.chance(0.003)) await server.restoreAll()
          if (random.chance(0.001)) {
            const before = server.describe()
            await reopen()
            expect(server.describe(), `seed ${seed}, step ${step}`).toBe(before)
          }
        }
        const before = server.describe()
        await reopen()
        expect(server.describe(), `seed ${seed}, end`).toBe(before)
      })
    }
  })
}

/** Three fixed seeds and a new one. The title of each test names its seed. */
function seeds(): number[] {
  return [1, 2, 3, Math.floor(Math.random() * 0x7fffffff)]
}
