/**
 * PURE. Who pays when something is short: the largest clients first; then the largest users, however small each of their clients
 * is; and only where nobody is large, everybody.
 */

/** What one client holds. */
export interface Holder {
  readonly clientId: string
  /** Whom its user is told from others by. */
  readonly user: string
  /** What would be free without it. */
  readonly bytes: number
  /** What it paid already: 0 for nothing, then each step is harder. */
  readonly step: number
}

/** One that pays now, with the step that it comes to. */
export interface Payment<T extends Holder = Holder> {
  readonly holder: T
  readonly step: number
}

export interface Pressure {
  /** What is held in all. */
  readonly bytes: number
  /** So much is aimed at. */
  readonly lowBytes: number
  /** Above this the large pay. */
  readonly highBytes: number
  /** Above this there is no time for steps. */
  readonly maxBytes: number
}

export interface Plan<T extends Holder = Holder> {
  readonly payments: readonly Payment<T>[]
  /** Users that hold most with clients of which none is large. */
  readonly users: ReadonlySet<string>
  /** What nobody large holds of that which is too much. */
  readonly uncoveredBytes: number
}

/** The last step: the client is disconnected. */
export const LAST_STEP = 3

const MIB = 1024 * 1024
/** A client with a 256th of the memory is large, and so is whoever has a MiB. */
const LARGE_SHARE = 1 / 256
/** So many are sorted: a millisecond or two. */
const SORTED_MAX = 4096
/** A user is large whose clients together have a 16th of the memory. */
const LARGE_USER_SHARE = 1 / 16

/** What a client holds at least to be called large. */
export function largeBytes(highBytes: number): number {
  return Math.min(MIB, highBytes * LARGE_SHARE)
}

/** Who pays now, and how much harder than before. `holders` may come in any order. */
export function plan<T extends Holder>(pressure: Pressure, holders: readonly T[]): Plan<T> {
  const payments: Payment<T>[] = []
  let excess = pressure.bytes - pressure.lowBytes
  const least = urgency(pressure)
  const most = largeBytes(pressure.highBytes)
  const large: T[] = []
  const small: T[] = []
  for (const holder of holders) (holder.bytes < most ? small : large).push(holder)
  for (const holder of large.sort((one, other) => weight(other) - weight(one))) {
    if (excess <= 0) break
    payments.push(pays(holder, least))
    excess -= holder.bytes
  }
  const users = new Set<string>()
  if (excess > 0) {
    const floor = pressure.highBytes * LARGE_USER_SHARE
    for (const holder of largestOfGroups(small, ({ user }) => user, excess, floor, weight)) {
      payments.push(pays(holder, least))
      users.add(holder.user)
      excess -= holder.bytes
    }
  }
  return { payments, users, uncoveredBytes: Math.max(0, excess) }
}

/** Who paid already goes on: of many that hold about the same, others would come to the first step each time. */
function weight({ bytes, step }: Holder): number {
  return bytes * (1 + step)
}

function pays<T extends Holder>(holder: T, least: number): Payment<T> {
  return { holder, step: Math.min(LAST_STEP, Math.max(holder.step + 1, least)) }
}

/** The step that everybody comes to at least who pays: the nearer the end of memory, the harder. */
function urgency({ bytes, highBytes, maxBytes }: Pressure): number {
  if (bytes >= maxBytes) return LAST_STEP
  return bytes >= (highBytes + maxBytes) / 2 ? LAST_STEP - 1 : 1
}

/**
 * Of the groups that hold most, those that hold most: as many that they have `excess` together, and that no group is left with
 * less than others have, or than `floor`. `weightOf` says in which order those of a group give up what they hold.
 */
export function largestOfGroups<T extends { readonly bytes: number }>(
  items: readonly T[],
  groupOf: (item: T) => string,
  excess: number,
  floor: number,
  weightOf: (item: T) => number = ({ bytes }) => bytes,
): T[] {
  const groups = new Map<string, { bytes: number; readonly items: T[] }>()
  for (const item of items) {
    const name = groupOf(item)
    const group = groups.get(name)
    if (group === undefined) groups.set(name, { bytes: item.bytes, items: [item] })
    else {
      group.bytes += item.bytes
      group.items.push(item)
    }
  }
  const order = [...groups.values()].sort((one, other) => other.bytes - one.bytes)
  const level = Math.max(floor, levelOf(order, excess))
  const found: T[] = []
  for (const group of order) {
    let left = group.bytes - level
    if (left <= 0) break
    for (const item of largestFirst(group.items, weightOf)) {
      if (left <= 0) break
      found.push(item)
      left -= item.bytes
    }
  }
  return found
}

/** The heaviest first; where there are very many, to within a factor of two, in one pass: sorting 100,000 would hold up others. */
function* largestFirst<T>(items: readonly T[], weightOf: (item: T) => number): Generator<T, void, undefined> {
  if (items.length <= SORTED_MAX) {
    yield* [...items].sort((one, other) => weightOf(other) - weightOf(one))
    return
  }
  const classes: T[][] = []
  for (const item of items) {
    const size = Math.floor(Math.log2(Math.max(1, weightOf(item))))
    const alike = classes[size]
    if (alike === undefined) classes[size] = [item]
    else alike.push(item)
  }
  for (let size = classes.length - 1; size >= 0; size--) {
    const alike = classes[size]
    if (alike !== undefined) yield* alike.length === items.length ? alike : largestFirst(alike, weightOf)
  }
}

/** What each of the largest groups may keep, so that together they give up `excess`. */
function levelOf(order: readonly { readonly bytes: number }[], excess: number): number {
  let sum = 0
  for (const [index, { bytes }] of order.entries()) {
    sum += bytes
    const level = (sum - excess) / (index + 1)
    if (level >= (order[index + 1]?.bytes ?? 0)) return level
  }
  return 0
}
