/** The client of the control socket: sends commands to a running broker. */

import { connect, type Socket } from 'node:net'
import { userInfo } from 'node:os'
import { type ErrorCode, isErrorCode } from '../errors.ts'
import { controlPath, controlPathError } from './control.ts'

/** The longest answer; pieces of a backup are shorter. */
const LINE_BYTES_MAX = 4 * 1024 * 1024

/** The broker refused a command or cannot be reached. */
export class ControlError extends Error {
  override readonly name = 'ControlError'
  /** Advice for the operator; null without any. */
  readonly advice: string | null
  readonly code: ErrorCode

  constructor(
    message: string,
    advice: string | null,
    options: ErrorOptions & { readonly code?: ErrorCode } = {},
  ) {
    super(message, options)
    this.advice = advice
    this.code = options.code ?? 'GODWIT_BROKER_REFUSED'
  }
}

interface Answer {
  readonly ok?: boolean
  readonly data?: string
  readonly result?: unknown
  readonly error?: string
  readonly advice?: string | null
  readonly code?: string
}

/** Whether a broker answers on the control socket of this data directory. */
export async function brokerAnswers(directory: string): Promise<boolean> {
  const socket = await connectTo(directory)
  socket?.destroy()
  return socket !== null
}

/**
 * Sends a command and resolves with its result; ignores data. Throws ControlError, also if no broker
 * answers.
 */
export async function ask(directory: string, command: string, parameters: object = {}): Promise<unknown> {
  const request = askForData(directory, command, parameters)
  for (;;) {
    const { done, value } = await request.next()
    if (done === true) return value
  }
}

/** Sends a command and yields its data; returns the command's result. Throws ControlError. */
export async function* askForData(
  directory: string,
  command: string,
  parameters: object = {},
): AsyncGenerator<Buffer, unknown> {
  const socket = await connectTo(directory)
  if (socket === null) {
    throw new ControlError(
      `no broker answers for ${directory}`,
      'Start one with `godwit`, or name its directory with --data.',
      { code: 'GODWIT_BROKER_UNREACHABLE' },
    )
  }
  try {
    socket.write(`${JSON.stringify({ id: 1, command, by: operatorName(), ...parameters })}\n`)
    for await (const answer of answersOf(socket)) {
      if (answer.data !== undefined) yield Buffer.from(answer.data, 'base64')
      else if (answer.ok === true) return answer.result
      else throw refusalOf(answer)
    }
  } finally {
    socket.destroy()
  }
  throw new ControlError('the broker ended before its answer was complete', 'Check its log and try again.', {
    code: 'GODWIT_BROKER_ENDED',
  })
}

/** Earlier brokers send no code. */
function refusalOf({ error = 'the broker refused', advice = null, code }: Answer): ControlError {
  return new ControlError(error, advice, isErrorCode(code) ? { code } : {})
}

/** Names the operator for the security log: the system user, and the user before `sudo`. */
export function operatorName(): string {
  const { SUDO_USER: before } = process.env
  return before === undefined ? systemUser() : `${systemUser()} (${before})`
}

/** Names the system user, who has only a number in some containers. */
function systemUser(): string {
  try {
    return userInfo().username
  } catch {
    return `uid ${process.getuid?.()}`
  }
}

/** Connects to the control socket; null if nobody listens. */
function connectTo(directory: string): Promise<Socket | null> {
  const path = controlPath(directory)
  if (controlPathError(path) !== null) return Promise.resolve(null)
  return new Promise((resolve, reject) => {
    const socket = connect({ path })
    socket.once('connect', () => {
      socket.off('error', refused)
      resolve(socket)
    })
    const refused = (error: NodeJS.ErrnoException): void => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED' || error.code === 'ENOTDIR') resolve(null)
      else {
        const advice = 'Run this command as the user that runs the broker.'
        const options = { code: 'GODWIT_BROKER_UNREACHABLE', cause: error } as const
        reject(new ControlError(`${path} cannot be used: ${error.code ?? error.message}`, advice, options))
      }
    }
    socket.once('error', refused)
  })
}

/** Yields answers until the connection ends. */
async function* answersOf(socket: Socket): AsyncGenerator<Answer> {
  let rest = ''
  socket.setEncoding('utf8')
  try {
    for await (const chunk of socket) {
      rest += String(chunk)
      let from = 0
      for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n', from)) {
        yield JSON.parse(rest.slice(from, end)) as Answer
        from = end + 1
      }
      rest = rest.slice(from)
      if (rest.length > LINE_BYTES_MAX)
        throw new ControlError(
          'the broker sent an answer that is too long',
          'Use the same version of godwit as the broker.',
        )
    }
  } catch (error) {
    if (error instanceof ControlError || error instanceof SyntaxError) throw error
    // The broker was killed and the connection reset. The caller notices the missing result.
  }
}
