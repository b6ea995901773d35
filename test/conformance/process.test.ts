/** A representative part of the statements, on the real process with its sockets, store and configuration. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BrokerProcess, cleanUp } from '../e2e/process.ts'
import { connect, packet, properties, uint16, uint32 } from '../mqtt/packets.ts'
import { SocketClient } from './socket.ts'
import { acknowledge, publish, subscribe, unsubscribe } from './wire.ts'

const NONE = properties()
const USER = 0x26
const PINGREQ = packet(0xc0)

let broker: BrokerProcess
let count = 0

beforeAll(async () => {
  broker = await BrokerProcess.start({
    words: ['--set', 'limits.topic_alias_maximum=10', '--set', 'limits.packet_bytes_max=100000'],
  })
})

afterAll(cleanUp)

/** A name that no other test uses. */
function fresh(name: string): string {
  count++
  return `${name}${count}`
}

async function online(clientId: string, connectBytes?: Buffer): Promise<SocketClient> {
  const client = await SocketClient.open(broker.port)
  const bytes = connectBytes ?? connect(5, 2, NONE, clientId)
  expect(await client.ask(bytes)).toMatchObject({ cmd: 'connack', reasonCode: 0 })
  client.hex()
  return client
}

/** A CONNECT whose Session outlives its connection. */
const lasting = (clientId: string, flags = 0) => connect(5, flags, properties(0x11, uint32(1000)), clientId)

describe('CONNECT', () => {
  test.each([
    ['[MQTT-3.1.0-1] PINGREQ before CONNECT', PINGREQ, []],
    ['[MQTT-3.1.0-1] PUBLISH before CONNECT', publish(5, 0, 't'), []],
    ['[MQTT-3.1.2-1] another protocol', packet(0x10, 'MQTX', 5, 2, uint16(0), NONE, 'a'), []],
    ['[MQTT-3.1.2-2] another version', packet(0x10, 'MQTT', 6, 2, uint16(0), NONE, 'a'), [0x84]],
    ['[MQTT-3.1.2-3] [MQTT-3.2.2-7] the reserved flag', connect(5, 3, NONE, 'a'), [0x81]],
    ['[MQTT-3.1.2-11] a Will QoS without Will', connect(5, 0x0a, NONE, 'a'), [0x81]],
    ['[MQTT-3.1.2-12] Will QoS 3', connect(5, 0x1e, NONE, 'a', NONE, 'w', 'p'), [0x81]],
    ['[MQTT-3.1.2-13] Will Retain without Will', connect(5, 0x22, NONE, 'a'), [0x81]],
    ['[MQTT-3.1.2-19] no Password', connect(5, 0xc2, NONE, 'a', 'user'), [0x81]],
    ['[MQTT-3.1.3-4] [MQTT-1.5.4-1] an ill-formed identifier', connect(5, 2, NONE, [0, 1, 0xff]), [0x81]],
    ['[MQTT-3.1.4-1] bytes behind the last field', connect(5, 2, NONE, 'a', 0), [0x81]],
    ['a property twice', connect(5, 2, properties(0x21, uint16(1), 0x21, uint16(1)), 'a'), [0x82]],
    ['[MQTT-4.12.0-1] an unknown method', connect(5, 2, properties(0x15, 'X'), 'a'), [0x8c]],
  ])('%s is refused and closed', async (_, bytes, reasonCodes) => {
    const client = await SocketClient.open(broker.port)
    expect(await client.last(bytes)).toMatchObject(
      reasonCodes.map((reasonCode) => ({ cmd: 'connack', reasonCode, sessionPresent: false })),
    )
  })

  test('[MQTT-3.1.0-2] a second CONNECT ends the connection with 0x82', async () => {
    const id = fresh('twice')
    const client = await online(id)
    expect(await client.last(connect(5, 2, NONE, id))).toMatchObject([
      { cmd: 'disconnect', reasonCode: 0x82 },
    ])
  })

  test(
    '[MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] ' + 'empty Client Identifiers become unique ones',
    async () => {
      const told = await Promise.all(
        [1, 2, 3].map(async () => {
          const connack = await (await SocketClient.open(broker.port)).ask(connect(5, 2, NONE, ''))
          return connack.cmd === 'connack' ? connack.properties?.assignedClientIdentifier : ''
        }),
      )
      expect(new Set(told).size).toBe(3)
      expect(told.every((id) => id !== undefined && id !== '')).toBe(true)
    },
  )

  test('[MQTT-3.1.4-3] a takeover closes the old connection with 0x8E, and the new one goes on', async () => {
    const id = fresh('taken')
    const old = await online(id)
    const next = await online(id)
    expect(await old.last(Buffer.alloc(0))).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8e }])
    expect(await next.ask(PINGREQ)).toMatchObject({ cmd: 'pingresp' })
  })

  test(
    '[MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3] ' +
      'Clean Start and Session Present',
    async () => {
      const id = fresh('session')
      for (const [flags, present] of [
        [0, '00'],
        [0, '01'],
        [2, '00'],
        [0, '01'],
      ] as const) {
        const client = await SocketClient.open(broker.port)
        await client.ask(lasting(id, flags))
        expect(client.hex().slice(4, 8)).toBe(`${present}00`)
        await client.last(packet(0xe0))
      }
    },
  )

  test(
    '[MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-14] [MQTT-3.1.3-10] [MQTT-3.14.4-3] ' +
      'a Will is published when the network fails, and not after DISCONNECT',
    async () => {
      const topic = fresh('will')
      const watcher = await online(fresh('watcher'))
      await watcher.ask(subscribe(5, 1, topic, 8))
      const will = properties(USER, 'b', '1', USER, '__proto__', '2', USER, 'b', '0')
      const bytes = connect(5, 6, NONE, fresh('willed'), will, topic, 'lost')
      await (await online('', bytes)).last(packet(0xe0))
      const failing = await online('', bytes)
      watcher.hex()
      failing.vanish()
      await watcher.next()
      // The one that left with DISCONNECT would have come first.
      expect(watcher.hex()).toBe(packet(0x30, topic, will, Buffer.from('lost')).toString('hex'))
    },
  )
})

