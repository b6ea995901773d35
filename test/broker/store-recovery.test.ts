import { expect, it } from 'vitest'
import { type Recovered, type StateSource, StoreError } from '../../src/store/store.ts'
import { RecallStore } from '../fuzz/recall.ts'
import { lasting, World } from './harness.ts'

const EXPIRY_SECONDS = 100

/** A disk that keeps what was committed, and can be full. */
class Disk extends RecallStore {
  isFull = false
  #source: StateSource | null = null

  override open(source: StateSource): Promise<Recovered> {
    if (this.isFull) return Promise.reject(full())
    this.#source = source
    return super.open(source)
  }

  override commit(): void {
    super.commit()
    queueMicrotask(() => this.#write())
  }

  #write(): void {
    if (!this.isFull) {
      this.durable(this.openSequence - 1)
      return
    }
    const hasLost = this.recordedSequence > this.committedSequence
    this.crash()
    if (hasLost) this.#source?.failed(full())
  }
}

function full(): StoreError {
  return new StoreError('full', 'no space left', 'Free some.')
}

/** Starts a broker on the disk. It follows `before` if that was killed so many seconds ago. */
function start(disk: Disk, before?: World, downSeconds = 0): Promise<World> {
  return World.make({ store: disk, limits: { clockGraceSeconds: 0 } }, (world) => {
    if (before === undefined) return
    disk.crash()
    world.wall = before.wall + downSeconds * 1000
  })
}

/** Fills the disk up by a commit that fails, and mends it after so many seconds. */
async function fillAndMend(world: World, disk: Disk, seconds: number): Promise<void> {
  const recovered = world.record('storeRecovered')
  disk.isFull = true
  await world.connect('trigger', lasting()).catch(() => {})
  await world.pass(seconds)
  expect(world.server.health.state).toBe('recovering')
  disk.isFull = false
  await world.pass(2)
  expect(recovered).toHaveLength(1)
}

function clientIds({ server }: World): string[] {
  return [...server.state.sessions.keys()]
}

it('[MQTT-4.1.0-2] Sessions that a full disk cut off end on time, also after crashes', async () => {
  const disk = new Disk()
  const first = await start(disk)
  await first.connect('stays', lasting(EXPIRY_SECONDS))
  const leaves = await first.connect('leaves', lasting(EXPIRY_SECONDS))
  disk.isFull = true
  void leaves.vanish()
  await fillAndMend(first, disk, 30)
  expect(first.fatal).toBeNull()
  expect(clientIds(first)).toEqual(['stays', 'leaves'])
  await first.pass(40)
  // Each of two crashes would begin the time anew.
  const second = await start(disk, first, 20)
  await second.pass(20)
  const third = await start(disk, second)
  await third.pass(15)
  expect(clientIds(third)).toEqual(['stays', 'leaves'])
  await third.pass(10)
  expect(clientIds(third)).toEqual([])
})

it('[MQTT-4.1.0-1] a Session whose client is back after a full disk outlives a crash', async () => {
  const disk = new Disk()
  const first = await start(disk)
  await first.connect('back', lasting(EXPIRY_SECONDS))
  await fillAndMend(first, disk, 30)
  const back = await first.connect('back', lasting(EXPIRY_SECONDS))
  expect(back.connack).toMatchObject({ sessionPresent: true })
  await first.pass(2 * EXPIRY_SECONDS)
  const second = await start(disk, first)
  await second.pass(EXPIRY_SECONDS - 1)
  expect(clientIds(second)).toEqual(['back'])
})
