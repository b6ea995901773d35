/** How strictly a store is read: a damaged one is refused, or the damage is reported and reading goes on. */
import { corrupt } from './format.ts'

/** Something in a store that is not as it was written. */
export interface Damage {
  /** Such as "journal page 17 does not match its checksum". */
  readonly what: string
  /** The loss that follows from it; null for none. */
  readonly lost: string | null
}

/**
 * Is told of damage. A strict one throws StoreError, and reading ends. A lenient one notes the damage and
 * returns: then the reader leaves out the damaged part, keeps every message that may still have to be
 * delivered, and goes on.
 */
export type DamageReport = (damage: Damage, cause?: unknown) => void

/** Refuses a store that is to be read completely or not at all. Throws StoreError `corrupt`. */
export const refuseDamage: DamageReport = ({ what, lost }, cause) => {
  throw corrupt(what, lost === null ? 'Nothing is lost.' : `Lost: ${lost}.`, cause)
}
