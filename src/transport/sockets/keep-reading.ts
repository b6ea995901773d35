/**
 * Keeps a socket open for reading after a write has failed. A peer that sends its last packets and closes
 * at once resets the connection if bytes are on their way to it. Its packets are still in the kernel, but
 * Node would close the socket with the first failed write.
 *
 * Node destroys a failed stream because of `autoDestroy`, which sockets cannot set, so this changes the
 * internal state behind it. If a version of Node has no such state, a failed write closes the socket.
 */
import type { Socket } from 'node:net'

interface StreamState {
  autoDestroy: boolean
  errored?: Error | null
}

/**
 * With `keep`, a failed write emits 'error' and leaves the socket open; the handler must call `readOn`, or
 * 'end' is never emitted, and destroy the socket in the end. Without `keep`, Node destroys the socket
 * again.
 */
export function keepReading(socket: Socket, keep: boolean): void {
  for (const state of [stateOf(socket, '_readableState'), stateOf(socket, '_writableState')]) {
    if (state !== null) state.autoDestroy = !keep
  }
}

/** Clears the error of a failed write on the readable side, so that reading continues. */
export function readOn(socket: Socket): void {
  const state = stateOf(socket, '_readableState')
  if (state !== null) state.errored = null
}

function stateOf(socket: Socket, name: '_readableState' | '_writableState'): StreamState | null {
  const state: unknown = Reflect.get(socket, name)
  return isStreamState(state) ? state : null
}

function isStreamState(state: unknown): state is StreamState {
  return typeof state === 'object' && state !== null && 'autoDestroy' in state
}
