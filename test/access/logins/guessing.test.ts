/**
 * Strangers guess passwords while a user has the right one: a whole Server, with hashes that take no time.
 */
import { pbkdf2Sync, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Access } from '../../../src/access/access.ts'
import { DEFAULT_ACCESS } from '../../../src/access/access-options.ts'
import { DEFAULT_LIMITS, type Limits } from '../../../src/broker/boundary/limits.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { connectPacket, type TestClient, World } from '../../broker/harness.ts'

const { generate } = mqttPacket

const STRANGERS = 200
const TRIES = 40

let directory: string
let world: World
let access: Access
/** The clock of wrong passwords. */
let nowMs = 0

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-guessing-'))
})

afterEach(() => {
  rmSync(directory, { recursive: true, force: true })
})

/** As `mosquitto_passwd` writes it, but with one iteration. */
function line(name: string, password: string): string {
  const salt = randomBytes(12)
  const hash = pbkdf2Sync(password, salt, 1, 64, 'sha512')
  return `${name}:$7$1$${salt.toString('base64')}$${hash.toString('base64')}`
}

async function start(users: readonly string[], limits: Partial<Limits> = {}): Promise<void> {
  const file = join(directory, 'passwd')
  writeFileSync(file, `${users.map((name) => line(name, `right ${name}`)).join('\n')}\n`)
  const busy = (clientId: string, limit: 'loginQueueMax', detail: string): void =>
    world.server.state.limited(limit, clientId, detail)
  const listener = { changed: () => {}, failed: () => {}, busy, guesses: () => {} }
  const all = { ...DEFAULT_LIMITS, ...limits }
  access = await Access.open(
    { ...DEFAULT_ACCESS, accounts: false, passwordFiles: [file] },
    null,
    listener,
    all,
    () => nowMs,
  )
  world = await World.make({ policy: access.policy, limits })
}

/** A client that asks to be let in and does not wait for the answer. */
function ask(
  clientId: string,
  remoteAddress: string,
  username: string,
  password: string,
  version: 4 | 5 = 5,
): TestClient {
  const client = world.open(version, { allowAnonymous: false, remoteAddress })
  const properties = version === 5 ? { properties: {} } : {}
  const packet = {
    ...connectPacket(clientId, version),
    ...properties,
    username,
    password: Buffer.from(password),
  }
  client.link.handler?.received(generate(packet as unknown as Packet, { protocolVersion: version }))
  return client
}

/** The answer to a log-in; undefined where 1,000 others were served without one. */
async function answer(client: TestClient, meanwhile: () => void): Promise<number | undefined> {
  const last = access.passwordFigures.done + 1000
  for (let round = 0; round < 100_000 && client.link.packets.length === 0; round++) {
    if (access.passwordFigures.done > last) break
    meanwhile()
    await new Promise((resolve) => setImmediate(resolve))
    await world.settle()
    await world.commit()
  }
  const connack = client.got()[0] as { reasonCode?: number; returnCode?: number } | undefined
  return connack?.reasonCode ?? connack?.returnCode
}

describe('a user with the right password gets in every time while strangers guess', () => {
  test.each<[string, (i: number) => [address: string, user: string]]>([
    ['from 200 connections at one address', () => ['198.51.100.1', 'admin']],
    ['from 200 addresses at its own user name', (i) => [`198.51.100.${i}`, 'theirs']],
    ['at 200 names from one address', (i) => ['198.51.100.1', `name ${i}`]],
    ['at 200 names from the address of the user', (i) => ['192.0.2.1', `name ${i}`]],
    ['from 200 addresses of one IPv6 network', (i) => [`2001:db8::${(i + 1).toString(16)}`, `name ${i}`]],
  ])('%s', async (_, who) => {
    const users = Array.from({ length: TRIES }, (_unused, i) => `user ${i}`)
    await start(users)
    const strangers = new Map<number, TestClient>()
    let guesses = 0
    let current = users[0]!
    const guess = (): void => {
      for (let i = 0; i < STRANGERS; i++) {
        const before = strangers.get(i)
        if (before !== undefined && !before.closed) continue
        const [address, user] = who(i)
        strangers.set(i, ask(`s${i}`, address, user === 'theirs' ? current : user, `guess ${++guesses}`))
      }
    }
    guess()
    const codes: (number | undefined)[] = []
    for (const name of users) {
      current = name
      guess()
      const client = ask('good', '192.0.2.1', name, `right ${name}`)
      codes.push(await answer(client, guess))
      await client.vanish()
    }
    expect(codes).toEqual(Array(TRIES).fill(Reason.Success))
    expect(guesses).toBeGreaterThan(STRANGERS)
    for (const client of strangers.values()) client.link.destroy()
    await world.settle()
  })
})

