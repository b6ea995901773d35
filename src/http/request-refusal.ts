/** Decides which HTTP requests are answered at all: by their Host, their page and their body. */
import type { IncomingMessage } from 'node:http'
import { isLoopbackHost, type ListenerOptions } from '../transport/listener/listener.ts'
import { originRefusal } from '../transport/listener/page-origin.ts'
import { plainAddress } from '../transport/listener/peer.ts'
import type { ServedCertificates } from '../transport/tls/served-certificates.ts'
import type { HttpRefusal } from './http-figures.ts'
import { HTTP_NAME } from './http-options.ts'

/** The place of a socket, which decides the names that lead to it. */
export interface RequestPlace {
  readonly host: string
  readonly certificates: ServedCertificates | null
  readonly machineNames: () => readonly string[]
}

/** An answer that refuses a request. */
export interface RequestRefusal {
  readonly reason: HttpRefusal
  readonly status: number
  readonly text: string
}

/** Returns the refusal of a request; null to answer it. */
export function requestRefusal(request: IncomingMessage, place: RequestPlace): RequestRefusal | null {
  if (hasBody(request)) {
    return { reason: 'body', status: 413, text: 'Requests with a body are not accepted here.' }
  }
  const { headers, socket } = request
  const local = plainAddress(socket.localAddress ?? '')
  const isKnownName = (name: string): boolean =>
    name === local ||
    name === place.host.toLowerCase() ||
    place.certificates?.covers(name) === true ||
    place.machineNames().includes(name)
  const asked = { origin: headers.origin, host: headers.host ?? '', port: socket.localPort ?? 0 }
  const refusal = originRefusal(judgedAs(place, socket.remoteAddress), asked, {
    hasUsers: false,
    isKnownName,
  })
  if (refusal === null) return null
  return {
    reason: 'host',
    status: 403,
    text:
      'This request names a host that is not known as this broker, or comes from a page of another site. ' +
      'Ask by an address of this machine, by its name, or by a name of the certificate. ' +
      'The host of http.hosts is known, too.',
  }
}

/**
 * The rules of a WebSocket listener that asks for no password. On any listener, a connection from this
 * machine is judged like one to a loopback address: the name of a stranger may have led a browser here.
 */
function judgedAs({ host, certificates }: RequestPlace, remoteAddress = ''): ListenerOptions {
  const type = certificates === null ? 'ws' : 'wss'
  const isLocal = isLoopbackHost(plainAddress(remoteAddress))
  return { name: HTTP_NAME, type, host: isLocal ? '127.0.0.1' : host, allowAnonymous: true }
}

function hasBody({ headers }: IncomingMessage): boolean {
  const length = headers['content-length']
  return headers['transfer-encoding'] !== undefined || (length !== undefined && Number(length) !== 0)
}
