/** The two brokers that are compared, each a process on a port of 127.0.0.1. */
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { BrokerProcess, freePort, Program, temporaryDirectory } from '../e2e/process.ts'

/** Debian puts it where a user's PATH often does not look. Where it is missing, the tests fail. */
const MOSQUITTO = existsSync('/usr/sbin/mosquitto') ? '/usr/sbin/mosquitto' : 'mosquitto'

/** Starts Godwit; resolves with its port. */
export async function startGodwit(): Promise<number> {
  const { port } = await BrokerProcess.start({ words: ['--durability', 'os'] })
  return port
}

/** Starts Mosquitto with no limit that would be seen, and no memory of its own; resolves with its port. */
export async function startMosquitto(): Promise<number> {
  const port = await freePort()
  const file = join(await temporaryDirectory(), 'mosquitto.conf')
  const lines = [
    `listener ${port} 127.0.0.1`,
    'allow_anonymous true',
    'persistence false',
    'log_dest stdout',
    'sys_interval 0',
    'max_queued_messages 0',
    'max_inflight_messages 0',
    ...(process.getuid?.() === 0 ? ['user root'] : []),
  ]
  await writeFile(file, `${lines.join('\n')}\n`)
  const program = new Program(MOSQUITTO, ['-c', file])
  let ended = false
  program.ended.then(
    () => {
      ended = true
    },
    () => {
      ended = true
    },
  )
  while (!(await answers(port))) {
    if (ended) throw new Error(`${MOSQUITTO} did not start: ${program.stdout}${program.stderr}`)
  }
  return port
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => setTimeout(resolve, 20, false))
  })
}
