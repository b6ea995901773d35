/** PURE. Parses the target of a WebSocket's opening handshake (RFC 9112 section 3.2). */

/** The host and path that a request asks for. */
export interface RequestTarget {
  /** The host with its port, if it is named; empty without a host. */
  readonly host: string
  /** The path without the query; null for a target without a path. */
  readonly path: string | null
}

/** The absolute form of a target. */
const ABSOLUTE = /^(?:https?|wss?):\/\/([^/?#]*)([^?#]*)/i

/**
 * Parses a request target. In absolute form, which some clients always use, its host replaces that of the
 * header.
 */
export function requestTarget(target: string | undefined, hostHeader: string | undefined): RequestTarget {
  const absolute = ABSOLUTE.exec(target ?? '')
  if (absolute !== null) return { host: absolute[1]!, path: absolute[2] || '/' }
  const path = /^\/[^?#]*/.exec(target ?? '')?.[0] ?? null
  return { host: hostHeader ?? '', path }
}

/** Whether the request asks for this path; doubled and trailing slashes do not matter. */
export function isPathOf({ path }: RequestTarget, wanted: string): boolean {
  return path !== null && (path === wanted || plainPath(path) === plainPath(wanted))
}

function plainPath(path: string): string {
  return path.replace(/\/{2,}/g, '/').replace(/(?<=.)\/$/, '')
}
