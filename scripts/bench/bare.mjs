/**
 * The least that a Node program has to do for a publisher: read the packet, answer, keep nothing and deliver nothing.
 * What a broker costs beyond this is its own doing; below it, none written in JavaScript on `node:net` can go.
 */
import { createServer } from 'node:net'

const CONNECT = 1
const PUBLISH = 3
const PUBREL = 6
const SUBSCRIBE = 8
const PINGREQ = 12
const DISCONNECT = 14

const answers = []

function answer(socket, bytes) {
  if (answers.length === 0) setImmediate(leave)
  answers.push(socket, bytes)
}

function leave() {
  const written = answers.splice(0)
  for (let index = 0; index < written.length; index += 2) written[index].write(written[index + 1])
}

/** MQTT 3.1.1 only. Returns what is left of the chunk: the beginning of a packet. */
function packets(socket, chunk) {
  for (let at = 0; ; ) {
    let body = at + 1
    let length = 0
    for (let shift = 0; ; shift += 7) {
      if (body >= chunk.length) return chunk.subarray(at)
      const byte = chunk[body++]
      length |= (byte & 0x7f) << shift
      if (byte < 0x80) break
    }
    if (body + length > chunk.length) return chunk.subarray(at)
    if (chunk[at] >> 4 === DISCONNECT) socket.end()
    const bytes = reply(chunk[at], chunk, body)
    if (bytes !== null) answer(socket, Buffer.from(bytes))
    at = body + length
  }
}

function reply(first, chunk, body) {
  switch (first >> 4) {
    case CONNECT:
      return [0x20, 2, 0, 0]
    case PUBLISH: {
      const qos = (first >> 1) & 3
      if (qos === 0) return null
      const id = body + 2 + (chunk[body] << 8) + chunk[body + 1]
      return [qos === 1 ? 0x40 : 0x50, 2, chunk[id], chunk[id + 1]]
    }
    case PUBREL:
      return [0x70, 2, chunk[body], chunk[body + 1]]
    case SUBSCRIBE:
      return [0x90, 3, chunk[body], chunk[body + 1], 2]
    case PINGREQ:
      return [0xd0, 0]
    default:
      return null
  }
}

const server = createServer({ noDelay: true }, (socket) => {
  let rest = Buffer.alloc(0)
  socket.on('data', (chunk) => {
    rest = packets(socket, rest.length === 0 ? chunk : Buffer.concat([rest, chunk]))
  })
  socket.on('error', () => {})
})
server.listen(0, '127.0.0.1', () => {
  console.log(`listening on mqtt://127.0.0.1:${server.address().port}`)
  console.log('ready')
})
