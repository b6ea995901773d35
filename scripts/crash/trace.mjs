/**
 * Reads what `faults.c` recorded, and computes what a power cut leaves of it.
 *
 * @typedef {object} TraceRecord
 * @property {string} type see `record` in faults.c; it decides which of the other properties there are
 * @property {string} [file]
 * @property {string} [name]
 * @property {string} [to]
 * @property {number} [offset]
 * @property {number} [length]
 * @property {Buffer} [bytes]
 * @property {string} [sync]
 * @property {string} [socket]
 *
 * @typedef {Map<string, Buffer | null>} Files by path; null for a directory
 *
 * @typedef {'ordered' | 'own' | 'strict'} NameRule
 */
import { readFileSync } from 'node:fs'

/**
 * Returns the records in order. What a failed call did not do is left out, and so is a record that is cut off
 * at the end.
 *
 * @param {string} path
 * @returns {TraceRecord[]}
 */
export function readTrace(path) {
  const trace = readFileSync(path)
  const records = []
  for (let at = 0; at < trace.length; ) {
    const end = trace.indexOf(10, at)
    if (end === -1) break
    const [type, ...words] = trace.toString('utf8', at, end).split(' ')
    at = end + 1
    const size = type === 'W' ? Number(words[2]) : type === 'S' ? Number(words[1]) : 0
    if (at + size > trace.length) break
    if (type === 'X') shorten(records, Number(words[0]))
    else records.push(recordOf(type, words, trace.subarray(at, at + size)))
    at += size
  }
  return records
}

function shorten(records, size) {
  const last = records.pop()
  if (size > 0) records.push({ ...last, bytes: last.bytes.subarray(0, size) })
}

function recordOf(type, words, bytes) {
  switch (type) {
    case 'O':
    case 'E':
      return { type, file: words[0], name: words[1] }
    case 'W':
      return { type, file: words[0], offset: Number(words[1]), bytes }
    case 'T':
      return { type, file: words[0], length: Number(words[1]) }
    case 'f':
      return { type, sync: words[0], file: words[1] }
    case 'F':
      return { type, sync: words[0] }
    case 'R':
    case 'L':
      return { type, name: words[0], to: words[1] }
    case 'M':
    case 'U':
      return { type, name: words[0] }
    case 'S':
      return { type, socket: words[0], bytes }
    default:
      throw new Error(`the trace has a record of type '${type}'`)
  }
}

const CHANGING = new Set(['O', 'W', 'T', 'R', 'L', 'M', 'U'])

/**
 * Returns the records without the last one that changes a file or a name, as it may not have been carried
 * out.
 *
 * @param {readonly TraceRecord[]} records
 */
export function withoutLastChange(records) {
  const last = records.findLastIndex(({ type }) => CHANGING.has(type))
  return records.filter((_, index) => index !== last)
}

/**
 * The promises of file systems about names that no sync of their directory made durable:
 * - `ordered` (a journal, as in ext4 and xfs): a sync of anything keeps every earlier change of a name.
 * - `own` (the log tree of btrfs): a sync of a file keeps the names of this file, and of no other one.
 * - `strict` (the letter of POSIX): a sync of a file keeps no name.
 * A sync of a directory always keeps the names in it. Of all other changes of names, those before some
 * instant stay.
 *
 * @type {readonly NameRule[]}
 */
export const NAME_RULES = ['ordered', 'own', 'strict']

/** The history of a disk: its files at the beginning, and the records since then. */
export class History {
  /** Every creation, renaming and removal: `{type, name, to, content}`. */
  #changes = []
  /**
   * Successful syncs, each with what was synced and how many edits of it and changes of names came before.
   */
  #syncs = []
  #before = new Map()
  #now = new Map()

