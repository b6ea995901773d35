/**
 * HOT. Counts the work that the Server does, in units that take about the same time for everything: bytes
 * touched, nodes visited, deliveries. Code that does work adds its units. Code that may do much stops when
 * its slice is used up, and goes on in a later turn.
 */

/** Work that one client, or one task, may do before others have their turn: about 1 ms. */
export const SLICE_UNITS = 10_000

/** Costs in units of about 0.1 us. `npm run fuzz -- --only cost` compares the table with the processor. */
export const UNITS = Object.freeze({
  /** PUBLISH or an acknowledgement, decoded and answered. */
  packet: 2,
  /** Any other packet. */
  request: 20,
  /** CONNECT: authentication, Session, Will, their records, and CONNACK. */
  connect: 500,
  /** The end of a Network Connection: its Session and Will, the log, and the socket. */
  leave: 400,
  /** A read from a connection, however few the bytes. */
  read: 20,
  /** A write to a connection. */
  write: 40,
  /** A message that is sent from a queue, or dropped from it. */
  queued: 4,
  /** The continuation of a task in a later turn. */
  continuation: 4,
  /** A message given to a Session. */
  delivery: 2,
  /** A delivery that is stored. */
  storedDelivery: 8,
  /** A delivery among so many that none of them is in the processor's cache. */
  crowdDelivery: 6,
  /** A retained message: its place in the tree, its record, and the garbage collection of both. */
  retained: 60,
  /** A refusal by a limit: the check, the answer, and the log. */
  refused: 25,
  /** Bytes that are read or copied for one unit. */
  bytesEach: 256,
})

/** Counts units of work. */
export class Work {
  /** Units since the start. Additions are plain: `work.units += …`. */
  units = 0
}
