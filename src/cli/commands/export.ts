/** Defines `godwit export`. */
import type { ExportVersion } from '../../store/records/jsonl.ts'
import { exportLines } from '../actions/store-commands.ts'
import { command } from '../grammar/command.ts'
import { ExitCode } from '../grammar/context.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, PLACE, UsageError } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'export',
    words: ['FILE'],
    areWordsOptional: true,
    options: [...PLACE, 'for'],
    help: `  godwit export [FILE]       writes Sessions, queues, retained messages and
                             Wills as JSON lines; --for 0.1 for Godwit 0.1
`,
    parse: ([path = '-'], values) => ({
      location: locationOf(values),
      /** `-` is stdout. */
      path,
      version: exportVersionFor(values.for),
    }),
    run: async (context, { location, path, version }) => {
      const { stdout, stderr } = context
      const text = await exportLines(dataDirectory(context, location), path, stdout, version)
      // While data goes to stdout, the message goes to stderr.
      ;(path === '-' ? stderr : stdout).write(`${text}\n`)
      return ExitCode.CleanEnd
    },
  }),
]

/** Returns the version of exports that this version of Godwit can import. Throws UsageError. */
function exportVersionFor(godwit: string | undefined): ExportVersion | undefined {
  if (godwit === undefined) return undefined
  if (/^0\.1(\.\d+)?$/.test(godwit)) return 1
  if (/^0\.[23](\.\d+)?$/.test(godwit)) return 2
  throw new UsageError(`--for ${godwit}: the earlier versions with an export of their own are 0.1 to 0.3`)
}
