import { chmodSync, chownSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { connect, type TLSSocket } from 'node:tls'
import { connectAsync, type MqttClient } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { IS_ROOT, NOBODY, nobody, ourselves, type Runner } from './ordinary-user.ts'
import { cleanUp, type Ended, output, Program, PYTHON, ROOT, temporaryDirectory } from './process.ts'

const clients: MqttClient[] = []

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.endAsync(true)))
  await cleanUp()
})

/** A broker that was made by `godwit setup`. */
interface Made {
  readonly directory: string
  readonly port: number
  readonly webSocketPort: number
  /** The output of setup. */
  readonly printed: string
  /** The administrator's. */
  readonly password: string
  readonly broker: Program
}

async function freePorts(count: number): Promise<number[]> {
  const probes = await Promise.all(
    Array.from({ length: count }, async () => {
      const probe = createServer()
      await new Promise<void>((resolve) => probe.listen(0, '::', resolve))
      return probe
    }),
  )
  const ports = probes.map((probe) => (probe.address() as { port: number }).port)
  await Promise.all(probes.map((probe) => new Promise((resolve) => probe.close(resolve))))
  return ports
}

function started(words: readonly string[], directory?: string): Program {
  return new Program(words[0]!, words.slice(1), directory)
}

function ran(runner: Runner, ...words: string[]): Promise<Ended> {
  return started([...runner.godwit, ...words]).ended
}

async function told(runner: Runner, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await ran(runner, ...words)
  if (code !== 0) throw new Error(`godwit ${words.join(' ')}: ${code}\n${stdout}\n${stderr}`)
  return stdout
}

async function begun(runner: Runner, directory: string): Promise<Program> {
  const broker = started([...runner.godwit, '--data', directory])
  await broker.until((stdout) => stdout.includes("godwit listener 'wss'"))
  return broker
}

async function made(runner: Runner, ...more: string[]): Promise<Made> {
  const directory = join(await runner.home(), 'data')
  const [port, webSocketPort] = (await freePorts(2)) as [number, number]
  const words = [
    '--data',
    directory,
    '--name',
    'localhost',
    '--port',
    `${port}`,
    '--ws-port',
    `${webSocketPort}`,
  ]
  const printed = await told(runner, 'setup', ...words, ...more)
  const [, password = ''] = /shown only once: (\S+)/.exec(printed) ?? []
  return { directory, port, webSocketPort, printed, password, broker: await begun(runner, directory) }
}

function ca({ directory }: Made): string {
  return join(directory, 'ca.crt')
}

async function mqttjs(place: Made, more: object = {}): Promise<MqttClient> {
  const options = {
    ca: readFileSync(ca(place)),
    username: 'admin',
    password: place.password,
    reconnectPeriod: 0,
  }
  const client = await connectAsync(`mqtts://localhost:${place.port}`, { ...options, ...more })
  clients.push(client)
  return client
}

/** The first `count` messages on these topics. */
async function messages(client: MqttClient, filter: string, count: number): Promise<() => Promise<string[]>> {
  const found: string[] = []
  const all = new Promise<string[]>((resolve) => {
    client.on('message', (topic, payload) => {
      found.push(`${topic} ${payload}`)
      if (found.length === count) resolve(found)
    })
  })
  await client.subscribeAsync(filter, { qos: 1 })
  return () => all
}

const runners: [string, () => Promise<Runner>][] = [
  [IS_ROOT ? 'as root' : 'as an ordinary user', async () => ourselves()],
  ...(IS_ROOT ? [['as an ordinary user', nobody] as [string, () => Promise<Runner>]] : []),
]
if (!IS_ROOT) console.warn('these tests run as an ordinary user: what root does can be shown by root only')

