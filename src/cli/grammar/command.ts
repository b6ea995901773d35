/** The form of a command. */
import { ExitCode, type ProcessContext } from './context.ts'
import type { OptionName, OptionValues } from './options.ts'

/** A command: its words, its options, its help, and its work. */
export interface CommandOf<Request> {
  /** One word or two. */
  readonly name: string
  /** The names of its positional arguments, as errors show them. */
  readonly words: readonly string[]
  readonly areWordsOptional?: boolean
  /** Whether any number of further words may follow. */
  readonly takesMore?: boolean
  readonly options: readonly OptionName[]
  /** Its lines in `godwit --help`; absent if the lines of another command cover it. */
  readonly help?: string
  /** A section of `godwit --help` about its options. */
  readonly optionsHelp?: string
  /** Reads its arguments, which have the right number of words and no unknown option. Throws UsageError. */
  parse(words: readonly string[], values: OptionValues): Request
  /** Does the work. Rejects with an error for the user. */
  run(context: ProcessContext, request: Request): Promise<ExitCode>
}

/** A command with whatever its `parse` returns. */
export type Command = CommandOf<unknown>

/** Keeps the types of `parse` and `run` together. */
export function command<Request>(of: CommandOf<Request>): Command {
  return of as Command
}

/** Writes the output of a command that has succeeded. */
export function done({ stdout }: ProcessContext, text: string): ExitCode {
  stdout.write(`${text}\n`)
  return ExitCode.CleanEnd
}