describe('after long guessing from one address the right password waits', () => {
  const GUESSER = '198.51.100.1'
  test.each([
    ['not at all for another user at another address', 'other', '192.0.2.1', 0],
    ['not at all for another user at the same address', 'other', GUESSER, 0],
    ['not at all for the guessed user at another address', 'guessed', '192.0.2.1', 0],
    ['until the longest delay is over for the guessed user at the same address', 'guessed', GUESSER, 60],
  ])('%s', async (_, name, address, seconds) => {
    await start(['guessed', 'other'])
    for (let round = 0; round < 12; round++) {
      for (let n = 0; n < 10; n++) {
        const client = ask(`${round} ${n}`, GUESSER, 'guessed', `guess ${round} ${n}`)
        expect(await answer(client, () => {})).not.toBe(Reason.Success)
        await client.vanish()
      }
      if (round < 11) nowMs += 60_000
    }
    const before = access.passwordFigures.done
    let [code, waited] = [await logIn(name, address), 0]
    for (; code === Reason.ServerBusy; code = await logIn(name, address)) {
      nowMs += 1000
      waited++
    }
    expect([code, waited]).toEqual([Reason.Success, seconds])
    expect(access.passwordFigures.done - before).toBe(1)
  })

  test('not at all for the guessed user at the same address, after a log-in elsewhere', async () => {
    await start(['guessed'])
    for (let n = 0; n < 100; n++) {
      const client = ask(`${n}`, GUESSER, 'guessed', `guess ${n}`)
      await answer(client, () => {})
      await client.vanish()
    }
    expect(await logIn('guessed', GUESSER)).toBe(Reason.ServerBusy)
    expect(await logIn('guessed', '192.0.2.1')).toBe(Reason.Success)
    expect(await logIn('guessed', GUESSER)).toBe(Reason.Success)
  })

  async function logIn(name: string, address: string): Promise<number | undefined> {
    const client = ask('good', address, name, `right ${name}`)
    const code = await answer(client, () => {})
    await client.vanish()
    return code
  }
})

test('after five wrong passwords the next ones are refused without a hash for a while', async () => {
  await start(['alice'])
  const codes = async (
    name: string,
    password: string,
    count: number,
    version: 4 | 5 = 5,
  ): Promise<unknown[]> => {
    const found: unknown[] = []
    for (let i = 0; i < count; i++) {
      const client = ask(`${name} ${i}`, '192.0.2.1', name, password, version)
      found.push(await answer(client, () => {}))
      await client.vanish()
    }
    return found
  }
  const limited = world.record('limited')
  const wrong = Array(5).fill(Reason.BadUserNameOrPassword)
  for (const name of ['alice', 'nobody']) {
    const before = access.passwordFigures.done
    expect(await codes(name, 'guess', 8)).toEqual([...wrong, ...Array(3).fill(Reason.ServerBusy)])
    expect(access.passwordFigures.done - before).toBe(5)
  }
  expect(limited).toHaveLength(6)
  expect(limited[0]).toMatchObject({
    limit: 'failedLoginsMax',
    detail: expect.stringContaining('try again in 1 s'),
  })
  // 3.1.1: server unavailable.
  expect(await codes('alice', 'right alice', 1, 4)).toEqual([3])
  expect(await codes('alice', 'right alice', 1)).toEqual([Reason.ServerBusy])
  nowMs += 1000
  expect(await codes('alice', 'right alice', 1)).toEqual([Reason.Success])
  // From then on it is known, whatever else is tried from there.
  expect(await codes('alice', 'guess', 8)).toContain(Reason.ServerBusy)
  expect(await codes('alice', 'right alice', 1)).toEqual([Reason.Success])
})

test('of many guesses that wait together only the first few are checked', async () => {
  await start(['alice'])
  const clients = Array.from({ length: 100 }, (_, i) => ask(`s${i}`, '192.0.2.1', 'alice', `guess ${i}`))
  for (const client of clients) await answer(client, () => {})
  expect(access.passwordFigures.done).toBe(100)
  const { limits } = world.server.state.counters
  expect(limits.failedLoginsMax).toBeGreaterThan(90)
})
