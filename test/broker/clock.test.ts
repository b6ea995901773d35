/** Broker time over restarts, on a real store, with clocks that the test sets. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Limits } from '../../src/broker/boundary/limits.ts'
import { elapsedSince } from '../../src/broker/clock.ts'
import { openDatabase } from '../../src/store/level/backup.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { RecordReader } from '../../src/store/records/record-reader.ts'
import { RecordWriter } from '../../src/store/records/record-writer.ts'
import type { StoreRecord } from '../../src/store/records/records.ts'
import { connectPacket, type Given, lasting, type TestClient, World } from './harness.ts'

const HOUR = 3600
const DAY = 24 * HOUR
const BOOT_A = 'a'.repeat(32)
const BOOT_B = 'b'.repeat(32)

let directory: string
let world: World
/** The machine's clocks in ms. */
let wall: number
/** The first value of the next process's monotonic clock. */
let monotonic: number
let boot: { bootId: string; sinceBoot: number } | null

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'godwit-clock-'))
  wall = Date.UTC(2026, 5, 1)
  boot = { bootId: BOOT_A, sinceBoot: 100_000.5 }
  monotonic = 5000 + Math.random() * 1e6
})

afterEach(async () => {
  await world?.server.state.store.close().catch(() => {})
  await rm(directory, { recursive: true, force: true })
})

/** Reads of bodies that are under way, whose messages come later than their turn. */
let reads = 0

function store(path = directory): LevelStore {
  const made = new LevelStore({ directory: path, sync: false, reserveBytes: 0, residentBytesMax: 10_000 })
  const restore = made.restore.bind(made)
  made.restore = (messages) => {
    reads++
    return restore(messages).finally(() => reads--)
  }
  return made
}

/** Starts a broker on the directory with the current clocks. */
async function start(limits: Partial<Limits> = {}): Promise<World> {
  world = await World.make({ store: store(), limits }, (made) => {
    made.wall = wall
    made.boot = boot
    // Each process has its own monotonic clock.
    made.monotonic = monotonic
    monotonic = 5000 + Math.random() * 1e6
  })
  await durable()
  return world
}

/** Waits until everything recorded is durable and all reads are done. */
async function durable(): Promise<void> {
  const { store: its } = world.server.state
  for (;;) {
    await world.settle()
    its.commit()
    if (its.committedSequence >= its.recordedSequence && reads === 0) break
    await new Promise((resolve) => setImmediate(resolve))
  }
  await world.settle()
}

/** Connects a client; CONNACK waits for the disk. */
async function connect(clientId: string, given: Given = {}): Promise<TestClient> {
  const client = world.open(5)
  client.link.packets.unshift(
    ...(await client.send({ ...connectPacket(clientId), properties: {}, ...given })),
  )
  await durable()
  const packets = client.got()
  const [connack] = packets.splice(
    packets.findIndex(({ cmd }) => cmd === 'connack'),
    1,
  )
  if (connack?.cmd !== 'connack') throw new Error(`no CONNACK for ${clientId}`)
  client.connack = connack
  client.link.packets.unshift(...packets)
  return client
}

/** Moves all clocks on. */
async function pass(seconds: number): Promise<void> {
  wall += seconds * 1000
  if (boot !== null) {
    boot = { ...boot, sinceBoot: boot.sinceBoot + seconds * 1000 }
    world.boot = boot
  }
  await world.pass(seconds)
  await durable()
}

/** Sets the wall clock and runs the ticker. */
async function setWall(seconds: number): Promise<void> {
  wall += seconds * 1000
  world.wall = wall
  await pass(1.5)
}

/** Kills the broker: only its last commit is left. */
async function crash(): Promise<void> {
  // Copies the database before the close, which would be a commit.
  const kept: (readonly [Buffer, Buffer])[] = []
  const held = world.server.state.store as LevelStore
  for await (const slice of held.snapshot()) {
    for (const [key, value] of slice) kept.push([Buffer.from(key), Buffer.from(value)])
  }
  await held.close()
  await rm(directory, { recursive: true, force: true })
  directory = await mkdtemp(join(tmpdir(), 'godwit-clock-'))
  const db = await openDatabase(directory, true)
  await db.batch(kept.map(([key, value]) => ({ type: 'put', key, value })))
  await db.close()
}

