/** Compiles the load generators mqload.c and fleetload.c when needed, and runs them. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const HERE = fileURLToPath(new URL('.', import.meta.url))

/** Seconds; more than any row needs. */
const ROW_SECONDS_MAX = 240

/** Rows over TLS need it. */
const OPENSSL_HEADER = '/usr/include/openssl/ssl.h'

/** Headers that both programs include. */
const HEADERS = ['bytes.h', 'report.h', 'usage.h']

/** Compiles mqload.c, with TLS if OpenSSL is installed. */
export function buildMqload() {
  const [define, libraries] = existsSync(OPENSSL_HEADER) ? [['-DWITH_TLS'], ['-lssl', '-lcrypto']] : [[], []]
  compile('mqload', define, libraries)
}

/** Compiles fleetload.c. */
export function buildFleetload() {
  compile('fleetload', [], ['-lm'])
}

/** Compiles slow-sync.c. Returns the path of the library. */
export function buildSlowSync() {
  compile('slow-sync', ['-shared', '-fPIC'], ['-ldl'])
  return programOf('slow-sync')
}

/** Compiles a program, unless it is newer than its source and headers. */
function compile(name, flags, libraries) {
  const program = programOf(name)
  const source = `${name}.c`
  const changedMs = Math.max(...[source, ...HEADERS].map((file) => statSync(join(HERE, file)).mtimeMs))
  if (existsSync(program) && statSync(program).mtimeMs >= changedMs) return
  mkdirSync(join(HERE, 'build'), { recursive: true })
  const words = ['-O2', ...flags, '-o', program, join(HERE, source), ...libraries]
  const { status, error } = spawnSync('cc', words, { stdio: 'inherit' })
  if (status === 0) return
  console.error(`${source} could not be compiled: ${error?.message ?? `cc ended with ${status}`}`)
  process.exit(1)
}

function programOf(name) {
  return join(HERE, 'build', name)
}

/** Resolves with mqload's report, or with `{ error }`. */
export function runMqload(args, secondsMax = ROW_SECONDS_MAX) {
  return run('mqload', args, secondsMax)
}

/** Resolves with fleetload's report, or with `{ error }`. */
export function runFleetload(args, secondsMax = ROW_SECONDS_MAX) {
  return run('fleetload', args, secondsMax)
}

/** The program runs beside this process, because the output of the brokers must go on being read. */
function run(name, args, secondsMax) {
  return new Promise((resolve) => {
    let text = ''
    const child = spawn(programOf(name), args, {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: secondsMax * 1000,
      killSignal: 'SIGKILL',
    })
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
    })
    child.once('close', (code, signal) => {
      const late = signal === 'SIGKILL' ? `not done within ${secondsMax} s` : undefined
      resolve(parsed(text) ?? { error: late ?? `${name} ended with ${code ?? signal} and without a report` })
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
