import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Accounts } from '../../src/access/accounts.ts'
import type { Role } from '../../src/access/accounts-file.ts'
import { aclRights, parseAclFile } from '../../src/access/acl-file.ts'
import type { ClientRights, Request } from '../../src/access/decision.ts'
import { filterCovers } from '../../src/access/filters.ts'
import { Rights } from '../../src/access/rights.ts'
import { RoleRights } from '../../src/access/roles.ts'
import { parseRule } from '../../src/access/rule.ts'
import { filterMatches } from '../../src/routing/filter.ts'

const publish = (topic: string, qos: 0 | 1 | 2 = 0, retain = false): Request => ({
  action: 'publish',
  topic,
  qos,
  retain,
})
const subscribe = (filter: string, qos: 0 | 1 | 2 = 0): Request => ({ action: 'subscribe', filter, qos })
const receive = (topic: string): Request => ({ action: 'receive', topic })
const receiveAll = (filter: string): Request => ({ action: 'receive all', filter })
const declare = (topic: string): Request => ({ action: 'declare', topic })

/** Yes, no, or next. */
function answer(rights: ClientRights | null, request: Request): boolean | null {
  return rights?.decide(request)?.allow ?? null
}

describe('a filter covers another one', () => {
  test.each([
    ['#', 'a/b', true],
    ['#', '#', true],
    ['#', '$SYS/#', false],
    ['+/b', '$SYS/b', false],
    ['$SYS/#', '$SYS/a/+', true],
    ['$SYS/#', '#', false],
    ['a/#', 'a', true],
    ['a/+', 'a', false],
    ['a/+', 'a/#', false],
    ['a/+', 'a/+', true],
    ['a/b', 'a/+', false],
    ['a/+/c', 'a/b/c', true],
  ])('%s covers %s: %s', (outer, inner, covers) => {
    expect(filterCovers(outer, inner)).toBe(covers)
  })

  test('only where it matches every topic name that the other does', () => {
    const level = fc.constantFrom('a', 'b', '', '$x')
    const filter = fc
      .tuple(fc.array(fc.oneof(level, fc.constant('+')), { minLength: 1, maxLength: 3 }), fc.boolean())
      .map(([levels, all]) => (all ? [...levels, '#'] : levels).join('/'))
      .filter((text) => text !== '')
    const topic = fc.array(level, { minLength: 1, maxLength: 4 }).map((levels) => levels.join('/'))
    const property = fc.property(filter, filter, topic, (outer, inner, name) => {
      fc.pre(name !== '' && filterCovers(outer, inner) && filterMatches(inner, name))
      expect(filterMatches(outer, name)).toBe(true)
    })
    fc.assert(property, { numRuns: 300 })
  })
})

describe('rules', () => {
  test.each([
    ['permit publish a', 'begins with allow or deny'],
    ['allow publish', 'names actions and a topic filter'],
    ['allow write a', "'write' is not one of publish, subscribe, receive, declare or all"],
    ['allow publish a/#/b', 'has a # that is not the whole last level'],
    ['allow publish $share/g', 'names no share and filter'],
    ['allow publish a qos 3', 'qos is 0, 1, 2 or a range'],
    ['allow publish a qos 2-1', 'qos 2-1 is empty'],
    ['allow publish a forever', "unknown word 'forever'"],
  ])('%s: %s', (text, message) => {
    expect(() => parseRule(text)).toThrow(message)
  })

  test('a filter with spaces stands in quotes', () => {
    expect(parseRule('allow  publish "a b/#"  qos 0').filter).toBe('a b/#')
    expect(parseRule('allow publish "a b/#" qos 0').text).toBe('allow publish "a b/#" qos 0')
  })
})

