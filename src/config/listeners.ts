/** Turns the settings of listeners into options for the transports. */
import type { HttpOptions } from '../http/http-options.ts'
import {
  DEFAULT_HOST,
  DEFAULT_PORTS,
  isLoopbackHost,
  type ListenerOptions,
} from '../transport/listener/listener.ts'
import type { TlsOptions } from '../transport/tls/tls.ts'
import type { ConfigProblem } from './config-error.ts'
import { display } from './display.ts'
import type { HTTP } from './http-keys.ts'
import { type CamelCased, camelCased, expectNothing, type Parsed } from './key-row.ts'
import type { ListenerSettings, Settings } from './schema.ts'
import type { ConfigFlags, Sources } from './sources.ts'

/** The defaults for all listeners. */
export type ListenerDefaults = Pick<Settings, 'allow_anonymous' | 'client_id'> & {
  readonly allowed_origins?: readonly string[] | undefined
}

/** The keys that only some types of listeners have. */
const TYPES_OF_KEYS: Readonly<Record<string, readonly string[]>> = {
  host: ['tcp', 'tls', 'ws', 'wss'],
  port: ['tcp', 'tls', 'ws', 'wss'],
  path: ['unix'],
  mode: ['unix'],
  websocket_path: ['ws', 'wss'],
  allowed_origins: ['ws', 'wss'],
  server_keep_alive_seconds: ['ws', 'wss'],
  tls: ['tls', 'wss'],
}

const NO_CERTIFICATES = 'client_id is certificate, but the listener does not ask for one'

/** Returns the listeners without any configuration: only for this machine, with IPv6 if it is available. */
export function defaultListeners(defaults: ListenerDefaults): ListenerOptions[] {
  const settings: ListenerSettings[] = [
    { name: 'mqtt', type: 'tcp', host: '127.0.0.1', optional: false, lenient: [] },
    { name: 'mqtt-ipv6', type: 'tcp', host: '::1', optional: true, lenient: [] },
    { name: 'ws', type: 'ws', host: '127.0.0.1', optional: false, lenient: [] },
    { name: 'ws-ipv6', type: 'ws', host: '::1', optional: true, lenient: [] },
  ]
  return settings.map((listener) => listenerOptions(listener, defaults))
}

/**
 * Applies flags: `--port` and `--ws-port` replace all listeners and leave out HTTP; `--host` alone moves the
 * default ones.
 */
export function flagListeners(sources: Sources, { host, port, wsPort }: ConfigFlags): void {
  if (host === undefined && port === undefined && wsPort === undefined) return
  const neither = port === undefined && wsPort === undefined
  if (neither && sources.at(['listeners']) !== undefined) {
    sources.problems.push({
      where: '--host',
      key: 'listeners',
      message:
        'the configured listeners have their own hosts; add --port or --ws-port to replace these listeners',
    })
    return
  }
  const address = host ?? DEFAULT_HOST
  const tcp = { name: 'mqtt', type: 'tcp', host: address, port: DEFAULT_PORTS.tcp }
  const ws = { name: 'ws', type: 'ws', host: address, port: DEFAULT_PORTS.ws }
  const chosen = [
    ...(neither || port !== undefined ? [tcp] : []),
    ...(neither || wsPort !== undefined ? [ws] : []),
  ]
  // Whoever names ports gets these alone, unless the HTTP listener is asked for, too.
  if (!neither && sources.at(['http']) === undefined) sources.put('--port', ['http', 'enabled'], false)
  sources.put(neither ? '--host' : port !== undefined ? '--port' : '--ws-port', ['listeners'], chosen)
  if (port !== undefined) sources.set('--port', ['listeners', 0, 'port'], port)
  if (wsPort !== undefined) sources.set('--ws-port', ['listeners', chosen.indexOf(ws), 'port'], wsPort)
  if (host !== undefined)
    chosen.forEach((_, i) => {
      sources.put('--host', ['listeners', i, 'host'], host)
    })
}

/** Returns the options of a validated listener with all defaults filled in. */
export function listenerOptions(settings: ListenerSettings, defaults: ListenerDefaults): ListenerOptions {
  // A key that is added to the table and forgotten here does not compile.
  const {
    type,
    host,
    port,
    path,
    mode,
    tls,
    lenient,
    optional,
    name = defaultName(settings),
    ...others
  } = settings
  const {
    websocket_path: webSocketPath = '/mqtt',
    server_keep_alive_seconds: serverKeepAliveSeconds,
    ...more
  } = others
  const {
    allow_anonymous: ownAnonymous,
    allowed_origins,
    client_id,
    in_flight_max: inFlightMax,
    ...rest
  } = more
  expectNothing(rest)
  const { allow_anonymous: allowAnonymous } = defaults
  const clientIdRule = client_id ?? defaults.client_id
  const isWeb = type === 'ws' || type === 'wss'
  const allowedOrigins = allowed_origins ?? (isWeb ? defaults.allowed_origins : undefined)
  const place =
    type === 'unix'
      ? { path: path ?? '', ...(mode !== undefined && { mode: Number.parseInt(mode, 8) }) }
      : { host: host ?? DEFAULT_HOST, port: port ?? DEFAULT_PORTS[type] }
  const options = {
    name,
    type,
    ...place,
    ...(isWeb && { webSocketPath }),
    ...(allowedOrigins !== undefined && { allowedOrigins }),
    ...(serverKeepAliveSeconds !== undefined && { serverKeepAliveSeconds }),
    ...(inFlightMax !== undefined && { inFlightMax }),
    ...(tls !== undefined && { tls: tlsOptions(tls) }),
    ...(clientIdRule !== 'free' && { clientIdRule }),
    ...(lenient.length > 0 && { lenient }),
    optional,
  }
  return {
    ...options,
    allowAnonymous: ownAnonymous ?? anonymousByDefault(options, allowAnonymous),
    ...(ownAnonymous === undefined && allowAnonymous === 'loopback' && { anonymousUnlessUsers: true }),
  }
}

