/**
 * Carries out `ban add`, `ban list` and `ban remove`, in a running broker or on a data directory without one.
 */
import { BAN_REASON_CHARACTERS_MAX, type Ban, type BanKind, banSubject } from '../../broker/boundary/bans.ts'
import { BANS_MAX, BansError } from './bans-file.ts'

/** The commands about bans. */
export const BAN_COMMANDS = ['ban add', 'ban list', 'ban remove'] as const

/** One of these commands. */
export type BanCommand = (typeof BAN_COMMANDS)[number]

type Parameters = Readonly<Record<string, unknown>>

/** Keeps bans: those of a running broker, or those of a file. */
export interface BanKeeper {
  list(): readonly Ban[]
  add(ban: Ban): Promise<void>
  /** Resolves with false if there is no such ban. */
  remove(kind: BanKind, subject: string): Promise<boolean>
}

/** A ban as commands and embedding programs see it. */
export interface BanView {
  readonly kind: BanKind
  /** An address or network, a Client Identifier, or a user name. */
  readonly subject: string
  /** Null for a ban without end. */
  readonly secondsLeft: number | null
  readonly ageSeconds: number
  readonly reason: string
  readonly by: string
  /** Whether the broker imposed it by itself. */
  readonly isAutomatic: boolean
}

/**
 * Carries out a command; `now` is in ms by the clock of the keeper's bans. Returns all bans for `ban list`,
 * the new one for `ban add`, and none for `ban remove`. Throws BansError.
 */
export async function banCommand(
  keeper: BanKeeper,
  name: BanCommand,
  parameters: Parameters,
  by: string,
  now: number,
): Promise<{ readonly bans: readonly BanView[] }> {
  if (name === 'ban list') return { bans: keeper.list().map((ban) => viewOf(ban, now)) }
  const { kind, subject } = subjectOf(parameters)
  if (name === 'ban remove') {
    if (await keeper.remove(kind, subject)) return { bans: [] }
    throw new BansError(`there is no ban of the ${WORDS[kind]} '${subject}'`, 'See `godwit ban list`.')
  }
  const ban = newBan(kind, subject, parameters, by, now)
  if (keeper.list().length >= BANS_MAX) {
    throw new BansError(
      `there are ${BANS_MAX} bans already`,
      'Lift some of them, or ban networks instead of single addresses.',
    )
  }
  await keeper.add(ban)
  return { bans: [viewOf(ban, now)] }
}

const WORDS: Readonly<Record<BanKind, string>> = {
  address: 'address',
  client: 'Client Identifier',
  user: 'user',
}

/** Reads the subject of a command. Throws BansError. */
export function subjectOf({ kind, subject }: Parameters): {
  readonly kind: BanKind
  readonly subject: string
} {
  if ((kind === 'address' || kind === 'client' || kind === 'user') && typeof subject === 'string') {
    const kept = banSubject(kind, subject)
    if (kept !== null) return { kind, subject: kept }
    throw new BansError(
      `'${subject}' is not a valid ${kind === 'address' ? 'address or network' : WORDS[kind]}`,
      kind === 'address'
        ? 'Write it as 203.0.113.7, 203.0.113.0/24, 2001:db8::1 or 2001:db8::/64.'
        : 'It has 1 to 65535 bytes.',
    )
  }
  throw new BansError(
    'the command does not say whom to ban',
    'Name an address or network, --client ID or --user NAME.',
  )
}

function newBan(kind: BanKind, subject: string, parameters: Parameters, by: string, now: number): Ban {
  const { seconds, reason = '' } = parameters
  if (typeof reason !== 'string' || reason.length > BAN_REASON_CHARACTERS_MAX) {
    throw new BansError(`a reason has at most ${BAN_REASON_CHARACTERS_MAX} characters`, 'Write it shorter.')
  }
  const isTime = seconds === undefined || seconds === null || (typeof seconds === 'number' && seconds > 0)
  if (!isTime) {
    throw new BansError(
      'the time of a ban is not above 0 seconds',
      'Use --for 1h, or leave it out for a ban without end.',
    )
  }
  const until = typeof seconds === 'number' ? now + Math.min(seconds, 1e10) * 1000 : null
  return { kind, subject, since: now, until, reason, by, isAutomatic: false }
}

/** Describes a ban; `now` is in ms by the clock of the ban. */
export function viewOf({ since, until, ...ban }: Ban, now: number): BanView {
  return {
    ...ban,
    secondsLeft: until === null ? null : Math.max(0, Math.ceil((until - now) / 1000)),
    ageSeconds: Math.max(0, Math.floor((now - since) / 1000)),
  }
}
