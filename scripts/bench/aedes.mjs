/**
 * Starts Aedes as its documentation does, on free ports of 127.0.0.1, and prints them. Its Sessions are in
 * memory, or with `--level DIRECTORY` in LevelDB there, by aedes-persistence-level, which never waits for the
 * disk.
 *
 *   node aedes.mjs [--level DIRECTORY] [--cert FILE --key FILE]
 */
import { readFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { parseArgs } from 'node:util'
import { Aedes } from 'aedes'
import aedesPersistenceLevel from 'aedes-persistence-level'
import { Level } from 'level'
import { createWebSocketStream, WebSocketServer } from 'ws'

const { values } = parseArgs({
  options: { level: { type: 'string' }, cert: { type: 'string' }, key: { type: 'string' } },
})
const options =
  values.level === undefined ? {} : { persistence: aedesPersistenceLevel(new Level(values.level)) }
const aedes = await Aedes.createBroker(options)

await listen('mqtt', createServer({ noDelay: true }, aedes.handle))

await listen('ws', withWebSockets(createHttpServer()))

if (values.cert !== undefined && values.key !== undefined) {
  const pem = { cert: readFileSync(values.cert), key: readFileSync(values.key) }
  await listen('wss', withWebSockets(createHttpsServer(pem)))
  await listen('mqtts', createTlsServer({ ...pem, noDelay: true }, aedes.handle))
}
console.log('ready')

function withWebSockets(server) {
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    aedes.handle(createWebSocketStream(socket), request)
  })
  return server
}

/** @returns {Promise<void>} */
function listen(scheme, server) {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      console.log(`listening on ${scheme}://127.0.0.1:${server.address().port}`)
      resolve()
    })
  })
}
