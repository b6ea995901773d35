import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { killedCopy } from './killed-copy.ts'
import { delivery, ModelServer, message } from './model.ts'

let root: string
let live: string
let copy: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'godwit-killed-'))
  live = join(root, 'live')
  copy = join(root, 'copy')
})

afterEach(() => {
  rmSync(root, { recursive: true, force: true })
})

describe('a copy of a live store', () => {
  async function opened(): Promise<ModelServer> {
    const server = new ModelServer(storeOn(live))
    await server.open()
    server.createSession(1)
    server.enqueue(1, delivery(message('t', 'x'.repeat(1000))))
    await server.commit()
    return server
  }

  const storeOn = (directory: string): LevelStore =>
    new LevelStore({ directory, sync: false, residentBytesMax: 1_000_000, reserveBytes: 0 })

  const manifest = (): string => join(live, readFileSync(join(live, 'CURRENT'), 'latin1').trim())

  test('has no LOCK, and all other files', async () => {
    const server = await opened()
    killedCopy(live, copy)
    expect(readdirSync(copy)).toEqual(readdirSync(live).filter((name) => name !== 'LOCK'))
    const state = server.describe()
    await server.store.close()
    const again = new ModelServer(storeOn(copy))
    await again.open()
    await again.restoreAll()
    expect(again.describe()).toBe(state)
    await again.store.close()
  })

  test.each(['before', 'after'])('is made again if a table is deleted %s its turn', async (when) => {
    const server = await opened()
    const [old, recent] = ['000998.ldb', '000999.ldb']
    writeFileSync(join(live, old), 'old')
    let [isCopied, isDeleted] = [false, false]
    killedCopy(live, copy, (name) => {
      // As a compaction ends: the new table, its edit in the MANIFEST, and then the old table goes.
      if (!isDeleted && (when === 'before' ? name === old : isCopied)) {
        writeFileSync(join(live, recent), 'recent')
        appendFileSync(manifest(), 'edit')
        rmSync(join(live, old))
        isDeleted = true
      }
      isCopied ||= name === old
    })
    expect(isDeleted).toBe(true)
    expect(readdirSync(live)).toContain(recent)
    expect(readdirSync(copy)).toEqual(readdirSync(live).filter((name) => name !== 'LOCK'))
    await server.store.close()
  })

  test('fails if no file is there', () => {
    expect(() => killedCopy(live, copy)).toThrow('ENOENT')
  })
})
