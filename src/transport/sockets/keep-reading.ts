/**
 * Keeps a socket whose write failed open for reading. A peer that sends its last packets and closes at once resets the
 * connection when something is on its way to it; what it sent before is in the kernel, and Node would close the socket
 * with the first write that fails.
 *
 * Node destroys a stream on errors because of `autoDestroy`, which is fixed for sockets: the state behind it is changed.
 * Where a Node has no such state nothing changes, and a failed write closes the socket.
 */
import type { Socket } from 'node:net'

interface StreamState {
  autoDestroy: boolean
  errored?: Error | null
}

/**
 * With `keep`, a failed write emits 'error' and leaves the socket open, and whoever handles it destroys the socket; without,
 * Node does so again. Call `readOn` in the handler, or 'end' is not emitted any more.
 */
export function keepReading(socket: Socket, keep: boolean): void {
  for (const state of [stateOf(socket, '_readableState'), stateOf(socket, '_writableState')]) {
    if (state !== null) state.autoDestroy = !keep
  }
}

/** After the 'error' of a write: lets the readable side forget it. */
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
