/** Counts queues, with their memory and their messages on the disk, for the users whose clients made them. */
import type { Usage } from '../accounts/usage.ts'
import type { ServerState } from '../state/server-state.ts'
import type { Queue } from './queue.ts'

export class QueueOwners {
  readonly #state: ServerState
  /** Memory of all queues at the latest look; without a disk, their messages included. */
  keptBytes = 0

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Returns the user of a client that makes a queue; null for subscribers in this process. */
  of(clientId: string): Usage | null {
    return this.#state.usage.client(clientId)?.user ?? null
  }

  added({ owner, origin }: Queue): void {
    if (owner === null) return
    this.#state.usage.hold(owner)
    if (origin === 'use') owner.addMade(1, 0, 0)
  }

  /** The queue was deleted, or belongs to the operator from now on. */
  removed(queue: Queue): void {
    const { owner, origin } = queue
    if (owner === null) return
    this.#count(queue, 0, 0)
    if (origin === 'use') owner.addMade(-1, 0, 0)
    queue.owner = null
    this.#state.usage.letGoOf(owner)
  }

  /** Counts what queues take now. Returns the memory of all of them. */
  look(queues: Iterable<Queue>): number {
    const { work, store } = this.#state
    let sum = 0
    let messageSum = 0
    for (const queue of queues) {
      work.units++
      const bytes = queue.memoryBytes
      sum += bytes
      const messageBytes = queue.group.states.bytes
      messageSum += messageBytes
      if (queue.owner === null) continue
      // Without a disk, complete segments stay in memory.
      if (store.canPark) this.#count(queue, bytes, messageBytes)
      else this.#count(queue, bytes + messageBytes, 0)
    }
    this.keptBytes = sum + (store.canPark ? 0 : messageSum)
    return sum
  }

  #count(queue: Queue, bytes: number, storedBytes: number): void {
    queue.owner!.addMade(0, bytes - queue.countedBytes, storedBytes - queue.countedStoredBytes)
    queue.countedBytes = bytes
    queue.countedStoredBytes = storedBytes
  }
}
