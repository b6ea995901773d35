/** Defines `godwit restore`. */
import { restore } from '../actions/store-commands.ts'
import { command, done } from '../grammar/command.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'restore',
    words: ['SOURCE'],
    options: [...PLACE, 'force'],
    help: `  godwit restore SOURCE      fills an empty data directory from a backup
`,
    parse: ([source], values) => ({
      location: locationOf(values),
      source: source!,
      isForced: values.force === true,
    }),
    run: async (context, { location, source, isForced }) =>
      done(context, await restore(source, dataDirectory(context, location), isForced)),
  }),
]
