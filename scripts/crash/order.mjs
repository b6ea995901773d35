/**
 * Shows that the sync of a commit comes before the acknowledgement, from the trace of what the broker asked
 * for.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BrokerProcess, freePort } from './broker.mjs'
import { Connection } from './connection.mjs'
import { FaultyDisk } from './disk.mjs'
import { acknowledge, connect, publish, subscribe } from './packets.mjs'
import { Random } from './random.mjs'
import { orderComplaint } from './trace.mjs'

const MESSAGES = 40
const RETRY_MS = 20

/**
 * Has one client subscribe with a Session and leave. Another one publishes at QoS 1 and QoS 2 in turn, each
 * message after the acknowledgement of the one before. Resolves with `{checked, complaints}`.
 */
export async function checkOrder({ kind, library, seed }) {
  const random = new Random(seed)
  const directory = mkdtempSync(join(tmpdir(), 'godwit-crash-'))
  const disk = new FaultyDisk({ library, directory, random, powerCuts: true })
  const broker = new BrokerProcess({
    kind,
    port: await freePort(random),
    data: disk.data,
    environment: () => disk.environment(),
    died: (text) => console.error(text),
  })
  try {
    broker.start()
    const version = kind.versions[0]
    const sleeper = await arrive(broker, version, 'sleeper', false)
    await sleeper.ask(subscribe({ version, packetId: 1, filter: 'order', qos: 2 }), 'suback')
    sleeper.vanish()
    const publisher = await arrive(broker, version, 'publisher', true)
    for (let packetId = 1; packetId <= MESSAGES; packetId++) {
      const qos = qosOf(packetId)
      const bytes = publish({ version, topic: 'order', payload: marker(packetId), qos, packetId })
      await publisher.ask(bytes, qos === 1 ? 'puback' : 'pubrec')
      if (qos === 2) await publisher.ask(acknowledge('pubrel', packetId), 'pubcomp')
    }
    await broker.kill()
    const { records } = disk
    const complaints = []
    for (let packetId = 1; packetId <= MESSAGES; packetId++) {
      const sent = acknowledge(qosOf(packetId) === 1 ? 'puback' : 'pubrec', packetId)
      const complaint = orderComplaint(records, marker(packetId), sent)
      if (complaint !== null) complaints.push(`message ${packetId} at QoS ${qosOf(packetId)}: ${complaint}`)
    }
    return { checked: MESSAGES, complaints }
  } finally {
    await broker.kill()
    rmSync(directory, { recursive: true, force: true })
  }
}

function qosOf(packetId) {
  return packetId % 2 === 0 ? 2 : 1
}

function marker(packetId) {
  return `marker-${packetId}.`
}

/** Connects until it is let in. Resolves with the client. */
async function arrive(broker, version, clientId, cleanStart) {
  while (broker.running) {
    const client = new Asker(broker.port, version)
    if (await client.ask(connect({ version, clientId, cleanStart }), 'connack')) return client
    client.vanish()
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
  throw new Error('the broker ended')
}

/** A client that sends a packet and waits for the answer. */
class Asker {
  #connection
  /**
   * The answer that is waited for; its type is null once the connection was closed.
   *
   * @type {{ type: string | null, resolve: (isAnswered: boolean) => void } | null}
   */
  #waiting = null
  #open

  constructor(port, version) {
    let opened
    this.#open = new Promise((resolve) => {
      opened = resolve
    })
    this.#connection = new Connection(port, version, {
      opened,
      packet: ({ type }) => {
        if (this.#waiting?.type === type) this.#waiting?.resolve(true)
      },
      closed: () => {
        opened()
        this.#waiting?.resolve(false)
        this.#waiting = { type: null, resolve: () => {} }
      },
    })
  }

  /** Resolves with true when the answer arrives, with false when the connection is closed. */
  async ask(bytes, type) {
    await this.#open
    if (this.#waiting?.type === null) return false
    const answer = new Promise((resolve) => {
      this.#waiting = { type, resolve }
    })
    this.#connection.send(bytes)
    return answer
  }

  vanish() {
    this.#connection.vanish()
  }
}
