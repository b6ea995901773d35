/** The strictness of those who read a store: refuse a damaged one, or report the damage and go on. */
import { corrupt } from './format.ts'

/** One thing in a store that is not as it was written. */
export interface Damage {
  /** Such as "journal page 17 does not match its checksum". */
  readonly what: string
  /** The loss that follows from it; null for none. */
  readonly lost: string | null
}

/**
 * Decides about a damage. A strict one throws StoreError, and reading ends. A lenient one notes it and
 * returns: then the reader leaves out the damaged part, keeps every message that may still have to be
 * delivered, and goes on.
 */
export type DamageReport = (damage: Damage, cause?: unknown) => void

/** Refuses a store that is to be read completely or not at all. Throws StoreError `corrupt`. */
export const refuseDamage: DamageReport = ({ what, lost }, cause) => {
  throw corrupt(what, `${lost ?? 'nothing'} would be lost`, cause)
}
