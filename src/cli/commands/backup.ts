/** Defines `godwit backup`. */
import { backup } from '../actions/store-commands.ts'
import { command, done } from '../grammar/command.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'backup',
    words: ['TARGET'],
    options: PLACE,
    help: `  godwit backup TARGET       backs up the data, even while the broker runs, to a
                             file NAME.godwit-backup or to a directory
`,
    parse: ([target], values) => ({ location: locationOf(values), target: target! }),
    run: async (context, { location, target }) =>
      done(context, await backup(dataDirectory(context, location), target)),
  }),
]
