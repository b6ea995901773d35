/**
 * The least of MQTT 3.1.1, AMQP 0-9-1 and the protocol of NATS that the benchmark of queues needs: a client
 * of each publishes with acknowledgements, and consumes with acknowledgements.
 *
 * @typedef {object} Client
 * @property {(body: Buffer, key: number) => void} publish sends one message; `onConfirmed` follows
 * @property {(prefetch: string) => Promise<void>} consume `onMessage` follows, and wants `done` to be called
 * @property {(message: any) => void} done acknowledges a message
 * @property {(count: number) => void} onConfirmed
 * @property {(body: Buffer, message: any) => void} onMessage
 * @property {() => void} flush
 * @property {() => void} close
 */
import { connect } from 'node:net'

/** Joins what is written in one pass of the event loop. */
class Writer {
  #chunks = []
  #isDue = false

  constructor(socket) {
    this.socket = socket
  }

  write(chunk) {
    this.#chunks.push(chunk)
    if (this.#isDue) return
    this.#isDue = true
    setImmediate(() => this.flush())
  }

  flush() {
    this.#isDue = false
    if (this.#chunks.length > 0) this.socket.write(Buffer.concat(this.#chunks.splice(0)))
  }
}

/** @returns {Promise<import('node:net').Socket>} */
function opened(port) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.setNoDelay(true)
      resolve(socket)
    })
    socket.once('error', reject)
  })
}

/** Calls `take` with all bytes that are not used yet; it returns how many it used. */
function reading(socket, take) {
  let rest = Buffer.alloc(0)
  socket.on('data', (chunk) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    rest = bytes.subarray(take(bytes))
  })
}

/** A step that waits for an answer. */
class Answers {
  #waiting = []

