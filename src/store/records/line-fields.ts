/** PURE. Reads the fields of one JSON object one by one, and checks each. */
import type { QoS } from '../../mqtt/packet.ts'

/** A line is invalid. The message completes "line 17 ...". */
export class LineError extends Error {
  override readonly name = 'LineError'
}

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/

/** The fields of one object. Every method that reads one throws LineError. */
export class Fields {
  readonly #fields: Readonly<Record<string, unknown>>
  readonly #unread: Set<string>

  constructor(fields: Readonly<Record<string, unknown>>) {
    this.#fields = fields
    this.#unread = new Set(Object.keys(fields))
  }

  static parse(line: string): Fields {
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      throw new LineError('is not JSON')
    }
    return Fields.#of(value, 'is not a JSON object')
  }

  /** Throws LineError if any field was not read: it would be lost silently. */
  end(): void {
    const [unread] = this.#unread
    if (unread !== undefined) throw new LineError(`has the unknown field ${JSON.stringify(unread)}`)
  }

  /** Returns the value without a check. The field does not count as read. */
  optional(name: string): unknown {
    return this.#fields[name] ?? undefined
  }

  text(name: string): string {
    const text = this.optionalText(name)
    if (text === undefined) throw new LineError(`has no ${name}`)
    return text
  }

  optionalText(name: string): string | undefined {
    const value = this.#take(name)
    if (value !== undefined && typeof value !== 'string')
      throw new LineError(`has a ${name} that is not a text`)
    return value
  }

  /** False if it is absent. */
  flag(name: string): boolean {
    const value = this.#take(name) ?? false
    if (typeof value !== 'boolean') throw new LineError(`has a ${name} that is not true or false`)
    return value
  }

  integer(name: string, min: number, max = Number.MAX_SAFE_INTEGER, absent?: number): number {
    const value = this.#take(name) ?? absent
    if (!isIntegerIn(value, min, max))
      throw new LineError(`has a ${name} that is not a number from ${min} to ${max}`)
    return value
  }

  /** Seconds, perhaps with a fraction; 0 if they are absent. */
  seconds(name: string): number {
    const value = this.#take(name) ?? 0
    if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) {
      throw new LineError(`has a ${name} that is not a number from 0 on`)
    }
    return value
  }

  qos(): QoS {
    return this.integer('qos', 0, 2) as QoS
  }

  /** Empty if they are absent. */
  integers(name: string, min: number, max: number): readonly number[] {
    const values = this.#array(name)
    return values.map((value) => {
      if (!isIntegerIn(value, min, max))
        throw new LineError(`has ${name} that are not numbers from ${min} to ${max}`)
      return value
    })
  }

  /** Milliseconds since 1970; null if it is absent. */
  time(name: string): number | null {
    const text = this.optionalText(name)
    if (text === undefined) return null
    const ms = ISO.test(text) ? Date.parse(text) : Number.NaN
    if (Number.isNaN(ms)) throw new LineError(`has a ${name} that is not like 2026-01-31T12:00:00.000Z`)
    return ms
  }

  /** Decodes base64. */
  bytes(name: string): Buffer {
    const text = this.text(name)
    if (text.length % 4 !== 0 || !BASE64.test(text)) throw new LineError(`has a ${name} that is not base64`)
    return Buffer.from(text, 'base64')
  }

  list(name: string): Fields[] {
    return this.#array(name).map((value) => Fields.#of(value, `has ${name} that are not objects`))
  }

  /** Undefined if it is absent. */
  object(name: string): Fields | undefined {
    const value = this.#take(name)
    return value === undefined ? undefined : Fields.#of(value, `has a ${name} that is not an object`)
  }

  /** Pairs of texts; undefined if they are absent. */
  pairs(name: string): readonly (readonly [string, string])[] | undefined {
    if (this.optional(name) === undefined) return undefined
    return this.#array(name).map((pair) => {
      if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((text) => typeof text === 'string')) {
        throw new LineError(`has ${name} that are not pairs of texts`)
      }
      return [String(pair[0]), String(pair[1])] as const
    })
  }

  static #of(value: unknown, otherwise: string): Fields {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new LineError(otherwise)
    return new Fields(Object.fromEntries(Object.entries(value)))
  }

  #array(name: string): readonly unknown[] {
    const value = this.#take(name) ?? []
    if (!Array.isArray(value)) throw new LineError(`has ${name} that are not a list`)
    return value
  }

  #take(name: string): unknown {
    this.#unread.delete(name)
    return this.#fields[name] ?? undefined
  }
}

function isIntegerIn(value: unknown, min: number, max: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
}
