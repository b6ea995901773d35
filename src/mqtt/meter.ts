/** PURE. Where work is counted by those who know nothing of the Server: see `broker/state/work.ts` for the unit. */
export interface Meter {
  units: number
}

/** Characters of a name that are compared or hashed one by one for one unit, as a power of two. */
export const CHARACTER_BITS = 6
