/**
 * Reads a text file that somebody else writes, and rereads it when it changes. While it is invalid, the old
 * content stays in force.
 */

import type { Stats } from 'node:fs'
import { open } from 'node:fs/promises'
import type { ErrorCode } from '../../errors.ts'

const BYTES_MAX = 64 * 1024 * 1024

/** Lines of a file are wrong. The message has their numbers, but not their text. */
export class LinesError extends Error {
  override readonly name = 'LinesError'
  readonly code: ErrorCode = 'GODWIT_ACCESS_FILE_INVALID'
  readonly advice = 'Correct these lines. A running broker keeps the previous content until then.'
  readonly path: string
  readonly problems: readonly { readonly line: number; readonly message: string }[]

  constructor(path: string, problems: readonly { readonly line: number; readonly message: string }[]) {
    super(problems.map(({ line, message }) => `${path}:${line}: ${message}`).join('\n'))
    this.path = path
    this.problems = problems
  }
}

/** A file and its parsed content. */
export class WatchedFile<T> {
  readonly path: string
  readonly #parse: (text: string, path: string) => T
  #content: T
  /** The version that was read last, whether or not it could be used. */
  #version: string
  /** A changed version seen once; it is read when it is seen again, and so has stopped changing. */
  #pending: string | null = null

  private constructor(path: string, parse: (text: string, path: string) => T, content: T, version: string) {
    this.path = path
    this.#parse = parse
    this.#content = content
    this.#version = version
  }

  /** Reads the file. Throws LinesError, and FileError for a file that cannot be read. */
  static async open<T>(path: string, parse: (text: string, path: string) => T): Promise<WatchedFile<T>> {
    const { text, version } = await readText(path)
    return new WatchedFile(path, parse, parse(text, path), version)
  }

  get content(): T {
    return this.#content
  }

  /**
   * Reads the file again if it has changed, and resolves with whether there is new content. With `settled`,
   * waits until two calls in a row find the same version, since its writer may not be done. Throws as `open`
   * does, once per version of the file.
   */
  async reload(when: 'now' | 'settled'): Promise<boolean> {
    const version = await versionOf(this.path)
    if (version === this.#version) {
      this.#pending = null
      return false
    }
    if (when === 'settled' && version !== this.#pending) {
      this.#pending = version
      return false
    }
    this.#pending = null
    this.#version = version
    const read = await readText(this.path)
    this.#version = read.version
    this.#content = this.#parse(read.text, this.path)
    return true
  }
}

async function versionOf(path: string): Promise<string> {
  try {
    const file = await open(path, 'r')
    try {
      return version(await file.stat())
    } finally {
      await file.close()
    }
  } catch (error) {
    return `unreadable: ${(error as NodeJS.ErrnoException).code}`
  }
}

async function readText(path: string): Promise<{ readonly text: string; readonly version: string }> {
  try {
    const file = await open(path, 'r')
    try {
      const status = await file.stat()
      if (status.size > BYTES_MAX) throw new Error(`it has more than ${BYTES_MAX} bytes`)
      return { text: await file.readFile('utf8'), version: version(status) }
    } finally {
      await file.close()
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new FileError(path, code ?? message, error)
  }
}

function version({ ino, mtimeMs, ctimeMs, size }: Stats): string {
  return `${ino} ${mtimeMs} ${ctimeMs} ${size}`
}

/** The file cannot be read at all. */
export class FileError extends Error {
  override readonly name = 'FileError'
  readonly code: ErrorCode = 'GODWIT_ACCESS_FILE_UNREADABLE'
  readonly advice = 'Check the path, and that the user that runs the broker may read it.'

  constructor(path: string, what: string, cause: unknown) {
    super(`${path} cannot be read: ${what}`, { cause })
  }
}
