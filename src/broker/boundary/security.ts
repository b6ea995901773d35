/** The event `security`: a change of users, rights or keys, or an attempt to do something forbidden. */

/**
 * The kinds. Each has a stable code in the security log (`observe/security.ts`). Add new ones at the end of a
 * group.
 */
export const SECURITY_KINDS = [
  // Users, their passwords and roles.
  'user-added',
  'user-removed',
  'user-disabled',
  'user-enabled',
  'password-changed',
  'role-added',
  'role-removed',
  /** A rule of a role was added or removed. */
  'role-changed',
  /** A role was given to a user, or taken from one. */
  'role-granted',
  'role-revoked',
  /** Many log-ins have waited long for their passwords to be checked. */
  'logins-waiting',
  // Files that the broker reads: loaded, or refused, in which case the previous content stays in force.
  'password-file-loaded',
  'password-file-refused',
  'acl-file-loaded',
  'acl-file-refused',
  /** A listener's certificate, key, authorities and revocation list. */
  'certificate-loaded',
  'certificate-refused',
  'certificate-expiring',
  'certificate-renewed',
  'configuration-loaded',
  'configuration-refused',
  /** A listener serves clients that show no credentials. */
  'anonymous-allowed',
  /** Anonymous access by default ended, as there are users now. */
  'anonymous-ended',
  /** `accounts.json` was written by another process. */
  'accounts-loaded',
  'accounts-refused',
  /** A restart will forget which log-ins were right. */
  'logins-not-kept',
  /** The file of bans was edited by hand. */
  'bans-loaded',
  'bans-refused',
  /** A ban cannot be written to its file, and ends with the broker. */
  'bans-not-kept',
  // Attempts and losses of clients.
  'session-of-another-user',
  'subscription-stopped',
  'subscription-resumed',
  /**
   * The broker banned an address or client automatically: for guessed passwords, or for connecting too often.
   */
  'banned',
  /** A Session of an anonymous client, or of a former user, ended for a user. */
  'ownerless-session-ended',
  // Commands of operators.
  'client-kicked',
  'session-deleted',
  'subscription-deleted',
  'retained-deleted',
  'backup-taken',
  'ban-added',
  'ban-removed',
  'queue-declared',
  'queue-changed',
  'queue-deleted',
  'queue-purged',
  'queue-paused',
  'queue-resumed',
  'queue-moved',
  'queue-replayed',
] as const

export type SecurityKind = (typeof SECURITY_KINDS)[number]

export interface SecurityEvent {
  readonly kind: SecurityKind
  /** The subject: a user, a role, a Client Identifier, a topic, a file. */
  readonly subject: string
  /** The operator, such as `root` on the control socket, or `broker` for what happens automatically. */
  readonly by: string
  /** Details as part of a sentence; may be empty. Never a secret. */
  readonly detail: string
}
