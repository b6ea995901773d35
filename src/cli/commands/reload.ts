/** Defines `godwit reload`. */
import { command, done } from '../grammar/command.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE } from '../grammar/options.ts'
import { reload } from '../start/reload.ts'

export const commands = [
  command({
    name: 'reload',
    words: [],
    options: [...PLACE, 'json'],
    help: `  godwit reload              makes the running broker reread its configuration
                             and files; clients stay connected
`,
    parse: (_, values) => ({ location: locationOf(values), json: values.json === true }),
    run: async (context, { location, json }) =>
      done(context, await reload(dataDirectory(context, location), json)),
  }),
]
