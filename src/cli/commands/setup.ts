/** Defines `godwit setup`. */
import { setup } from '../actions/setup.ts'
import { command, done } from '../grammar/command.ts'
import { namedDirectory } from '../grammar/directories.ts'
import { locationOf, portOf } from '../grammar/options.ts'

export const commands = [
  command({
    name: 'setup',
    words: [],
    options: ['data', 'name', 'address', 'port', 'ws-port', 'user', 'renew', 'new-key', 'rsa'],
    help: `  godwit setup               creates certificates, an administrator and a
                             configuration in --data DIR; keeps existing files
`,
    optionsHelp: `Options of setup:
      --name NAME --address ADDRESS
                             further names and addresses for the certificate;
                             repeatable
      --port PORT --ws-port PORT
                             ports of the new configuration; 8883 and 8084 by
                             default
      --renew                creates new server certificates for the same keys
      --new-key              the same with new keys
      --rsa                  adds RSA if an earlier setup created only ECDSA
`,
    parse: (_, values) => ({
      location: locationOf(values),
      names: values.name ?? [],
      addresses: values.address ?? [],
      port: portOf('--port', values.port),
      webSocketPort: portOf('--ws-port', values['ws-port']),
      user: values.user,
      renew: values.renew === true || values['new-key'] === true,
      newKey: values['new-key'] === true,
      rsa: values.rsa === true,
    }),
    run: async (context, { location, port, webSocketPort, user, ...request }) => {
      const given = {
        ...(port !== undefined && { port }),
        ...(webSocketPort !== undefined && { webSocketPort }),
        ...(user !== undefined && { user }),
      }
      const directory = namedDirectory(context, location)
      return done(context, await setup({ directory, ...request, ...given }, Date.now()))
    },
  }),
]
