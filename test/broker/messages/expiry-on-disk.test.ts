import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { connectPacket, lasting, type TestClient, textsOf, World } from '../harness.ts'

/** Until it is so: commits are real. */
async function until(world: World, condition: () => boolean): Promise<void> {
  for (;;) {
    await world.settle()
    if (condition()) return
    await new Promise((resolve) => setImmediate(resolve))
  }
}

async function connected(world: World, clientId: string): Promise<TestClient> {
  const client = world.open()
  await client.send({ ...connectPacket(clientId), ...lasting(100_000) })
  await until(world, () => client.link.packets.length > 0)
  client.got()
  return client
}

it('expired messages of a queue on disk are removed, the rest keeps its order [field-B8]', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-expiry-'))
  const store = () => new LevelStore({ directory, sync: false, residentBytesMax: 50_000, reserveBytes: 0 })
  try {
    const first = store()
    const world = await World.make({ store: first })
    const client = await connected(world, 'away')
    void client.subscribe('#', 1)
    await until(world, () => client.link.packets.length > 0)
    await client.vanish()
    const kept: string[] = []
    for (let n = 0; n < 3000; n++) {
      const stays = n % 10 === 0
      if (stays) kept.push(`${n}`)
      void world.server.publish({
        topic: 't',
        payload: Buffer.from(`${n}`.padEnd(500, stays ? '+' : '-')),
        qos: 1,
        retain: false,
        publisher: '',
        ...(!stays && { expiresAt: world.server.state.clock + 10_000 + n }),
      })
      if (n % 100 === 0) await until(world, () => first.committedSequence >= first.recordedSequence)
    }
    await until(world, () => first.committedSequence >= first.recordedSequence)
    const before = first.figures.storedBytes
    await world.pass(15)
    await until(world, () => first.committedSequence >= first.recordedSequence)
    expect(world.server.state.sessions.get('away')).toMatchObject({ queueLength: 300 })
    expect(first.figures.storedBytes).toBeLessThan(before / 5)
    await first.close()

    const second = store()
    const again = await World.make({ store: second })
    expect(again.server.state.sessions.get('away')).toMatchObject({ queueLength: 300 })
    const back = await connected(again, 'away')
    const texts: string[] = []
    while (texts.length < 300) {
      await until(again, () => back.link.packets.length > 0)
      const packets = back.got()
      texts.push(...textsOf(packets).map((text) => text.split('+')[0]!))
      await back
        .send(
          ...packets.flatMap((p) => (p.cmd === 'publish' ? [{ cmd: 'puback', messageId: p.messageId }] : [])),
        )
        .then((more) => back.link.packets.unshift(...more))
    }
    expect(texts).toEqual(kept)
    await second.close()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
