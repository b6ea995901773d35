/** PURE. Counts work in code that knows nothing of the Server; `broker/state/work.ts` explains the unit. */
export interface Meter {
  units: number
}

/** Characters of a name that are compared or hashed for one unit, as a power of two. */
export const CHARACTER_BITS = 6
