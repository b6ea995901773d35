/** A broker that ends while an ended Session is taken apart goes on with the rest after the next start. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { killedCopy } from '../../store/killed-copy.ts'
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

it('after a kill in between, each message is handed over once, and no Subscription is left', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-ended-'))
  const open = (at: string) =>
    new LevelStore({ directory: at, sync: false, residentBytesMax: 64_000_000, reserveBytes: 0 })
  const [live, killed] = [join(directory, 'live'), join(directory, 'killed')]
  try {
    const first = open(live)
    const world = await World.make({ store: first })
    const settled = (): boolean => first.committedSequence >= first.recordedSequence
    const share = '$share/group/s'
    const client = await connected(world, 'first')
    const filters = Array.from({ length: 3000 }, (_, index) => `f/${index}`)
    const subscriptions = [...filters, share].map((topic) => ({
      topic,
      qos: 2,
      nl: false,
      rap: false,
      rh: 0,
    }))
    await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    await until(world, settled)
    await client.vanish()
    const texts = Array.from({ length: 4000 }, (_, index) => `${index}`)
    for (const text of texts) {
      const fields = { topic: 's', payload: Buffer.from(text), qos: 2, retain: false, publisher: '' } as const
      void world.server.publish(fields)
    }
    await until(world, settled)
    const second = await connected(world, 'second')
    await second.vanish()
    const { sessions, sessionsById } = world.server.state
    const member = sessions.get('second')!
    const options = { qos: 2, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    world.server.state.router.subscribe(member, share, options, 0)
    member.subscriptions.set(share, { ...options, identifier: 0 })
    first.putSubscription(member.id, share, { ...options, identifier: 0 })
    // Its client comes back without it.
    const again = world.open()
    again.link.handler!.received(connectBytes('first'))
    while (member.queueLength < 1000) await world.turn()
    expect(member.queueLength).toBeLessThan(4000)
    expect(sessionsById.size).toBe(2)
    await new Promise<void>((resolve) => {
      const wait = (): void => {
        if (settled()) resolve()
        else setImmediate(wait)
      }
      wait()
    })
    killedCopy(live, killed)
    await until(world, settled)
    await first.close()

    const next = open(killed)
    const restarted = await World.make({ store: next })
    await until(restarted, () => next.committedSequence >= next.recordedSequence)
    expect(restarted.census()).toMatchObject({ sessions: 1, sessionsById: 1, subscriptions: 1 })
    const back = await connected(restarted, 'second')
    const got: string[] = []
    while (got.length < 4000) {
      await until(restarted, () => back.link.packets.length > 0)
      const packets = back.got()
      got.push(...textsOf(packets))
      const answers = packets.flatMap((packet) =>
        packet.cmd === 'publish'
          ? [{ cmd: 'pubrec', messageId: packet.messageId }]
          : packet.cmd === 'pubrel'
            ? [{ cmd: 'pubcomp', messageId: packet.messageId }]
            : [],
      )
      back.link.packets.unshift(...(await back.send(...answers)))
    }
    expect(got).toEqual(texts)
    await next.close()
  } finally {
    rmSync(directory, { recursive: true })
  }
})

function connectBytes(clientId: string): Buffer {
  const body = Buffer.concat([
    Buffer.from([0, 4]),
    Buffer.from('MQTT'),
    Buffer.from([5, 2, 0, 0, 0, 0, clientId.length]),
    Buffer.from(clientId),
  ])
  return Buffer.concat([Buffer.from([0x10, body.length]), body])
}
