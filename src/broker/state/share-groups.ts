/**
 * Counts groups of Shared Subscriptions by the users who opened them. Each group gets each message once, so
 * groups multiply messages more than anything else that one user may have.
 */
import { filterMatches } from '../../routing/filter.ts'
import type { Router } from '../../routing/router.ts'
import type { GroupWatch, ShareGroup, Subscription } from '../../routing/subscription.ts'
import type { Session } from '../../session/session.ts'
import { type Usage, usageOf } from '../accounts/usage.ts'
import type { UsageBook } from '../accounts/usage-book.ts'
import type { Work } from './work.ts'

/** Stands for any level; no client can send this character. */
const ANY_LEVEL = '\0'

/** Groups that one user has opened. */
interface Opened {
  count: number
  /** Number of groups by topic filter, without `$share/name/`. */
  readonly byFilter: Map<string, number>
}

export class ShareGroups implements GroupWatch<Session> {
  readonly #byUser = new Map<Usage, Opened>()
  readonly #work: Work
  readonly #usage: UsageBook

  constructor(router: Router<Session>, usage: UsageBook, work: Work) {
    this.#usage = usage
    this.#work = work
    router.watch = this
  }

  opened(group: ShareGroup<Session>, filter: string, by: Session): void {
    const user = usageOf(by)?.user ?? null
    // Subscribers in this process have no limits.
    if (user === null) return
    group.opener = user
    // Otherwise a user who leaves and comes back could open as many again, while others keep the first ones
    // open.
    this.#usage.hold(user)
    const opened = this.#byUser.get(user) ?? { count: 0, byFilter: new Map() }
    this.#byUser.set(user, opened)
    opened.count++
    opened.byFilter.set(filter, (opened.byFilter.get(filter) ?? 0) + 1)
  }

  closed(group: ShareGroup<Session>, filter: string): void {
    const user = group.opener as Usage | null
    const opened = user === null ? undefined : this.#byUser.get(user)
    if (user === null || opened === undefined) return
    this.#usage.letGoOf(user)
    opened.count--
    const left = opened.byFilter.get(filter)! - 1
    if (left === 0) opened.byFilter.delete(filter)
    else opened.byFilter.set(filter, left)
    if (opened.count === 0) this.#byUser.delete(user)
  }

  keeps({ subscriber, options }: Subscription<Session>): boolean {
    return options.qos > 0 && subscriber.stored
  }

  /** Returns the number of open groups that this user has opened. */
  countOf(user: Usage): number {
    return this.#byUser.get(user)?.count ?? 0
  }

  /**
   * Counts the user's groups that would get the same message as a new group with this filter; wildcards of
   * the filter stand for levels that no other filter names. Stops at `enough`; returns 0 for a user with
   * fewer groups.
   */
  sharingMessage(user: Usage, filter: string, enough: number): number {
    const opened = this.#byUser.get(user)
    if (opened === undefined || opened.count < enough) return 0
    const topic = filter.replaceAll(/[+#]/g, ANY_LEVEL)
    let count = 0
    for (const [other, groups] of opened.byFilter) {
      this.#work.units++
      if (filterMatches(other, topic)) count += groups
      if (count >= enough) return count
    }
    return count
  }
}