describe.each(runners)('three commands, %s', (_, runnerOf) => {
  test('lead from an empty directory to TLS, users, and clients of three makes', async () => {
    const runner = await runnerOf()
    const place = await made(runner)
    const sensor = (await told(runner, 'user', 'add', 'sensor', '--generate', '--data', place.directory))
      .trim()
      .split('\n')
      .at(-1)!
    expect(sensor).toMatch(/^[\w-]{16,}$/)
    const subscriber = await mqttjs(place)
    const received = await messages(subscriber, 'hello/#', 4)
    const { port, webSocketPort } = place

    const mosquitto = ['-h', 'localhost', '-p', `${port}`, '--cafile', ca(place), '-q', '1']
    const pub = (...words: string[]): Promise<Ended> =>
      new Program('mosquitto_pub', [...mosquitto, ...words]).ended
    const message = ['-t', 'hello/mosquitto', '-m', 'hi']
    expect((await pub('-u', 'sensor', '-P', sensor, ...message)).code).toBe(0)

    const js = await mqttjs(place, { username: 'sensor', password: sensor })
    await js.publishAsync('hello/mqttjs', 'hi', { qos: 1 })
    const overWebSocket = await connectAsync(`wss://localhost:${webSocketPort}/mqtt`, {
      ca: readFileSync(ca(place)),
      username: 'sensor',
      password: sensor,
      reconnectPeriod: 0,
    })
    clients.push(overWebSocket)
    await overWebSocket.publishAsync('hello/wss', 'hi', { qos: 1 })

    const script = [
      'import sys, paho.mqtt.publish as publish',
      'publish.single("hello/paho", "hi", qos=1, hostname="localhost", port=int(sys.argv[1]),',
      '    auth={"username": "sensor", "password": sys.argv[2]}, tls={"ca_certs": sys.argv[3]})',
    ]
    await output(PYTHON, '-c', script.join('\n'), `${port}`, sensor, ca(place))
    expect((await received()).sort()).toEqual([
      'hello/mosquitto hi',
      'hello/mqttjs hi',
      'hello/paho hi',
      'hello/wss hi',
    ])

    // Nobody else gets in, on no address of this machine.
    expect((await pub(...message)).stderr).toContain('not authori')
    expect((await pub('-u', 'sensor', '-P', 'wrong', ...message)).code).not.toBe(0)
    expect((await pub('-h', '127.0.0.1', ...message)).stderr).toContain('not authori')
    const stranger = await new Program('mosquitto_pub', [
      ...['-h', 'localhost', '-p', `${port}`, '--capath', '/etc/ssl/certs', '-u', 'sensor', '-P', sensor],
      ...message,
    ]).ended
    expect(stranger.code).not.toBe(0)
    await expect(connectAsync(`mqtts://localhost:${port}`, { reconnectPeriod: 0 })).rejects.toThrow(
      /certificate/,
    )
  })

  test('files belong to the user, and nobody else can read secrets', async () => {
    const runner = await runnerOf()
    const { directory } = await made(runner)
    const mode = (name: string): string => (statSync(join(directory, name)).mode & 0o777).toString(8)
    expect(['.', 'ca.key', 'server.key', 'accounts.json', 'ca.crt'].map(mode)).toEqual([
      '700',
      '600',
      '600',
      '600',
      '644',
    ])
    for (const name of [
      '.',
      'ca.key',
      'server.key',
      'server.crt',
      'accounts.json',
      'ca.crt',
      'godwit.yaml',
      'CURRENT',
    ]) {
      expect([name, statSync(join(directory, name)).uid]).toEqual([name, runner.uid])
    }
  })
})

