/** Defines `godwit check`. */
import { resolve } from 'node:path'
import { configKey } from '../../broker/boundary/limit-row.ts'
import { checkConfig, loadConfig, readConfigFile } from '../../config/config.ts'
import { command, done } from '../grammar/command.ts'
import { UsageError } from '../grammar/options.ts'
import { checkAgainstRunning } from '../start/reload.ts'

interface CheckRequest {
  readonly file: string
  /** Whether to ask the running broker what it would do with the file. */
  readonly againstRunning: boolean
  readonly data: string | undefined
  readonly json: boolean
}

export const commands = [
  command<CheckRequest>({
    name: 'check',
    words: ['FILE'],
    options: ['against-running', 'data', 'json'],
    help: `  godwit check FILE          checks a configuration file; --against-running also
                             shows how it would change the running broker
`,
    parse: ([file], values) => {
      const againstRunning = values['against-running'] === true
      if (!againstRunning && values.data !== undefined) {
        throw new UsageError('check takes --data only with --against-running')
      }
      return { file: file!, againstRunning, data: values.data, json: values.json === true }
    },
    run: async (context, request) => done(context, await check(request)),
  }),
]

async function check(request: CheckRequest): Promise<string> {
  const { file, againstRunning, json } = request
  if (!againstRunning) {
    const { limits, ownLimits } = checkConfig({ file }, Date.now())
    const own = ownLimits.filter((name) => name !== 'profile').map(configKey)
    if (json) return JSON.stringify({ file, ok: true, profile: limits.profile, ownLimits: own })
    if (ownLimits.length === 0) return `${file}: ok`
    const others = own.length === 0 ? '' : `; set by the file itself: ${own.join(', ')}`
    return `${file}: ok\nlimits: profile ${limits.profile}${others}`
  }
  // The broker itself reads the keys and certificates that the file names.
  const directory = request.data ?? loadConfig({ file }).data.directory
  return checkAgainstRunning(directory, resolve(file), readConfigFile(file), json)
}
