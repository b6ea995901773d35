/**
 * Who may connect, publish, subscribe and receive: the sources that the configuration names, asked one after the other. Each
 * says yes, no or next; the first that decides is heard. The sources change while the broker runs, and nothing that was
 * decided before outlives a change.
 */
import { DEFAULT_LIMITS, type Limits } from '../broker/boundary/limits.ts'
import type { LinkInfo } from '../broker/boundary/link.ts'
import { networkOf } from '../broker/boundary/network.ts'
import type { AuthenticationResult, ClientView, Credentials, Policy } from '../broker/boundary/policy.ts'
import { Reason } from '../mqtt/reason.ts'
import { Accounts, CLIENT_ROLE } from './accounts.ts'
import type { AccountsContent } from './accounts-file.ts'
import { type AclFile, aclRights, parseAclFile } from './acl-file.ts'
import { type CertificateName, CertificateUsers, type ListedCertificate } from './certificate-users.ts'
import type { ClientRights, Decision, Identity, Request } from './decision.ts'
import type { LoginFile } from './files/login-file.ts'
import { WatchedFile } from './files/watched-file.ts'
import { FailedLogins, type FailureLimits } from './logins/failed-logins.ts'
import type { FullBy } from './logins/fair-queue.ts'
import { LoginCrowd } from './logins/login-crowd.ts'
import { type LoginResult, Logins, NOBODY } from './logins/logins.ts'
import { PasswordWork, type Waiting } from './logins/password-work.ts'
import { type PasswordFile, parsePasswordFile } from './passwords/password-file.ts'
import { type PasswordHash, parsePasswordHash } from './passwords/password-hash.ts'
import { Rights } from './rights.ts'
import { defaultRights, roleRights } from './roles.ts'

/** How often the files are looked at. */
const WATCH_MS = 1000

/** How often a log-in begins anew because what is stored changed while it was checked. */
const ATTEMPTS_MAX = 3

export interface AccessOptions {
  /** Whether the accounts of the data directory hold. */
  readonly accounts: boolean
  /** Paths of Mosquitto's password files, and of its ACL files. */
  readonly passwordFiles: readonly string[]
  readonly aclFiles: readonly string[]
  /**
   * What holds where no rule decides. `auto` allows it to all where there are no rules and no accounts. With accounts, users
   * that they do not know get nothing, and anonymous clients without a role `anonymous` what the role `client` allows, so
   * that nobody has more without credentials than with them.
   */
  readonly default: 'auto' | 'allow' | 'deny'
  readonly certificateUser: CertificateName
  readonly certificates: readonly ListedCertificate[]
  /** What becomes of a PUBLISH that is denied to a client before 5.0, which cannot be told. */
  readonly deniedBefore5: 'ignore' | 'disconnect'
  /** Whether retained messages whose author may not publish them any more are kept from new Subscriptions. */
  readonly checkRetainedAuthor: boolean
  /** What SUBACK says of a denied Subscription. */
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

/** One of the sources; `path` names its file. */
export interface Source {
  readonly kind: 'accounts' | 'password-file' | 'acl-file'
  readonly path: string
  /** Whether a command changed it through this process, not somebody else its file. */
  readonly isOwn: boolean
}

/** Limits of the Server that hold for log-ins. */
export type LoginLimits = Pick<Limits, FullBy | 'loginWaitSecondsMax'> & FailureLimits

/** What Access tells while it runs. */
export interface AccessListener {
  /** Something changed; what these clients showed to be let in does not hold any more. */
  changed(source: Source, lost: LostAccess): void
  /** Whether a client certificate may name a user that no source knows. Yes when absent. */
  takesCertificates?(): boolean
  /** A source could not be read again: what it said before holds. */
  failed(source: Source, error: Error): void
  /** A password was not checked, by this limit; `detail` says so. */
  busy(clientId: string, limit: FullBy | 'failedLoginsMax', detail: string): void
  /** So many log-ins wait for their passwords to be checked, the last of them for so long; a hash takes `hashMs`. */
  crowded?(waiting: number, seconds: number, hashMs: number): void
  /** An address, or IPv6 network such as `2001:db8::/64`, showed so many wrong passwords that it is to be banned. */
  guesses(address: string, count: number): void
}

/** Who is not let in any more by what let it in. */
export interface LostAccess {
  readonly users: ReadonlySet<string>
  /** Also of clients without credentials: users put an end to anonymous access that nobody has asked for. */
  includes(client: ClientView): boolean
}

const NO_USERS: ReadonlySet<string> = new Set()

/** What a client is told that has to give way to others. */
const TOO_MANY: Readonly<Record<FullBy, { readonly reasonCode: Reason; readonly reason: string }>> = {
  loginQueueMax: { reasonCode: Reason.ServerBusy, reason: 'too many log-ins wait: try again later' },
  loginQueueBytesMax: {
    reasonCode: Reason.ServerBusy,
    reason: 'the log-ins that wait are too large: try again later',
  },
  loginQueuePerAddressMax: {
    reasonCode: Reason.QuotaExceeded,
    reason: 'too many log-ins of this address wait: try again later',
  },
  loginQueuePerUserMax: {
    reasonCode: Reason.QuotaExceeded,
    reason: 'too many log-ins of this user wait: try again later',
  },
}

/** As the queue knows it: peers without an address are those of their listener. */
function placeOf({ remoteAddress, listener }: LinkInfo): string {
  return remoteAddress === '' ? `listener ${listener}` : networkOf(remoteAddress)
}

export class Access {
  readonly #options: AccessOptions
  readonly #limits: LoginLimits
  readonly #failures: FailedLogins
  readonly #accounts: Accounts | null
  readonly #passwordFiles: readonly WatchedFile<PasswordFile>[]
  readonly #aclFiles: readonly WatchedFile<AclFile>[]
  readonly #certificates: CertificateUsers
  readonly #work: PasswordWork
  readonly #logins: Logins
  readonly #crowd: LoginCrowd
  readonly #listener: AccessListener
  /** By the client's view, which lives as long as its Network Connection. A change throws all of it away. */
  #rights = new WeakMap<Identity, Rights>()
  /** Hashes of accounts as they were read last. */
  #hashes = new Map<string, PasswordHash>()
  #timer: NodeJS.Timeout | null = null
  #reloading: Promise<void> = Promise.resolve()

