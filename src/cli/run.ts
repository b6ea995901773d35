/** Runs the command line and returns an exit code. */
import { statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Logger } from 'pino'
import type { AccessOptions } from '../access/access-options.ts'
import type { ControlCommand } from '../admin/control.ts'
import { configKey } from '../broker/boundary/limit-row.ts'
import {
  type Config,
  type ConfigSources,
  checkConfig,
  configFile,
  loadConfig,
  readConfigFile,
} from '../config/config.ts'
import { ConfigError } from '../config/config-error.ts'
import { type ConfigFlags, environmentVariable } from '../config/sources.ts'
import { attachLog } from '../observe/log.ts'
import { createLogger } from '../observe/logger.ts'
import { version } from '../runtime/version.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'
import { openFilesNotice } from '../transport/open-files.ts'
import {
  type CheckCommand,
  type DataLocation,
  HELP,
  parseArguments,
  type SetupCommand,
  type StoreCommand,
  UsageError,
} from './commands/arguments.ts'
import { type Output, writeFully } from './commands/output.ts'
import { explanation } from './start/explanation.ts'
import { effectiveConfig, publicCommandLine, startNotices } from './start/notices.ts'
import { ConfigReloader, checkAgainstRunning, reload, reloadCommands } from './start/reload.ts'
import {
  dropRootToOwner,
  refuseUntrustedPaths,
  untrustedFileNotices,
  untrustedWriter,
} from './start/root-trust.ts'
import type { RunningBroker } from './start/running-broker.ts'
import { openSecurityLog } from './start/security-log.ts'
import { becomeUser } from './start/system-user.ts'

/** Exit codes, which scripts depend on. */
export const ExitCode = { CleanEnd: 0, Failure: 1, Usage: 2 } as const

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/** The options with which the command line starts a broker. */
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

/** Everything that the command line needs from the process. */
export interface ProcessContext {
  /** The arguments after the program's name. */
  readonly words: readonly string[]
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly stdin: AsyncIterable<Uint8Array>
  /** Asks on the terminal without echoing; null without a terminal. */
  readonly askSecret: ((prompt: string) => Promise<string>) | null
  readonly stdout: Terminal
  readonly stderr: Output
  readonly startBroker: (options: StartOptions) => Promise<RunningBroker>
  /** Calls back for SIGTERM and SIGINT. */
  readonly onStopSignal: (callback: (signal: string) => void) => void
  /** Calls back for SIGHUP. */
  readonly onReloadSignal: (callback: () => void) => void
  /** Calls back for every uncaught exception and unhandled rejection. */
  readonly onUncaught: (callback: (error: unknown) => void) => void
  /** A monotonic clock in ms. */
  readonly now: () => number
  /** Ends the process at once. */
  readonly exit: (code: ExitCode) => void
}

/** The process ends this many seconds after the time that closing may take. */
const CLOSE_GRACE_SECONDS = 2

/**
 * Runs a command to its end. Commands import their own modules, so that a broker starts sooner.
 * Resolves with the exit code; never rejects.
 */
export async function run(context: ProcessContext): Promise<ExitCode> {
  const { words, stdout, stderr } = context
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
        stdout.write(`${await reload(dataDirectory(context, command.location), command.json)}\n`)
        return ExitCode.CleanEnd
      case 'setup':
        stdout.write(`${await setUp(context, command)}\n`)
        return ExitCode.CleanEnd
      case 'start':
        return await start(context, command.file, command.flags)
      case 'inventory': {
        const { inventory } = await import('./commands/inventory-commands.ts')
        await writeFully(stdout, `${await inventory(dataDirectory(context, command.location), command)}\n`)
        return ExitCode.CleanEnd
      }
      case 'accounts': {
        const directory = dataDirectory(context, command.location)
        if (command.names !== undefined) {
          const { changeManyUsers } = await import('./commands/many-users.ts')
          await changeManyUsers(directory, command, context)
          return ExitCode.CleanEnd
        }
        const { changeAccounts } = await import('./commands/account-commands.ts')
        stdout.write(`${await changeAccounts(directory, command, context)}\n`)
        return ExitCode.CleanEnd
      }
      case 'bans': {
        const { changeBans } = await import('./commands/ban-commands.ts')
        stdout.write(`${await changeBans(dataDirectory(context, command.location), command)}\n`)
        return ExitCode.CleanEnd
      }
      case 'explain': {
        const { explain } = await import('./commands/account-commands.ts')
        const { data, access } = configOf(context, command.location)
        stdout.write(`${await explain(data.directory, access, command)}\n`)
        return ExitCode.CleanEnd
      }
      default:
        return await operate(context, command)
    }
  } catch (error) {
    stderr.write(explanation(error))
    return error instanceof UsageError || error instanceof ConfigError ? ExitCode.Usage : ExitCode.Failure
  }
}

