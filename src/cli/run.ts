/** The command line: from its words to an exit code. */
import { statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Logger } from 'pino'
import type { AccessOptions } from '../access/access.ts'
import type { ControlCommand } from '../admin/control.ts'
import { configKey } from '../broker/boundary/limit-row.ts'
import {
  type Config,
  ConfigError,
  type ConfigSources,
  checkConfig,
  configFile,
  contentOf,
  loadConfig,
} from '../config/config.ts'
import { type ConfigFlags, variable } from '../config/sources.ts'
import { attachLog } from '../observe/log.ts'
import { createLogger } from '../observe/logger.ts'
import { version } from '../runtime/version.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'
import { openFilesNotice } from '../transport/open-files.ts'
import {
  type CheckCommand,
  type DataPlace,
  HELP,
  parseArguments,
  type SetupCommand,
  type StoreCommand,
  UsageError,
} from './commands/arguments.ts'
import { type Output, written } from './commands/output.ts'
import { afterUsers, openingLine, startNotices } from './start/notices.ts'
import { checkAgainstRunning, Reload, reload, reloadCommands } from './start/reload.ts'
import { foreignFileNotices, foreignWriter, refuseForeignPlaces, yieldToOwner } from './start/root-trust.ts'
import type { RunningBroker } from './start/running-broker.ts'
import { openSecurityLog } from './start/security-log.ts'
import { becomeUser } from './start/system-user.ts'

/** Exit codes; others build on them. */
export const ExitCode = { CleanEnd: 0, Failure: 1, Usage: 2 } as const

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/** How the command line starts one. */
export interface StartOptions {
  readonly dataDirectory: string
  readonly durability: Config['data']['durability']
  readonly durabilityIntervalSeconds: number
  readonly reserveBytes: number
  readonly residentBytesMax: number
  readonly listeners: readonly ListenerOptions[]
  readonly access: AccessOptions
  readonly limits: Config['limits']
  readonly sysIntervalSeconds: number
  readonly runtimeDirectory?: string
  readonly controlSocket: boolean
  readonly renewsCertificates: boolean
  readonly controlCommands: Readonly<Record<string, ControlCommand>>
}

interface Terminal extends Output {
  readonly isTTY?: boolean
}

/** The process as the command line sees it. */
export interface Surroundings {
  /** After the program's name. */
  readonly words: readonly string[]
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly stdin: AsyncIterable<Uint8Array>
  /** Asks on the terminal without showing what is typed; null where there is none. */
  readonly askSecret: ((prompt: string) => Promise<string>) | null
  readonly stdout: Terminal
  readonly stderr: Output
  readonly startBroker: (options: StartOptions) => Promise<RunningBroker>
  /** Calls back for SIGTERM and SIGINT. */
  readonly onStopSignal: (callback: (signal: string) => void) => void
  /** Calls back for SIGHUP. */
  readonly onReloadSignal: (callback: () => void) => void
  /** Calls back for what nobody caught. */
  readonly onUncaught: (callback: (error: unknown) => void) => void
  /** A monotonic clock in ms. */
  readonly now: () => number
  /** Ends the process at once. */
  readonly exit: (code: ExitCode) => void
}

/** After the time that closing may take, in seconds: then the process ends anyway. */
const CLOSE_GRACE_SECONDS = 2

/**
 * Runs a command to its end. What only some commands need is imported by these: a broker starts sooner without. Resolves with the exit code; never rejects. */
