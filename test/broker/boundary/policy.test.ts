import { describe, expect, test } from 'vitest'
import { absentClient, guarded, mayDeclare, type Policy } from '../../../src/broker/boundary/policy.ts'
import { Reason } from '../../../src/mqtt/reason.ts'

const CLIENT = absentClient('c', { userName: 'u', userId: null })

function ask(policy: Policy, filters: readonly string[] = ['jobs/#']): boolean | Promise<boolean> {
  return mayDeclare(guarded(policy), CLIENT, '$queue/jobs', filters)
}

describe('who may declare a queue by using it', () => {
  test('everybody, without a policy', () => {
    expect(ask({})).toBe(true)
  })

  test('those whom the policy allows it, and every filter at QoS 2', () => {
    const asked: unknown[] = []
    const policy: Policy = {
      authorizeDeclare: (_, topic, filters) => {
        asked.push([topic, filters])
        return true
      },
      authorizeSubscribe: (_, filter, qos) => {
        asked.push([filter, qos])
        return filter !== 'b' || Reason.NotAuthorized
      },
    }
    expect(ask(policy, ['a', 'c'])).toBe(true)
    expect(asked).toEqual([
      ['$queue/jobs', ['a', 'c']],
      ['a', 2],
      ['c', 2],
    ])
    expect(ask(policy, ['a', 'b'])).toBe(false)
    expect(ask({ authorizeDeclare: () => false }, [])).toBe(false)
  })

  test('nobody with filters, where messages are withheld and the policy says nothing of queues', () => {
    const policy: Policy = { authorizeReceive: () => true }
    expect(ask(policy)).toBe(false)
    expect(ask(policy, [])).toBe(true)
    expect(ask({ ...policy, authorizeDeclare: () => true })).toBe(true)
  })

  test('promises are awaited, and a policy that fails allows nothing', async () => {
    await expect(ask({ authorizeDeclare: async () => true })).resolves.toBe(true)
    await expect(ask({ authorizeSubscribe: async () => Reason.NotAuthorized })).resolves.toBe(false)
    const failing: Policy = {
      authorizeDeclare: () => {
        throw new Error('out of order')
      },
    }
    await expect(ask(failing)).rejects.toThrow('out of order')
  })
})
