import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, output, ROOT, temporaryDirectory } from './process.ts'

/** The lines that each program prints. */
const WORKS = [
  'qos 0 1 2',
  'retained, and cleared',
  'session kept, in order',
  'will',
  'shared subscription',
  'flow control at qos 2',
]

afterEach(cleanUp)

describe.each([
  ['libmosquitto', 'libmosquitto_client.c', '-lmosquitto'],
  ['Paho C', 'paho_client.c', '-lpaho-mqtt3c'],
])('%s of Debian', (_name, source, library) => {
  test.each(['3.1', '3.1.1', '5.0'])('speaks MQTT %s', async (version) => {
    const program = join(await temporaryDirectory(), 'client')
    await output(
      'cc',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-o',
      program,
      join(ROOT, 'test', 'e2e', source),
      library,
    )
    const broker = await BrokerProcess.start()
    const report = await output(program, version, `${broker.port}`)
    const works = version === '5.0' ? [...WORKS, 'topic alias'] : WORKS
    expect(report.trim().split('\n').sort()).toEqual(works.toSorted())
  })
})
