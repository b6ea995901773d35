/**
 * Rights from the roles of a user. A request that any role denies is denied; otherwise one that a role allows
 * is allowed; otherwise the next source is asked.
 */
import { parseFilter } from '../mqtt/topics.ts'
import { filterMatches, filtersOverlap } from '../routing/filter.ts'
import { type Accounts, ANONYMOUS_ROLE, CLIENT_ROLE, GIVEN_ROLES } from './accounts.ts'
import type { Role } from './accounts-file.ts'
import type { ClientRights, Decision, Identity, Request } from './decision.ts'
import { expanded, filterCovers, hasPlaceholder, widened } from './filters.ts'
import { parseRule, type Rule } from './rule.ts'

/** A name with a wildcard or a separator in it would stand for more than one level. */
const FORBIDDEN = /[+#/]/

/** One rule of a role. */
interface RoleRule {
  readonly role: string
  readonly rule: Rule
  /** Whether the filter has `%u` or `%c` in it, so that it differs by client. */
  readonly hasPlaceholder: boolean
}

/** The parsed rules of one role, shared by all clients that have it. */
interface RoleRules {
  readonly denying: readonly RoleRule[]
  readonly allowing: readonly RoleRule[]
  /** Whether a rule withholds messages that match a wider Subscription. */
  readonly limitsReceiving: boolean
  /** Whether a rule allows every message whose topic name does not begin with `$`. */
  readonly allowsEverything: boolean
}

/** Gives clients the rights of their roles. A role is parsed once; a change of it makes a new `Role`. */
export class RoleRights {
  readonly #accounts: Pick<Accounts, 'user' | 'role'>
  readonly #parsed = new WeakMap<Role, RoleRules>()

  constructor(accounts: Pick<Accounts, 'user' | 'role'>) {
    this.#accounts = accounts
  }

  /** Returns the rights that the accounts give to a client; null if they know no role of it. */
  rightsOf(identity: Identity): ClientRights | null {
    const names = this.#rolesOf(identity)
    if (names === null) return null
    const roles: RoleRules[] = []
    for (const name of names) {
      const role = this.#accounts.role(name)
      if (role !== undefined) roles.push(this.#rulesOf(role))
    }
    return new RightsByRoles(roles, identity)
  }

  /** Returns the rights of the default role, even if nobody was granted it yet. */
  defaultRightsOf(identity: Identity): ClientRights {
    const role = this.#accounts.role(CLIENT_ROLE) ?? GIVEN_ROLES.get(CLIENT_ROLE)!
    return new RightsByRoles([this.#rulesOf(role)], identity)
  }

  #rolesOf({ userName }: Identity): readonly string[] | null {
    if (userName !== null) return this.#accounts.user(userName)?.roles ?? null
    return this.#accounts.role(ANONYMOUS_ROLE) === undefined ? null : [ANONYMOUS_ROLE]
  }

  #rulesOf(role: Role): RoleRules {
    const known = this.#parsed.get(role)
    if (known !== undefined) return known
    const parsed = parseRole(role)
    this.#parsed.set(role, parsed)
    return parsed
  }
}

function parseRole({ name, rules }: Role): RoleRules {
  const parsed = rules.map((text): RoleRule => {
    const rule = parseRule(text)
    return { role: name, rule, hasPlaceholder: hasPlaceholder(rule.filter) }
  })
  const denying = parsed.filter(({ rule }) => !rule.allow)
  const allowing = parsed.filter(({ rule }) => rule.allow)
  return {
    denying,
    allowing,
    limitsReceiving: denying.some(({ rule }) => limitsReceiving(rule)),
    // Only a written `#` counts: a client's name never turns a placeholder into one.
    allowsEverything: allowing.some(({ rule }) => isEverything(rule)),
  }
}

function isEverything({ filter, actions }: Rule): boolean {
  return filter === '#' && (actions.has('receive') || actions.has('subscribe'))
}

/**
 * Whether a denying rule also withholds the messages that match a wider Subscription. A rule for some QoS
 * levels or for a share does not.
 */
function limitsReceiving({ actions, share, qosMin, qosMax }: Rule): boolean {
  return (
    actions.has('receive') || (actions.has('subscribe') && share === null && qosMin === 0 && qosMax === 2)
  )
}

/** The rights of one client: the rules of its roles, with its names in their filters. */
class RightsByRoles implements ClientRights {
  readonly receivesEverything: boolean
  readonly #roles: readonly RoleRules[]
  readonly #identity: Identity
  /** The filters of rules with a placeholder, made when they are first needed. */
  #filters: Map<RoleRule, string | null> | null = null

  constructor(roles: readonly RoleRules[], identity: Identity) {
    this.#roles = roles
    this.#identity = identity
    this.receivesEverything =
      !roles.some((role) => role.limitsReceiving) && roles.some((role) => role.allowsEverything)
  }

  decide(request: Request): Decision | null {
    for (const { denying } of this.#roles) {
      const found = this.#ruleAbout(denying, request)
      if (found !== undefined) return decisionOf(found)
    }
    for (const { allowing } of this.#roles) {
      const found = this.#ruleAbout(allowing, request)
      if (found !== undefined) return decisionOf(found)
    }
    return null
  }

  #ruleAbout(rules: readonly RoleRule[], request: Request): RoleRule | undefined {
    return rules.find((rule) => {
      const filter = rule.hasPlaceholder ? this.#filterOf(rule) : rule.rule.filter
      return filter !== null && speaksOf(rule.rule, filter, request)
    })
  }

  /**
   * Returns the filter with the client's names in it. If a name cannot stand in a filter, an allowing rule
   * allows nothing (null), and a denying rule holds for every name.
   */
  #filterOf(rule: RoleRule): string | null {
    this.#filters ??= new Map()
    const known = this.#filters.get(rule)
    if (known !== undefined) return known
    const { allow, filter } = rule.rule
    const own = expanded(filter, this.#identity, FORBIDDEN)
    // No name may exempt a client from a denial.
    const made = own ?? (allow ? null : widened(filter))
    this.#filters.set(rule, made)
    return made
  }
}

function decisionOf({ role, rule }: RoleRule): Decision {
  return { allow: rule.allow, source: `role ${role}`, rule: rule.text }
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
      // A client may receive what it may subscribe to. A topic that it may not subscribe to does not reach it
      // through a wider filter either.
      const isAbout = rule.allow
        ? rule.actions.has('receive') || rule.actions.has('subscribe')
        : limitsReceiving(rule)
      return isAbout && filterMatches(filter, request.topic)
    }
    case 'receive all': {
      // One message that the client may not receive is enough to deny all of them.
      if (!rule.allow) return limitsReceiving(rule) && filtersOverlap(filter, request.filter)
      const isAbout = rule.actions.has('receive') || rule.actions.has('subscribe')
      return isAbout && rule.share === null && filterCovers(filter, request.filter)
    }
    case 'declare':
      return rule.actions.has('declare') && rule.share === null && filterMatches(filter, request.topic)
  }
}

function speaksOfSubscription(rule: Rule, filter: string, asked: string, qos: number): boolean {
  const { share, filter: inner } = parseFilter(asked)
  if (rule.share !== null && (share === null || (rule.share !== '+' && rule.share !== share))) return false
  if (rule.actions.has('subscribe') && qos >= rule.qosMin && qos <= rule.qosMax) {
    if (filterCovers(filter, inner)) return true
  }
  if (!rule.actions.has('receive')) return false
  // The filter may be wider than the rule's, since each message is checked before it is sent.
  return rule.allow ? filtersOverlap(filter, inner) : filterCovers(filter, inner)
}
