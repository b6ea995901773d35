/** Creates loggers that write pino's JSON lines, or lines for people. */
import { type Level, type Logger, pino } from 'pino'
import { WAITING_BYTES_MAX } from './log-bounds.ts'
import { type LineWriter, LogOutput } from './log-output.ts'

/**
 * Creates a logger. At most `waitingBytesMax` wait in `output`; further lines are lost. Times are ISO 8601
 * in UTC.
 */
export function createLogger(
  level: Level | 'silent',
  format: 'json' | 'pretty',
  output: LineWriter,
  waitingBytesMax = WAITING_BYTES_MAX,
): Logger {
  const bounded = new LogOutput(output, waitingBytesMax, (count) => {
    const line = lostLine(count)
    return format === 'json' ? line : prettyLine(line)
  })
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    format === 'json' ? bounded : { write: (line: string) => bounded.write(prettyLine(line)) },
  )
}

/** Returns a JSON line that reports lost lines. */
export function lostLine(count: number): string {
  const msg = 'lines of this log were lost: the reader or the disk did not take them'
  const line = { level: 'warn', time: new Date().toISOString(), count, msg }
  return `${JSON.stringify(line)}\n`
}

/** Formats one of our JSON lines as `12:00:00 info  text key=value`. */
export function prettyLine(line: string): string {
  const { level, time, msg, err, ...fields } = JSON.parse(line) as Record<string, unknown>
  const pairs = Object.entries(fields).map(([key, value]) => `${key}=${plain(value)}`)
  const error = err === undefined ? [] : [`error=${plain((err as { message?: unknown }).message)}`]
  return `${[String(time).slice(11, 19), String(level).padEnd(5), msg, ...pairs, ...error].join(' ')}\n`
}

/** Quotes a value unless it is one word. */
function plain(value: unknown): string {
  return typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value)
}
