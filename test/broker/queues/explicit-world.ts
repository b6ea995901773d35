/** Consumers with explicit acknowledgement, in a world in memory or on disk. */
import { expect } from 'vitest'
import type { GivenProperties } from '../../../src/queue/properties.ts'
import type { Given, TestClient, World } from '../harness.ts'
import { type DiskWorld, puback, publishes } from './queue-world.ts'

export const TAGGED = '$queue/jobs;ack=explicit/+/#'
export const RESULTS: GivenProperties = { results: 'results/{topic}' }

type Place = World | DiskWorld

function worldOf(at: Place): World {
  return 'world' in at ? at.world : at
}

/** Publishes to `$ack`; returns the Reason Code of PUBACK. */
export async function acknowledge(
  at: Place,
  client: TestClient,
  topic: string,
  payload = '',
  more: Given = {},
): Promise<number> {
  const full = topic.startsWith('$') ? topic : `$ack/jobs/${topic}`
  const packets = await client.send({ cmd: 'publish', topic: full, payload, qos: 1, messageId: 77, ...more })
  await at.settle()
  packets.push(...client.got())
  const index = packets.findIndex(({ cmd }) => cmd === 'puback')
  if (index === -1) throw new Error(`no puback came, but ${packets.map(({ cmd }) => cmd).join(', ')}`)
  const [found] = packets.splice(index, 1)
  client.link.packets.unshift(...packets)
  return (found as { reasonCode?: number }).reasonCode ?? 0
}

export function queue(at: Place, name = 'jobs') {
  return worldOf(at).server.queues!.definitions.byName.get(name)!
}

export function states(at: Place, name = 'jobs') {
  return queue(at, name).group.states
}

/** Puts a message into `jobs`. */
export async function put(at: Place, payload: string, more: Given = {}): Promise<void> {
  const publisher = await at.connect('publisher')
  await publisher.publish('jobs/a', payload, 1, more)
  await at.settle()
}

/** A worker of 5.0 with one message that it has and did not settle; and the tag. */
export async function working(
  at: Place,
  clientId = 'w',
  filter = '$queue/jobs;ack=explicit;prefetch=1/#',
): Promise<{ worker: TestClient; tag: string }> {
  const worker = await at.connect(clientId)
  await worker.subscribe(filter, 1)
  await at.settle()
  const [got] = publishes(worker)
  await puback(worker, got!.id)
  await at.settle()
  const topic = `${got!.user['x-ack']}`
  expect(topic).toMatch(/^\$ack\/jobs\/01?\w+\.\d+\.[\w-]+$/)
  return { worker, tag: topic.slice('$ack/jobs/'.length) }
}
