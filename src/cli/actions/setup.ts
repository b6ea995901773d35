/** Runs `godwit setup`: turns an empty directory into that of a broker with TLS and an administrator. */

import { randomBytes, X509Certificate } from 'node:crypto'
import { chownSync, existsSync, lchownSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { createServer, isIP } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { Accounts, ADMINISTRATOR_ROLE } from '../../access/accounts.ts'
import { DIRECTORY_FILE, loadConfig } from '../../config/config.ts'
import type { ErrorCode } from '../../errors.ts'
import {
  CERTIFICATE_FILES,
  type CertificateFiles,
  firstCertificate,
  serverNamesOf,
  writeWhole,
} from '../../runtime/certificates/authority-files.ts'
import {
  createAuthority,
  createServerCertificate,
  fingerprint,
  type IssuedCertificate,
  type ServerNames,
} from '../../runtime/certificates/certificates.ts'
import { isDnsName, shortAddress, thisMachine } from '../../runtime/certificates/machine.ts'
import { makeDirectory, syncDirectory } from '../../store/files/data-directory.ts'
import { DEFAULT_PORTS, type ListenerType } from '../../transport/listener/listener.ts'
import { shellWord } from '../../transport/tls/shell-word.ts'
import { dropRootToOwner } from '../start/root-trust.ts'
import { isRoot, ownerOf, type SystemUser, systemUser } from '../start/system-user.ts'
import { clientExamples } from './client-examples.ts'

/** The options of `godwit setup`. */
export interface SetupOptions {
  readonly directory: string
  /** Additional DNS names and addresses for the server's certificate. */
  readonly names: readonly string[]
  readonly addresses: readonly string[]
  /** The ports of MQTT and WebSocket; the usual ones when absent. */
  readonly port?: number
  readonly webSocketPort?: number
  /** The user who owns all files, and whom the broker becomes when root starts it. */
  readonly user?: string
  /** Replaces an existing server certificate by a new one for the same key. */
  readonly renew: boolean
  /** Replaces the key, too. */
  readonly newKey: boolean
  /** Adds an authority and certificate of RSA to a directory that has only those of ECDSA. */
  readonly rsa: boolean
}

/** The directory cannot be set up; the message says why, the advice what to do. */
export class SetupError extends Error {
  override readonly name = 'SetupError'
  readonly code: ErrorCode = 'GODWIT_SETUP'
  readonly advice: string

  constructor(message: string, advice: string, options?: ErrorOptions) {
    super(message, options)
    this.advice = advice
  }
}

const [ECDSA, RSA] = CERTIFICATE_FILES
const CA_CERTIFICATE = ECDSA.authority.certificate

/** The `tls` line of a listener for one kind of key, and for both. */
const TLS_ECDSA = `tls: { cert: ${ECDSA.server.certificate}, key: ${ECDSA.server.key} }`
const CERTIFICATES = `${ECDSA.server.certificate}, ${RSA.server.certificate}`
const TLS_BOTH = `tls: { cert: [${CERTIFICATES}], key: [${ECDSA.server.key}, ${RSA.server.key}] }`

const ADMINISTRATOR = 'admin'

/** Creates the missing files, keeps the existing ones and returns the output. Throws SetupError. */
export async function setup(options: SetupOptions, nowMs: number): Promise<string> {
  const directory = resolve(options.directory)
  checkNames(options)
  const receiver = await makeDataDirectory(directory, options.user)
  const report: string[] = [`godwit set up in ${directory}`, ...unreachableNotes(directory, options.user)]
  const isNew = !existsSync(join(directory, CA_CERTIFICATE))
  const authority = await ensureAuthority(directory, ECDSA, nowMs, report)
  const served = await ensureServerCertificate(directory, ECDSA, authority, options, nowMs, report)
  const isRsa = isNew || options.rsa || existsSync(join(directory, RSA.authority.certificate))
  if (isRsa) await ensureRsa(directory, options, nowMs, report)
  else {
    report.push(
      'godwit note: devices that only know RSA cannot use the ECDSA certificate ' +
        `${ECDSA.server.certificate}; to serve both: godwit setup --rsa --data ${shellWord(directory)}`,
    )
  }
  const { port, webSocketPort } = await ensureConfiguration(directory, options, report)
  const password = await ensureAdministrator(directory, report)
  report.push(`godwit ${CA_CERTIFICATE} has the SHA-256 fingerprint ${fingerprint(authority.certificate)}`)
  if (isRsa) {
    const print = fingerprint(read(join(directory, RSA.authority.certificate)))
    report.push(
      `godwit ${RSA.authority.certificate} (RSA alone, also part of ${CA_CERTIFICATE}) has ${print}`,
    )
  }
  if (receiver !== null) giveAway(directory, receiver)
  const caFile = join(directory, CA_CERTIFICATE)
  const lines = clientExamples({
    host: bestHost(options, served),
    port,
    webSocketPort,
    caFile,
    ca: read(caFile),
    userName: ADMINISTRATOR,
    password: password ?? 'PASSWORD',
  })
  return [
    ...report,
    '',
    'Add a user for each device or program, and start the broker:',
    '',
    `godwit user add NAME --generate --data ${shellWord(directory)}`,
    `godwit --data ${shellWord(directory)}`,
    '',
    `Clients need a copy of ${caFile}, which is not secret. To publish a first message:`,
    '',
    lines.trimEnd(),
  ].join('\n')
}

function checkNames({ names, addresses }: SetupOptions): void {
  const wrongName = names.find((name) => !isDnsName(name))
  if (wrongName !== undefined) {
    throw new SetupError(`'${wrongName}' is not a DNS name`, 'Correct it, or give an address with --address.')
  }
  const wrongAddress = addresses.find((address) => isIP(address) === 0)
  if (wrongAddress !== undefined) {
    throw new SetupError(`'${wrongAddress}' is not an IP address`, 'Correct it, or give a name with --name.')
  }
}

/**
 * Creates the data directory for its owner alone, or keeps an existing one. If another user can already
 * write it, root becomes that user. Returns the user to whom root must give it in the end; until then
 * nobody else can change it.
 */
async function makeDataDirectory(directory: string, user: string | undefined): Promise<SystemUser | null> {
  dropRootToOwner([directory])
  const isNew = !existsSync(directory)
  if (isNew) {
    await makeDirectory(dirname(directory))
    await mkdir(directory, { mode: 0o700 })
    await syncDirectory(dirname(directory))
  }
  if (user === undefined) return null
  const { uid, gid } = systemUser(user)
  const owner = ownerOf(directory)
  if (owner.uid === uid) return null
  if (!isRoot()) {
    throw new SetupError(
      `only root can give ${directory} to '${user}'`,
      `Run this as root, or as '${user}' without --user.`,
    )
  }
  if (!isNew && existsSync(join(directory, DIRECTORY_FILE))) {
    throw new SetupError(
      `${directory} is already set up and does not belong to '${user}'`,
      `To give it to this user while no broker runs: chown -R ${user} ${shellWord(directory)}`,
    )
  }
  return { uid, gid }
}

/** Gives the files and then the directory to a user. Until the end only root can replace a file in it. */
function giveAway(directory: string, { uid, gid }: SystemUser): void {
  for (const name of readdirSync(directory)) lchownSync(join(directory, name), uid, gid)
  chownSync(directory, uid, gid)
}

/** Warns of parent directories that the user may not enter. */
function unreachableNotes(directory: string, user: string | undefined): string[] {
  if (user === undefined) return []
  const { uid, gid } = systemUser(user)
  const notes: string[] = []
  for (let path = directory; path !== dirname(path); ) {
    path = dirname(path)
    const found = statSync(path)
    const bit = found.uid === uid ? 0o100 : found.gid === gid ? 0o010 : 0o001
    if (uid !== 0 && (found.mode & bit) === 0) {
      notes.push(`godwit note: '${user}' may not enter ${path} and so cannot reach the data`)
    }
  }
  return notes
}

interface StoredAuthority {
  readonly certificate: string
  /** Null if it is kept elsewhere. */
  readonly key: string | null
}

async function ensureAuthority(
  directory: string,
  { kind, authority }: CertificateFiles,
  nowMs: number,
  report: string[],
): Promise<StoredAuthority> {
  const [certificate, key] = [authority.certificate, authority.key].map((name) => join(directory, name))
  if (existsSync(certificate!)) {
    report.push(`godwit kept ${authority.certificate}`)
    return { certificate: firstCertificate(read(certificate!)), key: existsSync(key!) ? read(key!) : null }
  }
  refuseOrphanKey(key!, certificate!)
  const tag = randomBytes(4).toString('hex')
  const [host = 'localhost'] = thisMachine().names
  const made = await createAuthority(`Godwit ${kind === 'RSA' ? 'RSA ' : ''}${host} ${tag}`, nowMs, kind)
  await writePair(directory, authority, made, 'new')
  report.push(
    `godwit made ${authority.certificate} and ${authority.key}: ` +
      `your own authority, ${until(made.certificate)}`,
  )
  return made
}

/**
 * Creates an authority and a certificate for devices that only know RSA. In `ca.crt` the ECDSA authority
 * comes first: clients that read only the first certificate are also shown the ECDSA server certificate.
 */
async function ensureRsa(
  directory: string,
  options: SetupOptions,
  nowMs: number,
  report: string[],
): Promise<void> {
  const authority = await ensureAuthority(directory, RSA, nowMs, report)
  await ensureServerCertificate(directory, RSA, authority, options, nowMs, report)
  const bundle = read(join(directory, CA_CERTIFICATE))
  if (bundle.includes(authority.certificate.trim())) return
  await write(directory, CA_CERTIFICATE, `${bundle.trimEnd()}\n${authority.certificate}`, 0o644, 'replace')
  const path = join(directory, DIRECTORY_FILE)
  if (!existsSync(path)) return
  report.push(
    `godwit note: ${CA_CERTIFICATE} now holds both authorities; ` +
      `devices that only know RSA need a new copy of it, or ${RSA.authority.certificate}`,
  )
  const text = read(path)
  if (text.includes(TLS_ECDSA)) {
    await write(directory, DIRECTORY_FILE, text.replaceAll(TLS_ECDSA, TLS_BOTH), 0o644, 'replace')
    report.push(
      `godwit changed ${DIRECTORY_FILE}: listeners serve both; to apply this to a running broker: ` +
        `godwit reload --data ${shellWord(directory)}`,
    )
  } else report.push(`godwit note: to serve both, the listeners in ${DIRECTORY_FILE} need: ${TLS_BOTH}`)
}

async function ensureServerCertificate(
  directory: string,
  files: CertificateFiles,
  authority: StoredAuthority,
  options: SetupOptions,
  nowMs: number,
  report: string[],
): Promise<ServerNames> {
  const { server, kind } = files
  const [certificate, key] = [server.certificate, server.key].map((name) => join(directory, name))
  const machine = thisMachine()
  const wanted: ServerNames = {
    names: [...new Set([...options.names.map((name) => name.toLowerCase()), ...machine.names])],
    addresses: [...new Set([...options.addresses, ...machine.addresses])],
  }
  const isThere = existsSync(certificate!)
  const known = isThere ? serverNamesOf(read(certificate!)) : { names: [], addresses: [] }
  if (isThere && !options.renew) {
    report.push(`godwit kept ${server.certificate}, ${until(read(certificate!))}`)
    const missing = [...wanted.names, ...wanted.addresses].filter((name) => !covers(known, name))
    if (missing.length > 0) report.push(missingNamesNote(directory, server.certificate, missing, options))
    return known
  }
  if (!isThere) refuseOrphanKey(key!, certificate!)
  if (authority.key === null) {
    throw new SetupError(
      `${join(directory, files.authority.key)} is missing, and no other key can sign certificates`,
      'Put it back while this command runs.',
    )
  }
  const all = {
    names: [...new Set([...wanted.names, ...known.names])],
    addresses: [...new Set([...wanted.addresses, ...known.addresses.filter((old) => !covers(wanted, old))])],
  }
  // Clients may pin the key, so it stays unless a new one is asked for.
  const keeps = isThere && !options.newKey && existsSync(key!)
  const made = await signCertificate(
    { certificate: authority.certificate, key: authority.key },
    all,
    nowMs,
    { kind, ...(keeps && { key: read(key!) }) },
    key!,
  )
  if (keeps) await write(directory, server.certificate, made.certificate, 0o644, 'replace')
  else await writePair(directory, server, made, isThere ? 'replace' : 'new')
  const names = [...all.names, ...all.addresses].join(', ')
  const what = keeps
    ? `${server.certificate} for the existing key`
    : `${server.certificate} and ${server.key}`
  report.push(`godwit made ${what}, ${until(made.certificate)}: for ${names}`)
  if (isThere) report.push('godwit note: a running broker serves it within seconds')
  return all
}

function missingNamesNote(
  directory: string,
  certificate: string,
  missing: readonly string[],
  { names, addresses }: SetupOptions,
): string {
  const given = [...names.map((name) => ` --name ${name}`), ...addresses.map((one) => ` --address ${one}`)]
  return (
    `godwit note: ${certificate} does not name ${missing.join(', ')}; to add: ` +
    `godwit setup --renew --data ${shellWord(directory)}${given.join('')}`
  )
}

async function signCertificate(
  authority: IssuedCertificate,
  names: ServerNames,
  nowMs: number,
  how: NonNullable<Parameters<typeof createServerCertificate>[3]>,
  keyPath: string,
): Promise<IssuedCertificate> {
  try {
    return await createServerCertificate(authority, names, nowMs, how)
  } catch (error) {
    if (how.key === undefined) throw error
    throw new SetupError(
      `${keyPath} cannot be used again: ${(error as Error).message}`,
      'Create a new one: godwit setup --renew --new-key',
      { cause: error },
    )
  }
}

/** Creates the configuration, or keeps the existing one. Returns its ports of MQTT and WebSocket. */
async function ensureConfiguration(
  directory: string,
  { port = DEFAULT_PORTS.tls, webSocketPort = DEFAULT_PORTS.wss, user }: SetupOptions,
  report: string[],
): Promise<{ readonly port: number; readonly webSocketPort: number }> {
  const path = join(directory, DIRECTORY_FILE)
  if (existsSync(path)) {
    report.push(`godwit kept ${DIRECTORY_FILE}`)
    const { listeners } = loadConfig({ file: path })
    const portOf = (type: ListenerType): number | undefined =>
      listeners.find((listener) => listener.type === type)?.port
    return { port: portOf('tls') ?? port, webSocketPort: portOf('wss') ?? webSocketPort }
  }
  const served = existsSync(join(directory, RSA.server.certificate)) ? TLS_BOTH : TLS_ECDSA
  const host = (await hasIPv6()) ? '"::" # all addresses, of IPv4 and IPv6' : '0.0.0.0 # all addresses'
  const userLines =
    user === undefined
      ? ''
      : `\n# The user whom the broker becomes when root starts it.\nuser: ${JSON.stringify(user)}\n`
  const text = `# Made by \`godwit setup\`. config/godwit.example.yaml explains every key.
# Relative paths are relative to this directory. After a change:
#   godwit check --against-running ${shellWord(path)}   and   godwit reload --data ${shellWord(directory)}

# No listener accepts clients without credentials: see \`godwit user\`.
allow_anonymous: false
${userLines}
data:
  directory: .

listeners:
  - name: mqtts
    type: tls
    host: ${host}
    port: ${port}
    ${served}
  - name: wss
    type: wss
    host: ${host}
    port: ${webSocketPort}
    websocket_path: /mqtt
    ${served}
`
  await write(directory, DIRECTORY_FILE, text, 0o644, 'new')
  report.push(
    `godwit made ${DIRECTORY_FILE}: TLS on port ${port}, WebSocket on ${webSocketPort}, ` +
      'passwords required',
  )
  return { port, webSocketPort }
}

/** Creates an administrator and returns the password; null if there is an administrator. */
async function ensureAdministrator(directory: string, report: string[]): Promise<string | null> {
  const accounts = await Accounts.open(directory)
  const administrators = accounts.list().filter(({ roles }) => roles.includes(ADMINISTRATOR_ROLE))
  if (administrators.length > 0) {
    report.push(`godwit kept the administrator ${administrators.map(({ name }) => name).join(', ')}`)
    return null
  }
  if (accounts.user(ADMINISTRATOR) !== undefined) {
    report.push(
      `godwit note: there is no administrator, and the user '${ADMINISTRATOR}' has other roles; ` +
        `to make one: godwit role grant ${ADMINISTRATOR_ROLE} NAME --data ${shellWord(directory)}`,
    )
    return null
  }
  const [made] = await accounts.addGenerated([ADMINISTRATOR], [ADMINISTRATOR_ROLE])
  const { password } = made!
  report.push(
    `godwit made the administrator ${ADMINISTRATOR}, whose password is shown only once: ${password}`,
  )
  return password
}

function covers({ names, addresses }: ServerNames, name: string): boolean {
  return names.includes(name) || addresses.some((address) => address === shortAddress(name))
}

/** Picks the name or address that a client on another machine can most likely reach. */
function bestHost({ names, addresses }: SetupOptions, served: ServerNames): string {
  const given = names[0] ?? addresses[0]
  if (given !== undefined) return given
  const outside = served.addresses.find((address) => isIP(address) === 4 && !address.startsWith('127.'))
  return outside ?? served.names[0] ?? 'localhost'
}

function until(certificate: string): string {
  return `until ${new Date(new X509Certificate(certificate).validTo).toISOString().slice(0, 10)}`
}

/**
 * Refuses a key without a certificate: somebody uses it, or an earlier setup was cut off. Throws
 * SetupError.
 */
function refuseOrphanKey(key: string, certificate: string): void {
  if (!existsSync(key)) return
  throw new SetupError(
    `${key} exists, but ${certificate} is missing`,
    'Put the certificate back, or move the key away if nothing needs it.',
  )
}

/** Writes a key and then its certificate, which marks the pair as complete. */
async function writePair(
  directory: string,
  names: { readonly certificate: string; readonly key: string },
  { certificate, key }: IssuedCertificate,
  how: 'new' | 'replace',
): Promise<void> {
  await write(directory, names.key, key, 0o600, how)
  await write(directory, names.certificate, certificate, 0o644, how)
}

/** Writes a file durably, as a whole or not at all, for the owner of the directory. Throws SetupError. */
async function write(
  directory: string,
  name: string,
  text: string,
  mode: number,
  how: 'new' | 'replace',
): Promise<void> {
  const path = join(directory, name)
  try {
    await writeWhole(directory, name, text, { mode, how, owner: isRoot() ? ownerOf(directory) : null })
  } catch (error) {
    const reason = (error as Error).message
    throw new SetupError(
      `${path} cannot be written: ${reason}`,
      'Check the disk and the owner of the directory.',
      { cause: error },
    )
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const reason = (error as Error).message
    throw new SetupError(`${path} cannot be read: ${reason}`, 'Run this as the owner of the files.', {
      cause: error,
    })
  }
}

/** Whether this machine can listen on all addresses of IPv6. */
function hasIPv6(): Promise<boolean> {
  return new Promise((answer) => {
    const probe = createServer()
    probe.once('error', () => answer(false))
    probe.listen({ host: '::', port: 0 }, () => probe.close(() => answer(true)))
  })
}
