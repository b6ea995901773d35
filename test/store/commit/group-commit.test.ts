import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { GroupCommit } from '../../../src/store/commit/group-commit.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from '../model.ts'
import { hookedWriter } from '../recorded.ts'

describe('the decision', () => {
  test('a commit does not wait without company, or if it carries half as much again as the last one', () => {
    const groupCommit = new GroupCommit()
    expect(groupCommit.begins(100, 0)).toBe(false)
    expect(groupCommit.begins(100, 150)).toBe(false)
    expect(groupCommit.begins(100, 149)).toBe(true)
  })

  test('the wait is over when most of the answered clients are back', () => {
    const groupCommit = new GroupCommit()
    groupCommit.begins(100, 50)
    groupCommit.waits(0.2, 1000)
    expect(groupCommit.isOver(119, 1000.1)).toBe(false)
    expect(groupCommit.isOver(120, 1000.1)).toBe(true)
    expect(groupCommit.begins(100, 50)).toBe(true)
  })

  test('the wait lasts as long as the last commit, and half a millisecond at most', () => {
    const groupCommit = new GroupCommit()
    groupCommit.begins(100, 50)
    groupCommit.waits(0.2, 1000)
    expect(groupCommit.isOver(90, 1000.19)).toBe(false)
    expect(groupCommit.isOver(90, 1000.2)).toBe(true)
    groupCommit.begins(100, 50)
    groupCommit.waits(20, 1000)
    expect(groupCommit.isOver(90, 1000.49)).toBe(false)
    expect(groupCommit.isOver(90, 1000.5)).toBe(true)
  })

  test('after waiting in vain, sixteen commits do not wait', () => {
    const groupCommit = new GroupCommit()
    groupCommit.begins(100, 50)
    groupCommit.waits(0.2, 1000)
    expect(groupCommit.isOver(84, 1001)).toBe(true)
    for (let count = 0; count < 16; count++) expect(groupCommit.begins(100, 50)).toBe(false)
    expect(groupCommit.begins(100, 50)).toBe(true)
  })
})

describe('a store', () => {
  let directory: string
  let writes = 0
  /** Lets the write in flight end. */
  let go: () => void = () => {}
  let held: Promise<void> = Promise.resolve()

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'godwit-group-commit-'))
    writes = 0
    held = Promise.resolve()
  })

  afterEach(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  /** Makes a Server with a Session, whose writes wait for `held`. */
  async function model(): Promise<ModelServer> {
    const openBatch = hookedWriter((_operations, commit) => {
      writes++
      const wait = held
      // LevelDB copies at once. Only the answer is late.
      return commit().then(() => wait)
    })
    const server = new ModelServer(
      new LevelStore({ directory, sync: false, residentBytesMax: 1_000_000, reserveBytes: 0, openBatch }),
    )
    await server.open()
    server.createSession(1)
    await server.commit()
    return server
  }

  function publish(server: ModelServer, name: string): void {
    server.enqueue(1, delivery(message('a', name.repeat(300))))
    server.store.commit()
  }

  /** Publishes two messages: one is being written, and the other waits. */
  async function twoGroups(server: ModelServer): Promise<void> {
    held = new Promise((resolve) => {
      go = resolve
    })
    writes = 0
    publish(server, '1')
    publish(server, '2')
    held = Promise.resolve()
    expect(writes).toBe(1)
  }

  test('commits clients that come back at once together with those that waited', async () => {
    const server = await model()
    await twoGroups(server)
    const { committed } = server
    server.committed = (sequence) => {
      server.committed = committed
      committed.call(server, sequence)
      publish(server, '3')
    }
    go()
    const last = server.store.openSequence
    while (server.store.committedSequence < last) await server.commit()
    expect(writes).toBe(2)
    expect(server.store.recordedSequence).toBe(last)
    await server.store.close()
  })

  test('commits what waited even if nobody comes back', async () => {
    const server = await model()
    await twoGroups(server)
    go()
    await server.commit()
    expect(writes).toBe(2)
    await server.store.close()
  })

  test('writes what waits when it is closed meanwhile', async () => {
    const server = await model()
    await twoGroups(server)
    const { committed } = server
    await new Promise<void>((resolve, reject) => {
      server.committed = (sequence) => {
        server.committed = committed
        committed.call(server, sequence)
        server.store.close().then(resolve, reject)
      }
      go()
    })
    expect(server.store.committedSequence).toBe(server.store.recordedSequence)
    const before = server.describe()
    await server.open()
    await server.restoreAll()
    expect(server.describe()).toBe(before)
    expect(server.queue(1)).toHaveLength(2)
    await server.store.close()
  })
})
