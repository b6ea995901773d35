/**
 * Copies of the build with some text changed: with limits so small that everything happens often, or with a
 * fault.
 *
 * @typedef {readonly [file: string, before: string, after: string]} Edit
 *
 * @typedef {object} Variant
 * @property {string} name
 * @property {readonly Edit[]} edits
 * @property {string} [durability]
 * @property {readonly string[]} [words] for Godwit's command line
 * @property {{
 *   load?: string,
 *   powerCuts?: boolean,
 *   diskErrors?: boolean,
 *   backups?: boolean,
 *   queues?: boolean,
 * }} [modes]
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

const OPTIONS = 'store/level/level-options.js'
const SEALER = 'store/commit/block-sealer.js'
const RECORDS = 'store/commit/session-records.js'
const LOGS = 'store/commit/log-records.js'
/** No Session or group has this number. */
const NOBODY = 2 ** 40

/**
 * Has checkpoints, evictions, flushes and compactions every few hundred KiB, and a redo log of 128 KiB.
 *
 * @type {Variant}
 */
export const TIGHT = {
  name: 'tight',
  edits: [
    [OPTIONS, 'checkpointJournalBytes: 32 * MIB', 'checkpointJournalBytes: 128 * 1024'],
    [OPTIONS, 'writeBufferBytes: 8 * MIB', 'writeBufferBytes: 64 * 1024'],
    [OPTIONS, 'redoHalfBytes: 2 * MIB', 'redoHalfBytes: 64 * 1024'],
    ['store/level/open-store.js', 'maxFileSize: TABLE_BYTES', 'maxFileSize: MIB'],
    [SEALER, 'CHECKPOINT_PAGES = 65_536', 'CHECKPOINT_PAGES = 64'],
    ['store/commit/database-compactor.js', 'COMPACT_BYTES = 64 * MIB', 'COMPACT_BYTES = 256 * 1024'],
  ],
  words: ['--set', 'data.resident_bytes_max=1MiB'],
}

/**
 * For long queues: spreads the checkpoint of each Session over many commits, and has the next one due soon.
 *
 * @type {Variant}
 */
export const STEPPED = {
  name: 'stepped',
  edits: [
    [OPTIONS, 'checkpointJournalBytes: 32 * MIB', 'checkpointJournalBytes: MIB'],
    [SEALER, 'const CHECKPOINT_BYTES = 32 * 1024', 'const CHECKPOINT_BYTES = 1024'],
    [SEALER, 'block.bytes / 2', 'block.bytes / 64'],
  ],
  words: ['--set', 'data.resident_bytes_max=8MiB'],
}

/**
 * Brokers that are wrong on purpose, which the harness has to notice. `modes` says what it takes beside
 * kills.
 *
 * @type {readonly Variant[]}
 */
