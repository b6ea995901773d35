/** The promises to outside suites: `outside.yaml` is as `README.md` says. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { loadConfig } from '../../src/config/config.ts'
import { World } from '../broker/harness.ts'

const FILE = fileURLToPath(new URL('outside.yaml', import.meta.url))
const README = readFileSync(new URL('README.md', import.meta.url), 'utf8')
const YAML = readFileSync(FILE, 'utf8')

const config = loadConfig({ file: FILE })
const world = (): Promise<World> => World.make({ limits: config.limits })

describe('outside.yaml', () => {
  test('has every setting of the table, and the table every setting', () => {
    const told = [...README.matchAll(/^\| `([a-z_0-9]+)` \|/gm)].map(([, key]) => key!)
    const section = /^limits:\n((?: .*\n)+)/m.exec(YAML)![1]!
    expect(told).toEqual([...section.matchAll(/^ {2}([a-z_0-9]+):/gm)].map(([, key]) => key))
  })

  test('names each default correctly', () => {
    const defaults = YAML.replace(/^( +[a-z_]+):[^#\n]*# default: (.+)$/gm, '$1: $2').replace(
      /(refused_subscriptions: \[\])\n(?: {4}.*\n)+/,
      '$1\n',
    )
    expect(defaults).not.toBe(YAML)
    const set = defaults.split('\n').flatMap((line) => {
      const [, key, value] = /^ {2}([a-z_]+): (.+)$/.exec(line) ?? []
      if (key === 'interval_seconds') return [`sys.${key}=${value}`]
      if (key === 'durability') return []
      return key === undefined || key === 'directory' ? [] : [`limits.${key}=${value}`]
    })
    expect(set.length).toBe(13)
    const { limits, sysIntervalSeconds } = loadConfig({ flags: { set } })
    expect(limits).toEqual(loadConfig().limits)
    expect(sysIntervalSeconds).toBe(loadConfig().sysIntervalSeconds)
  })

  test('CONNACK announces the limits to a client of 5.0', async () => {
    const client = await (await world()).connect('', { keepalive: 120 })
    expect(client.connack).toMatchObject({
      reasonCode: 0,
      properties: {
        serverKeepAlive: 60,
        receiveMaximum: 20,
        maximumPacketSize: 1024 * 1024,
        topicAliasMaximum: 10,
        assignedClientIdentifier: expect.any(String),
      },
    })
  })

  test.each([3, 4, 5] as const)('SUBACK refuses the listed filters, level %i', async (version) => {
    const client = await (await world()).connect('c', {}, version)
    const codes = [await client.subscribe('test/nosubscribe', 2), await client.subscribe('test/forbidden', 2)]
    expect(codes).toEqual({ 3: [0, 0], 4: [0x80, 0x80], 5: [0x80, 0x87] }[version])
  })
})

describe('the other values of the table', () => {
  const connack = async (set: string[], connect: object = {}, version: 4 | 5 = 5) => {
    const { limits } = loadConfig({ file: FILE, flags: { set } })
    const client = (await World.make({ limits })).open(version)
    const [packet] = await client.send({
      ...{
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: version,
        clientId: 'c',
        clean: true,
        keepalive: 0,
      },
      ...connect,
    })
    return packet
  }
  const will = (more: object) => ({
    will: { topic: 'w', payload: Buffer.from('x'), qos: 0, retain: false, ...more },
  })

  test('maximum_qos', async () => {
    expect(await connack(['limits.maximum_qos=1'])).toMatchObject({ properties: { maximumQoS: 1 } })
    expect(await connack(['limits.maximum_qos=1'], will({ qos: 2 }))).toMatchObject({ reasonCode: 0x9b })
  })

  test('retain_available', async () => {
    expect(await connack(['limits.retain_available=false'])).toMatchObject({
      properties: { retainAvailable: false },
    })
    expect(await connack(['limits.retain_available=false'], will({ retain: true }))).toMatchObject({
      reasonCode: 0x9a,
    })
  })

  test('empty_client_identifier_allowed', async () => {
    const set = ['limits.empty_client_identifier_allowed=false']
    expect(await connack(set, { clientId: '' })).toMatchObject({ reasonCode: 0x85 })
    expect(await connack(set, { clientId: '' }, 4)).toMatchObject({ returnCode: 2 })
    expect(await connack([], { clientId: '' }, 4)).toMatchObject({ returnCode: 0 })
  })
})
