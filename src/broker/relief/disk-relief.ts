/**
 * Relief while the disk is short: the users with most on it may write no more, so that the others still can.
 * Their messages and new stored Sessions are refused with 0x97, and their queues do not grow.
 */
import type { Usage } from '../accounts/usage.ts'
import type { ServerState } from '../state/server-state.ts'
import { largeUsers, listed, sizeText, userOf } from './large-users.ts'
import { QueueCaps } from './queue-caps.ts'

/** A user with less than this share of the room that counts as short is not large. */
const LARGE_SHARE = 1 / 4
/** Queues with less are not capped. */
const QUEUE_BYTES_MIN = 64 * 1024
/** Relief ends with this much more room than counts as short. */
const ENOUGH = 1.25

export class DiskRelief {
  readonly #state: ServerState
  #users: ReadonlySet<Usage> = new Set()
  readonly #caps: QueueCaps
  #pressed: string | null = null

  constructor(state: ServerState) {
    this.#state = state
    this.#caps = new QueueCaps(state, 'disk', QUEUE_BYTES_MIN, ({ queueBytes }) => queueBytes)
  }

  /** How short the disk is and who may not write; null if there is room, or no user is large. */
  get pressed(): string | null {
    return this.#pressed
  }

  /** Compares the room that is left with what counts as short, and finds the large users. */
  look(): void {
    const { store, usage } = this.#state
    const { roomBytes, shortRoomBytes } = store
    const enough = this.#pressed === null ? shortRoomBytes : shortRoomBytes * ENOUGH
    const users = roomBytes < enough ? largeUsers(usage.users(), diskBytes, shortRoomBytes * LARGE_SHARE) : []
    if (users.length === 0) {
      this.#end()
      return
    }
    this.#users = new Set(users)
    this.#pressed =
      `${sizeText(roomBytes)} may still be written until everybody is refused (data.reserve_bytes); ` +
      `those who have most on the disk write no more: ${listed(users, nameOf, diskBytes)}`
    this.#caps.cap(this.#users, this.#pressed)
  }

  /** Returns why this client's message, or its new stored Session, is refused; null if it is not. */
  refusal(client: Usage | null): string | null {
    const user = this.#pressed === null ? null : userOf(client)
    return user !== null && this.#users.has(user)
      ? `of a user who has much of the disk: ${this.#pressed}`
      : null
  }

  #end(): void {
    if (this.#pressed === null) return
    this.#pressed = null
    this.#users = new Set()
    this.#caps.end()
  }
}

function diskBytes(user: Usage): number {
  return user.diskBytes
}

function nameOf(user: Usage): string {
  return user.name
}