/** Turns the machine off for some time. Afterwards its wall clock is wrong by `wrongBySeconds`. */
async function reboot(seconds: number, wrongBySeconds = 0): Promise<void> {
  await crash()
  wall += (seconds + wrongBySeconds) * 1000
  boot = { bootId: BOOT_B, sinceBoot: 20_000 }
}

/**
 * Makes a retained message, a Session, two queued messages that all expire after `seconds`, and one that
 * never does.
 */
async function fill(seconds: number): Promise<void> {
  await start()
  // In a new store broker time begins with 0, which would mean that the client is connected.
  await pass(1)
  const sub = await connect('sub', lasting(seconds))
  await sub.subscribe('q', 1)
  await durable()
  await sub.vanish()
  const pub = await connect('pub')
  const properties = { messageExpiryInterval: seconds }
  await pub.publish('q', 'one', 1, { properties })
  await pub.publish('q', 'two', 1, { properties })
  await pub.publish('q', 'lasting', 1)
  await pub.publish('r', 'retained', 1, { properties, retain: true })
  await durable()
}

/** Connects the client again. Returns whether its Session is there, and the messages that came. */
async function comeBack(seconds = DAY): Promise<{ present: boolean; texts: string[]; more: () => string[] }> {
  const sub = await connect('sub', lasting(seconds))
  await durable()
  await world.settle()
  const texts = sub.texts()
  const { connack } = sub
  return { present: connack?.cmd === 'connack' && connack.sessionPresent, texts, more: () => sub.texts() }
}

async function retained(): Promise<string[]> {
  const late = await connect(`late ${Math.random()}`)
  await late.subscribe('r', 1)
  await durable()
  return late.texts()
}

describe('elapsedSince', () => {
  const wallTime = Date.UTC(2026, 0, 1)
  const bootTime = { bootId: BOOT_A, sinceBoot: 1000 }

  it('trusts the machine’s own clock until the machine restarts, whatever the wall clock says', () => {
    for (const step of [-1e12, -1000, 0, 5, 1e12]) {
      const elapsed = elapsedSince({ wallTime, bootTime }, wallTime + step, {
        bootId: BOOT_A,
        sinceBoot: 1500.5,
      })
      expect(elapsed).toEqual({ ms: 500.5, isSeen: true })
    }
  })

  it('trusts the wall clock after a restart of the machine, and without a usable boot clock', () => {
    for (const now of [{ bootId: BOOT_B, sinceBoot: 5 }, null, { bootId: BOOT_A, sinceBoot: 999 }]) {
      expect(elapsedSince({ wallTime, bootTime }, wallTime + 700, now)).toEqual({ ms: 700, isSeen: false })
      expect(elapsedSince({ wallTime, bootTime }, wallTime - 700, now)).toEqual({ ms: 0, isSeen: true })
    }
    expect(elapsedSince({ wallTime, bootTime: null }, wallTime + 700, bootTime)).toMatchObject({ ms: 700 })
  })

  it('counts no time if the wall clock was never set', () => {
    expect(elapsedSince({ wallTime: 3600_000, bootTime }, wallTime, null)).toEqual({ ms: 0, isSeen: true })
    expect(elapsedSince({ wallTime: 0, bootTime: null }, wallTime, null)).toEqual({ ms: 0, isSeen: true })
    expect(elapsedSince({ wallTime, bootTime }, 3600_000, null)).toEqual({ ms: 0, isSeen: true })
  })
})

