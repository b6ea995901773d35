/** Has messages find a Subscription: through the Router, or from the queue that it consumes. */
import type { Session } from '../../session/session.ts'
import type { SubscriptionRecord } from '../../store/store.ts'
import type { ServerState } from './server-state.ts'

const DOLLAR = 0x24

/** Whether messages of this filter come from a queue. */
function isConsumer({ queues }: ServerState, filter: string): boolean {
  return filter.charCodeAt(0) === DOLLAR && queues !== null && queues.isConsumer(filter)
}

/** Adds or replaces a Subscription. Returns the filter as a string that all who have it share. */
export function addSubscription(
  state: ServerState,
  session: Session,
  filter: string,
  record: SubscriptionRecord,
): string {
  if (!isConsumer(state, filter)) {
    return state.router.subscribe(session, filter, record, record.identifier).filter
  }
  state.queues!.join(session, filter, record)
  return filter
}

/**
 * Removes a Subscription. `isDeprived`: for lack of rights, so that messages go back to a queue uncharged.
 */
export function removeSubscription(
  state: ServerState,
  session: Session,
  filter: string,
  isDeprived = false,
): void {
  if (isConsumer(state, filter)) state.queues!.leave(session, filter, isDeprived)
  else state.router.unsubscribe(session, filter)
}
