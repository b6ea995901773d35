/** PURE. A row of the table of limits: allowed values, values of the profiles, counter, documentation. */

/** The sets of values that `limits.profile` chooses from. */
export const PROFILE_NAMES = ['open', 'fleet', 'internet'] as const

export type Profile = (typeof PROFILE_NAMES)[number]

/** When a reload takes effect: for everybody, for clients that connect later, or after a restart. */
export type Effect = 'now' | 'connections' | 'restart'

/** The values that a limit may have, as data: the configuration makes its checks and its messages from it. */
export interface Kind<T> {
  readonly type: 'whole' | 'bytes' | 'seconds' | 'fractional seconds' | 'truth' | 'one of' | 'refused filters'
  /** The unit; empty for none. */
  readonly unit: string
  readonly min: number
  readonly max: number
  /** Whether the word `unlimited` is allowed, for Infinity. */
  readonly unlimited: boolean
  /**
   * Whether the word `auto` is allowed and the default: the program finds the value, or else uses that of the
   * row.
   */
  readonly automatic?: boolean
  /** The values of `one of`. */
  readonly choices: readonly T[]
}

/**
 * Where refusals are counted. `own`: in `Counters.limits` under the limit's name. Another name: in that
 * counter, such as a reason of `Counters.drops`. Null: the limit refuses nothing.
 */
export type Counter = 'own' | 'queue-full' | 'slow-reader' | 'queueMessagesMax' | null

/** One limit. Its name in the configuration is `configKey` of its name here. */
export interface LimitRow<T, C extends Counter = Counter> {
  readonly kind: Kind<T>
  readonly open: T
  readonly fleet: T
  readonly internet: T
  /** When a reload takes a change over. */
  readonly effect: Effect
  readonly counter: C
  /** One line of documentation. */
  readonly says: string
  /** Further sentences for the example configuration. */
  readonly note?: string
}

/** The value of a row. */
export type ValueOf<R> = R extends LimitRow<infer T> ? T : never

export const KIB = 1024
export const MIB = 1024 * KIB
export const GIB = 1024 * MIB

export const UNLIMITED = Number.POSITIVE_INFINITY

/** Makes a row; `values` are those of open, fleet and internet, or one for all three. */
export function row<T, const C extends Counter>(
  kind: Kind<T>,
  values: NoInfer<readonly [T, T, T] | readonly [T]>,
  effect: Effect,
  counter: C,
  says: string,
  note?: string,
): LimitRow<T, C> {
  const [open, fleet = open, internet = open] = values
  return Object.freeze({
    kind,
    open,
    fleet,
    internet,
    effect,
    counter,
    says,
    ...(note !== undefined && { note }),
  })
}

/** A whole number of something. */
export function whole(
  unit: string,
  range: { readonly min?: number; readonly max?: number } = {},
): Kind<number> {
  const { min = 1, max = Number.MAX_SAFE_INTEGER } = range
  return { type: 'whole', unit, min, max, unlimited: false, choices: [] }
}

/** A number of bytes. */
export function bytes(range: { readonly min: number; readonly max?: number }): Kind<number> {
  const { min, max = Number.MAX_SAFE_INTEGER } = range
  return { type: 'bytes', unit: 'bytes', min, max, unlimited: false, choices: [] }
}

/** A number of seconds. */
export function seconds(
  range: { readonly min: number; readonly max: number },
  precision: 'whole' | 'fractional' = 'whole',
): Kind<number> {
  const type = precision === 'whole' ? 'seconds' : 'fractional seconds'
  return { type, unit: 'seconds', ...range, unlimited: false, choices: [] }
}

/** Allows the word `unlimited`, too. */
export function orUnlimited(kind: Kind<number>): Kind<number> {
  return { ...kind, unlimited: true }
}

/** One or more of something, at most `max`, or the word `unlimited`. */
export function count(unit: string, max?: number): Kind<number> {
  return orUnlimited(whole(unit, max === undefined ? {} : { max }))
}

/** Lets the program find the value unless one is set. */
export function orAutomatic(kind: Kind<number>): Kind<number> {
  return { ...kind, automatic: true }
}

export function truth(): Kind<boolean> {
  return { type: 'truth', unit: '', min: 0, max: 0, unlimited: false, choices: [] }
}

export function oneOf<const T extends string | number>(choices: readonly T[]): Kind<T> {
  return { type: 'one of', unit: '', min: 0, max: 0, unlimited: false, choices }
}

/** Returns the key in the configuration: `queue_bytes_max` for `queueBytesMax`. */
export function configKey(name: string): string {
  return name.replace('QoS', 'Qos').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