export async function run(surroundings: Surroundings): Promise<ExitCode> {
  const { words, stdout, stderr } = surroundings
  try {
    const command = parseArguments(words)
    switch (command.name) {
      case 'help':
        stdout.write(HELP)
        return ExitCode.CleanEnd
      case 'version':
        stdout.write(`${version()}\n`)
        return ExitCode.CleanEnd
      case 'check':
        stdout.write(`${await check(command)}\n`)
        return ExitCode.CleanEnd
      case 'reload':
        stdout.write(`${await reload(dataDirectory(surroundings, command.place), command.json)}\n`)
        return ExitCode.CleanEnd
      case 'setup':
        stdout.write(`${await setUp(surroundings, command)}\n`)
        return ExitCode.CleanEnd
      case 'start':
        return await start(surroundings, command.file, command.flags)
      case 'held': {
        const { held } = await import('./commands/inventory-commands.ts')
        await written(stdout, `${await held(dataDirectory(surroundings, command.place), command)}\n`)
        return ExitCode.CleanEnd
      }
      case 'accounts': {
        const directory = dataDirectory(surroundings, command.place)
        if (command.names !== undefined) {
          const { changeManyUsers } = await import('./commands/many-users.ts')
          await changeManyUsers(directory, command, surroundings)
          return ExitCode.CleanEnd
        }
        const { changeAccounts } = await import('./commands/account-commands.ts')
        stdout.write(`${await changeAccounts(directory, command, surroundings)}\n`)
        return ExitCode.CleanEnd
      }
      case 'bans': {
        const { changeBans } = await import('./commands/ban-commands.ts')
        stdout.write(`${await changeBans(dataDirectory(surroundings, command.place), command)}\n`)
        return ExitCode.CleanEnd
      }
      case 'explain': {
        const { explain } = await import('./commands/account-commands.ts')
        const { data, access } = configOf(surroundings, command.place)
        stdout.write(`${await explain(data.directory, access, command)}\n`)
        return ExitCode.CleanEnd
      }
      default:
        return await operate(surroundings, command)
    }
  } catch (error) {
    if (error instanceof UsageError) {
      stderr.write(`godwit: ${error.message}\nTry: godwit --help\n`)
      return ExitCode.Usage
    }
    if (error instanceof ConfigError) {
      stderr.write(`${error.message}\n`)
      return ExitCode.Usage
    }
    stderr.write(explained(error))
    return ExitCode.Failure
  }
}

/** A command for a data directory. What is not data for another program goes to stderr where data goes to stdout. */
async function operate(surroundings: Surroundings, command: StoreCommand): Promise<ExitCode> {
  const { stdin, stdout, stderr } = surroundings
  const directory = operatedDirectory(surroundings, command)
  const done = (text: string): ExitCode => {
    stdout.write(`${text}\n`)
    return ExitCode.CleanEnd
  }
  const { backup, checkStore, exportLines, importLines, repair, restore } = await import(
    './commands/store-commands.ts'
  )
  switch (command.name) {
    case 'status': {
      const { status } = await import('./commands/status.ts')
      return done(await status(directory, command.json))
    }
    case 'backup':
      return done(await backup(directory, command.target))
    case 'restore':
      return done(await restore(command.source, directory, command.force))
    case 'export': {
      const text = await exportLines(directory, command.path, stdout, command.exportVersion)
      ;(command.path === '-' ? stderr : stdout).write(`${text}\n`)
      return ExitCode.CleanEnd
    }
    case 'import':
      return done(await importLines(command.path, directory, command.force, stdin))
    case 'check-store': {
      const { text, isSound } = await checkStore(directory)
      stdout.write(`${text}\n`)
      return isSound ? ExitCode.CleanEnd : ExitCode.Failure
    }
    case 'repair':
      return done(await repair(directory))
  }
}

/** The one that `godwit start` would use. From here on root is the user to whom it belongs. */
function dataDirectory(surroundings: Surroundings, place: DataPlace): string {
  const directory = namedDirectory(surroundings, place)
  yieldToOwner([directory])
  return directory
}

/** The same for a command that may name another directory, or a backup, which is only read. */
function operatedDirectory(surroundings: Surroundings, command: StoreCommand): string {
  const named = 'directory' in command ? command.directory : null
  if (named === null) return dataDirectory(surroundings, command.place)
  if (statSync(named, { throwIfNoEntry: false })?.isDirectory() === true) yieldToOwner([named])
  return named
}

function namedDirectory(surroundings: Surroundings, place: DataPlace): string {
  // A broker whose file has become bad can still be asked.
  return place.data ?? configOf(surroundings, place).data.directory
}

function configOf({ environment }: Surroundings, place: DataPlace): Config {
  const flags = place.data === undefined ? {} : { data: place.data }
  const sources = sourcesOf(environment, place.file, flags)
  if (sources.file !== undefined) yieldToOwner([sources.file])
  const config = loadConfig(sources)
  yieldToOwner([config.data.directory])
  return config
}