  /**
   * Throws when a file is written and the trace does not say which one it is.
   *
   * @param {Files} before
   * @param {readonly TraceRecord[]} records
   */
  constructor(before, records) {
    const root = { isDirectory: true, path: '.' }
    for (const [name, bytes] of before) {
      this.#before.set(name, bytes === null ? directoryAt(name) : { initial: bytes, edits: [], synced: 0 })
    }
    this.#now = new Map(this.#before)
    const opened = new Map()
    const begun = new Map()
    const known = (file) => {
      const content = opened.get(file)
      if (content === undefined) throw new Error(`the trace does not say what the file ${file} is`)
      return content
    }
    for (const record of records) {
      const { type, file, name, sync } = record
      switch (type) {
        case 'O':
          opened.set(file, { initial: Buffer.alloc(0), edits: [], synced: 0 })
          this.#change({ ...record, content: opened.get(file) })
          break
        case 'E':
          opened.set(file, name === '.' ? root : this.#now.get(name))
          break
        case 'W':
        case 'T':
          known(file).edits.push(record)
          break
        case 'f': {
          const content = known(file)
          begun.set(sync, { content, edits: content.edits?.length, changes: this.#changes.length })
          break
        }
        case 'F':
          this.#synced(begun.get(sync))
          break
        case 'M':
          this.#change({ ...record, content: directoryAt(name) })
          break
        case 'R':
        case 'L':
        case 'U':
          // Names that no record made are those of sockets.
          if (this.#now.has(name)) this.#change({ ...record, content: this.#now.get(name) })
          break
      }
    }
  }

  /**
   * Returns the files as a process finds them.
   *
   * @returns {Files}
   */
  whole() {
    const files = new Map()
    for (const [name, content] of this.#now) {
      files.set(name, content.isDirectory ? null : composed(content.initial, content.edits))
    }
    return files
  }

  /**
   * Returns the files after a power cut that follows the last record. Every sync keeps what was written to
   * its file before it began, and the names that `rule` says; a random part of the rest stays.
   *
   * @param {NameRule} rule
   * @param {import('./random.mjs').Random} random
   * @returns {Files}
   */
  survivors(rule, random) {
    const count = this.#changes.length
    const isKept = new Array(count).fill(false)
    for (const sync of this.#syncs) {
      for (let index = 0; index < sync.changes; index++) {
        isKept[index] ||= rule === 'ordered' || keeps(sync.content, this.#changes[index], rule)
      }
    }
    // Half of the disks keep only what they must.
    const until = random.chance(0.5) ? 0 : random.between(0, count)
    const names = new Map(this.#before)
    for (const [index, change] of this.#changes.entries()) {
      if (index < until || isKept[index]) apply(names, change)
    }
    const files = new Map()
    for (const [name, content] of names) {
      const path = name.split('/').slice(0, -1).join('/')
      if (path !== '' && !names.has(path)) continue // Its directory is gone.
      files.set(name, content.isDirectory ? null : partOf(content, random))
    }
    return files
  }

  #change(change) {
    this.#changes.push(change)
    apply(this.#now, change)
  }

  #synced(sync) {
    const { content, edits } = sync
    if (!content.isDirectory) content.synced = Math.max(content.synced, edits)
    this.#syncs.push(sync)
  }
}

function directoryAt(path) {
  return { isDirectory: true, path }
}

/** Tells whether a sync of `synced` keeps an earlier change. */
function keeps(synced, { name, to = name, content }, rule) {
  if (!synced.isDirectory) return rule === 'own' && content === synced
  return parentOf(name) === synced.path && parentOf(to) === synced.path
}

function parentOf(name) {
  const slash = name.lastIndexOf('/')
  return slash === -1 ? '.' : name.slice(0, slash)
}

function apply(names, { type, name, to, content }) {
  if (type === 'O' || type === 'M') names.set(name, content)
  else if (type === 'U') names.delete(name)
  else if (names.has(name)) {
    names.set(to, names.get(name))
    if (type === 'R') names.delete(name)
  }
}

/** Returns what the disk has of a file: what was synced, and a random part of the rest. */
function partOf({ initial, edits, synced }, random) {
  const kept = edits.slice(0, synced)
  const unsure = edits.slice(synced)
  // Nothing; the first ones, of which the last may be torn; or any of them.
  const how = random.pick(['none', 'part', 'some'])
  if (how === 'some') kept.push(...unsure.filter(() => random.chance(0.5)))
  if (how === 'part' && unsure.length > 0) {
    const last = random.between(0, unsure.length - 1)
    const torn = unsure[last]
    kept.push(...unsure.slice(0, last))
    if (torn.type === 'W') {
      kept.push({ ...torn, bytes: torn.bytes.subarray(0, random.between(0, torn.bytes.length)) })
    }
  }
  return composed(initial, kept)
}

function composed(initial, edits) {
  let length = initial.length
  let room = length
  for (const { type, offset, bytes, length: cut } of edits) {
    length = type === 'T' ? cut : Math.max(length, offset + bytes.length)
    room = Math.max(room, length)
  }
  const whole = Buffer.alloc(room)
  initial.copy(whole)
  for (const { type, offset, bytes, length: cut } of edits) {
    if (type === 'T') whole.fill(0, cut)
    else bytes.copy(whole, offset)
  }
  return whole.subarray(0, length)
}

/**
 * Checks that an acknowledgement waited for the disk: after the first write that contains `stored`, a sync of
 * its file begins and succeeds, and only then the first bytes that contain `sent` go to a socket. Returns
 * what is wrong, or null.
 */
export function orderComplaint(records, stored, sent) {
  const written = records.findIndex(({ type, bytes }) => type === 'W' && bytes.includes(stored))
  if (written === -1) return 'it was never written'
  const { file } = records[written]
  const begun = records.findIndex(({ type, file: of }, at) => at > written && type === 'f' && of === file)
  const synced =
    begun === -1 ? -1 : records.findIndex(({ type, sync }) => type === 'F' && sync === records[begun].sync)
  const said = records.findIndex(({ type, bytes }) => type === 'S' && bytes.includes(sent))
  if (said === -1) return 'it was never acknowledged'
  if (synced === -1) return 'it was never synced'
  return said > synced ? null : 'it was acknowledged before the sync'
}
