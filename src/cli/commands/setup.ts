/** `godwit setup`: from an empty directory to a broker with TLS, an administrator, and nobody let in without a password. */
import { randomBytes, X509Certificate } from 'node:crypto'
import { chownSync, existsSync, lchownSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { createServer, isIP } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { Accounts, ADMINISTRATOR_ROLE } from '../../access/accounts.ts'
import { DIRECTORY_FILE, loadConfig } from '../../config/config.ts'
import {
  firstCertificate,
  KINDS,
  type KindFiles,
  namesIn,
  writeWhole,
} from '../../runtime/authority-files.ts'
import {
  createAuthority,
  createServerCertificate,
  fingerprint,
  type Issued,
  type ServerNames,
} from '../../runtime/certificates.ts'
import { isDnsName, shortAddress, thisMachine } from '../../runtime/machine.ts'
import { makeDirectory, syncDirectory } from '../../store/files/data-directory.ts'
import { DEFAULT_PORTS, type ListenerType } from '../../transport/listener/listener.ts'
import { shellWord } from '../../transport/tls/shell-word.ts'
import { yieldToOwner } from '../start/root-trust.ts'
import { isRoot, ownerOf, type SystemUser, systemUser } from '../start/system-user.ts'
import { clientLines } from './client-lines.ts'

export interface SetupOptions {
  readonly directory: string
  /** Further DNS names and addresses for the server's certificate. */
  readonly names: readonly string[]
  readonly addresses: readonly string[]
  /** Ports of MQTT and of WebSocket; those by habit when absent. */
  readonly port?: number
  readonly webSocketPort?: number
  /** Whose everything becomes, and whom the broker goes on as when root starts it. */
  readonly user?: string
  /** Makes a new server certificate where there is one, for the same key. */
  readonly renew: boolean
  /** Makes a new key with it. */
  readonly newKey: boolean
  /** Makes authority and certificate of RSA, too, where setup made those of ECDSA alone. */
  readonly rsa: boolean
}

/** What cannot be set up; the message says why, the advice what to do. */
export class SetupError extends Error {
  override readonly name = 'SetupError'
  readonly advice: string

  constructor(message: string, advice: string, options?: ErrorOptions) {
    super(message, options)
    this.advice = advice
  }
}

const [ECDSA, RSA] = KINDS
const CA_CERTIFICATE = ECDSA.authority.certificate

/** What `tls` of a listener says for one kind of key, and for both. */
const TLS_ECDSA = `tls: { cert: ${ECDSA.server.certificate}, key: ${ECDSA.server.key} }`
const TLS_BOTH = `tls: { cert: [${ECDSA.server.certificate}, ${RSA.server.certificate}], key: [${ECDSA.server.key}, ${RSA.server.key}] }`

const ADMINISTRATOR = 'admin'

/** Makes what is missing, changes nothing that is there, and returns what there is to say. Throws SetupError. */
export async function setup(options: SetupOptions, nowMs: number): Promise<string> {
  const directory = resolve(options.directory)
  checkNames(options)
  const receiver = await makeDataDirectory(directory, options.user)
  const said: string[] = [`godwit set up in ${directory}`, ...closedNotes(directory, options.user)]
  const isNew = !existsSync(join(directory, CA_CERTIFICATE))
  const authority = await authorityIn(directory, ECDSA, nowMs, said)
  const served = await serverCertificateIn(directory, ECDSA, authority, options, nowMs, said)
  const isRsa = isNew || options.rsa || existsSync(join(directory, RSA.authority.certificate))
  if (isRsa) await rsaIn(directory, options, nowMs, said)
  else {
    said.push(
      `godwit note: ${ECDSA.server.certificate} is an ECDSA certificate, which devices that only know RSA cannot use; to serve both: godwit setup --rsa --data ${shellWord(directory)}`,
    )
  }
  const { port, webSocketPort } = await configurationIn(directory, options, said)
  const password = await administratorIn(directory, said)
  said.push(`godwit ${CA_CERTIFICATE} has the SHA-256 fingerprint ${fingerprint(authority.certificate)}`)
  if (isRsa) {
    const print = fingerprint(read(join(directory, RSA.authority.certificate)))
    said.push(`godwit ${RSA.authority.certificate} (RSA alone, also part of ${CA_CERTIFICATE}) has ${print}`)
  }
  if (receiver !== null) giveAway(directory, receiver)
  const caFile = join(directory, CA_CERTIFICATE)
  const lines = clientLines({
    host: bestHost(options, served),
    port,
    webSocketPort,
    caFile,
    ca: read(caFile),
    userName: ADMINISTRATOR,
    password: password ?? 'PASSWORD',
  })
  return [
    ...said,
    '',
    'Add a user for each device or program, and start the broker:',
    '',
    `godwit user add NAME --generate --data ${shellWord(directory)}`,
    `godwit --data ${shellWord(directory)}`,
    '',
    `Clients need a copy of ${caFile}, which is no secret. To publish a first message:`,
    '',
    lines.trimEnd(),
  ].join('\n')
}

function checkNames({ names, addresses }: SetupOptions): void {
  const wrongName = names.find((name) => !isDnsName(name))
  if (wrongName !== undefined) {
    throw new SetupError(`'${wrongName}' is no DNS name`, 'An address is given by --address.')
  }
  const wrongAddress = addresses.find((address) => isIP(address) === 0)
  if (wrongAddress !== undefined) {
    throw new SetupError(`'${wrongAddress}' is no IP address`, 'A name is given by --name.')
  }
}

/**
 * One that is made is for its owner alone; one that is there stays whose it is, unless a user is asked for. Returns to whom root has to
 * give it in the end: until then nobody else can put anything into it. Where somebody can, root works as that user.
 */
async function makeDataDirectory(directory: string, user: string | undefined): Promise<SystemUser | null> {
  yieldToOwner([directory])
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
      `only root can make ${directory} belong to '${user}'`,
      `Run this as root, or as '${user}' without --user.`,
    )
  }
  if (!isNew && existsSync(join(directory, DIRECTORY_FILE))) {
    throw new SetupError(
      `${directory} is set up, and does not belong to '${user}'`,
      `To give it away with everything in it, while no broker runs: chown -R ${user} ${shellWord(directory)}`,
    )
  }
  return { uid, gid }
}