describe('what ends a connection', () => {
  test.each([
    ['[MQTT-2.1.3-1] wrong flags', packet(0xc1), 0x81],
    ['[MQTT-1.5.5-1] a Remaining Length of two bytes for 0', Buffer.from('c08000', 'hex'), 0x81],
    ['a Remaining Length of five bytes', Buffer.from('30ffffffff01', 'hex'), 0x81],
    ['[MQTT-1.5.4-2] U+0000', publish(5, 0, 'a\u0000b'), 0x81],
    ['[MQTT-2.2.1-3] Packet Identifier 0', publish(5, 2, 't', 0), 0x81],
    ['[MQTT-2.2.2-1] no Property Length', packet(0x30, 't'), 0x81],
    ['[MQTT-3.2.2-15] a packet that is too large', packet(0x30, 't', NONE, Buffer.alloc(100_000)), 0x95],
    ['[MQTT-3.3.1-2] DUP at QoS 0', publish(5, 8, 't'), 0x81],
    ['[MQTT-3.3.1-4] QoS 3', publish(5, 6, 't', 1), 0x81],
    ['[MQTT-3.3.2-2] a wildcard in a Topic Name', publish(5, 0, 'a/#'), 0x90],
    ['[MQTT-3.3.2-8] Topic Alias 0', packet(0x30, 't', properties(0x23, uint16(0))), 0x94],
    ['[MQTT-3.3.2-9] Topic Alias 11 of 10', packet(0x30, 't', properties(0x23, uint16(11))), 0x94],
    ['[MQTT-3.3.2-14] a wildcard in a Response Topic', packet(0x30, 't', properties(0x08, '+')), 0x82],
    ['[MQTT-3.3.4-6] a Subscription Identifier', packet(0x30, 't', properties(0x0b, 1)), 0x82],
    ['[MQTT-3.6.1-1] flags of PUBREL', packet(0x60, uint16(1)), 0x81],
    ['[MQTT-3.8.1-1] flags of SUBSCRIBE', packet(0x80, uint16(1), NONE, 't', 0), 0x81],
    ['[MQTT-3.8.3-2] no Topic Filter', subscribe(5, 1), 0x82],
    ['[MQTT-3.8.3-4] No Local on a Shared Subscription', subscribe(5, 1, '$share/g/t', 4), 0x82],
    ['[MQTT-3.8.3-5] reserved Subscription Options', subscribe(5, 1, 't', 0x40), 0x81],
    ['SUBSCRIBE with QoS 3', subscribe(5, 1, 't', 3), 0x82],
    ['[MQTT-4.7.1-1] a filter that is none', subscribe(5, 1, 'a#', 0), 0x8f],
    ['[MQTT-4.8.2-1] an empty ShareName', subscribe(5, 1, '$share//t', 0), 0x8f],
    ['[MQTT-3.10.3-2] no Topic Filter to remove', unsubscribe(5, 1), 0x82],
    ['[MQTT-3.14.1-1] flags of DISCONNECT', packet(0xe1), 0x81],
    ['[MQTT-3.15.1-1] flags of AUTH', packet(0xf1, 0x18, properties(0x15, 'm')), 0x81],
    ['[MQTT-4.12.0-7] AUTH out of place', packet(0xf0, 0x18, properties(0x15, 'm')), 0x82],
    ['a Session Expiry Interval that was 0', packet(0xe0, 0, properties(0x11, uint32(1))), 0x82],
    ['what only a Server sends', packet(0xd0), 0x82],
  ])('%s [MQTT-4.13.1-1]', async (_, bytes, reasonCode) => {
    const client = await online(fresh('wrong'))
    expect(await client.last(bytes)).toMatchObject([{ cmd: 'disconnect', reasonCode }])
  })
})

