import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { buildFaults, FaultyDisk } from '../../scripts/crash/disk.mjs'
import { Random } from '../../scripts/crash/random.mjs'

const { library, remove } = buildFaults()
let directory: string
let disk: FaultyDisk

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-disk-'))
  disk = new FaultyDisk({ library, directory, random: new Random(1), powerCuts: true })
})
afterEach(() => rmSync(directory, { recursive: true }))
afterAll(remove)

/** Runs a program on the disk; `data` in it is the disk's directory. Returns its output. */
function run(program: string): string {
  const code = `const fs = require('node:fs'); const data = ${JSON.stringify(disk.data)}; ${program}`
  const environment = { ...process.env, ...disk.environment() }
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', code], {
    env: environment,
    encoding: 'utf8',
  })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  return stdout
}

describe('the trace of a process', () => {
  it('explains all changes that Node makes to files', () => {
    run(`
      fs.mkdirSync(data)
      const fd = fs.openSync(data + '/a', 'w+')
      fs.writeSync(fd, 'one')
      fs.writeSync(fd, 'two', 10)
      fs.writevSync(fd, [Buffer.from('x'), Buffer.from('yz')])
      fs.writevSync(fd, [Buffer.from('three'), Buffer.from('four')], 20)
      fs.ftruncateSync(fd, 25)
      fs.fsyncSync(fd)
      fs.closeSync(fd)
      fs.appendFileSync(data + '/a', 'more')
      fs.linkSync(data + '/a', data + '/b')
      fs.renameSync(data + '/a', data + '/c')
      fs.writeFileSync(data + '/d', 'gone')
      fs.writeFileSync(data + '/d', 'again')
      fs.unlinkSync(data + '/b')
      fs.mkdirSync(data + '/e')
      fs.rmdirSync(data + '/e')
      try { fs.renameSync(data + '/none', data + '/c') } catch {}
    `)
    expect(() => disk.cutPower()).not.toThrow()
  })

  it('does not take a socket for the file that had its number before', () => {
    const said = run(`
      const net = require('node:net')
      fs.mkdirSync(data)
      const server = net.createServer((socket) => socket.end('to the socket'))
      server.listen(0, '127.0.0.1', () => {
        const fds = Array.from({ length: 20 }, (_, index) => fs.openSync(data + '/' + index, 'w'))
        for (const fd of fds) fs.closeSync(fd)
        net.connect(server.address().port, '127.0.0.1').on('data', (text) => {
          console.log(String(text))
          server.close()
        })
      })
    `)
    expect(said).toBe('to the socket\n')
    expect(disk.records.filter(({ type }) => type === 'W')).toEqual([])
    expect(disk.records.filter(({ type }) => type === 'S').map(({ bytes }) => `${bytes}`)).toContain(
      'to the socket',
    )
    expect(() => disk.cutPower()).not.toThrow()
  })

  it('is refused when it does not explain a file', () => {
    run(`fs.mkdirSync(data); fs.writeFileSync(data + '/a', 'text')`)
    writeFileSync(join(disk.data, 'a'), 'something else')
    expect(() => disk.cutPower()).toThrow('not recorded: data/a')
  })
})

describe('a power cut', () => {
  it('keeps synced files in synced directories, and the next start has them', () => {
    run(`
      const sync = (path) => { const fd = fs.openSync(path); fs.fsyncSync(fd); fs.closeSync(fd) }
      fs.mkdirSync(data)
      fs.writeFileSync(data + '/a', 'kept')
      sync(data + '/a')
      sync(data)
      sync(require('node:path').dirname(data))
    `)
    disk.cutPower()
    expect(readFileSync(join(disk.data, 'a'), 'utf8')).toBe('kept')
    run(`fs.appendFileSync(data + '/a', ', and more'); const fd = fs.openSync(data + '/a'); fs.fsyncSync(fd)`)
    disk.cutPower()
    expect(readFileSync(join(disk.data, 'a'), 'utf8')).toBe('kept, and more')
  })
})

describe('a disk that fails', () => {
  it('fails every write and sync from a call on, until it is mended', () => {
    disk.fail({ error: 'ENOSPC', countdown: 2, torn: false })
    const said = run(`
      const outcomeOf = (work) => { try { work(); return 'done' } catch (error) { return error.code } }
      const attempt = (work) => console.log(outcomeOf(work))
      attempt(() => fs.mkdirSync(data))
      const fd = fs.openSync(data + '/a', 'w')
      attempt(() => fs.writeSync(fd, 'x'))
      attempt(() => fs.fsyncSync(fd))
      attempt(() => fs.ftruncateSync(fd, 0))
      attempt(() => fs.renameSync(data + '/a', data + '/b'))
      fs.rmSync(${JSON.stringify(directory)} + '/flag')
      attempt(() => fs.writeSync(fd, 'x'))
    `)
    expect(said.trim().split('\n')).toEqual(['done', 'ENOSPC', 'ENOSPC', 'ENOSPC', 'ENOSPC', 'done'])
    expect(() => disk.cutPower()).not.toThrow()
  })

  it('can tear the first write', () => {
    disk.fail({ error: 'EIO', countdown: 2, torn: true })
    run(`
      fs.mkdirSync(data)
      const fd = fs.openSync(data + '/a', 'w')
      try { fs.writeSync(fd, 'abcdef') } catch {}
    `)
    expect(readFileSync(join(disk.data, 'a'), 'utf8')).toBe('abc')
    expect(() => disk.cutPower()).not.toThrow()
  })
})
