import type { Session } from '../../session/session.ts'

/** A Network Connection: its Session is null before CONNACK, and once it is closed. */
interface Attached {
  readonly session: Session | null
}

/**
 * The Network Connection of each Session that has one. Sessions keep it themselves, since an entry of a Map
 * takes 40 to 80 bytes, and a large Map stops all clients for milliseconds when it doubles.
 */
export class ConnectedSessions<C extends Attached> {
  readonly #connections: ReadonlySet<C>
  #size = 0

  /** `connections` are all open Network Connections. */
  constructor(connections: ReadonlySet<C>) {
    this.#connections = connections
  }

  get size(): number {
    return this.#size
  }

  has(session: Session): boolean {
    return session.connection !== null
  }

  get(session: Session): C | undefined {
    return (session.connection as C | null) ?? undefined
  }

  set(session: Session, connection: C): void {
    if (session.connection === null) this.#size++
    session.connection = connection
  }

  delete(session: Session): void {
    if (session.connection === null) return
    this.#size--
    session.connection = null
  }

  /** Iterates the connections; may continue while clients come and go. */
  *values(): Generator<C, void, undefined> {
    for (const [, connection] of this) yield connection
  }

  *keys(): Generator<Session, void, undefined> {
    for (const [session] of this) yield session
  }

  *[Symbol.iterator](): Generator<[Session, C], void, undefined> {
    for (const connection of this.#connections) {
      const { session } = connection
      if (session !== null && session.connection === connection) yield [session, connection]
    }
  }
}
