/** Defines `godwit explain access`. */
import { type ExplainCommand, explain } from '../actions/account-commands.ts'
import { command, done } from '../grammar/command.ts'
import { configOf } from '../grammar/directories.ts'
import { locationOf, type OptionValues, PLACE, UsageError } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'explain access',
    words: [],
    options: [
      ...PLACE,
      'json',
      'user',
      'client',
      'publish',
      'subscribe',
      'receive',
      'declare',
      'qos',
      'retain',
    ],
    help: `  godwit explain access      shows which rule allows or denies --publish,
                             --subscribe, --receive or --declare TOPIC for
                             --user NAME --client ID; --qos N and --retain are
                             optional
`,
    parse: (_, values) => ({ location: locationOf(values), request: explainRequest(values) }),
    run: async (context, { location, request }) => {
      const { data, access, queues } = configOf(context, location)
      return done(context, await explain(data.directory, access, queues, request))
    },
  }),
]

function explainRequest(values: OptionValues): ExplainCommand {
  const { json = false, user, client, retain = false } = values
  const asked = (['publish', 'subscribe', 'receive', 'declare'] as const).filter(
    (action) => values[action] !== undefined,
  )
  const [action] = asked
  if (action === undefined || asked.length > 1) {
    throw new UsageError(
      'explain access needs one of --publish TOPIC, --subscribe FILTER, --receive TOPIC and ' +
        '--declare $queue/NAME',
    )
  }
  const qos = ([0, 1, 2] as const).find((level) => String(level) === (values.qos ?? '0'))
  if (qos === undefined) throw new UsageError(`--qos ${values.qos}: it must be 0, 1 or 2`)
  return { json, user, client, action, topic: values[action]!, qos, retain }
}
