/** The logger: pino's JSON lines, or lines for people. */
import { type DestinationStream, type Level, type Logger, pino } from 'pino'

/** Writes to `output`. Time is ISO 8601 in UTC. */
export function createLogger(
  level: Level | 'silent',
  format: 'json' | 'pretty',
  output: DestinationStream,
): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    format === 'json' ? output : { write: (line: string) => output.write(readable(line)) },
  )
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
