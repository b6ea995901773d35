import { describe, expect, it } from 'vitest'
import { Reason } from '../../../src/mqtt/reason.ts'
import { lasting, World } from '../harness.ts'

/** Ends the connection of `reader` from within the delivery of its first message. */
function endAtDelivery(world: World): void {
  const off = world.server.state.events.on('delivered', ({ clientId }) => {
    off()
    world.server.disconnect(clientId, Reason.AdministrativeAction, 'ended by a listener')
  })
}

describe('a listener that ends a connection while its queue is sent', () => {
  it('sends nothing after DISCONNECT, and keeps what waits', async () => {
    const world = await World.make({ limits: { queueQos0: true } })
    const reader = await world.connect('reader', lasting())
    await reader.subscribe('a', 1)
    await reader.vanish()
    const publisher = await world.connect('pub', {}, 4)
    for (const [payload, qos] of [
      ['1', 1],
      ['2', 0],
      ['3', 1],
      ['4', 0],
    ] as const) {
      await publisher.publish('a', payload, qos)
    }
    endAtDelivery(world)
    const back = await world.connect('reader', lasting())
    expect(back.got().map(({ cmd }) => cmd)).toEqual(['publish', 'disconnect'])
    const again = await world.connect('reader', lasting())
    expect(await again.drain()).toEqual(['1', '2', '3', '4'])
  })

  it('forgets a Session that ends with it', async () => {
    const world = await World.make()
    const before = world.server.state.store.held.bytes
    const reader = await world.connect('reader', { properties: { receiveMaximum: 1 } })
    await reader.subscribe('a', 1)
    const publisher = await world.connect('pub', {}, 4)
    for (const payload of ['1', '2', '3']) await publisher.publish('a', payload, 1)
    const [first] = reader.got()
    endAtDelivery(world)
    const last = await reader.send({ cmd: 'puback', messageId: (first as { messageId: number }).messageId })
    expect(last.map(({ cmd }) => cmd)).toEqual(['publish', 'disconnect'])
    expect(world.server.state.store.held.bytes).toBe(before)
    expect(world.census()).toMatchObject({ sessions: 1, connected: 1 })
  })

  it('forgets a Session that ends with the first message that is sent at once', async () => {
    const world = await World.make()
    const before = world.server.state.store.held.bytes
    const reader = await world.connect('reader')
    await reader.subscribe('a', 1)
    const publisher = await world.connect('pub', {}, 4)
    endAtDelivery(world)
    await publisher.publish('a', '1', 1)
    expect(reader.got().map(({ cmd }) => cmd)).toEqual(['publish', 'disconnect'])
    expect(world.server.state.store.held.bytes).toBe(before)
  })

  it('sends nothing again after DISCONNECT', async () => {
    const world = await World.make()
    const reader = await world.connect('reader', lasting())
    await reader.subscribe('a', 1)
    const publisher = await world.connect('pub', {}, 4)
    for (const payload of ['1', '2', '3']) await publisher.publish('a', payload, 1)
    await reader.vanish()
    for (const payload of ['4', '5']) await publisher.publish('a', payload, 1)
    endAtDelivery(world)
    const back = await world.connect('reader', lasting())
    expect(back.got().map(({ cmd }) => cmd)).toEqual(['publish', 'disconnect'])
    const again = await world.connect('reader', lasting())
    expect(await again.drain()).toEqual(['1', '2', '3', '4', '5'])
  })

  it('forgets a Session that ends with the message that is dropped for a newer one', async () => {
    const world = await World.make({ limits: { queueMessagesMax: 1, queueFull: 'drop-oldest' } })
    const before = world.server.state.store.held.bytes
    const reader = await world.connect('reader', { properties: { receiveMaximum: 1 } })
    await reader.subscribe('a', 1)
    const publisher = await world.connect('pub', {}, 4)
    for (const payload of ['1', '2']) await publisher.publish('a', payload, 1)
    world.server.state.events.on('dropped', ({ clientId }) => {
      world.server.disconnect(clientId, Reason.AdministrativeAction, 'ended by a listener')
    })
    await publisher.publish('a', '3', 1)
    expect(world.server.state.store.held.bytes).toBe(before)
    expect(world.census()).toMatchObject({ sessions: 1, connected: 1 })
  })

  it.each([
    ['PUBACK', 1, 'puback'],
    ['PUBREC', 2, 'pubrec'],
  ] as const)(
    'forgets a Session that ends with the message that its client refuses: %s',
    async (_name, qos, cmd) => {
      const world = await World.make()
      const before = world.server.state.store.held.bytes
      const reader = await world.connect('reader')
      await reader.subscribe('a', qos)
      const publisher = await world.connect('pub', {}, 4)
      await publisher.publish('a', '1', qos)
      const [first] = reader.got()
      world.server.state.events.on('dropped', ({ clientId }) => {
        world.server.disconnect(clientId, Reason.AdministrativeAction, 'ended by a listener')
      })
      const { messageId } = first as { messageId: number }
      await reader.send({ cmd, messageId, reasonCode: Reason.QuotaExceeded })
      expect(world.server.state.store.held.bytes).toBe(before)
      expect(world.census()).toMatchObject({ connected: 1 })
    },
  )
})
