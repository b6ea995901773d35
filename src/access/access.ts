/**
 * Decides who may connect, publish, subscribe and receive. The sources that the configuration names are
 * asked in turn: each allows, denies, or leaves it to the next. They may change while the broker runs, and
 * no decision outlives a change.
 */
import { DEFAULT_LIMITS } from '../broker/boundary/limits.ts'
import type { LinkInfo } from '../broker/boundary/link.ts'
import { networkOf } from '../broker/boundary/network.ts'
import type { AuthenticationResult, ClientView, Credentials, Policy } from '../broker/boundary/policy.ts'
import { Reason } from '../mqtt/reason.ts'
import type { AccessOptions, LoginLimits } from './access-options.ts'
import { type Accounts, CLIENT_ROLE } from './accounts.ts'
import { type AclFile, aclRights } from './acl-file.ts'
import { CertificateUsers } from './certificate-users.ts'
import type { ClientRights, Decision, Identity, Request } from './decision.ts'
import type { LoginFile } from './files/login-file.ts'
import type { WatchedFile } from './files/watched-file.ts'
import { FailedLogins } from './logins/failed-logins.ts'
import type { FullBy } from './logins/fair-queue.ts'
import { LoginCrowd } from './logins/login-crowd.ts'
import { type LoginResult, Logins, NOBODY } from './logins/logins.ts'
import type { PasswordWork, Waiting } from './logins/password-work.ts'
import type { PasswordFile } from './passwords/password-file.ts'
import { type PasswordHash, parsePasswordHash } from './passwords/password-hash.ts'
import { Rights } from './rights.ts'
import { RoleRights } from './roles.ts'
import { lostAccounts, lostPasswords, readSources, type Source, type Sources } from './sources.ts'

/** The files are checked for changes this often. */
const WATCH_MS = 1000

/** A password is checked at most so many times, because the stored one may change during a check. */
const ATTEMPTS_MAX = 3

/** The events that Access reports while it runs. */
export interface AccessListener {
  /** A source changed, and the clients in `lost` could not log in again as they did. */
  changed(source: Source, lost: LostAccess): void
  /** Whether a client certificate may name a user that no source knows. Yes when absent. */
  takesCertificates?(): boolean
  /** A source could not be read again; its last content stays in force. */
  failed(source: Source, error: Error): void
  /** This limit kept a password from being checked; `detail` says so in words. */
  busy(clientId: string, limit: FullBy | 'failedLoginsMax', detail: string): void
  /** `waiting` log-ins wait for a password check, the last for about `seconds`; one hash takes `hashMs`. */
  crowded?(waiting: number, seconds: number, hashMs: number): void
  /** An address, or IPv6 network such as `2001:db8::/64`, showed enough wrong passwords to be banned. */
  guesses(address: string, count: number): void
}

/** The clients that could not log in again as they did. */
export interface LostAccess {
  readonly users: ReadonlySet<string>
  /** Whether this client is one of them. Anonymous clients are once the first users end their access. */
  includes(client: ClientView): boolean
}

const NO_USERS: ReadonlySet<string> = new Set()

/** The refusals of log-ins that have to give way to others in the queue, by the limit that was reached. */
const TOO_MANY: Readonly<Record<FullBy, { readonly reasonCode: Reason; readonly reason: string }>> = {
  loginQueueMax: { reasonCode: Reason.ServerBusy, reason: 'too many log-ins wait: try again later' },
  loginQueueBytesMax: {
    reasonCode: Reason.ServerBusy,
    reason: 'the waiting log-ins take too much memory: try again later',
  },
  loginQueuePerAddressMax: {
    reasonCode: Reason.QuotaExceeded,
    reason: 'too many log-ins from this address wait: try again later',
  },
  loginQueuePerUserMax: {
    reasonCode: Reason.QuotaExceeded,
    reason: 'too many log-ins of this user wait: try again later',
  },
}

/** The address as the queue counts it; all peers of a listener without addresses count as one. */
function placeOf({ remoteAddress, listener }: LinkInfo): string {
  return remoteAddress === '' ? `listener ${listener}` : networkOf(remoteAddress)
}

/** The users and rights of one broker. */
export class Access {
  readonly #options: AccessOptions
  readonly #limits: LoginLimits
  readonly #failures: FailedLogins
  readonly #accounts: Accounts | null
  readonly #passwordFiles: readonly WatchedFile<PasswordFile>[]
  readonly #aclFiles: readonly WatchedFile<AclFile>[]
  readonly #certificates: CertificateUsers
  /** Null without accounts. */
  readonly #roles: RoleRights | null
  readonly #work: PasswordWork
  readonly #logins: Logins
  readonly #crowd: LoginCrowd
  readonly #listener: AccessListener
  /** Rights by the client's view, which lives as long as its Network Connection. Emptied by each change. */
  #rights = new WeakMap<Identity, Rights>()
  /** The parsed hashes of the accounts, by user name. */
  #hashes = new Map<string, PasswordHash>()
  #timer: NodeJS.Timeout | null = null
  #reloading: Promise<void> = Promise.resolve()

