/**
 * Who may connect, publish, subscribe and receive: the sources that the configuration names, asked one after the other. Each
 * says yes, no or next; the first that decides is heard. The sources change while the broker runs, and nothing that was
 * decided before outlives a change.
 */
import type { AuthenticationResult, ClientView, Credentials, Policy } from '../broker/policy.ts'
import { Reason } from '../mqtt/reason.ts'
import { Accounts } from './accounts.ts'
import type { AccountsContent } from './accounts-file.ts'
import { type AclFile, aclRights, parseAclFile } from './acl-file.ts'
import { type CertificateName, CertificateUsers, type ListedCertificate } from './certificate-users.ts'
import type { Decision, Identity, Request } from './decision.ts'
import { Logins } from './logins.ts'
import { type PasswordFile, parsePasswordFile } from './password-file.ts'
import { type PasswordHash, parsePasswordHash } from './password-hash.ts'
import { PasswordWork } from './password-work.ts'
import { Rights } from './rights.ts'
import { roleRights } from './roles.ts'
import { WatchedFile } from './watched-file.ts'

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
   * What holds where no rule decides. `auto` allows it to clients that no rule is about: to anonymous ones, and to all where
   * there are no accounts, as long as there are no ACL files and no role `anonymous`.
   */
  readonly default: 'auto' | 'allow' | 'deny'
  readonly certificateUser: CertificateName
  readonly certificates: readonly ListedCertificate[]
  /** What becomes of a PUBLISH that is denied to a client before 5.0, which cannot be told. */
  readonly deniedBefore5: 'ignore' | 'disconnect'
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
  deniedSubscription: Reason.NotAuthorized,
})

/** One of the sources; `path` names its file. */
export interface Source {
  readonly kind: 'accounts' | 'password-file' | 'acl-file'
  readonly path: string
  /** Whether a command changed it through this process, not somebody else its file. */
  readonly isOwn: boolean
}

/** What Access tells while it runs. */
export interface AccessListener {
  /** Something changed; what these users showed to be let in does not hold any more. */
  changed(source: Source, lost: ReadonlySet<string>): void
  /** A source could not be read again: what it said before holds. */
  failed(source: Source, error: Error): void
  /** More passwords waited to be checked than may. */
  busy(clientId: string): void
}

/** Where a user's password is stored. */
interface Known {
  readonly stored: PasswordHash | null
  readonly disabled: boolean
}

