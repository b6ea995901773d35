/** Bans by the program that embeds the broker. */
import { type BanView, banCommand, subjectOf, viewOf } from '../access/bans/ban-commands.ts'
import type { BanGuard } from './ban-guard.ts'

/** The subject of a ban: an address or network such as `203.0.113.0/24`, a Client Identifier, or a user. */
export type Banned =
  | { readonly address: string }
  | { readonly clientId: string }
  | { readonly userName: string }

/** The bans of a broker, for the program that embeds it. */
export interface BrokerBans {
  /**
   * Adds a ban, or replaces an earlier one with the same subject, and ends the connections that it concerns.
   * Without `seconds` it has no end. Addresses are turned away before TLS; other clients get 0x8A (before
   * 5.0: 5). `reason` is only shown to the operator. Rejects with BansError if the address is invalid, or if
   * the ban cannot be written: then it lasts until the broker ends.
   */
  add(who: Banned, options?: { readonly seconds?: number; readonly reason?: string }): Promise<void>
  /** Lists the bans in force, automatic ones included. */
  list(): readonly BanView[]
  /** Lifts a ban. Resolves with false if there is none. Rejects as `add` does. */
  remove(who: Banned): Promise<boolean>
}

/** Returns the bans of this guard. Its changes are logged as made by `program`. */
export function programBans(guard: BanGuard): BrokerBans {
  const by = 'program'
  const named = (who: Banned): ReturnType<typeof subjectOf> => {
    if ('address' in who) return subjectOf({ kind: 'address', subject: who.address })
    if ('clientId' in who) return subjectOf({ kind: 'client', subject: who.clientId })
    return subjectOf({ kind: 'user', subject: who.userName })
  }
  return {
    add: async (who, { seconds, reason = '' } = {}) => {
      await banCommand(guard, 'ban add', { ...named(who), seconds, reason }, by, guard.now())
    },
    list: () => guard.list().map((ban) => viewOf(ban, guard.now())),
    remove: async (who) => {
      const { kind, subject } = named(who)
      return guard.remove(kind, subject, by)
    },
  }
}
