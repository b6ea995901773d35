/**
 * The example configuration and docs/configuration.md come from the tables of keys. `WRITE_DOCS=1` writes
 * both.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { configKey, type Effect, type LimitRow } from '../../src/broker/boundary/limit-row.ts'
import { LIMIT_TABLE } from '../../src/broker/boundary/limits.ts'
import { isRow, type KeyRow, type KeyTable, REQUIRED, rowsOf } from '../../src/config/key-row.ts'
import { KEY_TABLE } from '../../src/config/keys.ts'
import { LISTENER_TABLE, TLS_TABLE } from '../../src/config/listener-keys.ts'
import { KEYS, LISTENER_KEYS } from '../../src/config/schema.ts'
import { environmentVariable } from '../../src/config/sources.ts'

const EXAMPLE = new URL('../../config/godwit.example.yaml', import.meta.url)

const REFERENCE = new URL('../../docs/configuration.md', import.meta.url)

const COLUMNS = 108

/** A key as both documents describe it. */
interface Entry {
  readonly key: string
  readonly value: string
  /** Whether the key is absent by default, or differs between the profiles. */
  readonly isCommentedOut: boolean
  readonly unit: string
  readonly effect: Effect
  readonly counter: string | null
  readonly says: string
  readonly note: string
}

const LIMITS: readonly (readonly [string, LimitRow<unknown>])[] = Object.entries(LIMIT_TABLE)

const BYTE_UNITS = [
  ['GiB', 1024 ** 3],
  ['MiB', 1024 ** 2],
  ['KiB', 1024],
] as const

/** Writes a value as it would stand in the configuration. */
function written(value: unknown, unit: string): string {
  if (value === Number.POSITIVE_INFINITY) return 'unlimited'
  if (Array.isArray(value)) return JSON.stringify(value)
  if (unit !== 'bytes' || typeof value !== 'number') return String(value)
  const [name, size] = BYTE_UNITS.find(([, bytes]) => value >= bytes && value % bytes === 0) ?? ['', 1]
  return `${value / size}${name}`
}

/** Limits that another counter counts. */
const COUNTERS = {
  'queue-full': 'publish/messages/dropped',
  'slow-reader': 'publish/messages/dropped',
  queueMessagesMax: 'limits/refused/queue_messages_max',
} as const

function entryOf(key: string, row: KeyRow<unknown>): Entry {
  const { unit, effect, counter, says, note = '' } = row
  const hasDefault = row.default !== undefined && row.default !== null && row.default !== REQUIRED
  const value = row.written ?? (hasDefault ? written(row.default, unit) : '')
  return { key, value, isCommentedOut: !hasDefault, unit, effect, counter, says, note }
}

function limitEntry([name, row]: (typeof LIMITS)[number]): Entry {
  const { kind, open, fleet, internet, effect, says, note = '' } = row
  const value = kind.automatic === true ? 'auto' : written(fleet, kind.unit)
  const isCommentedOut = name !== 'profile' && (open !== fleet || fleet !== internet)
  const counter =
    row.counter === null
      ? null
      : row.counter === 'own'
        ? `limits/refused/${configKey(name)}`
        : COUNTERS[row.counter]
  return { key: configKey(name), value, isCommentedOut, unit: kind.unit, effect, counter, says, note }
}