describe('messages', () => {
  test(
    '[MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.10.4-4] [MQTT-3.12.4-1] [MQTT-2.2.1-6] ' +
      'answers have the identifiers of the packets that they answer',
    async () => {
      const client = await online(fresh('asks'))
      await client.ask(subscribe(5, 0x1234, 'a', 2, 'b', 1, 'c', 0))
      await client.ask(unsubscribe(5, 0x4321, 'a', 'z'))
      await client.ask(PINGREQ)
      expect(client.hex()).toBe('9006123400020100' + 'b0054321000011' + 'd000')
    },
  )

  test(
    '[MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-20] ' +
      'properties pass unaltered',
    async () => {
      const topic = fresh('forward')
      const sub = await online(fresh('sub'))
      await sub.ask(subscribe(5, 1, topic, 0))
      sub.hex()
      const all = properties(
        USER,
        'z',
        '',
        0x01,
        1,
        0x03,
        'ä',
        USER,
        '__proto__',
        '1',
        0x08,
        'r',
        0x09,
        [0, 1, 0],
        USER,
        'z',
        '',
      )
      const bytes = packet(0x30, topic, all, Buffer.from('x'))
      ;(await online(fresh('pub'))).write(bytes)
      await sub.next()
      expect(sub.hex()).toBe(bytes.toString('hex'))
    },
  )

  test('[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-9] retained: kept, replaced, removed', async () => {
    const topic = fresh('kept')
    const client = await online(fresh('c'))
    const late = async (): Promise<string[]> => {
      const seen: string[] = [(await client.ask(subscribe(5, 1, topic, 0))).cmd]
      client.write(PINGREQ)
      for (;;) {
        const answer = await client.next()
        if (answer.cmd === 'pingresp') return seen
        seen.push(answer.cmd === 'publish' ? `${answer.payload}` : answer.cmd)
      }
    }
    const keep = (payload: string) => client.ask(publish(5, 3, topic, 1, payload))
    await keep('1')
    await keep('2')
    expect(await late()).toEqual(['suback', '2'])
    await client.ask(unsubscribe(5, 2, topic))
    await keep('')
    expect(await late()).toEqual(['suback'])
  })

  test(
    '[MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12] ' +
      'QoS 1 and 2 are acknowledged, and so is a repeated PUBLISH',
    async () => {
      const topic = fresh('qos')
      const sub = await online(fresh('sub'))
      await sub.ask(subscribe(5, 1, topic, 0))
      const pub = await online(fresh('pub'))
      await pub.ask(publish(5, 2, topic, 1, 'a'))
      for (const flags of [4, 12, 4]) await pub.ask(publish(5, flags, topic, 2, 'b'))
      await pub.ask(acknowledge(0x62, 2))
      await pub.ask(publish(5, 4, topic, 2, 'c'))
      expect(pub.hex()).toBe(`40020001${'50020002'.repeat(3)}7002000250020002`)
      const texts = [await sub.next(), await sub.next(), await sub.next()].map(
        (p) => p.cmd === 'publish' && `${p.payload}`,
      )
      expect(texts).toEqual(['a', 'b', 'c'])
      expect(await sub.ask(PINGREQ)).toMatchObject({ cmd: 'pingresp' })
    },
  )

  test('[MQTT-3.8.3-3] No Local; [MQTT-4.7.2-1] wildcards and $', async () => {
    const client = await online(fresh('c'))
    await client.ask(subscribe(5, 1, '#', 4, '+/x', 4))
    client.write(Buffer.concat([publish(5, 0, 'a/x'), PINGREQ]))
    expect(await client.next()).toMatchObject({ cmd: 'pingresp' })
    const other = await online(fresh('other'))
    await other.ask(publish(5, 2, '$a/x', 1))
    await other.ask(publish(5, 2, 'b/x', 2))
    expect(await client.next()).toMatchObject({ cmd: 'publish', topic: 'b/x' })
  })

  test('[MQTT-3.1.2-24] [MQTT-3.1.2-25] a message that is too large for the client is left out', async () => {
    const topic = fresh('size')
    const sub = await online('', connect(5, 2, properties(0x27, uint32(40)), fresh('small')))
    await sub.ask(subscribe(5, 1, topic, 1))
    const pub = await online(fresh('pub'))
    await pub.ask(publish(5, 2, topic, 1, 'x'.repeat(40)))
    await pub.ask(publish(5, 2, topic, 2, 'small'))
    expect(await sub.next()).toMatchObject({ cmd: 'publish', payload: Buffer.from('small'), messageId: 1 })
  })

  test('[MQTT-3.1.2-26] [MQTT-3.3.2-11] the Server’s aliases stay within the client’s maximum', async () => {
    const topic = fresh('alias')
    const sub = await online('', connect(5, 2, properties(0x22, uint16(1)), fresh('sub')))
    await sub.ask(subscribe(5, 1, `${topic}/#`, 0))
    const pub = await online(fresh('pub'))
    const names = ['a', 'b', 'a', 'b', 'a']
    pub.write(Buffer.concat(names.map((name) => publish(5, 0, `${topic}/${name}`))))
    const seen: unknown[] = []
    for (let n = 0; n < names.length; n++) {
      const p = await sub.next()
      seen.push(p.cmd === 'publish' && [p.topic, p.properties?.topicAlias])
    }
    // A topic gets an alias when it comes again.
    expect(seen).toEqual([
      [`${topic}/a`, undefined],
      [`${topic}/b`, undefined],
      [`${topic}/a`, 1],
      [`${topic}/b`, undefined],
      ['', 1],
    ])
  })
})

