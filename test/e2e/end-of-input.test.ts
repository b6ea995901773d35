/** Real clients publish, send DISCONNECT and close, while others keep the store busy. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connectAsync, type MqttClient } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { flood } from './flood.ts'
import {
  CERTIFICATES,
  cleanUp,
  MAIN,
  MosquittoSub,
  mosquittoPub,
  output,
  Program,
  PYTHON,
  ROOT,
  temporaryDirectory,
} from './process.ts'

const CLIENTS = 25
const CA = join(CERTIFICATES, 'ca.pem')

let ports: Record<'mqtt' | 'mqtts' | 'ws' | 'wss', number>
let reader: MosquittoSub
let loading: boolean
let load: Promise<unknown>

/** A broker whose store always lags: it may hardly lag at all, and has to store what others publish. */
beforeEach(async () => {
  const file = (name: string) => `"${join(CERTIFICATES, `${name}.pem`)}"`
  const tls = `tls: { cert: ${file('server')}, key: ${file('server-key')} }`
  const listeners = [
    '{ name: a, type: tcp, port: 0 }',
    `{ name: b, type: tls, port: 0, ${tls} }`,
    '{ name: c, type: ws, port: 0 }',
    `{ name: d, type: wss, port: 0, ${tls} }`,
  ]
  const program = new Program(process.execPath, [
    ...[MAIN, '--data', await temporaryDirectory()],
    ...['--set', `listeners=[${listeners.join(', ')}]`, '--set', 'limits.pending_commit_bytes_max=1KiB'],
  ])
  await program.until((stdout) => /^godwit try/m.test(stdout))
  const port = (scheme: string): number =>
    Number(new RegExp(`listening on ${scheme}://[^\\s]+?:(\\d+)(/|$)`, 'm').exec(program.stdout)![1])
  ports = { mqtt: port('mqtt'), mqtts: port('mqtts'), ws: port('ws'), wss: port('wss') }
  await output('mosquitto_sub', '-p', `${ports.mqtt}`, '-c', '-i', 'keeper', '-q', '1', '-t', 'load', '-E')
  reader = await MosquittoSub.start(ports.mqtt, ['-t', 'last/words', '-t', 'will', '-t', 'end'])
  loading = true
  load = (async () => {
    for (let from = 0; loading; from += 1000) {
      await flood({ port: ports.mqtt, topic: 'load', from, to: from + 1000 })
    }
  })()
})

afterEach(async () => {
  loading = false
  await load
  await cleanUp()
})

/** The broker has handled all packets of clients that left once this `end` arrives after them. */
async function expectEverything(count: number): Promise<void> {
  const messages = await reader.received(count)
  await mosquittoPub(ports.mqtt, '-t', 'end', '-m', 'end')
  const all = await reader.received(messages.length + 1)
  expect(all.filter((line) => line.startsWith('will'))).toEqual([])
  expect(all.filter((line) => line.startsWith('last/words'))).toHaveLength(count)
}

const words = (...more: string[]): string[] => [
  ...['-t', 'last/words', '-m', 'words', '--repeat', '3', '--will-topic', 'will', '--will-payload', 'lost'],
  ...more,
]

test.each(['mqtt', 'mqtts'] as const)('mosquitto_pub over %s loses nothing [field-B5]', async (scheme) => {
  const secure = scheme === 'mqtts' ? ['--cafile', CA] : []
  await Promise.all(
    Array.from({ length: CLIENTS }, (_, index) =>
      mosquittoPub(ports[scheme], ...words('-i', `pub-${index}`, ...secure)),
    ),
  )
  await expectEverything(3 * CLIENTS)
})

test.each(['tls', 'websockets'] as const)('paho-mqtt over %s loses nothing [field-B5]', async (kind) => {
  const port = kind === 'tls' ? ports.mqtts : ports.ws
  await output(PYTHON, join(ROOT, 'test', 'e2e', 'last_words.py'), kind, `${port}`, `${CLIENTS}`, CA)
  await expectEverything(3 * CLIENTS)
})

test.each(['ws', 'wss', 'mqtts'] as const)('MQTT.js over %s loses nothing [field-B5]', async (scheme) => {
  const speak = async (index: number): Promise<void> => {
    const path = scheme === 'mqtts' ? '' : '/mqtt'
    const client: MqttClient = await connectAsync(`${scheme}://127.0.0.1:${ports[scheme]}${path}`, {
      clientId: `js-${index}`,
      ca: readFileSync(CA),
      reconnectPeriod: 0,
      will: { topic: 'will', payload: Buffer.from('lost'), qos: 0, retain: false },
    })
    for (let word = 0; word < 3; word++) client.publish('last/words', `${index} ${word}`)
    await client.endAsync()
  }
  await Promise.all(Array.from({ length: CLIENTS }, (_, index) => speak(index)))
  await expectEverything(3 * CLIENTS)
})
