/** PURE. Where work is counted by those who know nothing of the Server: see `broker/work.ts` for the unit. */
export interface Meter {
  units: number
}

/** Characters or levels of a name that are compared or hashed one by one for one unit. */
export const CHARACTERS_EACH = 64
export const LEVELS_EACH = 8
