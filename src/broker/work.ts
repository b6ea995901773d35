/**
 * HOT. How much the Server has done, in units that cost about the same wherever they are spent: bytes touched, nodes
 * visited, deliveries. Whoever does something adds what it took; whoever does much of it stops when its slice is used up, and
 * goes on in a later turn.
 */

/** What one client, or one task, may do before others have their turn: about 1 ms. */
export const SLICE_UNITS = 10_000

/** What things cost, in units of about 0.1 us. `test/broker/work.test.ts` holds the table against the processor. */
export const UNITS = Object.freeze({
  /** One packet of any kind, decoded and answered. */
  packet: 10,
  /** Bytes that arrived on a connection, however few. */
  read: 40,
  /** One write to a connection. */
  write: 70,
  /** Going on with something in a later turn. */
  continuation: 4,
  /** One message given to one Session. */
  delivery: 4,
  /** So many bytes that are looked at or copied are one unit. */
  bytesEach: 256,
})

export class Work {
  /** Units since the start. Additions are plain: `work.units += …`. */
  units = 0
}
