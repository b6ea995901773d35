/** Looks at the retained messages as a new subscriber finds them. */
import { Client } from './client.mjs'
import { subscribe } from './packets.mjs'

/**
 * Resolves when every retained message that must be there was seen, or with complaints in the ledger after
 * `idleMs`. `wanted()` returns what must be there: by topic the least number that the newest message may
 * have. When the broker is killed meanwhile, the inspection ends without a complaint.
 *
 * @param {{
 *   port: number,
 *   ledger: import('./ledger.mjs').Ledger,
 *   version: number,
 *   number: number | string,
 *   idleMs: number,
 *   ended: Promise<void>,
 *   wanted?: () => Map<string, number>,
 * }} options
 * @returns {Promise<void>}
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
