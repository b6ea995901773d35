/** What is not as it was written, told by those who read a store for an operator. */
import { corrupt } from './format.ts'

export interface Damage {
  /** Such as "journal page 17 does not match its checksum". */
  readonly what: string
  /** What that costs; null for nothing. */
  readonly lost: string | null
}

/** Takes a damage: collects it, so that reading goes on, or throws. */
export type DamageReport = (damage: Damage) => void

/** For those who want everything or nothing: throws StoreError `corrupt`. */
export const refuseDamage: DamageReport = ({ what, lost }) => {
  throw corrupt(what, `${lost ?? 'nothing'} would be lost`)
}