function wrapped(text: string, columns: number): string[] {
  const lines = ['']
  for (const word of text.split(' ')) {
    const last = lines.at(-1)!
    if (last !== '' && last.length + 1 + word.length > columns) lines.push(word)
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`
  }
  return lines
}

/** Makes a sentence of a line of documentation. */
function sentence(says: string): string {
  return `${says[0]!.toUpperCase()}${says.slice(1)}.`
}

function comment({ says, note }: Pick<Entry, 'says' | 'note'>, indent: string): string[] {
  const [first = '', ...rest] = note.split('\n')
  const opening = first.startsWith('- ') ? [sentence(says), first] : [`${sentence(says)} ${first}`.trim()]
  return [...opening, ...rest]
    .flatMap((paragraph) => wrapped(paragraph, COLUMNS - indent.length - 2))
    .map((line) => `${indent}# ${line}`)
}

function keyLines(entry: Entry, indent = ''): string[] {
  const mark = entry.isCommentedOut ? '#' : ''
  return [...comment(entry, indent), `${indent}${mark}${entry.key}: ${entry.value}`]
}

function groupLines(name: string, table: KeyTable, indent = ''): string[] {
  const inner = `${indent}  `
  const rows = Object.entries(table).map(([key, value]) =>
    isRow(value) ? keyLines(entryOf(key, value), inner) : groupLines(key, value, inner),
  )
  return [`${indent}${name}:`, ...rows.flat()]
}

const HEAD = `# Godwit's configuration. Every key is here with its default; leave out those that you do not
# change.
#
#   godwit --config godwit.yaml        starts with a configuration
#   godwit check godwit.yaml           checks one, and names every mistake with its line
#
# Each key is also an environment variable, such as GODWIT_LIMITS_QUEUE_BYTES_MAX=64MiB, and can be set on the
# command line: --set limits.queue_bytes_max=64MiB. The command line wins over the environment, and the
# environment over this file.
#
# Bytes: a number, or 64KiB, 1MiB, 1GiB. Seconds: a number, or 30s, 5m, 2h, 1d. For no limit write unlimited,
# not 0. Relative paths in a file start at the file's directory, others at the directory in which godwit is
# started. Without --config, godwit takes the file godwit.yaml of its data directory, if there is one:
# \`godwit setup\` writes it.
`

const LISTENERS = `listeners:
  - name: mqtt
    type: tcp
    host: 127.0.0.1
    port: 1883
    # allow_anonymous: true
    # client_id: user
    # in_flight_max: 1000
    lenient: []
    optional: false
  - name: mqtt-ipv6
    type: tcp
    host: "::1"
    port: 1883
    optional: true
  - name: ws
    type: ws
    host: 127.0.0.1
    port: 8083
    websocket_path: /mqtt
    optional: false
  - name: ws-ipv6
    type: ws
    host: "::1"
    port: 8083
    websocket_path: /mqtt
    optional: true
  # TLS. The files are checked every second, and new ones are served to new connections.
  #- name: mqtts
  #  type: tls
  #  host: 0.0.0.0
  #  port: 8883
  #  tls:
${rowsOf(TLS_TABLE)
  .map(([key, row]) => `  #    ${key}: ${entryOf(key, row).value}`)
  .join('\n')}
  # Secure WebSocket, only for pages of these origins, and for programs other than browsers.
  #- name: wss
  #  type: wss
  #  host: 0.0.0.0
  #  port: 8084
  #  websocket_path: /mqtt
  #  allowed_origins: [https://example.org]
  #  server_keep_alive_seconds: 300
  #  tls:
  #    cert: /etc/godwit/server.pem
  #    key: /etc/godwit/server-key.pem
  # A socket file, with its permission bits.
  #- name: local
  #  type: unix
  #  path: /run/godwit/mqtt.sock
  #  mode: "0660"`

/** Describes the keys of a listener in one comment, since each of them may be there several times. */
function listenerComment(): string[] {
  const described = (table: KeyTable, prefix: string): string[] =>
    rowsOf(table).flatMap(([name, row]) => {
      const label = `  ${`${prefix}${name}`.padEnd(26)} `
      const notes = (row.note ?? '')
        .split('\n')
        .flatMap((paragraph) =>
          paragraph === ''
            ? []
            : wrapped(paragraph, COLUMNS - 2 - label.length).map((part) => ' '.repeat(label.length) + part),
        )
      const [first = '', ...more] = wrapped(row.says, COLUMNS - 2 - label.length)
      return [label + first, ...more.map((part) => ' '.repeat(label.length) + part), ...notes]
    })
  return [
    'The addresses for clients. These four are the default: only for this machine.',
    ...described(LISTENER_TABLE, ''),
    ...described(TLS_TABLE, 'tls.'),
  ].map((line) => `# ${line}`)
}

