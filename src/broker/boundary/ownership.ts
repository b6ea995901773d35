/**
 * PURE. Ownership of Sessions, and of Wills that outlive their Sessions. A user may resume its own Session,
 * but not another user's. A Session without an owner ends when an authenticated client takes its Client
 * Identifier.
 */
import type { Owner, Policy } from './policy.ts'

/** The owner as a Session or a Will keeps it. */
export interface Owned {
  readonly owner: string | null
  readonly ownerId?: string | null
}

export function ownerOf({ owner, ownerId = null }: Owned): Owner {
  return { userName: owner, userId: ownerId }
}

export type Ownership = 'own' | 'another' | 'nobody'

/** Tells whose a Session or Will of `owner` is, as seen by a client that logged in as `user`. */
export function ownershipOf(policy: Policy, owner: Owner, user: Owner): Ownership {
  if (owner.userName === user.userName && owner.userId === user.userId) return 'own'
  // Clients without credentials may take over only Sessions of clients without credentials.
  if (user.userName === null) return 'another'
  // An anonymous client proved nothing, and a user of the same name with another id came later.
  if (owner.userName === null || owner.userName === user.userName) return 'nobody'
  return policy.isFormerUser?.(owner.userName, owner.userId) === true ? 'nobody' : 'another'
}

/** Describes the owner in logs and answers. */
export function ownerInWords({ userName }: Owner, user: Owner): string {
  if (userName === null) return 'clients without credentials'
  return userName === user.userName ? `an earlier user ${userName}` : `user ${userName}`
}
