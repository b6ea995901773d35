/** Which web pages and Host names a WebSocket listener serves: a browser connects on behalf of whoever looks at a page. */
import { isIP } from 'node:net'
import { DEFAULT_HOST, isLoopbackHost, type ListenerOptions } from './listener.ts'

/** The entry of `allowed_origins` that stands for every page. */
export const EVERY_ORIGIN = '*'

/** The opening handshake, as far as it says where it comes from. */
export interface Asked {
  /** The `Origin` header, which only browsers have to send. */
  readonly origin: string | undefined
  /** Host and port that were asked for: of the request target where it names them, else of the `Host` header. */
  readonly host: string
  /** The port on which it came in. */
  readonly port: number
}

/** What the listener knows when it is asked. */
export interface Situation {
  /** Whether there are users with passwords: they end anonymous access that nobody has asked for. */
  readonly hasUsers: boolean
  /** Whether this is a name or an address of this machine, or a name of the listener's certificate. */
  readonly isKnownName: (name: string) => boolean
}

/** A host and port, always with the port. */
interface Authority {
  readonly name: string
  readonly port: number
}

const DEFAULT_WEB_PORTS: Readonly<Record<string, number>> = { 'http:': 80, 'https:': 443 }

/** An origin that may be repeated in an answer: nothing that a terminal or a page could stumble over. */
const REPEATABLE_ORIGIN = /^[a-z][a-z0-9+.-]{0,30}:\/\/[\w.:[\]-]{0,260}$/i

/** Why a page or Host name is refused, in one sentence, and what its operator can do about it. */
export interface OriginRefusal {
  readonly reason: string
  readonly advice: string
}

/** Judges who asks; null lets it pass. */
export function originRefusal(
  options: ListenerOptions,
  asked: Asked,
  situation: Situation,
): OriginRefusal | null {
  const { allowedOrigins } = options
  if (allowedOrigins !== undefined) {
    if (asked.origin === undefined || isListed(allowedOrigins, asked.origin)) return null
    return refusal(options, asked.origin, `pages of ${shownOrigin(asked.origin)} are not in allowed_origins`)
  }
  // Where everybody shows a password, a page has nothing that it did not ask its reader for.
  if (!letsInWithoutPassword(options, situation)) return null
  return hostRefusal(options, asked, situation) ?? pageRefusal(options, asked)
}

/** An origin as it is compared: in lower case, without the port that its scheme has by habit. */
export function normalOrigin(origin: string): string {
  const plain = origin.toLowerCase()
  const parsed = URL.canParse(plain) ? new URL(plain) : null
  // The origin of another scheme, such as an app's, is opaque to URL and compared as it is written.
  return parsed !== null && parsed.protocol in DEFAULT_WEB_PORTS ? parsed.origin : plain
}

/** Whether somebody is let in who shows no password: anonymously, or by a certificate that a browser shows unasked. */
function letsInWithoutPassword(options: ListenerOptions, { hasUsers }: Situation): boolean {
  const isAnonymous = options.allowAnonymous && !(options.anonymousUnlessUsers === true && hasUsers)
  return isAnonymous || (options.tls?.clientCertificate ?? 'none') !== 'none'
}

/**
 * A page whose name was made to point at this machine (DNS rebinding) has its own name as origin and as Host. A loopback
 * listener therefore answers to known names only. Elsewhere the names are not known, since proxies forward theirs: there
 * only a page that claims to come from this very port is one, for nothing but MQTT is served here.
 */
function hostRefusal(
  options: ListenerOptions,
  asked: Asked,
  { isKnownName }: Situation,
): OriginRefusal | null {
  const host = authorityOf(asked.host, options.type === 'wss' ? 'https:' : 'http:')
  if (host !== null && (isOwnName(options, host.name) || isKnownName(host.name))) return null
  if (!isLoopbackHost(options.host) && (asked.origin === undefined || host?.port !== asked.port)) return null
  const name = host === null ? 'the Host header that was sent' : `'${host.name}'`
  const reason = `${name} is no known name of this broker, which lets clients in without a password`
  return refusal(options, asked.origin, reason)
}

function pageRefusal(options: ListenerOptions, { origin, host }: Asked): OriginRefusal | null {
  if (origin === undefined || isSameOrigin(options, origin, host)) return null
  const reason = `pages of ${shownOrigin(origin)} may not connect to this broker, which lets clients in without a password`
  return refusal(options, origin, reason)
}

/** Behind a proxy that ends TLS a `ws` listener is asked by pages of https; a `wss` listener never serves pages of http. */
function isSameOrigin({ type }: ListenerOptions, origin: string, asked: string): boolean {
  const page = URL.canParse(origin) ? new URL(origin) : null
  if (page === null || !(page.protocol in DEFAULT_WEB_PORTS)) return false
  if (type === 'wss' && page.protocol !== 'https:') return false
  const from = authorityOf(page.host, page.protocol)
  const host = authorityOf(asked, page.protocol)
  return from !== null && host !== null && from.name === host.name && from.port === host.port
}

/** Null for what is no host with an optional port. */
function authorityOf(host: string, scheme: string): Authority | null {
  if (host === '' || /[/?#@\\\s]/.test(host) || !URL.canParse(`${scheme}//${host}`)) return null
  const { hostname, port } = new URL(`${scheme}//${host}`)
  const name = hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '')
  return { name, port: port === '' ? DEFAULT_WEB_PORTS[scheme]! : Number(port) }
}

/** Names that always lead to this machine, and the one that the configuration gives the listener. */
function isOwnName({ host = DEFAULT_HOST }: ListenerOptions, name: string): boolean {
  return name === 'localhost' || name === '::1' || isLoopbackAddress(name) || name === host.toLowerCase()
}

function isLoopbackAddress(name: string): boolean {
  return isIP(name) === 4 && name.startsWith('127.')
}

function isListed(allowed: readonly string[], origin: string): boolean {
  const asked = normalOrigin(origin)
  return allowed.some((one) => one === EVERY_ORIGIN || normalOrigin(one) === asked)
}

function shownOrigin(origin: string): string {
  if (origin === 'null') return 'files and sandboxed frames (Origin: null)'
  return REPEATABLE_ORIGIN.test(origin) ? origin : 'this origin'
}

function refusal({ name }: ListenerOptions, origin: string | undefined, reason: string): OriginRefusal {
  const example = origin !== undefined && REPEATABLE_ORIGIN.test(origin) ? origin : 'https://example.org'
  const advice =
    `To allow a page, name its origin: allowed_origins: ["${example}"] of the listener '${name}' in the configuration, or ` +
    `for all listeners on the command line: godwit --set 'allowed_origins=["${example}"]'`
  return { reason, advice }
}
