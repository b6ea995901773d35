import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, freePort, MosquittoSub, Program, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

/** The names below `$SYS` that a broker tells; complete when those that it tells last are there. */
async function names(port: number, ...last: string[]): Promise<string[]> {
  const sub = await MosquittoSub.start(port, ['-t', '$SYS/#'], '%t')
  const missing = (): string[] => last.filter((name) => !sub.messages.includes(name))
  await expect.poll(missing, { timeout: 60_000 }).toEqual([])
  // Asked to leave while messages come in, mosquitto_sub can block itself in its signal handler.
  await sub.vanish()
  return [...new Set(sub.messages)].sort()
}

async function startMosquitto(): Promise<number> {
  const port = await freePort()
  const file = join(await temporaryDirectory(), 'mosquitto.conf')
  await writeFile(file, `listener ${port} 127.0.0.1\nallow_anonymous true\nsys_interval 1\n`)
  const mosquitto = new Program('/usr/sbin/mosquitto', ['-c', file])
  await expect.poll(() => mosquitto.stderr, { timeout: 60_000 }).toContain(' running')
  return port
}

test("$SYS has every name of Mosquitto's", async () => {
  const broker = await BrokerProcess.start({ words: ['--set', 'sys.interval_seconds=1'] })
  const theirLast = ['$SYS/broker/bytes/sent', '$SYS/broker/clients/maximum']
  const theirs = await names(await startMosquitto(), ...theirLast)
  const ours = await names(broker.port, '$SYS/broker/load/sockets/15min')
  expect(theirs.length).toBeGreaterThan(50)
  expect(theirs.filter((name) => !ours.includes(name))).toEqual([])
  expect(ours.filter((name) => !theirs.includes(name))).toEqual([
    '$SYS/broker/memory/bytes',
    '$SYS/broker/memory/maximum',
    '$SYS/broker/queues/bytes',
    '$SYS/broker/queues/consumers',
    '$SYS/broker/queues/count',
    '$SYS/broker/queues/messages',
    '$SYS/broker/store/commits',
  ])
})
