/**
 * Packets as bytes, for clients that break rules that a generator keeps; and the Server's answers as bytes.
 */
import { expect } from 'vitest'
import type { TestClient, Version, World } from '../broker/harness.ts'
import { packet, properties, uint16 } from '../mqtt/packets.ts'

/** Every version of the protocol by its name. */
export const DIALECTS = [
  ['3.1', 3],
  ['3.1.1', 4],
  ['5.0', 5],
] as const satisfies readonly (readonly [string, Version])[]

/** The two without Reason Codes in their answers. */
export const OLD_DIALECTS = [DIALECTS[0], DIALECTS[1]] as const

type Part = string | number | readonly number[] | Buffer

const none = (version: Version): Buffer => (version === 5 ? properties() : Buffer.alloc(0))

/** SUBSCRIBE; `requests` are Topic Filters (with their length), each followed by its options byte. */
export function subscribe(version: Version, packetId: number, ...requests: readonly Part[]): Buffer {
  return packet(0x82, uint16(packetId), none(version), ...requests)
}

/** UNSUBSCRIBE. */
export function unsubscribe(version: Version, packetId: number, ...filters: readonly Part[]): Buffer {
  return packet(0xa2, uint16(packetId), none(version), ...filters)
}

/** PUBLISH; `flags` is the low nibble of its first byte, and tells whether there is a packet identifier. */
export function publish(
  version: Version,
  flags: number,
  topic: Part,
  packetId = 0,
  payload: string = 'x',
): Buffer {
  const identifier = (flags & 6) === 0 ? Buffer.alloc(0) : uint16(packetId)
  return packet(0x30 | flags, topic, identifier, none(version), Buffer.from(payload))
}

/** PUBACK, PUBREC, PUBREL or PUBCOMP by its first byte; a Reason Code makes it longer. */
export function acknowledge(firstByte: number, packetId: number, ...more: readonly number[]): Buffer {
  return packet(firstByte, uint16(packetId), more)
}

/** Returns what the Server sent since the last call, in hex. */
export function sent(client: TestClient): string {
  client.got()
  return Buffer.concat(client.link.raw.splice(0)).toString('hex')
}

/**
 * Has the client send bytes that break a rule. Expects the close of the Network Connection, and before it the
 * reason in 5.0 and nothing in older versions.
 */
export async function expectRefused(client: TestClient, bytes: Buffer, reasonCode: number): Promise<void> {
  const answers = await client.bytes(bytes)
  const expected = client.version === 5 ? [{ cmd: 'disconnect', reasonCode }] : []
  expect([bytes.toString('hex'), answers]).toMatchObject([bytes.toString('hex'), expected])
  expect([bytes.toString('hex'), client.closed]).toEqual([bytes.toString('hex'), true])
}

/** The same for many packets, each of a client of its own. */
export async function expectEachRefused(
  world: World,
  version: Version,
  packets: readonly (readonly [bytes: Buffer, reasonCode: number])[],
): Promise<void> {
  for (const [bytes, reasonCode] of packets) {
    await expectRefused(await world.connect('wrong', {}, version), bytes, reasonCode)
  }
}

/**
 * Expects strings that are no Topic Filters to end the connection, in SUBSCRIBE and UNSUBSCRIBE, without
 * effect.
 */
export async function expectNoFilters(
  world: World,
  version: Version,
  filters: readonly string[],
): Promise<void> {
  const packets = filters.flatMap((filter) => [
    [subscribe(version, 1, 'fine', 0, filter, 0), 0x8f] as const,
    [unsubscribe(version, 1, 'fine', filter), 0x8f] as const,
  ])
  await expectEachRefused(world, version, packets)
  expect(world.census()).toMatchObject({ subscriptions: 0 })
}
