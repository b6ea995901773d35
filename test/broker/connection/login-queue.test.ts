/** Clients that a policy has wait for each other at log-in: what that does to time-outs, places and Wills. */
import { describe, expect, test } from 'vitest'
import type { AuthenticationResult, Credentials, Policy } from '../../../src/broker/boundary/policy.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { connectPacket, type Given, type TestClient, World, type WorldOptions } from '../harness.ts'

interface Queued {
  readonly credentials: Credentials
  left: boolean
  answer(result: AuthenticationResult): void
}

/** A policy whose clients wait until the test serves them. */
class Queue {
  readonly clients: Queued[] = []
  readonly policy: Policy = {
    authenticate: (credentials) =>
      new Promise((resolve) => {
        const queued: Queued = { credentials, left: false, answer: resolve }
        this.clients.push(queued)
        credentials.waiting!.queued(100, () => {
          queued.left = true
        })
      }),
  }

  /** Lets the first one in. */
  async serve(world: World): Promise<void> {
    const { credentials, answer } = this.clients.shift()!
    credentials.waiting!.served()
    answer({ allow: true, userName: credentials.userName ?? null })
    await world.settle()
    await world.commit()
  }
}

async function made(options: WorldOptions = {}): Promise<{ world: World; queue: Queue }> {
  const queue = new Queue()
  const world = await World.make({ policy: queue.policy, ...options })
  return { world, queue }
}

async function asks(world: World, clientId: string, more: Given = {}): Promise<TestClient> {
  const client = world.open(5)
  await client.send({ ...connectPacket(clientId), properties: {}, ...more })
  return client
}

describe('a client that waits in the queue of a policy', () => {
  test('is not cut off by the connect time-out, and is let in after it', async () => {
    const { world, queue } = await made({ limits: { connectTimeoutSeconds: 10 } })
    const client = await asks(world, 'c')
    await world.pass(60)
    expect(client.closed).toBe(false)
    await queue.serve(world)
    expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: Reason.Success }])
    expect(world.server.state.loginQueue.length).toBe(0)
    await world.pass(60)
    expect(client.closed).toBe(false)
  })

  test('has the connect time-out again from its turn on', async () => {
    const { world, queue } = await made({ limits: { connectTimeoutSeconds: 10 } })
    const client = await asks(world, 'c')
    await world.pass(60)
    queue.clients[0]!.credentials.waiting!.served()
    await world.pass(9)
    expect(client.closed).toBe(false)
    await world.pass(2)
    expect(client.closed).toBe(true)
  })

  test('is refused, and counted, after the longest time that it may wait', async () => {
    const { world, queue } = await made()
    const limited = world.record('limited')
    const client = await asks(world, 'c')
    await world.pass(101)
    expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: Reason.ServerBusy }])
    expect(limited.map(({ limit }) => limit)).toEqual(['loginWaitSecondsMax'])
    expect(queue.clients[0]!.left).toBe(true)
    expect(world.server.state.loginQueue.length).toBe(0)
  })

  test('gives up its place when it leaves, unless packets follow its CONNECT', async () => {
    const { world, queue } = await made()
    const vanished = await asks(world, 'vanished')
    const spoke = world.open(5)
    await spoke.send(
      { ...connectPacket('spoke'), properties: {} },
      { cmd: 'publish', topic: 'last/words', payload: 'x', qos: 0 },
    )
    // Its end shows only while it is read from.
    expect(vanished.link.paused).toBe(false)
    await vanished.vanish()
    await spoke.vanish()
    expect(queue.clients.map(({ left }) => left)).toEqual([true, false])
    expect(world.server.state.loginQueue.length).toBe(1)
    // Longer than the last packets of a client may wait for a policy: here it waits for others.
    await world.pass(90)
    const published = world.record('published')
    queue.clients.shift()
    await queue.serve(world)
    expect(published.map(({ message }) => message.topic.name)).toEqual(['last/words'])
    expect(world.census()).toMatchObject({ connections: 0, deadlines: 0 })
  })

  test('does not lose Keep Alive time while it waits', async () => {
    const { world, queue } = await made()
    const client = await asks(world, 'c', { keepalive: 10 })
    await world.pass(60)
    await queue.serve(world)
    await world.pass(14)
    expect(client.closed).toBe(false)
    await world.pass(2)
    expect(client.closed).toBe(true)
  })

  test('takes no place from clients that do not wait, so connections_max locks nobody out', async () => {
    const { world, queue } = await made({ limits: { connectionsMax: 2 } })
    const crowd: TestClient[] = []
    for (let i = 0; i < 300; i++) crowd.push(await asks(world, `c${i}`))
    expect(crowd.filter(({ closed }) => closed)).toHaveLength(0)
    const good = await asks(world, 'good')
    expect(good.closed).toBe(false)
    queue.clients.unshift(queue.clients.pop()!)
    await queue.serve(world)
    expect(good.got()).toMatchObject([{ cmd: 'connack', reasonCode: Reason.Success }])
    for (const client of crowd) await client.vanish()
    expect(world.server.state.loginQueue.length).toBe(0)
    expect(queue.clients.every(({ left }) => left)).toBe(true)
  })
})
