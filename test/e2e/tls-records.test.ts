/** Clients that wait for their TLS sockets and do not read what their TLS libraries still hold. */
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { CERTIFICATES, cleanUp, MAIN, Program, PYTHON, ROOT, temporaryDirectory } from './process.ts'

const CA = join(CERTIFICATES, 'ca.pem')
const COUNT = 40

let ports: { mqtt: number; mqtts: number }

beforeEach(async () => {
  const file = (name: string) => `"${join(CERTIFICATES, `${name}.pem`)}"`
  const tls = `tls: { cert: ${file('server')}, key: ${file('server-key')} }`
  const listeners = ['{ name: a, type: tcp, port: 0 }', `{ name: b, type: tls, port: 0, ${tls} }`]
  const program = new Program(process.execPath, [
    ...[MAIN, '--data', await temporaryDirectory()],
    ...['--set', `listeners=[${listeners.join(', ')}]`],
  ])
  await program.until((stdout) => /^godwit try/m.test(stdout))
  const port = (scheme: string): number =>
    Number(new RegExp(`listening on ${scheme}://[^\\s]+?:(\\d+)$`, 'm').exec(program.stdout)![1])
  ports = { mqtt: port('mqtt'), mqtts: port('mqtts') }
})

afterEach(cleanUp)

function client(version: string): Program {
  const script = join(ROOT, 'test', 'e2e', 'one_per_select.py')
  return new Program(PYTHON, [script, `${ports.mqtts}`, CA, version, `${COUNT}`])
}

async function publish(topic: (index: number) => string, retain: boolean): Promise<void> {
  const publisher = await connectAsync(`mqtt://127.0.0.1:${ports.mqtt}`, { reconnectPeriod: 0 })
  for (let index = 0; index < COUNT; index++) {
    publisher.publish(topic(index), `message ${index}`, { qos: (index % 2) as 0 | 1, retain })
  }
  await publisher.endAsync()
}

test.each(['1.2', '1.3'])(
  'over TLS %s they get all retained messages after SUBACK [field-E26]',
  async (version) => {
    await publish((index) => `select/${index}`, true)
    const { code, stdout } = await client(version).ended
    expect(stdout).toBe(`${COUNT} messages\n`)
    expect(code).toBe(0)
  },
)

test.each(['1.2', '1.3'])(
  'over TLS %s they get all queued messages after CONNACK [field-E26]',
  async (version) => {
    const keeper = await connectAsync(`mqtt://127.0.0.1:${ports.mqtt}`, { clientId: 'sel1', clean: false })
    await keeper.subscribeAsync('select/#', { qos: 1 })
    await keeper.endAsync()
    const publisher = await connectAsync(`mqtt://127.0.0.1:${ports.mqtt}`, { reconnectPeriod: 0 })
    for (let index = 0; index < COUNT; index++) await publisher.publishAsync('select/x', 'x', { qos: 1 })
    await publisher.endAsync()
    const { code, stdout } = await client(version).ended
    expect(stdout).toBe(`${COUNT} messages\n`)
    expect(code).toBe(0)
  },
)
