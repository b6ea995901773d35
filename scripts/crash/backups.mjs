/**
 * Backups of a broker while it runs and is killed. A completed backup must restore to a broker that has the
 * Sessions, the retained messages, and every delivery that was acknowledged to its publisher before the
 * backup began and had not arrived when it ended.
 */
import { spawn } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { BrokerProcess, freePort } from './broker.mjs'
import { Client } from './client.mjs'
import { payloadOf } from './ledger.mjs'
import { acknowledge } from './packets.mjs'
import { inspectRetained } from './retained.mjs'

/** Backups of a run that are restored, at most. */
const RESTORED_MAX = 3
/** The end of a backup's name if it is a file; otherwise it is a directory. */
const FILE_END = '.godwit-backup'

export class Backups {
  /** Backups that completed, and those of them that were restored. */
  completed = 0
  restored = 0
  /** Deliveries that the restored backups had to have. */
  owed = 0
  #options
  /** @type {Promise<void> | null} */
  #underWay = null
  #kept = []
  #count = 0

  /**
   * `kind` is of a broker with `backup` and `restore`; `data` is its directory, `directory` takes the
   * backups; `subscribers` have `name`, `version`, `receiver`, and `lasts` while they have a Session that
   * they will not give up.
   */
  constructor(options) {
    this.#options = options
  }

  /** Begins a backup unless one is under way. `killed()` tells whether the broker was killed since. */
  begin(killed) {
    if (this.#underWay !== null) return
    const { kind, directory, data, ledger, random, subscribers } = this.#options
    const end = random.pick(['', FILE_END])
    const target = join(directory, `backup-${this.#count++}${end}`)
    const begunAt = ledger.time
    const retained = ledger.retainedNow()
    const lasting = subscribers.filter(({ lasts }) => lasts)
    const ended = ({ code, said }) => {
      this.#underWay = null
      if (code === 0) {
        const receivers = new Map(subscribers.map((subscriber) => [subscriber, subscriber.receiver]))
        this.#keep({ target, lasting, retained, receivers, owed: ledger.owed(begunAt) })
      } else if (existsSync(target)) {
        ledger.problem('backups', `one that failed left ${target}: ${said}`)
      } else if (!killed()) {
        ledger.problem('backups', `it failed while the broker ran: ${said}`)
      }
    }
    this.#underWay = outcome(kind.backup({ data, target })).then(ended)
  }

  /** Resolves when no backup is under way. Without a broker, a backup itself keeps the directory locked. */
  async ended() {
    await this.#underWay
  }

  #keep(backup) {
    this.completed++
    this.#kept.push(backup)
    if (this.#kept.length <= RESTORED_MAX) return
    const [dropped] = this.#kept.splice(this.#options.random.between(0, RESTORED_MAX), 1)
    rmSync(dropped.target, { recursive: true })
  }

  /** Restores the backups that were kept, and counts what is missing in them. */
  async audit() {
    await this.ended()
    for (const [index, backup] of this.#kept.entries()) await this.#restore(backup, index)
  }

  async #restore(backup, index) {
    const { kind, directory, ledger, random, idleMs } = this.#options
    let data = join(directory, `restored-${index}`)
    // A broker can be started on a backup that is a directory.
    if (!backup.target.endsWith(FILE_END) && random.chance(0.5)) data = backup.target
    else {
      const { code, said } = await outcome(kind.restore({ source: backup.target, data }))
      if (code !== 0) {
        ledger.problem('backups', `${backup.target} cannot be restored: ${said}`)
        return
      }
    }
    this.restored++
    this.owed += backup.owed.reduce((sum, { deliveries }) => sum + deliveries.length, 0)
    const died = (text) => ledger.problem('backups', `the broker on ${backup.target} ended: ${text}`)
    const broker = new BrokerProcess({ kind, port: await freePort(random), data, died })
    broker.start()
    try {
      await this.#drain(backup, broker)
      const { port, exited } = broker
      const { versions } = kind
      const place = { port, ledger, version: versions[0], number: `backup${index}`, idleMs }
      await inspectRetained({ ...place, wanted: () => new Map(backup.retained), ended: exited })
    } finally {
      await broker.kill()
    }
  }

  async #drain({ target, lasting, receivers, owed }, broker) {
    const { ledger, idleMs } = this.#options
    const left = new Map(owed.map(({ receiver, deliveries }) => [receiver, new Map(deliveries)]))
    let isHeard = performance.now()
    const expected = new Set(lasting)
    const clients = [...receivers].map(([subscriber, receiver]) => {
      const client = new Client(
        {
          port: broker.port,
          ledger: { sessionLost() {}, problem() {} },
          clientId: subscriber.name,
          version: subscriber.version,
        },
        {
          online: (present) => {
            isHeard = performance.now()
            if (expected.delete(subscriber) && !present) {
              ledger.problem('backups', `${target} does not have the Session ${subscriber.name}`)
            }
          },
          packet: (packet) => {
            isHeard = performance.now()
            const { type, qos, packetId, topic, payload } = packet
            if (type === 'pubrel') client.send(acknowledge('pubcomp', packetId))
            if (type !== 'publish') return
            if (qos > 0) client.send(acknowledge(qos === 1 ? 'puback' : 'pubrec', packetId))
            if (topic.startsWith('w/')) return
            const [publisher, sequence] = payload.split(' ', 2)
            if (payload !== payloadOf(publisher, Number(sequence))) {
              ledger.problem(
                'backups',
                `${target} has what nobody published: ${topic} ${payload.slice(0, 60)}`,
              )
            }
            left.get(receiver)?.delete(`${publisher} ${topic} ${sequence}`)
          },
          offline: () => {},
        },
      )
      client.start()
      return client
    })
    const isComplete = () => expected.size === 0 && [...left.values()].every(({ size }) => size === 0)
    while (!isComplete() && broker.running && performance.now() - isHeard < idleMs) await pause(20)
    for (const client of clients) client.vanish()
    for (const { name } of expected) ledger.problem('backups', `${name} is not let in on ${target}`)
    for (const [{ name }, deliveries] of left) {
      for (const what of deliveries.values()) {
        ledger.problem('backups', `${target} does not have ${what} for ${name}`)
      }
    }
  }
}

/**
 * Runs a command to its end. Resolves with its exit code and output; the code is null if it cannot be
 * started.
 */
function outcome([program, ...args]) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    const take = (chunk) => {
      said += chunk
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
    child.on('error', (error) => resolve({ code: null, said: error.message }))
    child.on('close', (code) => resolve({ code, said: said.trim() }))
  })
}
