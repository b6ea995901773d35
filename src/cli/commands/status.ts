/** Defines `godwit status`. */
import { status } from '../actions/status.ts'
import { command, done } from '../grammar/command.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'status',
    words: [],
    options: [...PLACE, 'json'],
    help: `  godwit status              shows the state of the running broker
`,
    parse: (_, values) => ({ location: locationOf(values), json: values.json === true }),
    run: async (context, { location, json }) =>
      done(context, await status(dataDirectory(context, location), json)),
  }),
]
