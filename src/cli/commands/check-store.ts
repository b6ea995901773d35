/** Defines `godwit check-store`. */
import { checkStore } from '../actions/store-commands.ts'
import { command, done } from '../grammar/command.ts'
import { ExitCode } from '../grammar/context.ts'
import { namedOrDataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE, UsageError } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'check-store',
    words: ['DIR'],
    areWordsOptional: true,
    options: PLACE,
    help: `  godwit check-store [DIR]   verifies all stored data; DIR may be a backup
`,
    parse: ([directory], values) => {
      if (directory !== undefined && values.data !== undefined) {
        throw new UsageError(`check-store takes one directory: ${directory}, or --data ${values.data}`)
      }
      return { location: locationOf(values), directory: directory ?? null }
    },
    run: async (context, { location, directory }) => {
      const { text, isSound } = await checkStore(namedOrDataDirectory(context, location, directory))
      done(context, text)
      return isSound ? ExitCode.CleanEnd : ExitCode.Failure
    },
  }),
]
