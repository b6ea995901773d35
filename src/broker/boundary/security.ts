/** What changes who may do what, or shows that somebody tried: told as the event `security` by whoever does it. */

/** Each has a stable code in the security log (`observe/security.ts`). New kinds go to the end of their group. */
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
  /** Many log-ins wait for their passwords to be checked, and for long. */
  'logins-waiting',
  // What the broker reads from files: taken over, or bad and so left as it was before.
  'password-file-loaded',
  'password-file-refused',
  'acl-file-loaded',
  'acl-file-refused',
  /** Of a listener: certificate, key, authorities, revocation list. */
  'certificate-loaded',
  'certificate-refused',
  'certificate-expiring',
  'certificate-renewed',
  'configuration-loaded',
  'configuration-refused',
  /** A listener serves clients that show no credentials. */
  'anonymous-allowed',
  /** Users put an end to anonymous access that nobody had asked for. */
  'anonymous-ended',
  /** `accounts.json` was written by another process. */
  'accounts-loaded',
  'accounts-refused',
  /** From now on a restart forgets which log-ins were right. */
  'logins-not-kept',
  /** The file of bans was edited by hand. */
  'bans-loaded',
  'bans-refused',
  /** A ban holds, and ends with the broker. */
  'bans-not-kept',
  // What a client tried, or has no longer.
  'session-of-another-user',
  'subscription-stopped',
  'subscription-resumed',
  /** The broker banned somebody by itself: who guesses passwords, or connects again and again. */
  'banned',
  /** A Session of an anonymous client, or of a former user, gave way to a user. */
  'ownerless-session-ended',
  // What an operator did.
  'client-kicked',
  'session-deleted',
  'subscription-deleted',
  'retained-deleted',
  'backup-taken',
  'ban-added',
  'ban-removed',
] as const

export type SecurityKind = (typeof SECURITY_KINDS)[number]

export interface SecurityEvent {
  readonly kind: SecurityKind
  /** Whom or what it is about: a user, a role, a Client Identifier, a topic, a file. */
  readonly subject: string
  /** Who did it, such as `root` (whoever asked on the control socket); `broker` for what happens by itself. */
  readonly by: string
  /** More, as part of a sentence; empty for nothing. Never a secret. */
  readonly detail: string
}