export const MUTANTS = [
  {
    name: 'acknowledges before the commit',
    edits: [
      [
        'broker/connection/output/output.js',
        'if (this.#held.length > 0 || durableAt > this.#state.store.committedSequence)',
        'if (durableAt < 0)',
      ],
    ],
  },
  {
    name: 'forgets the inbound identifier',
    edits: [
      [RECORDS, 'this.#block.inboundAdded(session.number, packetId, digest)', 'void [packetId, digest]'],
    ],
  },
  {
    name: 'forgets that an inbound identifier was released',
    edits: [[RECORDS, 'this.#block.inboundRemoved(session.number, packetId)', 'void packetId']],
  },
  {
    name: 'forgets that a message was received',
    edits: [[RECORDS, 'this.#block.received(session.number, packetId)', 'void packetId']],
  },
  {
    name: 'loses the tail of a queue',
    edits: [
      [
        'session/session-queue.js',
        'new DeliveryQueue(context.store, from.queueHead, from.queue)',
        'new DeliveryQueue(context.store, from.queueHead, from.queue.slice(0, -1))',
      ],
    ],
  },
  {
    // Version 0.1.0 did that, and its start judged the outcome in this way.
    name: 'deletes what a checkpoint on the disk still names',
    edits: [
      ...STEPPED.edits,
      [
        'store/journal/checkpoints.js',
        'let from = Math.max(session.written, head);',
        'this.#discardBelow(session, head); let from = Math.max(session.written, head);',
      ],
      [
        'store/journal/session-builder.js',
        'this.queue.skip(position - this.read);',
        "throw new Error('a segment is missing');",
      ],
    ],
    modes: { load: 'full' },
    // The queues are full sooner, on a busy machine, too.
    words: ['--set', 'limits.queue_bytes_max=2MiB'],
  },
  {
    name: 'stores messages without their expiry',
    edits: [
      [
        'store/format/journal-record.js',
        'const expires = message.expiresAt !== Number.POSITIVE_INFINITY;',
        'const expires = false;',
      ],
      [
        'store/format/entry.js',
        'const expires = expiresAt !== Number.POSITIVE_INFINITY;',
        'const expires = false;',
      ],
    ],
  },
  {
    name: 'stores Sessions as if they never expired',
    edits: [
      [
        'store/format/session-record.js',
        'writer.varint(record.expirySeconds);',
        'writer.varint(0xffffffff);',
      ],
    ],
  },
  {
    name: 'publishes Wills without their delay',
    edits: [['broker/messages/wills.js', 'if (seconds === 0)', 'if (seconds >= 0)']],
  },
  {
    name: 'does not sync what it commits',
    edits: [],
    durability: 'os',
    modes: { powerCuts: true },
  },
  {
    name: 'does not sync its redo log',
    edits: [['store/files/redo-log.js', 'O_RDWR | (syncFlag ?? 0)', 'O_RDWR']],
    modes: { powerCuts: true },
  },
  {
    name: 'uses its redo log again before LevelDB has synced what is in it',
    edits: [
      [OPTIONS, 'redoHalfBytes: 2 * MIB', 'redoHalfBytes: 16 * 1024'],
      [
        'store/files/write-behind.js',
        'await syncLogs(this.#directory);\n        this.#settled = sequence;',
        'this.#settled = sequence;',
      ],
    ],
    modes: { powerCuts: true },
  },
  {
    name: 'starts without its redo log',
    edits: [
      [
        'store/level/open-store.js',
        'const lost = await applyRedoLog(db, directory, refuseDamage);',
        'const lost = 0;',
      ],
    ],
  },
  {
    name: 'takes a failed commit for a success',
    edits: [
      [
        'store/commit/committer.js',
        'this.#durable(sequence), (error) => this.#parts.database.commitFailed(error)',
        'this.#durable(sequence), () => this.#durable(sequence)',
      ],
    ],
    modes: { diskErrors: true },
  },
  {
    name: 'leaves the last entries out of a backup',
    edits: [
      [
        'store/level/backup.js',
        'yield entries.map(withoutRedoLog);',
        'yield entries.map(withoutRedoLog).slice(0, -1);',
      ],
    ],
    modes: { backups: true },
  },
  {
    name: 'settles messages of queues without a record',
    edits: [
      [
        LOGS,
        'this.#block.record(RecordType.Settled, group,',
        `this.#block.record(RecordType.Settled, ${NOBODY},`,
      ],
    ],
    modes: { queues: true },
  },
  {
    name: 'forgets what of a queue was in flight',
    edits: [
      [
        RECORDS,
        'this.#block.record(RecordType.LogSent, number,',
        `this.#block.record(RecordType.LogSent, ${NOBODY},`,
      ],
    ],
    modes: { queues: true },
  },
  {
    name: 'deletes a segment of which something is left',
    edits: [
      [
        'store/logs/stored-logs.js',
        'if (log.directory.settle(place, to - from))',
        'if (log.directory.settle(place, to - from) || true)',
      ],
    ],
    modes: { queues: true },
  },
  {
    name: 'forgets a lease',
    edits: [
      [
        LOGS,
        'this.#record(RecordType.Held, group, heldBytesMax(entry))',
        `this.#block.record(RecordType.Held, ${NOBODY}, heldBytesMax(entry))`,
      ],
    ],
    modes: { queues: true },
  },
  {
    name: 'publishes a result in a later commit than its settlement',
    edits: [
      [
        'broker/connection/acknowledgement-receiver.js',
        'this.#published(answering, result, this.#publisher.publishInto(inlet,',
        `result.message.own();
            this.#settle(answering);
            setTimeout(() => {
                this.#state.turn.begin();
                this.#publisher.publishInto(inlet, result.message, null);
            }, 30);
            if (result === null) this.#published(answering, result, this.#publisher.publishInto(inlet,`,
      ],
    ],
    modes: { queues: true },
  },
  {
    name: 'acknowledges what a queue got before the commit',
    edits: [
      [
        'broker/connection/output/output.js',
        'if (this.#held.length > 0 || durableAt > this.#state.store.committedSequence)',
        'if (durableAt < 0)',
      ],
    ],
    modes: { queues: true },
  },
]

/**
 * Copies the directory of `main` and changes the copy. Returns the copy's `main` and `remove()`. Throws when
 * a text to be changed is not there exactly once.
 *
 * @param {string} main
 * @param {Variant} variant
 */
export function variant(main, { name, edits }) {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-variant-'))
  const dist = join(directory, 'dist')
  cpSync(dirname(main), dist, { recursive: true })
  cpSync(join(ROOT, 'package.json'), join(directory, 'package.json'))
  symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'))
  for (const [file, before, after] of edits) {
    const path = join(dist, file)
    const parts = readFileSync(path, 'utf8').split(before)
    if (parts.length !== 2) {
      rmSync(directory, { recursive: true })
      throw new Error(`variant '${name}': ${file} has ${parts.length - 1} times, not once: ${before}`)
    }
    writeFileSync(path, parts.join(after))
  }
  return { main: join(dist, 'main.js'), remove: () => rmSync(directory, { recursive: true, force: true }) }
}
