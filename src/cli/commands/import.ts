/** Defines `godwit import`. */
import { importLines } from '../actions/store-commands.ts'
import { command, done } from '../grammar/command.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'import',
    words: ['FILE'],
    areWordsOptional: true,
    options: [...PLACE, 'force'],
    help: `  godwit import [FILE]       fills an empty data directory from such lines
`,
    parse: ([path = '-'], values) => ({
      location: locationOf(values),
      /** `-` is stdin. */
      path,
      isForced: values.force === true,
    }),
    run: async (context, { location, path, isForced }) => {
      const directory = dataDirectory(context, location)
      return done(context, await importLines(path, directory, isForced, context.stdin))
    },
  }),
]