/** The directory comes last: before, it is root's alone, and its names lead to what root made. */
function giveAway(directory: string, { uid, gid }: SystemUser): void {
  for (const name of readdirSync(directory)) lchownSync(join(directory, name), uid, gid)
  chownSync(directory, uid, gid)
}

/** What lies above the directory and does not let its user pass. */
function closedNotes(directory: string, user: string | undefined): string[] {
  if (user === undefined) return []
  const { uid, gid } = systemUser(user)
  const notes: string[] = []
  for (let path = directory; path !== dirname(path); ) {
    path = dirname(path)
    const found = statSync(path)
    const bit = found.uid === uid ? 0o100 : found.gid === gid ? 0o010 : 0o001
    if (uid !== 0 && (found.mode & bit) === 0) {
      notes.push(`godwit note: ${path} is closed to '${user}', who then cannot reach the data`)
    }
  }
  return notes
}

interface KeptAuthority {
  readonly certificate: string
  /** Null while it is kept elsewhere. */
  readonly key: string | null
}

async function authorityIn(
  directory: string,
  { kind, authority }: KindFiles,
  nowMs: number,
  said: string[],
): Promise<KeptAuthority> {
  const [certificate, key] = [authority.certificate, authority.key].map((name) => join(directory, name))
  if (existsSync(certificate!)) {
    said.push(`godwit kept ${authority.certificate}`)
    return { certificate: firstCertificate(read(certificate!)), key: existsSync(key!) ? read(key!) : null }
  }
  refuseLone(key!, certificate!)
  const tag = randomBytes(4).toString('hex')
  const [host = 'localhost'] = thisMachine().names
  const made = await createAuthority(`Godwit ${kind === 'RSA' ? 'RSA ' : ''}${host} ${tag}`, nowMs, kind)
  await writePair(directory, authority, made, 'new')
  said.push(
    `godwit made ${authority.certificate} and ${authority.key}: an authority of your own, ${until(made.certificate)}`,
  )
  return made
}

/**
 * An authority and a certificate for devices that know RSA only. `ca.crt` holds both authorities, that of ECDSA first: clients that read
 * one certificate of a file read the one that they are shown a server of.
 */
