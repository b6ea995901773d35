/** The Server's rooms, each made once: what a Connection works with. */
import type { DiskRelief } from './disk-relief.ts'
import type { KeptRelief } from './kept-relief.ts'
import type { Publisher } from './publish.ts'
import type { Relief } from './relief.ts'
import type { RetainedDelivery } from './retained.ts'
import type { Sessions } from './sessions.ts'
import type { ShareBacklog } from './share-backlog.ts'
import type { ClientConnection } from './state.ts'
import type { Subscribing } from './subscribe.ts'
import type { Wills } from './wills.ts'

export interface Rooms {
  readonly publisher: Publisher
  readonly wills: Wills
  readonly sessions: Sessions
  readonly retained: RetainedDelivery
  readonly backlog: ShareBacklog
  readonly subscribing: Subscribing
  readonly relief: Relief
  readonly diskRelief: DiskRelief
  readonly keptRelief: KeptRelief
  /** Every open Network Connection, also before CONNECT. */
  readonly connections: Set<ClientConnection>
  /** The transport of a connection is gone. */
  gone(connection: ClientConnection): void
}
