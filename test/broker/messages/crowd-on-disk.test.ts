/** A message for very many subscribers, of which parts are on disk before everybody has it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import mqttPacket from 'mqtt-packet'
import { expect, it } from 'vitest'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { connectPacket, lasting, type TestClient, World } from '../harness.ts'

const OPTIONS = { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 2 } as const
const CROWD = 40_000

async function connected(world: World, clientId: string): Promise<TestClient> {
  const client = world.open()
  await client.send({ ...connectPacket(clientId), ...lasting() })
  await answered(world, client)
  return client
}

/** Runs turns until the client was answered: commits are real. */
async function answered(world: World, client: TestClient): Promise<void> {
  while (client.got().length === 0) {
    await world.turn()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

it('stays in memory until everybody has it, also where bodies on disk are let go of at once', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-crowd-'))
  const store = new LevelStore({ directory, sync: false, residentBytesMax: 0, reserveBytes: 0 })
  try {
    const world = await World.make({ store })
    const away = await connected(world, 'away')
    away.link.handler!.received(
      mqttPacket.generate(
        { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'crowd', qos: 1 }] } as never,
        { protocolVersion: 5 },
      ),
    )
    await answered(world, away)
    await away.vanish()
    const got = new Map<string, number>()
    for (let at = 0; at < CROWD; at++) {
      world.server.subscribe('crowd', OPTIONS, ({ message }) => {
        const text = message.payload.toString()
        got.set(text, (got.get(text) ?? 0) + 1)
      })
    }
    const publisher = await connected(world, 'publisher')
    publisher.link.handler!.received(
      mqttPacket.generate({ cmd: 'publish', topic: 'crowd', payload: 'one', qos: 1, messageId: 1 } as never, {
        protocolVersion: 5,
      }),
    )
    const { committedSequence } = store
    while (publisher.link.packets.length === 0) {
      await world.turn()
      const isUnderWay = (got.get('one') ?? 0) < CROWD
      // What the first slice stored is on disk before the next one.
      while (isUnderWay && store.committedSequence === committedSequence) {
        await new Promise((resolve) => setImmediate(resolve))
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect([...got]).toEqual([['one', CROWD]])
    const [message] = world.server.state.sessions.get('away')!.held()
    // From then on it may go, and what waited is not counted any more.
    expect(message).toMatchObject({ holders: 0 })
    expect(store.held.bytes).toBe(0)
    await world.server.stop(Promise.resolve())
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