describe('a wall clock that is set while the broker runs', () => {
  it('from 1970 to now: nothing has expired after a kill before the next commit [field-A3]', async () => {
    wall = 5000
    await fill(HOUR)
    await setWall(Date.UTC(2026, 5, 1) / 1000)
    await crash()
    wall += 2000
    boot = { bootId: BOOT_A, sinceBoot: boot!.sinceBoot + 2000 }
    await start()
    expect(await retained()).toEqual(['retained'])
    expect(await comeBack()).toMatchObject({ present: true, texts: ['one', 'two', 'lasting'] })
  })

  it.each([2 * DAY, -2 * DAY, 1.5])(
    'by %d seconds is recorded at once, also on a machine without a boot clock [field-A3]',
    async (seconds) => {
      boot = null
      await fill(HOUR)
      const stepped = world.record('clock')
      await setWall(seconds)
      expect(stepped).toMatchObject([{ what: 'stepped', ms: seconds * 1000 }])
      await crash()
      wall += 2000
      await start()
      expect(await comeBack()).toMatchObject({ present: true, texts: ['one', 'two', 'lasting'] })
    },
  )

  it('causes no event and no commit while it only drifts [field-A3]', async () => {
    await fill(HOUR)
    const stepped = world.record('clock')
    const before = world.server.state.store.committedSequence
    for (let second = 0; second < 20; second++) {
      wall += 40
      world.wall = wall
      await pass(1)
    }
    expect(stepped).toEqual([])
    expect(world.server.state.store.committedSequence).toBe(before)
  })
})

describe('a restart of the broker, but not of the machine', () => {
  it('counts the time that passed, not that of the wall clock [field-A3]', async () => {
    await fill(HOUR)
    await crash()
    wall += 400 * DAY * 1000
    boot = { bootId: BOOT_A, sinceBoot: boot!.sinceBoot + 600_000 }
    await start()
    expect(world.server.state.timeInDoubt.span).toBeNull()
    expect(await comeBack()).toMatchObject({ present: true, texts: ['one', 'two', 'lasting'] })
  })

  it('counts the time that passed even if the wall clock went back [field-A3]', async () => {
    await fill(HOUR)
    await crash()
    wall -= DAY * 1000
    boot = { bootId: BOOT_A, sinceBoot: boot!.sinceBoot + 2 * HOUR * 1000 }
    await start()
    expect(await retained()).toEqual([])
    expect(await comeBack()).toMatchObject({ present: false, texts: [] })
  })
})

describe('a Session that was connected when the broker was killed', () => {
  it('has its whole expiry after the start, even if the last commit was long ago [field-A3]', async () => {
    await start()
    const sub = await connect('sub', lasting(HOUR))
    await sub.subscribe('q', 1)
    await durable()
    await pass(5 * HOUR)
    await crash()
    boot = { bootId: BOOT_A, sinceBoot: boot!.sinceBoot + 5000 }
    await start()
    await pass(HOUR - 10)
    expect(world.server.state.sessions.size).toBe(1)
    // A second crash does not restart the interval.
    await crash()
    boot = { bootId: BOOT_A, sinceBoot: boot!.sinceBoot + 1000 }
    await start()
    await pass(20)
    expect(world.server.state.sessions.size).toBe(0)
  })
})

