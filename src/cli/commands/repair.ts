/** Defines `godwit repair`. */
import { repair } from '../actions/store-commands.ts'
import { command, done } from '../grammar/command.ts'
import { namedOrDataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE, UsageError } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'repair',
    words: ['DIR'],
    areWordsOptional: true,
    options: PLACE,
    help: `  godwit repair [DIR]        rebuilds a damaged data directory from its sound
                             parts; keeps a copy of the old one
`,
    parse: ([directory], values) => {
      if (directory !== undefined && values.data !== undefined) {
        throw new UsageError(`repair takes one directory: ${directory}, or --data ${values.data}`)
      }
      return { location: locationOf(values), directory: directory ?? null }
    },
    run: async (context, { location, directory }) => {
      return done(context, await repair(namedOrDataDirectory(context, location, directory)))
    },
  }),
]