  private constructor(
    options: AccessOptions,
    sources: Sources,
    listener: AccessListener,
    limits: LoginLimits,
    now: () => number,
  ) {
    this.#options = options
    this.#limits = limits
    this.#failures = new FailedLogins(limits, now)
    this.#accounts = sources.accounts
    this.#roles = sources.accounts === null ? null : new RoleRights(sources.accounts)
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
   * Reads every source; `directory` is the data directory, null for none. `limits` are read at each log-in,
   * since they may change. `now` is a monotonic clock in ms. Throws AccountsError, LinesError and FileError.
   */
  static async open(
    options: AccessOptions,
    directory: string | null,
    listener: AccessListener,
    limits: LoginLimits = DEFAULT_LIMITS,
    now: () => number = () => performance.now(),
  ): Promise<Access> {
    const sources = await readSources(options, directory, limits)
    return new Access(options, sources, listener, limits, now)
  }

  /** Null if the options exclude accounts, or without a data directory. */
  get accounts(): Accounts | null {
    return this.#accounts
  }

  /** Counts the checked passwords, and the log-ins that were refused or left while they waited. */
  get passwordFigures(): Readonly<PasswordWork['figures']> {
    return this.#work.figures
  }

  /** Remembers successful log-ins in this file, beyond a restart. Call it before anybody logs in. */
  rememberIn(file: LoginFile): void {
    this.#logins.rememberIn(file)
  }

  /** Checks the files for changes every second, until `close`. */
  watch(): void {
    let isReloading = false
    this.#timer ??= setInterval(() => {
      // Reads must not pile up on a file system that hangs.
      if (isReloading) return
      isReloading = true
      void this.reload('settled').then(() => {
        isReloading = false
      })
    }, WATCH_MS).unref()
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    this.#crowd.close()
  }

  /**
   * Rereads the sources that have changed. One that cannot be read is reported to the listener, and its last
   * content stays in force. Never rejects.
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
      // Keep the object of an unchanged hash: `#checked` compares objects to notice a changed password.
      const before = this.#hashes.get(name)
      const parsed = before?.encoded === encoded ? before : parsePasswordHash(encoded)
      if (typeof parsed !== 'string') hashes.set(name, parsed)
    }
    this.#hashes = hashes
    // Checking an unknown user must cost as much as checking a known one. If all chosen passwords are in
    // password files, the first hash of these is the measure; otherwise argon2id is, as in the accounts.
    const [fromFile] = this.#passwordFiles.flatMap(({ content }) => [...content.values()].slice(0, 1))
    const isChosenInAccounts = [...hashes.values()].some(({ kind }) => kind !== 'generated')
    this.#logins.nobody = isChosenInAccounts || fromFile === undefined ? NOBODY : fromFile
  }

  // ── authentication ─────────────────────────────────────────────────────────────────────────────────────

  /** Whether there are users: a password file, or accounts that are not empty. */
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
    // A user name whose password nobody checks identifies nobody.
    const endedByUsers = link.anonymousUnlessUsers === true && this.hasUsers
    if (this.letsInAnonymous(link)) return { allow: true, userName: null }
    const why = link.certificate === undefined ? '' : ', and the certificate names no user'
    const how = endedByUsers ? ', because users exist and allow_anonymous is not true' : ''
    return refused(Reason.NotAuthorized, `anonymous clients are not allowed here${why}${how}`)
  }

  /** Whether a client without user name and password may connect as an anonymous one. */
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
    // A disabled user's password is checked as well, so that the time taken gives nothing away.
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
      // The hash took its time: the user may have been removed or given another password meanwhile.
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
    const reason = `too many wrong passwords for this user from this address: try again in ${seconds} s`
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

  /** Returns the stored password of the first source that has one for this user. */
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

  /** Whether a password file, or a listed certificate, knows a user of this name. */
  knowsByName(userName: string): boolean {
    return this.#storedInFile(userName) !== undefined || this.#certificates.names(userName)
  }

  /** Whether no source knows this user any more. A later account of the same name is another user. */
  isFormerUser(userName: string, userId: string | null): boolean {
    // Without accounts nothing tells which users are gone.
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

  // ── rights ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Returns the rule that decides a request. Such a client need not exist. */
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
    // Sessions and Wills of a removed user must not use the rights of the next user of that name.
    if (userName !== null && userId !== undefined && this.isFormerUser(userName, userId)) {
      return new Rights([], { allow: false, source: `user ${userName}`, rule: 'removed' })
    }
    const ofRoles = this.#roles?.rightsOf(client) ?? null
    const ofFiles = this.#aclFiles.map(({ content }) => aclRights(content, client))
    const sources = ofRoles === null ? ofFiles : [ofRoles, ...ofFiles]
    const isUnruled = sources.length === 0 && userName === null && this.#accounts?.isEmpty === false
    if (isUnruled && this.#options.default === 'auto') return this.#rightsOfNobody(client)
    return new Rights(sources, this.#otherwise(userName, sources.length > 0))
  }

  /** Returns the rights of anonymous clients if users exist and no rule concerns the client: a new user's. */
  #rightsOfNobody(client: Identity): Rights {
    const source = 'access.default'
    const as = `auto: without credentials as role ${CLIENT_ROLE}`
    const ofRole = this.#roles!.defaultRightsOf(client)
    const rights: ClientRights = {
      decide: (request) => {
        const decision = ofRole.decide(request)
        return decision === null ? null : { ...decision, source, rule: `${as}: ${decision.rule}` }
      },
      receivesEverything: ofRole.receivesEverything,
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

  /** Whether nothing is denied to anybody, so that the core need not ask. */
  get #isUnrestricted(): boolean {
    return (
      this.#options.default !== 'deny' && this.#aclFiles.length === 0 && this.#accounts?.isEmpty !== false
    )
  }

  /** The policy for the core, valid until `changed` of the listener is called. */
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
      authorizeDeclare: (client, topic, filters) => {
        const rights = this.#rightsOf(client)
        return (
          rights.decide({ action: 'declare', topic }).allow &&
          filters.every((filter) => rights.decide({ action: 'receive all', filter }).allow)
        )
      },
    }
  }
}

function refused(reasonCode: Reason, reason: string): AuthenticationResult {
  return { allow: false, reasonCode, reason }
}
