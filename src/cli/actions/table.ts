/** PURE. Formats tables, times and sizes for people. */
import { printable } from '../../observe/printable.ts'

/** A column of a table. */
export interface Column<T> {
  readonly title: string
  /** Returns the cell; numbers are aligned to the right. */
  value(row: T): string | number
}

/** Returns the lines of the table, titles first. Control characters from clients are escaped. */
export function table<T>(columns: readonly Column<T>[], rows: readonly T[]): string[] {
  const cells = rows.map((row) => columns.map(({ value }) => value(row)))
  const texts = cells.map((row) => row.map((cell) => printable(String(cell))))
  const widths = columns.map(({ title }, at) =>
    texts.reduce((width, row) => Math.max(width, row[at]!.length), title.length),
  )
  const isNumber = columns.map((_, at) => cells.some((row) => typeof row[at] === 'number'))
  const line = (row: readonly string[]): string =>
    row
      .map((text, at) => (isNumber[at] ? text.padStart(widths[at]!) : text.padEnd(widths[at]!)))
      .join('  ')
      .trimEnd()
  return [line(columns.map(({ title }) => title)), ...texts.map(line)]
}

/** Formats a line for each name and its text; entries without text are left out. */
export function lines(pairs: readonly (readonly [name: string, text: string | number | null])[]): string {
  const shown = pairs.filter(([, text]) => text !== null && text !== '')
  const width = shown.reduce((most, [name]) => Math.max(most, name.length), 0) + 2
  return shown.map(([name, text]) => `${name.padEnd(width)}${text}`).join('\n')
}

/** Formats a time as `3 s`, `12 min`, `5 h 12 min` or `3 days 4 h`. */
export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  if (hours < 24) return `${hours} h ${minutes % 60} min`
  const days = Math.floor(hours / 24)
  return `${days} ${days === 1 ? 'day' : 'days'} ${hours % 24} h`
}

/** Formats bytes as `999 B`, `12 KiB`, `3.4 MiB` or `1.2 GiB`. */
export function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  if (bytes < 1024 ** 2) return `${Math.floor(bytes / 1024)} KiB`
  if (bytes < 1024 ** 3) return `${(bytes / 1024 ** 2).toFixed(1)} MiB`
  return `${(bytes / 1024 ** 3).toFixed(1)} GiB`
}
