/** The security log of `godwit start`: in the log, or in a file of its own. */
import type { Logger } from 'pino'
import type { Events } from '../../broker/boundary/events.ts'
import type { Config } from '../../config/config.ts'
import { LogFile } from '../../observe/log-file.ts'
import { createLogger } from '../../observe/logger.ts'
import { attachSecurityLog } from '../../observe/security.ts'

export interface SecurityLog {
  /** Writes what these events tell, and which listeners let in anonymous clients. Call it once. */
  attach(events: Events, now: () => number): void
  /** Writes what is left, and ends it. */
  close(): Promise<void>
}

/** Opens it before the broker starts, so that one that cannot be written prevents that. Throws LogFileError. */
export function openSecurityLog(config: Config, log: Logger): SecurityLog {
  const { securityFile: path, waitingBytesMax } = config.log
  const file =
    path === null
      ? null
      : new LogFile(path, waitingBytesMax, {
          lost: (reason) => log.error({ file: path, reason }, 'entries of the security log are lost'),
          found: (count) => log.warn({ file: path, count }, 'the security log is written again'),
        })
  const logger = file === null ? log : createLogger('info', 'json', file, Number.POSITIVE_INFINITY)
  let detach = (): void => {}
  return {
    attach: (events, now) => {
      detach = attachSecurityLog(events, logger, now, file === null ? 'log' : 'nothing', config.log)
      for (const { name, allowAnonymous } of config.listeners) {
        // Where it is the log itself, the lines of the start say so.
        if (!allowAnonymous || file === null) continue
        const detail = 'it serves clients that show no credentials'
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
