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

/** A socket as it is in Node, which may differ in another version. */
type InnerSocket = Socket & { readonly _readableState?: unknown; readonly _writableState?: unknown }

/**
 * With `keep`, a failed write emits 'error' and leaves the socket open; the handler must call `readOn`, or
 * 'end' is never emitted, and destroy the socket in the end. Without `keep`, Node destroys the socket
 * again.
 */
export function keepReading(socket: Socket, keep: boolean): void {
  const { _readableState: readable, _writableState: writable }: InnerSocket = socket
  if (isStreamState(readable)) readable.autoDestroy = !keep
  if (isStreamState(writable)) writable.autoDestroy = !keep
}

/** Clears the error of a failed write on the readable side, so that reading continues. */
export function readOn(socket: Socket): void {
  const { _readableState: readable }: InnerSocket = socket
  if (isStreamState(readable)) readable.errored = null
}

function isStreamState(state: unknown): state is StreamState {
  return typeof state === 'object' && state !== null && 'autoDestroy' in state
}