describe('3.1.1', () => {
  test.each([
    ['[MQTT-3.1.0-1, 3.1.1] PINGREQ before CONNECT', PINGREQ, ''],
    ['[MQTT-3.1.2-2, 3.1.1] level 2', packet(0x10, 'MQTT', 2, 2, uint16(0), 'a'), '20020001'],
    ['[MQTT-3.1.2-3, 3.1.1] the reserved flag', connect(4, 3, 'a'), ''],
    ['[MQTT-3.1.2-22, 3.1.1] a Password alone', connect(4, 0x42, 'a', 'pass'), ''],
    [
      '[MQTT-3.1.3-8, 3.1.1] [MQTT-3.2.2-5, 3.1.1] no identifier, Clean Session 0',
      connect(4, 0, ''),
      '20020002',
    ],
  ])('%s is refused and closed', async (_, bytes, answer) => {
    const client = await SocketClient.open(broker.port, 4)
    await client.last(bytes)
    expect(client.hex()).toBe(answer)
  })

  test.each([
    ['[MQTT-3.1.0-2, 3.1.1] a second CONNECT', connect(4, 2, 'a')],
    ['[MQTT-3.3.1-4, 3.1.1] QoS 3', publish(4, 6, 't', 1)],
    ['[MQTT-3.3.2-2, 3.1.1] a wildcard in a Topic Name', publish(4, 0, '+')],
    ['[MQTT-3.8.3-3, 3.1.1] no Topic Filter', subscribe(4, 1)],
    ['[MQTT-3.8.3-4, 3.1.1] QoS 3 of a subscription', subscribe(4, 1, 't', 3)],
    ['[MQTT-2.2.2-2, 3.1.1] wrong flags', packet(0xc1)],
  ])('%s closes the connection without an answer', async (_, bytes) => {
    const client = await SocketClient.open(broker.port, 4)
    await client.ask(connect(4, 2, fresh('old')))
    expect(await client.last(bytes)).toEqual([])
  })
})

