/** Run by `kill.test.ts`: fills a store as fast as it can and prints durable numbers until it is killed. */
import { LevelStore } from '../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from './model.ts'

const directory = process.argv[2]!
const store = new LevelStore({
  directory,
  sync: true,
  residentBytesMax: 100_000,
  reserveBytes: 0,
  checkpointJournalBytes: 200_000,
  writeBufferBytes: 65_536,
})
const server = new ModelServer(store)
server.remember = false
await server.open()
if (!server.sessions.has(1)) {
  server.createSession(1)
  server.createSession(2)
}

/** The number of the newest message of Session 1, which keeps all. Session 2 sends its messages. */
async function newest(): Promise<number> {
  const last = server.session(1).queue.at(-1)?.message
  if (last === undefined) return 0
  if (last.evicted) await store.restore([last])
  return Number.parseInt(last.payload.toString(), 10)
}

let next = (await newest()) + 1
for (;;) {
  for (let count = 0; count < 50; count++) {
    const both = delivery(message(`topic/${next % 7}`, `${next}${' '.repeat(100)}`))
    server.enqueue(1, both)
    server.enqueue(2, both)
    server.send(2)
    if (server.session(2).sent.size > 20) {
      for (const packetId of [...server.session(2).sent.keys()].slice(0, 10)) server.acknowledge(2, packetId)
    }
    next++
  }
  const acknowledged = next - 1
  await server.commit()
  if (server.failures.length > 0) throw server.failures[0]
  process.stdout.write(`${acknowledged}\n`)
}
