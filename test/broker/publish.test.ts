import { describe, expect, it } from 'vitest'
import { World } from './harness.ts'

describe('PUBLISH', () => {
  it('QoS 0, 1 and 2 reach a subscriber at the lower QoS of both', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    const pub = await world.connect('pub', {}, 4)
    const [suback] = await sub.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: 'a/+', qos: 1 }],
    })
    expect(suback).toMatchObject({ cmd: 'suback', granted: [1], messageId: 1 })
    const answers = await pub.send(
      { cmd: 'publish', topic: 'a/0', payload: 'zero', qos: 0 },
      { cmd: 'publish', topic: 'a/1', payload: 'one', qos: 1, messageId: 7 },
      { cmd: 'publish', topic: 'a/2', payload: 'two', qos: 2, messageId: 8 },
    )
    expect(answers).toMatchObject([
      { cmd: 'puback', messageId: 7 },
      { cmd: 'pubrec', messageId: 8 },
    ])
    expect(await pub.send({ cmd: 'pubrel', messageId: 8 })).toMatchObject([{ cmd: 'pubcomp', messageId: 8 }])
    expect(
      sub.got().map((p) => p.cmd === 'publish' && [p.topic, p.payload.toString(), p.qos, p.messageId]),
    ).toEqual([
      ['a/0', 'zero', 0, undefined],
      ['a/1', 'one', 1, 1],
      ['a/2', 'two', 1, 2],
    ])
  })

  it('[MQTT-4.3.3-10] a repeated QoS 2 PUBLISH is acknowledged and not delivered twice', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 2 }] })
    const pub = await world.connect('pub')
    const publish = { cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 5 }
    await pub.send(publish)
    expect(await pub.send({ ...publish, dup: true })).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
    expect(await pub.send(publish)).toMatchObject([{ cmd: 'pubrec', messageId: 5 }])
    expect(sub.got()).toHaveLength(1)
    await pub.send({ cmd: 'pubrel', messageId: 5 })
    await pub.send(publish)
    expect(sub.got()).toHaveLength(1)
  })

  it('an acknowledgement waits for the commit, and nothing passes it', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', { clean: false, properties: { sessionExpiryInterval: 100 } })
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 1 }] })
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    expect(await pub.send({ cmd: 'publish', topic: 't', payload: 'x', qos: 1, messageId: 1 })).toEqual([])
    expect(await pub.send({ cmd: 'pingreq' })).toEqual([])
    expect(sub.got()).toEqual([])
    world.ledger.durable()
    await world.settle()
    expect(pub.got().map((p) => p.cmd)).toEqual(['puback', 'pingresp'])
    expect(sub.got()).toMatchObject([{ cmd: 'publish', messageId: 1, dup: false }])
  })

  it('what nobody stores is acknowledged without a commit', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 1 }] })
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    const before = world.ledger.lines.length
    expect(await pub.send({ cmd: 'publish', topic: 't', payload: 'x', qos: 1, messageId: 1 })).toHaveLength(1)
    expect(sub.got()).toHaveLength(1)
    expect(world.ledger.lines).toHaveLength(before)
  })

  it('offline messages come in order when the client is back, in flight ones first with DUP', async () => {
    const world = await World.make()
    const options = { clean: false, properties: { sessionExpiryInterval: 100 } }
    const sub = await world.connect('sub', options)
    await sub.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 2 }] })
    const pub = await world.connect('pub')
    await pub.send({ cmd: 'publish', topic: 't', payload: '1', qos: 1, messageId: 1 })
    await sub.vanish()
    for (const n of [2, 3, 4])
      await pub.send({ cmd: 'publish', topic: 't', payload: `${n}`, qos: 1, messageId: n })
    const back = await world.connect('sub', options)
    expect(back.connack).toMatchObject({ sessionPresent: true, reasonCode: 0 })
    expect(back.got().map((p) => p.cmd === 'publish' && [p.payload.toString(), p.messageId, p.dup])).toEqual([
      ['1', 1, true],
      ['2', 2, false],
      ['3', 3, false],
      ['4', 4, false],
    ])
  })
})
