/**
 * Tests the tests of the statement register. `npm run conformance:faults` takes twenty statements at random
 * (by a seed), breaks the code that obeys each of them in a copy of the sources, and runs the tests that name
 * it: one has to fail.
 *
 * The faults are written by hand for the sample of one seed. With another seed, it lists the statements
 * without a fault.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const REGISTER = join(ROOT, 'test', 'conformance')
const SAMPLE = 20

const HELP = `npm run conformance:faults [-- OPTIONS]

  --seed N         another sample of ${SAMPLE} statements (20261122)
  --statement ID   only this statement; ID like MQTT-3.3.1-8 or 'MQTT-3.1.4-4, 3.1.1'
  --check          only checks that the sources still have the texts that the faults change
  --help

Ends with 1 when no test that names a statement noticed its fault, or when a statement has no fault.
`

/** The edits of src for each statement: a text that is there exactly once, and its replacement. */
const FAULTS = {
  'MQTT-4.2-1': [
    // Chunks that are written together leave in the opposite order.
    [
      'transport/sockets/send-queue.ts',
      'filled += chunks[i]!.copy(',
      'filled += chunks[chunks.length - 1 - i]!.copy(',
    ],
  ],
  'MQTT-3.4.2-2': [
    // A Reason String in every acknowledgement that has a reason.
    ['mqtt/codec/acknowledge.ts', 'writer.reserve(short ? 4 : 5)', 'writer.reserve(short ? 4 : 10)'],
    ['mqtt/codec/acknowledge.ts', 'packet[at + 1] = short ? 2 : 3', 'packet[at + 1] = short ? 2 : 8'],
    [
      'mqtt/codec/acknowledge.ts',
      'packet[at + 4] = reasonCode',
      'packet.set([reasonCode, 4, 0x1f, 0, 1, 0x78], at + 4)',
    ],
  ],
  'MQTT-2.3.1-3, 3.1.1': [
    [
      'session/sender.ts',
      'if (sink.publish(delivery, packetId, true, 0)) {',
      'if (sink.publish(delivery, packetId + 100, true, 0)) {',
    ],
  ],
  'MQTT-3.1.4-4, 3.1.1': [
    [
      'mqtt/codec/connack.ts',
      'const ACCEPTED: Buffer = Buffer.from([CONNACK, 2, 0, 0])',
      'const ACCEPTED: Buffer = Buffer.from([CONNACK, 2, 0, 3])',
    ],
  ],
  'MQTT-4.5.0-1': [
    // A client that is away, or has a full window, gets nothing.
    [
      'session/session.ts',
      '      return\n    }\n    this.queue.push(delivery)\n  }\n',
      '      return\n    }\n  }\n',
    ],
  ],
  'MQTT-3.1.2-17, 3.1.1': [
    ['broker/messages/wills.ts', 'retain: will.retain && limits.retainAvailable,', 'retain: false,'],
  ],
  'MQTT-3.3.1-8': [
    [
      'broker/messages/publisher.ts',
      'this.#admit(message, route, publisher, stores, message.retain, isWhole)',
      'this.#admit(message, route, publisher, stores, true, message.qos === 2)',
    ],
  ],
  'MQTT-4.7.3-1': [['mqtt/topics.ts', "  if (filter === '') return 'is empty' // [MQTT-4.7.3-1]\n", '']],
  'MQTT-3.10.4-1, 3.1.1': [
    ['broker/state/subscriptions.ts', '  else state.router.unsubscribe(session, filter)\n', ''],
  ],
  'MQTT-4.3.3-6': [['session/in-flight-messages.ts', '    entry.delivery = null\n', '']],
  'MQTT-4.3.3-3': [
    [
      'session/sender.ts',
      'else if (resend === null) resend = [entry]',
      'else if (entry.delivery.qos === 2) continue\n      else if (resend === null) resend = [entry]',
    ],
  ],
  'MQTT-2.3.1-1, 3.1.1': [
    ['mqtt/codec/publish.ts', 'if (packetId === 0 && (qos === 2', 'if (packetId < 0 && (qos === 2'],
  ],
  'MQTT-3.3.4-9': [['session/sender.ts', 'if (this.#quota === 0 || inFlight.size', 'if (inFlight.size']],
  'MQTT-3.8.4-1, 3.1.1': [
    [
      'broker/connection/subscribe-receiver.ts',
      '      this.#suback(handled, Math.max(session.durableAt, handled.durableAt))\n',
      '      this.#handled = null\n',
    ],
  ],
  'MQTT-3.1.2-15, 3.1.1': [
    // The flag is ignored: if only the line were gone, the parser after it would refuse.
    [
      'mqtt/codec/connect.ts',
      "else throw malformed('MQTT-3.1.2-13', 'Will Retain without a Will')",
      'else checked &= ~WILL_RETAIN',
    ],
  ],
  'MQTT-3.1.2-16, 3.1.1': [
    ['broker/messages/wills.ts', 'retain: will.retain && limits.retainAvailable,', 'retain: true,'],
  ],
  'MQTT-3.10.3-2, 3.1.1': [
    [
      'mqtt/codec/filter-reader.ts',
      'if (at === end) throw noFilter(this.#isSubscribe)',
      'if (at === end && this.#isSubscribe) throw noFilter(true)',
    ],
  ],
  'MQTT-3.1.0-1, 3.1.1': [
    // Packets before CONNECT are passed over. Two rooms check that, so both are broken.
    [
      'mqtt/codec/framer.ts',
      "throw this.#break(illegal('MQTT-3.1.0-1', 'the first packet is not a CONNECT'))",
      '',
    ],
    [
      'broker/connection/handshake.ts',
      "throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.0-1', 'the first packet is not CONNECT')",
      'return',
    ],
  ],
  'MQTT-4.4.0-1': [
    [
      'session/sender.ts',
      'if (entry.delivery === null) this.sink.pubrel(entry.packetId, 0)\n',
      'if (entry.delivery === null) continue\n',
    ],
  ],
  'MQTT-3.1.4-3': [['broker/sessions/sessions.ts', '    connection.takenOver(by)\n', '']],
}

