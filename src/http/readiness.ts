/** PURE. Tells whether the broker is ready, and in words why not. */

/** The answer to `/readyz`. */
export interface Readiness {
  readonly isReady: boolean
  /** Sentences for people: why it is not ready, or what is short although it is. */
  readonly reasons: readonly string[]
}

/** The facts that readiness depends on. */
export interface ReadinessFacts {
  /** The broker has not started yet, or is stopping: a sentence. Null while it runs. */
  readonly phase: string | null
  readonly health: { readonly state: 'ok' | 'pressed' | 'refusing' | 'recovering'; readonly detail: string }
  /** Names of listeners that should be open and are not. */
  readonly closedListeners: readonly string[]
  /** Clients and Network Connections at a time, and what each may be at most. */
  readonly clients: number
  readonly clientsMax: number
  readonly sockets: number
  readonly socketsMax: number
}

/** Returns the readiness by these facts. A broker that is short of memory or disk but takes work is ready. */
export function readinessOf(facts: ReadinessFacts): Readiness {
  const { phase, health, closedListeners, clients, clientsMax, sockets, socketsMax } = facts
  if (phase !== null) return { isReady: false, reasons: [phase] }
  const problems = [
    ...(health.state === 'recovering' ? [`The store is being recovered: ${health.detail}.`] : []),
    ...(health.state === 'refusing' ? [`The broker refuses new work: ${health.detail}.`] : []),
    ...closedListeners.map((name) => `The listener '${name}' is not open.`),
    ...(clients >= clientsMax ? [`All ${clientsMax} clients of limits.connections_max are connected.`] : []),
    ...(sockets >= socketsMax
      ? [`All ${socketsMax} connections that the limit of open files allows are open.`]
      : []),
  ]
  if (problems.length > 0) return { isReady: false, reasons: problems }
  const reasons = health.state === 'pressed' ? [`The broker makes room: ${health.detail}.`] : []
  return { isReady: true, reasons }
}
