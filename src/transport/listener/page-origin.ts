/**
 * Decides which web pages and Host names a WebSocket listener serves: any page can make a browser connect.
 */
import { isIP } from 'node:net'
import { DEFAULT_HOST, isLoopbackHost, type ListenerOptions } from './listener.ts'

/** The entry of `allowed_origins` that allows every page. */
export const EVERY_ORIGIN = '*'

/** The parts of an opening handshake that tell where it comes from. */
export interface OriginRequest {
  /** The `Origin` header, which only browsers must send. */
  readonly origin: string | undefined
  /** The requested host and port, from the request target or else from the `Host` header. */
  readonly host: string
  /** The port of this connection. */
  readonly port: number
}

/** The state of the broker that the decision depends on. */
export interface OriginContext {
  /** Whether there are users with passwords, which ends the default of anonymous access. */
  readonly hasUsers: boolean
  /** Whether this is a name or address of this machine, or a name in the listener's certificate. */
  readonly isKnownName: (name: string) => boolean
}

/** A host and port, always with the port. */
interface Authority {
  readonly name: string
  readonly port: number
}

const DEFAULT_WEB_PORTS: Readonly<Record<string, number>> = { 'http:': 80, 'https:': 443 }

/** An origin without characters that could harm a terminal or a page, so that an answer may repeat it. */
const REPEATABLE_ORIGIN = /^[a-z][a-z0-9+.-]{0,30}:\/\/[\w.:[\]-]{0,260}$/i

/** The reason why a page or Host name is refused, in one sentence, and advice for the operator. */
export interface OriginRefusal {
  readonly reason: string
  readonly advice: string
}

/** Returns the reason to refuse a handshake; null to accept it. */
export function originRefusal(
  options: ListenerOptions,
  asked: OriginRequest,
  situation: OriginContext,
): OriginRefusal | null {
  const { allowedOrigins } = options
  if (allowedOrigins !== undefined) {
    if (asked.origin === undefined || isListed(allowedOrigins, asked.origin)) return null
    return refusal(options, asked.origin, `pages of ${shownOrigin(asked.origin)} are not in allowed_origins`)
  }
  // If everybody needs a password, a page can only use one that its reader has typed.
  if (!acceptsWithoutPassword(options, situation)) return null
  return hostRefusal(options, asked, situation) ?? pageRefusal(options, asked)
}

/** Normalizes an origin for comparison: lower case, without the default port of its scheme. */
export function normalOrigin(origin: string): string {
  const plain = origin.toLowerCase()
  const parsed = URL.canParse(plain) ? new URL(plain) : null
  // URL cannot parse origins of other schemes, such as those of apps, so their text is compared.
  return parsed !== null && parsed.protocol in DEFAULT_WEB_PORTS ? parsed.origin : plain
}

/** Whether a client needs no password: anonymous clients, or a certificate that a browser sends by itself. */
function acceptsWithoutPassword(options: ListenerOptions, { hasUsers }: OriginContext): boolean {
  const isAnonymous = options.allowAnonymous && !(options.anonymousUnlessUsers === true && hasUsers)
  return isAnonymous || (options.tls?.clientCertificate ?? 'none') !== 'none'
}

/**
 * Refuses DNS rebinding: a page whose name was made to point at this machine sends this name as origin and
 * as Host. A loopback listener therefore accepts only known names. Other listeners cannot know all names,
 * because proxies forward theirs; they refuse pages that claim this very port as their origin, since only
 * MQTT is served here.
 */
function hostRefusal(
  options: ListenerOptions,
  asked: OriginRequest,
  { isKnownName }: OriginContext,
): OriginRefusal | null {
  const host = authorityOf(asked.host, options.type === 'wss' ? 'https:' : 'http:')
  if (host !== null && (isOwnName(options, host.name) || isKnownName(host.name))) return null
  if (!isLoopbackHost(options.host) && (asked.origin === undefined || host?.port !== asked.port)) return null
  const name = host === null ? 'the Host header' : `'${host.name}'`
  const reason = `${name} is not a known name of this broker, which accepts clients without a password`
  return refusal(options, asked.origin, reason)
}

function pageRefusal(options: ListenerOptions, { origin, host }: OriginRequest): OriginRefusal | null {
  if (origin === undefined || isSameOrigin(options, origin, host)) return null
  const pages = `pages of ${shownOrigin(origin)}`
  const reason = `${pages} may not connect to this broker, which accepts clients without a password`
  return refusal(options, origin, reason)
}

/**
 * Whether the page is from this host. Behind a TLS proxy, pages of https use `ws`; pages of http never use
 * `wss`.
 */
function isSameOrigin({ type }: ListenerOptions, origin: string, asked: string): boolean {
  const page = URL.canParse(origin) ? new URL(origin) : null
  if (page === null || !(page.protocol in DEFAULT_WEB_PORTS)) return false
  if (type === 'wss' && page.protocol !== 'https:') return false
  const from = authorityOf(page.host, page.protocol)
  const host = authorityOf(asked, page.protocol)
  return from !== null && host !== null && from.name === host.name && from.port === host.port
}

/** Parses a host with an optional port; null if it is invalid. */
function authorityOf(host: string, scheme: string): Authority | null {
  if (host === '' || /[/?#@\\\s]/.test(host) || !URL.canParse(`${scheme}//${host}`)) return null
  const { hostname, port } = new URL(`${scheme}//${host}`)
  const name = hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '')
  return { name, port: port === '' ? DEFAULT_WEB_PORTS[scheme]! : Number(port) }
}

/** Whether the name always leads to this machine, or is the listener's host in the configuration. */
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
    `To allow a page, name its origin: allowed_origins: ["${example}"] of the listener '${name}' ` +
    `in the configuration, or for all listeners: godwit --set 'allowed_origins=["${example}"]'`
  return { reason, advice }
}
