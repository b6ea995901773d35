/** Aedes, as its documentation starts it, on a free port of 127.0.0.1. Prints the port. */
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const aedes = await Aedes.createBroker()
const server = createServer({ noDelay: true }, aedes.handle)
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`))
