/**
 * PURE. Decides who pays while memory is short: the largest clients first, then the largest users, however
 * small each of their clients is. If nobody is large, everybody is refused.
 */

/** A client with the memory that it holds. */
export interface Holder {
  readonly clientId: string
  /** Identifies its user. */
  readonly user: string
  /** Bytes that would be free without it. */
  readonly bytes: number
  /** The step that it has come to: 0 for none, and each is harder than the one before. */
  readonly step: number
}

/** A client that pays now, and the step that it comes to. */
export interface Payment<T extends Holder = Holder> {
  readonly holder: T
  readonly step: number
}

/** How short memory is. */
export interface Pressure {
  /** Bytes that all clients hold. */
  readonly bytes: number
  /** The aim of the payments. */
  readonly lowBytes: number
  /** Above this, large clients pay. */
  readonly highBytes: number
  /** Above this, they come to the last step at once. */
  readonly maxBytes: number
}

/** The payments. */
export interface Plan<T extends Holder = Holder> {
  readonly payments: readonly Payment<T>[]
  /** Users who hold most by many clients, none of which is large. */
  readonly users: ReadonlySet<string>
  /** Bytes of the excess that are left, as no large client or user holds them. */
  readonly uncoveredBytes: number
}

/** The last step: the client is disconnected. */
export const LAST_STEP = 3

const MIB = 1024 * 1024
/** A client is large with this share of the memory, or with a MiB. */
const LARGE_SHARE = 1 / 256
/** Longer lists are not sorted: this many take a millisecond or two. */
const SORTED_MAX = 4096
/** A user is large if its clients together have this share of the memory. */
const LARGE_USER_SHARE = 1 / 16

/** Returns the least bytes of a large client. */
export function largeBytes(highBytes: number): number {
  return Math.min(MIB, highBytes * LARGE_SHARE)
}

/** Decides who pays now, and at which step. `holders` may be in any order. */
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

/**
 * Prefers clients that pay already. Among many of about the same size, others would begin with the first step
 * each time.
 */
function weight({ bytes, step }: Holder): number {
  return bytes * (1 + step)
}

function pays<T extends Holder>(holder: T, least: number): Payment<T> {
  return { holder, step: Math.min(LAST_STEP, Math.max(holder.step + 1, least)) }
}

/** Returns the least step of a payment: the nearer memory is to its end, the harder. */
function urgency({ bytes, highBytes, maxBytes }: Pressure): number {
  if (bytes >= maxBytes) return LAST_STEP
  return bytes >= (highBytes + maxBytes) / 2 ? LAST_STEP - 1 : 1
}

/**
 * Returns the largest items of the largest groups, with `excess` bytes together. They are chosen so that no
 * group is left with less than other groups have, or less than `floor`. Within a group, items with more
 * weight come first.
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

/**
 * Yields the heaviest items first. Very many are ordered to within a factor of two in one pass, since sorting
 * 100,000 would hold up others.
 */
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

/** Returns the bytes that each of the largest groups may keep, so that together they give up `excess`. */
function levelOf(order: readonly { readonly bytes: number }[], excess: number): number {
  let sum = 0
  for (const [index, { bytes }] of order.entries()) {
    sum += bytes
    const level = (sum - excess) / (index + 1)
    if (level >= (order[index + 1]?.bytes ?? 0)) return level
  }
  return 0
}