/** Runs a command on a data directory. While data goes to stdout, messages go to stderr. */
async function operate(context: ProcessContext, command: StoreCommand): Promise<ExitCode> {
  const { stdin, stdout, stderr } = context
  const directory = operationDirectory(context, command)
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

/** Finds the data directory that `godwit start` would use. Root becomes its owner. */
function dataDirectory(context: ProcessContext, location: DataLocation): string {
  const directory = namedDirectory(context, location)
  dropRootToOwner([directory])
  return directory
}

/** Finds the directory of a command that may name another one, or a backup, which is only read. */
function operationDirectory(context: ProcessContext, command: StoreCommand): string {
  const named = 'directory' in command ? command.directory : null
  if (named === null) return dataDirectory(context, command.location)
  if (statSync(named, { throwIfNoEntry: false })?.isDirectory() === true) dropRootToOwner([named])
  return named
}

function namedDirectory(context: ProcessContext, location: DataLocation): string {
  // `--data` reaches a running broker even if its configuration file has become invalid.
  return location.data ?? configOf(context, location).data.directory
}

function configOf({ environment }: ProcessContext, location: DataLocation): Config {
  const flags = location.data === undefined ? {} : { data: location.data }
  const sources = sourcesOf(environment, location.file, flags)
  if (sources.file !== undefined) dropRootToOwner([sources.file])
  const config = loadConfig(sources)
  dropRootToOwner([config.data.directory])
  return config
}

function sourcesOf(
  environment: ProcessContext['environment'],
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
  // The broker itself reads the keys and certificates that the file names.
  const directory = command.data ?? loadConfig({ file }).data.directory
  return checkAgainstRunning(directory, resolve(file), readConfigFile(file), json)
}

async function setUp(context: ProcessContext, command: SetupCommand): Promise<string> {
  // Certificates are made with modules that a running broker never needs.
  const { setup } = await import('./commands/setup.ts')
  const { names, addresses, port, webSocketPort, user, renew, newKey, rsa, location } = command
  const directory = namedDirectory(context, location)
  const given = {
    ...(port !== undefined && { port }),
    ...(webSocketPort !== undefined && { webSocketPort }),
    ...(user !== undefined && { user }),
  }
  return setup({ directory, names, addresses, renew, newKey, rsa, ...given }, Date.now())
}

async function start(
  context: ProcessContext,
  givenFile: string | undefined,
  flags: ConfigFlags,
): Promise<ExitCode> {
  const yielded: (string | null)[] = []
  try {
    return await serve(context, givenFile, flags, yielded)
  } catch (error) {
    // Tells a person who started it as root why root's files cannot be read.
    for (const note of yielded) if (note !== null) context.stderr.write(`${note}\n`)
    throw error
  }
}

/** Runs a broker until a signal or a fatal error. Adds a note to `yielded` for each user that root became. */
async function serve(
  context: ProcessContext,
  givenFile: string | undefined,
  flags: ConfigFlags,
  yielded: (string | null)[],
): Promise<ExitCode> {
  const { environment, stdout, stderr, words } = context
  const sources = sourcesOf(environment, givenFile, flags)
  // Only the command line and the environment name the user here: another user could have written the file.
  if (sources.file !== undefined) {
    yielded.push(dropRootToOwner([sources.file], flags.user ?? environment[environmentVariable('user')]))
  }
  const config = loadConfig(sources)
  if (config.user !== null) becomeUser(config.user)
  yielded.push(dropRootToOwner([config.data.directory]))
  refuseUntrustedPaths(config)
  const { level, waitingBytesMax } = config.log
  const logger = createLogger(level, logFormat(config, stdout), stdout, waitingBytesMax)
  context.onUncaught((error) => {
    logger.fatal({ err: error }, 'a defect in godwit: it stops; acknowledged messages are kept')
    stderr.write(explanation(error))
    context.exit(ExitCode.Failure)
  })
  const securityLog = openSecurityLog(config, logger)
  const stopped = firstStopSignal(context)
  let reloading: ConfigReloader | null = null
  context.onReloadSignal(() => {
    // A refused reload logs itself. A broker that is still starting has just read its configuration.
    reloading?.reload('SIGHUP').catch(() => {})
  })
  const broker = await context.startBroker({
    dataDirectory: config.data.directory,
    durability: config.data.durability,
    durabilityIntervalSeconds: config.data.durabilityIntervalSeconds,
    reserveBytes: config.data.reserveBytes,
    residentBytesMax: config.data.residentBytesMax,
    listeners: config.listeners,
    access: config.access,
    limits: config.limits,
    sysIntervalSeconds: config.sysIntervalSeconds,
    ...runtimeLocation(environment),
    controlSocket: true,
    renewsCertificates: true,
    controlCommands: reloadCommands(() => reloading),
  })
  const detachLog = attachLog(broker.events, logger, context.now, config.log)
  securityLog.attach(broker.events, context.now)
  // If the file of the start is gone, the reload fails instead of falling back to the defaults.
  const sourcesNow = (): ConfigSources => {
    const now = sources.file === undefined ? sourcesOf(environment, givenFile, flags) : sources
    const writer = now.file === undefined ? null : untrustedWriter(now.file)
    if (writer !== null) {
      const message = `root no longer trusts this file: ${writer}`
      throw new ConfigError([{ where: now.file!, key: '', message }])
    }
    return now
  }
  reloading = new ConfigReloader(sourcesNow, config, broker, logger)
  const opening = canListenElsewhere(sources) ? publicCommandLine(words) : null
  const notices = startNotices(effectiveConfig(config, broker.hasUsers), version(), broker.listeners, opening)
  if (broker.notice !== undefined) notices.push(`godwit note: ${broker.notice}`)
  // Without systemd nobody has asked for remembered log-ins.
  if (broker.loginsNotice != null && environment.RUNTIME_DIRECTORY !== undefined)
    notices.push(`godwit note: ${broker.loginsNotice}`)
  const files = openFilesNotice(broker.openFiles, config.limits.connectionsMax)
  if (files !== null) notices.push(`godwit note: ${files}`)
  notices.push(...yielded.filter((note) => note !== null), ...untrustedFileNotices(config))
  stdout.write(`${notices.join('\n')}\n`)
  const end = await Promise.race([stopped, broker.fatal])
  if (end instanceof Error) {
    logger.fatal({ err: end }, 'the broker cannot continue')
    stderr.write(explanation(end))
  } else stdout.write(`godwit stopping after ${end}: telling clients, committing\n`)
  const closed = await close(context, broker, reloading.config.shutdownSeconds, logger)
  detachLog()
  await securityLog.close()
  if (end instanceof Error || !closed) return ExitCode.Failure
  stdout.write('godwit stopped\n')
  return ExitCode.CleanEnd
}

/**
 * Finds a directory for files that last until the machine restarts: that of the systemd service, or the
 * user's own.
 */
function runtimeLocation({
  RUNTIME_DIRECTORY: given,
  XDG_RUNTIME_DIR: users,
}: ProcessContext['environment']): Pick<StartOptions, 'runtimeDirectory'> {
  if (given !== undefined && given !== '') return { runtimeDirectory: given.split(':')[0]! }
  return users === undefined || users === '' ? {} : { runtimeDirectory: join(users, 'godwit') }
}

/**
 * Whether `--host` would be accepted with these sources: it cannot move listeners that a configuration
 * names.
 */
function canListenElsewhere(sources: ConfigSources): boolean {
  try {
    loadConfig({ ...sources, flags: { ...sources.flags, host: '0.0.0.0' } })
    return true
  } catch (error) {
    if (error instanceof ConfigError) return false
    throw error
  }
}

/** Resolves with the first signal; the second one ends the process. */
function firstStopSignal({ onStopSignal, exit }: ProcessContext): Promise<string> {
  return new Promise((resolve) => {
    let signals = 0
    onStopSignal((signal) => {
      signals++
      if (signals > 1) exit(ExitCode.Failure)
      else resolve(signal)
    })
  })
}

/** Closes the broker. Resolves with false if that fails or takes too long. */
async function close(
  { stderr }: ProcessContext,
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
    stderr.write(explanation(error))
    return false
  } finally {
    clearTimeout(timer)
  }
}

function logFormat(config: Config, stdout: Terminal): 'json' | 'pretty' {
  if (config.log.format !== 'auto') return config.log.format
  return stdout.isTTY === true ? 'pretty' : 'json'
}