  private constructor(
    options: AccessOptions,
    sources: Pick<SourcesRead, 'accounts' | 'passwordFiles' | 'aclFiles' | 'work'>,
    listener: AccessListener,
    limits: LoginLimits,
    now: () => number,
  ) {
    this.#options = options
    this.#limits = limits
    this.#failures = new FailedLogins(limits, now)
    this.#accounts = sources.accounts
    this.#passwordFiles = sources.passwordFiles
    this.#aclFiles = sources.aclFiles
    this.#work = sources.work
    this.#logins = new Logins(sources.work)
    this.#crowd = new LoginCrowd(sources.work, (...crowd) => listener.crowded?.(...crowd))
    this.#certificates = new CertificateUsers(options.certificateUser, options.certificates)
    this.#listener = listener
    this.#refresh()
    if (this.#accounts !== null) {
      this.#accounts.onChange = (before, after, isOwn) =>
        this.#changed(this.#accountsSource(isOwn), lostAccounts(before, after))
    }
  }

  /**
   * Reads every source; `directory` is the data directory, null for none. `limits` are read at each log-in: they may change. `now` is
   * a monotonic clock in ms. Throws AccountsError, LinesError and FileError.
   */
  static async open(
    options: AccessOptions,
    directory: string | null,
    listener: AccessListener,
    limits: LoginLimits = DEFAULT_LIMITS,
    now: () => number = () => performance.now(),
  ): Promise<Access> {
    const sources = await readSources(options, options.accounts ? directory : null, limits)
    return new Access(options, sources, listener, limits, now)
  }

  /** Null where the configuration wants none. */
  get accounts(): Accounts | null {
    return this.#accounts
  }

  /** Passwords that were checked, and that were refused because too many waited. */
  get passwordFigures(): Readonly<PasswordWork['figures']> {
    return this.#work.figures
  }

  /** Log-ins that are right outlive a restart in this file. To be called before anybody logs in. */
  rememberIn(file: LoginFile): void {
    this.#logins.rememberIn(file)
  }

