/** The form of the tables of configuration keys: a row is everything that a key needs. */
import { z } from 'zod'
import type { Effect } from '../broker/boundary/limit-row.ts'

/** The default of a key that must be given. */
export const REQUIRED = Symbol('required')

/** One key. The rows of limits are in `LIMIT_TABLE`. */
export interface KeyRow<T> {
  readonly schema: z.ZodType<T>
  /** The value without the key; undefined if there is none. */
  readonly default: NoInfer<T> | typeof REQUIRED
  /** The unit of a number; empty without one. */
  readonly unit:
    | 'bytes'
    | 'seconds'
    | 'milliseconds'
    | 'messages'
    | 'ids'
    | 'lines a second'
    | 'connections'
    | ''
  /** The moment when a reload applies a change. `now` for a key of a listener means that it is reopened. */
  readonly effect: Effect
  /** The counter of what the key refuses, below `$SYS/broker`; null if it refuses nothing. */
  readonly counter: string | null
  /** One line of documentation, in lower case and without a full stop. */
  readonly says: string
  /** Further sentences for the example configuration, in paragraphs and items (`- `). */
  readonly note?: string
  /** The default as the example writes it, or an example of a key without a default. */
  readonly written?: string
  /** The value is a path, or a list of paths. In a file they are relative to its directory. */
  readonly isPath?: boolean
}

/** Rows and groups of rows, by the names of their keys. */
export interface KeyTable {
  readonly [name: string]: KeyRow<unknown> | KeyTable
}

/** The parsed values of a table. */
export type Parsed<Table> =
  Table extends KeyRow<infer T>
    ? T
    : { readonly [Name in keyof Table as IfOptional<Table[Name], never, Name>]: Parsed<Table[Name]> } & {
        readonly [Name in keyof Table as IfOptional<Table[Name], Name, never>]?: Parsed<Table[Name]>
      }

/** A schema for each key of a table. */
export type Shape<Table> = { readonly [Name in keyof Table]: z.ZodType<Parsed<Table[Name]>> }

type IfOptional<Row, Yes, No> = Row extends KeyRow<infer T> ? (undefined extends T ? Yes : No) : No

type Camel<Name extends string> = Name extends `${infer First}_${infer Rest}`
  ? `${First}${Capitalize<Camel<Rest>>}`
  : Name

/** The same values under names for programs. */
export type CamelCased<Group> = { readonly [Name in keyof Group as Camel<Name & string>]: Group[Name] }

/** Fixes the type of a row's values. */
export function row<T>(of: KeyRow<T>): KeyRow<T> {
  return of
}

/** Whether a value of a table is a row, not a group of rows. */
export function isRow(value: KeyRow<unknown> | KeyTable): value is KeyRow<unknown> {
  return value.schema instanceof z.ZodType
}

/** Lists the rows of a table by their keys, such as `data.directory`. */
export function rowsOf(table: KeyTable, prefix = ''): [string, KeyRow<unknown>][] {
  return Object.entries(table).flatMap(([name, value]) =>
    isRow(value) ? [[prefix + name, value] as [string, KeyRow<unknown>]] : rowsOf(value, `${prefix}${name}.`),
  )
}

/** Returns the schemas of the keys of a table. Groups may be absent. */
export function shapeOf<Table extends KeyTable>(table: Table): Shape<Table> {
  const schemas = Object.entries(table).map(([name, value]): [string, z.ZodType] => {
    if (!isRow(value)) return [name, z.strictObject(shapeOf(value)).prefault({})]
    if (value.default === REQUIRED) return [name, value.schema]
    return [name, value.default === undefined ? value.schema.optional() : value.schema.default(value.default)]
  })
  return Object.fromEntries(schemas) as Shape<Table>
}

/** Renames `like_this` to `likeThis`. */
export function camelCased<Group extends object>(group: Group): CamelCased<Group> {
  const entries = Object.entries(group).map(([name, value]) => [
    name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()),
    value,
  ])
  return Object.fromEntries(entries) as CamelCased<Group>
}

/** Does not compile if an object has keys that nobody has taken out of it. */
export function expectNothing(_rest: Readonly<Record<PropertyKey, never>>): void {}
