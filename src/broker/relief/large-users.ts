/** PURE. Finds the users who hold most of what is short, and names them to the operator. */
import type { Usage } from '../accounts/usage.ts'

/** A user with this share of what the largest one holds is large as well. */
export const AS_LARGE_SHARE = 1 / 2

/** Holders that are named to the operator. */
const NAMED_MAX = 3

const MIB = 1024 * 1024

/**
 * Returns the large users, the largest first. A user is large with `leastBytes`, and with `asLargeShare` of
 * what the largest one holds.
 */
export function largeUsers(
  users: Iterable<Usage>,
  bytesOf: (user: Usage) => number,
  leastBytes: number,
  asLargeShare = AS_LARGE_SHARE,
): Usage[] {
  const found: Usage[] = []
  let most = 0
  for (const user of users) {
    const bytes = bytesOf(user)
    if (bytes < leastBytes) continue
    found.push(user)
    most = Math.max(most, bytes)
  }
  return found
    .filter((user) => bytesOf(user) >= most * asLargeShare)
    .sort((one, other) => bytesOf(other) - bytesOf(one))
}

/** Returns the user of a client, or the user itself; null for none. */
export function userOf(holder: Usage | null): Usage | null {
  return holder?.kind === 'user' ? holder : (holder?.user ?? null)
}

/** Lists the first holders, such as `a with 9 MiB, b with 2 MiB and 4 more`; empty for none. */
export function listed<T>(
  holders: readonly T[],
  nameOf: (holder: T) => string,
  bytesOf: (holder: T) => number,
): string {
  const named = holders
    .slice(0, NAMED_MAX)
    .map((holder) => `${nameOf(holder)} with ${sizeText(bytesOf(holder))}`)
  const more = holders.length - named.length
  return named.join(', ') + (more > 0 ? ` and ${more} more` : '')
}

/** Returns bytes in KiB or MiB, as in `12 MiB`. */
export function sizeText(bytes: number): string {
  return bytes < MIB ? `${Math.ceil(bytes / 1024)} KiB` : `${Math.round(bytes / MIB)} MiB`
}