export class Access {
  readonly #options: AccessOptions
  readonly #accounts: Accounts | null
  readonly #passwordFiles: readonly WatchedFile<PasswordFile>[]
  readonly #aclFiles: readonly WatchedFile<AclFile>[]
  readonly #certificates: CertificateUsers
  readonly #work: PasswordWork
  readonly #logins: Logins
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
  ) {
    this.#options = options
    this.#accounts = sources.accounts
    this.#passwordFiles = sources.passwordFiles
    this.#aclFiles = sources.aclFiles
    this.#work = sources.work
    this.#logins = new Logins(sources.work)
    this.#certificates = new CertificateUsers(options.certificateUser, options.certificates)
    this.#listener = listener
    this.#refresh()
    if (this.#accounts !== null) {
      this.#accounts.onChange = (before, after, isOwn) =>
        this.#changed(this.#accountsSource(isOwn), lostAccounts(before, after))
    }
  }

  /** Reads every source; `directory` is the data directory, null for none. Throws AccountsError, LinesError and FileError. */
  static async open(
    options: AccessOptions,
    directory: string | null,
    listener: AccessListener,
  ): Promise<Access> {
    return new Access(options, await readSources(options, options.accounts ? directory : null), listener)
  }

  /** Null where the configuration wants none. */
  get accounts(): Accounts | null {
    return this.#accounts
  }

  /** Passwords that were checked, and that were refused because too many waited. */
  get passwordFigures(): Readonly<PasswordWork['figures']> {
    return this.#work.figures
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
      if (await this.#attempt(source, file.reload(when))) this.#changed(source, new Set())
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

  #changed(source: Source, lost: ReadonlySet<string>): void {
    this.#refresh()
    this.#listener.changed(source, lost)
  }

  #refresh(): void {
    this.#rights = new WeakMap()
    const hashes = new Map<string, PasswordHash>()
    for (const { name } of this.#accounts?.list() ?? []) {
      const encoded = this.#accounts!.user(name)!.password
      if (encoded === null) continue
      // The same hash stays the same object: log-ins that are remembered for it hold.
      const before = this.#hashes.get(name)
      const isSame = before?.kind === 'argon2' && before.encoded === encoded
      const parsed = isSame ? before : parsePasswordHash(encoded)
      if (typeof parsed !== 'string') hashes.set(name, parsed)
    }
    this.#hashes = hashes
    // Unknown users cost what known ones do, as far as those are alike.
    const [fromFile] = this.#passwordFiles.flatMap(({ content }) => [...content.values()].slice(0, 1))
    if (hashes.size === 0 && fromFile !== undefined) this.#logins.nobody = fromFile
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
      return this.#checked(credentials.clientId, userName, password ?? Buffer.alloc(0), ATTEMPTS_MAX)
    }
    // A user name that nobody checks is no identity.
    const isCertified = link.certificate !== undefined && this.#options.certificateUser === 'none'
    const endedByUsers = link.anonymousUnlessUsers === true && this.hasUsers
    if ((link.allowAnonymous && !endedByUsers) || isCertified) return { allow: true, userName: null }
    const why = link.certificate === undefined ? '' : ', and the certificate names no user'
    const how = endedByUsers ? ', since there are users and no allow_anonymous says so' : ''
    return refused(Reason.NotAuthorized, `anonymous clients are not allowed here${why}${how}`)
  }

  #admitted(userName: string): AuthenticationResult {
    if (this.#accounts?.user(userName)?.disabled === true) {
      return refused(Reason.NotAuthorized, 'the user is disabled')
    }
    return { allow: true, userName }
  }

  #checked(
    clientId: string,
    userName: string,
    password: Buffer,
    attempts: number,
  ): AuthenticationResult | Promise<AuthenticationResult> {
    const known = this.#known(userName)
    // Also for a disabled user: how long it takes tells nothing.
    const result = this.#logins.check(userName, password, known?.stored ?? undefined)
    const decide = (answer: typeof result): AuthenticationResult | Promise<AuthenticationResult> => {
      if (answer === 'busy') {
        this.#listener.busy(clientId)
        return refused(Reason.ServerBusy, 'too many passwords wait to be checked: try again')
      }
      if (answer !== 'right') return refused(Reason.BadUserNameOrPassword, 'wrong user name or password')
      // It took its time: the user may have been removed, disabled, or given another password meanwhile.
      const now = this.#known(userName)
      if (now?.stored !== known?.stored) {
        if (attempts > 1) return this.#checked(clientId, userName, password, attempts - 1)
        return refused(Reason.BadUserNameOrPassword, 'wrong user name or password')
      }
      if (now!.disabled) return refused(Reason.NotAuthorized, 'the user is disabled')
      return { allow: true, userName }
    }
    return result instanceof Promise ? result.then(decide) : decide(result)
  }

  /** The first source that knows the user; one without a password leaves it to the next. */
  #known(userName: string): Known | null {
    const disabled = this.#accounts?.user(userName)?.disabled === true
    const stored = this.#hashes.get(userName)
    if (stored !== undefined) return { stored, disabled }
    for (const { content } of this.#passwordFiles) {
      const found = content.get(userName)
      if (found !== undefined) return { stored: found, disabled }
    }
    return null
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
    const { userName } = client
    if (userName !== null && this.#accounts?.user(userName)?.disabled === true) {
      return new Rights([], { allow: false, source: `user ${userName}`, rule: 'disabled' })
    }
    const ofRoles = this.#accounts === null ? null : roleRights(this.#accounts, client)
    const ofFiles = this.#aclFiles.map(({ content }) => aclRights(content, client))
    const sources = ofRoles === null ? ofFiles : [ofRoles, ...ofFiles]
    return new Rights(sources, this.#otherwise(userName, sources.length > 0))
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
    const { deniedSubscription, deniedBefore5 } = this.#options
    const authenticate: Policy['authenticate'] = (credentials) => this.#authenticate(credentials)
    if (this.#isUnrestricted) return { authenticate }
    return {
      authenticate,
      deniedBefore5,
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

async function readSources(options: AccessOptions, directory: string | null): Promise<SourcesRead> {
  const work = new PasswordWork()
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
    const isLost = now === undefined || (now.disabled && !user.disabled) || now.password !== user.password
    if (isLost) lost.add(name)
  }
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