  /** Looks at the files from time to time, until `close`. */
  watch(): void {
    let isLooking = false
    this.#timer ??= setInterval(() => {
      // A file system that does not answer must not collect questions.
      if (isLooking) return
      isLooking = true
      void this.reload('settled').then(() => {
        isLooking = false
      })
    }, WATCH_MS).unref()
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    this.#crowd.close()
  }

  /**
   * Reads again what changed. A source that cannot be read is told to the listener, and what it said before holds.
   * Never rejects.
   */
  reload(when: 'now' | 'settled' = 'now'): Promise<void> {
    this.#reloading = this.#reloading.then(() => this.#reload(when))
    return this.#reloading
  }

  async #reload(when: 'now' | 'settled'): Promise<void> {
    if (this.#accounts !== null) await this.#attempt(this.#accountsSource(false), this.#accounts.reload())
    for (const file of this.#passwordFiles) {
      const before = file.content
      const source = { kind: 'password-file', path: file.path, isOwn: false } as const
      if (!(await this.#attempt(source, file.reload(when)))) continue
      this.#changed(source, lostPasswords(before, file.content))
    }
    for (const file of this.#aclFiles) {
      const source = { kind: 'acl-file', path: file.path, isOwn: false } as const
      if (await this.#attempt(source, file.reload(when))) this.#changed(source, NO_USERS)
    }
  }

  #accountsSource(isOwn: boolean): Source {
    return { kind: 'accounts', path: this.#accounts?.path ?? '', isOwn }
  }

  async #attempt(source: Source, reloaded: Promise<boolean>): Promise<boolean> {
    try {
      return await reloaded
    } catch (error) {
      this.#listener.failed(source, error instanceof Error ? error : new Error(String(error)))
      return false
    }
  }

  #changed(source: Source, users: ReadonlySet<string>): void {
    this.#refresh()
    const includes = ({ userName, link }: ClientView): boolean =>
      userName === null ? !this.letsInAnonymous(link) : users.has(userName)
    this.#listener.changed(source, { users, includes })
  }

  #refresh(): void {
    this.#rights = new WeakMap()
    const hashes = new Map<string, PasswordHash>()
    for (const { name } of this.#accounts?.list() ?? []) {
      const encoded = this.#accounts!.user(name)!.password
      if (encoded === null) continue
      // The same hash stays the same object: log-ins that are remembered for it hold.
      const before = this.#hashes.get(name)
      const parsed = before?.encoded === encoded ? before : parsePasswordHash(encoded)
      if (typeof parsed !== 'string') hashes.set(name, parsed)
    }
    this.#hashes = hashes
    // Unknown users cost what known ones do, as far as those are alike.
    const [fromFile] = this.#passwordFiles.flatMap(({ content }) => [...content.values()].slice(0, 1))
    const isChosenInAccounts = [...hashes.values()].some(({ kind }) => kind !== 'generated')
    this.#logins.nobody = isChosenInAccounts || fromFile === undefined ? NOBODY : fromFile
  }

  // ── who it is ─────────────────────────────────────────────────────────────────────────────────────────────

  /** A source that says something of passwords is there. */
  get hasUsers(): boolean {
    return this.#passwordFiles.length > 0 || this.#accounts?.isEmpty === false
  }

  #authenticate(credentials: Credentials): AuthenticationResult | Promise<AuthenticationResult> {
    const { link, userName, password } = credentials
    const byCertificate = link.certificate === undefined ? null : this.#certificates.userOf(link.certificate)
    if (byCertificate !== null) return this.#admitted(byCertificate)
    if (userName !== undefined && this.hasUsers) {
      return this.#checked(credentials, userName, password ?? Buffer.alloc(0), ATTEMPTS_MAX)
    }
    // A user name that nobody checks is no identity.
    const endedByUsers = link.anonymousUnlessUsers === true && this.hasUsers
    if (this.letsInAnonymous(link)) return { allow: true, userName: null }
    const why = link.certificate === undefined ? '' : ', and the certificate names no user'
    const how = endedByUsers ? ', since there are users and no allow_anonymous says so' : ''
    return refused(Reason.NotAuthorized, `anonymous clients are not allowed here${why}${how}`)
  }

  /** Whether a client that shows no name and password is let in as nobody. */
  letsInAnonymous(link: LinkInfo): boolean {
    if (link.certificate !== undefined && this.#options.certificateUser === 'none') return true
    return link.allowAnonymous && !(link.anonymousUnlessUsers === true && this.hasUsers)
  }

  #admitted(userName: string): AuthenticationResult {
    const account = this.#accounts?.user(userName)
    if (account?.disabled === true) return refused(Reason.NotAuthorized, 'the user is disabled')
    return { allow: true, userName, userId: account?.id ?? null }
  }

  #checked(
    credentials: Credentials,
    userName: string,
    password: Buffer,
    attempts: number,
  ): AuthenticationResult | Promise<AuthenticationResult> {
    const stored = this.#stored(userName)
    const { link, waiting: client } = credentials
    const address = placeOf(link)
    const waiting: Waiting | undefined = client && {
      queued: (leave) => {
        this.#crowd.grew()
        client.queued(this.#limits.loginWaitSecondsMax, leave)
      },
      served: () => client.served(),
    }
    // Also for a disabled user: how long it takes tells nothing.
    const failures = this.#failures
    const isSuspect = failures.isSuspect(address, userName)
    const isDelayed = (): boolean => failures.secondsToWait(address, userName) > 0
    const result = this.#logins.check({ userName, password, stored, address, isSuspect, isDelayed, waiting })
    const decide = (answer: LoginResult): AuthenticationResult | Promise<AuthenticationResult> => {
      if (answer === 'left') return refused(Reason.ServerBusy, 'the client left')
      if (typeof answer === 'object') return this.#tooMany(credentials.clientId, answer.busyBy)
      if (answer === 'delayed') return this.#delayed(credentials, userName)
      if (answer === 'wrong') {
        failures.failed(address, userName)
        this.#considerBan(link)
        return refused(Reason.BadUserNameOrPassword, 'wrong user name or password')
      }
      failures.succeeded(address, userName)
      // It took its time: the user may have been removed, disabled, or given another password meanwhile.
      if (this.#stored(userName) !== stored) {
        if (attempts > 1) return this.#checked(credentials, userName, password, attempts - 1)
        return refused(Reason.BadUserNameOrPassword, 'wrong user name or password')
      }
      return this.#admitted(userName)
    }
    return result instanceof Promise ? result.then(decide) : decide(result)
  }

  #delayed({ clientId, link }: Credentials, userName: string): AuthenticationResult {
    const address = placeOf(link)
    const seconds = Math.max(1, this.#failures.secondsToWait(address, userName))
    const reason = `too many wrong passwords of this user from this address: try again in ${seconds} s`
    this.#failures.delayed(address)
    this.#listener.busy(clientId, 'failedLoginsMax', reason)
    this.#considerBan(link)
    return { allow: false, reasonCode: Reason.ServerBusy, reason, isGuess: true }
  }

  #considerBan(link: LinkInfo): void {
    const count = this.#failures.countForBan(placeOf(link))
    if (count > 0 && link.remoteAddress !== '') this.#listener.guesses(placeOf(link), count)
  }

  #tooMany(clientId: string, busyBy: FullBy): AuthenticationResult {
    const { reasonCode, reason } = TOO_MANY[busyBy]
    this.#listener.busy(clientId, busyBy, reason)
    return refused(reasonCode, reason)
  }

  /** What the first source says that knows the user; one without a password leaves it to the next. */
  #stored(userName: string): PasswordHash | undefined {
    return this.#hashes.get(userName) ?? this.#storedInFile(userName)
  }

  #storedInFile(userName: string): PasswordHash | undefined {
    for (const { content } of this.#passwordFiles) {
      const found = content.get(userName)
      if (found !== undefined) return found
    }
    return undefined
  }

  /** Whether users are known by this name without an account: by a password file, or a certificate that is listed. */
  knowsByName(userName: string): boolean {
    return this.#storedInFile(userName) !== undefined || this.#certificates.names(userName)
  }

  /** Whether no source knows this user any more; a later one of the same name is another. */
  isFormerUser(userName: string, userId: string | null): boolean {
    // Without accounts it cannot be told who of them is gone.
    if (this.#accounts === null) return false
    const account = this.#accounts.user(userName)
    if (account !== undefined) return account.id !== userId
    if (userId !== null) return true
    const mayBeCertified = this.#options.certificateUser !== 'none' && this.#takesCertificates()
    return !mayBeCertified && !this.knowsByName(userName)
  }

  #takesCertificates(): boolean {
    return this.#listener.takesCertificates?.() !== false
  }

  // ── what it may do ────────────────────────────────────────────────────────────────────────────────────────

  /** Which rule decides, without asking whether there is such a client. */
  explain(identity: Identity, request: Request): Decision {
    return this.#rightsOf({ clientId: identity.clientId, userName: identity.userName }).decide(request)
  }

  #rightsOf(client: Identity): Rights {
    const known = this.#rights.get(client)
    if (known !== undefined) return known
    const rights = this.#makeRights(client)
    this.#rights.set(client, rights)
    return rights
  }

  #makeRights(client: Identity): Rights {
    const { userName, userId } = client
    if (userName !== null && this.#accounts?.user(userName)?.disabled === true) {
      return new Rights([], { allow: false, source: `user ${userName}`, rule: 'disabled' })
    }
    // What a former user left behind must not live on the rights of the next one of that name.
    if (userName !== null && userId !== undefined && this.isFormerUser(userName, userId)) {
      return new Rights([], { allow: false, source: `user ${userName}`, rule: 'removed' })
    }
    const ofRoles = this.#accounts === null ? null : roleRights(this.#accounts, client)
    const ofFiles = this.#aclFiles.map(({ content }) => aclRights(content, client))
    const sources = ofRoles === null ? ofFiles : [ofRoles, ...ofFiles]
    const isUnruled = sources.length === 0 && userName === null && this.#accounts?.isEmpty === false
    if (isUnruled && this.#options.default === 'auto') return this.#rightsOfNobody(client)
    return new Rights(sources, this.#otherwise(userName, sources.length > 0))
  }

  /** Anonymous clients beside users, without a rule about them: what a user gets of whom nothing else is said. */
  #rightsOfNobody(client: Identity): Rights {
    const source = 'access.default'
    const as = `auto: without credentials as role ${CLIENT_ROLE}`
    const { decide, receivesEverything } = defaultRights(this.#accounts!, client)
    const rights: ClientRights = {
      decide: (request) => {
        const decision = decide(request)
        return decision === null ? null : { ...decision, source, rule: `${as}: ${decision.rule}` }
      },
      receivesEverything,
    }
    return new Rights([rights], { allow: false, source, rule: `${as}, which does not allow it` })
  }

  #otherwise(userName: string | null, hasRules: boolean): Decision {
    const source = 'access.default'
    const { default: otherwise } = this.#options
    if (otherwise !== 'auto') return { allow: otherwise === 'allow', source, rule: otherwise }
    const isForeign = userName !== null && this.#accounts?.isEmpty === false
    const allow = !hasRules && !isForeign
    if (allow) return { allow, source, rule: 'auto: no rule is about this client' }
    const why = hasRules ? 'there are rules, and none allows it' : 'the accounts do not know this user'
    return { allow, source, rule: `auto: ${why}` }
  }

  /** Nothing is denied to anybody: nothing need be asked. */
  get #isUnrestricted(): boolean {
    return (
      this.#options.default !== 'deny' && this.#aclFiles.length === 0 && this.#accounts?.isEmpty !== false
    )
  }

  /** What holds until the listener is told of a change; then there is another one. */
  get policy(): Policy {
    const { deniedSubscription, deniedBefore5, checkRetainedAuthor } = this.#options
    const authenticate: Policy['authenticate'] = (credentials) => this.#authenticate(credentials)
    const isFormerUser: Policy['isFormerUser'] = (userName, userId) => this.isFormerUser(userName, userId)
    if (this.#isUnrestricted) return { authenticate, isFormerUser }
    return {
      authenticate,
      isFormerUser,
      deniedBefore5,
      checksRetainedAuthor: checkRetainedAuthor,
      authorizePublish: (client, topic, qos, retain) => this.#rightsOf(client).mayPublish(topic, qos, retain),
      authorizeSubscribe: (client: ClientView, filter, qos) =>
        this.#rightsOf(client).decide({ action: 'subscribe', filter, qos }).allow || deniedSubscription,
      authorizeReceive: (client, topic) => this.#rightsOf(client).mayReceive(topic),
    }
  }
}

