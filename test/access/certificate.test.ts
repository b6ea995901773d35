import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connectAsync, type IClientOptions } from 'mqtt'
import { afterEach, expect, test } from 'vitest'
import { type Broker, createBroker } from '../../src/godwit.ts'

const CERTIFICATES = fileURLToPath(new URL('../fixtures/tls', import.meta.url))
const path = (name: string): string => join(CERTIFICATES, `${name}.pem`)

let broker: Broker | null = null

afterEach(async () => {
  await broker?.close()
  broker = null
})

/** The user of a client that connects with these options. */
async function userOf(options: IClientOptions): Promise<string | null> {
  const users: (string | null)[] = []
  const off = broker!.events.on('connected', ({ client }) => users.push(client.userName))
  const ca = readFileSync(path('ca'))
  const url = `mqtts://localhost:${broker!.listeners[0]!.port}`
  const client = await connectAsync(url, { ca, protocolVersion: 5, reconnectPeriod: 0, ...options }, false)
  await client.endAsync()
  off()
  return users[0]!
}

test.each(['require', 'request'] as const)(
  'client_certificate %s: a certificate is enough, without anonymous access; its Common Name is the user',
  async (clientCertificate) => {
    const tls = { cert: path('server'), key: path('server-key'), ca: path('ca'), clientCertificate }
    broker = await createBroker({
      access: {},
      listeners: [{ type: 'tls', port: 0, tls, allowAnonymous: false }],
    })
    const shown = { cert: readFileSync(path('client')), key: readFileSync(path('client-key')) }
    expect(await userOf(shown)).toBe('device-7')
    await expect(userOf({})).rejects.toThrow(/Not authorized|certificate required/)
  },
)
