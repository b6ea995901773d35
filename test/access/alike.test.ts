/**
 * Counts the HMACs that the main thread computes for a password before any slow hash: an observer can measure
 * them.
 */
import type { BinaryLike } from 'node:crypto'
import { expect, test, vi } from 'vitest'
import { Logins } from '../../src/access/logins/logins.ts'
import { PasswordWork } from '../../src/access/logins/password-work.ts'
import { generatePassword } from '../../src/access/passwords/generated-password.ts'
import {
  hashPassword,
  type PasswordHash,
  parsePasswordHash,
} from '../../src/access/passwords/password-hash.ts'

const hashed = vi.hoisted(() => ({ hmacs: 0, bytes: 0 }))

vi.mock('node:crypto', async (original) => {
  const crypto = await original<typeof import('node:crypto')>()
  const createHmac: typeof crypto.createHmac = (...given) => {
    hashed.hmacs++
    const hmac = crypto.createHmac(...given)
    const update = hmac.update.bind(hmac) as (data: BinaryLike) => typeof hmac
    hmac.update = (data: BinaryLike) => {
      hashed.bytes += Buffer.byteLength(data as Buffer)
      return update(data)
    }
    return hmac
  }
  return { ...crypto, createHmac }
})

function parsed(text: string): PasswordHash {
  const hash = parsePasswordHash(text)
  if (typeof hash === 'string') throw new Error(hash)
  return hash
}

test('a delayed wrong password costs the same for every user, known or not', async () => {
  const logins = new Logins(new PasswordWork())
  const kinds = [
    undefined,
    parsed(await hashPassword(Buffer.from('chosen'))),
    parsed(generatePassword().encoded),
  ]
  for (const password of ['', 'guess', generatePassword().password, 'x'.repeat(65_535)]) {
    const costs = kinds.map((stored) => {
      Object.assign(hashed, { hmacs: 0, bytes: 0 })
      const attempt = { userName: 'u', password: Buffer.from(password), stored, address: '203.0.113.9' }
      expect(logins.check({ ...attempt, isSuspect: true, isDelayed: () => true, waiting: undefined })).toBe(
        'delayed',
      )
      return { ...hashed }
    })
    expect([costs[1], costs[2]]).toEqual([costs[0], costs[0]])
  }
})