function sourcesOf(
  environment: Surroundings['environment'],
  named: string | undefined,
  flags: ConfigFlags,
): ConfigSources {
  const file = configFile({ environment, flags, ...(named !== undefined && { file: named }) })
  return { environment, flags, ...(file !== undefined && { file }) }
}

async function check(command: CheckCommand): Promise<string> {
  const { file, againstRunning, json } = command
  if (!againstRunning) {
    const { limits, ownLimits } = checkConfig({ file }, Date.now())
    const own = ownLimits.filter((name) => name !== 'profile').map(configKey)
    if (json) return JSON.stringify({ file, ok: true, profile: limits.profile, ownLimits: own })
    if (ownLimits.length === 0) return `${file}: ok`
    const others = own.length === 0 ? '' : `; set by keys of their own: ${own.join(', ')}`
    return `${file}: ok\nlimits: profile ${limits.profile}${others}`
  }
  // What the file names, such as keys, is for the broker to read.
  const directory = command.data ?? loadConfig({ file }).data.directory
  return checkAgainstRunning(directory, resolve(file), contentOf(file), json)
}

async function setUp(surroundings: Surroundings, command: SetupCommand): Promise<string> {
  // What it needs for certificates, no broker needs while it runs.
  const { setup } = await import('./commands/setup.ts')
  const { names, addresses, port, webSocketPort, user, renew, newKey, rsa, place } = command
  const directory = namedDirectory(surroundings, place)
  const given = {
    ...(port !== undefined && { port }),
    ...(webSocketPort !== undefined && { webSocketPort }),
    ...(user !== undefined && { user }),
  }
  return setup({ directory, names, addresses, renew, newKey, rsa, ...given }, Date.now())
}

async function start(
  surroundings: Surroundings,
  givenFile: string | undefined,
  flags: ConfigFlags,
): Promise<ExitCode> {
  const yielded: (string | null)[] = []
  try {
    return await serve(surroundings, givenFile, flags, yielded)
  } catch (error) {
    // Whoever started it as root wonders why it may not read what is root's.
    for (const note of yielded) if (note !== null) surroundings.stderr.write(`${note}\n`)
    throw error
  }
}

/** Adds to `yielded` whom root goes on as. */
async function serve(
  surroundings: Surroundings,
  givenFile: string | undefined,
  flags: ConfigFlags,
  yielded: (string | null)[],
): Promise<ExitCode> {
  const { environment, stdout, stderr, words } = surroundings
  const sources = sourcesOf(environment, givenFile, flags)
  // Whom to go on as is for the command line to say, before anything is read that somebody else could have written.
  if (sources.file !== undefined) {
    yielded.push(yieldToOwner([sources.file], flags.user ?? environment[variable('user')]))
  }
  const config = loadConfig(sources)
  if (config.user !== null) becomeUser(config.user)
  yielded.push(yieldToOwner([config.data.directory]))
  refuseForeignPlaces(config)
  const { level, waitingBytesMax } = config.log
  const logger = createLogger(level, logFormat(config, stdout), stdout, waitingBytesMax)
  surroundings.onUncaught((error) => {
    logger.fatal({ err: error }, 'a defect in godwit: it stops, and what it acknowledged is kept')
    stderr.write(explained(error))
    surroundings.exit(ExitCode.Failure)
  })
  const securityLog = openSecurityLog(config, logger)
  const stopped = stopSignal(surroundings)
  let reloading: Reload | null = null
  surroundings.onReloadSignal(() => {
    // What it refuses it tells by itself; while the broker starts, what it starts with was read a moment ago.
    reloading?.reload('SIGHUP').catch(() => {})
  })
  const broker = await surroundings.startBroker({
    dataDirectory: config.data.directory,
    durability: config.data.durability,
    durabilityIntervalSeconds: config.data.durabilityIntervalSeconds,
    reserveBytes: config.data.reserveBytes,
    residentBytesMax: config.data.residentBytesMax,
    listeners: config.listeners,
    access: config.access,
    limits: config.limits,
    sysIntervalSeconds: config.sysIntervalSeconds,
    ...runtimePlace(environment),
    controlSocket: true,
    renewsCertificates: true,
    controlCommands: reloadCommands(() => reloading),
  })
  const detachLog = attachLog(broker.events, logger, surroundings.now, config.log)
  securityLog.attach(broker.events, surroundings.now)
  // A file that it started with and that is gone is a mistake, and no wish for the defaults.
  const sourcesNow = (): ConfigSources => {
    const now = sources.file === undefined ? sourcesOf(environment, givenFile, flags) : sources
    const writer = now.file === undefined ? null : foreignWriter(now.file)
    if (writer !== null) {
      const message = `root takes no orders from it any more: ${writer}`
      throw new ConfigError([{ where: now.file!, key: '', message }])
    }
    return now
  }
  reloading = new Reload(sourcesNow, config, broker, logger)
  const opening = isMovedByHost(sources) ? openingLine(words) : null
  const notices = startNotices(afterUsers(config, broker.hasUsers), version(), broker.listeners, opening)
  if (broker.notice !== undefined) notices.push(`godwit note: ${broker.notice}`)
  // Without systemd nobody has asked for it.
  if (broker.loginsNotice != null && environment.RUNTIME_DIRECTORY !== undefined)
    notices.push(`godwit note: ${broker.loginsNotice}`)
  const files = openFilesNotice(broker.openFiles, config.limits.connectionsMax)
  if (files !== null) notices.push(`godwit note: ${files}`)
  notices.push(...yielded.filter((note) => note !== null), ...foreignFileNotices(config))
  stdout.write(`${notices.join('\n')}\n`)
  const end = await Promise.race([stopped, broker.fatal])
  if (end instanceof Error) {
    logger.fatal({ err: end }, 'the broker cannot go on')
    stderr.write(explained(end))
  } else stdout.write(`godwit stopping after ${end}: telling clients, committing\n`)
  const closed = await close(surroundings, broker, reloading.config.shutdownSeconds, logger)
  detachLog()
  await securityLog.close()
  if (end instanceof Error || !closed) return ExitCode.Failure
  stdout.write('godwit stopped\n')
  return ExitCode.CleanEnd
}

