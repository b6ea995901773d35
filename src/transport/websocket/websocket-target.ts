/** PURE. What the request of a WebSocket's opening handshake asks for (RFC 9112 section 3.2). */

export interface RequestTarget {
  /** Host, and port where it is named, that were asked for; empty when nothing says so. */
  readonly host: string
  /** Without the query; null for a target that has none. */
  readonly path: string | null
}

/** Of the absolute form; other programs' schemes are theirs to explain. */
const ABSOLUTE = /^(?:https?|wss?):\/\/([^/?#]*)([^?#]*)/i

/** In absolute form, which proxies are sent and some clients send to everybody, the target's host counts and not the header's. */
export function requestTarget(target: string | undefined, hostHeader: string | undefined): RequestTarget {
  const absolute = ABSOLUTE.exec(target ?? '')
  if (absolute !== null) return { host: absolute[1]!, path: absolute[2] || '/' }
  const path = /^\/[^?#]*/.exec(target ?? '')?.[0] ?? null
  return { host: hostHeader ?? '', path }
}

/** Whether it is this path: slashes that a client doubled or left at the end name nothing else. */
export function isPathOf({ path }: RequestTarget, wanted: string): boolean {
  return path !== null && (path === wanted || plainPath(path) === plainPath(wanted))
}

function plainPath(path: string): string {
  return path.replace(/\/{2,}/g, '/').replace(/(?<=.)\/$/, '')
}
