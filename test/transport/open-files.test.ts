import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  openFiles,
  openFilesMax,
  openFilesNotice,
  openFilesReason,
  parseOpenFilesMax,
  RESERVED_FILES,
} from '../../src/transport/open-files.ts'

const NO_LIMIT = Number.POSITIVE_INFINITY

const LIMITS = (
  soft: string,
) => `Limit                     Soft Limit           Hard Limit           Units     
Max processes             15731                15731                processes 
Max open files            ${soft.padEnd(20)} 1048576              files     
Max locked memory         8388608              8388608              bytes     
`

describe('the limit of open files', () => {
  it('is the soft one of /proc/self/limits', () => {
    expect(parseOpenFilesMax(LIMITS('1024'))).toBe(1024)
  })

  it('is Infinity if there is none or it is unknown', () => {
    expect(parseOpenFilesMax(LIMITS('unlimited'))).toBe(NO_LIMIT)
    expect(parseOpenFilesMax('')).toBe(NO_LIMIT)
  })

  it.runIf(process.platform === 'linux')('of this process is read', () => {
    expect(openFilesMax()).toBe(parseOpenFilesMax(readFileSync('/proc/self/limits', 'utf8')))
    expect(openFilesMax()).toBeGreaterThan(0)
  })

  it('minus the reserve is for connections', () => {
    expect(RESERVED_FILES).toBe(128)
    expect(openFiles(1024)).toEqual({ openFilesMax: 1024, connectionsMax: 896 })
    expect(openFiles(100)).toEqual({ openFilesMax: 100, connectionsMax: 0 })
    expect(openFiles(NO_LIMIT)).toEqual({ openFilesMax: NO_LIMIT, connectionsMax: NO_LIMIT })
  })

  it("minus LevelDB's tables where it cannot map them", () => {
    expect(openFiles(1000, 'arm').connectionsMax).toBe(1000 - 128 - 200)
    expect(openFiles(1_048_576, 'arm').connectionsMax).toBe(1_048_576 - 128 - 900)
    expect(openFiles(1000, 'arm64').connectionsMax).toBe(1000 - 128)
  })

  it('is explained with advice', () => {
    expect(openFilesReason(openFiles(1024))).toMatch(
      /open files, 1024, allows 896 .* LimitNOFILE .* ulimit -n/,
    )
  })

  it('is reported at the start if it is below connections_max or low', () => {
    expect(openFilesNotice(openFiles(1024), NO_LIMIT)).toBeNull()
    expect(openFilesNotice(openFiles(NO_LIMIT), 100_000)).toBeNull()
    expect(openFilesNotice(openFiles(1024), 896)).toBeNull()
    expect(openFilesNotice(openFiles(1024), 897)).toMatch(/^connections_max is 897, but .* allows 896/)
    expect(openFilesNotice(openFiles(300), NO_LIMIT)).toMatch(/^the limit of open files, 300, allows 172/)
    expect(openFilesNotice(openFiles(300), 100)).toBeNull()
    expect(openFilesNotice(openFiles(100), NO_LIMIT)).toMatch(/allows 0/)
  })
})