describe('roles', () => {
  let directory: string
  let accounts: Accounts
  let roles: RoleRights
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'godwit-roles-'))
    accounts = await Accounts.open(directory)
    roles = new RoleRights(accounts)
  })
  afterEach(() => rmSync(directory, { recursive: true, force: true }))

  async function rightsOf(rules: readonly string[], clientId = 'c', userName = 'u'): Promise<ClientRights> {
    await accounts.addRules('r', rules)
    await accounts.addUser(userName, null, ['r'])
    return roles.rightsOf({ clientId, userName })!
  }

  test.each<[string, Request, boolean | null]>([
    ['allow publish a/#', publish('a/b'), true],
    ['allow publish a/#', publish('b'), null],
    ['allow publish a/#', subscribe('a/b'), null],
    ['allow publish a/#', receive('a/b'), null],
    ['deny publish a/#', publish('a/b'), false],
    ['allow publish a qos 0-1', publish('a', 2), null],
    ['allow publish a qos 0-1', publish('a', 1), true],
    ['deny publish a retain', publish('a', 0, true), false],
    ['deny publish a retain', publish('a', 0, false), null],
    ['allow publish a no-retain', publish('a', 0, true), null],
    ['allow publish #', publish('$SYS/x'), null],
    ['allow subscribe a/#', subscribe('a/+'), true],
    ['allow subscribe a/#', subscribe('#'), null],
    ['allow subscribe a/#', subscribe('$share/g/a/b'), true],
    ['allow subscribe a qos 0', subscribe('a', 1), null],
    ['allow subscribe $share/g/a/#', subscribe('$share/g/a/b'), true],
    ['allow subscribe $share/g/a/#', subscribe('$share/h/a/b'), null],
    ['allow subscribe $share/g/a/#', subscribe('a/b'), null],
    ['allow subscribe $share/g/a/#', receive('a/b'), true],
    ['deny subscribe $share/+/#', subscribe('$share/h/a'), false],
    ['deny subscribe $share/+/#', subscribe('a'), null],
    ['deny subscribe $share/+/#', receive('a'), null],
    ['allow subscribe #', subscribe('$SYS/#'), null],
    ['allow subscribe $SYS/#', subscribe('$SYS/broker/#'), true],
    ['allow receive a/#', subscribe('#'), true],
    ['allow receive a/#', subscribe('b/#'), null],
    ['allow receive a/#', receive('a/b'), true],
    ['allow receive a/#', receive('b'), null],
    ['allow subscribe a/#', receive('a/b'), true],
    ['deny subscribe a/#', receive('a/b'), false],
    ['deny subscribe a qos 2', receive('a'), null],
    ['deny subscribe a qos 2', subscribe('a', 2), false],
    ['deny receive a/#', subscribe('a/b'), false],
    ['deny receive a/#', subscribe('#'), null],
    ['allow subscribe a/#', receiveAll('a/+'), true],
    ['allow receive a/#', receiveAll('a/b'), true],
    ['allow receive a/#', receiveAll('#'), null],
    ['allow subscribe $share/g/a/#', receiveAll('a/b'), null],
    ['allow publish a/#', receiveAll('a/b'), null],
    ['deny receive a/#', receiveAll('a/b'), false],
    ['deny receive a/#', receiveAll('+/b'), false],
    ['deny receive a/#', receiveAll('b/#'), null],
    ['deny subscribe a qos 2', receiveAll('a'), null],
    ['allow declare $queue/+', declare('$queue/jobs'), true],
    ['allow declare $queue/u-%u', declare('$queue/u-u'), true],
    ['allow declare $queue/+', subscribe('$queue/jobs'), null],
    ['allow all $queue/#', declare('$queue/jobs'), true],
    ['allow all #', declare('$queue/jobs'), null],
    ['allow subscribe,publish $queue/#', declare('$queue/jobs'), null],
    ['deny declare $queue/+', declare('$queue/jobs'), false],
    ['deny declare $queue/+', publish('$queue/jobs'), null],
    ['allow subscribe $queue/jobs', subscribe('$queue/jobs'), true],
    ['allow publish $queue/jobs/#', publish('$queue/jobs'), true],
  ])('%s · %o · %s', async (rule, request, expected) => {
    expect(answer(await rightsOf([rule]), request)).toBe(expected)
  })

  test('a request that one role denies is not allowed by another', async () => {
    await accounts.addRules('all', ['allow all #'])
    await accounts.addRules('not', ['deny all secret/#'])
    await accounts.addUser('u', null, ['all', 'not'])
    const rights = roles.rightsOf({ clientId: 'c', userName: 'u' })!
    expect(answer(rights, publish('secret/x'))).toBe(false)
    expect(answer(rights, subscribe('#'))).toBe(true)
    expect(answer(rights, receive('secret/x'))).toBe(false)
    expect(answer(rights, receive('a'))).toBe(true)
    expect(rights.decide(publish('secret/x'))).toEqual({
      allow: false,
      source: 'role not',
      rule: 'deny all secret/#',
    })
    expect(rights.receivesEverything).toBe(false)
  })

  test('%u and %c are the client’s names; names with a wildcard or separator match no rule', async () => {
    const rules = ['allow publish u/%u/#', 'allow publish c/%c/x']
    expect(answer(await rightsOf(rules), publish('u/u/1'))).toBe(true)
    const strange = roles.rightsOf({ clientId: '+', userName: 'u' })
    expect(answer(strange, publish('c/+/x'))).toBe(null)
    expect(answer(roles.rightsOf({ clientId: 'a/b', userName: 'u' }), publish('c/a/b/x'))).toBe(null)
    expect(answer(roles.rightsOf({ clientId: 'c', userName: 'u' }), publish('c/c/x'))).toBe(true)
  })

  test('a denying rule with a placeholder denies more to such a name', async () => {
    await rightsOf(['allow all #', 'deny publish commands/%c/#', 'deny all private/%u'])
    for (const clientId of ['a/b', '+', '#']) {
      const strange = roles.rightsOf({ clientId, userName: 'u' })
      expect(answer(strange, publish('commands/a/b/x')), clientId).toBe(false)
      expect(answer(strange, publish('commands'))).toBe(false)
      expect(answer(strange, publish('private/u'))).toBe(false)
      expect(answer(strange, publish('private/other'))).toBe(true)
    }
  })

  test('users without an account have none; anonymous clients have the role anonymous', async () => {
    expect(roles.rightsOf({ clientId: 'c', userName: 'stranger' })).toBeNull()
    expect(roles.rightsOf({ clientId: 'c', userName: null })).toBeNull()
    await accounts.addRules('anonymous', ['allow subscribe public/#'])
    const rights = roles.rightsOf({ clientId: 'c', userName: null })
    expect(answer(rights, subscribe('public/#'))).toBe(true)
    expect(roles.rightsOf({ clientId: 'c', userName: 'stranger' })).toBeNull()
  })

  test('a role is parsed once for all its users, and again when it was changed', async () => {
    await accounts.addRules('r', ['allow publish own/%u', 'deny publish own/u2'])
    await accounts.addWithoutPassword(['u1', 'u2', 'u3'], ['r'])
    const parsed: string[] = []
    const counted = new RoleRights({
      user: (name) => accounts.user(name),
      role: (name) => counting(accounts.role(name), parsed),
    })
    const answers = (): (boolean | null)[] =>
      ['u1', 'u2', 'u3'].map((userName) =>
        answer(counted.rightsOf({ clientId: 'c', userName }), publish(`own/${userName}`)),
      )
    expect(answers()).toEqual([true, false, true])
    expect(parsed).toEqual(['r'])
    await accounts.addRules('r', ['deny publish own/u3'])
    expect(answers()).toEqual([true, false, false])
    expect(answers()).toEqual([true, false, false])
    expect(parsed).toEqual(['r', 'r'])
  })
})

