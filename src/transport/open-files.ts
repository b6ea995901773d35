/**
 * Derives the number of Network Connections from the limit of open files. Every connection takes a file
 * descriptor, and the store fails if it gets none for its next log or table, so strangers must not take the
 * last.
 */
import { readFileSync } from 'node:fs'
import { OPEN_TABLES_MAX } from '../store/files/database.ts'

/**
 * The files that are reserved for everything except connections. An idle broker has 26 open: those of Node,
 * LevelDB's log, lock and manifest, and a socket for each listener. A busy broker adds up to 10 of LevelDB
 * (`store/files/database.ts`), 8 clients of the control socket, and one or two at a time for modules,
 * ballast, log, accounts, password files and certificates. At most 23 were seen with passwords, backups and
 * compaction. The HTTP listener has at most 48 connections.
 */
export const RESERVED_FILES = 128

/** The start warns if fewer connections than this are possible. */
const FEW_CONNECTIONS = 512

/** The limit of open files and the connections that it allows. Both are Infinity if the limit is unknown. */
export interface OpenFiles {
  readonly openFilesMax: number
  /** Open sockets of all listeners together, including those in a handshake or about to be refused. */
  readonly connectionsMax: number
}

/** 32-bit systems, where LevelDB maps no tables and keeps up to a fifth of all files open for them. */
const UNMAPPED: ReadonlySet<string> = new Set(['arm', 'ia32', 'mips', 'mipsel'])

/** Computes how many connections are allowed. `architecture` is Node's name of it. */
export function openFiles(openFilesMax: number, architecture: string = process.arch): OpenFiles {
  const tables = UNMAPPED.has(architecture) ? Math.min(OPEN_TABLES_MAX, Math.floor(openFilesMax / 5)) : 0
  return { openFilesMax, connectionsMax: Math.max(0, openFilesMax - RESERVED_FILES - tables) }
}

/** Returns the limit of open files of this process; Infinity if there is none or the system is not Linux. */
export function openFilesMax(): number {
  try {
    return parseOpenFilesMax(readFileSync('/proc/self/limits', 'utf8'))
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

/** Reads the soft limit from `/proc/PID/limits`; Node raised it to the hard limit when it started. */
export function parseOpenFilesMax(limits: string): number {
  const soft = /^Max open files +(\d+) /m.exec(limits)?.[1]
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
}

/** Explains the limit and how to raise it, for refusals and notices. */
export function openFilesReason({ openFilesMax, connectionsMax }: OpenFiles): string {
  const allowed = `the limit of open files, ${openFilesMax}, allows ${connectionsMax} connections`
  return `${allowed} (raise LimitNOFILE in the systemd unit, or ulimit -n)`
}

/** Returns the notice of the start for this value of `connections_max`; null without any. */
export function openFilesNotice(open: OpenFiles, connectionsMax: number): string | null {
  const reason = openFilesReason(open)
  if (connectionsMax !== Number.POSITIVE_INFINITY && connectionsMax > open.connectionsMax) {
    return `connections_max is ${connectionsMax}, but ${reason}`
  }
  return open.connectionsMax < Math.min(FEW_CONNECTIONS, connectionsMax) ? reason : null
}
