import { describe, expect, it } from 'vitest'
import { lasting, World } from '../harness.ts'

const OPTIONS = { qos: 2, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
const text = (topic: string, payload: string, qos: 0 | 1 | 2 = 0, retain = false) => ({
  topic,
  payload: Buffer.from(payload),
  qos,
  retain,
  publisher: '',
})

function listening(world: World, filter: string, options: object = {}) {
  const got: string[] = []
  const stop = world.server.subscribe(filter, { ...OPTIONS, ...options }, ({ message, qos }) =>
    got.push(`${message.payload} ${qos}`),
  )
  return { got, stop, taken: () => got.splice(0) }
}

describe('a subscriber in this process', () => {
  it('gets retained messages first, then what clients and this process publish', async () => {
    const world = await World.make()
    void world.server.publish(text('a', 'old', 0, true))
    const { got } = listening(world, '+')
    const pub = await world.connect('pub')
    await pub.publish('a', 'new', 2)
    void world.server.publish(text('b', 'own', 1))
    await world.settle()
    expect(got).toEqual(['old 0', 'new 2', 'own 1'])
  })

  it('Retain Handling 2, and no retained messages for a Shared Subscription', async () => {
    const world = await World.make()
    void world.server.publish(text('a', 'old', 0, true))
    const quiet = listening(world, 'a', { retainHandling: 2 })
    const shared = listening(world, '$share/g/a')
    await world.settle()
    expect([quiet.got, shared.got]).toEqual([[], []])
    void world.server.publish(text('a', 'x'))
    await world.settle()
    expect([quiet.got, shared.got]).toEqual([['x 0'], ['x 0']])
  })

  it('sees a message when everybody else does: after the commit it depends on, in order', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    const { taken } = listening(world, 't')
    world.ledger.automatic = false
    const pub = await world.connect('pub')
    while (await world.commit());
    await pub.publish('t', '1', 1)
    await pub.publish('t', '2', 0)
    expect(taken()).toEqual([])
    expect(world.census()).toMatchObject({ waiting: 3 })
    await world.commit()
    expect(taken()).toEqual(['1 1', '2 0'])
    expect(world.census()).toMatchObject({ waiting: 0 })
  })

  it('keeps the bytes it was given', async () => {
    const world = await World.make()
    const payloads: Buffer[] = []
    world.server.subscribe('t', OPTIONS, ({ message }) => payloads.push(message.payload))
    const pub = await world.connect('pub')
    const chunk = Buffer.from('30050001740078', 'hex')
    pub.link.handler?.received(chunk)
    await world.settle()
    chunk.fill(0)
    expect(payloads.map(String)).toEqual(['x'])
  })

  it('ends for good, also from within its own function', async () => {
    const world = await World.make()
    const got: string[] = []
    const stop = world.server.subscribe('t', OPTIONS, ({ message }) => {
      got.push(message.payload.toString())
      stop()
    })
    for (const payload of ['1', '2', '3']) void world.server.publish(text('t', payload))
    await world.settle()
    expect(got).toEqual(['1'])
    expect(world.census()).toMatchObject({ subscriptions: 0, nodes: 0, waiting: 0, retainedDeliveries: 0 })
  })

  it('may publish from within its function', async () => {
    const world = await World.make()
    const echo = listening(world, 'echo')
    world.server.subscribe('t', OPTIONS, ({ message }) => {
      void world.server.publish(text('echo', message.payload.toString()))
    })
    await (await world.connect('pub')).publish('t', 'x')
    expect(echo.got).toEqual(['x 0'])
  })

  it('throws for an invalid topic filter', async () => {
    const world = await World.make()
    for (const filter of ['', 'a#', '$share/g']) expect(() => listening(world, filter)).toThrow()
    expect(world.census()).toMatchObject({ subscriptions: 0 })
  })
})

describe('publishing from this process', () => {
  it('resolves when it is as durable as promised', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    world.ledger.automatic = false
    let done = 0
    const count = () => done++
    void world.server.publish(text('u', 'nobody', 1)).then(count)
    await world.settle()
    expect(done).toBe(1)
    void world.server.publish(text('t', 'x', 1)).then(count)
    void world.server.publish(text('r', 'x', 0, true)).then(count)
    await world.settle()
    expect(done).toBe(1)
    await world.commit()
    expect(done).toBe(3)
    expect(world.census()).toMatchObject({ waiting: 0 })
  })

  it('rejects what a limit refuses, and throws for an invalid topic name', async () => {
    const world = await World.make({ limits: { retainedMessagesMax: 0 } })
    await expect(world.server.publish(text('t', 'x', 0, true))).rejects.toThrow('0x97')
    expect(() => world.server.publish(text('a/#', 'x'))).toThrow('wildcard')
  })

  it('the Server’s own values are retained in memory only', async () => {
    const world = await World.make()
    world.server.publishOwn('$SYS/x', Buffer.from('1'))
    const sub = await world.connect('sub')
    await sub.subscribe('$SYS/#')
    world.server.publishOwn('$SYS/x', Buffer.from('2'))
    await world.settle()
    expect(sub.texts()).toEqual(['1', '2'])
    expect(world.ledger.lines).toEqual([])
  })
})
