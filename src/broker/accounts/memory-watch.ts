/** Knows the connections whose memory may have changed, and when memory is to be looked at early. */

/** A connection whose memory is watched. */
export interface Watched {
  /** Its index in `MemoryWatch.tracked`; -1 if it is not there. */
  memoryTrackedIndex: number
}

/** Figures that grow as memory is taken. */
export interface Grown {
  /** Bytes that came from clients. */
  bytesReceived: number
  /** Queue entries that were made. */
  entriesMade: number
  /** `Usage.keptBytes` of all clients: a few bytes of input can make much that is kept. */
  keptBytes: number
}

/** Tracks connections between two looks at memory. */
export class MemoryWatch<C extends Watched> {
  /** Connections that were active since the latest look, and those that hold memory. */
  readonly tracked: C[] = []
  /** Figures beyond which memory is looked at before its second is over. Set by each look. */
  readonly lookAt: Grown = {
    bytesReceived: Number.POSITIVE_INFINITY,
    entriesMade: Number.POSITIVE_INFINITY,
    keptBytes: Number.POSITIVE_INFINITY,
  }
  /** Looks at memory in the next turn. Set by the Server. */
  look: () => void = () => {}

  /** Adds a connection that was read from or is written to. */
  track(connection: C): void {
    connection.memoryTrackedIndex = this.tracked.length
    this.tracked.push(connection)
  }

  /**
   * Removes a connection that holds nothing, or is gone. Connections that come and go within a second would
   * pile up otherwise.
   */
  untrack(connection: Watched): void {
    const { memoryTrackedIndex } = connection
    const last = this.tracked.pop()
    connection.memoryTrackedIndex = -1
    if (last === undefined || last === connection) return
    this.tracked[memoryTrackedIndex] = last
    last.memoryTrackedIndex = memoryTrackedIndex
  }

  /** Looks at memory early if much came in, or much more is kept, since the latest look. */
  lookIfDue(bytesReceived: number, entriesMade: number, keptBytes: number): void {
    const { lookAt } = this
    const isMuch = bytesReceived > lookAt.bytesReceived || entriesMade > lookAt.entriesMade
    if (isMuch || keptBytes > lookAt.keptBytes) this.look()
  }
}
