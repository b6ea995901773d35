/** Small disks that are really full. They are mounted for the test, if that is allowed. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { mkdtemp, open, readdir, rm, rmdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Message, Topic } from '../../src/mqtt/message.ts'
import { REDO_FILE } from '../../src/store/files/data-directory.ts'
import { freeSpace } from '../../src/store/files/space-guard.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { delivery, ModelServer } from './model.ts'

const MIB = 1024 * 1024

function mayMount(): boolean {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', directory], { stdio: 'ignore' })
    // Some sandboxes only pretend to mount.
    writeFileSync(join(directory, 'file'), Buffer.alloc(MIB / 2))
    execFileSync('umount', [directory], { stdio: 'ignore' })
    return true
  } catch {
    return false
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

let mounted: string[] = []

async function disk(mebibytes: number): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-disk-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'none', directory])
  mounted.push(directory)
  return directory
}

afterEach(async () => {
  for (const directory of mounted) {
    execFileSync('umount', ['-l', directory])
    await rmdir(directory)
  }
  mounted = []
})

function serverOn(directory: string, reserveBytes: number): ModelServer {
  const server = new ModelServer(
    new LevelStore({
      directory: join(directory, 'data'),
      sync: true,
      residentBytesMax: 4 * MIB,
      reserveBytes,
    }),
  )
  server.remember = false
  return server
}

function messageOf(bytes: number): Message {
  return Message.of({
    topic: new Topic('t'),
    payload: randomBytes(bytes),
    qos: 1,
    retain: false,
    publisher: 'p',
  })
}

/** Publishes until nothing was accepted for a while. Returns how many messages were accepted. */
async function publishUntilRefused(
  server: ModelServer,
  { bytes, parallel }: { bytes: number; parallel: number },
): Promise<number> {
  let accepted = 0
  for (let refused = 0; refused < 20; ) {
    let now = 0
    for (let index = 0; index < parallel; index++) {
      if (server.store.refusalFor(bytes) !== null) continue
      server.enqueue(1, delivery(messageOf(bytes)))
      now++
    }
    await server.commit()
    expect(server.failures.map((failure) => failure.message)).toEqual([])
    accepted += now
    refused = now === 0 ? refused + 1 : 0
    if (now === 0) await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return accepted
}

/** Fills the rest of the disk, as another program might. */
async function occupy(directory: string): Promise<void> {
  const file = await open(join(directory, 'other'), 'a')
  try {
    for (;;) await file.write(Buffer.alloc(64 * 1024))
  } catch {
    // The disk is full now.
  } finally {
    await file.close()
  }
  expect(await freeSpace(directory)).toBeLessThan(64 * 1024)
}

async function drain(server: ModelServer): Promise<number> {
  // Asked for only once, because the model makes the queue anew each time.
  const { length } = server.session(1).queue
  for (let drained = 0; drained < length; drained++) {
    server.drop(1)
    if (drained % 200 !== 199 && drained < length - 1) continue
    await server.commit()
    expect(server.failures.map((failure) => failure.message)).toEqual([])
  }
  return length
}

const CASES = [
  { bytes: 20_000_000, parallel: 5, disk: 320, reserve: 64, others: true },
  { bytes: 60_000_000, parallel: 2, disk: 480, reserve: 64, others: false },
  { bytes: 1_000_000, parallel: 10, disk: 320, reserve: 16, others: false },
  { bytes: 2000, parallel: 500, disk: 320, reserve: 64, others: false },
]

describe.runIf(mayMount())('on a disk of its own', () => {
  test.each(CASES)(
    '$parallel messages at once of $bytes bytes are refused before $disk MiB are full; ' +
      'then the store is opened and drained (others fill the disk: $others)',
    async (given) => {
      const directory = await disk(given.disk)
      const server = serverOn(directory, given.reserve * MIB)
      await server.open()
      server.createSession(1)
      const accepted = await publishUntilRefused(server, given)
      expect(accepted).toBeGreaterThan(0)
      await server.store.close()
      if (given.others) await occupy(directory)
      const again = serverOn(directory, given.reserve * MIB)
      await again.open()
      if (given.others) expect(again.store.refusal).toContain('disk nearly full')
      expect(await drain(again)).toBe(accepted)
      await again.store.close()
      await rm(join(directory, 'other'), { force: true })
      const last = serverOn(directory, given.reserve * MIB)
      await last.open()
      expect(last.session(1).queue).toEqual([])
      // Deleted values take space until LevelDB has merged them away.
      await vi.waitFor(() => expect(last.store.refusalFor(given.bytes)).toBeNull(), 60_000)
      await last.store.close()
    },
  )

  test('a store without room for a redo log goes without one', async () => {
    const directory = await disk(3)
    const server = serverOn(directory, 0)
    await server.open()
    server.createSession(1)
    server.enqueue(1, delivery(messageOf(100)))
    await server.commit()
    expect(server.failures).toEqual([])
    await server.store.close()
    expect(await readdir(join(directory, 'data'))).not.toContain(REDO_FILE)
    const again = serverOn(directory, 0)
    await again.open()
    expect(again.session(1).queue).toHaveLength(1)
    await again.store.close()
  })
})