/** Where what may outlive the process, but not the machine, is kept: what systemd made for the service, or the user's own. */
function runtimePlace({
  RUNTIME_DIRECTORY: given,
  XDG_RUNTIME_DIR: users,
}: Surroundings['environment']): Pick<StartOptions, 'runtimeDirectory'> {
  if (given !== undefined && given !== '') return { runtimeDirectory: given.split(':')[0]! }
  return users === undefined || users === '' ? {} : { runtimeDirectory: join(users, 'godwit') }
}

/** Whether `--host` would be accepted beside these: it cannot move listeners that a configuration names. */
function isMovedByHost(sources: ConfigSources): boolean {
  try {
    loadConfig({ ...sources, flags: { ...sources.flags, host: '0.0.0.0' } })
    return true
  } catch (error) {
    if (error instanceof ConfigError) return false
    throw error
  }
}

/** Resolves with the first signal. The second one ends the process. */
function stopSignal({ onStopSignal, exit }: Surroundings): Promise<string> {
  return new Promise((resolve) => {
    let signals = 0
    onStopSignal((signal) => {
      signals++
      if (signals > 1) exit(ExitCode.Failure)
      else resolve(signal)
    })
  })
}

/** False when the broker could not be closed, or not in time. */
async function close(
  { stderr }: Surroundings,
  broker: RunningBroker,
  seconds: number,
  logger: Logger,
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), (seconds + CLOSE_GRACE_SECONDS) * 1000)
  })
  try {
    const closing = broker.close({ seconds }).then(() => true as const)
    const closed = await Promise.race([closing, late])
    if (!closed) stderr.write(`godwit: not closed within ${seconds} seconds\n`)
    return closed
  } catch (error) {
    logger.error({ err: error }, 'the broker could not be closed')
    stderr.write(explained(error))
    return false
  } finally {
    clearTimeout(timer)
  }
}

function logFormat(config: Config, stdout: Terminal): 'json' | 'pretty' {
  if (config.log.format !== 'auto') return config.log.format
  return stdout.isTTY === true ? 'pretty' : 'json'
}

/** An error, and what can be done about it where the error knows that. Others are defects and show where. */
function explained(error: unknown): string {
  if (!(error instanceof Error)) return `godwit: ${String(error)}\n`
  const advice: unknown = 'advice' in error ? error.advice : undefined
  if (typeof advice === 'string') return `godwit: ${error.message}\n${advice}\n`
  return `godwit: ${error.stack ?? error.message}\n`
}
