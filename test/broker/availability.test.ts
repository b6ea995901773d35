import { describe, expect, it } from 'vitest'
import { World } from './harness.ts'

describe('features that CONNACK says are not available', () => {
  const cases = [
    { limit: 'wildcardSubscriptionAvailable', property: 'wildcardSubscriptionAvailable', code: 0xa2 },
    { limit: 'sharedSubscriptionAvailable', property: 'sharedSubscriptionAvailable', code: 0x9e },
    { limit: 'subscriptionIdentifierAvailable', property: 'subscriptionIdentifiersAvailable', code: 0xa1 },
  ] as const

  it.each(cases)(
    '$limit: false is announced, ends a 5.0 connection that uses the feature, and is counted',
    async (each) => {
      const world = await World.make({ limits: { [each.limit]: false } })
      const limited = world.record('limited')
      const client = await world.connect('c')
      expect(client.connack).toMatchObject({ properties: { [each.property]: false } })
      const filters = { 162: 'a/+', 158: '$share/g/a', 161: 'a' }
      expect(await client.subscribe('a/b', 1)).toBe(1)
      const identified = each.code === 0xa1 ? { subscriptionIdentifier: 5 } : undefined
      await client.subscribe(filters[each.code], 1, {}, identified)
      expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: each.code }])
      expect(client.closed).toBe(true)
      expect(limited).toMatchObject([{ limit: each.limit, clientId: 'c' }])
      expect(world.server.state.counters.limits[each.limit]).toBe(1)
      // Everything else works as ever.
      const other = await world.connect('other')
      const allowed = { 162: '$share/g/a', 158: 'a/#', 161: '$share/g/a/+' }
      expect(await other.subscribe(allowed[each.code], 2)).toBe(2)
    },
  )

  it('available features are not mentioned', async () => {
    const client = await (await World.make()).connect('c')
    for (const { property } of cases) expect(client.connack).not.toHaveProperty(`properties.${property}`)
  })

  it('[MQTT-3.8.3-2, 3.1.1] clients before 5.0 get 0x80 for such a filter and keep the others', async () => {
    const limits = { wildcardSubscriptionAvailable: false, sharedSubscriptionAvailable: false }
    const world = await World.make({ limits })
    const client = await world.connect('c', {}, 4)
    const filters = ['#', 'a', '$share/g/a', '$share/g/+', 'b/+/c', 'b']
    const subscriptions = filters.map((topic) => ({ topic, qos: 1 as const }))
    const [suback] = await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    expect(suback).toMatchObject({ cmd: 'suback', granted: [0x80, 1, 0x80, 0x80, 0x80, 1] })
    expect([...world.server.state.sessions.get('c')!.subscriptions.keys()]).toEqual(['a', 'b'])
  })

  it('programs in this process may use everything', async () => {
    const limits = { wildcardSubscriptionAvailable: false, sharedSubscriptionAvailable: false }
    const { server } = await World.make({ limits })
    const options = { qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    expect(() => server.subscribe('$share/g/#', options, () => {})).not.toThrow()
  })
})

describe('refusedSubscriptions', () => {
  const limits = {
    refusedSubscriptions: [
      { filter: 'test/nosubscribe', reasonCode: 0x80 },
      { filter: '#', reasonCode: 0x87 },
    ],
  } as const

  it('a refused filter, plain or shared, gets its Reason Code and is counted, others work', async () => {
    const world = await World.make({ limits })
    const limited = world.record('limited')
    const client = await world.connect('c')
    const filters = [
      'test/nosubscribe',
      '$share/g/test/nosubscribe',
      '#',
      '+/nosubscribe',
      'test/nosubscribe/',
    ]
    const subscriptions = filters.map((topic) => ({ topic, qos: 2, nl: false, rap: false, rh: 0 }))
    const [suback] = await client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    expect(suback).toMatchObject({ cmd: 'suback', granted: [0x80, 0x80, 0x87, 2, 2] })
    expect(limited.map(({ limit, detail }) => [limit, detail])).toEqual([
      ['refusedSubscriptions', 'test/nosubscribe'],
      ['refusedSubscriptions', '$share/g/test/nosubscribe'],
      ['refusedSubscriptions', '#'],
    ])
    expect(client.closed).toBe(false)
  })

  it('before 5.0 the code is 0x80', async () => {
    const world = await World.make({ limits })
    const client = await world.connect('c', {}, 4)
    expect(await client.subscribe('#', 1)).toBe(0x80)
  })
})
