/** Reloads the configuration and files of a running broker. An invalid configuration changes nothing. */
import type { Logger } from 'pino'
import { type ControlCommand, requestedBy } from '../../admin/control.ts'
import { ask, ControlError } from '../../admin/control-client.ts'
import type { SecurityKind } from '../../broker/boundary/security.ts'
import type { Capped } from '../../broker/sessions/session-cap.ts'
import {
  type ConfigChange,
  type CutOff,
  changeLine,
  configChanges,
  reloadableConfig,
} from '../../config/changes.ts'
import { type Config, type ConfigSources, checkConfig } from '../../config/config.ts'
import { ConfigError } from '../../config/config-error.ts'
import { httpOptions, isLoopbackOnly } from '../../config/listeners.ts'
import { printable } from '../../observe/printable.ts'
import type { ListenerOptions } from '../../transport/listener/listener.ts'
import { untrustedWritePath } from './root-trust.ts'
import type { RunningBroker } from './running-broker.ts'

/** The changes of a reload, or those that it would make. */
export interface ReloadReport {
  readonly changes: readonly ConfigChange[]
  /** A line for each other file that was read again and has changed. */
  readonly files: readonly string[]
  readonly cutOff: readonly CutOff[]
  /** Sessions that `session_expiry_seconds_max` shortens or ends at once; absent from brokers of 0.1.0. */
  readonly sessions?: Capped
  /** Sentences about what the new configuration does not have and stays; absent from brokers of 0.2.0. */
  readonly beyond?: readonly string[]
}

/** The events that report files read again. */
const FILES: ReadonlySet<SecurityKind> = new Set([
  'accounts-loaded',
  'accounts-refused',
  'bans-loaded',
  'bans-refused',
  'password-file-loaded',
  'password-file-refused',
  'acl-file-loaded',
  'acl-file-refused',
  'certificate-loaded',
  'certificate-refused',
  'certificate-expiring',
])

const NONE_CAPPED: Capped = { shortened: 0, ended: 0 }

/** At most so many clients that are cut off are named; the others are counted. */
const NAMED_MAX = 100

/** The longest text that `check --against-running` sends. */
const TEXT_CHARACTERS_MAX = 150_000

/** Holds the configuration of a running broker and replaces it on request. */
export class ConfigReloader {
  readonly #sources: () => ConfigSources
  readonly #broker: RunningBroker
  readonly #logger: Logger
  #config: Config
  /** The latest reload. They run one after the other: two at once would open the same listeners. */
  #last: Promise<unknown> = Promise.resolve()

  /** `sources` returns the current sources of the configuration; `config` is the configuration in force. */
  constructor(sources: () => ConfigSources, config: Config, broker: RunningBroker, logger: Logger) {
    this.#sources = sources
    this.#config = config
    this.#broker = broker
    this.#logger = logger
    this.#tellAnonymous([])
  }

  /** The configuration in force. */
  get config(): Config {
    return this.#config
  }

  /**
   * Reads and applies the configuration. Rejects with ConfigError or ListenError and then changes nothing.
   */
  reload(by: string): Promise<ReloadReport> {
    const next = this.#last.then(() => this.#reload(by))
    this.#last = next.catch(() => {})
    return next
  }

  /** Tells what `reload` would do if the configuration file had this text. Throws ConfigError. */
  preview(file: string, text: string): ReloadReport {
    const config = expectTrustedPaths(checkConfig({ ...this.#sources(), file, text }))
    const { changes, cutOff } = this.#compared(config)
    const { limits, queues } = reloadableConfig(this.#config, config)
    const sessions = this.#broker.cappedBy(limits.sessionExpirySecondsMax)
    return { changes, files: [], cutOff, sessions, beyond: this.#beyond(limits, queues) }
  }

  async #reload(by: string): Promise<ReloadReport> {
    const files: string[] = []
    const detach = this.#broker.events.on('security', ({ kind, subject, detail }) => {
      if (FILES.has(kind)) files.push([kind.replaceAll('-', ' '), subject, detail].filter(Boolean).join(': '))
    })
    let sessions = NONE_CAPPED
    const detachCapped = this.#broker.events.on('sessionsCapped', (event) => {
      sessions = event
    })
    try {
      const wanted = expectTrustedPaths(checkConfig(this.#sources()))
      const { changes } = this.#compared(wanted)
      const config = reloadableConfig(this.#config, wanted)
      const { listeners, limits, queues, sysIntervalSeconds } = config
      const isOther = sysIntervalSeconds !== this.#config.sysIntervalSeconds
      const isOtherHttp = JSON.stringify(config.http) !== JSON.stringify(this.#config.http)
      const cutOff = await this.#broker.reconfigure({
        listeners,
        ...(isOtherHttp && { http: httpOptions(config.http) }),
        limits,
        queues,
        ...(isOther && { sysIntervalSeconds }),
      })
      this.#logger.level = config.log.level
      const { listeners: before } = this.#config
      this.#config = config
      this.#tellAnonymous(before)
      await this.#broker.reread()
      const { shortened, ended } = sessions
      const warnings = isOtherHttp ? (this.#broker.httpWarnings ?? []) : []
      const beyond = [...warnings, ...this.#beyond(limits, queues)]
      const report = { changes, files, cutOff, sessions: { shortened, ended }, beyond }
      this.#tell('configuration-loaded', by, summary(report))
      return report
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      this.#tell('configuration-refused', by, `${reason}; the broker keeps its old configuration`)
      throw error
    } finally {
      detach()
      detachCapped()
    }
  }

  #beyond(limits: Config['limits'], queues: Config['queues']): readonly string[] {
    return [...this.#broker.beyondBy(limits), ...this.#broker.orphanedBy(queues)]
  }

  #compared(config: Config): Pick<ReloadReport, 'changes' | 'cutOff'> {
    return {
      changes: configChanges(this.#config, config),
      cutOff: this.#broker.cutOffBy(config.listeners),
    }
  }

  /** Reports listeners that now accept anonymous clients from other machines and did not before. */
  #tellAnonymous(before: Config['listeners']): void {
    const isOpen = (listener: ListenerOptions): boolean =>
      listener.allowAnonymous && !isLoopbackOnly(listener)
    for (const listener of this.#config.listeners.filter(isOpen)) {
      if (before.some((one) => one.name === listener.name && isOpen(one))) continue
      const event = {
        kind: 'anonymous-allowed',
        subject: listener.name,
        by: 'configuration',
        detail: '',
      } as const
      this.#broker.events.emit('security', event)
    }
  }

  #tell(kind: 'configuration-loaded' | 'configuration-refused', by: string, detail: string): void {
    const subject = this.#sources().file ?? 'the configuration'
    this.#broker.events.emit('security', { kind, subject, by, detail })
  }
}

/** Returns the configuration. Throws ConfigError if root would write a file that another user can replace. */
function expectTrustedPaths(config: Config): Config {
  const problem = untrustedWritePath(config)
  if (problem !== null) throw new ConfigError([{ where: '', key: '', message: problem }])
  return config
}

/** Returns the control commands of `godwit reload` and `godwit check --against-running`. */
export function reloadCommands(
  running: () => ConfigReloader | null,
): Readonly<Record<string, ControlCommand>> {
  const started = (): ConfigReloader => {
    const found = running()
    if (found === null) throw new ControlError('the broker is starting', 'Try again in a moment.')
    return found
  }
  return {
    reload: (parameters) => refusable(() => started().reload(requestedBy(parameters))),
    'check-config': ({ file, text }) => {
      if (typeof file !== 'string' || typeof text !== 'string') throw new Error('file and text are needed')
      return refusable(async () => started().preview(file, text))
    },
  }
}

/** Turns a ConfigError into an answer for the operator. It is no defect of the broker and needs no stack. */
async function refusable(work: () => Promise<ReloadReport>): Promise<ReloadReport> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    throw new ControlError(
      error.message,
      'Correct this and try again. The broker keeps its old configuration.',
      { code: error.code },
    )
  }
}

