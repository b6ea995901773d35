import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ReadBuffer, type Reader } from '../../../src/transport/sockets/read-buffer.ts'
import { StreamLink } from '../../../src/transport/sockets/stream-link.ts'

let server: Server
let sockets: Socket[]

beforeEach(async () => {
  sockets = []
  server = createServer((socket) => sockets.push(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  server.close()
  await once(server, 'close')
})

async function connected(): Promise<{ client: Socket; accepted: Socket }> {
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [accepted] = (await once(server, 'connection')) as [Socket]
  sockets.push(client)
  return { client, accepted }
}

function reader(received: (chunk: Buffer) => unknown = () => {}): Reader {
  return { discards: () => false, received }
}

test('this version of Node lets accepted sockets read into our memory', async () => {
  const { accepted } = await connected()
  expect(new ReadBuffer().attach(accepted, reader())).toBe(true)
})

test('chunks stay unchanged while other sockets read into the same memory', async () => {
  const readBuffer = new ReadBuffer()
  const pairs = [await connected(), await connected(), await connected()]
  const kept: Buffer[][] = pairs.map(() => [])
  const ended = pairs.map(async ({ client, accepted }, index) => {
    expect(
      readBuffer.attach(
        accepted,
        reader((chunk) => kept[index]!.push(chunk)),
      ),
    ).toBe(true)
    accepted.resume()
    const end = once(accepted, 'end')
    // More than a slab each, in pieces of many sizes.
    for (let piece = 0; piece < 300; piece++) client.write(Buffer.alloc(1 + piece * 17, `${index}${piece}`))
    client.end()
    await end
  })
  await Promise.all(ended)
  for (const [index, chunks] of kept.entries()) {
    const expected = Array.from({ length: 300 }, (_, piece) =>
      Buffer.alloc(1 + piece * 17, `${index}${piece}`),
    )
    expect(Buffer.concat(chunks).equals(Buffer.concat(expected))).toBe(true)
  }
})

test('a paused socket reads nothing until it is resumed', async () => {
  const { client, accepted } = await connected()
  let bytes = 0
  const counting = reader((chunk) => {
    bytes += chunk.length
  })
  new ReadBuffer().attach(accepted, counting)
  accepted.pause()
  const total = 32_000_000
  client.end(Buffer.alloc(total))
  client.resume()
  // Another connection's round trip: what would be read by now was read.
  const other = await connected()
  other.accepted.pipe(other.accepted)
  other.client.write('x')
  await once(other.client, 'data')
  const before = bytes
  other.client.write('x')
  await once(other.client, 'data')
  expect(bytes).toBe(before)
  accepted.resume()
  await once(accepted, 'end')
  expect(bytes).toBe(total)
})

test('without support in Node, attach refuses and the link still reads its input', async () => {
  const without = new ReadBuffer(null)
  const { client, accepted } = await connected()
  expect(without.attach(accepted, reader())).toBe(false)
  const link = new StreamLink(
    accepted,
    { transport: 'tcp', listener: 'plain', remoteAddress: '', remotePort: 0, allowAnonymous: true },
    null,
  )
  const text = new Promise<string>((resolve) => {
    let got = ''
    const handler = {
      received: (chunk: Buffer) => {
        got += chunk
        if (got.length === 8) resolve(got)
      },
      drained: () => {},
      ended: () => {},
      closed: () => {},
    }
    link.start(handler, without)
  })
  client.write('as usual')
  expect(await text).toBe('as usual')
})