/** The text of config/godwit.example.yaml. */
function example(): string {
  const { access, data, queues, log, sys, http, user, shutdown_seconds: shutdown, ...first } = KEY_TABLE
  const blocks = [
    HEAD.trimEnd().split('\n'),
    ...rowsOf(first).map(([key, row]) => keyLines(entryOf(key, row))),
    [
      '# Users and rights. The files are checked every second, and changes apply at once, also to connected',
      '# clients. A bad line is logged with its number; the previous content of the file stays in force.',
      ...groupLines('access', access),
    ],
    groupLines('data', data),
    [...listenerComment(), ...LISTENERS.split('\n')],
    [
      '# Queues keep messages until a consumer has acknowledged them. The properties in `defaults` hold for',
      '# every queue that does not have its own.',
      ...groupLines('queues', queues),
    ],
    ['limits:', ...LIMITS.flatMap((row) => keyLines(limitEntry(row), '  '))],
    groupLines('log', log),
    groupLines('sys', sys),
    groupLines('http', http),
    keyLines(entryOf('user', user)),
    keyLines(entryOf('shutdown_seconds', shutdown)),
  ]
  return `${blocks.map((lines) => lines.join('\n')).join('\n\n')}\n`
}

const EFFECTS: Readonly<Record<Effect, string>> = {
  now: 'at once',
  connections: 'new connections',
  restart: 'restart',
}

function tableOf(
  entries: readonly Entry[],
  prefix: string,
  defaults: ReadonlyMap<string, KeyRow<unknown>>,
): string {
  const rows = entries.map(({ key, value, unit, effect, counter, says }) => {
    const found = defaults.get(key)?.default
    const isNone = defaults.has(key) && (found === undefined || found === null)
    const written = found === REQUIRED ? 'required' : isNone ? '—' : `\`${value}\``
    const cells = [
      `\`${prefix}${key}\``,
      says,
      unit,
      written,
      EFFECTS[effect],
      counter === null ? '—' : `\`${counter}\``,
    ]
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  })
  return [
    '| key | meaning | unit | default | a reload applies it | counter |',
    '| --- | --- | --- | --- | --- | --- |',
    ...rows,
  ].join('\n')
}

/** The text of docs/configuration.md. */
function reference(): string {
  const rows = new Map(rowsOf(KEY_TABLE))
  const listener = new Map([...rowsOf(LISTENER_TABLE), ...rowsOf(TLS_TABLE, 'tls.')])
  const described = (of: ReadonlyMap<string, KeyRow<unknown>>) =>
    [...of].map(([key, row]) => entryOf(key, row))
  return `# Configuration

Every key with its default. [config/godwit.example.yaml](../config/godwit.example.yaml) has the same keys with
longer explanations, and [limits.md](limits.md) the limits of all three profiles.

A key can be set in the file, as an environment variable (\`${environmentVariable('data.directory')}\`), and
on the command line (\`--set data.directory=DIR\`). The command line wins over the environment, and the
environment over the file.

\`godwit reload\` applies changes **at once**, for **new connections**, or only after a **restart**, as the
table says; its answer says so, too. Counters are topics below \`$SYS/broker\`; \`godwit status\` shows them.

## General

${tableOf(described(rows), '', rows)}

## Listeners

The keys of each entry of \`listeners\`. For **at once** the listener is closed and opened again; connected
clients stay if the new listener would accept them.

${tableOf(described(listener), '', listener)}

## Limits

The defaults are those of the profile \`fleet\`.

${tableOf(LIMITS.map(limitEntry), 'limits.', new Map())}
`
}

test.each([
  ['config/godwit.example.yaml', EXAMPLE, example],
  ['docs/configuration.md', REFERENCE, reference],
])('%s comes from the tables of keys', (_, file, generate) => {
  if (process.env.WRITE_DOCS === '1') writeFileSync(file, generate())
  expect(readFileSync(file, 'utf8')).toBe(generate())
})

test('docs/configuration.md has every key', () => {
  const text = readFileSync(REFERENCE, 'utf8')
  for (const key of [...KEYS.filter((one) => one !== 'listeners'), ...LISTENER_KEYS]) {
    expect(text).toContain(`| \`${key}\` | `)
  }
})

test('each key has one line of documentation, without a full stop', () => {
  const rows = [KEY_TABLE, LISTENER_TABLE, TLS_TABLE].flatMap((table: KeyTable) => rowsOf(table))
  expect(rows.every(([, row]) => isRow(row))).toBe(true)
  for (const [key, { says }] of rows) expect(says, key).toMatch(/^\S[^\n]{5,105}[^.\n]$/)
})