async function rsaIn(directory: string, options: SetupOptions, nowMs: number, said: string[]): Promise<void> {
  const authority = await authorityIn(directory, RSA, nowMs, said)
  await serverCertificateIn(directory, RSA, authority, options, nowMs, said)
  const bundle = read(join(directory, CA_CERTIFICATE))
  if (bundle.includes(authority.certificate.trim())) return
  await write(directory, CA_CERTIFICATE, `${bundle.trimEnd()}\n${authority.certificate}`, 0o644, 'replace')
  const path = join(directory, DIRECTORY_FILE)
  if (!existsSync(path)) return
  said.push(
    `godwit note: ${CA_CERTIFICATE} holds both authorities now; devices that only know RSA need a new copy of it, or ${RSA.authority.certificate}`,
  )
  const text = read(path)
  if (text.includes(TLS_ECDSA)) {
    await write(directory, DIRECTORY_FILE, text.replaceAll(TLS_ECDSA, TLS_BOTH), 0o644, 'replace')
    said.push(
      `godwit changed ${DIRECTORY_FILE}: listeners serve both; to have a running broker take it over: godwit reload --data ${shellWord(directory)}`,
    )
  } else said.push(`godwit note: to serve both, the listeners in ${DIRECTORY_FILE} need: ${TLS_BOTH}`)
}

