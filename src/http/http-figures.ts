/** PURE. Counts the requests of the HTTP listener, and those that it refuses. */

/**
 * The reasons for a refusal: too many connections, no whole request in time, an answer that is read too
 * slowly, requests that do not wait for the answer before them, too many requests, a body, a Host or a page
 * that is not known, bytes that are no HTTP; and for `/metrics`: no valid token, another machine without a
 * token, and a type that metrics do not have.
 */
export const HTTP_REFUSALS = [
  'connections',
  'timeout',
  'slow_reader',
  'pipelined',
  'rate',
  'body',
  'host',
  'malformed',
  'token',
  'remote',
  'accept',
] as const

/** A reason for a refusal. */
export type HttpRefusal = (typeof HTTP_REFUSALS)[number]

/** Counters since the start. */
export class HttpFigures {
  requests = 0
  readonly refusals: Record<HttpRefusal, number> = {
    connections: 0,
    timeout: 0,
    slow_reader: 0,
    pipelined: 0,
    rate: 0,
    body: 0,
    host: 0,
    malformed: 0,
    token: 0,
    remote: 0,
    accept: 0,
  }
}
