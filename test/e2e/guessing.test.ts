/** Strangers guess passwords on many connections of the real process; mosquitto_pub has the right one. */

import { writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { generate } from 'mqtt-packet'
import { afterEach, expect, test } from 'vitest'
import { BrokerProcess, cleanUp, MAIN, output, Program, temporaryDirectory } from './process.ts'

const STRANGERS = 200

const sockets = new Set<Socket>()

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  sockets.clear()
  await cleanUp()
})

async function withUsers(...names: string[]): Promise<BrokerProcess> {
  const data = await temporaryDirectory()
  const secret = join(await temporaryDirectory(), 'secret')
  for (const name of names) {
    writeFileSync(secret, `the password of ${name}\n`)
    await output(process.execPath, MAIN, 'user', 'add', name, '--password-file', secret, '--data', data)
  }
  return BrokerProcess.start({ data })
}

async function publish(
  port: number,
  name: string,
  password: string,
  version: string,
): Promise<number | null> {
  const words = ['-h', '127.0.0.1', '-p', `${port}`, '-t', 'a', '-m', 'x', '-q', '1', '-V', version]
  return (await new Program('mosquitto_pub', [...words, '-u', name, '-P', password]).ended).code
}

/** Guesses from another address, and again as soon as it is refused. */
function guess(port: number, username: string, localAddress: string): void {
  const socket = connect({ port, host: '127.0.0.1', localAddress })
  sockets.add(socket)
  socket.on('error', () => {})
  socket.on('data', () => socket.destroy())
  socket.on('close', () => {
    if (sockets.delete(socket)) guess(port, username, localAddress)
  })
  const id = Math.random().toString(36)
  const password = Buffer.from(`guess ${id}`)
  socket.write(
    generate({
      cmd: 'connect',
      protocolVersion: 4,
      clientId: id,
      clean: true,
      keepalive: 60,
      username,
      password,
    }),
  )
}

test('200 connections that guess a user’s password do not keep that user out', async () => {
  const users = ['anna', 'bert', 'cleo', 'dora']
  const broker = await withUsers(...users)
  for (let i = 0; i < STRANGERS; i++) guess(broker.port, users[i % users.length]!, '127.0.0.2')
  const codes: (number | null)[] = []
  for (const [i, name] of users.entries()) {
    codes.push(await publish(broker.port, name, `the password of ${name}`, i % 2 === 0 ? '311' : '5'))
  }
  expect(codes).toEqual([0, 0, 0, 0])
})

test('only a client of 3.1.1 with many wrong passwords gets "unavailable" for a while', async () => {
  const broker = await withUsers('anna', 'bert')
  const codes: (number | null)[] = []
  // However slow the machine is: the delay doubles with each that comes too late for it.
  while (codes.at(-1) !== 3 && codes.length < 30) {
    codes.push(await publish(broker.port, 'anna', `wrong ${codes.length}`, '311'))
  }
  expect(codes.slice(0, 5)).toEqual([4, 4, 4, 4, 4])
  expect(codes.at(-1)).toBe(3)
  expect(await publish(broker.port, 'bert', 'the password of bert', '311')).toBe(0)
})
