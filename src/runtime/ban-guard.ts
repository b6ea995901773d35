/** Keeps the bans of a running broker: those of operators, and automatic ones for guessing and flapping. */
import { BAN_COMMANDS, type BanKeeper, banCommand, subjectOf } from '../access/bans/ban-commands.ts'
import { BansError } from '../access/bans/bans-file.ts'
import type { KeptBans } from '../access/bans/kept-bans.ts'
import { type ControlCommand, requestedBy } from '../admin/control.ts'
import { BAN_KINDS, type Ban, type BanKind } from '../broker/boundary/bans.ts'
import type { Limit } from '../broker/boundary/events.ts'
import type { ClientView } from '../broker/boundary/policy.ts'
import type { SecurityKind } from '../broker/boundary/security.ts'
import type { Server } from '../broker/server.ts'
import { FLAPPING_MIN, FlappingDetector } from '../observe/flapping.ts'
import { BANS_FILE } from '../store/files/kept-files.ts'

/** Enforces and reports bans, and bans clients that guess passwords or reconnect too often. */
export class BanGuard implements BanKeeper {
  readonly #server: Server
  readonly #kept: KeptBans
  readonly #flapping: FlappingDetector
  readonly #detach: () => void

  /** `now` is a monotonic clock in ms. */
  constructor(server: Server, kept: KeptBans, now: () => number) {
    this.#server = server
    this.#kept = kept
    this.#flapping = new FlappingDetector(now)
    this.#detach = server.state.events.on('connected', ({ client }) => this.#connected(client))
  }

  /** Returns the time in ms by the clock of bans. */
  now(): number {
    return this.#server.state.now()
  }

  list(): Ban[] {
    return this.#kept.list()
  }

  /** Adds a ban of an operator or of the program, and ends the connections that it concerns. */
  async add(ban: Ban): Promise<void> {
    const { kind, subject, by, reason } = ban
    const adding = this.#kept.add(ban)
    const ended = this.#server.enforceBans([kind])
    const detail = [kind, forHowLong(ban), ...(reason === '' ? [] : [reason]), `${counted(ended)} ended`]
    this.#server.state.events.emit('security', { kind: 'ban-added', subject, by, detail: detail.join('; ') })
    await adding
  }

  async remove(kind: BanKind, subject: string, by = 'broker'): Promise<boolean> {
    const isLifted = await this.#kept.remove(kind, subject)
    if (isLifted)
      this.#server.state.events.emit('security', { kind: 'ban-removed', subject, by, detail: kind })
    return isLifted
  }

  /** Bans an address, or IPv6 network, that sent `count` wrong passwords. */
  guesses(address: string, count: number): void {
    this.#impose('address', address, `${count} wrong passwords`, 'failedLoginsBanned')
  }

  /**
   * Applies changes that somebody else wrote to the file of bans. A bad file changes nothing and is
   * reported.
   */
  async reread(): Promise<void> {
    try {
      const edited = await this.#kept.reread()
      if (edited === null) return
      const { added, changed, lifted } = edited
      const ended = this.#server.enforceBans(BAN_KINDS)
      const detail = `${added} added, ${changed} changed, ${lifted} lifted; ${counted(ended)} ended`
      this.#tellOfFile('bans-loaded', detail)
    } catch (error) {
      if (!(error instanceof BansError)) throw error
      this.#tellOfFile('bans-refused', error.message)
    }
  }

  #tellOfFile(kind: SecurityKind, detail: string): void {
    this.#server.state.events.emit('security', { kind, subject: BANS_FILE, by: 'broker', detail })
  }

  /** Returns the commands for the control socket. */
  commands(): Readonly<Record<string, ControlCommand>> {
    return Object.fromEntries(
      BAN_COMMANDS.map((name) => [
        name,
        (parameters: Readonly<Record<string, unknown>>) => {
          const by = requestedBy(parameters)
          const keeper: BanKeeper = {
            list: () => this.list(),
            add: (ban) => this.add(ban),
            remove: (kind, subject) => this.remove(kind, subject, by),
          }
          return banCommand(keeper, name, parameters, by, this.now())
        },
      ]),
    )
  }

  /** Stops watching and resolves once the latest automatic ban is written. */
  async close(): Promise<void> {
    this.#detach()
    await this.#kept.settled()
  }

  #connected({ clientId, link }: ClientView): void {
    const { events, limits } = this.#server.state
    const connects = this.#flapping.connected(clientId)
    if (connects >= FLAPPING_MIN) events.emit('flapping', { clientId, link, connects })
    if (connects <= limits.flappingConnectsMax) return
    this.#flapping.forget(clientId)
    // CONNACK is still to be sent; the ban ends the connection after it.
    queueMicrotask(() => {
      this.#impose('client', clientId, `${connects} connects within a minute`, 'flappingConnectsMax')
    })
  }

  #impose(kind: BanKind, given: string, reason: string, limit: Limit): void {
    const { state } = this.#server
    const since = state.now()
    const until = since + state.limits.banSeconds * 1000
    const { subject } = subjectOf({ kind, subject: given })
    const ban: Ban = { kind, subject, since, until, reason, by: 'broker', isAutomatic: true }
    if (!this.#kept.impose(ban)) return
    state.limited(limit, kind === 'client' ? subject : '', `${subject} is banned: ${reason}`)
    const ended = this.#server.enforceBans([kind])
    const end = `${counted(ended)} ended; to lift it: godwit ban remove`
    const detail = `${kind}; ${reason}; ${forHowLong(ban)}; ${end}`
    state.events.emit('security', { kind: 'banned', subject, by: 'broker', detail })
  }
}

function forHowLong({ since, until }: Ban): string {
  return until === null ? 'without end' : `for ${Math.round((until - since) / 1000)} s`
}

function counted(connections: number): string {
  return `${connections} connection${connections === 1 ? '' : 's'}`
}
