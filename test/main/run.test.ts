import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Events } from '../../src/broker/boundary/events.ts'
import type { ExitCode, ProcessContext, StartOptions } from '../../src/cli/grammar/context.ts'
import { run } from '../../src/cli/run.ts'
import type { RunningBroker } from '../../src/cli/start/running-broker.ts'
import { StoreError } from '../../src/store/store.ts'
import type { Listener, ListenerOptions } from '../../src/transport/listener/listener.ts'
import { openFiles } from '../../src/transport/open-files.ts'
import { Authority, DAY_MS } from '../transport/tls/authority.ts'

/** A process and a broker that do what the test says. */
class Stage {
  stdout = ''
  stderr = ''
  isTTY = false
  exits: ExitCode[] = []
  started: StartOptions | undefined
  closedWith: number | undefined
  readonly events = new Events()
  startError: Error | undefined
  changeError: Error | undefined
  openFilesMax = Number.POSITIVE_INFINITY
  readonly changed: object[] = []
  reread: () => void = () => {}
  closing: Promise<void> = Promise.resolve()
  signal: (name: string) => void = () => {}
  hangUp: () => void = () => {}
  uncaught: (error: unknown) => void = () => {}
  fail: (error: Error) => void = () => {}
  readonly ready: Promise<void>
  #onReady: () => void = () => {}

  constructor() {
    this.ready = new Promise((resolve) => {
      this.#onReady = resolve
    })
  }

  run(words: string[], environment: Record<string, string> = {}): Promise<ExitCode> {
    const stage = this
    const context: ProcessContext = {
      words,
      environment,
      stdin: Readable.from([]),
      askSecret: null,
      stdout: {
        write(text: string) {
          stage.stdout += text
          if (text.includes('godwit data') || text.includes('durability')) stage.#onReady()
        },
        isTTY: this.isTTY,
      },
      stderr: {
        write(text: string) {
          stage.stderr += text
        },
      },
      startBroker: async (options) => this.#start(options),
      onStopSignal: (callback) => {
        this.signal = callback
      },
      onReloadSignal: (callback) => {
        this.hangUp = callback
      },
      onUncaught: (callback) => {
        this.uncaught = callback
      },
      now: () => 0,
      exit: (code) => this.exits.push(code),
    }
    return run(context)
  }

  get lines(): string[] {
    return this.stdout.trimEnd().split('\n')
  }

  #start(options: StartOptions): RunningBroker {
    this.started = options
    if (this.startError !== undefined) throw this.startError
    return {
      hasUsers: false,
      openFiles: openFiles(this.openFilesMax),
      listeners: options.listeners.map(listening),
      events: this.events,
      fatal: new Promise((resolve) => {
        this.fail = resolve
      }),
      reconfigure: async (changes) => {
        if (this.changeError !== undefined) throw this.changeError
        this.changed.push(changes)
        return []
      },
      cutOffBy: () => [],
      cappedBy: () => ({ shortened: 0, ended: 0 }),
      beyondBy: () => [],
      orphanedBy: () => [],
      reread: async () => this.reread(),
      close: ({ seconds }) => {
        this.closedWith = seconds
        return this.closing
      },
    }
  }
}

function listening({ name, type, host = '', port = 0, webSocketPath = '' }: ListenerOptions): Listener {
  const place = host.includes(':') ? `[${host}]` : host
  const scheme = type === 'tcp' ? 'mqtt' : type
  const actual = port === 0 ? 54321 : port
  return {
    name,
    type,
    address: `${scheme}://${place}:${actual}${webSocketPath}`,
    port: actual,
    certificates: null,
    reconfigure: () => {},
    close: async () => {},
  }
}

let stage: Stage
let directory: string

beforeEach(() => {
  stage = new Stage()
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
})

afterEach(() => rmSync(directory, { recursive: true, force: true }))

function file(text: string): string {
  const path = join(directory, 'godwit.yaml')
  writeFileSync(path, text)
  return path
}

