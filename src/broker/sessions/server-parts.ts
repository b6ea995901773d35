/** The parts of the Server that a Connection works with. Each is made once. */
import type { Publisher } from '../messages/publisher.ts'
import type { RetainedDelivery } from '../messages/retained-delivery.ts'
import type { Wills } from '../messages/wills.ts'
import type { DiskRelief } from '../relief/disk-relief.ts'
import type { KeptRelief } from '../relief/kept-relief.ts'
import type { Relief } from '../relief/relief.ts'
import type { ShareBacklog } from '../relief/share-backlog.ts'
import type { ClientConnection } from '../state/server-state.ts'
import type { Sessions } from './sessions.ts'
import type { Subscribing } from './subscribe.ts'

export interface ServerParts {
  readonly publisher: Publisher
  readonly wills: Wills
  readonly sessions: Sessions
  readonly retainedDelivery: RetainedDelivery
  readonly backlog: ShareBacklog
  readonly subscribing: Subscribing
  readonly relief: Relief
  readonly diskRelief: DiskRelief
  readonly keptRelief: KeptRelief
  /** Moves a connection to those that are closed, but whose transport is still open. */
  closed(connection: ClientConnection): void
  /** Forgets a closed connection whose transport is gone. */
  gone(connection: ClientConnection): void
}
