/** Asks for a password on the terminal, without showing what is typed. */
import type { ErrorCode } from '../../errors.ts'

const ENTER = new Set(['\r', '\n', '\u0004'])
const ERASE = new Set(['\u007f', '\b'])
const INTERRUPT = '\u0003'

/** The user pressed control-C instead of answering. */
export class InterruptedError extends Error {
  override readonly name = 'InterruptedError'
  readonly code: ErrorCode = 'GODWIT_INTERRUPTED'
  readonly advice = 'Nothing was changed.'
}

/** Asks on stderr and resolves with the line. Stdin must be a terminal. */
export function askSecret(prompt: string): Promise<string> {
  const { stdin, stderr } = process
  stderr.write(prompt)
  stdin.setRawMode(true)
  stdin.setEncoding('utf8')
  stdin.resume()
  return new Promise((resolve, reject) => {
    let typed: string[] = []
    const finish = (settle: () => void): void => {
      stdin.off('data', take)
      stdin.setRawMode(false)
      stdin.pause()
      stderr.write('\n')
      settle()
    }
    const take = (chunk: string): void => {
      for (const character of chunk) {
        if (character === INTERRUPT) {
          finish(() => reject(new InterruptedError('interrupted')))
          return
        }
        if (ENTER.has(character)) {
          finish(() => resolve(typed.join('')))
          return
        }
        if (ERASE.has(character)) typed = typed.slice(0, -1)
        else typed.push(character)
      }
    }
    stdin.on('data', take)
  })
}