async function serverCertificateIn(
  directory: string,
  files: KindFiles,
  authority: KeptAuthority,
  options: SetupOptions,
  nowMs: number,
  said: string[],
): Promise<ServerNames> {
  const { server, kind } = files
  const [certificate, key] = [server.certificate, server.key].map((name) => join(directory, name))
  const machine = thisMachine()
  const wanted: ServerNames = {
    names: [...new Set([...options.names.map((name) => name.toLowerCase()), ...machine.names])],
    addresses: [...new Set([...options.addresses, ...machine.addresses])],
  }
  const isThere = existsSync(certificate!)
  const known = isThere ? namesIn(read(certificate!)) : { names: [], addresses: [] }
  if (isThere && !options.renew) {
    said.push(`godwit kept ${server.certificate}, ${until(read(certificate!))}`)
    const missing = [...wanted.names, ...wanted.addresses].filter((name) => !covers(known, name))
    if (missing.length > 0) {
      const given = [
        ...options.names.map((name) => ` --name ${name}`),
        ...options.addresses.map((address) => ` --address ${address}`),
      ].join('')
      said.push(
        `godwit note: ${server.certificate} does not name ${missing.join(', ')}; for one that does: godwit setup --renew --data ${shellWord(directory)}${given}`,
      )
    }
    return known
  }
  if (!isThere) refuseLone(key!, certificate!)
  if (authority.key === null) {
    throw new SetupError(
      `${join(directory, files.authority.key)} is not there, and without it nothing can be signed`,
      'Put it back for the time of this command.',
    )
  }
  const all = {
    names: [...new Set([...wanted.names, ...known.names])],
    addresses: [...new Set([...wanted.addresses, ...known.addresses.filter((old) => !covers(wanted, old))])],
  }
  // What clients pin is the key: it stays unless a new one is asked for.
  const keeps = isThere && !options.newKey && existsSync(key!)
  const made = await signed(
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
    ? `${server.certificate} for the key that it had`
    : `${server.certificate} and ${server.key}`
  said.push(`godwit made ${what}, ${until(made.certificate)}: for ${names}`)
  if (isThere) said.push('godwit note: a broker that runs serves it within seconds')
  return all
}

async function signed(
  authority: Issued,
  names: ServerNames,
  nowMs: number,
  how: NonNullable<Parameters<typeof createServerCertificate>[3]>,
  keyPath: string,
): Promise<Issued> {
  try {
    return await createServerCertificate(authority, names, nowMs, how)
  } catch (error) {
    if (how.key === undefined) throw error
    throw new SetupError(
      `${keyPath} cannot be used again: ${(error as Error).message}`,
      'Make a new one: godwit setup --renew --new-key',
      { cause: error },
    )
  }
}

/** The ports of MQTT and WebSocket that the configuration has. */
async function configurationIn(
  directory: string,
  { port = DEFAULT_PORTS.tls, webSocketPort = DEFAULT_PORTS.wss, user }: SetupOptions,
  said: string[],
): Promise<{ readonly port: number; readonly webSocketPort: number }> {
  const path = join(directory, DIRECTORY_FILE)
  if (existsSync(path)) {
    said.push(`godwit kept ${DIRECTORY_FILE}`)
    const { listeners } = loadConfig({ file: path })
    const portOf = (type: ListenerType): number | undefined =>
      listeners.find((listener) => listener.type === type)?.port
    return { port: portOf('tls') ?? port, webSocketPort: portOf('wss') ?? webSocketPort }
  }
  const served = existsSync(join(directory, RSA.server.certificate)) ? TLS_BOTH : TLS_ECDSA
  const host = (await hasIPv6()) ? '"::" # all addresses, of IPv4 and IPv6' : '0.0.0.0 # all addresses'
  const text = `# Made by \`godwit setup\`. Every key: config/godwit.example.yaml. Relative paths start here. After a change:
#   godwit check --against-running ${shellWord(path)}   and   godwit reload --data ${shellWord(directory)}

# Nobody is let in without credentials, on whichever listener: see \`godwit user\`.
allow_anonymous: false
${user === undefined ? '' : `\n# Whom root goes on as.\nuser: ${JSON.stringify(user)}\n`}
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
  said.push(
    `godwit made ${DIRECTORY_FILE}: TLS on port ${port}, WebSocket on ${webSocketPort}, nobody without a password`,
  )
  return { port, webSocketPort }
}

/** The password that was made; null when there is an administrator. */
async function administratorIn(directory: string, said: string[]): Promise<string | null> {
  const accounts = await Accounts.open(directory)
  const administrators = accounts.list().filter(({ roles }) => roles.includes(ADMINISTRATOR_ROLE))
  if (administrators.length > 0) {
    said.push(`godwit kept the administrator ${administrators.map(({ name }) => name).join(', ')}`)
    return null
  }
  if (accounts.user(ADMINISTRATOR) !== undefined) {
    said.push(
      `godwit note: there is no administrator, and the user '${ADMINISTRATOR}' is something else; to make one: godwit role grant ${ADMINISTRATOR_ROLE} NAME --data ${shellWord(directory)}`,
    )
    return null
  }
  const [made] = await accounts.addGenerated([ADMINISTRATOR], [ADMINISTRATOR_ROLE])
  const { password } = made!
  said.push(`godwit made the administrator ${ADMINISTRATOR}, whose password is shown this once: ${password}`)
  return password
}

function covers({ names, addresses }: ServerNames, name: string): boolean {
  return names.includes(name) || addresses.some((address) => address === shortAddress(name))
}

/** What a client on another machine most likely reaches. */
function bestHost({ names, addresses }: SetupOptions, served: ServerNames): string {
  const given = names[0] ?? addresses[0]
  if (given !== undefined) return given
  const outside = served.addresses.find((address) => isIP(address) === 4 && !address.startsWith('127.'))
  return outside ?? served.names[0] ?? 'localhost'
}

function until(certificate: string): string {
  return `until ${new Date(new X509Certificate(certificate).validTo).toISOString().slice(0, 10)}`
}

/** A key whose certificate is missing belongs to somebody, or to a setup that was cut off. */
function refuseLone(key: string, certificate: string): void {
  if (!existsSync(key)) return
  throw new SetupError(
    `${key} is there, and ${certificate} is not`,
    'Put the certificate back, or move the key away if nothing needs it.',
  )
}

/** The certificate comes last: with it the pair is complete. */
async function writePair(
  directory: string,
  names: { readonly certificate: string; readonly key: string },
  { certificate, key }: Issued,
  how: 'new' | 'replace',
): Promise<void> {
  await write(directory, names.key, key, 0o600, how)
  await write(directory, names.certificate, certificate, 0o644, how)
}

/** Writes a whole file or none, durably, for the owner of the directory. Throws SetupError. */
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
      'Check the disk, and whose the directory is.',
      { cause: error },
    )
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const reason = (error as Error).message
    throw new SetupError(
      `${path} cannot be read: ${reason}`,
      'Run this as the user to whom the files belong.',
      {
        cause: error,
      },
    )
  }
}

/** Whether one can listen on all addresses of IPv6. */
function hasIPv6(): Promise<boolean> {
  return new Promise((answer) => {
    const probe = createServer()
    probe.once('error', () => answer(false))
    probe.listen({ host: '::', port: 0 }, () => probe.close(() => answer(true)))
  })
}
