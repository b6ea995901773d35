/**
 * What the Server does while the disk is short, before everybody is refused: the users who have most on it write no more. Their
 * messages are refused with 0x97, and so are new Sessions that would be stored; queues of theirs take no more than they hold.
 */
import type { Usage } from '../accounts/usage.ts'
import type { ServerState } from '../state/server-state.ts'
import { QueueCaps } from './queue-caps.ts'

/** Nobody has much who has less than this part of the room that is short. */
const LARGE_SHARE = 1 / 4
/** Whoever has so much of what the largest has is as large. */
const AS_LARGE_SHARE = 1 / 2
/** A queue that has less is nobody's trouble. */
const QUEUE_BYTES_MIN = 64 * 1024
/** With so much more room than is short it is over. */
const ENOUGH = 1.25
/** Users that the operator is told by name. */
const NAMES_TOLD = 3

const MIB = 1024 * 1024

export class DiskRelief {
  readonly #state: ServerState
  #users: ReadonlySet<Usage> = new Set()
  readonly #caps: QueueCaps
  #pressed: string | null = null

  constructor(state: ServerState) {
    this.#state = state
    this.#caps = new QueueCaps(state, 'disk', QUEUE_BYTES_MIN, ({ queueBytes }) => queueBytes)
  }

  /** How short the disk is and who writes no more; null when there is room, or nobody has much. */
  get pressed(): string | null {
    return this.#pressed
  }

  /** Looks at how much may still be written, and at who has most. */
  look(): void {
    const { roomBytes, shortRoomBytes } = this.#state.store
    const enough = this.#pressed === null ? shortRoomBytes : shortRoomBytes * ENOUGH
    const users = roomBytes < enough ? this.#largest(shortRoomBytes * LARGE_SHARE) : []
    if (users.length === 0) {
      this.#end()
      return
    }
    this.#users = new Set(users)
    this.#pressed = describe(users, roomBytes)
    this.#caps.cap(this.#users, this.#pressed)
  }

  /** Why a message of this client's is refused, or a Session that would be stored; null where it is not. */
  refusal(client: Usage | null): string | null {
    if (this.#pressed === null || client === null) return null
    const user = client.kind === 'user' ? client : client.user
    return user !== null && this.#users.has(user)
      ? `of a user who has much of the disk: ${this.#pressed}`
      : null
  }

  /** The largest users, those who have the most first. */
  #largest(least: number): Usage[] {
    const users: Usage[] = []
    let most = 0
    for (const user of this.#state.usage.users()) {
      if (user.diskBytes < least) continue
      users.push(user)
      most = Math.max(most, user.diskBytes)
    }
    return users
      .filter(({ diskBytes }) => diskBytes >= most * AS_LARGE_SHARE)
      .sort((one, other) => other.diskBytes - one.diskBytes)
  }

  #end(): void {
    if (this.#pressed === null) return
    this.#pressed = null
    this.#users = new Set()
    this.#caps.end()
  }
}

function describe(users: readonly Usage[], roomBytes: number): string {
  const names = users
    .slice(0, NAMES_TOLD)
    .map(({ name, diskBytes }) => `${name} with ${mebibytes(diskBytes)}`)
  const more = users.length - names.length
  const others = more > 0 ? ` and ${more} more` : ''
  return (
    `${mebibytes(roomBytes)} may still be written until everybody is refused (data.reserve_bytes); ` +
    `those who have most on the disk write no more: ${names.join(', ')}${others}`
  )
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`
}
