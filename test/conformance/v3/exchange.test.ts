/** A whole conversation in MQTT 3.1.1 and 3.1, byte by byte as the standard writes it. */
import { describe, expect, it } from 'vitest'
import { World } from '../../broker/harness.ts'
import { connect } from '../../mqtt/packets.ts'
import { OLD_DIALECTS, sent } from '../wire.ts'

describe.each(OLD_DIALECTS)('MQTT %s', (_, version) => {
  it('[MQTT-7.0.0-2, 3.1.1] every packet type does its work for a client that knows the standard and nothing more', async () => {
    const world = await World.make()
    const sub = world.open(version)
    const pub = world.open(version)
    const steps: [client: typeof sub, bytes: string, toSub: string, toPub: string][] = [
      [sub, connect(version, 0, 'sub').toString('hex'), '20020000', ''],
      [sub, '8206000a00017402', '9003000a02', ''],
      [pub, connect(version, 0x26, 'pub', 'will', 'gone').toString('hex'), '', '20020000'],
      [pub, '300400017478', '300400017478', ''],
      [pub, '3206000174000578', '3206000174000178', '40020005'],
      [sub, '40020001', '', ''],
      [pub, '3406000174000678', '3406000174000278', '50020006'],
      [pub, '62020006', '', '70020006'],
      [sub, '50020002', '62020002', ''],
      [sub, '70020002', '', ''],
      [sub, 'c000', 'd000', ''],
      [sub, '8208000b0003772f2300', '9003000b00', ''],
      [sub, 'a205000a000174', 'b002000a', ''],
      [pub, '300400017479', '', ''],
      [pub, 'e000', '', ''],
      [sub, 'e000', '', ''],
    ]
    for (const [client, bytes, toSub, toPub] of steps) {
      await client.bytes(Buffer.from(bytes, 'hex'))
      expect([bytes, sent(sub), sent(pub)]).toEqual([bytes, toSub, toPub])
    }
    expect([sub.closed, pub.closed]).toEqual([true, true])
    expect(world.census()).toMatchObject({ wills: 0, connections: 0 })
  })
})
