/**
 * Aedes, as its documentation starts it, on a free port of 127.0.0.1. Prints the port. Its Sessions are in memory, or with
 * a directory as the only word in LevelDB there, by aedes-persistence-level, which never waits for the disk.
 */
import { createServer } from 'node:net'
import { Aedes } from 'aedes'
import aedesPersistenceLevel from 'aedes-persistence-level'
import { Level } from 'level'

const [directory] = process.argv.slice(2)
const options = directory === undefined ? {} : { persistence: aedesPersistenceLevel(new Level(directory)) }
const aedes = await Aedes.createBroker(options)
const server = createServer({ noDelay: true }, aedes.handle)
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`))
