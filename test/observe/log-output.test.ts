import { expect, test } from 'vitest'
import { LogOutput } from '../../src/observe/log-output.ts'
import { createLogger } from '../../src/observe/logger.ts'

/** A stream whose reader stops and goes on by hand. */
class Reader {
  readonly written: string[] = []
  writableLength = 0
  stopped = false
  failure: Error | null = null
  #drained: (() => void)[] = []

  write(text: string, done?: (error?: Error | null) => void): boolean {
    if (this.failure !== null) {
      done?.(this.failure)
      return false
    }
    this.written.push(text)
    if (this.stopped) this.writableLength += text.length
    done?.(null)
    return !this.stopped
  }

  once(_event: 'drain', callback: () => void): void {
    this.#drained.push(callback)
  }

  goOn(): void {
    this.stopped = false
    this.writableLength = 0
    for (const callback of this.#drained.splice(0)) callback()
  }
}

const lost = (count: number) => `${count} lost`

test('a stalled reader costs lines, not memory; the count is logged when it reads again [field-D24]', () => {
  const reader = new Reader()
  const output = new LogOutput(reader, 10, lost)
  reader.stopped = true
  for (let line = 0; line < 1000; line++) output.write('12345')
  expect(reader.written).toEqual(['12345', '12345'])
  // Nobody logs anything meanwhile.
  reader.goOn()
  output.write('after')
  expect(reader.written.slice(2)).toEqual(['998 lost', 'after'])
})

test('lines that a full disk refuses are counted and reported with the next line [field-D24]', () => {
  const reader = new Reader()
  const output = new LogOutput(reader, 10, lost)
  reader.failure = new Error('ENOSPC')
  for (let line = 0; line < 3; line++) output.write('x')
  reader.failure = null
  output.write('after')
  expect(reader.written).toEqual(['3 lost', 'after'])
})

test('a writer that throws, as for a file on a full disk, does not end the broker [field-D24]', () => {
  const written: string[] = []
  let isFull = true
  const write = (text: string): void => {
    if (isFull) throw new Error('ENOSPC')
    written.push(text)
  }
  const output = new LogOutput({ write }, 10, lost)
  output.write('x')
  isFull = false
  output.write('after')
  expect(written).toEqual(['1 lost', 'after'])
})

test.each(['json', 'pretty'] as const)('the logger bounds what waits, as %s [field-D24]', (format) => {
  const reader = new Reader()
  const logger = createLogger('info', format, reader, 1000)
  reader.stopped = true
  for (let line = 0; line < 100; line++) logger.info({ line }, 'something')
  expect(reader.writableLength).toBeLessThan(1100)
  reader.goOn()
  const last = reader.written.at(-1)!
  const count = 100 - (reader.written.length - 1)
  if (format === 'json') expect(JSON.parse(last)).toMatchObject({ level: 'warn', count })
  else expect(last).toContain(`count=${count}`)
})
