/** The answers that MQTT 5.0 clients get at CONNECT. */
import { expect } from 'vitest'
import type { TestClient, World } from '../../broker/harness.ts'
import { sent } from '../wire.ts'

/** Expects a refusal: one CONNACK with this Reason Code and no Session Present, the close, and no Session. */
export async function expectConnectRefused(
  world: World,
  bytes: Buffer,
  reasonCode: number,
): Promise<TestClient> {
  const before = world.census()
  const client = world.open(5)
  const answers = await client.bytes(bytes)
  const hex = bytes.toString('hex')
  expect([hex, answers]).toMatchObject([hex, [{ cmd: 'connack', reasonCode, sessionPresent: false }]])
  expect([hex, client.closed]).toEqual([hex, true])
  await world.settle()
  expect(world.census()).toEqual(before)
  return client
}

/** Sends bytes and returns the answers, in hex. */
export async function ask(client: TestClient, bytes: Buffer): Promise<string> {
  sent(client)
  await client.bytes(bytes)
  return sent(client)
}
