import { describe, expect, it } from 'vitest'
import { lasting, World } from '../harness.ts'

/** Publishes a message of QoS 0 whenever an event of this name is emitted for another topic. */
function publishOn(world: World, name: 'retainedSet' | 'dropped'): void {
  world.server.state.events.on(name, () => {
    const payload = Buffer.from('noted')
    void world.server.publish({ topic: 'log', payload, qos: 0, retain: false, publisher: '' })
  })
}

describe('a listener that publishes while a message is published', () => {
  it('does not make PUBACK leave before the message is durable', async () => {
    const world = await World.make()
    world.ledger.automatic = false
    publishOn(world, 'retainedSet')
    const client = await world.connect('pub', {}, 4)
    expect(await client.publish('a', 'kept', 1, { retain: true })).toEqual([])
    await world.commit()
    expect(client.got()).toMatchObject([{ cmd: 'puback' }])
  })

  it('changes neither what other subscribers get nor when they get it', async () => {
    const world = await World.make({ limits: { queueMessagesMax: 1 } })
    const full = await world.connect('full', lasting())
    const reader = await world.connect('reader', lasting())
    const logger = await world.connect('logger')
    await logger.subscribe('log', 1)
    await full.subscribe('a', 1)
    await reader.subscribe('a', 1)
    await full.vanish()
    const publisher = await world.connect('pub', {}, 4)
    await publisher.publish('a', 'first', 1)
    await reader.drain()
    publishOn(world, 'dropped')
    world.ledger.automatic = false
    expect(await publisher.publish('a', 'second', 1)).toEqual([])
    expect(logger.texts()).toEqual(['noted'])
    expect(reader.texts()).toEqual([])
    while (await world.commit());
    expect(publisher.got()).toMatchObject([{ cmd: 'puback' }])
    expect(reader.texts()).toEqual(['second'])
  })
})
