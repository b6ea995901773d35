/**
 * A consumer of 5.0 that answers no message until it is killed. Prints a line for each message that it gets.
 *
 *   node slow-consumer.mjs PORT FILTER
 */
import { connectAsync } from 'mqtt'

const [port, filter] = process.argv.slice(2)
const client = await connectAsync(`mqtt://127.0.0.1:${port}`, {
  protocolVersion: 5,
  reconnectPeriod: 0,
  customHandleAcks: (_topic, payload) => {
    process.stdout.write(`> ${payload}\n`)
  },
})
await client.subscribeAsync(filter, { qos: 1 })
process.stdout.write('subscribed\n')