const countingRoles = new WeakMap<Role, Role>()

/** The same role, whose name is added to `parsed` each time when its rules are read. */
function counting(role: Role | undefined, parsed: string[]): Role | undefined {
  if (role === undefined) return undefined
  const known = countingRoles.get(role)
  if (known !== undefined) return known
  const { name, rules } = role
  const wrapped = {
    name,
    get rules() {
      parsed.push(name)
      return rules
    },
  }
  countingRoles.set(role, wrapped)
  return wrapped
}

describe('an acl_file', () => {
  test('names every bad line by its number', () => {
    const text = 'topic\nusers x\nuser\ntopic write\ntopic allow a\npattern read a/#/b\n'
    expect(() => parseAclFile(text, 'f')).toThrow(/^f:1: .*\nf:2: .*\nf:3: .*\nf:5: .*\nf:6: .*$/)
  })

  test('refuses a Subscription that could get no message, and checks each message of the others', () => {
    const text = 'user u\ntopic read a/#\ntopic deny a/secret/#\ntopic write w\n'
    const rights = aclRights(parseAclFile(text, 'f'), { clientId: 'c', userName: 'u' })
    expect(answer(rights, subscribe('#'))).toBe(true)
    expect(answer(rights, subscribe('b'))).toBe(null)
    expect(answer(rights, subscribe('w'))).toBe(null)
    expect(answer(rights, subscribe('$share/g/a/b'))).toBe(true)
    expect(answer(rights, subscribe('a/secret/+'))).toBe(false)
    expect(rights.decide(receive('a/secret/x'))).toEqual({
      allow: false,
      source: 'f, line 3',
      rule: 'topic deny a/secret/#',
    })
  })

  test.each<[string, Request, boolean | null]>([
    ['readwrite $queue/jobs', declare('$queue/jobs'), true],
    ['$queue/jobs', declare('$queue/jobs'), true],
    ['readwrite $queue/#', declare('$queue/jobs'), true],
    ['readwrite #', declare('$queue/jobs'), null],
    ['read $queue/jobs', declare('$queue/jobs'), null],
    ['write $queue/jobs', declare('$queue/jobs'), null],
    ['deny $queue/jobs', declare('$queue/jobs'), false],
    ['read $queue/jobs', subscribe('$queue/jobs'), true],
    ['read a/#', receiveAll('a/+'), true],
    ['write a/#', receiveAll('a/+'), null],
    ['read a/#', receiveAll('#'), null],
    ['deny a/b', receiveAll('a/+'), false],
    ['deny a/b', receiveAll('b'), null],
  ])('topic %s · %o · %s', (line, request, expected) => {
    const file = parseAclFile(`user u\ntopic ${line}\n`, 'f')
    expect(answer(aclRights(file, { clientId: 'c', userName: 'u' }), request)).toBe(expected)
  })
})

