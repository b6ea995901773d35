/**
 * PURE. The errors that a user can meet: a table of codes, with the meaning of each and the next step.
 * `docs/errors.md` is this table. A code never changes its meaning.
 */

interface ErrorRow {
  readonly meaning: string
  /** The next step for the user. The message of an error often has a more precise one. */
  readonly next: string
}

/** The table, in the order of a broker's life: start, files of users, commands. */
export const ERRORS = {
  GODWIT_USAGE: {
    meaning: 'The command line cannot be understood.',
    next: 'Run `godwit --help`.',
  },
  GODWIT_CONFIG_INVALID: {
    meaning: 'The configuration has wrong keys or values. There is a line for each problem.',
    next: 'Correct these places. `godwit check FILE` checks a file without starting a broker.',
  },
  GODWIT_CONFIG_UNREADABLE: {
    meaning: 'The configuration file does not exist or cannot be read.',
    next: 'Check the path after --config or in GODWIT_CONFIG, and that this user may read the file.',
  },
  GODWIT_SYSTEM_USER: {
    meaning: 'The user to run as does not exist, or this process cannot become that user.',
    next: 'Create the user, start as root or as that user, or remove `user` from the configuration.',
  },
  GODWIT_ROOT_PATH: {
    meaning: 'Godwit runs as root, and another user can change a file that root would trust or write.',
    next: 'Let only root change the path, or name a user to run as: --user NAME.',
  },
  GODWIT_LOG_FILE: {
    meaning: 'The file of the security log cannot be written.',
    next: 'Name a file in a directory that the user of the broker can write: log.security_file.',
  },
  GODWIT_LISTEN_IN_USE: {
    meaning: 'Another program already listens on the address of a listener.',
    next: 'Stop that program, perhaps another broker, or give the listener another address.',
  },
  GODWIT_LISTEN_NOT_ALLOWED: {
    meaning: 'This user may not listen on the address.',
    next: 'Choose a port from 1024, grant CAP_NET_BIND_SERVICE, or choose a directory that is writable.',
  },
  GODWIT_LISTEN_NO_ADDRESS: {
    meaning: 'This machine does not have the address of a listener.',
    next: 'Use an address of this machine, 0.0.0.0 for all of IPv4, or :: for all.',
  },
  GODWIT_LISTEN_UNKNOWN_HOST: {
    meaning: 'The host name of a listener cannot be resolved.',
    next: 'Use an IP address, or a name that this machine can resolve.',
  },
  GODWIT_LISTEN_FAILED: {
    meaning: 'A listener cannot be opened for another reason.',
    next: 'Follow the message, or choose another address for this listener.',
  },
  GODWIT_TLS_FILES: {
    meaning: 'A certificate, key, authority or revocation list of a listener cannot be used.',
    next: 'Check the files under `tls` of the listener: `godwit check FILE` names each of them.',
  },
  GODWIT_STORE_LOCKED: {
    meaning: 'Another broker uses the data directory.',
    next: 'Stop the other broker first, or name another directory with --data.',
  },
  GODWIT_STORE_ACCESS: {
    meaning: 'The data directory or a backup does not exist, or cannot be created, read or written.',
    next: 'Check the path, and let the user that runs Godwit own the directory.',
  },
  GODWIT_STORE_FORMAT: {
    meaning: 'Another version of Godwit or another program wrote the data, and this version cannot read it.',
    next: 'Use the version that wrote the data, or move it with `godwit export` and `godwit import`.',
  },
  GODWIT_STORE_CORRUPT: {
    meaning: 'The stored data is not the data that was written.',
    next: 'Restore a backup, or rebuild the sound parts: `godwit repair`.',
  },
  GODWIT_STORE_FULL: {
    meaning: 'The disk has no space left.',
    next: 'Make room on the disk and start again. Acknowledged messages are kept.',
  },
  GODWIT_STORE_MEMORY: {
    meaning: 'The stored data takes more memory than this process may have.',
    next: 'Start with more memory; docs/limits.md describes what to do, under "Memory, and starts".',
  },
  GODWIT_STORE_IO: {
    meaning: 'The disk failed, or the store cannot be used at the moment.',
    next: 'Check the disk and the system log, then start again.',
  },
  GODWIT_ACCOUNTS_FILE: {
    meaning: 'The accounts in the data directory cannot be read or written.',
    next: 'Check the owner of accounts.json and the disk, or restore the file from a backup.',
  },
  GODWIT_ACCOUNTS_REFUSED: {
    meaning: 'A change of users or roles is not possible, such as adding a user who exists.',
    next: 'List what exists: `godwit user list`, `godwit role list`.',
  },
  GODWIT_RULE_INVALID: {
    meaning: 'A rule of a role cannot be understood.',
    next: "Write it like 'allow publish sensors/%u/#'.",
  },
  GODWIT_ACCESS_FILE_INVALID: {
    meaning: 'A password file or ACL file has lines that cannot be understood.',
    next: 'Correct these lines. A running broker keeps the previous content until then.',
  },
  GODWIT_ACCESS_FILE_UNREADABLE: {
    meaning: 'A password file or ACL file cannot be read.',
    next: 'Check the path, and that the user of the broker may read the file.',
  },
  GODWIT_BANS_FILE: {
    meaning: 'The bans in the data directory cannot be read or written.',
    next: 'Check the owner of bans.json and the disk. Without the file, nobody is banned.',
  },
  GODWIT_BANS_REFUSED: {
    meaning: 'A ban cannot be added or lifted, such as one of an invalid address.',
    next: 'List the bans: `godwit ban list`.',
  },
  GODWIT_SETUP: {
    meaning: '`godwit setup` cannot create or use the files of the data directory.',
    next: 'Follow the message. Existing files stay as they are.',
  },
  GODWIT_INPUT: {
    meaning: 'The input of a command is missing or invalid.',
    next: 'Correct the input. Nothing was changed unless the message says so.',
  },
  GODWIT_INTERRUPTED: {
    meaning: 'The user interrupted the prompt for a password.',
    next: 'Run the command again. Nothing was changed.',
  },
  GODWIT_BROKER_UNREACHABLE: {
    meaning: 'No running broker answers for this data directory.',
    next: 'Start a broker, name its directory with --data, and run the command as its user.',
  },
  GODWIT_BROKER_ENDED: {
    meaning: 'The broker ended while it answered.',
    next: 'Check its log and try again.',
  },
  GODWIT_BROKER_REFUSED: {
    meaning: 'The running broker refused a command.',
    next: 'Follow the message, and check the log of the broker.',
  },
  GODWIT_INVENTORY_REFUSED: {
    meaning: 'A client, Session, Subscription or retained message does not exist or cannot be deleted.',
    next: 'List what exists, for example: `godwit session list`.',
  },
  GODWIT_QUEUE_REFUSED: {
    meaning: 'A queue does not exist, or cannot be declared, changed or deleted as asked.',
    next: 'List what exists: `godwit queue list`.',
  },
  GODWIT_CURSOR_INVALID: {
    meaning: 'The cursor after --after is unknown or no longer valid.',
    next: 'Begin the list again, without --after.',
  },
  GODWIT_DEFECT: {
    meaning: 'Godwit met a state that it does not expect. Acknowledged messages are kept.',
    next: 'If the message does not explain it, report it with its stack.',
  },
} as const satisfies Readonly<Record<`GODWIT_${string}`, ErrorRow>>

/** A code of the table. */
export type ErrorCode = keyof typeof ERRORS

/** Returns the code of an error; null if it is not an error of this table. */
export function errorCode(error: unknown): ErrorCode | null {
  if (!(error instanceof Error) || !('code' in error)) return null
  return isErrorCode(error.code) ? error.code : null
}

/** Whether the value is a code of this table. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERRORS, value)
}
