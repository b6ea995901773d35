/** HOT. Tells when the kernel has taken what was written to a socket. */
import type { Socket } from 'node:net'

const NOTHING = Buffer.alloc(0)

/**
 * Returns true if the kernel has taken all that was written to a socket, as it nearly always does at once. If
 * not, calls `taken` when it has, or when it has failed. So a write needs no callback, for which Node would
 * run the queue of ticks each time; the empty write ends after those before it. Not for TLS, which would make
 * a write of its own of it.
 */
export function hasTaken(socket: Socket, taken: () => void): boolean {
  if (socket.writableLength === 0) return true
  socket.write(NOTHING, taken)
  return false
}