describe('a decision', () => {
  test('is remembered per topic name, QoS and RETAIN', () => {
    let asked = 0
    const source: ClientRights = {
      receivesEverything: false,
      decide: () => {
        asked++
        return { allow: true, source: '', rule: '' }
      },
    }
    const rights = new Rights([source], { allow: false, source: '', rule: '' })
    for (let time = 0; time < 3; time++) {
      rights.mayPublish('a', 0, false)
      rights.mayPublish('a', 1, false)
      rights.mayPublish('a', 1, true)
      rights.mayReceive('a')
    }
    expect(asked).toBe(4)
    for (let i = 0; i < 5000; i++) rights.mayReceive(`t/${i}`)
    expect(rights.mayReceive('t/4999')).toBe(true)
    expect(asked).toBe(5004)
  })

  test('is remembered for a bounded number of characters, and never for a long topic name', () => {
    const rights = new Rights([], { allow: false, source: '', rule: '' })
    for (let i = 0; i < 5000; i++) {
      const name = `${i}`.padEnd(i % 2 === 0 ? 65_000 : 900, 'x')
      for (const qos of [0, 1, 2] as const) rights.mayPublish(name, qos, i % 3 === 0)
      rights.mayReceive(name)
    }
    expect(rights.characters).toBeGreaterThan(900)
    expect(rights.characters).toBeLessThanOrEqual(32_768)
  })

  test('is not needed for clients that may receive everything, except for $ topics', () => {
    const source: ClientRights = { receivesEverything: true, decide: () => null }
    const rights = new Rights([source], { allow: false, source: '', rule: '' })
    expect([rights.mayReceive('a'), rights.mayReceive('$SYS/a')]).toEqual([true, false])
  })
})
