/** The configuration of users and rights (`access`), and its defaults. */
import type { Limits } from '../broker/boundary/limits.ts'
import { Reason } from '../mqtt/reason.ts'
import type { CertificateName, ListedCertificate } from './certificate-users.ts'
import type { FailureLimits } from './logins/failed-logins.ts'
import type { FullBy } from './logins/fair-queue.ts'

/** The options of `access`. */
export interface AccessOptions {
  /** Whether the accounts of the data directory are a source. */
  readonly accounts: boolean
  /** Paths of password files as Mosquitto writes them. */
  readonly passwordFiles: readonly string[]
  /** Paths of ACL files as Mosquitto reads them. */
  readonly aclFiles: readonly string[]
  /**
   * The decision if no rule decides. `auto` allows everything to everybody while there are no rules and no
   * accounts. Once there are accounts, it allows nothing to users without an account. Anonymous clients then
   * have the rights of the role `client`, unless there is a role `anonymous`. So nobody has more rights
   * without credentials than with them.
   */
  readonly default: 'auto' | 'allow' | 'deny'
  readonly certificateUser: CertificateName
  readonly certificates: readonly ListedCertificate[]
  /** The answer to a denied PUBLISH of a client before 5.0, where no Reason Code can tell it. */
  readonly deniedBefore5: 'ignore' | 'disconnect'
  /** Whether a retained message is withheld once its author may no longer publish to that topic. */
  readonly checkRetainedAuthor: boolean
  /** The Reason Code of a denied Subscription in SUBACK. */
  readonly deniedSubscription: Reason
}

/** The values of options that are not given. */
export const DEFAULT_ACCESS: Readonly<AccessOptions> = Object.freeze({
  accounts: true,
  passwordFiles: [],
  aclFiles: [],
  default: 'auto',
  certificateUser: 'common_name',
  certificates: [],
  deniedBefore5: 'ignore',
  checkRetainedAuthor: true,
  deniedSubscription: Reason.NotAuthorized,
})

/** The Server's limits that apply to log-ins. */
export type LoginLimits = Pick<Limits, FullBy | 'loginWaitSecondsMax'> & FailureLimits