/** Whether only this machine can reach the listener. */
export function isLoopbackOnly(options: Pick<ListenerOptions, 'type' | 'host'>): boolean {
  return options.type === 'unix' || isLoopbackHost(options.host)
}

/** Finds problems that a schema cannot express: keys of another type, and names or addresses used twice. */
export function listenerProblems(sources: Sources): ConfigProblem[] {
  const problems: ConfigProblem[] = []
  const report = (path: (string | number)[], message: string) =>
    problems.push({ where: sources.where(path), key: path.join('.'), message })
  const listeners = sources.at(['listeners'])
  const clientId = sources.at(['client_id'])
  if (!Array.isArray(listeners)) {
    const message = `${NO_CERTIFICATES}: configure listeners with tls.client_certificate`
    if (clientId === 'certificate') report(['client_id'], message)
    return problems
  }
  const names = new Map<string, number>()
  const addresses = new Map<string, number>()
  listeners.forEach((listener: unknown, i) => {
    if (typeof listener !== 'object' || listener === null) return
    const settings = listener as ListenerSettings
    for (const [key, types] of Object.entries(TYPES_OF_KEYS)) {
      if (!(key in settings) || typeof settings.type !== 'string' || types.includes(settings.type)) continue
      report(
        ['listeners', i, key],
        `a ${display(settings.type)} listener has no such key; it belongs to ${types.join(', ')}`,
      )
    }
    if (settings.type === 'unix' && settings.path === undefined) {
      report(['listeners', i], 'a unix listener needs path, the socket file')
    }
    if ((settings.type === 'tls' || settings.type === 'wss') && settings.tls === undefined) {
      report(['listeners', i], `a ${settings.type} listener needs tls with cert and key`)
    }
    const asksForCertificates = (settings.tls?.client_certificate ?? 'none') !== 'none'
    if ((settings.client_id ?? clientId) === 'certificate' && !asksForCertificates) {
      report(
        ['listeners', i, 'client_id'],
        `${NO_CERTIFICATES}: set tls.client_certificate, or client_id: free`,
      )
    }
    const name = settings.name ?? defaultName(settings)
    const namesake = names.get(name)
    if (namesake !== undefined) report(['listeners', i], `listeners.${namesake} is also named '${name}'`)
    names.set(name, i)
    const address = addressOf(settings)
    const neighbour = addresses.get(address)
    if (neighbour !== undefined && !address.endsWith(' 0')) {
      report(['listeners', i], `listeners.${neighbour} has the same address`)
    }
    addresses.set(address, i)
  })
  return problems
}

function tlsOptions(settings: NonNullable<ListenerSettings['tls']>): TlsOptions {
  const { client_certificate: clientCertificate, minimum_version: minimumVersion, ...files } = settings
  const { cert, key, passphrase, ca, crl, ...rest } = files
  expectNothing(rest)
  return {
    cert,
    key,
    ...(passphrase !== undefined && { passphrase }),
    ...(ca !== undefined && { ca }),
    ...(crl !== undefined && { crl }),
    clientCertificate,
    minimumVersion,
  }
}

function anonymousByDefault(
  options: Pick<ListenerOptions, 'type' | 'host'>,
  allow: ListenerDefaults['allow_anonymous'],
): boolean {
  return allow === 'loopback' ? isLoopbackOnly(options) : allow
}

function portOf(settings: ListenerSettings): number {
  return settings.port ?? (settings.type === 'unix' ? 0 : DEFAULT_PORTS[settings.type])
}

function defaultName(settings: ListenerSettings): string {
  return settings.type === 'unix' ? `unix-${settings.path}` : `${settings.type}-${portOf(settings)}`
}

function addressOf(settings: ListenerSettings): string {
  return settings.type === 'unix'
    ? `unix ${settings.path}`
    : `${settings.host ?? DEFAULT_HOST} ${portOf(settings)}`
}

/** The settings of `http` in the configuration. */
export type HttpConfig = Omit<CamelCased<Parsed<typeof HTTP>>, 'tls'> & {
  readonly tls: CamelCased<Parsed<(typeof HTTP)['tls']>>
}

/** Renames the keys for programs. */
export function httpConfig({ tls, ...settings }: Parsed<typeof HTTP>): HttpConfig {
  return { ...camelCased(settings), tls: camelCased(tls) }
}

/** Returns the options of the HTTP listener; null if there is none. */
export function httpOptions({ enabled, tls, ...settings }: HttpConfig): HttpOptions | null {
  if (enabled === false) return null
  const { cert, key, passphrase, minimumVersion } = tls
  const secure =
    cert === undefined || key === undefined
      ? {}
      : { tls: { cert, key, minimumVersion, ...(passphrase !== undefined && { passphrase }) } }
  return { ...settings, isRequired: enabled === true, ...secure }
}

/** Finds problems that a schema cannot express: half of TLS. */
export function httpProblems(sources: Sources): ConfigProblem[] {
  const has = (...path: string[]): boolean => (sources.at(['http', ...path]) ?? undefined) !== undefined
  const problem = (path: string[], message: string): ConfigProblem[] => [
    { where: sources.where(['http', ...path]), key: ['http', ...path].join('.'), message },
  ]
  return [
    ...(has('tls', 'cert') === has('tls', 'key')
      ? []
      : has('tls', 'cert')
        ? problem(['tls', 'cert'], 'a certificate needs its key: name it in http.tls.key')
        : problem(['tls', 'key'], 'a key needs its certificate: name it in http.tls.cert')),
  ]
}