describe('the lines that setup prints', () => {
  test('can be pasted', async () => {
    const place = await made(ourselves())
    const received = await messages(await mqttjs(place), 'hello/#', 3)
    const block = (first: string, last: RegExp): string => {
      const from = place.printed.indexOf(first)
      expect(from).toBeGreaterThan(0)
      const rest = place.printed.slice(from)
      return rest.slice(0, last.exec(rest)!.index)
    }
    await output('sh', '-c', block('mosquitto_pub -h', /\n/))
    await output(PYTHON, '-c', block('import paho', /\n\n/))
    const script = block('import { readFileSync }', /\n\n/)
    const node = started([process.execPath, '--input-type=module', '-e', script], ROOT)
    expect((await node.ended).stderr).toBe('')
    expect(await received()).toEqual(Array(3).fill('hello/world hi'))
    // A raw string begins with a line break of its own only where one is written.
    const [, pem] = /R"\(([^)]*)\)"/.exec(place.printed)!
    expect(pem).toBe(readFileSync(ca(place), 'utf8'))
  })

  test('have the same fingerprint as openssl prints', async () => {
    const place = await made(ourselves())
    const shown = await output('openssl', 'x509', '-in', ca(place), '-noout', '-fingerprint', '-sha256')
    expect(place.printed).toContain(`SHA-256 fingerprint ${shown.trim().split('=')[1]}`)
  })

  test('and the secrets are nowhere else: not in the log, not in files', async () => {
    const place = await made(ourselves())
    await mqttjs(place)
    place.broker.signal('SIGTERM')
    const log = (await place.broker.ended).stdout
    expect(log).toContain('client connected')
    expect(log).not.toContain(place.password)
    const found = await new Program('grep', ['-r', place.password, place.directory]).ended
    expect([found.code, found.stdout]).toEqual([1, ''])
  })
})

describe('setup, run again', () => {
  test('changes nothing, says so, and shows no password', async () => {
    const place = await made(ourselves())
    const { directory } = place
    const names = ['ca.crt', 'ca.key', 'server.crt', 'server.key', 'godwit.yaml', 'accounts.json']
    const all = (): string[] => names.map((name) => readFileSync(join(directory, name), 'utf8'))
    const before = all()
    const again = await told(ourselves(), 'setup', '--data', directory, '--name', 'other.example.org')
    expect(all()).toEqual(before)
    for (const name of ['ca.crt', 'server.crt', 'godwit.yaml', 'the administrator admin']) {
      expect(again).toContain(`godwit kept ${name}`)
    }
    expect(again).not.toContain('godwit made')
    expect(again).not.toContain(place.password)
    expect(again).toContain(`-p ${place.port} `)
    expect(again).toMatch(
      /does not name other\.example\.org; to add: .* --renew .* --name other\.example\.org/,
    )
  })

  test('--renew: the running broker serves the new certificate, and nobody is disconnected', async () => {
    const place = await made(ourselves())
    const client = await mqttjs(place)
    let closed = false
    client.on('close', () => {
      closed = true
    })
    const shown = async (): Promise<string> => {
      const socket: TLSSocket = connect({ port: place.port, host: 'localhost', ca: readFileSync(ca(place)) })
      await new Promise((resolve) => socket.once('secureConnect', resolve))
      const { subjectaltname = '' } = socket.getPeerCertificate()
      socket.destroy()
      return subjectaltname
    }
    expect(await shown()).not.toContain('other.example.org')
    await told(ourselves(), 'setup', '--renew', '--name', 'other.example.org', '--data', place.directory)
    await place.broker.until((stdout) => stdout.includes('certificate loaded'))
    expect(await shown()).toContain('DNS:other.example.org')
    await client.publishAsync('still', 'here', { qos: 1 })
    expect(closed).toBe(false)
  })

  test('missing files are made, incomplete ones are refused', async () => {
    const { directory, broker } = await made(ourselves())
    await broker.kill()
    rmSync(join(directory, 'server.crt'))
    const half = await ran(ourselves(), 'setup', '--data', directory)
    expect([half.code, half.stderr]).toEqual([1, expect.stringContaining('server.crt is missing')])
    rmSync(join(directory, 'server.key'))
    expect(await told(ourselves(), 'setup', '--data', directory)).toContain('godwit made server.crt')
    rmSync(join(directory, 'server.crt'))
    rmSync(join(directory, 'server.key'))
    rmSync(join(directory, 'ca.key'))
    const unsigned = await ran(ourselves(), 'setup', '--data', directory)
    expect([unsigned.code, unsigned.stderr]).toEqual([1, expect.stringContaining('ca.key is missing')])
  })
})

