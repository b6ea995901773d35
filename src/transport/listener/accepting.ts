/**
 * HOT. Makes the sockets of a server in half the time that Node takes. Node's server copies the options of
 * each socket and adds to the copy, which V8 does in slow steps, and sets two options of each by two to five
 * system calls, although Linux hands them on from the listening socket. See note 0110.
 *
 * Node documents none of this. `acceptFast` changes nothing if it misses one of the parts.
 */
import { channel } from 'node:diagnostics_channel'
import { type Server, Socket, type SocketConstructorOpts } from 'node:net'

/** Whether accepted sockets get the options of the listening socket from the kernel. */
const HANDS_ON = process.platform === 'linux'

/** Where Node tells other parts of the program of each socket. */
const WATCHED = channel('net.server.socket')

/** The connection that the kernel has accepted. Over unix sockets it has no such options. */
interface Handle {
  setNoDelay?(enabled: boolean): number
  setKeepAlive?(enabled: boolean, delaySeconds: number): number
}

interface ListeningHandle extends Handle {
  onconnection: (this: ListeningHandle, error: number, accepted: Handle | undefined) => void
}

interface InnerServer extends Server {
  readonly _handle: ListeningHandle
  readonly allowHalfOpen: boolean
  readonly pauseOnConnect: boolean
  readonly noDelay: boolean
  readonly keepAlive: boolean
  /** In seconds. */
  readonly keepAliveInitialDelay: number
  readonly highWaterMark: number
  _connections: number
}

/** A socket counts for its server until it is closed. */
interface AcceptedSocket extends Socket {
  server: Server | null
  _server: Server | null
}

/** The options with which Node's server makes a socket, and those that Node would add to its copy of them. */
interface AcceptedOptions extends SocketConstructorOpts {
  readonly handle: Handle
  readonly pauseOnCreate: boolean
  readonly readableHighWaterMark: number
  readonly writableHighWaterMark: number
  readonly emitClose: false
  readonly autoDestroy: true
  readonly decodeStrings: false
}

/**
 * Has a listening server accept from now on as described above. Its first `earlierMax` sockets may have come
 * before Linux handed on the options, so they get their own. Returns false and changes nothing if this
 * version of Node misses a part.
 */
export function acceptFast(server: Server, earlierMax: number): boolean {
  if (!isInner(server)) return false
  const listening = server._handle
  const { onconnection } = listening
  let optionsLeft = handsOn(server, listening) ? earlierMax : Number.POSITIVE_INFINITY
  listening.onconnection = function (error, accepted) {
    const { maxConnections = Number.POSITIVE_INFINITY } = server
    // An error, a socket that is closed at once since there are too many, or somebody who watches.
    if (error || accepted === undefined || server._connections >= maxConnections || WATCHED.hasSubscribers) {
      onconnection.call(this, error, accepted)
      return
    }
    const socket = socketOf(server, accepted)
    if (optionsLeft > 0) {
      optionsLeft--
      setOptions(server, accepted)
    }
    server._connections++
    socket.server = server
    socket._server = server
    server.emit('connection', socket)
  }
  return true
}

function socketOf(server: InnerServer, handle: Handle): AcceptedSocket {
  const options: AcceptedOptions = {
    handle,
    allowHalfOpen: server.allowHalfOpen,
    pauseOnCreate: server.pauseOnConnect,
    readable: true,
    writable: true,
    readableHighWaterMark: server.highWaterMark,
    writableHighWaterMark: server.highWaterMark,
    emitClose: false,
    autoDestroy: true,
    decodeStrings: false,
  }
  return new Socket(options) as AcceptedSocket
}

/** Sets the options of a listening socket. Returns whether those that it accepts have them, too. */
function handsOn(server: InnerServer, listening: Handle): boolean {
  return HANDS_ON && listening.setNoDelay !== undefined && setOptions(server, listening)
}

/** Returns whether all were set. A unix socket has none. */
function setOptions({ noDelay, keepAlive, keepAliveInitialDelay }: InnerServer, handle: Handle): boolean {
  let failed = 0
  if (noDelay) failed |= handle.setNoDelay?.(true) ?? 0
  if (keepAlive) failed |= handle.setKeepAlive?.(true, keepAliveInitialDelay) ?? 0
  return failed === 0
}

const NUMBERS = ['_connections', 'highWaterMark', 'keepAliveInitialDelay']
const BOOLEANS = ['allowHalfOpen', 'pauseOnConnect', 'noDelay', 'keepAlive']

function isInner(server: Server): server is InnerServer {
  const handle: unknown = Reflect.get(server, '_handle')
  return (
    typeof handle === 'object' &&
    handle !== null &&
    typeof Reflect.get(handle, 'onconnection') === 'function' &&
    NUMBERS.every((name) => typeof Reflect.get(server, name) === 'number') &&
    BOOLEANS.every((name) => typeof Reflect.get(server, name) === 'boolean')
  )
}