  next() {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  give(answer) {
    this.#waiting.shift()?.(answer)
  }
}

class Handlers {
  onConfirmed = (_count) => {}
  onMessage = (_body, _message) => {}
}

// ── MQTT 3.1.1 ────────────────────────────────────────────────────────────────────────────────────────────

function mqttString(text) {
  const bytes = Buffer.from(text)
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

function mqttPacket(first, body) {
  const length = []
  let left = body.length
  do {
    length.push((left & 127) | (left > 127 ? 128 : 0))
    left >>= 7
  } while (left > 0)
  return Buffer.concat([Buffer.from([first, ...length]), body])
}

/** `topicOf` names the topic of a key; `filter` is subscribed to, with the prefetch in it. */
export class MqttClient extends Handlers {
  #answers = new Answers()
  #packetId = 0
  #heads = new Map()

  static async open(port, clientId, topicOf, filter) {
    const client = new MqttClient()
    client.topicOf = topicOf
    client.filter = filter
    client.socket = await opened(port)
    client.writer = new Writer(client.socket)
    reading(client.socket, (bytes) => client.#take(bytes))
    const connack = client.#answers.next()
    const body = Buffer.concat([mqttString('MQTT'), Buffer.from([4, 2, 0, 0]), mqttString(clientId)])
    client.socket.write(mqttPacket(0x10, body))
    await connack
    return client
  }

  #take(bytes) {
    let at = 0
    let confirmed = 0
    for (;;) {
      if (bytes.length < at + 2) break
      let length = 0
      let shift = 0
      let from = at + 1
      for (; from < bytes.length; shift += 7) {
        const byte = bytes[from++]
        length |= (byte & 127) << shift
        if (byte < 128) break
      }
      if (bytes[from - 1] >= 128 || bytes.length < from + length) break
      const type = bytes[at] >> 4
      if (type === 4) confirmed++
      else if (type === 3) this.#message(bytes.subarray(from, from + length))
      else this.#answers.give(bytes.subarray(from, from + length))
      at = from + length
    }
    if (confirmed > 0) this.onConfirmed(confirmed)
    return at
  }

  #message(body) {
    const id = 2 + body.readUInt16BE(0)
    this.onMessage(body.subarray(id + 2), body.readUInt16BE(id))
  }

  publish(payload, key) {
    const topic = this.topicOf(key)
    let head = this.#heads.get(topic)
    if (head === undefined) {
      head = mqttPacket(0x32, Buffer.concat([mqttString(topic), Buffer.alloc(2 + payload.length)]))
      this.#heads.set(topic, head)
    }
    const packet = Buffer.from(head)
    this.#packetId = (this.#packetId % 65_535) + 1
    payload.copy(packet, packet.length - payload.length)
    packet.writeUInt16BE(this.#packetId, packet.length - payload.length - 2)
    this.writer.write(packet)
  }

  async consume(prefetch) {
    const suback = this.#answers.next()
    const filter = this.filter.replace('PREFETCH', prefetch)
    const body = Buffer.concat([Buffer.from([0, 1]), mqttString(filter), Buffer.from([1])])
    this.socket.write(mqttPacket(0x82, body))
    const answer = await suback
    if (answer[2] >= 128) throw new Error(`${filter} was refused`)
  }

  done(packetId) {
    this.writer.write(Buffer.from([0x40, 2, packetId >> 8, packetId & 255]))
  }

  close() {
    this.writer.flush()
    this.socket.end(Buffer.from([0xe0, 0]))
  }
}

// ── AMQP 0-9-1 ────────────────────────────────────────────────────────────────────────────────────────────

const ACK = 80
const DELIVER = 60

function short(text) {
  const bytes = Buffer.from(text)
  return Buffer.concat([Buffer.from([bytes.length]), bytes])
}

function long(text) {
  const bytes = Buffer.from(text)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

function frame(type, channel, payload) {
  const head = Buffer.from([type, 0, channel, 0, 0, 0, 0])
  head.writeUInt32BE(payload.length, 3)
  return Buffer.concat([head, payload, Buffer.from([0xce])])
}

function method(channel, group, number, ...fields) {
  return frame(1, channel, Buffer.concat([Buffer.from([0, group, 0, number]), ...fields]))
}

function table(entries) {
  return long(
    Buffer.concat(
      Object.entries(entries).flatMap(([name, value]) => [short(name), Buffer.from('S'), long(value)]),
    ),
  )
}

export class AmqpClient extends Handlers {
  #answers = new Answers()
  #deliveryTag = 0n
  /** Numbers of messages that are not confirmed, in order. */
  #confirmed = new Set()
  #published = 0n
  #ack = method(1, 60, ACK, Buffer.alloc(9))
  #publish = null

  /** `kind` is `classic` or `quorum`. */
  static async open(port, queue, kind) {
    const client = new AmqpClient()
    client.queue = queue
    client.socket = await opened(port)
    client.writer = new Writer(client.socket)
    reading(client.socket, (bytes) => client.#take(bytes))
    const ask = (bytes) => {
      const answer = client.#answers.next()
      client.socket.write(bytes)
      return answer
    }
    await ask(Buffer.from('AMQP\0\0\x09\x01', 'latin1'))
    const startOk = [table({}), short('PLAIN'), long('\0guest\0guest'), short('en_US')]
    await ask(method(0, 10, 11, ...startOk))
    client.socket.write(method(0, 10, 31, Buffer.from([0, 10, 0, 2, 0, 0, 0, 0])))
    await ask(method(0, 10, 40, short('/'), short(''), Buffer.from([0])))
    await ask(method(1, 20, 10, short('')))
    const durable = Buffer.from([2])
    await ask(method(1, 50, 10, Buffer.alloc(2), short(queue), durable, table({ 'x-queue-type': kind })))
    await ask(method(1, 85, 10, Buffer.from([0])))
    return client
  }

  #take(bytes) {
    let at = 0
    let confirmed = 0
    for (;;) {
      if (bytes.length < at + 8) break
      const size = bytes.readUInt32BE(at + 3)
      if (bytes.length < at + 8 + size) break
      const body = bytes.subarray(at + 7, at + 7 + size)
      if (bytes[at] === 1) confirmed += this.#method(body)
      else if (bytes[at] === 3) this.onMessage(body, this.#deliveryTag)
      at += 8 + size
    }
    if (confirmed > 0) this.onConfirmed(confirmed)
    return at
  }

  #method(body) {
    const group = body.readUInt16BE(0)
    const number = body.readUInt16BE(2)
    if (group === 60 && number === ACK) {
      const tag = body.readBigUInt64BE(4)
      if (body[12] === 0) return this.#confirmed.delete(tag) ? 1 : 0
      let count = 0
      for (const one of this.#confirmed) {
        if (one > tag) break
        this.#confirmed.delete(one)
        count++
      }
      return count
    }
    if (group === 60 && number === DELIVER) {
      this.#deliveryTag = body.readBigUInt64BE(5 + body[4])
      return 0
    }
    if (group === 60 && number === 120) throw new Error('a message was refused')
    if (number === 40 || number === 50) throw new Error(`closed: ${body.toString('latin1')}`)
    this.#answers.give(body)
    return 0
  }

  publish(body) {
    if (this.#publish === null) {
      const properties = Buffer.from([0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2])
      properties.writeBigUInt64BE(BigInt(body.length), 4)
      const to = [Buffer.alloc(2), short(''), short(this.queue), Buffer.from([0])]
      this.#publish = Buffer.concat([method(1, 60, 40, ...to), frame(2, 1, properties)])
    }
    this.#confirmed.add(++this.#published)
    this.writer.write(Buffer.concat([this.#publish, frame(3, 1, body)]))
  }

  async consume(prefetch) {
    const qosOk = this.#answers.next()
    const count = Number(prefetch)
    this.socket.write(method(1, 60, 10, Buffer.from([0, 0, 0, 0, count >> 8, count & 255, 0])))
    await qosOk
    const consumeOk = this.#answers.next()
    const fields = [Buffer.alloc(2), short(this.queue), short('c'), Buffer.from([0]), table({})]
    this.socket.write(method(1, 60, 20, ...fields))
    await consumeOk
  }

  done(tag) {
    const ack = Buffer.from(this.#ack)
    ack.writeBigUInt64BE(tag, 11)
    this.writer.write(ack)
  }

  close() {
    this.writer.flush()
    this.socket.end()
  }
}

// ── NATS ──────────────────────────────────────────────────────────────────────────────────────────────────

export class NatsClient extends Handlers {
  #answers = new Answers()
  #inbox = ''
  #replies = 0

  static async open(port, clientId, stream, clients) {
    const client = new NatsClient()
    client.stream = stream
    client.clients = clients
    client.#inbox = `_INBOX.${clientId}`
    client.socket = await opened(port)
    client.writer = new Writer(client.socket)
    reading(client.socket, (bytes) => client.#take(bytes))
    client.socket.write(`CONNECT {"verbose":false,"pedantic":false}\r\nSUB ${client.#inbox}.> 1\r\n`)
    const config = { name: stream, subjects: [stream], storage: 'file', retention: 'workqueue' }
    await client.#ask(`$JS.API.STREAM.CREATE.${stream}`, config)
    return client
  }

  #ask(subject, request) {
    const answer = this.#answers.next()
    const json = JSON.stringify(request)
    this.socket.write(`PUB ${subject} ${this.#inbox}.api ${Buffer.byteLength(json)}\r\n${json}\r\n`)
    return answer
  }

  #take(bytes) {
    let at = 0
    let confirmed = 0
    for (;;) {
      const end = bytes.indexOf('\r\n', at)
      if (end === -1) break
      const line = bytes.toString('latin1', at, end)
      if (!line.startsWith('MSG ')) {
        if (line === 'PING') this.socket.write('PONG\r\n')
        at = end + 2
        continue
      }
      const words = line.split(' ')
      const size = Number(words.at(-1))
      if (bytes.length < end + 4 + size) break
      const body = bytes.subarray(end + 2, end + 2 + size)
      if (words[2] === '2') this.onMessage(body, words[3])
      else if (words[1].endsWith('.api')) this.#answers.give(body)
      else {
        if (body.includes('"error"')) throw new Error(body.toString())
        confirmed++
      }
      at = end + 4 + size
    }
    if (confirmed > 0) this.onConfirmed(confirmed)
    return at
  }

  publish(body) {
    this.#replies++
    const head = `PUB ${this.stream} ${this.#inbox}.${this.#replies} ${body.length}\r\n`
    this.writer.write(Buffer.concat([Buffer.from(head), body, Buffer.from('\r\n')]))
  }

  async consume(prefetch) {
    this.socket.write(`SUB deliver.${this.stream} workers 2\r\n`)
    const config = {
      durable_name: 'workers',
      deliver_subject: `deliver.${this.stream}`,
      deliver_group: 'workers',
      ack_policy: 'explicit',
      max_ack_pending: Number(prefetch) * this.clients,
    }
    const request = { stream_name: this.stream, config }
    await this.#ask(`$JS.API.CONSUMER.DURABLE.CREATE.${this.stream}.workers`, request)
  }

  done(reply) {
    this.writer.write(Buffer.from(`PUB ${reply} 4\r\n+ACK\r\n`))
  }

  close() {
    this.writer.flush()
    this.socket.end()
  }
}