describe('after a restart of the machine, time that only the wall clock saw', () => {
  it('is in doubt: nothing that expired is deleted or sent, Sessions go on [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    expect(world.server.state.timeInDoubt.span).toMatchObject({ ms: (2 * DAY + 30) * 1000 })
    expect(await retained()).toEqual([])
    expect(world.server.state.retained.count).toBe(1)
    // The queue waits in its order, as its next message is in doubt.
    const back = await comeBack()
    expect(back).toMatchObject({ present: true, texts: [] })
    expect(world.server.state.sessions.get('sub')?.queueLength).toBe(3)
  })

  it('counts after the grace: expired messages are dropped, the rest is sent [field-A3]', async () => {
    await fill(HOUR)
    await reboot(2 * DAY)
    await start()
    const back = await comeBack()
    expect(back).toMatchObject({ present: true, texts: [] })
    await pass(59)
    expect(back.more()).toEqual([])
    await pass(2)
    expect(back.more()).toEqual(['lasting'])
    expect(world.server.state.retained.count).toBe(0)
    expect(world.server.state.timeInDoubt.span).toBeNull()
  })

  it('ends a Session of an absent client when the grace is over [field-A3]', async () => {
    await fill(HOUR)
    await reboot(2 * DAY)
    await start()
    await pass(58)
    expect(world.server.state.sessions.has('sub')).toBe(true)
    await pass(3)
    expect(world.server.state.sessions.has('sub')).toBe(false)
    expect(world.server.state.deadlines.size).toBe(0)
  })

  it('did not pass if the clock is set back in the grace: nothing expires early [field-A3]', async () => {
    await fill(HOUR)
    await pass(600)
    await reboot(30, 2 * DAY)
    await start()
    const late = await connect('late')
    await late.subscribe('r', 1)
    const back = await comeBack()
    expect([back.texts, late.texts()]).toEqual([[], []])
    const told = world.record('clock')
    await setWall(-2 * DAY)
    expect(told).toContainEqual({ what: 'corrected', ms: 2 * DAY * 1000 })
    await durable()
    expect(back.more()).toEqual(['one', 'two', 'lasting'])
    // Clients that subscribed meanwhile get the retained message now.
    expect(late.got()).toMatchObject([{ retain: true, properties: { messageExpiryInterval: 2970 } }])
    // 600 seconds, less 30 while off and 2 since the start.
    await pass(2900)
    expect(await retained()).toEqual(['retained'])
    await pass(100)
    expect(await retained()).toEqual([])
  })

  it('is corrected for good, also over further restarts and on the disk [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    await setWall(-2 * DAY)
    await pass(60)
    for (let count = 0; count < 3; count++) {
      await crash()
      wall += 10_000
      boot = { bootId: BOOT_B, sinceBoot: boot!.sinceBoot + 10_000 }
      await start()
      expect(world.server.state.timeInDoubt.span).toBeNull()
    }
    const session = world.server.state.sessions.get('sub')!
    expect(session.queueLength).toBe(3)
    await pass(1)
    expect(await comeBack()).toMatchObject({ present: true, texts: ['one', 'two', 'lasting'] })
    expect(await retained()).toEqual(['retained'])
    await crash()
    boot = { bootId: BOOT_B, sinceBoot: boot!.sinceBoot + HOUR * 1000 }
    await start()
    expect(await retained()).toEqual([])
  })

  it('is still in doubt after a crash within the grace [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    await pass(10)
    await crash()
    wall += 1000
    boot = { bootId: BOOT_B, sinceBoot: boot!.sinceBoot + 1000 }
    await start()
    expect(world.server.state.timeInDoubt.span).not.toBeNull()
    expect(await comeBack()).toMatchObject({ present: true, texts: [] })
    await setWall(-2 * DAY)
    expect(world.server.state.timeInDoubt.span?.ms ?? 0).toBeLessThan(60_000)
    expect(await retained()).toEqual(['retained'])
  })

  it('that did not pass does not bring back messages that had expired before [field-A3]', async () => {
    await start()
    await pass(1)
    const sub = await connect('sub', lasting(DAY))
    await sub.subscribe('q', 1)
    await durable()
    await sub.vanish()
    const pub = await connect('pub')
    await pub.publish('q', 'first', 1)
    await pub.publish('q', 'brief', 1, { properties: { messageExpiryInterval: 60 } })
    await pub.publish('q', 'long', 1, { properties: { messageExpiryInterval: HOUR } })
    await durable()
    await pass(120)
    await pub.publish('q', 'last', 1)
    await durable()
    await reboot(30, 2 * DAY)
    await start()
    await setWall(-2 * DAY)
    await pass(60)
    // The same on the disk.
    await crash()
    boot = { bootId: BOOT_B, sinceBoot: boot!.sinceBoot + 1000 }
    await start()
    expect(await comeBack()).toMatchObject({ present: true, texts: ['first', 'long', 'last'] })
  })

  it('applies to a record of the very end, however sums are rounded [field-A3]', async () => {
    // 1,000 ms after this, it is 1,000.00000000006 ms later.
    monotonic = 523_976.26633563096
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    await setWall(-2 * DAY)
    await pass(25)
    expect(await comeBack()).toMatchObject({ present: true, texts: ['one', 'two', 'lasting'] })
  })

  it('does not apply to messages from an earlier run within the same grace [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    const other = await connect('other', lasting(DAY))
    await other.subscribe('n', 1)
    await durable()
    await other.vanish()
    const pub = await connect('pub')
    await pub.publish('n', 'brief', 1, { properties: { messageExpiryInterval: 20 } })
    await pub.publish('n', 'lasting', 1)
    await durable()
    await crash()
    boot = { bootId: BOOT_B, sinceBoot: boot!.sinceBoot + 1000 }
    await start()
    await setWall(-2 * DAY)
    await pass(25)
    const again = await connect('other', lasting(DAY))
    expect(again.texts()).toEqual(['lasting'])
    expect(await comeBack()).toMatchObject({ present: true, texts: ['one', 'two', 'lasting'] })
  })

  it('is not given back twice if the clock swings [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, DAY)
    await start()
    await setWall(-DAY / 2)
    await setWall(DAY / 2)
    await setWall(-DAY / 2)
    expect(world.server.state.timeInDoubt.span?.ms).toBe((DAY / 2 + 30) * 1000)
  })

  it('never puts messages of this run in doubt [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    const other = await connect('other', lasting(DAY))
    await other.subscribe('n', 1)
    await durable()
    await other.vanish()
    const pub = await connect('pub')
    await pub.publish('n', 'short', 1, { properties: { messageExpiryInterval: 5 } })
    await pub.publish('n', 'long', 1, { properties: { messageExpiryInterval: 50 } })
    await durable()
    await pass(6)
    const again = await connect('other', lasting(DAY))
    await durable()
    expect(again.texts()).toEqual(['long'])
  })

  it('makes no Session older in lists and deletions by age [field-A3]', async () => {
    await fill(HOUR)
    await pass(600)
    // A commit that records the time passed.
    await connect('other', lasting(60))
    await reboot(30, 2 * DAY)
    await start()
    const age = (): number | null | undefined => world.server.inventory.session('sub')?.disconnectedSeconds
    expect(age()).toBe(600)
    await setWall(-2 * DAY)
    expect(age()).toBeLessThan(640)
    await pass(60)
    expect(age()).toBeGreaterThan(630)
    expect(age()).toBeLessThan(700)
  })

  it('does not hold up what has expired by certain time [field-A3]', async () => {
    await fill(60)
    await pass(120)
    await reboot(30, 2 * DAY)
    await start()
    expect(world.server.state.sessions.has('sub')).toBe(false)
    expect(world.server.state.retained.count).toBe(0)
  })

  it('also puts off delayed Wills [field-A3]', async () => {
    await start()
    const properties = { willDelayInterval: 2 * HOUR }
    const lost = await connect('lost', {
      ...lasting(DAY),
      will: { topic: 'w', payload: Buffer.from('gone'), qos: 1, retain: false, properties },
    })
    await lost.vanish()
    await durable()
    await pass(HOUR)
    await reboot(30, 2 * DAY)
    await start({ willGraceSeconds: 5 })
    const watcher = await connect('watcher')
    await watcher.subscribe('w', 0)
    await pass(20)
    await setWall(-2 * DAY)
    await pass(HOUR - 120)
    expect(watcher.texts()).toEqual([])
    await pass(120)
    expect(watcher.texts()).toEqual(['gone'])
  })

  it('is trusted at once with clock_grace_seconds 0 [field-A3]', async () => {
    await fill(HOUR)
    await reboot(2 * DAY)
    await start({ clockGraceSeconds: 0 })
    expect(world.server.state.timeInDoubt.span).toBeNull()
    expect(world.server.state.sessions.has('sub')).toBe(false)
  })

  it('is in doubt after export and import, and after repair, as well [field-A3]', async () => {
    await fill(HOUR)
    await reboot(30, 2 * DAY)
    await start()
    await crash()
    const db = await openDatabase(directory)
    const records: StoreRecord[] = []
    for await (const record of new RecordReader(db, directory).records()) {
      records.push('payload' in record ? { ...record, payload: Buffer.from(record.payload) } : record)
    }
    await db.close()
    expect(records[0]).toMatchObject({ type: 'start', doubt: { ms: (2 * DAY + 30) * 1000 } })
    await rm(directory, { recursive: true, force: true })
    await new RecordWriter(directory).write(
      (async function* () {
        yield* records
      })(),
    )
    await start()
    expect(await comeBack()).toMatchObject({ present: true, texts: [] })
    expect(world.server.state.retained.count).toBe(1)
  })
})
