/** Runs the command line and returns an exit code. */
import { ConfigError } from '../config/config-error.ts'
import { parseCommandLine } from './command-line.ts'
import { ExitCode, type ProcessContext } from './grammar/context.ts'
import { UsageError } from './grammar/options.ts'
import { explanation } from './start/explanation.ts'

/** Runs a command to its end. Resolves with the exit code; never rejects. */
export async function run(context: ProcessContext): Promise<ExitCode> {
  try {
    const { command, request } = await parseCommandLine(context.words)
    return await command.run(context, request)
  } catch (error) {
    context.stderr.write(explanation(error))
    return error instanceof UsageError || error instanceof ConfigError ? ExitCode.Usage : ExitCode.Failure
  }
}