const { values: options } = parseArgs({
  options: {
    seed: { type: 'string', default: '20261122' },
    statement: { type: 'string' },
    check: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

if (options.help) console.log(HELP)
else if (options.check) process.exitCode = check()
else process.exitCode = main()

/** Returns 1 if a text that a fault changes is not exactly once in its file, else 0. */
function check() {
  let stale = 0
  for (const [id, edits] of Object.entries(FAULTS)) {
    for (const [file, from] of edits) {
      if (readFileSync(join(ROOT, 'src', file), 'utf8').split(from).length === 2) continue
      console.log(`no fault any more: [${id}] ${file} does not have exactly once: ${from}`)
      stale++
    }
  }
  return stale === 0 ? 0 : 1
}

function main() {
  const ids = options.statement === undefined ? sample(Number(options.seed)) : [options.statement]
  const copy = mkdtempSync(join(tmpdir(), 'godwit-faults-'))
  try {
    for (const name of ['src', 'test', 'scripts', 'config']) {
      cpSync(join(ROOT, name), join(copy, name), { recursive: true })
    }
    for (const name of ['package.json', 'tsconfig.json', 'vitest.config.ts']) {
      cpSync(join(ROOT, name), join(copy, name))
    }
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
    const unnoticed = ids.filter((id) => !notices(copy, id))
    console.log(`${ids.length - unnoticed.length} of ${ids.length} faults noticed`)
    return unnoticed.length === 0 ? 0 : 1
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

/** Draws statements that tests have to prove, without repetition. */
function sample(seed) {
  const pool = ['5.0', '3.1.1'].flatMap((version) => {
    const passed = new Set(firstColumn(`not-applicable-${version}.tsv`))
    const proven = firstColumn(`statements-${version}.tsv`).filter((id) => !passed.has(id))
    return proven.map((id) => (version === '5.0' ? id : `${id}, ${version}`))
  })
  let state = seed >>> 0
  return Array.from({ length: SAMPLE }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return pool.splice(Math.floor((state / 2 ** 32) * pool.length), 1)[0]
  })
}

function firstColumn(name) {
  const [, ...lines] = readFileSync(join(REGISTER, name), 'utf8').trimEnd().split('\n')
  return lines.map((line) => line.split('\t')[0])
}

/**
 * Breaks the copy, runs the tests that name the statement, and mends it. Returns true if one of them failed.
 */
function notices(copy, id) {
  const edits = FAULTS[id]
  if (edits === undefined) {
    console.log(`no fault: [${id}]`)
    return false
  }
  const originals = edits.map(([file]) => [file, readFileSync(join(copy, 'src', file), 'utf8')])
  try {
    for (const [file, from, to] of edits) {
      const text = readFileSync(join(copy, 'src', file), 'utf8')
      if (text.split(from).length !== 2) {
        console.log(`no fault any more: [${id}] ${file} does not have exactly once: ${from}`)
        return false
      }
      writeFileSync(
        join(copy, 'src', file),
        text.replace(from, () => to),
      )
    }
    const results = run(copy, id)
    const failed = results.filter(({ status }) => status === 'failed')
    console.log(
      `${failed.length > 0 ? 'noticed' : 'UNNOTICED'}: [${id}] ${failed.length} of ${results.length}`,
    )
    for (const { fullName } of failed) console.log(`    ${fullName}`)
    return failed.length > 0
  } finally {
    for (const [file, text] of originals) writeFileSync(join(copy, 'src', file), text)
  }
}

/** Returns the results of the tests that name a statement, except for those that need a build. */
function run(copy, id) {
  const named = `[${id}]`
  const files = readdirSync(join(copy, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts') && !file.startsWith('e2e/'))
    .filter((file) => file !== 'conformance/process.test.ts')
    .filter((file) => readFileSync(join(copy, 'test', file), 'utf8').includes(named))
    .map((file) => join('test', file))
  if (files.length === 0) return []
  const report = join(copy, 'report.json')
  const pattern = named.replace(/[[\].]/g, '\\$&')
  const words = ['vitest', 'run', '--reporter=json', `--outputFile=${report}`, '-t', pattern, ...files]
  spawnSync('npx', words, { cwd: copy, stdio: 'ignore' })
  const { testResults } = JSON.parse(readFileSync(report, 'utf8'))
  const results = testResults.flatMap(({ assertionResults }) => assertionResults)
  for (const { name, status, assertionResults, message } of testResults) {
    if (status === 'failed' && assertionResults.length === 0) {
      throw new Error(`${relative(copy, name)} could not be loaded: ${message}`)
    }
  }
  return results.filter(({ fullName, status }) => fullName.includes(named) && status !== 'skipped')
}
