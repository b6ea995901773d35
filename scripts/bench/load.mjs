/** The load generator mqload.c: compiled when needed, and run. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const MQLOAD = join(HERE, 'build', 'mqload')

/** More than any row needs, in seconds. */
const ROW_SECONDS_MAX = 240

/** For rows over TLS. */
const OPENSSL_HEADER = '/usr/include/openssl/ssl.h'

/** Compiles mqload.c when it is newer than what was compiled; with TLS where OpenSSL is. */
export function buildMqload() {
  const source = join(HERE, 'mqload.c')
  if (existsSync(MQLOAD) && statSync(MQLOAD).mtimeMs >= statSync(source).mtimeMs) return
  mkdirSync(join(HERE, 'build'), { recursive: true })
  const [define, libraries] = existsSync(OPENSSL_HEADER) ? [['-DWITH_TLS'], ['-lssl', '-lcrypto']] : [[], []]
  const words = ['-O2', ...define, '-o', MQLOAD, source, ...libraries]
  const { status, error } = spawnSync('cc', words, { stdio: 'inherit' })
  if (status === 0) return
  console.error(`mqload.c could not be compiled: ${error?.message ?? `cc ended with ${status}`}`)
  process.exit(1)
}

/** Resolves with mqload's report, or `error` and nothing else. Runs beside us: the brokers' output must go on being read. */
export function runMqload(args, secondsMax = ROW_SECONDS_MAX) {
  return new Promise((resolve) => {
    let text = ''
    const child = spawn(MQLOAD, args, {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: secondsMax * 1000,
      killSignal: 'SIGKILL',
    })
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
    })
    child.once('close', (code, signal) => {
      const late = signal === 'SIGKILL' ? `not done within ${secondsMax} s` : undefined
      resolve(parsed(text) ?? { error: late ?? `mqload ended with ${code ?? signal} and without a report` })
    })
  })
}

function parsed(text) {
  try {
    return JSON.parse(text.trim().split('\n').at(-1))
  } catch {
    return undefined
  }
}