describe('godwit', () => {
  test('prints listeners, data directory, how to serve other machines, and commands to try', async () => {
    const running = stage.run(['--data', '/var/lib/godwit'])
    await stage.ready
    stage.signal('SIGTERM')
    expect(await running).toBe(0)
    expect(stage.lines).toEqual([
      expect.stringMatching(/^godwit \d+\.\d+\.\d+$/),
      'godwit listening on mqtt://127.0.0.1:1883',
      'godwit listening on mqtt://[::1]:1883',
      'godwit listening on ws://127.0.0.1:8083/mqtt',
      'godwit listening on ws://[::1]:8083/mqtt',
      'godwit data in /var/lib/godwit, durability fsync: acknowledged messages are on disk',
      'godwit serves only this machine; everybody on it may connect without a password',
      'godwit for other machines, with TLS and passwords: godwit setup',
      'godwit for other machines, without either: ' +
        'godwit --data /var/lib/godwit --host 0.0.0.0 --set allow_anonymous=true',
      "godwit try: mosquitto_sub -h 127.0.0.1 -p 1883 -t 'hello/#' -v",
      'godwit try: mosquitto_pub -h 127.0.0.1 -p 1883 -t hello/world -m hi',
      'godwit stopping after SIGTERM: telling clients, committing',
      'godwit stopped',
    ])
    expect(stage.stderr).toBe('')
    expect(stage.closedWith).toBe(5)
  })

  test('the command line that serves other machines does so', async () => {
    const running = stage.run([
      'start',
      '--host=127.0.0.1',
      '--port',
      '0',
      '--set',
      'sys.interval_seconds=5 ',
    ])
    await stage.ready
    const line = stage.lines.find((text) => text.includes('without either'))
    expect(line).toMatch(
      /: godwit start --port 0 --set 'sys.interval_seconds=5 ' --host 0\.0\.0\.0 --set allow_anonymous=true$/,
    )
    expect(stage.lines).toContain('godwit listening on mqtt://127.0.0.1:54321')
    expect(stage.lines).toContain("godwit try: mosquitto_sub -h 127.0.0.1 -p 54321 -t 'hello/#' -v")
    stage.signal('SIGINT')
    await running

    const open = new Stage()
    const other = open.run(['start', '--port', '0', '--host', '0.0.0.0', '--set', 'allow_anonymous=true'])
    await open.ready
    open.signal('SIGINT')
    expect(await other).toBe(0)
    expect(open.started?.listeners).toMatchObject([{ host: '0.0.0.0', allowAnonymous: true }])
    expect(open.stdout).not.toContain('this machine only')
    expect(open.stdout).toContain('mosquitto_sub -h 127.0.0.1')
  })

  test('names listeners that only accept clients with credentials', async () => {
    const running = stage.run(['--host', '0.0.0.0', '--port', '1883'])
    await stage.ready
    stage.signal('SIGTERM')
    await running
    expect(stage.lines).toContain("godwit listener 'mqtt' accepts only clients with credentials")
  })

  test('names listeners that accept everybody', async () => {
    const running = stage.run(['--host', '0.0.0.0', '--set', 'allow_anonymous=true'])
    await stage.ready
    stage.signal('SIGTERM')
    await running
    expect(stage.lines).toContain(
      "godwit listener 'mqtt' accepts everybody who can reach it, without a password (allow_anonymous)",
    )
  })

  test('warns if the limit of open files allows few connections, or fewer than connections_max', async () => {
    stage.openFilesMax = 1024
    const running = stage.run(['--set', 'limits.connections_max=5000'])
    await stage.ready
    stage.signal('SIGTERM')
    await running
    expect(stage.lines).toContain(
      'godwit note: connections_max is 5000, but the limit of open files, 1024, allows 896 ' +
        'connections (raise LimitNOFILE in the systemd unit, or ulimit -n)',
    )
  })

  test('takes file, environment and flags', async () => {
    const path = file(
      'limits: {in_flight_max: 7}\nshutdown_seconds: 1\nlisteners: [{type: tcp, port: 1999}]\n',
    )
    const running = stage.run(['--config', path, '--durability', 'memory', '--log-level=warn'], {
      GODWIT_SYS_INTERVAL_SECONDS: 'off',
    })
    await stage.ready
    stage.signal('SIGTERM')
    await running
    expect(stage.started).toMatchObject({
      dataDirectory: './godwit-data',
      durability: 'memory',
      limits: { inFlightMax: 7 },
      listeners: [{ port: 1999 }],
      sysIntervalSeconds: 0,
    })
    expect(stage.closedWith).toBe(1)
    expect(stage.stdout).toContain('durability memory: nothing is stored')
    expect(stage.stdout).toContain(
      'set host: 0.0.0.0 and allow_anonymous: true for a listener of the configuration',
    )
  })

  test('--help and --version', async () => {
    expect(await stage.run(['--help'])).toBe(0)
    for (const option of [
      '--config',
      '--host',
      '--port',
      '--ws-port',
      '--data',
      '--durability',
      '--log-level',
      '--set',
    ]) {
      expect(stage.stdout).toContain(option)
    }
    const other = new Stage()
    expect(await other.run(['--version'])).toBe(0)
    expect(other.stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  test.each([
    [['--prot', '1883'], 'unknown option --prot; did you mean --port?'],
    [['-x'], 'unknown option -x'],
    [['--port'], '--port needs a value\n'],
    [['-p', '--json'], '-p needs a value; one that begins with - is written --option=VALUE\n'],
    [['--json=yes'], '--json takes no value'],
    [['strat'], "unknown command 'strat'; did you mean start?"],
    [['start', 'now'], "start does not expect 'now'"],
    [['check'], 'check needs a file: godwit check FILE'],
    [['check', 'a', 'b'], "check does not expect 'b'"],
    [['check', 'a', '--port', '1'], 'check has no option --port'],
    [['backup'], 'backup needs a target: godwit backup TARGET'],
    [['restore'], 'restore needs a source: godwit restore SOURCE'],
    [['status', 'all'], "status does not expect 'all'"],
    [['export', 'a', 'b'], "export does not expect 'b'"],
    [['backup', 'a', '--port', '1'], 'backup has no option --port'],
    [['backup', 'a', '--force'], 'backup has no option --force'],
    [['check-store', 'a', '--data', 'b'], 'check-store takes one directory: a, or --data b'],
    [['repare'], "unknown command 'repare'; did you mean repair?"],
    [['constructor'], "unknown command 'constructor'"],
  ])('%j is wrong usage', async (words, message) => {
    expect(await stage.run(words)).toBe(2)
    expect(stage.stderr).toContain(message)
    expect(stage.stderr).toContain('godwit --help')
    expect(stage.stdout).toBe('')
    expect(stage.started).toBeUndefined()
  })

  test('an invalid configuration prints all problems to stderr and ends with 2', async () => {
    const path = file('limits:\n  in_flight_max: 0\nlgo: {}\n')
    expect(await stage.run(['--config', path, '--port', 'x'])).toBe(2)
    expect(stage.stderr.trimEnd().split('\n')).toEqual([
      `${path}:2: limits.in_flight_max: found 0, allowed: a whole number from 1 to 65535`,
      `${path}:3: lgo: unknown key; did you mean log?`,
      '--port: listeners.0.port: found "x", allowed: a whole number from 0 to 65535',
      'Correct these places. `godwit check FILE` checks a file without starting a broker.',
      'Code: GODWIT_CONFIG_INVALID',
    ])
    expect(stage.started).toBeUndefined()
  })

  test('check prints ok or all problems', async () => {
    const path = file('limits: {in_flight_max: 5}\n')
    expect(await stage.run(['check', path])).toBe(0)
    expect(stage.stdout).toBe(`${path}: ok\nlimits: profile fleet; set by the file itself: in_flight_max\n`)
    const other = new Stage()
    expect(await other.run(['check', file('limits: {in_flight_max: none}\n')])).toBe(2)
    expect(other.stderr).toContain('limits.in_flight_max: found "none"')
  })

  test('check reports certificates and revocation lists that are not valid now [field-D25]', async () => {
    const authority = await Authority.create('Devices')
    const text = async (nowMs: number, crl: string): Promise<string> => {
      const { certificate, key } = await authority.server(nowMs)
      const tls = {
        cert: certificate,
        key,
        ca: authority.issued.certificate,
        crl,
        client_certificate: 'require',
      }
      return `listeners: ${JSON.stringify([{ type: 'tls', port: 1, tls }])}`
    }
    const list = await authority.crl()
    const path = file(await text(Date.now(), list))
    expect(await stage.run(['check', path])).toBe(0)
    for (const [nowMs, crl, told] of [
      [
        Date.now() - 500 * DAY_MS,
        list,
        /tls\.cert: listener 'tls-1': the certificate expired on [\d-]+, 10\d days ago/,
      ],
      [Date.now() + 5 * DAY_MS, list, /tls\.cert: listener 'tls-1': the certificate is not valid before /],
      [
        Date.now(),
        await authority.crlUntil(Date.now() - DAY_MS),
        /tls\.crl: listener 'tls-1': the list of revoked certificates by CN=Devices expired on /,
      ],
    ] as const) {
      file(await text(nowMs, crl))
      stage.stderr = ''
      expect(await stage.run(['check', path])).toBe(2)
      expect(stage.stderr).toMatch(told)
    }
  })

  test('check names each certificate and key with which a start would fail', async () => {
    const tls = (name: string) => new URL(`../fixtures/tls/${name}`, import.meta.url).pathname
    const listener = (port: number, cert: string, key: string) =>
      `  - type: tls\n    port: ${port}\n    tls:\n      cert: ${cert}\n      key: ${key}\n`
    const sound = `listeners:\n${listener(1, tls('server.pem'), tls('server-key.pem'))}`
    const path = file(sound)
    expect(await stage.run(['check', path])).toBe(0)
    file(
      sound +
        listener(2, '/nowhere/cert.pem', '/nowhere/key.pem') +
        listener(3, tls('server.pem'), tls('client-key.pem')),
    )
    expect(await stage.run(['check', path])).toBe(2)
    expect(stage.stderr.trimEnd().split('\n')).toEqual([
      expect.stringContaining(
        ":10: listeners.1.tls.cert: listener 'tls-2': cannot read /nowhere/cert.pem: ENOENT. Check",
      ),
      expect.stringMatching(/:11: listeners\.1\.tls\.key: listener 'tls-2': cannot read/),
      expect.stringMatching(/:14: listeners\.2\.tls: listener 'tls-3': .*cannot be used: .*mismatch/),
      'Correct these places. `godwit check FILE` checks a file without starting a broker.',
      'Code: GODWIT_CONFIG_INVALID',
    ])
  })

  test('a store that cannot be opened prints advice and ends with 1', async () => {
    stage.startError = new StoreError(
      'locked',
      'another broker uses /data',
      'Stop it, or use another --data.',
    )
    expect(await stage.run([])).toBe(1)
    expect(stage.stderr).toBe(
      'godwit: another broker uses /data\nStop it, or use another --data.\nCode: GODWIT_STORE_LOCKED\n',
    )
  })

  test('a broker that cannot continue is closed and ends with 1', async () => {
    const running = stage.run([])
    await stage.ready
    stage.fail(new StoreError('io', 'write failed', 'Check the disk.'))
    expect(await running).toBe(1)
    expect(stage.stderr).toBe('godwit: write failed\nCheck the disk.\nCode: GODWIT_STORE_IO\n')
    expect(stage.closedWith).toBe(5)
  })

  test('a second signal ends at once with 1', async () => {
    let finish: () => void = () => {}
    stage.closing = new Promise((resolve) => {
      finish = resolve
    })
    const running = stage.run([])
    await stage.ready
    stage.signal('SIGINT')
    expect(stage.exits).toEqual([])
    stage.signal('SIGINT')
    expect(stage.exits).toEqual([1])
    finish()
    await running
  })

  test('a broker that does not close ends with 1', async () => {
    stage.closing = new Promise(() => {})
    const running = stage.run(['--set', 'shutdown_seconds=0'])
    await stage.ready
    stage.signal('SIGTERM')
    expect(await running).toBe(1)
    expect(stage.stderr).toContain('not closed within 0 seconds')
  })

  test('a defect is logged and ends with 1', async () => {
    const running = stage.run([])
    await stage.ready
    stage.uncaught(new TypeError('x is not a function'))
    expect(stage.exits).toEqual([1])
    expect(stage.stderr).toContain('TypeError: x is not a function')
    expect(stage.stdout).toContain('"level":"fatal"')
    stage.signal('SIGTERM')
    await running
  })

  test.each([
    [true, [], /^\d\d:\d\d:\d\d info {2}client connected clientId=sensor-1 listener=mqtt/m],
    [false, [], /^\{"level":"info","time":"[^"]+","clientId":"sensor-1"/m],
    [true, ['--set', 'log.format=json'], /^\{"level":"info"/m],
    [false, ['--set', 'log.format=pretty'], /^\d\d:\d\d:\d\d info/m],
  ])('terminal %s, %j: the log has its format', async (isTTY, words, format) => {
    stage.isTTY = isTTY
    const running = stage.run(words)
    await stage.ready
    await new Promise((resolve) => setImmediate(resolve))
    stage.events.emit('connected', {
      client: {
        clientId: 'sensor-1',
        userName: null,
        protocolVersion: 5,
        link: {
          transport: 'tcp',
          listener: 'mqtt',
          remoteAddress: '127.0.0.1',
          remotePort: 5,
          allowAnonymous: true,
        },
      },
      sessionPresent: false,
      cleanStart: true,
      keepAliveSeconds: 60,
    })
    stage.signal('SIGTERM')
    await running
    expect(stage.stdout).toMatch(format)
    expect(stage.events.has('connected')).toBe(false)
  })
})

describe('SIGHUP', () => {
  /** A broker that runs with this file, and what it tells of reloads. */
  async function running(text: string) {
    const path = file(text)
    const told: string[] = []
    const next = (): Promise<void> =>
      new Promise((resolve) => {
        const off = stage.events.on('security', ({ kind, detail }) => {
          told.push(`${kind}: ${detail}`)
          if (!kind.startsWith('configuration-')) return
          off()
          resolve()
        })
      })
    const end = stage.run(['--config', path, '--durability', 'memory'])
    await stage.ready
    /** Null takes the file away. */
    const hangUp = async (changed: string | null): Promise<void> => {
      if (changed === null) rmSync(path)
      else file(changed)
      const answer = next()
      stage.hangUp()
      await answer
    }
    const stop = async (): Promise<void> => {
      stage.signal('SIGTERM')
      expect(await end).toBe(0)
    }
    return { told, hangUp, stop }
  }

  test('applies changes and reports them with those that wait for a restart', async () => {
    const { told, hangUp, stop } = await running('limits: {queue_bytes_max: 1MiB}')
    await hangUp('limits: {queue_bytes_max: 2MiB, receive_maximum: 7}\nshutdown_seconds: 1')
    expect(told).toEqual([
      'configuration-loaded: limits.queue_bytes_max: 1048576 -> 2097152, at once; ' +
        'limits.receive_maximum: 65535 -> 7, only after a restart; shutdown_seconds: 5 -> 1, at ' +
        'once; 0 clients cut off',
    ])
    expect(stage.changed).toMatchObject([{ limits: { queueBytesMax: 2097152, receiveMaximum: 65_535 } }])
    await stop()
    expect(stage.closedWith).toBe(1)
  })

  test('an invalid file changes nothing', async () => {
    const { told, hangUp, stop } = await running('limits: {queue_bytes_max: 1MiB}')
    await hangUp('limits: {queue_byte_max: 2MiB}')
    expect(told).toEqual([
      expect.stringMatching(
        /^configuration-refused: .*did you mean limits.queue_bytes_max.*keeps its old configuration$/,
      ),
    ])
    expect(stage.changed).toEqual([])
    await hangUp('listeners: [{type: tls, tls: {cert: none.crt, key: none.key}}]')
    expect(told[1]).toMatch(/^configuration-refused: .*cannot read .*none\.crt/)
    stage.changeError = new Error('port 1 is in use')
    await hangUp('limits: {queue_bytes_max: 2MiB}')
    expect(told[2]).toMatch(/^configuration-refused: port 1 is in use/)
    expect(stage.changed).toEqual([])
    stage.changeError = undefined
    // The refused configuration still differs from that of the broker.
    await hangUp('limits: {queue_bytes_max: 2MiB}')
    expect(told[3]).toMatch(/^configuration-loaded: limits.queue_bytes_max: 1048576 -> 2097152/)
    await stop()
  })

  test('a missing file is refused instead of falling back to the defaults', async () => {
    const { told, hangUp, stop } = await running('listeners: [{type: tcp, port: 5}]')
    await hangUp(null)
    expect(told[0]).toMatch(
      /^configuration-refused: .*there is no such file; the broker keeps its old configuration$/,
    )
    expect(stage.changed).toEqual([])
    await hangUp('listeners: [{type: tcp, port: 5}]')
    await stop()
  })

  test('a listener that accepts anonymous clients is reported once', async () => {
    const closed = 'listeners: [{name: a, type: tcp, host: 0.0.0.0}]'
    const open = 'listeners: [{name: a, type: tcp, host: 0.0.0.0, allow_anonymous: true}]'
    const { told, hangUp, stop } = await running(closed)
    await hangUp(open)
    expect(told[0]).toBe('anonymous-allowed: ')
    await hangUp(open)
    expect(told.slice(2)).toEqual(['configuration-loaded: nothing has changed; 0 clients cut off'])
    await stop()
  })

  test('reports other files that were read again', async () => {
    const { told, hangUp, stop } = await running('')
    stage.reread = () =>
      stage.events.emit('security', {
        kind: 'certificate-loaded',
        subject: 'mqtts',
        by: 'broker',
        detail: '',
      })
    await hangUp('')
    expect(told.at(-1)).toBe('configuration-loaded: certificate loaded: mqtts; 0 clients cut off')
    await stop()
  })
})
