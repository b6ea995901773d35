/** The logger: pino's JSON lines, or lines for people. */
import { type Level, type Logger, pino } from 'pino'
import { WAITING_BYTES_MAX } from './log-bounds.ts'
import { type LineWriter, LogOutput } from './log-output.ts'

/** Writes to `output`, as long as no more than `waitingBytesMax` wait there. Time is ISO 8601 in UTC. */
export function createLogger(
  level: Level | 'silent',
  format: 'json' | 'pretty',
  output: LineWriter,
  waitingBytesMax = WAITING_BYTES_MAX,
): Logger {
  const bounded = new LogOutput(output, waitingBytesMax, (count) => {
    const line = lostLine(count)
    return format === 'json' ? line : readable(line)
  })
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    format === 'json' ? bounded : { write: (line: string) => bounded.write(readable(line)) },
  )
}

/** The JSON line that stands for so many that could not be written. */
export function lostLine(count: number): string {
  const fields = { level: 'warn', time: new Date().toISOString(), count }
  return `${JSON.stringify({ ...fields, msg: 'lines of this log were lost: the reader, or the disk, did not take them' })}\n`
}

/** One of our JSON lines as `12:00:00 info  text key=value`. */
export function readable(line: string): string {
  const { level, time, msg, err, ...fields } = JSON.parse(line) as Record<string, unknown>
  const pairs = Object.entries(fields).map(([key, value]) => `${key}=${plain(value)}`)
  const error = err === undefined ? [] : [`error=${plain((err as { message?: unknown }).message)}`]
  return `${[String(time).slice(11, 19), String(level).padEnd(5), msg, ...pairs, ...error].join(' ')}\n`
}

/** Quotes only where a value would not be one word. */
function plain(value: unknown): string {
  return typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value)
}
