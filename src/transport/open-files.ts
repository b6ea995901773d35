/**
 * The limit of open files of this process, and how many Network Connections it leaves room for. Every connection is a
 * file descriptor, and a store that gets none for its next log or table cannot go on: strangers must not take the last.
 */
import { readFileSync } from 'node:fs'
import { OPEN_TABLES_MAX } from '../store/files/database.ts'

/**
 * Kept for everything but connections. A broker at rest has 26: Node's own, LevelDB's log, lock and manifest, a socket for
 * each listener. At work there are LevelDB's files being written and tables being mapped (10 at most: `store/files/database.ts`),
 * the control socket's clients (8), what measuring memory and loading modules opens, and ballast, log, accounts, password files
 * and certificates, one or two at a time. With passwords, backups and compaction 23 were seen beside sockets: the rest is room.
 */
export const RESERVED_FILES = 128

/** Fewer connections than this are worth a word at the start. */
const FEW_CONNECTIONS = 512

/** What the limit of open files allows. Both are Infinity where it cannot be known: nothing is refused then. */
export interface OpenFiles {
  readonly openFilesMax: number
  /** Sockets of clients at a time, all listeners together: handshakes, and those that are about to be refused, included. */
  readonly connectionsMax: number
}

/** Where LevelDB has 32 bits and maps no tables: a fifth of the limit is for the descriptors of those that it has open. */
const UNMAPPED: ReadonlySet<string> = new Set(['arm', 'ia32', 'mips', 'mipsel'])

/** The one place that decides how many connections there may be. `architecture` as Node has it. */
export function openFiles(openFilesMax: number, architecture: string = process.arch): OpenFiles {
  const tables = UNMAPPED.has(architecture) ? Math.min(OPEN_TABLES_MAX, Math.floor(openFilesMax / 5)) : 0
  return { openFilesMax, connectionsMax: Math.max(0, openFilesMax - RESERVED_FILES - tables) }
}

/** The limit of open files of this process; Infinity where the system does not tell (not Linux) or has none. */
export function openFilesMax(): number {
  try {
    return parseOpenFilesMax(readFileSync('/proc/self/limits', 'utf8'))
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

/** Out of `/proc/PID/limits`: the soft limit, which Node has raised to the hard one when it started. */
export function parseOpenFilesMax(limits: string): number {
  const soft = /^Max open files +(\d+) /m.exec(limits)?.[1]
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
}

/** In words, with what helps; for refusals and notices. */
export function openFilesReason({ openFilesMax, connectionsMax }: OpenFiles): string {
  return `the limit of open files, ${openFilesMax}, allows ${connectionsMax} connections (raise LimitNOFILE in the systemd unit, or ulimit -n)`
}

/** What the operator should know at the start, when `connections_max` is this; null for nothing. */
export function openFilesNotice(open: OpenFiles, connectionsMax: number): string | null {
  const reason = openFilesReason(open)
  if (connectionsMax !== Number.POSITIVE_INFINITY && connectionsMax > open.connectionsMax) {
    return `connections_max is ${connectionsMax}, but ${reason}`
  }
  return open.connectionsMax < Math.min(FEW_CONNECTIONS, connectionsMax) ? reason : null
}
