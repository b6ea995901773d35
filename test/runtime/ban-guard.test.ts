import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { writeBans } from '../../src/access/bans/bans-file.ts'
import { KeptBans } from '../../src/access/bans/kept-bans.ts'
import { Reason } from '../../src/mqtt/reason.ts'
import { BanGuard } from '../../src/runtime/ban-guard.ts'
import { World } from '../broker/harness.ts'

async function made(limits = {}, directory: string | null = null) {
  const world = await World.make({ limits })
  const clock = { now: () => world.server.state.now(), wallNow: () => world.wall }
  const kept = new KeptBans(world.server.state.bans, clock, directory, () => {})
  const guard = new BanGuard(world.server, kept, () => world.monotonic)
  return { world, guard, told: world.record('security') }
}

describe('the broker bans automatically', () => {
  test('an address that guesses passwords, for a while, and reports it', async () => {
    const { world, guard, told } = await made({ banSeconds: 60 })
    guard.guesses('203.0.113.9', 100)
    guard.guesses('2001:db8:0:1::/64', 100)
    expect(told).toMatchObject([
      {
        kind: 'banned',
        subject: '203.0.113.9',
        by: 'broker',
        detail: expect.stringContaining('100 wrong passwords'),
      },
      { kind: 'banned', subject: '2001:db8:0:1::/64' },
    ])
    expect(world.server.state.counters.limits.failedLoginsBanned).toBe(2)
    expect(world.open(5, { remoteAddress: '203.0.113.9' }).link.handler).toBeNull()
    expect(world.open(5, { remoteAddress: '2001:db8:0:1:2::3' }).link.handler).toBeNull()
    expect(world.open(5, { remoteAddress: '2001:db8:0:2::3' }).link.handler).not.toBeNull()
    await world.pass(61)
    expect(world.open(5, { remoteAddress: '203.0.113.9' }).link.handler).not.toBeNull()
  })

  test('never this machine', async () => {
    const { guard, told } = await made()
    guard.guesses('127.0.0.1', 1000)
    guard.guesses('0:0:0:0::/64', 1000)
    expect([told, guard.list()]).toEqual([[], []])
  })

  test('a Client Identifier that reconnects again and again, if the configuration says so', async () => {
    const { world, told } = await made({ flappingConnectsMax: 10, banSeconds: 60 })
    const codes: unknown[] = []
    for (let i = 0; i < 13; i++) {
      const client = await world.connect('flaps')
      codes.push((client.connack as { reasonCode?: number }).reasonCode)
      if (i % 2 === 0) await client.vanish()
    }
    expect(codes).toEqual([...Array(11).fill(0), Reason.Banned, Reason.Banned])
    expect(told).toMatchObject([
      { kind: 'banned', subject: 'flaps', detail: expect.stringContaining('11 connects') },
    ])
    expect((await world.connect('other')).connack).toMatchObject({ reasonCode: 0 })
    await world.pass(61)
    expect((await world.connect('flaps')).connack).toMatchObject({ reasonCode: 0 })
  })

  test('nobody by default, however often they connect', async () => {
    const { world, guard } = await made()
    for (let i = 0; i < 500; i++)
      expect((await world.connect('flaps')).connack).toMatchObject({ reasonCode: 0 })
    expect(guard.list()).toEqual([])
  })
})

test('a reload applies an edited file of bans; a bad file is reported and changes nothing', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-guard-'))
  try {
    const { world, guard, told } = await made({}, directory)
    const client = await world.connect('c')
    const since = world.wall
    const ban = { kind: 'client', subject: 'c', since, until: null, reason: '', by: 'me' } as const
    await writeBans(directory, [{ ...ban, isAutomatic: false }])
    await guard.reread()
    await world.settle()
    expect(client.closed).toBe(true)
    expect((await world.connect('c')).connack).toMatchObject({ reasonCode: Reason.Banned })
    writeFileSync(join(directory, 'bans.json'), 'x')
    await guard.reread()
    expect((await world.connect('c')).connack).toMatchObject({ reasonCode: Reason.Banned })
    expect(told).toMatchObject([
      { kind: 'bans-loaded', detail: '1 added, 0 changed, 0 lifted; 1 connection ended' },
      { kind: 'bans-refused', detail: expect.stringContaining('it is not JSON') },
    ])
  } finally {
    rmSync(directory, { recursive: true })
  }
})
