/** Reports everything that is wrong with a configuration in one error. */
import type { ErrorCode } from '../errors.ts'

/** One problem of a configuration. */
export interface ConfigProblem {
  /** `godwit.yaml:12`, `environment GODWIT_…`, `--set`, `--port`. */
  readonly where: string
  /** The key, such as `limits.queue_bytes_max`; empty for a problem of the whole file. */
  readonly key: string
  /** The value that was found, and the allowed ones. */
  readonly message: string
}

/** At most so many problems are listed. */
const PROBLEMS_MAX = 200

/** The configuration is invalid. The message has a line for each problem. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly code: ErrorCode
  readonly problems: readonly ConfigProblem[]

  constructor(problems: readonly ConfigProblem[], code: ErrorCode = 'GODWIT_CONFIG_INVALID') {
    const lines = problems.slice(0, PROBLEMS_MAX).map(problemLine)
    const more = problems.length - lines.length
    super([...lines, ...(more > 0 ? [`and ${more} more problems`] : [])].join('\n'))
    this.problems = problems
    this.code = code
  }
}

function problemLine({ where, key, message }: ConfigProblem): string {
  // `--set limits.queue_full` names its key already.
  const parts = where.endsWith(` ${key}`) ? [where, message] : [where, key, message]
  return parts.filter((part) => part !== '').join(': ')
}
