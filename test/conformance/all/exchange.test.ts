import { describe, expect, it } from 'vitest'
import { type TestClient, World } from '../../broker/harness.ts'
import { exchange, type Party } from '../exchange.ts'
import { DIALECTS, sent } from '../wire.ts'

describe.each(DIALECTS)('MQTT %s', (_, version) => {
  it('[MQTT-7.0.0-2, 3.1.1] every packet type works for a client that knows only the standard', async () => {
    const world = await World.make()
    const clients: Record<Party, TestClient> = { sub: world.open(version), pub: world.open(version) }
    for (const { from, bytes, toSub, toPub } of exchange(version)) {
      if (clients[from].closed) clients[from] = world.open(version)
      await clients[from].bytes(bytes)
      const hex = bytes.toString('hex')
      expect([hex, sent(clients.sub), sent(clients.pub)]).toEqual([hex, toSub, toPub])
    }
    expect([clients.sub.closed, clients.pub.closed]).toEqual([true, true])
  })
})
