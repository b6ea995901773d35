/** The configuration of users and rights (`access`), and its defaults. */
import type { Limits } from '../broker/boundary/limits.ts'
import { Reason } from '../mqtt/reason.ts'
import type { CertificateName, ListedCertificate } from './certificate-users.ts'
import type { FailureLimits } from './logins/failed-logins.ts'
import type { FullBy } from './logins/fair-queue.ts'

export interface AccessOptions {
  /** Whether the accounts of the data directory are a source. */
  readonly accounts: boolean
  /** Paths of Mosquitto's password files, and of its ACL files. */
  readonly passwordFiles: readonly string[]
  readonly aclFiles: readonly string[]
  /**
   * The decision where no rule decides. `auto` allows everything to everybody while there are no rules and
   * no accounts. Once there are accounts, it allows nothing to users without an account, and to anonymous
   * clients what the role `client` allows unless there is a role `anonymous`. So nobody has more rights
   * without credentials than with them.
   */
  readonly default: 'auto' | 'allow' | 'deny'
  readonly certificateUser: CertificateName
  readonly certificates: readonly ListedCertificate[]
  /** How a denied PUBLISH of a client before 5.0 is answered; there is no Reason Code to tell it. */
  readonly deniedBefore5: 'ignore' | 'disconnect'
  /** Whether a retained message is withheld once its author may no longer publish to that topic. */
  readonly checkRetainedAuthor: boolean
  /** The Reason Code of a denied Subscription in SUBACK. */
  readonly deniedSubscription: Reason
}

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
