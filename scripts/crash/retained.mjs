/** Looks at what is retained, as a new subscriber finds it. */
import { Client } from './client.mjs'
import { subscribe } from './packets.mjs'

/**
 * Resolves when every retained message that must be there was seen, or with the complaints in the ledger after
 * `idleMs`. `wanted()` says what must be there: by topic the number of the newest message, at the least. A broker that is killed meanwhile ends the look without a complaint.
 */
export function inspectRetained({
  port,
  ledger,
  version,
  number,
  idleMs,
  ended,
  wanted: wantedNow = () => ledger.retainedNow(),
}) {
  return new Promise((resolve) => {
    let wanted = new Map()
    const done = () => {
      clearTimeout(timer)
      client.vanish()
      resolve()
    }
    const client = new Client(
      { port, ledger, clientId: `look${number}`, version, cleanStart: true },
      {
        online: () => {
          wanted = wantedNow()
          client.send(subscribe({ version, packetId: 1, filter: 'r/#', qos: 0 }))
          if (wanted.size === 0) done()
        },
        packet: ({ type, retain, topic, payload }) => {
          if (type !== 'publish' || !retain || !wanted.has(topic)) return
          const sequence = Number(payload.split(' ', 2)[1])
          if (sequence < wanted.get(topic)) {
            ledger.problem(
              'retainedLost',
              `${topic} retains ${sequence}, not the acknowledged ${wanted.get(topic)}`,
            )
          }
          wanted.delete(topic)
          if (wanted.size === 0) done()
        },
        offline: done,
      },
    )
    const timer = setTimeout(() => {
      for (const [topic, sequence] of wanted) {
        ledger.problem('retainedLost', `${topic} retains nothing, not the acknowledged ${sequence}`)
      }
      done()
    }, idleMs)
    ended.then(done)
    client.start()
  })
}