describe('the certificates', () => {
  test('are accepted by strict OpenSSL, Python and Node, by name and by address', async () => {
    const place = await made(ourselves())
    const strict = ['-x509_strict', '-purpose', 'sslserver', '-CAfile', ca(place)]
    for (const name of [
      ['-verify_hostname', 'localhost'],
      ['-verify_ip', '127.0.0.1'],
      ['-verify_ip', '::1'],
    ]) {
      await output('openssl', 'verify', ...strict, ...name, join(place.directory, 'server.crt'))
    }
    const script = [
      'import socket, ssl, sys',
      'context = ssl.create_default_context(cafile=sys.argv[1])',
      'context.verify_flags |= ssl.VERIFY_X509_STRICT',
      'for host in ("localhost", "127.0.0.1", "::1"):',
      '    with socket.create_connection((host, int(sys.argv[2]))) as raw:',
      '        with context.wrap_socket(raw, server_hostname=host) as secure: print(secure.version())',
    ]
    const versions = await output(PYTHON, '-c', script.join('\n'), ca(place), `${place.port}`)
    expect(versions.trim().split('\n')).toEqual(['TLSv1.3', 'TLSv1.3', 'TLSv1.3'])
    for (const host of ['localhost', '127.0.0.1', '[::1]']) {
      const url = `mqtts://${host}:${place.port}`
      const options = { ca: readFileSync(ca(place)), username: 'admin', password: place.password }
      clients.push(await connectAsync(url, { ...options, reconnectPeriod: 0 }))
    }
  })
})

// Only root can show what root does; the warning above says so to others.
if (IS_ROOT)
  describe('root', () => {
    test('sets up for another user, and runs as that user', async () => {
      // Directories for tests are closed to others.
      const home = await temporaryDirectory()
      chmodSync(home, 0o755)
      const runner = { ...ourselves(), home: async () => home }
      const place = await made(runner, '--user', `${NOBODY.uid}:${NOBODY.gid}`)
      expect(place.printed).not.toContain('godwit note')
      const status = readFileSync(`/proc/${place.broker.pid}/status`, 'utf8')
      expect(status).toMatch(new RegExp(`^Uid:(\\s+${NOBODY.uid}){4}$`, 'm'))
      expect(status).toMatch(new RegExp(`^Gid:(\\s+${NOBODY.gid}){4}$`, 'm'))
      for (const name of ['.', 'server.key', 'accounts.json', 'CURRENT', 'control.sock']) {
        expect([name, statSync(join(place.directory, name)).uid]).toEqual([name, NOBODY.uid])
      }
      // Files that root changes still belong to the user.
      await told(ourselves(), 'user', 'add', 'sensor', '--generate', '--data', place.directory)
      await told(ourselves(), 'setup', '--renew', '--data', place.directory)
      expect(statSync(join(place.directory, 'server.key')).uid).toBe(NOBODY.uid)
      await place.broker.until((stdout) => stdout.includes('certificate loaded'))
      await mqttjs(place)
    })

    test('is told when the other user cannot reach the directory', async () => {
      const home = await temporaryDirectory()
      const words = ['setup', '--data', join(home, 'data'), '--user', `${NOBODY.uid}`]
      expect(await told(ourselves(), ...words)).toContain(
        `godwit note: '${NOBODY.uid}' may not enter ${home}`,
      )
    })

    test('sets up a directory of another user with files of that user', async () => {
      // Root works as that user there, who has to be able to reach it.
      const home = await temporaryDirectory()
      chmodSync(home, 0o755)
      const directory = join(home, 'data')
      mkdirSync(directory)
      chownSync(directory, NOBODY.uid, NOBODY.gid)
      await told(ourselves(), 'setup', '--data', directory)
      for (const name of ['ca.key', 'server.key', 'accounts.json', 'godwit.yaml']) {
        expect([name, statSync(join(directory, name)).uid]).toEqual([name, NOBODY.uid])
      }
    })
  })

test('another user is told that only root can run as another user', async () => {
  const runner = IS_ROOT ? await nobody() : ourselves()
  const { code, stderr } = await ran(runner, '--user', 'root', '--data', await runner.home(), '--port', '0')
  expect([code, stderr]).toEqual([1, expect.stringContaining("only root can run godwit as 'root'")])
  const none = await ran(runner, '--user', 'no-such-user', '--data', await runner.home(), '--port', '0')
  expect([none.code, none.stderr]).toEqual([1, expect.stringContaining("no user 'no-such-user'")])
})
