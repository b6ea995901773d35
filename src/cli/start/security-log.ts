/** Opens the security log of `godwit start`: part of the log, or a separate file. */
import type { Logger } from 'pino'
import type { Events } from '../../broker/boundary/events.ts'
import type { Config } from '../../config/config.ts'
import { LogFile } from '../../observe/log-file.ts'
import { createLogger } from '../../observe/logger.ts'
import { attachSecurityLog } from '../../observe/security.ts'

/** The security log of a broker. */
export interface SecurityLog {
  /** Logs these events from now on, and first the listeners that allow anonymous clients. Call it once. */
  attach(events: Events, now: () => number): void
  /** Writes the remaining entries and closes the log. */
  close(): Promise<void>
}

/** Opens the log before the broker starts: no broker runs without its security log. Throws LogFileError. */
export function openSecurityLog(config: Config, log: Logger): SecurityLog {
  const { securityFile: path, waitingBytesMax } = config.log
  const file =
    path === null
      ? null
      : new LogFile(path, waitingBytesMax, {
          lost: (reason) =>
            log.error({ file: path, reason }, 'the security log cannot be written: entries are lost'),
          found: (count) => log.warn({ file: path, count }, 'the security log can be written again'),
        })
  const logger = file === null ? log : createLogger('info', 'json', file, Number.POSITIVE_INFINITY)
  let detach = (): void => {}
  return {
    attach: (events, now) => {
      detach = attachSecurityLog(events, logger, now, file === null ? 'log' : 'nothing', config.log)
      for (const { name, allowAnonymous } of config.listeners) {
        // Without a separate file, the notices of the start already tell this.
        if (!allowAnonymous || file === null) continue
        const detail = 'it accepts clients without credentials'
        events.emit('security', {
          kind: 'anonymous-allowed',
          subject: `listener ${name}`,
          by: 'configuration',
          detail,
        })
      }
    },
    close: async () => {
      detach()
      await file?.close()
    },
  }
}
