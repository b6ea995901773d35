import { describe, expect, it } from 'vitest'
import { ReadGate } from '../../../src/broker/state/read-gate.ts'
import { World } from '../harness.ts'

describe('ReadGate', () => {
  it('holds as long as there is a reason; each counts once', () => {
    const gate = new ReadGate()
    expect([gate.isHeld, gate.remove('pays')]).toEqual([false, false])
    expect([gate.add('packet'), gate.add('packet'), gate.add('commit')]).toEqual([true, false, true])
    expect([gate.remove('packet'), gate.remove('packet'), gate.isHeld]).toEqual([true, false, true])
    expect([gate.has('packet'), gate.has('commit')]).toEqual([false, true])
    expect([gate.remove('commit'), gate.isHeld]).toEqual([true, false])
  })

  it('accepts no reason but a policy once nothing more can arrive', () => {
    const gate = new ReadGate()
    gate.add('packet')
    gate.add('rate')
    gate.hurry()
    expect([gate.has('packet'), gate.has('rate'), gate.isHurried]).toEqual([true, false, true])
    gate.remove('packet')
    expect([gate.add('pays'), gate.isHeld, gate.add('packet')]).toEqual([false, false, true])
  })
})

describe('a connection that is not read from', () => {
  it('handles its packets in order after the last reason, and its Keep Alive stands still', async () => {
    const world = await World.make()
    const client = await world.connect('paying', { keepalive: 10 })
    const connection = [...world.server.state.connected.values()][0]!
    connection.hold('pays')
    connection.hold('rate')
    expect(client.link.paused).toBe(true)
    expect(await client.send({ cmd: 'pingreq' })).toEqual([])
    await world.pass(100)
    connection.release('pays')
    await world.settle()
    expect([client.closed, client.link.paused, client.got()]).toEqual([false, true, []])
    connection.release('rate')
    await world.settle()
    expect(client.got().map(({ cmd }) => cmd)).toEqual(['pingresp'])
    expect(client.link.paused).toBe(false)
  })
})
