/** Defines `godwit start`, which runs a broker until it is stopped. */
import { join } from 'node:path'
import type { Logger } from 'pino'
import { type Config, type ConfigSources, loadConfig } from '../../config/config.ts'
import { ConfigError } from '../../config/config-error.ts'
import { httpOptions } from '../../config/listeners.ts'
import { type ConfigFlags, environmentVariable } from '../../config/sources.ts'
import { attachLog } from '../../observe/log.ts'
import { createLogger } from '../../observe/logger.ts'
import { version } from '../../runtime/version.ts'
import { openFilesNotice } from '../../transport/open-files.ts'
import { command } from '../grammar/command.ts'
import { ExitCode, type ProcessContext, type StartOptions, type Terminal } from '../grammar/context.ts'
import { sourcesOf } from '../grammar/directories.ts'
import type { OptionValues } from '../grammar/options.ts'
import { explanation } from '../start/explanation.ts'
import { effectiveConfig, publicCommandLine, startNotices } from '../start/notices.ts'
import { ConfigReloader, reloadCommands } from '../start/reload.ts'
import {
  dropRootToOwner,
  refuseUntrustedPaths,
  untrustedFileNotices,
  untrustedWriter,
} from '../start/root-trust.ts'
import type { RunningBroker } from '../start/running-broker.ts'
import { openSecurityLog } from '../start/security-log.ts'
import { becomeUser } from '../start/system-user.ts'

/** The process ends this many seconds after the time that closing may take. */
const CLOSE_GRACE_SECONDS = 2

export const commands = [
  command({
    name: 'start',
    words: [],
    options: ['config', 'host', 'port', 'ws-port', 'data', 'durability', 'log-level', 'set', 'user'],
    help: `  godwit [start] [options]   starts the broker
`,
    optionsHelp: `Options of start (-c and --data also apply to other commands):
  -c, --config FILE          configuration file (config/godwit.example.yaml)
      --data DIR             directory of Sessions and messages; ./godwit-data
                             by default
      --host ADDRESS         address to listen on; 127.0.0.1 by default, 0.0.0.0
                             for all of IPv4, :: for all
  -p, --port PORT            listens for MQTT on this TCP port only; 0 takes a
                             free one
      --ws-port PORT         the same for MQTT over WebSocket; both may be given
      --durability KIND      what acknowledged messages survive: fsync
                             (default), interval, os or memory
      --log-level LEVEL      trace, debug, info (default), warn, error, fatal
                             or silent
      --set KEY=VALUE        sets any configuration key, repeatable, such as
                             limits.queue_bytes_max=64MiB
      --user NAME            runs as this user when started by root; setup makes
                             this user the owner of the data directory
`,
    parse: (_, values) => ({ file: values.config, flags: startFlags(values) }),
    run: (context, { file, flags }) => start(context, file, flags),
  }),
]

function startFlags(values: OptionValues): ConfigFlags {
  return {
    ...(values.host !== undefined && { host: values.host }),
    ...(values.port !== undefined && { port: values.port }),
    ...(values['ws-port'] !== undefined && { wsPort: values['ws-port'] }),
    ...(values.data !== undefined && { data: values.data }),
    ...(values.durability !== undefined && { durability: values.durability }),
    ...(values['log-level'] !== undefined && { logLevel: values['log-level'] }),
    ...(values.set !== undefined && { set: values.set }),
    ...(values.user !== undefined && { user: values.user }),
  }
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
    // A person who started it as root must learn why root's files cannot be read.
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
  const { environment, stdout, stderr } = context
  const sources = sourcesOf(environment, givenFile, flags)
  const config = loadTrusted(sources, flags, environment, yielded)
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
    ...optionsOf(config),
    ...runtimeLocation(environment),
    controlCommands: reloadCommands(() => reloading),
  })
  const detachLog = attachLog(broker.events, logger, context.now, config.log)
  securityLog.attach(broker.events, context.now)
  // If the file of the start is gone, the reload fails instead of falling back to the defaults.
  const sourcesNow = (): ConfigSources =>
    expectTrusted(sources.file === undefined ? sourcesOf(environment, givenFile, flags) : sources)
  reloading = new ConfigReloader(sourcesNow, config, broker, logger)
  const notices = [...noticesOf(context, sources, config, broker), ...yielded.filter((note) => note !== null)]
  stdout.write(`${[...notices, ...untrustedFileNotices(config)].join('\n')}\n`)
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

/** Loads the configuration. Root becomes the user that it names, or its owner. */
function loadTrusted(
  sources: ConfigSources,
  flags: ConfigFlags,
  environment: ProcessContext['environment'],
  yielded: (string | null)[],
): Config {
  // Only the command line and the environment name the user here: another user could have written the file.
  if (sources.file !== undefined) {
    yielded.push(dropRootToOwner([sources.file], flags.user ?? environment[environmentVariable('user')]))
  }
  const config = loadConfig(sources)
  if (config.user !== null) becomeUser(config.user)
  yielded.push(dropRootToOwner([config.data.directory]))
  refuseUntrustedPaths(config)
  return config
}

/** Throws ConfigError if another user can change the file that root reads again. */
function expectTrusted(sources: ConfigSources): ConfigSources {
  const writer = sources.file === undefined ? null : untrustedWriter(sources.file)
  if (writer === null) return sources
  const message = `root no longer trusts this file: ${writer}`
  throw new ConfigError([{ where: sources.file!, key: '', message }], 'GODWIT_ROOT_PATH')
}

function optionsOf({ data, listeners, http, access, limits, queues, sysIntervalSeconds }: Config) {
  const { directory: dataDirectory, ...storing } = data
  return {
    dataDirectory,
    // A key of `data` that no option takes does not compile.
    ...(storing satisfies {
      [Key in keyof typeof storing]: Key extends keyof StartOptions ? unknown : never
    }),
    listeners,
    http: httpOptions(http),
    access,
    limits,
    queues,
    sysIntervalSeconds,
    controlSocket: true,
    renewsCertificates: true,
  }
}

/** Lists what the person who started the broker should know. */
function noticesOf(
  { environment, words }: ProcessContext,
  sources: ConfigSources,
  config: Config,
  broker: RunningBroker,
): string[] {
  const opening = canListenElsewhere(sources) ? publicCommandLine(words) : null
  const effective = effectiveConfig(config, broker.hasUsers)
  // Without systemd nobody has asked for remembered log-ins.
  const logins = environment.RUNTIME_DIRECTORY === undefined ? null : broker.loginsNotice
  const files = openFilesNotice(broker.openFiles, config.limits.connectionsMax)
  const { httpAddresses = [], httpWarnings = [] } = broker
  const notes = [broker.notice, logins, files, ...httpWarnings].filter(
    (note) => note !== undefined && note !== null,
  )
  return [
    ...startNotices(effective, version(), broker.listeners, opening),
    ...httpAddresses.map((address) => `godwit health on ${address}/readyz`),
    ...notes.map((note) => `godwit note: ${note}`),
  ]
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
    if (!closed) stderr.write(`godwit: not closed within ${seconds} seconds; the process ends now\n`)
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
