/** Knows the connections whose memory may have changed, and when memory is to be looked at early. */

/** A connection whose memory is watched. */
export interface Watched {
  /** Its index in `MemoryWatch.tracked`; -1 if it is not there. */
  memoryTrackedIndex: number
}

/** Tracks connections between two looks at memory. */
export class MemoryWatch<C extends Watched> {
  /** Connections that were active since the latest look, and those that hold memory. */
  readonly tracked: C[] = []
  /** Counters at which memory is looked at before its second is over. Set by each look. */
  readonly lookAt = { bytesReceived: Number.POSITIVE_INFINITY, entriesMade: Number.POSITIVE_INFINITY }
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

  /** Looks at memory early if much came in since the latest look. */
  lookIfDue(bytesReceived: number, entriesMade: number): void {
    const { lookAt } = this
    if (bytesReceived > lookAt.bytesReceived || entriesMade > lookAt.entriesMade) this.look()
  }
}
