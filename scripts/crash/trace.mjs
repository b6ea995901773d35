/** What `faults.c` recorded, and what of it a power cut leaves. */
import { readFileSync } from 'node:fs'

/**
 * The records in order: `{type, file, name, to, offset, bytes}` as far as the type has them; see `record` in
 * faults.c. A record that was cut off at the end is left out.
 */
export function readTrace(path) {
  const trace = readFileSync(path)
  const records = []
  for (let at = 0; at < trace.length; ) {
    const end = trace.indexOf(10, at)
    if (end === -1) break
    const [type, ...words] = trace.toString('latin1', at, end).split(' ')
    at = end + 1
    const size = type === 'W' ? Number(words[2]) : type === 'S' ? Number(words[1]) : 0
    if (at + size > trace.length) break
    records.push(recordOf(type, words, trace.subarray(at, at + size)))
    at += size
  }
  return records
}

function recordOf(type, words, bytes) {
  switch (type) {
    case 'O':
      return { type, file: words[0], name: words[1] }
    case 'W':
      return { type, file: words[0], offset: Number(words[1]), bytes }
    case 'f':
    case 'F':
      return { type, file: words[0] }
    case 'R':
      return { type, name: words[0], to: words[1] }
    case 'U':
      return { type, name: words[0] }
    case 'S':
      return { type, socket: words[0], bytes }
    default:
      throw new Error(`the trace has a record of type '${type}'`)
  }
}

/**
 * The files after a power cut behind the last record, by name. `before` are the files at the beginning. A sync
 * keeps what was written to its file before it began, and, as journaling file systems do, every creation, renaming
 * and unlinking up to then; of the later ones a random prefix stays, and of the later writes any.
 */
export function survivors(before, records, random) {
  const files = new Map()
  const changes = []
  let synced = 0
  for (const record of records) {
    const { type, file } = record
    if (type === 'O') {
      const fresh = { writes: [], synced: 0, begun: null }
      files.set(file, fresh)
      changes.push({ ...record, content: fresh })
    } else if (type === 'W') {
      const written = files.get(file)
      if (written === undefined) throw new Error('a file was written that was there before')
      written.writes.push(record)
    } else if (type === 'f') {
      const syncing = files.get(file) ?? directoryEntry(files, file)
      syncing.begun = { writes: syncing.writes.length, changes: changes.length }
    } else if (type === 'F') {
      const done = files.get(file)
      done.synced = Math.max(done.synced, done.begun.writes)
      synced = Math.max(synced, done.begun.changes)
    } else if (type === 'R' || type === 'U') {
      changes.push(record)
    }
  }
  const names = new Map([...before].map(([name, bytes]) => [name, { bytes }]))
  for (const change of changes.slice(0, random.between(synced, changes.length))) apply(names, change)
  return new Map([...names].map(([name, content]) => [name, content.bytes ?? composed(content, random)]))
}

/** A directory has no bytes of its own; a sync of it keeps the changes. */
function directoryEntry(files, file) {
  const entry = { writes: [], synced: 0, begun: null }
  files.set(file, entry)
  return entry
}

function apply(names, { type, name, to, content }) {
  if (type === 'O') names.set(name, content)
  else if (type === 'U') names.delete(name)
  else if (names.has(name)) {
    names.set(to, names.get(name))
    names.delete(name)
  }
}

function composed({ writes, synced }, random) {
  const kept = writes.slice(0, synced)
  const unsure = writes.slice(synced)
  // Nothing, a part that ends in the middle of a write, or whatever the kernel had written by chance.
  const how = random.pick(['none', 'part', 'some'])
  if (how === 'some') kept.push(...unsure.filter(() => random.chance(0.5)))
  if (how === 'part' && unsure.length > 0) {
    const last = random.between(0, unsure.length - 1)
    const torn = unsure[last]
    kept.push(...unsure.slice(0, last))
    kept.push({ ...torn, bytes: torn.bytes.subarray(0, random.between(0, torn.bytes.length)) })
  }
  // A write without a position went to a descriptor that is no file any more: a socket under an old number.
  const placed = kept.filter(({ offset }) => offset >= 0)
  const length = placed.reduce((end, { offset, bytes }) => Math.max(end, offset + bytes.length), 0)
  const whole = Buffer.alloc(length)
  for (const { offset, bytes } of placed) bytes.copy(whole, offset)
  return whole
}

/**
 * Whether what was sent waited for the disk: the first write that contains `stored` is followed by a sync of its
 * file, begun after it and successful, before the first bytes that contain `sent` go to a socket. Returns what is
 * wrong, or null.
 */
export function orderComplaint(records, stored, sent) {
  const written = records.findIndex(({ type, bytes }) => type === 'W' && bytes.includes(stored))
  if (written === -1) return 'it was never written'
  const { file } = records[written]
  const after = (from, wanted) =>
    records.findIndex(({ type, file: of }, at) => at > from && type === wanted && of === file)
  const begun = after(written, 'f')
  const synced = begun === -1 ? -1 : after(begun, 'F')
  const said = records.findIndex(({ type, bytes }) => type === 'S' && bytes.includes(sent))
  if (said === -1) return 'it was never acknowledged'
  if (synced === -1) return 'it was never synced'
  return said > synced ? null : 'it was acknowledged before the sync'
}