describe('over a crash of the process', () => {
  test(
    '[MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.3-5] [MQTT-3.1.2-23] ' +
      'unacknowledged messages are sent again with their identifiers, in order',
    async () => {
      const own = await BrokerProcess.start()
      const open = async (bytes: Buffer): Promise<SocketClient> => {
        const client = await SocketClient.open(own.port)
        await client.ask(bytes)
        return client
      }
      const sub = await open(lasting('sub', 2))
      await sub.ask(subscribe(5, 9, 't', 2))
      const pub = await open(lasting('pub', 2))
      for (const [packetId, flags, payload] of [
        [1, 2, 'one'],
        [2, 4, 'two'],
        [3, 2, 'three'],
      ] as const) {
        await pub.ask(publish(5, flags, 't', packetId, payload))
        await sub.next()
      }
      // PUBREC of the second one is answered, and that is on the disk.
      expect(await sub.ask(acknowledge(0x50, 2))).toMatchObject({ cmd: 'pubrel', messageId: 2 })
      await own.crash()
      await own.restart()
      const back = await SocketClient.open(own.port)
      const again = [await back.ask(lasting('sub')), await back.next(), await back.next(), await back.next()]
      expect(again[0]).toMatchObject({ cmd: 'connack', sessionPresent: true })
      expect(
        again
          .slice(1)
          .map((p) => [p.cmd, p.messageId, p.cmd === 'publish' && p.dup])
          .sort(),
      ).toEqual([
        ['publish', 1, true],
        ['publish', 3, true],
        ['pubrel', 2, false],
      ])
      expect(again.flatMap((p) => (p.cmd === 'publish' ? [`${p.payload}`] : []))).toEqual(['one', 'three'])
      // The publisher's QoS 2 identifier is known as well: PUBREC again, and no second delivery.
      const publisher = await SocketClient.open(own.port)
      await publisher.ask(lasting('pub'))
      expect(await publisher.ask(publish(5, 12, 't', 2, 'two'))).toMatchObject({
        cmd: 'pubrec',
        messageId: 2,
      })
      expect(await publisher.ask(acknowledge(0x62, 2))).toMatchObject({ cmd: 'pubcomp', reasonCode: 0 })
      expect(await back.ask(PINGREQ)).toMatchObject({ cmd: 'pingresp' })
    },
  )
})
