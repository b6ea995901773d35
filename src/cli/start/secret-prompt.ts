/** Asks for a password on the terminal, without showing what is typed. */

const ENTER = new Set(['\r', '\n', '\u0004'])
const ERASE = new Set(['\u007f', '\b'])
const INTERRUPT = '\u0003'

/** The question was answered by control-C. */
export class InterruptedError extends Error {
  override readonly name = 'InterruptedError'
  readonly advice = 'Nothing was changed.'
}

/** Resolves with the line. To be called where stdin is a terminal. The prompt goes to stderr. */
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
