/** Decides which requests are shown `/metrics`: by their token, their address and the types they accept. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { isLoopbackHost } from '../transport/listener/listener.ts'
import { plainAddress } from '../transport/listener/peer.ts'
import type { HttpRefusal } from './http-figures.ts'
import type { HttpOptions } from './http-options.ts'

/** The facts of a request. Headers that are absent are undefined. */
export interface MetricsRequest {
  readonly remoteAddress: string
  readonly authorization: string | undefined
  readonly accept: string | undefined
  /** Whether a proxy says that it passes on a request of another machine. */
  readonly isForwarded: boolean
}

/** An answer that refuses a request. */
export interface MetricsRefusal {
  readonly reason: HttpRefusal
  readonly status: 401 | 403 | 406
  readonly text: string
}

/** Returns the refusal of a request for `/metrics`; null to answer it. */
export function metricsRefusal(
  { remoteAddress, authorization, accept, isForwarded }: MetricsRequest,
  { metricsTokenHashes }: Pick<HttpOptions, 'metricsTokenHashes'>,
): MetricsRefusal | null {
  if (metricsTokenHashes.length > 0 && !hasToken(authorization, metricsTokenHashes)) {
    return {
      reason: 'token',
      status: 401,
      text:
        "Metrics need a token. Send 'Authorization: Bearer TOKEN' with one " +
        'whose SHA-256 is in http.metrics_token_hashes.',
    }
  }
  const isLocal = isLoopbackHost(plainAddress(remoteAddress)) && !isForwarded
  if (metricsTokenHashes.length === 0 && !isLocal) {
    return {
      reason: 'remote',
      status: 403,
      text:
        'Without a token, only programs on the machine of the broker get metrics. ' +
        'Put the SHA-256 of a token into http.metrics_token_hashes.',
    }
  }
  if (accept !== undefined && !acceptsText(accept)) {
    return { reason: 'accept', status: 406, text: 'Metrics are text/plain only. Accept it, or */*.' }
  }
  return null
}

/** Compares hashes of the same length in constant time, so that no answer tells how near a guess was. */
function hasToken(authorization: string | undefined, hashes: readonly string[]): boolean {
  const [, token] = /^Bearer +(\S+) *$/i.exec(authorization ?? '') ?? []
  if (token === undefined) return false
  const given = createHash('sha256').update(token).digest()
  return hashes.some((hash) => timingSafeEqual(given, Buffer.from(hash, 'hex')))
}

/** Whether the most specific range that covers `text/plain` does not have the weight 0 (RFC 9110, 12.5.1). */
function acceptsText(accept: string): boolean {
  const weights = new Map<string, number>()
  for (const range of accept.toLowerCase().split(',')) {
    const [type = '', ...parameters] = range.split(';').map((part) => part.trim())
    const weight = parameters.find((one) => one.startsWith('q='))
    const known = weights.get(type) ?? 0
    weights.set(type, Math.max(known, weight === undefined ? 1 : Number(weight.slice(2)) || 0))
  }
  return (weights.get('text/plain') ?? weights.get('text/*') ?? weights.get('*/*') ?? 0) > 0
}
