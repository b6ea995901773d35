/** Aedes with aedes-persistence-level: `node aedes.mjs PORT DIRECTORY`. */
import { createServer } from 'node:net'
import { Aedes } from 'aedes'
import aedesPersistenceLevel from 'aedes-persistence-level'
import { Level } from 'level'

const [port, directory] = process.argv.slice(2)
const aedes = await Aedes.createBroker({ persistence: aedesPersistenceLevel(new Level(directory)) })
createServer({ noDelay: true }, aedes.handle).listen(Number(port), '127.0.0.1')
