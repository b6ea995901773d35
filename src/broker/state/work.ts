/**
 * HOT. How much the Server has done, in units that cost about the same wherever they are spent: bytes touched, nodes
 * visited, deliveries. Whoever does something adds what it took; whoever does much of it stops when its slice is used up, and
 * goes on in a later turn.
 */

/** What one client, or one task, may do before others have their turn: about 1 ms. */
export const SLICE_UNITS = 10_000

/** What things cost, in units of about 0.1 us. `npm run fuzz -- --only cost` holds the table against the processor. */
export const UNITS = Object.freeze({
  /** PUBLISH or an acknowledgement, decoded and answered. */
  packet: 2,
  /** Any other packet. */
  request: 20,
  /** CONNECT: who it is, its Session, its Will, what is stored of them, and CONNACK. */
  connect: 500,
  /** The end of a Network Connection: its Session and Will, a word of it for the log, and the socket. */
  leave: 400,
  /** Bytes that arrived on a connection, however few. */
  read: 20,
  /** One write to a connection. */
  write: 40,
  /** A message that is sent from a queue, or dropped. */
  queued: 4,
  /** Going on with something in a later turn. */
  continuation: 4,
  /** One message given to one Session. */
  delivery: 2,
  /** The same where it is stored. */
  storedDelivery: 8,
  /** The same among so many that nothing of them is in the processor's cache. */
  crowdDelivery: 6,
  /** A message that is retained: a place in the tree, a record, and what the collector makes of both. */
  retained: 60,
  /** What a limit refuses: the look that found out, the answer, and a word of it for the log. */
  refused: 25,
  /** So many bytes that are looked at or copied are one unit. */
  bytesEach: 256,
})

export class Work {
  /** Units since the start. Additions are plain: `work.units += …`. */
  units = 0
}