interface SourcesRead {
  readonly accounts: Accounts | null
  readonly passwordFiles: readonly WatchedFile<PasswordFile>[]
  readonly aclFiles: readonly WatchedFile<AclFile>[]
  readonly work: PasswordWork
}

async function readSources(
  options: AccessOptions,
  directory: string | null,
  limits: LoginLimits,
): Promise<SourcesRead> {
  const work = new PasswordWork({ limits })
  return {
    work,
    accounts: directory === null ? null : await Accounts.open(directory, { work }),
    passwordFiles: await Promise.all(
      options.passwordFiles.map((path) => WatchedFile.open(path, parsePasswordFile)),
    ),
    aclFiles: await Promise.all(options.aclFiles.map((path) => WatchedFile.open(path, parseAclFile))),
  }
}

function refused(reasonCode: Reason, reason: string): AuthenticationResult {
  return { allow: false, reasonCode, reason }
}

/** Users whose way in does not hold any more. */
function lostAccounts(before: AccountsContent, after: AccountsContent): ReadonlySet<string> {
  const lost = new Set<string>()
  for (const [name, user] of before.users) {
    const now = after.users.get(name)
    const isLost =
      now === undefined ||
      now.id !== user.id ||
      (now.disabled && !user.disabled) ||
      now.password !== user.password
    if (isLost) lost.add(name)
  }
  // Whoever was let in under this name without an account comes back as the user of the account.
  for (const [name, { id }] of after.users) if (id !== null && !before.users.has(name)) lost.add(name)
  return lost
}

function lostPasswords(before: PasswordFile, after: PasswordFile): ReadonlySet<string> {
  const lost = new Set<string>()
  for (const [name, stored] of before) {
    const now = after.get(name)
    if (now === undefined || !isSameHash(now, stored)) lost.add(name)
  }
  return lost
}

function isSameHash(one: PasswordHash, other: PasswordHash): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}
