import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, output, PYTHON, ROOT } from './process.ts'

afterEach(cleanUp)

test.each(['3.1', '3.1.1', '5.0'])('paho-mqtt of Debian speaks MQTT %s', async (version) => {
  const broker = await BrokerProcess.start({ webSocket: true })
  const script = join(ROOT, 'test', 'e2e', 'paho_client.py')
  const ports = [`${broker.port}`, `${broker.webSocketPort}`]
  const report = await output(PYTHON, script, version, ...ports)
  expect(report.trim().split('\n')).toEqual([
    'tcp: qos 0 1 2',
    'tcp: retained, and cleared',
    'tcp: session kept, in order',
    'tcp: will',
    'websockets: qos 0 1 2',
    'tcp: burst at qos 2',
    'tcp: shared subscription',
    ...(version === '5.0' ? ['tcp: properties', 'tcp: topic alias'] : []),
  ])
})
