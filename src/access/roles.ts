/** Rights from the roles of a user. What any role denies is denied; what one allows is allowed; else the next source is asked. */
import { parseFilter } from '../mqtt/topics.ts'
import { filterMatches, filtersOverlap } from '../routing/filter.ts'
import { type Accounts, ANONYMOUS_ROLE, CLIENT_ROLE, GIVEN_ROLES } from './accounts.ts'
import type { ClientRights, Decision, Identity, Request } from './decision.ts'
import { expanded, filterCovers, widened } from './filters.ts'
import { parseRule, type Rule } from './rule.ts'

/** A name with a wildcard or a separator in it would stand for more than one level. */
const FORBIDDEN = /[+#/]/

interface RoleRule {
  readonly role: string
  readonly rule: Rule
  /** With the client's names in it. */
  readonly filter: string
}

/** The rights that accounts give to a client; null when they know no role of it. */
export function roleRights(accounts: Accounts, identity: Identity): ClientRights | null {
  const names = rolesOf(accounts, identity)
  return names === null ? null : rightsOf(names, (name) => accounts.role(name)?.rules ?? [], identity)
}

/** The rights of the role that a user gets where nobody names another, whether or not it was granted yet. */
export function defaultRights(accounts: Accounts, identity: Identity): ClientRights {
  const rules = accounts.role(CLIENT_ROLE)?.rules ?? GIVEN_ROLES.get(CLIENT_ROLE)!.rules
  return rightsOf([CLIENT_ROLE], () => rules, identity)
}

function rightsOf(
  names: readonly string[],
  rulesOf: (role: string) => readonly string[],
  identity: Identity,
): ClientRights {
  const rules: RoleRule[] = []
  for (const name of names) {
    for (const text of rulesOf(name)) {
      const rule = parseRule(text)
      const own = expanded(rule.filter, identity, FORBIDDEN)
      // Nobody gets out of what is denied by a name that cannot stand in a filter.
      const filter = own ?? (rule.allow ? null : widened(rule.filter))
      if (filter !== null) rules.push({ role: name, rule, filter })
    }
  }
  // What is denied comes first: it wins.
  const denying = rules.filter(({ rule }) => !rule.allow)
  const sorted = [...denying, ...rules.filter(({ rule }) => rule.allow)]
  return {
    decide: (request) => decide(sorted, request),
    receivesEverything: !denying.some(({ rule }) => limitsReceiving(rule)) && sorted.some(isEverything),
  }
}

function isEverything({ rule, filter }: RoleRule): boolean {
  return rule.allow && filter === '#' && (rule.actions.has('receive') || rule.actions.has('subscribe'))
}

/** Whether a rule that denies is also about messages that a wider Subscription finds: one about some QoS or a share is not. */
function limitsReceiving({ actions, share, qosMin, qosMax }: Rule): boolean {
  return (
    actions.has('receive') || (actions.has('subscribe') && share === null && qosMin === 0 && qosMax === 2)
  )
}

function rolesOf(accounts: Accounts, { userName }: Identity): readonly string[] | null {
  if (userName !== null) return accounts.user(userName)?.roles ?? null
  return accounts.role(ANONYMOUS_ROLE) === undefined ? null : [ANONYMOUS_ROLE]
}

function decide(rules: readonly RoleRule[], request: Request): Decision | null {
  for (const { role, rule, filter } of rules) {
    if (!speaksOf(rule, filter, request)) continue
    return { allow: rule.allow, source: `role ${role}`, rule: rule.text }
  }
  return null
}

function speaksOf(rule: Rule, filter: string, request: Request): boolean {
  switch (request.action) {
    case 'publish': {
      const { qos, retain, topic } = request
      return (
        rule.actions.has('publish') &&
        rule.share === null &&
        qos >= rule.qosMin &&
        qos <= rule.qosMax &&
        (rule.retain === null || rule.retain === retain) &&
        filterMatches(filter, topic)
      )
    }
    case 'subscribe':
      return speaksOfSubscription(rule, filter, request.filter, request.qos)
    case 'receive': {
      // What a client may subscribe to it may receive; what it may not subscribe to reaches it by no wider filter.
      const isAbout = rule.allow
        ? rule.actions.has('receive') || rule.actions.has('subscribe')
        : limitsReceiving(rule)
      return isAbout && filterMatches(filter, request.topic)
    }
  }
}

function speaksOfSubscription(rule: Rule, filter: string, asked: string, qos: number): boolean {
  const { share, filter: inner } = parseFilter(asked)
  if (rule.share !== null && (share === null || (rule.share !== '+' && rule.share !== share))) return false
  if (rule.actions.has('subscribe') && qos >= rule.qosMin && qos <= rule.qosMax) {
    if (filterCovers(filter, inner)) return true
  }
  if (!rule.actions.has('receive')) return false
  // Messages are looked at one by one: the filter may be wider than what is received.
  return rule.allow ? filtersOverlap(filter, inner) : filterCovers(filter, inner)
}