/** Runs `godwit reload` against the broker of this data directory. Throws ControlError. */
export async function reload(directory: string, asJson: boolean): Promise<string> {
  const report = (await ask(directory, 'reload')) as ReloadReport
  return asJson ? JSON.stringify(report) : reportLines(report, DID).join('\n')
}

/**
 * Runs `godwit check --against-running`: tells what the broker of this directory would do. Throws
 * ControlError.
 */
export async function checkAgainstRunning(
  directory: string,
  file: string,
  text: string,
  asJson: boolean,
): Promise<string> {
  if (text.length > TEXT_CHARACTERS_MAX) {
    throw new ControlError(
      `${file} has more than ${TEXT_CHARACTERS_MAX} characters, which is too much to send to the broker`,
      'Check it without --against-running.',
    )
  }
  const report = (await ask(directory, 'check-config', { file, text })) as ReloadReport
  return asJson ? JSON.stringify(report) : reportLines(report, WOULD).join('\n')
}

interface Verbs {
  readonly cutOff: string
  readonly cutOffOne: string
  readonly ended: string
  readonly shortened: string
}

const DID: Verbs = {
  cutOff: 'were cut off',
  cutOffOne: 'was cut off',
  ended: 'ended',
  shortened: 'will expire sooner',
}
const WOULD: Verbs = {
  cutOff: 'would be cut off',
  cutOffOne: 'would be cut off',
  ended: 'would end at once',
  shortened: 'would expire sooner',
}

/** Writes a report in lines for people. */
function reportLines(report: ReloadReport, verbs: Verbs): string[] {
  const { changes, files, cutOff, sessions = NONE_CAPPED, beyond = [] } = report
  const lines = [...changes.map(changeLine), ...files]
  const named = cutOff
    .slice(0, NAMED_MAX)
    .map(({ clientId, reason }) => `  ${printable(clientId)}: ${reason}`)
  const more = cutOff.length > NAMED_MAX ? [`  and ${cutOff.length - NAMED_MAX} more`] : []
  const verb = cutOff.length === 1 ? verbs.cutOffOne : verbs.cutOff
  return [
    ...(lines.length === 0 ? ['nothing has changed'] : lines),
    `${counted(cutOff.length)} ${verb}${cutOff.length === 0 ? '' : ':'}`,
    ...named,
    ...more,
    ...cappedLines(sessions, verbs),
    ...beyond,
  ]
}

function cappedLines({ shortened, ended }: Capped, verbs: Verbs): string[] {
  const key = 'by session_expiry_seconds_max'
  const noun = (count: number): string => (count === 1 ? 'Session' : 'Sessions')
  return [
    ...(ended > 0 ? [`${ended} ${noun(ended)} of absent clients ${verbs.ended} ${key}`] : []),
    ...(shortened > 0 ? [`${shortened} ${noun(shortened)} ${verbs.shortened} ${key}`] : []),
  ]
}

function summary({ changes, files, cutOff, sessions = NONE_CAPPED, beyond = [] }: ReloadReport): string {
  const lines = [...changes.map(changeLine), ...files, ...cappedLines(sessions, DID), ...beyond]
  return `${lines.length === 0 ? 'nothing has changed' : lines.join('; ')}; ${counted(cutOff.length)} cut off`
}

function counted(clients: number): string {
  return `${clients} client${clients === 1 ? '' : 's'}`
}
