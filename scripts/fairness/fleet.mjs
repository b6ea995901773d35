/**
 * A fleet of ordinary devices in a process of its own. Each device publishes at QoS 1 every other second and
 * receives commands at QoS 1. Half of them speak 3.1.1, and all have Wills and Sessions that outlive their
 * connections. A dashboard receives all that they publish, and a controller sends the commands.
 *
 *   node scripts/fairness/fleet.mjs PORT DEVICES [USER PASSWORD]
 *
 * On the message 'figures' of its parent process it answers with the figures since the last one. On 'end' it
 * drains and answers with the sums.
 */
import { Connection } from '../crash/connection.mjs'
import { acknowledge, publish, subscribe } from '../crash/packets.mjs'
import { connect } from './wire.mjs'

const [port, devices, user, password] = process.argv.slice(2)
const PUBLISH_EVERY_MS = 2000
const COMMAND_EVERY_MS = 100
const AGAIN_MS = 1000
const PING_MS = 20_000
const PINGREQ = Buffer.from([0xc0, 0])
const DRAIN_MS = 30_000

let latencies = []
const sums = {
  published: 0,
  acknowledged: 0,
  received: 0,
  doubled: 0,
  disconnects: 0,
  refused: 0,
  nacks: 0,
  lateMs: 0,
}
/** Names of messages that were acknowledged and have not arrived. */
const owed = new Set()
const arrived = new Set()

class Client {
  /** @type {Connection | null} */
  #connection = null
  #packetId = 0
  /** Messages that are not yet acknowledged, by packet identifier. They are sent again after a reconnect. */
  #unacknowledged = new Map()
  #filter
  #clientId
  #version
  isReady = false
  /** True once it has its Subscription: messages are for it from then on, connected or not. */
  wasReady = false
  isOver = false

  constructor(clientId, filter, version) {
    this.#clientId = clientId
    this.#filter = filter
    this.#version = version
    this.#open()
  }

  #open() {
    const connection = new Connection(Number(port), this.#version, {
      opened: () =>
        connection.send(
          connect({
            clientId: this.#clientId,
            user,
            password,
            version: this.#version,
            kept: true,
            expirySeconds: 3600,
            keepAliveSeconds: 60,
            will: { topic: `fleet/${this.#clientId}/gone`, payload: 'gone' },
          }),
        ),
      packet: (packet) => this.#take(packet),
      closed: () => {
        if (this.isOver) return
        if (this.isReady) sums.disconnects++
        this.isReady = false
        setTimeout(() => this.#open(), AGAIN_MS)
      },
    })
    this.#connection = connection
  }

  #take(packet) {
    if (packet.type === 'connack') {
      if (packet.reasonCode !== 0) {
        sums.refused++
        return
      }
      const fields = { version: this.#version, packetId: 65_535, filter: this.#filter, qos: 1 }
      this.#connection?.send(subscribe(fields))
    } else if (packet.type === 'suback') {
      this.isReady = true
      this.wasReady = true
      for (const [packetId, fields] of this.#unacknowledged) this.#send({ ...fields, packetId, dup: true })
    } else if (packet.type === 'puback') {
      const fields = this.#unacknowledged.get(packet.packetId)
      this.#unacknowledged.delete(packet.packetId)
      if (fields === undefined) return
      if (packet.reasonCode >= 0x80) {
        sums.nacks++
        return
      }
      sums.acknowledged++
      if (!arrived.delete(fields.name)) owed.add(fields.name)
    } else if (packet.type === 'publish') {
      this.#connection?.send(acknowledge('puback', packet.packetId))
      received(packet.payload)
    }
  }

  #send({ topic, payload, packetId, dup }) {
    this.#connection?.send(publish({ version: this.#version, topic, payload, qos: 1, packetId, dup }))
  }

  publish(topic, name) {
    if (!this.isReady || this.#unacknowledged.size > 100) return
    this.#packetId = (this.#packetId % 60_000) + 1
    const fields = { topic, name, payload: `${name} ${now()}`, packetId: this.#packetId, dup: false }
    this.#unacknowledged.set(this.#packetId, fields)
    sums.published++
    this.#send(fields)
  }

  ping() {
    if (this.isReady) this.#connection?.send(PINGREQ)
  }

  get isIdle() {
    return this.#unacknowledged.size === 0
  }

  end() {
    this.isOver = true
    this.#connection?.leave(Buffer.from([0xe0, 0]))
  }
}

function now() {
  return performance.timeOrigin + performance.now()
}

function received(payload) {
  const [name, sent] = payload.split(' ')
  latencies.push(now() - Number(sent))
  sums.received++
  if (owed.delete(name)) return
  if (arrived.has(name)) sums.doubled++
  arrived.add(name)
}

const dashboard = new Client('fleet-dashboard', 'fleet/+/t', 5)
const fleet = Array.from(
  { length: Number(devices) },
  (_, n) => new Client(`fleet-${n}`, `fleet/${n}/c`, n % 2 === 0 ? 4 : 5),
)
const controller = new Client('fleet-controller', 'fleet/none', 5)

let sequence = 0
for (const [n, device] of fleet.entries()) {
  setTimeout(
    () =>
      setInterval(() => {
        if (!isOver && dashboard.wasReady) device.publish(`fleet/${n}/t`, `t${sequence++}`)
      }, PUBLISH_EVERY_MS),
    (n * PUBLISH_EVERY_MS) / fleet.length,
  )
}
let isOver = false
setInterval(() => {
  if (isOver) return
  const n = Math.floor(Math.random() * fleet.length)
  if (fleet[n].wasReady) controller.publish(`fleet/${n}/c`, `c${sequence++}`)
}, COMMAND_EVERY_MS)
setInterval(() => {
  for (const client of [...fleet, dashboard, controller]) client.ping()
}, PING_MS)

let expected = performance.now() + 10
setInterval(() => {
  sums.lateMs = Math.max(sums.lateMs, performance.now() - expected)
  expected = performance.now() + 10
}, 10)

function figures() {
  const sorted = latencies.sort((one, other) => one - other)
  latencies = []
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
  const lateMs = sums.lateMs
  sums.lateMs = 0
  const ready = fleet.filter(({ isReady }) => isReady).length
  return { ...sums, lateMs, ready, samples: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) }
}

process.on('message', async (told) => {
  if (told === 'figures') process.send?.(figures())
  if (told !== 'end') return
  isOver = true
  const all = [...fleet, dashboard, controller]
  const until = performance.now() + DRAIN_MS
  while (performance.now() < until && !(owed.size === 0 && all.every(({ isIdle }) => isIdle))) {
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  for (const client of all) client.end()
  process.send?.({ ...figures(), lost: owed.size }, undefined, undefined, () => process.exit(0))
})
process.on('disconnect', () => process.exit(1))
