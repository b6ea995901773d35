/**
 * One run of the load: clients that publish, or clients that consume, until `count` messages are done. Prints
 * a line of JSON. Started by `queues.mjs`, with the run as JSON in the first argument.
 *
 * @typedef {object} Run
 * @property {'mqtt' | 'amqp' | 'nats'} protocol
 * @property {'publish' | 'consume' | 'declare'} what
 * @property {number} port
 * @property {string} queue
 * @property {string} kind of AMQP: `classic` or `quorum`
 * @property {string} [topic] of MQTT, instead of the queue's: `KEY` stands for the number of a key
 * @property {string} [filter] of MQTT, instead of the queue's
 * @property {number} [keys] topics, with `topic`
 * @property {number} clients
 * @property {number} count
 * @property {number} [window] messages under way of all publishers together
 * @property {number} [perSecond] a fixed rate of all publishers together, instead
 * @property {string} prefetch
 * @property {boolean} [isNumbered] whether messages carry their number instead of the time
 * @property {number[]} [workMs] of consumers in turn, for each message
 */
import { AmqpClient, MqttClient, NatsClient } from './wire.mjs'

const BYTES = 128

/** @type {Run} */
const run = JSON.parse(process.argv[2])

function open(number) {
  const { protocol, port, queue, kind, clients, what } = run
  if (protocol === 'amqp') return AmqpClient.open(port, queue, kind)
  const clientId = `${what}${queue}${number}`
  if (protocol === 'nats') return NatsClient.open(port, clientId, queue, clients)
  const topicOf = (key) => (run.topic ?? `$queue/${queue}`).replace('KEY', `${key}`)
  return MqttClient.open(port, clientId, topicOf, run.filter ?? `$queue/${queue};prefetch=PREFETCH/#`)
}

/** Nanoseconds of the machine's clock, which both processes read. */
function now() {
  return process.hrtime.bigint()
}

/** Begins with the time at which it is sent, or with its number. */
function payload(number) {
  const body = Buffer.alloc(BYTES, 'x')
  body.writeBigUInt64BE(run.isNumbered === true ? BigInt(number) : now())
  return body
}

async function publish(clients) {
  const { count, window = 1000, perSecond, keys = 1 } = run
  let sent = 0
  let confirmed = 0
  await new Promise((resolve) => {
    const send = (client) => {
      if (sent === count) return
      client.publish(payload(sent), sent % keys)
      sent++
    }
    for (const client of clients) {
      client.onConfirmed = (more) => {
        confirmed += more
        if (perSecond === undefined) for (let n = 0; n < more; n++) send(client)
        if (confirmed === count) resolve(undefined)
      }
    }
    if (perSecond === undefined) {
      for (let n = 0; n < window; n++) send(clients[n % clients.length])
      return
    }
    const begin = performance.now()
    const timer = setInterval(() => {
      const due = Math.floor(((performance.now() - begin) * perSecond) / 1000)
      while (sent < Math.min(due, count)) send(clients[sent % clients.length])
      if (sent === count) clearInterval(timer)
    }, 1)
  })
}

async function consume(clients) {
  const { count, prefetch, workMs } = run
  const shares = clients.map(() => 0)
  const latencies = []
  let done = 0
  let first = 0
  const began = performance.now()
  await new Promise((resolve, reject) => {
    for (const [number, client] of clients.entries()) {
      const ms = workMs?.[number % workMs.length] ?? 0
      const finish = (message) => {
        client.done(message)
        shares[number]++
        if (++done === count) resolve(undefined)
      }
      let last = Promise.resolve()
      client.onMessage = (body, message) => {
        if (first === 0) first = performance.now()
        latencies.push(Number(now() - body.readBigUInt64BE()) / 1e6)
        if (ms === 0) finish(message)
        else last = last.then(() => new Promise((next) => setTimeout(next, ms))).then(() => finish(message))
      }
      client.consume(prefetch).catch(reject)
    }
    process.stdout.write('ready\n')
  })
  for (const client of clients) client.writer.flush()
  latencies.sort((one, other) => one - other)
  const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))]
  return { shares, p50: at(0.5), p99: at(0.99), firstMs: first - began }
}

/** Declares queues by use, each with a filter of its own. They stay when their consumers have left. */
async function declare(clients) {
  for (let number = 0; number < run.count; number++) {
    const client = clients[number % clients.length]
    client.filter = `$queue/${run.queue}${number}/${run.queue}/${number}/#`
    await client.consume('')
  }
}

const WORK = { publish, consume, declare }

const clients = []
for (let number = 0; number < run.clients; number++) clients.push(await open(number))
const cpu = process.cpuUsage()
const begin = performance.now()
const more = await WORK[run.what](clients)
const ms = performance.now() - begin
const { user, system } = process.cpuUsage(cpu)
process.stdout.write(`${JSON.stringify({ ms, cpuUs: user + system, ...more })}\n`)
// A broker may still read the last acknowledgements.
for (const client of clients) client.close()
