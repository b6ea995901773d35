/**
 * PURE. Who a Session, or a Will that outlived its Session, belongs to. A user comes back to its own; another user's is
 * refused to everybody else; what nobody owns ends when an authenticated client takes the Client Identifier.
 */
import type { Owner, Policy } from './policy.ts'

/** What a Session or a Will keeps of its user. */
export interface Owned {
  readonly owner: string | null
  readonly ownerId?: string | null
}

export function ownerOf({ owner, ownerId = null }: Owned): Owner {
  return { userName: owner, userId: ownerId }
}

export type Ownership = 'own' | 'another' | 'nobody'

/** Judges what `owner` left behind, for a client that was let in as `user`. */
export function ownershipOf(policy: Policy, owner: Owner, user: Owner): Ownership {
  if (owner.userName === user.userName && owner.userId === user.userId) return 'own'
  // A client without credentials may take over its equals, and nothing else, whoever else is gone.
  if (user.userName === null) return 'another'
  // Nobody proved to be an anonymous client; a user of the same name is at most the one who came after.
  if (owner.userName === null || owner.userName === user.userName) return 'nobody'
  return policy.isFormerUser?.(owner.userName, owner.userId) === true ? 'nobody' : 'another'
}

/** The owner in words, for logs and answers. */
export function ownerInWords({ userName }: Owner, user: Owner): string {
  if (userName === null) return 'clients without credentials'
  return userName === user.userName ? `an earlier user ${userName}` : `user ${userName}`
}
